//! Verification of the log in the database: every document and leaf, every tile, every checkpoint with all who vouch for it, in
//! one snapshot, without changing anything.

use std::path::PathBuf;

use serde::Serialize;
use sqlx::PgConnection;

use super::checkpoint::verifier_key;
use super::verify_archived::{Archived, archived};
use crate::domain::audit::rows::{self, Chunk, Source};
use crate::domain::audit::verify::{Broken, Walk, Why};
use crate::domain::audit::{index, parts, store, tree};
use crate::domain::key::{self, Purpose, StoredKey};
use crate::platform::digest::hex;
use crate::platform::fault::{During, Fault};
use crate::protocol::merkle::Frontier;
use crate::protocol::signed_note::{self, Checkpoint, VerifierKey};

/// What a verification found out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Whether the log is whole.
    pub valid: bool,
    /// The first event that was looked at: those before are believed.
    pub from: u64,
    /// How many events hold, from the first of the log on.
    pub events: u64,
    /// Of how many of them only the leaf was checked: they were archived, and their files were not shown. Where this is not 0, the
    /// command exits 2.
    pub hashes_only: u64,
    /// Root over all of them, in hexadecimal, where the log is whole.
    pub root: Option<String>,
    /// How many checkpoints it was compared with.
    pub checkpoints: usize,
    /// Up to where they vouch for it; for what comes behind, nothing does but the place where it is kept.
    pub vouched: u64,
    /// The first thing that is wrong.
    pub broken: Option<Broken>,
}

impl Report {
    pub(super) fn of(result: Result<Frontier, Broken>, checkpoints: usize) -> Self {
        let (from, hashes_only) = (0, 0);
        match result {
            Ok(tree) => Self {
                valid: true,
                from,
                events: tree.size(),
                hashes_only,
                root: Some(hex(&tree.root())),
                checkpoints,
                vouched: 0,
                broken: None,
            },
            Err(broken) => Self {
                valid: false,
                from,
                events: broken.seq,
                hashes_only,
                root: None,
                checkpoints,
                vouched: 0,
                broken: Some(broken),
            },
        }
    }
}

impl Report {
    /// Counts those that were compared: not what speaks of less than where it began.
    pub(super) fn compared_with(self, checkpoints: &[Checkpoint]) -> Self {
        let sizes: Vec<u64> =
            checkpoints.iter().map(|one| one.size).filter(|size| *size >= self.from).collect();
        Self { checkpoints: sizes.len(), vouched: sizes.into_iter().max().unwrap_or_default(), ..self }
    }
}

/// What one trusts besides the database: keys and checkpoints that were kept elsewhere.
#[derive(Debug, Clone, Default)]
pub struct Kept {
    /// Keys that may vouch for checkpoints; without any, those in the database or file do.
    pub keys: Vec<VerifierKey>,
    /// Notes.
    pub notes: Vec<String>,
    /// The note up to which everything is believed.
    pub from: Option<String>,
    /// The folder with the files of archived events.
    pub archives: Option<PathBuf>,
}

/// Hears how far it is: events done, and all of them.
pub type Progress<'a> = &'a mut (dyn FnMut(u64, u64) + Send);

/// Verifies the log in the database, in one snapshot.
pub async fn verify_database(connection: &mut PgConnection, kept: &Kept) -> Result<Report, Fault> {
    verify_database_shown(connection, kept, &mut |_, _| {}).await
}

/// The same, and shows how far it is.
pub async fn verify_database_shown(
    connection: &mut PgConnection,
    kept: &Kept,
    progress: Progress<'_>,
) -> Result<Report, Fault> {
    sqlx::query("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").execute(&mut *connection).await?;
    // A long log takes longer than any request may.
    sqlx::query("SET LOCAL statement_timeout = 0").execute(&mut *connection).await?;
    let report = verify_snapshot(connection, kept, progress).await;
    sqlx::query("ROLLBACK").execute(connection).await?;
    report
}

async fn verify_snapshot(
    connection: &mut PgConnection,
    kept: &Kept,
    progress: Progress<'_>,
) -> Result<Report, Fault> {
    let head = store::head(connection).await?;
    let keys = key::store::list(connection).await?;
    let stored = store::checkpoints(connection).await?;
    let mut checkpoints = Vec::new();
    if let Some(broken) = unreadable(&stored, kept, &keys) {
        return Ok(Report::of(Err(broken), 0));
    }
    let notes = stored.iter().map(|(_, note)| note).filter(|note| !is_foreign(note, kept));
    for note in notes.chain(&kept.notes).chain(&kept.from) {
        match open(note, kept, &keys) {
            Some(checkpoint) => checkpoints.push(checkpoint),
            None => {
                let seq = size_of(note).unwrap_or(head.size());
                return Ok(Report::of(Err(Broken { seq, why: Why::Signature }), checkpoints.len()));
            }
        }
    }
    let count = checkpoints.len();
    // By its row a checkpoint is found: one in the place of another is shown for what it is not.
    if let Some((size, _)) = stored.iter().find(|(size, note)| size_of(note) != Some(*size)) {
        return Ok(Report::of(Err(Broken { seq: *size, why: Why::Checkpoint }), count));
    }
    // Whoever rewrites the log can leave out the signatures, too, or put its own there.
    if !kept.keys.is_empty() && count == 0 {
        let (seq, _) = stored.first().ok_or_else(|| {
            Fault::new("there is no checkpoint, so nothing that the kept key has signed vouches for the log")
        })?;
        return Ok(Report::of(Err(Broken { seq: *seq, why: Why::Signature }), count));
    }
    if let Some(seq) = bad_cosignature(connection, &stored).await? {
        return Ok(Report::of(Err(Broken { seq, why: Why::Signature }), count));
    }
    let believed = match &kept.from {
        None => Frontier::default(),
        Some(note) => match believed(connection, open(note, kept, &keys).as_ref(), &head).await? {
            Ok(edge) => edge,
            Err(broken) => return Ok(Report::of(Err(broken), count)),
        },
    };
    let from = believed.size();
    let believable = |note: &str| believable(note, kept, &keys);
    let archived = match archived(connection, kept, believable, from).await? {
        Ok(archived) => archived,
        Err(broken) => return Ok(Report { from, ..Report::of(Err(broken), count) }),
    };
    let hashes_only = archived.hashes_only();
    let walk = match Walk::from(&believed, &[&checkpoints[..], &archived.roots[..]].concat()) {
        Ok(walk) => walk,
        Err(broken) => return Ok(Report { from, ..Report::of(Err(broken), count) }),
    };
    let result = match surplus(connection, &head).await? {
        // What is wrong within comes first.
        Some(surplus) => walk_all(connection, (walk, archived), &head, progress).await?.and(Err(surplus)),
        None => walk_all(connection, (walk, archived), &head, progress).await?,
    };
    Ok(Report { from, hashes_only, ..Report::of(result, count) }.compared_with(&checkpoints))
}

/// With keys that were kept elsewhere, what others signed says nothing: a log whose issuer was renamed has such.
fn is_foreign(note: &str, kept: &Kept) -> bool {
    !kept.keys.is_empty() && !signed_note::names_signer(note, &kept.keys)
}

/// The first stored checkpoint that cannot be read, or that is passed over as another's and that no key of the log has signed.
fn unreadable(stored: &[(u64, String)], kept: &Kept, keys: &[StoredKey]) -> Option<Broken> {
    stored.iter().find_map(|(size, note)| {
        let read = signed_note::parts(note).and_then(|(text, _)| Checkpoint::parse(&text));
        let why = match read {
            None => Why::Unreadable,
            Some(_) if is_foreign(note, kept) && open(note, &Kept::default(), keys).is_none() => {
                Why::Signature
            }
            Some(_) => return None,
        };
        Some(Broken { seq: *size, why })
    })
}

pub(super) fn size_of(note: &str) -> Option<u64> {
    note.lines().nth(1)?.parse().ok()
}

/// The edge of the tree up to where everything is believed, if that is what the checkpoint vouches for.
async fn believed(
    connection: &mut PgConnection,
    checkpoint: Option<&Checkpoint>,
    head: &Frontier,
) -> Result<Result<Frontier, Broken>, Fault> {
    let checkpoint = checkpoint.ok_or_else(|| Fault::new("a checkpoint that nobody vouches for"))?;
    if checkpoint.size > head.size() {
        return Ok(Err(Broken { seq: head.size(), why: Why::Truncated }));
    }
    let edge = tree::frontier(connection, checkpoint.size).await?;
    if edge.root() == checkpoint.root {
        return Ok(Ok(edge));
    }
    Ok(Err(Broken { seq: checkpoint.size, why: Why::Checkpoint }))
}

/// The size of the first checkpoint that a witness is said to have signed, and has not.
async fn bad_cosignature(
    connection: &mut PgConnection,
    stored: &[(u64, String)],
) -> Result<Option<u64>, Fault> {
    let is_good = |size: u64, key: &str, line: &str| {
        // They come in the order of their sizes.
        let (_, note) = stored.get(stored.binary_search_by_key(&size, |(of, _)| *of).ok()?)?;
        let (text, signatures) = signed_note::parts(&format!("{}\n\n{line}", note.split("\n\n").next()?))?;
        let key = VerifierKey::parse(key)?;
        signatures.first().map(|one| one.is_by(&key, &text))
    };
    let said = store::cosignatures(connection, 0, u64::MAX).await?;
    Ok(said.iter().find(|(size, key, line)| is_good(*size, key, line) != Some(true)).map(|(size, ..)| *size))
}

/// What there is beyond what the head speaks of, or before what was archived.
async fn surplus(connection: &mut PgConnection, head: &Frontier) -> Result<Option<Broken>, Fault> {
    let floor = parts::floor(connection).await?;
    let beyond = store::rows_outside(connection, floor, head.size()).await? > 0
        || index::covered(connection).await? > head.size()
        || !tree::is_regular(connection).await?;
    Ok(beyond.then_some(Broken { seq: head.size(), why: Why::Surplus }))
}

/// Walks to the head: over stored leaves as far as events were archived, then over documents. While one chunk is hashed,
/// the next is read.
async fn walk_all(
    connection: &mut PgConnection,
    (walk, archived): (Walk, Archived),
    head: &Frontier,
    progress: Progress<'_>,
) -> Result<Result<Frontier, Broken>, Fault> {
    let size = head.size();
    let mut from = walk.size();
    let mut runs = archived.runs.into_iter().peekable();
    let covered = index::covered(connection).await?;
    let (chunks, arriving) = tokio::sync::mpsc::channel::<Chunk>(1);
    let hashing = tokio::task::spawn_blocking(move || walk_chunks(walk, arriving));
    while from < size {
        while runs.next_if(|run| run.to <= from).is_some() {}
        let end = runs.peek().map_or(size, |run| run.to);
        let to = ((from / rows::CHUNK + 1) * rows::CHUNK).min(end);
        let source = match runs.peek_mut().map(|run| run.lines.as_mut()) {
            None => Source::Database,
            Some(None) => Source::Leaves,
            Some(Some(lines)) => Source::File(lines.take(to - from)?),
        };
        let chunk = rows::read(connection, (from, to), source, covered).await?;
        // Nobody listens any more once something is wrong.
        if chunks.send(chunk).await.is_err() {
            break;
        }
        progress(to, size);
        from = to;
    }
    drop(chunks);
    let walked = hashing.await.during("hashing")??;
    Ok(walked.and_then(|walk| {
        let held = walk.size();
        if held < size {
            return Err(Broken { seq: held, why: Why::Truncated });
        }
        let tree = walk.end()?;
        if tree == *head { Ok(tree) } else { Err(Broken { seq: size, why: Why::Root }) }
    }))
}

fn walk_chunks(
    mut walk: Walk,
    mut arriving: tokio::sync::mpsc::Receiver<Chunk>,
) -> Result<Result<Walk, Broken>, Fault> {
    while let Some(chunk) = arriving.blocking_recv() {
        if let Err(broken) = chunk.walk(&mut walk)? {
            return Ok(Err(broken));
        }
    }
    Ok(Ok(walk))
}

/// Opens a note under the keys that were kept elsewhere or, without any, those in the database.
fn open(note: &str, kept: &Kept, stored: &[StoredKey]) -> Option<Checkpoint> {
    signed_note::open(note, &believable(note, kept, stored))
}

fn believable(note: &str, kept: &Kept, stored: &[StoredKey]) -> Vec<VerifierKey> {
    if !kept.keys.is_empty() {
        return kept.keys.clone();
    }
    let name = note.lines().next().unwrap_or_default();
    let log = stored.iter().filter(|key| key.purpose == Purpose::Log);
    log.filter_map(|key| verifier_key(key, name)).collect()
}
