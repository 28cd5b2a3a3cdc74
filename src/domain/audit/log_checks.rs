//! What the servers have checked of the log, in PostgreSQL: the verification of every event, and the last comparison with
//! a checkpoint that a person kept.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sqlx::PgConnection;
use time::OffsetDateTime;

use super::verify::IntegrityError;
use crate::domain::row_mac::{MacRow, RowMac};
use crate::platform::fault::{Context, Fault};
use actchain_protocol::merkle::{Frontier, Hash};

/// The root of the tree of the first events, as a server has seen it. A log never loses it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct KnownRoot {
    pub size: u64,
    pub root: Hash,
}

impl KnownRoot {
    pub fn of(tree: &Frontier) -> Self {
        Self { size: tree.size(), root: tree.root() }
    }
}

/// How far every event of the log was verified.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogVerification {
    /// The verification that goes on.
    pub running: Option<RunningVerification>,
    /// The last verification that came to an end.
    pub last: Option<EndedVerification>,
    /// The root over all events that were valid at the last time.
    pub valid: Option<KnownRoot>,
}

/// A verification that goes on. It continues after the events that it has verified, on any server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunningVerification {
    #[serde(with = "time::serde::rfc3339")]
    pub began_at: OffsetDateTime,
    /// Number of verified events.
    pub size: u64,
    /// The roots of the perfect subtrees over them.
    peaks: Vec<Hash>,
    /// Number of archived events among them: of those, only the stored hash was verified.
    pub hashes_only: u64,
}

impl RunningVerification {
    /// A verification that begins at the first event.
    pub fn begin(now: OffsetDateTime) -> Self {
        Self { began_at: now, size: 0, peaks: Vec::new(), hashes_only: 0 }
    }

    /// The tree of the verified events.
    ///
    /// # Errors
    /// A fault if the stored subtrees are not those of a tree of this size.
    pub fn frontier(&self) -> Result<Frontier, Fault> {
        Frontier::from_parts(self.size, self.peaks.clone())
            .ok_or_else(|| Fault::new("a verification without its tree"))
    }

    /// The verification after more events, some of which are archived.
    pub fn continued(&self, tree: &Frontier, hashes_only: u64) -> Self {
        Self {
            began_at: self.began_at,
            size: tree.size(),
            peaks: tree.peaks().to_vec(),
            hashes_only: self.hashes_only + hashes_only,
        }
    }
}

/// A verification that came to an end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndedVerification {
    #[serde(with = "time::serde::rfc3339")]
    pub began_at: OffsetDateTime,
    #[serde(with = "time::serde::rfc3339")]
    pub ended_at: OffsetDateTime,
    /// Number of events; `None` if the log is not valid.
    pub events: Option<u64>,
    /// Number of archived events among them: of those, only the stored hash was verified.
    pub hashes_only: u64,
    /// Why the log is not valid.
    pub integrity_error: Option<IntegrityError>,
}

/// A checkpoint of this log that a person kept and compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptCheckpoint {
    #[serde(with = "time::serde::rfc3339")]
    pub compared_at: OffsetDateTime,
    #[serde(flatten)]
    pub known: KnownRoot,
}

/// What a row of `log_check` has.
pub trait LogCheck: Serialize + DeserializeOwned {
    /// The name of the row.
    const NAME: &'static str;
}

impl LogCheck for LogVerification {
    const NAME: &'static str = "verification";
}

impl LogCheck for KeptCheckpoint {
    const NAME: &'static str = "kept_checkpoint";
}

struct Row {
    name: &'static str,
    state: Value,
}

impl MacRow for Row {
    const TABLE: &'static str = "log_check";
    const KEY: &'static str = "name";

    fn row_id(&self) -> &str {
        self.name
    }

    fn content(&self) -> Value {
        let Self { name: _, state } = self;
        state.clone()
    }
}

/// A check as stored; [`replace`] finds out whether it is still stored.
#[derive(Debug)]
pub struct StoredCheck<C> {
    /// `None` if the check was never made, or if its row is not authentic.
    pub check: Option<C>,
    mac: Option<Vec<u8>>,
}

/// Reads a check. A row that is not authentic is logged, and counts as none, as does one of a later version.
pub async fn read<C: LogCheck>(
    connection: &mut PgConnection,
    rows: &RowMac,
) -> Result<StoredCheck<C>, Fault> {
    let found: Option<(Value, Vec<u8>)> = sqlx::query_as("SELECT state, mac FROM log_check WHERE name = $1")
        .bind(C::NAME)
        .fetch_optional(connection)
        .await?;
    let Some((state, mac)) = found else { return Ok(StoredCheck { check: None, mac: None }) };
    let check = match rows.check(Row { name: C::NAME, state }, Some(&mac)) {
        Ok(row) => serde_json::from_value(row.state).ok(),
        Err(_) => None,
    };
    Ok(StoredCheck { check, mac: Some(mac) })
}

/// Replaces a check that was read; `false` if another server has replaced it meanwhile.
pub async fn replace<C: LogCheck>(
    connection: &mut PgConnection,
    rows: &RowMac,
    stored: &StoredCheck<C>,
    check: &C,
) -> Result<bool, Fault> {
    let state = serde_json::to_value(check).context("writing a check of the log")?;
    let row = Row { name: C::NAME, state };
    let mac = rows.of(&row);
    let done = sqlx::query(
        "INSERT INTO log_check (name, state, mac) VALUES ($1, $2, $3)
         ON CONFLICT (name) DO UPDATE SET state = excluded.state, mac = excluded.mac WHERE log_check.mac = $4",
    )
    .bind(row.name)
    .bind(&row.state)
    .bind(mac)
    .bind(&stored.mac)
    .execute(connection)
    .await?;
    Ok(done.rows_affected() == 1)
}
