//! The declaration of a sink and its storage.

use schemars::JsonSchema;
use secrecy::{ExposeSecret as _, SecretString};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use sqlx::PgConnection;
use sqlx::postgres::PgPool;
use time::OffsetDateTime;

use crate::domain::audit::detail::DeclaredChange;
use crate::domain::audit::{self, EventKind};
use crate::domain::refusal::Error;
use crate::domain::sink::{self, BatchLimits, SigningSecrets, Sink, SinkFormat, store};
use crate::domain::vault::credential_cache::CredentialCache;
use crate::platform::fault::Fault;
use crate::platform::yaml::Place;
use crate::services::apply::{Change, EntryKind, Line, MemberChange, Members, SecretChange, differences};
use crate::services::keys;
use actchain_protocol::standard_webhooks::Secret;

/// Maximum length of the URL, in bytes.
const MAX_URL_BYTES: usize = 2_048;

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
    /// URL to which events are posted; https, no fragment, and no private address.
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
    /// Signing secret (Standard Webhooks): `whsec_` and base64 of 24 to 64 bytes. Where it is absent and the sink has no
    /// secret, a secret is made and printed once.
    #[schemars(with = "Option<String>", example = &"whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")]
    pub secret: Option<SecretString>,
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
    /// Whether names of users and their personal data would be sent to an address that did not get them before: only
    /// operators may declare that.
    pub shows_people_elsewhere: bool,
    pub sink: Sink,
    /// The generated secret, if none was declared.
    pub made: Option<SecretString>,
}

impl SinkUpsert {
    /// The event of its change. Only the host: the path of the URL may contain a secret.
    pub fn event(&self, change: DeclaredChange) -> EventKind {
        let (host, format) = (self.sink.host(), self.sink.format.name().to_owned());
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
    if declared.url.len() > MAX_URL_BYTES
        || declared.url.contains('#')
        || !vault.outbound.may_fetch(&declared.url)
    {
        return Err(bad("url must be https, at a public address or one of outbound.allow"));
    }
    if declared.batch.is_some_and(|batch| !batch.is_allowed()) {
        return Err(bad("batch may have max_events from 1 to 1000 and max_bytes from 1024 to 10485760"));
    }
    sink::read_filter(&declared.filter).map_err(|why| bad(&why))?;
    let read = |text: &SecretString| Secret::parse(text.expose_secret());
    let secret = match &declared.secret {
        None => None,
        Some(text) => Some(read(text).ok_or_else(|| bad("secret is whsec_ and base64 of 24 to 64 bytes"))?),
    };
    let checked = CheckedDeclaration { declared, secret };
    match store::find(connection, &declared.id).await? {
        Some(old) => change(connection, vault, checked, old, now).await,
        None => {
            let size = audit::store::head(connection).await?.size();
            let from = declared.from_seq.unwrap_or(size);
            if from > size {
                return Err(bad("from_seq is after the end of the log"));
            }
            create(connection, vault, checked, from, now).await
        }
    }
}

/// A declaration with its parsed secret.
struct CheckedDeclaration<'a> {
    declared: &'a SinkDeclaration,
    secret: Option<Secret>,
}

async fn create(
    connection: &mut PgConnection,
    vault: &CredentialCache,
    CheckedDeclaration { declared, secret }: CheckedDeclaration<'_>,
    cursor: u64,
    now: OffsetDateTime,
) -> Result<SinkUpsert, InvalidSink> {
    let (secrets, made) = match secret {
        Some(secret) => (SigningSecrets::declared(secret), None),
        None => {
            let made = Secret::generate()?;
            let text = made.text();
            (SigningSecrets::made(made), Some(text))
        }
    };
    let sink = Sink {
        id: declared.id.clone(),
        url: declared.url.clone(),
        format: declared.format,
        batch: declared.batch,
        filter: declared.filter.clone(),
        people: declared.people,
        sealed: secrets.seal(&vault.keys, connection, &declared.id).await?,
        disabled: (declared.enabled == Some(false)).then(|| (now, "declared so".to_owned())),
        cursor,
        attempts: 0,
        next_attempt_at: None,
        last_error: None,
        delivered_at: None,
    };
    store::put(connection, &sink, now).await?;
    Ok(SinkUpsert { members: None, note: None, shows_people_elsewhere: sink.people, sink, made })
}

async fn change(
    connection: &mut PgConnection,
    vault: &CredentialCache,
    CheckedDeclaration { declared, secret }: CheckedDeclaration<'_>,
    mut sink: Sink,
    now: OffsetDateTime,
) -> Result<SinkUpsert, InvalidSink> {
    let mut secrets = SigningSecrets::open(&vault.keys, connection, &sink).await?;
    let before = view(&sink);
    let (old_url, had_people) = (sink.url.clone(), sink.people);
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
    let mut members = differences(&before, &view(&sink));
    if old_url != sink.url && !members.iter().any(|one| one.member() == "url") {
        members.push(MemberChange::secret("url", SecretChange::Replaced));
    }
    let (is_current, is_declared) =
        (secret.as_ref() == Some(&secrets.current), secret.as_ref() == secrets.declared.as_ref());
    let mut note = None;
    match secret {
        Some(secret) if is_current && !is_declared => {
            secrets.declared = Some(secret);
            members.push(MemberChange::secret("secret", SecretChange::Recorded));
        }
        Some(secret) if !is_current && !is_declared => {
            secrets = SigningSecrets { declared: Some(secret.clone()), ..secrets.followed_by(secret, now) };
            members.push(MemberChange::secret("secret", SecretChange::Replaced));
        }
        Some(_) if !is_current => {
            let why = "the secret was rotated since it was declared, and stays; declare the new one, or none";
            note = Some(why.to_owned());
        }
        _ => {}
    }
    if members.is_empty() {
        return Ok(SinkUpsert {
            members: Some(members),
            note,
            shows_people_elsewhere: false,
            sink,
            made: None,
        });
    }
    let shows_people_elsewhere = sink.people && !(had_people && old_url == sink.url);
    sink.sealed = secrets.seal(&vault.keys, connection, &sink.id).await?;
    (sink.attempts, sink.next_attempt_at) = (0, None);
    store::put(connection, &sink, now).await?;
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
    members.insert("enabled".into(), sink.disabled.is_none().into());
    members
}
