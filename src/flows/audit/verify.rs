//! Verification of the log, in the database and in a file. It only reads.

use futures_util::TryStreamExt as _;
use serde::Serialize;
use sqlx::PgConnection;

use super::checkpoint::verifier_key;
use super::export::Voucher;
use crate::domain::audit::store;
use crate::domain::audit::verify::{Broken, Walk, Why};
use crate::domain::key::{self, Purpose, StoredKey};
use crate::platform::fault::{During, Fault};
use crate::protocol::merkle::Frontier;
use crate::protocol::signed_note::{self, Checkpoint, VerifierKey};

/// What a verification found out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Whether the log is whole.
    pub valid: bool,
    /// How many documents hold, from the first on.
    pub events: u64,
    /// Root over them, in hexadecimal, where the log is whole.
    pub root: Option<String>,
    /// How many checkpoints it was compared with.
    pub checkpoints: usize,
    /// The first thing that is wrong.
    pub broken: Option<Broken>,
}

impl Report {
    fn of(result: Result<Frontier, Broken>, checkpoints: usize) -> Self {
        match result {
            Ok(tree) => Self {
                valid: true,
                events: tree.size(),
                root: Some(tree.root().iter().map(|byte| format!("{byte:02x}")).collect()),
                checkpoints,
                broken: None,
            },
            Err(broken) => {
                Self { valid: false, events: broken.seq, root: None, checkpoints, broken: Some(broken) }
            }
        }
    }
}

/// What one trusts besides the database: keys and checkpoints that were kept elsewhere.
#[derive(Debug, Clone, Default)]
pub struct Kept {
    /// Keys that may vouch for checkpoints; without any, those in the database or file do.
    pub keys: Vec<VerifierKey>,
    /// Notes.
    pub notes: Vec<String>,
}

/// Verifies the log in the database, in one snapshot.
pub async fn verify_database(connection: &mut PgConnection, kept: &Kept) -> Result<Report, Fault> {
    sqlx::query("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").execute(&mut *connection).await?;
    // A long log takes longer than any request may.
    sqlx::query("SET LOCAL statement_timeout = 0").execute(&mut *connection).await?;
    let report = verify_snapshot(connection, kept).await;
    sqlx::query("ROLLBACK").execute(connection).await?;
    report
}

async fn verify_snapshot(connection: &mut PgConnection, kept: &Kept) -> Result<Report, Fault> {
    let head = store::head(connection).await?;
    let keys = key::store::list(connection).await?;
    let stored = store::checkpoints(connection).await?;
    let mut checkpoints = Vec::new();
    // With keys that were kept elsewhere, what others signed says nothing: a log whose issuer was renamed has such.
    let foreign = |note: &&String| !kept.keys.is_empty() && !signed_note::names_signer(note, &kept.keys);
    let stored = stored.iter().map(|(_, note)| note).filter(|note| !foreign(note));
    for note in stored.chain(&kept.notes) {
        match open(note, kept, &keys) {
            Some(checkpoint) => checkpoints.push(checkpoint),
            None => {
                return Ok(Report::of(
                    Err(Broken { seq: head.size(), why: Why::Checkpoint }),
                    checkpoints.len(),
                ));
            }
        }
    }
    let count = checkpoints.len();
    let walk = match Walk::with(&checkpoints) {
        Ok(walk) => walk,
        Err(broken) => return Ok(Report::of(Err(broken), count)),
    };
    let result = match walk_rows(connection, walk, &head).await? {
        Ok(tree) if store::rows_outside(connection, head.size()).await? > 0 => {
            Err(Broken { seq: tree.size(), why: Why::Surplus })
        }
        other => other,
    };
    Ok(Report::of(result, count))
}

async fn walk_rows(
    connection: &mut PgConnection,
    mut walk: Walk,
    head: &Frontier,
) -> Result<Result<Frontier, Broken>, Fault> {
    let mut rows = Box::pin(store::documents(connection, 0, head.size()));
    let mut held = 0;
    while let Some((seq, document)) = rows.try_next().await? {
        if let Err(broken) = walk.step(u64::try_from(seq).unwrap_or(u64::MAX), &document) {
            return Ok(Err(broken));
        }
        held += 1;
    }
    if held < head.size() {
        return Ok(Err(Broken { seq: held, why: Why::Truncated }));
    }
    Ok(walk.end().and_then(|tree| {
        if tree == *head { Ok(tree) } else { Err(Broken { seq: head.size(), why: Why::Root }) }
    }))
}

/// Opens a note under the keys that were kept elsewhere or, without any, those in the database.
fn open(note: &str, kept: &Kept, stored: &[StoredKey]) -> Option<Checkpoint> {
    if !kept.keys.is_empty() {
        return signed_note::open(note, &kept.keys);
    }
    let name = note.lines().next()?;
    let keys: Vec<VerifierKey> = stored
        .iter()
        .filter(|key| key.purpose == Purpose::Log)
        .filter_map(|key| verifier_key(key, name))
        .collect();
    signed_note::open(note, &keys)
}

/// Verifies an export, line by line, twice over: once for its voucher, once for its documents.
///
/// # Errors
/// A fault if the file cannot be read or nothing vouches for it: then it could not be checked.
pub fn verify_export(path: &std::path::Path, kept: &Kept) -> Result<Report, Fault> {
    if kept.keys.is_empty() && !kept.notes.is_empty() {
        return Err(Fault::new(
            "a checkpoint that was kept elsewhere needs the key that was kept with it (--key)",
        ));
    }
    let open_lines = || {
        let file = std::fs::File::open(path).during(&format!("reading {}", path.display()))?;
        // A damaged byte may not even be text; then the line is not what was written, which is what we are to find.
        let lines = std::io::BufRead::split(std::io::BufReader::new(file), b'\n');
        Ok::<_, Fault>(lines.map(|line| line.map(|bytes| String::from_utf8_lossy(&bytes).into_owned())))
    };
    let mut vouchers: Vec<Voucher> = Vec::new();
    for line in open_lines()? {
        vouchers.extend(serde_json::from_str(&line.during("reading the export")?));
    }
    let mut notes: Vec<(String, Vec<VerifierKey>)> = Vec::new();
    for voucher in vouchers {
        let own = || VerifierKey::parse(&voucher.key).into_iter().collect();
        notes.push((voucher.checkpoint, if kept.keys.is_empty() { own() } else { kept.keys.clone() }));
    }
    notes.extend(kept.notes.iter().map(|note| (note.clone(), kept.keys.clone())));
    let mut checkpoints = Vec::new();
    for (note, keys) in &notes {
        match signed_note::open(note, keys) {
            Some(checkpoint) => checkpoints.push(checkpoint),
            None => return Ok(Report::of(Err(Broken { seq: 0, why: Why::Checkpoint }), 0)),
        }
    }
    if checkpoints.is_empty() {
        return Err(Fault::new("the export has no checkpoint, so nothing vouches for it"));
    }
    let count = checkpoints.len();
    let walked = Walk::with(&checkpoints).map(|walk| (walk, open_lines()));
    let result = match walked {
        Err(broken) => Err(broken),
        Ok((walk, lines)) => walk_lines(walk, lines?)?,
    };
    let covered = checkpoints.iter().map(|checkpoint| checkpoint.size).max().unwrap_or_default();
    Ok(Report::of(
        result.and_then(|tree| {
            if tree.size() > covered { Err(Broken { seq: covered, why: Why::Surplus }) } else { Ok(tree) }
        }),
        count,
    ))
}

fn walk_lines(
    mut walk: Walk,
    lines: impl Iterator<Item = std::io::Result<String>>,
) -> Result<Result<Frontier, Broken>, Fault> {
    for line in lines {
        let line = line.during("reading the export")?;
        if serde_json::from_str::<Voucher>(&line).is_ok() {
            continue;
        }
        let place = serde_json::from_str::<serde_json::Value>(&line).ok();
        let seq = place.and_then(|document| document.get("seq")?.as_u64());
        // A line that says no place is taken for the next one, whose form then shows what is wrong with it.
        if let Err(broken) = walk.step(seq.unwrap_or(walk.size()), &line) {
            return Ok(Err(broken));
        }
    }
    Ok(walk.end())
}
