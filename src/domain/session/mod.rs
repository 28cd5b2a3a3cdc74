//! Sessions: pieces of work. The first exchange of a chain decides the session, and all hops keep it as `sid`. A session
//! never grants or refuses anything.

pub mod cache;
pub mod names;
pub mod report;
pub mod store;

use serde_json::{Value, json};
use time::Duration;
use uuid::Uuid;

use super::person::LogNames;
use super::principal::Principal;
use super::row_mac::{MacRow, RowMac};
use crate::platform::fault::Fault;

/// Without an exchange for this long, a session that has no name has ended.
pub const MAX_IDLE: Duration = Duration::minutes(30);
/// How old a stored time may be before it is written again.
const PRECISION: Duration = Duration::minutes(1);

/// The longest name of a session, in characters.
const MAX_NAME: usize = 128;

/// Whether a text can name a session.
pub fn is_name(text: &str) -> bool {
    (1..=MAX_NAME).contains(&text.chars().count()) && !text.chars().any(char::is_control)
}

/// What a session belongs to: no other client can join it, and it is about no other user.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionOwner {
    pub client_id: String,
    pub subject: Principal,
}

/// The request of a chain's first exchange.
#[derive(Debug, Clone)]
pub struct SessionRequest {
    pub owner: SessionOwner,
    /// The name that the client gave; `None` continues the owner's session, or begins one.
    pub name: Option<String>,
    /// The id of a session that begins.
    pub proposed: Uuid,
}

/// A session with a name, for the MAC that makes its id.
struct NamedSession<'a> {
    name: &'a str,
    client_id: &'a str,
    subject: [&'a str; 2],
}

impl MacRow for NamedSession<'_> {
    const TABLE: &'static str = "session";
    const KEY: &'static str = "name";

    fn row_id(&self) -> &str {
        self.name
    }

    fn content(&self) -> Value {
        let Self { name: _, client_id, subject } = self;
        json!([client_id, subject])
    }
}

/// The id of a session with a name: always the same, without a row. It cannot be guessed or verified without the MAC key,
/// so that the log says nothing about the name. The subject counts by its name in the log, which an erasure ends.
///
/// # Errors
/// A fault if the subject's name in the log was not read.
pub fn named(
    rows: &RowMac,
    names: &LogNames,
    SessionOwner { client_id, subject }: &SessionOwner,
    name: &str,
) -> Result<Uuid, Fault> {
    let subject = [subject.iss.as_str(), names.sub_of(subject)?];
    let mac = rows.of(&NamedSession { name, client_id, subject });
    let half = mac.first_chunk::<16>().ok_or_else(|| Fault::new("a MAC is too short"))?;
    Ok(uuid::Builder::from_custom_bytes(*half).into_uuid())
}
