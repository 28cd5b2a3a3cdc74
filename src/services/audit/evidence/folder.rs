//! `actchain audit evidence`: evidence about a user in a period, written as a folder.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use serde::Serialize;
use sqlx::PgConnection;
use time::OffsetDateTime;

use super::collect::EventCollector;
use super::package::{ProvenEvents, name_of};
use crate::domain::audit::evidence::delegation_ids;
use crate::domain::audit::evidence_header::{EvidenceHeader, EvidenceQuestion, FORMAT};
use crate::domain::audit::filter::Filter;
use crate::domain::audit::search::{self, EventRow, SearchRange};
use crate::domain::person::{self, Person};
use crate::domain::principal::Principal;
use crate::platform::clock::rfc3339;
use crate::platform::fault::{Context, Fault};
use crate::platform::private_file;
use crate::platform::seal::SealingKey;
use crate::services::audit::checkpoint;
use crate::services::audit::checkpoint::size_of;
use crate::services::request_context::RequestContext;

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
    let person = find_person(&mut connection, options).await?;
    let mut events = EventCollector {
        connection: &mut connection,
        search_range: &search_range,
        visible: Filter::default(),
        max: MAX_EVENTS,
        found: BTreeMap::new(),
    };
    collect(&mut events, options, person.as_ref()).await?;
    if events.is_full() {
        return Err(Fault::new("more than 100000 events: narrow it down with --from, --to or --client"));
    }
    let found = events.into_events();
    let subject = match &person {
        Some(person) => person.who.clone(),
        None => client_subject(&found, options)?,
    };
    let (from, to) = (rfc3339(options.from), rfc3339(options.to));
    let about = EvidenceHeader {
        format: FORMAT,
        actchain: env!("CARGO_PKG_VERSION").to_owned(),
        question: EvidenceQuestion::Period { client: options.client.clone(), from, to },
        subject: Some(subject),
        named: person.as_ref().map(name_of),
        first: search_range.first_available,
        size,
    };
    let written = Written {
        events: found.len(),
        chains: txns(found.iter()).len(),
        delegations: delegation_ids(found.iter()).len(),
        size,
        first: search_range.first_available,
        folder: folder.to_owned(),
    };
    write(folder, &ProvenEvents::read(&mut connection, about, found, note).await?.files()?)?;
    Ok(written)
}

/// The user, if the log knows one. Users of different issuers with the same `sub` are different users.
async fn find_person(
    connection: &mut PgConnection,
    options: &EvidenceOptions,
) -> Result<Option<Person>, Fault> {
    let issuer = options.issuer.as_deref();
    let mut found = person::store::find_by_sub(connection, issuer, &options.subject).await?;
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

/// Collects the events about the subject in the period, all events of their chains, and all events of the delegations
/// in those chains.
async fn collect(
    events: &mut EventCollector<'_>,
    options: &EvidenceOptions,
    person: Option<&Person>,
) -> Result<(), Fault> {
    let about_subject = Filter {
        subject_sub: Some(options.subject.clone()),
        subject_names: person.iter().map(|person| person.pseudonym.clone()).collect(),
        subject_iss: options.issuer.clone(),
        actor: options.client.clone(),
        from: Some(options.from),
        to: Some(options.to),
        ..Filter::default()
    };
    events.add(&about_subject, |_| true).await?;
    let txns = txns(events.found.values());
    for txn in txns {
        events.add(&Filter { txn: Some(txn), ..Filter::default() }, |_| true).await?;
    }
    events.add_delegations().await
}

fn txns<'a>(events: impl Iterator<Item = &'a EventRow>) -> BTreeSet<String> {
    events.filter_map(|one| Some(one.event.get("txn")?.as_str()?.to_owned())).collect()
}

/// The subject of the events, a client.
fn client_subject(events: &[EventRow], options: &EvidenceOptions) -> Result<Principal, Fault> {
    let issuer = |one: &EventRow| Some(one.event.pointer("/subject/iss")?.as_str()?.to_owned());
    match events.iter().find_map(issuer).as_ref().or(options.issuer.as_ref()) {
        Some(iss) => Ok(Principal::new(iss, &options.subject)),
        None => Err(Fault::new(format!(
            "the log has no event about {} in that time; name its issuer with --issuer for evidence of that",
            options.subject
        ))),
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
