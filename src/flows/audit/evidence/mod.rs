//! Evidence to hand over: who acted for a user in a span of time, and with what right. A folder with the events, each with its
//! proof, the signed checkpoint, the keys of the log, and what follows from the events; it verifies offline.

mod verify;

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use sqlx::PgConnection;
use time::OffsetDateTime;

pub use self::verify::{EvidenceReport, is_evidence, verify_evidence};
use super::checkpoint::signer_of;
use super::export::proven;
use super::transparency::{published_keys, with_witnesses};
use super::{Voucher, checkpoint};
use crate::domain::audit::evidence::{About, FORMAT, LIFECYCLE, delegation_ids, derive, is_lifecycle};
use crate::domain::audit::filter::Filter;
use crate::domain::audit::prover::Prover;
use crate::domain::audit::search::{self, Extent, Found, Order, Search};
use crate::domain::principal::Principal;
use crate::flows::desk::Desk;
use crate::platform::clock::rfc3339;
use crate::platform::fault::{During, Fault};
use crate::platform::jose::SealingKey;
use crate::platform::private_file;

/// The file with the events.
const EVENTS: &str = "events.jsonl";
/// The signed checkpoint, with what witnesses have signed.
const CHECKPOINT: &str = "checkpoint.note";
/// The keys of the log, one a line.
const KEYS: &str = "keys.txt";
/// How many events are read at once.
const PAGE: usize = 512;
/// More events than one folder is for.
const MAX_EVENTS: usize = 100_000;

/// What is to be proven.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// The `sub` of the user.
    pub subject: String,
    /// Its issuer. May be left out where only one issuer has a user of that name in the events.
    pub issuer: Option<String>,
    /// Only chains in which this client acted.
    pub client: Option<String>,
    /// The first instant.
    pub from: OffsetDateTime,
    /// The instant after the last.
    pub to: OffsetDateTime,
}

/// What was written.
#[derive(Debug, Serialize)]
pub struct Written {
    /// How many events.
    pub events: usize,
    /// In how many chains.
    pub chains: usize,
    /// Under how many delegations.
    pub delegations: usize,
    /// The size of the log.
    pub size: u64,
    /// The first event that was in the database: those before are archived, and were not searched.
    pub first: u64,
    /// Where.
    pub folder: PathBuf,
}

/// The first line of the file with the events: that of a selection, and what it is about.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Head {
    extract: Extract,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Extract {
    size: u64,
    evidence: About,
}

/// Gathers evidence and writes it into a folder that is not there yet, or is empty.
///
/// # Errors
/// A fault if several issuers have such a user, if there are more than 100,000 events, or if files cannot be written. Then there
/// is no folder.
pub async fn gather(
    desk: &Desk<'_>,
    seal: &SealingKey,
    (wanted, folder): (&Wanted, &Path),
    now: OffsetDateTime,
) -> Result<Written, Fault> {
    check_empty(folder)?;
    let note = checkpoint(desk.pool, seal, desk.issuer, now).await?;
    let size = super::verify::size_of(&note).ok_or_else(|| Fault::new("a checkpoint without a size"))?;
    let mut connection = desk.pool.acquire().await?;
    let extent = search::extent(&mut connection).await?;
    let extent = Extent { covered: extent.covered.min(size), size, ..extent };
    let mut events = Events { connection: &mut connection, extent: &extent, found: BTreeMap::new() };
    let subject = events.collect(wanted).await?;
    let found: Vec<Found> = std::mem::take(&mut events.found).into_values().collect();
    let about = About {
        format: FORMAT,
        actchain: env!("CARGO_PKG_VERSION").to_owned(),
        subject,
        client: wanted.client.clone(),
        from: rfc3339(wanted.from),
        to: rfc3339(wanted.to),
        first: extent.floor,
        size,
    };
    let mut files: Vec<(&str, String)> = derive(&about, &found)?.into_iter().collect();
    files.push((EVENTS, events_file(&mut connection, about, (&found, &note)).await?));
    files.push((CHECKPOINT, with_witnesses(&mut connection, size, note).await?));
    files.push((KEYS, published_keys(&mut connection, desk.issuer).await?));
    write(folder, &files)?;
    let txns: BTreeSet<&str> = found.iter().filter_map(|one| one.event.get("txn")?.as_str()).collect();
    Ok(Written {
        events: found.len(),
        chains: txns.len(),
        delegations: delegation_ids(found.iter()).len(),
        size,
        first: extent.floor,
        folder: folder.to_owned(),
    })
}

async fn events_file(
    connection: &mut PgConnection,
    about: About,
    (found, note): (&[Found], &str),
) -> Result<String, Fault> {
    let size = about.size;
    let head = Head { extract: Extract { size, evidence: about } };
    let mut text = serde_json::to_string(&head).during("writing evidence")? + "\n";
    let mut prover = Prover::of(size);
    for one in found {
        text.push_str(&proven(one, &prover.prove(connection, one.seq).await?));
    }
    let key = signer_of(connection, note).await?.text();
    let voucher = Voucher { checkpoint: note.to_owned(), key };
    Ok(text + &serde_json::to_string(&voucher).during("writing evidence")? + "\n")
}

/// Events as they are found, by place.
struct Events<'a> {
    connection: &'a mut PgConnection,
    extent: &'a Extent,
    found: BTreeMap<u64, Found>,
}

impl Events<'_> {
    /// What is about the subject in that time; the chains that these events are of, whole; and the life of all delegations that
    /// any of them goes by.
    async fn collect(&mut self, wanted: &Wanted) -> Result<Principal, Fault> {
        let about_subject = Filter {
            subject_sub: Some(wanted.subject.clone()),
            subject_iss: wanted.issuer.clone(),
            actor: wanted.client.clone(),
            from: Some(wanted.from),
            to: Some(wanted.to),
            ..Filter::default()
        };
        self.add(&about_subject, |_| true).await?;
        let subject = self.subject(wanted)?;
        let txns: BTreeSet<String> =
            self.found.values().filter_map(|one| Some(one.event.get("txn")?.as_str()?.to_owned())).collect();
        for txn in txns {
            self.add(&Filter { txn: Some(txn), ..Filter::default() }, |_| true).await?;
        }
        for id in delegation_ids(self.found.values()) {
            for action in LIFECYCLE {
                let action = Some(action.name().to_owned());
                let filter = Filter { delegation: Some(id.clone()), action, ..Filter::default() };
                self.add(&filter, |event| is_lifecycle(event, &id)).await?;
            }
        }
        Ok(subject)
    }

    /// Whose events these are. Users of several issuers that have one name are different users.
    fn subject(&self, wanted: &Wanted) -> Result<Principal, Fault> {
        let issuer = |one: &Found| Some(one.event.pointer("/subject/iss")?.as_str()?.to_owned());
        let issuers: BTreeSet<String> = self.found.values().filter_map(issuer).collect();
        let mut names = issuers.iter();
        match (names.next(), names.next(), &wanted.issuer) {
            (_, Some(_), _) => Err(Fault::new(format!(
                "{} is a user of several issuers; name one with --issuer: {}",
                wanted.subject,
                issuers.iter().cloned().collect::<Vec<_>>().join(", ")
            ))),
            (Some(iss), None, _) | (None, None, Some(iss)) => Ok(Principal::new(iss, &wanted.subject)),
            (None, None, None) => Err(Fault::new(format!(
                "the log has no event about {} in that time; name its issuer with --issuer for evidence of that",
                wanted.subject
            ))),
        }
    }

    async fn add(&mut self, filter: &Filter, is_wanted: impl Fn(&Value) -> bool) -> Result<(), Fault> {
        let search = Search { filter, besides: &[], order: Order::Oldest };
        let mut after = None;
        loop {
            let page = search::page(self.connection, search, self.extent, (after, PAGE)).await?;
            let wanted = page.found.into_iter().filter(|one| is_wanted(&one.event));
            self.found.extend(wanted.map(|one| (one.seq, one)));
            if self.found.len() > MAX_EVENTS {
                return Err(Fault::new(
                    "more than 100000 events: narrow it down with --from, --to or --client",
                ));
            }
            after = page.next;
            if after.is_none() {
                return Ok(());
            }
        }
    }
}

fn check_empty(folder: &Path) -> Result<(), Fault> {
    let what = format!("looking into {}", folder.display());
    match std::fs::read_dir(folder) {
        Ok(mut entries) => match entries.next().transpose().during(&what)? {
            None => Ok(()),
            Some(_) => Err(Fault::new(format!("{} is not empty", folder.display()))),
        },
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error).during(&what),
    }
}

/// Written under another name first, so that there is all of it or nothing.
fn write(folder: &Path, files: &[(&str, String)]) -> Result<(), Fault> {
    let what = format!("writing {}", folder.display());
    let aside = folder.with_added_extension(format!("{}.part", std::process::id()));
    let written = write_files(&aside, files).and_then(|()| std::fs::rename(&aside, folder));
    if written.is_err() {
        // What was begun is of no use; that it could not be removed changes nothing.
        let _ = std::fs::remove_dir_all(&aside);
    }
    written.during(&what)
}

fn write_files(folder: &Path, files: &[(&str, String)]) -> std::io::Result<()> {
    use std::os::unix::fs::DirBuilderExt as _;
    std::fs::DirBuilder::new().mode(0o700).create(folder)?;
    for (name, text) in files {
        let mut file = private_file::create(&folder.join(name))?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
    }
    Ok(())
}
