//! What is declared of a sink, and how that becomes one.

use secrecy::{ExposeSecret as _, SecretString};
use serde::Deserialize;
use serde_json::{Map, Value};
use sqlx::PgConnection;
use sqlx::postgres::PgPool;
use time::OffsetDateTime;

use crate::domain::audit;
use crate::domain::refusal::Stop;
use crate::domain::sink::{self, Format, Secrets, Sink, store};
use crate::domain::vault::held::Vault;
use crate::flows::apply::Change;
use crate::flows::keys;
use crate::platform::fault::Fault;
use crate::protocol::standard_webhooks::Secret;

/// The longest address.
const MOST: usize = 2_048;

/// A sink as it is declared.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SinkDeclaration {
    /// Its name.
    #[serde(default)]
    pub id: String,
    /// Where events are posted.
    pub url: String,
    /// In which form; as they were recorded where absent.
    #[serde(default = "json")]
    pub format: Format,
    /// Which of them, as in a query of the log; all where absent.
    #[serde(default)]
    pub filter: Map<String, Value>,
    /// Its secret; one is made where absent and none is there.
    pub secret: Option<SecretString>,
    /// Whether events are sent; as it is where absent.
    pub enabled: Option<bool>,
    /// Where a new one begins; at the present end of the log where absent.
    pub from_seq: Option<u64>,
}

fn json() -> Format {
    Format::Json
}

/// Why a declaration came to nothing.
#[derive(Debug)]
pub enum Unusable {
    /// What is wrong with it, for whoever declared it.
    Declared(String),
    /// Something else.
    Stopped(Stop),
}

impl<T: Into<Stop>> From<T> for Unusable {
    fn from(stop: T) -> Self {
        Self::Stopped(stop.into())
    }
}

impl Unusable {
    /// As a command says it.
    pub fn fault(self) -> Fault {
        match self {
            Self::Declared(why) => Fault::new(why),
            Self::Stopped(Stop::Failed(fault)) => fault,
            Self::Stopped(Stop::Refused(refusal)) => Fault::new(refusal.sentence()),
        }
    }
}

/// What was put.
#[derive(Debug)]
pub struct Put {
    /// Whether anything is different.
    pub change: Change,
    /// It.
    pub sink: Sink,
    /// Its secret, if it was made.
    pub made: Option<SecretString>,
}

/// What sinks in a declaration need before any transaction.
pub async fn prepare(
    pool: &PgPool,
    vault: Option<&Vault>,
    declared: &[SinkDeclaration],
    now: OffsetDateTime,
) -> Result<(), Fault> {
    if declared.is_empty() {
        return Ok(());
    }
    let vault = vault.ok_or_else(|| Fault::new("sinks need the master key"))?;
    keys::ensure_data_key(pool, vault.keys.master(), now).await
}

/// Stores a sink as declared. Whoever calls records it.
pub async fn put(
    connection: &mut PgConnection,
    vault: &Vault,
    declared: &SinkDeclaration,
    now: OffsetDateTime,
) -> Result<Put, Unusable> {
    let bad = |why: &str| Unusable::Declared(format!("sink {}: {why}", declared.id));
    if !sink::is_id(&declared.id) {
        return Err(bad("id may have letters, digits and -_., at most 64"));
    }
    if declared.url.len() > MOST || declared.url.contains('#') || !vault.outbound.may_fetch(&declared.url) {
        return Err(bad("url must be https and must not point to a private address"));
    }
    sink::read_filter(&declared.filter).map_err(|why| bad(&why))?;
    let read = |text: &SecretString| Secret::parse(text.expose_secret());
    let given = match &declared.secret {
        None => None,
        Some(text) => Some(read(text).ok_or_else(|| bad("secret is whsec_ and base64 of 24 to 64 bytes"))?),
    };
    match store::find(connection, &declared.id).await? {
        Some(old) => change(connection, vault, (declared, given), (old, now)).await,
        None => {
            let size = audit::store::head(connection).await?.size();
            let from = declared.from_seq.unwrap_or(size);
            if from > size {
                return Err(bad("from_seq is behind the end of the log"));
            }
            create(connection, vault, (declared, given), (from, now)).await
        }
    }
}

async fn create(
    connection: &mut PgConnection,
    vault: &Vault,
    (declared, given): (&SinkDeclaration, Option<Secret>),
    (position, now): (u64, OffsetDateTime),
) -> Result<Put, Unusable> {
    let (secret, made) = match given {
        Some(secret) => (secret, None),
        None => {
            let made = Secret::generate()?;
            let text = made.text();
            (made, Some(text))
        }
    };
    let sink = Sink {
        id: declared.id.clone(),
        url: declared.url.clone(),
        format: declared.format,
        filter: declared.filter.clone(),
        sealed: Secrets::of(secret).seal(&vault.keys, connection, &declared.id).await?,
        disabled: (declared.enabled == Some(false)).then(|| (now, "declared so".to_owned())),
        position,
        attempts: 0,
        next_attempt_at: None,
        last_error: None,
        delivered_at: None,
    };
    store::put(connection, &sink, now).await?;
    Ok(Put { change: Change::Create, sink, made })
}

async fn change(
    connection: &mut PgConnection,
    vault: &Vault,
    (declared, given): (&SinkDeclaration, Option<Secret>),
    (mut sink, now): (Sink, OffsetDateTime),
) -> Result<Put, Unusable> {
    let secrets = Secrets::open(&vault.keys, connection, &sink).await?;
    let next = given.filter(|given| *given != secrets.current);
    let switched = declared.enabled.is_some_and(|enabled| enabled == sink.disabled.is_some());
    let same = sink.url == declared.url && sink.format == declared.format && sink.filter == declared.filter;
    if same && !switched && next.is_none() {
        return Ok(Put { change: Change::Keep, sink, made: None });
    }
    if let Some(next) = next {
        sink.sealed = secrets.followed_by(next, now).seal(&vault.keys, connection, &sink.id).await?;
    }
    if switched {
        sink.disabled = match sink.disabled {
            Some(_) => None,
            None => Some((now, "declared so".to_owned())),
        };
    }
    sink.url.clone_from(&declared.url);
    sink.format = declared.format;
    sink.filter.clone_from(&declared.filter);
    (sink.attempts, sink.next_attempt_at) = (0, None);
    store::put(connection, &sink, now).await?;
    Ok(Put { change: Change::Update, sink, made: None })
}
