//! Sinks receive the audit log as it grows, in order. Undeliverable events become dead letters.

mod format;
mod notification;
mod password;
pub mod recipients;
pub mod store;

use secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use sqlx::PgConnection;
use time::{Duration, OffsetDateTime};

pub use self::format::{BatchLimits, SinkFormat};
pub use self::notification::{
    MAX_KEPT, MAX_NAMED, MailEncryption, MailSettings, NotificationSettings, is_address,
};
pub use self::password::{open_password, seal_password};
use super::audit::filter::Filter;
use super::data_key::{DataKeys, Sealed};
use crate::platform::clock::rfc3339;
use crate::platform::fault::{Context, Fault};
use actchain_protocol::standard_webhooks::Secret;

/// After a rotation, the previous secret signs too for this time.
pub const OVERLAP: Duration = Duration::hours(24);
/// Pause between the first attempt and the second; each further pause doubles.
const FIRST_PAUSE: Duration = Duration::seconds(5);
const LONGEST_PAUSE: Duration = Duration::hours(1);

#[derive(Debug, Clone)]
pub struct Sink {
    pub id: String,
    /// URL to which events are posted.
    pub url: String,
    pub format: SinkFormat,
    /// Limits of a batch; where absent, each request has one event.
    pub batch: Option<BatchLimits>,
    /// Filter parameters by name.
    pub filter: Map<String, Value>,
    /// Whether events are sent with the names of users and their personal data.
    pub people: bool,
    /// How users are notified; `None` for a sink that gets events.
    pub notification: Option<NotificationSettings>,
    pub sealed: Sealed,
    /// Since when the sink is disabled, and why.
    pub disabled: Option<(OffsetDateTime, String)>,
    /// Sequence number of the next event to send.
    pub cursor: u64,
    /// Failed attempts for the next event.
    pub attempts: u32,
    pub next_attempt_at: Option<OffsetDateTime>,
    pub last_error: Option<String>,
    /// When the last event was delivered.
    pub delivered_at: Option<OffsetDateTime>,
}

impl Sink {
    pub fn filter(&self) -> Result<Filter, Fault> {
        read_filter(&self.filter).map_err(|why| Fault::new(format!("sink {}: {why}", self.id)))
    }

    /// Whether names of users leave the server by this sink.
    pub fn names_people(&self) -> bool {
        self.people || self.notification.is_some()
    }

    /// Whether this declaration sends names of users to an address that did not get them before, or in events or messages
    /// that did not have them.
    pub fn shows_people_unlike(&self, before: &Self) -> bool {
        let is_same_receiver = before.url == self.url && before.mail() == self.mail();
        let had_events = before.people || !self.people;
        let had_messages = before.notification.is_some() || self.notification.is_none();
        self.names_people() && !(is_same_receiver && had_events && had_messages)
    }

    /// Host of the URL, without path and query, which may be secret.
    pub fn host(&self) -> Option<String> {
        url::Url::parse(&self.url).ok()?.host_str().map(str::to_owned)
    }

    /// Origin of the URL, without path and query. The URL of a mail server has neither.
    pub fn origin(&self) -> Option<String> {
        if self.mail().is_some() {
            return Some(self.url.clone());
        }
        url::Url::parse(&self.url).ok().map(|url| url.origin().ascii_serialization())
    }

    /// The settings of a sink that sends mail.
    pub fn mail(&self) -> Option<&MailSettings> {
        self.notification.as_ref()?.mail.as_ref()
    }

    /// The sink as shown, without secrets.
    pub fn view(&self, dead_letters: i64) -> SinkView {
        let disabled = self.disabled.as_ref();
        SinkView {
            id: self.id.clone(),
            url: Some(self.url.clone()),
            format: self.format,
            batch: self.batch,
            filter: self.filter.clone(),
            people: self.people,
            notification: self.notification.clone(),
            enabled: disabled.is_none(),
            disabled_at: disabled.map(|(at, _)| rfc3339(*at)),
            disabled_reason: disabled.map(|(_, reason)| reason.clone()),
            cursor: self.cursor,
            attempts: self.attempts,
            next_attempt_at: self.next_attempt_at.map(rfc3339),
            last_error: self.last_error.clone(),
            delivered_at: self.delivered_at.map(rfc3339),
            dead_letters,
        }
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SinkView {
    pub id: String,
    pub url: Option<String>,
    pub format: SinkFormat,
    pub batch: Option<BatchLimits>,
    pub filter: Map<String, Value>,
    pub people: bool,
    #[serde(default)]
    pub notification: Option<NotificationSettings>,
    pub enabled: bool,
    pub disabled_at: Option<String>,
    pub disabled_reason: Option<String>,
    pub cursor: u64,
    pub attempts: u32,
    pub next_attempt_at: Option<String>,
    pub last_error: Option<String>,
    pub delivered_at: Option<String>,
    /// Number of dead letters.
    pub dead_letters: i64,
}

/// Parses a declared filter, which has the parameters of a query.
pub fn read_filter(parameters: &Map<String, Value>) -> Result<Filter, String> {
    let mut filter = Filter::default();
    for (name, value) in parameters {
        let value = value.as_str().ok_or_else(|| format!("filter.{name} is not text"))?;
        match filter.set(name, value) {
            Ok(true) => {}
            Ok(false) => return Err(format!("there is no filter {name}")),
            Err(refusal) => return Err(format!("filter.{name}: {}", refusal.sentence())),
        }
    }
    filter.check().map_err(|refusal| refusal.sentence().to_owned())?;
    Ok(filter)
}

pub fn is_id(text: &str) -> bool {
    super::provider::is_id(text)
}

/// Secrets that sign deliveries: the current one and, after a rotation, the previous one.
#[derive(Debug)]
pub struct SigningSecrets {
    pub current: Secret,
    /// The previous secret, and until when it signs.
    pub previous: Option<(Secret, OffsetDateTime)>,
    /// The secret of the last manifest. A manifest that still has this secret does not replace a rotated one.
    pub declared: Option<Secret>,
}

#[derive(Serialize, Deserialize)]
struct StoredSecrets {
    current: String,
    previous: Option<String>,
    #[serde(with = "time::serde::rfc3339::option")]
    until: Option<OffsetDateTime>,
    #[serde(default)]
    declared: Option<String>,
}

impl SigningSecrets {
    /// With a generated secret.
    pub fn made(current: Secret) -> Self {
        Self { current, previous: None, declared: None }
    }

    /// With a secret from a manifest.
    pub fn declared(current: Secret) -> Self {
        Self { declared: Some(current.clone()), current, previous: None }
    }

    /// Rotates to `next`; the present secret signs too until the overlap is over.
    pub fn followed_by(self, next: Secret, now: OffsetDateTime) -> Self {
        Self { current: next, previous: Some((self.current, now + OVERLAP)), declared: self.declared }
    }

    /// The secrets that sign at `now`, newest first.
    pub fn active(self, now: OffsetDateTime) -> Vec<Secret> {
        let previous = self.previous.filter(|(_, until)| now < *until).map(|(secret, _)| secret);
        std::iter::once(self.current).chain(previous).collect()
    }

    /// Seals the secrets, in the transaction that stores them.
    pub async fn seal(
        &self,
        keys: &DataKeys,
        connection: &mut PgConnection,
        id: &str,
    ) -> Result<Sealed, Fault> {
        let text = |secret: &Secret| secret.text().expose_secret().to_owned();
        let stored = StoredSecrets {
            current: text(&self.current),
            previous: self.previous.as_ref().map(|(secret, _)| text(secret)),
            until: self.previous.as_ref().map(|(_, until)| *until),
            declared: self.declared.as_ref().map(text),
        };
        let stored =
            SecretString::from(serde_json::to_string(&stored).context("writing the secret of a sink")?);
        keys.seal(connection, &aad(id), stored.expose_secret().as_bytes()).await
    }

    pub async fn open(keys: &DataKeys, connection: &mut PgConnection, sink: &Sink) -> Result<Self, Fault> {
        let bytes = keys.open(connection, &aad(&sink.id), &sink.sealed).await?;
        let what = "reading the secret of a sink";
        let stored: StoredSecrets = serde_json::from_slice(&bytes).context(what)?;
        let read = |text: &str| Secret::parse(text).ok_or_else(|| Fault::new(what));
        let previous = stored.previous.as_deref().map(read).transpose()?.zip(stored.until);
        let declared = stored.declared.as_deref().map(read).transpose()?;
        Ok(Self { current: read(&stored.current)?, previous, declared })
    }
}

/// The additional authenticated data of the secrets of a sink.
pub fn aad(id: &str) -> String {
    format!("audit_sink/{id}")
}

/// Pause after a number of failed attempts: doubles each time, with jitter, at least the `Retry-After` of the sink,
/// at most one hour.
pub fn pause(attempts: u32, chance: u8, retry_after: Option<u64>) -> Duration {
    let doubled = FIRST_PAUSE * 2_i32.saturating_pow(attempts.saturating_sub(1).min(16));
    let whole = doubled.min(LONGEST_PAUSE);
    // 80 to 100 percent.
    let jittered = whole.checked_sub(whole / 5 * i32::from(chance) / 255).unwrap_or(whole);
    let retry_after = Duration::seconds(i64::try_from(retry_after.unwrap_or_default()).unwrap_or(i64::MAX));
    jittered.max(retry_after).min(LONGEST_PAUSE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_an_hour_and_honour_what_is_asked() {
        let seconds = |attempts, retry_after| pause(attempts, 0, retry_after).whole_seconds();
        assert_eq!([1, 2, 3, 10, 11, 40].map(|n| seconds(n, None)), [5, 10, 20, 2_560, 3_600, 3_600]);
        assert_eq!((seconds(1, Some(90)), seconds(1, Some(u64::MAX)), seconds(4, Some(1))), (90, 3_600, 40));
        assert_eq!(pause(1, 255, None), Duration::seconds(4));
    }

    #[test]
    fn the_secret_before_signs_for_a_while() {
        let now = OffsetDateTime::UNIX_EPOCH;
        let make = || {
            SigningSecrets::made(Secret::generate().unwrap()).followed_by(Secret::generate().unwrap(), now)
        };
        assert_eq!(make().active(now + OVERLAP - Duration::seconds(1)).len(), 2);
        assert_eq!(make().active(now + OVERLAP).len(), 1);
    }
}
