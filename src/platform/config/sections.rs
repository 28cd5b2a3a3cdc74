//! The sections of the configuration, with their defaults. Durations are seconds, and may be written with units.

use std::time::Duration;

use serde::{Deserialize, Deserializer};
use time::{OffsetDateTime, UtcOffset};
use url::Url;

use crate::platform::clock;
use crate::platform::fault::Fault;
use crate::platform::jose::SigningAlg;

/// What is served over HTTP.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Http {
    /// Origins of browser applications whose scripts may call the server, as `https://app.example.com`.
    pub cors_origins: Vec<String>,
}

impl Http {
    /// Whether each origin is written as browsers write it, in the `Origin` header (RFC 6454 §6.2).
    pub(super) fn check(&self) -> Result<(), Fault> {
        let is_origin = |text: &String| {
            let read = Url::parse(text).ok().map(|url| url.origin().ascii_serialization());
            let schemed = ["https://", "http://"].iter().any(|scheme| text.starts_with(scheme));
            // A host may have an asterisk in it, which would stand for nothing but itself.
            schemed && !text.contains('*') && read.as_ref() == Some(text)
        };
        match self.cors_origins.iter().position(|text| !is_origin(text)) {
            None => Ok(()),
            Some(place) => Err(Fault::new(format!(
                "http.cors_origins: number {} is not an origin: write scheme, host and port alone, in lower case and \
                 without a default port, as in https://app.example.com",
                place + 1
            ))),
        }
    }
}

/// Issued tokens.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Tokens {
    /// The longest life of any token.
    #[serde(deserialize_with = "seconds")]
    pub max_ttl: u32,
    /// The most actors a token may name.
    pub max_depth: u32,
}

/// Proof of possession (RFC 9449).
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Dpop {
    /// Whether a server-provided nonce is demanded (§8).
    pub nonce: bool,
    /// How old a proof may be.
    #[serde(deserialize_with = "seconds")]
    pub proof_max_age: u32,
    /// How far ahead of ours a client's clock may be.
    #[serde(deserialize_with = "seconds")]
    pub skew: u32,
    /// How long one nonce lives; the one before it is accepted too.
    #[serde(deserialize_with = "seconds")]
    pub nonce_ttl: u32,
}

/// Signing keys.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Keys {
    /// What the next token key will be.
    pub algorithm: SigningAlg,
    /// How long a key signs.
    #[serde(deserialize_with = "seconds")]
    pub rotate_every: u32,
    /// How long a key is published before it signs, so that relying parties have fetched it by then.
    #[serde(deserialize_with = "seconds")]
    pub prepublish: u32,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Delegations {
    /// How long a delegation lives that does not say.
    #[serde(deserialize_with = "seconds")]
    pub default_ttl: u32,
    /// The longest that any may live.
    #[serde(deserialize_with = "seconds")]
    pub max_ttl: u32,
    /// How long one that was asked for waits for its delegator.
    #[serde(deserialize_with = "seconds")]
    pub request_ttl: u32,
    /// How long a confirmation of one use waits for its delegator, and then for its use.
    #[serde(deserialize_with = "seconds")]
    pub ceremony_ttl: u32,
    /// How many may wait for one delegator at a time.
    pub max_pending_requests: u32,
    /// How many of these one client may have asked for.
    pub max_pending_requests_per_client: u32,
    /// How many confirmations may wait at one delegation at a time.
    pub max_pending_confirmations: u32,
    /// How many of these one client may have asked for.
    pub max_pending_confirmations_per_client: u32,
    /// Names of capabilities, lowest first; each includes all before it.
    pub capabilities: Vec<String>,
}

/// Agents that are made for one delegation.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Agents {
    /// The longest that one may live.
    #[serde(deserialize_with = "seconds")]
    pub max_ttl: u32,
    /// The most of them for one task at a time.
    pub max_per_task: u32,
}

/// Status lists (draft-ietf-oauth-status-list).
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Status {
    /// How long relying parties may keep a list.
    #[serde(deserialize_with = "seconds")]
    pub ttl: u32,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Vault {
    /// So long before its end an access token of a provider is renewed.
    #[serde(deserialize_with = "seconds")]
    pub refresh_leeway: u32,
    /// So long an owner may take to authorize us at a provider.
    #[serde(deserialize_with = "seconds")]
    pub connect_ttl: u32,
    /// The most bytes of a request's body that the proxy passes on.
    pub proxy_max_request_bytes: u64,
    /// The most bytes of an answer's body that it passes back.
    pub proxy_max_response_bytes: u64,
    /// How long a call through it may take, from the first byte to the last.
    #[serde(deserialize_with = "seconds")]
    pub proxy_timeout: u32,
}

/// The audit log.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Audit {
    /// How much time one partition of the log holds; archiving drops whole partitions.
    pub partition: Span,
    /// So often a reader that follows the log hears that there is nothing new.
    #[serde(deserialize_with = "seconds")]
    pub heartbeat: u32,
    /// How long a reader that follows the log may take for what it was sent.
    #[serde(deserialize_with = "seconds")]
    pub stream_write_timeout: u32,
    /// How many streams one reader may have at a time.
    pub max_streams: u32,
    /// Whether answers with a token say where the log has it (`Actchain-Receipt`).
    pub receipts: bool,
    /// Keys of witnesses whose cosignatures are taken, as `name+id+key`.
    pub witnesses: Vec<String>,
    /// How often an event is sent to a sink in vain before it is put aside.
    pub sink_attempts: u32,
}

/// A span of the calendar, in UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Span {
    Day,
    /// A week, from Monday on.
    Week,
    Month,
}

impl Span {
    /// Whether one that `began` lies in has come to its end. A clock that went back ends none.
    pub fn is_over(self, began: OffsetDateTime, now: OffsetDateTime) -> bool {
        let number = |at: OffsetDateTime| {
            let date = at.to_offset(UtcOffset::UTC).date();
            match self {
                Self::Day => date.to_julian_day(),
                Self::Week => date.to_julian_day().div_euclid(7),
                Self::Month => date.year() * 12 + i32::from(u8::from(date.month())),
            }
        };
        number(now) > number(began)
    }
}

/// Limits on what strangers and clients may send.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Requests per second for each authenticated client; 0 is off.
    pub requests_per_second_per_client: u32,
    /// Tries of secrets per minute for a client id from one address, beyond which only remembered secrets pass there;
    /// also how many failed authentications of a client a minute are recorded.
    pub failed_auth_per_minute: u32,
    /// Bytes of a request body.
    pub max_body_bytes: usize,
    /// `audience` and `resource` values together.
    pub max_targets: usize,
}

/// Group commit.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Ledger {
    /// The most entries in one transaction.
    pub batch: usize,
    /// Entries that may wait; beyond it, requests are turned away at once.
    pub queue: usize,
    /// Time after which a request gives up on the database.
    #[serde(deserialize_with = "duration")]
    pub timeout: Duration,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Log {
    /// `json` or `text`.
    pub format: LogFormat,
    /// A `tracing` filter, such as `info` or `actchain=debug,info`.
    pub filter: String,
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// One JSON object a line.
    Json,
    Text,
}

/// Seconds as a number, or as a text with units.
fn seconds<'de, D: Deserializer<'de>>(from: D) -> Result<u32, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Written {
        Number(u32),
        Text(String),
    }
    match Written::deserialize(from)? {
        Written::Number(seconds) => Ok(seconds),
        Written::Text(text) => clock::seconds(&text).map_err(serde::de::Error::custom),
    }
}

/// Seconds as a number, or as a text with units, milliseconds among them.
fn duration<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Written {
        Number(u32),
        Text(String),
    }
    match Written::deserialize(from)? {
        Written::Number(seconds) => Ok(Duration::from_secs(seconds.into())),
        Written::Text(text) => clock::duration(&text).map_err(serde::de::Error::custom),
    }
}

impl Default for Tokens {
    fn default() -> Self {
        Self { max_ttl: 900, max_depth: 5 }
    }
}

impl Default for Dpop {
    fn default() -> Self {
        Self { nonce: false, proof_max_age: 60, skew: 10, nonce_ttl: 300 }
    }
}

impl Default for Keys {
    fn default() -> Self {
        Self { algorithm: SigningAlg::default(), rotate_every: 30 * 86_400, prepublish: 3_600 }
    }
}

impl Default for Delegations {
    fn default() -> Self {
        Self {
            default_ttl: 3_600,
            max_ttl: 365 * 86_400,
            request_ttl: 3_600,
            ceremony_ttl: 300,
            max_pending_requests: 100,
            max_pending_requests_per_client: 20,
            max_pending_confirmations: 100,
            max_pending_confirmations_per_client: 10,
            capabilities: ["observe", "mutate", "execute", "admin"].map(str::to_owned).to_vec(),
        }
    }
}

impl Default for Agents {
    fn default() -> Self {
        Self { max_ttl: 3_600, max_per_task: 100 }
    }
}

impl Default for Status {
    fn default() -> Self {
        Self { ttl: 30 }
    }
}

impl Default for Vault {
    fn default() -> Self {
        Self {
            refresh_leeway: 60,
            connect_ttl: 600,
            proxy_max_request_bytes: 10 * 1024 * 1024,
            proxy_max_response_bytes: 100 * 1024 * 1024,
            proxy_timeout: 60,
        }
    }
}

impl Default for Audit {
    fn default() -> Self {
        Self {
            partition: Span::Month,
            heartbeat: 15,
            stream_write_timeout: 30,
            max_streams: 8,
            receipts: true,
            witnesses: Vec::new(),
            sink_attempts: 12,
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            requests_per_second_per_client: 0,
            failed_auth_per_minute: 10,
            max_body_bytes: 64 * 1024,
            max_targets: 16,
        }
    }
}

impl Default for Ledger {
    fn default() -> Self {
        Self { batch: 128, queue: 1_024, timeout: Duration::from_millis(1_500) }
    }
}

impl Default for Log {
    fn default() -> Self {
        Self { format: LogFormat::Json, filter: "info".into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use time::macros::datetime;

    #[test]
    fn a_span_is_over_when_the_calendar_says_so() {
        let sunday = datetime!(2026-02-01 23:59:59 UTC);
        let monday = datetime!(2026-02-02 00:00 UTC);
        assert!(Span::Day.is_over(sunday, monday) && Span::Week.is_over(sunday, monday));
        assert!(
            !Span::Month.is_over(sunday, monday)
                && !Span::Week.is_over(monday, datetime!(2026-02-08 23:00 UTC))
        );
        assert!(Span::Month.is_over(sunday, datetime!(2026-03-01 00:00 UTC)));
        assert!(!Span::Day.is_over(monday, sunday), "a clock that went back");
    }
}
