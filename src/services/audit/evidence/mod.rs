//! Evidence of who acted for a user in a period, and with what authority. A folder with the events and their proofs,
//! the signed checkpoint, the log's keys, and reports computed from the events. It verifies offline.

mod verify;

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use sqlx::PgConnection;
use time::OffsetDateTime;

pub use self::verify::{EvidenceReport, is_evidence, verify_evidence};
use super::checkpoint::{signer_of, size_of};
use super::cosignatures::with_witnesses;
use super::export::proven;
use super::transparency::published_keys;
use super::{CheckpointLine, checkpoint};
use crate::domain::audit::evidence::{
    EvidenceHeader, FORMAT, LIFECYCLE, SubjectName, delegation_ids, derive, is_lifecycle,
};
use crate::domain::audit::filter::Filter;
use crate::domain::audit::inclusion_batch::InclusionBatch;
use crate::domain::audit::search::{self, EventRow, EventSearch, Order, SearchRange};
use crate::domain::person::{self, Person};
use crate::domain::principal::Principal;
use crate::platform::clock::rfc3339;
use crate::platform::fault::{Context, Fault};
use crate::platform::private_file;
use crate::platform::seal::SealingKey;
use crate::services::request_context::RequestContext;
use actchain_protocol::base64url;

const EVENTS: &str = "events.jsonl";
/// The file with the signed checkpoint and cosignatures.
const CHECKPOINT: &str = "checkpoint.note";
/// The file with the log's keys, one a line.
const KEYS: &str = "keys.txt";
/// Number of events per read.
const PAGE: usize = 512;
/// Maximum number of events in one folder.
const MAX_EVENTS: usize = 100_000;

/// The subject and the period.
#[derive(Debug, Clone)]
pub struct EvidenceOptions {
    /// The `sub` of the user.
    pub subject: String,
    /// The user's issuer; optional if the events have only one issuer with this `sub`.
    pub issuer: Option<String>,
    /// Only chains in which this client acted.
    pub client: Option<String>,
    pub from: OffsetDateTime,
    /// End of the period, exclusive.
    pub to: OffsetDateTime,
}

#[derive(Debug, Serialize)]
pub struct Written {
    pub events: usize,
    pub chains: usize,
    pub delegations: usize,
    /// Number of events in the log.
    pub size: u64,
    /// The first event in the database: earlier events are archived and were not searched.
    pub first: u64,
    pub folder: PathBuf,
}

/// The first line of the event file: the header of a selection, with the evidence header.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct EvidenceHead {
    extract: EvidenceExtract,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct EvidenceExtract {
    size: u64,
    evidence: EvidenceHeader,
}

/// Collects evidence and writes a folder. The folder must not exist or must be empty.
///
/// # Errors
/// A fault if several issuers have such a user, there are more than 100,000 events, or files cannot be written. Then
/// no folder is created.
pub async fn gather(
    ctx: &RequestContext<'_>,
    seal: &SealingKey,
    options: &EvidenceOptions,
    folder: &Path,
) -> Result<Written, Fault> {
    check_empty(folder)?;
    let note = checkpoint(ctx.pool, seal, ctx.issuer, ctx.now).await?;
    let size = size_of(&note).ok_or_else(|| Fault::new("a checkpoint without a size"))?;
    let mut connection = ctx.pool.acquire().await?;
    let search_range = search::search_range(&mut connection).await?;
    let search_range = SearchRange { indexed: search_range.indexed.min(size), size, ..search_range };
    let mut events =
        Events { connection: &mut connection, search_range: &search_range, found: BTreeMap::new() };
    let (subject, named) = events.collect(options).await?;
    let found: Vec<EventRow> = std::mem::take(&mut events.found).into_values().collect();
    let about = EvidenceHeader {
        format: FORMAT,
        actchain: env!("CARGO_PKG_VERSION").to_owned(),
        subject,
        named,
        client: options.client.clone(),
        from: rfc3339(options.from),
        to: rfc3339(options.to),
        first: search_range.first_available,
        size,
    };
    let mut files: Vec<(&str, String)> = derive(&about, &found)?.into_iter().collect();
    files.push((EVENTS, events_file(&mut connection, about, &found, &note).await?));
    files.push((CHECKPOINT, with_witnesses(&mut connection, size, note).await?));
    files.push((KEYS, published_keys(&mut connection, ctx.issuer).await?));
    write(folder, &files)?;
    let txns: BTreeSet<&str> = found.iter().filter_map(|one| one.event.get("txn")?.as_str()).collect();
    Ok(Written {
        events: found.len(),
        chains: txns.len(),
        delegations: delegation_ids(found.iter()).len(),
        size,
        first: search_range.first_available,
        folder: folder.to_owned(),
    })
}

async fn events_file(
    connection: &mut PgConnection,
    about: EvidenceHeader,
    found: &[EventRow],
    note: &str,
) -> Result<String, Fault> {
    let size = about.size;
    let head = EvidenceHead { extract: EvidenceExtract { size, evidence: about } };
    let mut text = serde_json::to_string(&head).context("writing evidence")? + "\n";
    let mut inclusion_batch = InclusionBatch::of(size);
    for one in found {
        text.push_str(&proven(one, &inclusion_batch.prove(connection, one.seq).await?));
    }
    let key = signer_of(connection, note).await?.text();
    let checkpoint_line = CheckpointLine { checkpoint: note.to_owned(), key };
    Ok(text + &serde_json::to_string(&checkpoint_line).context("writing evidence")? + "\n")
}

/// Events found, by `seq`.
struct Events<'a> {
    connection: &'a mut PgConnection,
    search_range: &'a SearchRange,
    found: BTreeMap<u64, EventRow>,
}

impl Events<'_> {
    /// Collects the events about the subject in the period, all events of their chains, and all events of the
    /// delegations in those chains.
    async fn collect(
        &mut self,
        options: &EvidenceOptions,
    ) -> Result<(Principal, Option<SubjectName>), Fault> {
        let person = self.person(options).await?;
        let named = person.as_ref().map(|person| SubjectName {
            pseudonym: person.pseudonym.clone(),
            salt: base64url::encode(person.salt),
        });
        let about_subject = Filter {
            subject_sub: Some(options.subject.clone()),
            subject_names: named.iter().map(|named| named.pseudonym.clone()).collect(),
            subject_iss: options.issuer.clone(),
            actor: options.client.clone(),
            from: Some(options.from),
            to: Some(options.to),
            ..Filter::default()
        };
        self.add(&about_subject, |_| true).await?;
        let subject = match person {
            Some(person) => person.who,
            None => self.subject(options)?,
        };
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
        Ok((subject, named))
    }

    /// The user, if the log knows one. Users of different issuers with the same `sub` are different users.
    async fn person(&mut self, options: &EvidenceOptions) -> Result<Option<Person>, Fault> {
        let issuer = options.issuer.as_deref();
        let mut found = person::store::find_by_sub(self.connection, issuer, &options.subject).await?;
        if found.len() > 1 {
            let issuers: Vec<String> = found.into_iter().map(|person| person.who.iss).collect();
            return Err(Fault::new(format!(
                "{} is a user of several issuers; name one with --issuer: {}",
                options.subject,
                issuers.join(", ")
            )));
        }
        Ok(found.pop())
    }

    /// The subject of the events, a client.
    fn subject(&self, options: &EvidenceOptions) -> Result<Principal, Fault> {
        let issuer = |one: &EventRow| Some(one.event.pointer("/subject/iss")?.as_str()?.to_owned());
        match self.found.values().find_map(issuer).as_ref().or(options.issuer.as_ref()) {
            Some(iss) => Ok(Principal::new(iss, &options.subject)),
            None => Err(Fault::new(format!(
                "the log has no event about {} in that time; name its issuer with --issuer for evidence of that",
                options.subject
            ))),
        }
    }

    async fn add(&mut self, filter: &Filter, is_wanted: impl Fn(&Value) -> bool) -> Result<(), Fault> {
        let search = EventSearch { filter, besides: &[], without: &[], order: Order::Oldest };
        let mut after = None;
        loop {
            let page = search::page(self.connection, search, self.search_range, after, PAGE).await?;
            let matching = page.found.into_iter().filter(|one| is_wanted(&one.event));
            self.found.extend(matching.map(|one| (one.seq, one)));
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
    let what = format!("reading {}", folder.display());
    match std::fs::read_dir(folder) {
        Ok(mut entries) => match entries.next().transpose().context(&what)? {
            None => Ok(()),
            Some(_) => Err(Fault::new(format!("{} is not empty", folder.display()))),
        },
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error).context(&what),
    }
}

/// Writes under a temporary name first, so that the folder is complete or absent.
fn write(folder: &Path, files: &[(&str, String)]) -> Result<(), Fault> {
    let what = format!("writing {}", folder.display());
    let aside = folder.with_added_extension(format!("{}.part", std::process::id()));
    let written = write_files(&aside, files).and_then(|()| std::fs::rename(&aside, folder));
    if written.is_err() {
        // The incomplete folder has no use; a failure to remove it is harmless.
        let _ = std::fs::remove_dir_all(&aside);
    }
    written.context(&what)
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
