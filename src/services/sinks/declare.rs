//! The declaration of a sink and its storage.

use std::path::PathBuf;

use schemars::JsonSchema;
use secrecy::{ExposeSecret as _, SecretString};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use sqlx::PgConnection;
use sqlx::postgres::PgPool;
use time::OffsetDateTime;

use super::secrets::{DeclaredPassword, DeclaredSecret, SecretUpsert, SinkSecrets};
use crate::domain::audit::detail::DeclaredChange;
use crate::domain::audit::{self, EventKind};
use crate::domain::refusal::Error;
use crate::domain::sink::{
    self, BatchLimits, MailEncryption, MailSettings, NotificationSettings, Sink, SinkFormat, recipients,
    store,
};
use crate::domain::vault::credential_cache::CredentialCache;
use crate::platform::fault::Fault;
use crate::platform::secret;
use crate::platform::yaml::Place;
use crate::services::apply::{Change, EntryKind, Line, MemberChange, Members, SecretChange, differences};
use crate::services::keys;
use actchain_protocol::standard_webhooks::Secret;

/// Maximum length of the URL, in bytes.
const MAX_URL_BYTES: usize = 2_048;
const NO_PASSWORD: &str = "notification.mail.username needs a secret or a secret_file";

/// A sink: an HTTP endpoint to which events of the audit log are posted, in order.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(transform = crate::services::manifest::schema::with_id)]
pub struct SinkDeclaration {
    /// Sink id: letters, digits and `-_.`, not beginning with `-`.
    #[serde(default)]
    #[schemars(
        length(min = 1, max = 64),
        regex(pattern = "^[A-Za-z0-9_.][A-Za-z0-9_.-]*$"),
        example = &"siem"
    )]
    pub id: String,
    /// URL to which events are posted; https, no fragment, and no private address. For mail: `smtps://host:port` or
    /// `smtp://host:port`.
    #[schemars(length(max = 2048), example = &"https://siem.example.com/actchain")]
    pub url: String,
    /// Format of the events.
    #[serde(default = "as_recorded")]
    pub format: SinkFormat,
    /// Limits of one request with several events; where absent, each request has one event, by itself.
    pub batch: Option<BatchLimits>,
    /// Filter of the events, with the parameters of a search of the audit log; all events where empty.
    #[serde(default)]
    #[schemars(example = json!({"outcome": "refused"}))]
    pub filter: Map<String, Value>,
    /// Whether events are sent with the names of users and their personal data, which an erasure cannot take back.
    #[serde(default)]
    pub people: bool,
    /// Where present, the sink gets no events: it tells users what waits for their decision.
    #[schemars(example = json!({"wait": 30, "max_per_hour": 6}))]
    pub notification: Option<NotificationSettings>,
    /// Signing secret (Standard Webhooks): `whsec_` and base64 of 24 to 64 bytes. Where it is absent and the sink has no
    /// secret, a secret is made and printed once. For mail: the password of `username`.
    #[schemars(with = "Option<String>", example = &"whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")]
    pub secret: Option<SecretString>,
    /// File with `secret`; a line break at its end is ignored.
    #[schemars(example = &"/run/secrets/siem")]
    pub secret_file: Option<PathBuf>,
    /// Whether events are sent; unchanged where absent, and on for a new sink.
    #[schemars(example = false)]
    pub enabled: Option<bool>,
    /// `seq` of the first event for a new sink; the end of the log where absent.
    #[schemars(example = 0)]
    pub from_seq: Option<u64>,
    #[serde(skip)]
    pub(in crate::services) place: Place,
}

fn as_recorded() -> SinkFormat {
    SinkFormat::Json
}

impl SinkDeclaration {
    fn mail(&self) -> Option<&MailSettings> {
        self.notification.as_ref()?.mail.as_ref()
    }

    /// Whether a member says which events the sink gets, and how.
    fn has_members_for_events(&self) -> bool {
        self.format != as_recorded() || self.batch.is_some() || !self.filter.is_empty() || self.people
    }
}

/// Why a declaration was refused.
#[derive(Debug)]
pub enum InvalidSink {
    /// The problem, in words for the author of the declaration.
    Declaration(String),
    Failed(Error),
}

impl<T: Into<Error>> From<T> for InvalidSink {
    fn from(stop: T) -> Self {
        Self::Failed(stop.into())
    }
}

impl InvalidSink {
    /// The fault for a command.
    pub fn fault(self) -> Fault {
        match self {
            Self::Declaration(why) => Fault::new(why),
            Self::Failed(Error::Failed(fault)) => fault,
            Self::Failed(Error::Refused(refusal)) => Fault::new(refusal.sentence()),
        }
    }
}

#[derive(Debug)]
pub struct SinkUpsert {
    /// Members that changed; `None` for a new sink.
    pub members: Option<Vec<MemberChange>>,
    /// Information about the sink.
    pub note: Option<String>,
    /// Whether names of users, or messages to them, would be sent to an address that did not get the same before: only
    /// operators may declare that.
    pub shows_people_elsewhere: bool,
    pub sink: Sink,
    /// The generated secret, if none was declared.
    pub made: Option<SecretString>,
}

impl SinkUpsert {
    /// The event of its change. Only the host: the path of the URL may contain a secret.
    pub fn event(&self, change: DeclaredChange) -> EventKind {
        let format = match self.sink.notification {
            Some(_) => "notification".to_owned(),
            None => self.sink.format.name().to_owned(),
        };
        let host = self.sink.host();
        EventKind::SinkChanged { change, host, format }
    }

    pub fn change(&self) -> Change {
        Line::of(EntryKind::Sink, &self.sink.id, self.members.clone()).change
    }
}

/// Creates what sinks in a manifest need before the transaction.
pub async fn prepare(
    pool: &PgPool,
    vault: Option<&CredentialCache>,
    declared: &[SinkDeclaration],
    now: OffsetDateTime,
) -> Result<(), Fault> {
    if declared.is_empty() {
        return Ok(());
    }
    let vault = vault.ok_or_else(|| Fault::new("sinks need the master key"))?;
    keys::ensure_data_key(pool, vault.keys.master(), now).await
}

/// Stores a declared sink. The caller records the event.
pub async fn put(
    connection: &mut PgConnection,
    vault: &CredentialCache,
    declared: &SinkDeclaration,
    now: OffsetDateTime,
) -> Result<SinkUpsert, InvalidSink> {
    let bad = |why: &str| InvalidSink::Declaration(format!("sink {}: {why}", declared.id));
    if !sink::is_id(&declared.id) {
        return Err(bad("id may have letters, digits and -_., at most 64"));
    }
    check_url(vault, declared).map_err(bad)?;
    if declared.batch.is_some_and(|batch| !batch.is_allowed()) {
        return Err(bad("batch may have max_events from 1 to 1000 and max_bytes from 1024 to 10485760"));
    }
    sink::read_filter(&declared.filter).map_err(|why| bad(&why))?;
    if let Some(notification) = &declared.notification {
        notification.check().map_err(|why| bad(&why))?;
        if declared.has_members_for_events() {
            return Err(bad("format, batch, filter and people are for events, and not for notification"));
        }
    }
    let secret = declared_secret(declared).map_err(|why| bad(&why))?;
    let checked = CheckedDeclaration { declared, secret };
    match store::find(connection, &declared.id).await? {
        Some(old) => change(connection, vault, checked, old, now).await,
        None => {
            let size = audit::store::head(connection).await?.size();
            let from = declared.from_seq.unwrap_or(size);
            if from > size {
                return Err(bad("from_seq is after the end of the log"));
            }
            if let DeclaredSecret::Login(Some(DeclaredPassword::Kept)) = checked.secret {
                return Err(bad(NO_PASSWORD));
            }
            create(connection, vault, checked, from, now).await
        }
    }
}

fn check_url(vault: &CredentialCache, declared: &SinkDeclaration) -> Result<(), &'static str> {
    if declared.url.len() > MAX_URL_BYTES {
        return Err("url is longer than 2048 bytes");
    }
    let Some(mail) = declared.mail() else {
        let is_allowed = !declared.url.contains('#') && vault.outbound.may_fetch(&declared.url);
        return if is_allowed {
            Ok(())
        } else {
            Err("url must be https, at a public address or one of outbound.allow")
        };
    };
    match mail.server(&declared.url) {
        None => Err("url must be smtps://host or smtp://host, and smtp:// without encryption"),
        Some(server) if !vault.outbound.may_mail(&server) => {
            Err("url must be at a public address or one of outbound.allow")
        }
        Some(server)
            if mail.encryption == MailEncryption::None
                && mail.username.is_some()
                && !server.is_loopback() =>
        {
            Err("a password is not sent without encryption, but to this machine")
        }
        Some(_) => Ok(()),
    }
}

/// The declared secret, read from its file where one is named.
fn declared_secret(declared: &SinkDeclaration) -> Result<DeclaredSecret, String> {
    let text = match (&declared.secret, &declared.secret_file) {
        (Some(_), Some(_)) => return Err("secret and secret_file exclude each other".to_owned()),
        (None, Some(path)) => Some(secret::read_file(path).map_err(|fault| fault.to_string())?),
        (text, None) => text.clone(),
    };
    let Some(mail) = declared.mail() else {
        let secret = text.map(|text| Secret::parse(text.expose_secret()));
        return match secret {
            Some(None) => Err("secret is whsec_ and base64 of 24 to 64 bytes".to_owned()),
            secret => Ok(DeclaredSecret::Signing(secret.flatten())),
        };
    };
    Ok(DeclaredSecret::Login(match (&mail.username, text) {
        (None, None) => None,
        (None, Some(_)) => return Err("secret is the password of notification.mail.username".to_owned()),
        (Some(_), Some(password)) => Some(DeclaredPassword::Set(password)),
        (Some(_), None) => Some(DeclaredPassword::Kept),
    }))
}

/// A declaration with its parsed secret.
struct CheckedDeclaration<'a> {
    declared: &'a SinkDeclaration,
    secret: DeclaredSecret,
}

async fn create(
    connection: &mut PgConnection,
    vault: &CredentialCache,
    CheckedDeclaration { declared, secret }: CheckedDeclaration<'_>,
    cursor: u64,
    now: OffsetDateTime,
) -> Result<SinkUpsert, InvalidSink> {
    let (secrets, made) = SinkSecrets::first(secret)?;
    let sink = Sink {
        id: declared.id.clone(),
        url: declared.url.clone(),
        format: declared.format,
        batch: declared.batch,
        filter: declared.filter.clone(),
        people: declared.people,
        notification: declared.notification.clone(),
        sealed: secrets.seal(&vault.keys, connection, &declared.id).await?,
        disabled: (declared.enabled == Some(false)).then(|| (now, "declared so".to_owned())),
        cursor,
        attempts: 0,
        next_attempt_at: None,
        last_error: None,
        delivered_at: None,
    };
    store::put(connection, &sink, now).await?;
    Ok(SinkUpsert { members: None, note: None, shows_people_elsewhere: sink.names_people(), sink, made })
}

async fn change(
    connection: &mut PgConnection,
    vault: &CredentialCache,
    CheckedDeclaration { declared, secret }: CheckedDeclaration<'_>,
    mut sink: Sink,
    now: OffsetDateTime,
) -> Result<SinkUpsert, InvalidSink> {
    let bad = |why: &str| InvalidSink::Declaration(format!("sink {}: {why}", declared.id));
    if sink.mail().is_some() != declared.mail().is_some() {
        return Err(bad(
            "a sink for mail does not become one for webhooks, nor the reverse: remove it first",
        ));
    }
    let secrets = SinkSecrets::open(&vault.keys, connection, &sink).await?;
    if let (SinkSecrets::Password(None), DeclaredSecret::Login(Some(DeclaredPassword::Kept))) =
        (&secrets, &secret)
    {
        return Err(bad(NO_PASSWORD));
    }
    let before = view(&sink);
    let before_change = sink.clone();
    if declared.enabled.is_some_and(|enabled| enabled == sink.disabled.is_some()) {
        sink.disabled = match sink.disabled {
            Some(_) => None,
            None => Some((now, "declared so".to_owned())),
        };
    }
    sink.url.clone_from(&declared.url);
    sink.format = declared.format;
    sink.batch = declared.batch;
    sink.filter.clone_from(&declared.filter);
    sink.people = declared.people;
    sink.notification.clone_from(&declared.notification);
    let mut members = differences(&before, &view(&sink));
    if before_change.url != sink.url && !members.iter().any(|one| one.member() == "url") {
        members.push(MemberChange::secret("url", SecretChange::Replaced));
    }
    let SecretUpsert { secrets, change, note } = secrets.declared(secret, now);
    members.extend(change.map(|change| MemberChange::secret("secret", change)));
    let note = note.map(str::to_owned);
    if members.is_empty() {
        return Ok(SinkUpsert {
            members: Some(members),
            note,
            shows_people_elsewhere: false,
            sink,
            made: None,
        });
    }
    let shows_people_elsewhere = sink.shows_people_unlike(&before_change);
    sink.sealed = secrets.seal(&vault.keys, connection, &sink.id).await?;
    (sink.attempts, sink.next_attempt_at) = (0, None);
    store::put(connection, &sink, now).await?;
    if sink.notification.is_none() {
        recipients::delete_all(connection, &sink.id).await?;
    }
    Ok(SinkUpsert { members: Some(members), note, shows_people_elsewhere, sink, made: None })
}

/// The members compared for changes. Of the URL only the origin, because the path may contain a secret.
fn view(sink: &Sink) -> Members {
    let mut members = Members::new();
    members.insert("url".into(), sink.origin().into());
    members.insert("format".into(), sink.format.name().into());
    members.insert("batch".into(), json!(sink.batch));
    members.insert("filter".into(), Value::Object(sink.filter.clone()));
    members.insert("people".into(), sink.people.into());
    members.insert("notification".into(), json!(sink.notification));
    members.insert("enabled".into(), sink.disabled.is_none().into());
    members
}
