//! Evidence about one chain or one event, as one file to download.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde_json::Value;
use sqlx::PgConnection;
use tokio::sync::{Semaphore, SemaphorePermit};

use super::collect::EventCollector;
use super::package::{ProvenEvents, name_of};
use crate::domain::audit::evidence_header::{EvidenceHeader, EvidenceQuestion, FORMAT, SubjectName};
use crate::domain::audit::filter::Filter;
use crate::domain::audit::personal::PeopleMembers;
use crate::domain::audit::search::{self, EventRow, SearchRange};
use crate::domain::audit::store;
use crate::domain::audit::witness::Witnesses;
use crate::domain::person;
use crate::domain::principal::Principal;
use crate::domain::refusal::{Error, Refusal};
use crate::platform::clock;
use crate::platform::fault::{Context, Fault};
use crate::platform::tar_gz::tar_gz;
use crate::services::audit::checkpoint::{LogSigner, checkpoint_covering, log_keys, size_of};
use crate::services::audit::cosignatures::{newest_cosigned, with_witnesses};
use crate::services::audit::export::{self, ExportPieces, ExportedRange};
use crate::services::audit::log_names::with_log_names;
use crate::services::audit::{chains, origin, query};
use crate::services::request_context::RequestContext;
use actchain_protocol::pseudonym::is_pseudonym;
use actchain_protocol::signed_note;

/// Maximum number of events in one file, those of delegations included.
const MAX_EVENTS: usize = 10_000;
/// Size of the pieces in which a file is sent, in bytes.
const PIECE: usize = 1 << 16;
/// How many files one process makes at a time: each is in memory as a whole.
static PERMITS: Semaphore = Semaphore::const_new(2);

/// A folder with evidence in a tar file, compressed with gzip.
#[derive(Debug)]
pub struct EvidenceArchive {
    pub file_name: String,
    bytes: Bytes,
}

impl ExportPieces for EvidenceArchive {
    fn next_piece(&mut self) -> impl Future<Output = Result<Option<Bytes>, Fault>> + Send {
        let piece = self.bytes.split_to(self.bytes.len().min(PIECE));
        std::future::ready(Ok((!piece.is_empty()).then_some(piece)))
    }
}

/// Evidence about a chain. The download is recorded as an event.
///
/// # Errors
/// Refuses a chain that the caller cannot see, that has more than 10,000 events, or whose first events are archived.
pub async fn of_chain(
    ctx: &RequestContext<'_>,
    signer: LogSigner<'_>,
    txn: &str,
) -> Result<EvidenceArchive, Error> {
    let permit = PERMITS.acquire().await.context("waiting for other evidence")?;
    let mut connection = ctx.pool.acquire().await?;
    let visible = query::visible(&ctx.caller, Filter::default())?.ok_or(Refusal::NotFound)?;
    let visible = with_log_names(&mut connection, &visible).await?;
    let search_range = search::search_range(&mut connection).await?;
    let events = chains::VisibleEvents { caller: &ctx.caller, filter: &visible, search_range: &search_range };
    let chain = chains::visible_chain(&mut connection, &events, txn).await?;
    if u64::try_from(chain.found.len()) != Ok(chain.total) {
        return Err(TOO_LARGE.into());
    }
    if search_range.first_available > 0 && begins_earlier(&chain.found, ctx.issuer) {
        return Err(Refusal::EventsArchived.into());
    }
    let first = chain.found.first().ok_or(Refusal::NotFound)?;
    let day = first.event.get("at").and_then(Value::as_str).and_then(clock::instant);
    let day = day.ok_or(Refusal::NotFound)?.date();
    let asked = EvidenceRequest {
        name: format!("evidence-chain-{day}-{}", first.seq),
        question: EvidenceQuestion::Chain { txn: txn.to_owned() },
        filter: Filter { txn: Some(txn.to_owned()), ..Filter::default() },
    };
    let found = with_delegations(&mut connection, &search_range, visible, chain.found).await?;
    drop(connection);
    make(ctx, signer, asked, SearchedEvents { found, search_range, permit }).await
}

/// Evidence about an event, by its id or `seq`. The download is recorded as an event.
///
/// # Errors
/// Refuses an event that the caller cannot see, or that is archived.
pub async fn of_event(
    ctx: &RequestContext<'_>,
    signer: LogSigner<'_>,
    name: &str,
) -> Result<EvidenceArchive, Error> {
    let permit = PERMITS.acquire().await.context("waiting for other evidence")?;
    let mut connection = ctx.pool.acquire().await?;
    let found = query::event(ctx, &mut connection, name).await?;
    let visible = query::visible(&ctx.caller, Filter::default())?.ok_or(Refusal::NotFound)?;
    let visible = with_log_names(&mut connection, &visible).await?;
    let search_range = search::search_range(&mut connection).await?;
    let id = found.event.get("id").and_then(Value::as_str).map(str::to_owned);
    let asked = EvidenceRequest {
        name: format!("evidence-event-{}", found.seq),
        question: EvidenceQuestion::Event { seq: found.seq },
        filter: Filter { id, ..Filter::default() },
    };
    let found = with_delegations(&mut connection, &search_range, visible, vec![found]).await?;
    drop(connection);
    make(ctx, signer, asked, SearchedEvents { found, search_range, permit }).await
}

/// Events, and what is recorded of the delegations on their paths, as far as the caller may see it.
///
/// # Errors
/// Refuses more than 10,000 events.
async fn with_delegations(
    connection: &mut PgConnection,
    search_range: &SearchRange,
    visible: Filter,
    found: Vec<EventRow>,
) -> Result<Vec<EventRow>, Error> {
    let found: BTreeMap<u64, EventRow> = found.into_iter().map(|one| (one.seq, one)).collect();
    let mut events = EventCollector { connection, search_range, visible, max: MAX_EVENTS, found };
    events.add_delegations().await?;
    match events.is_full() {
        true => Err(TOO_LARGE.into()),
        false => Ok(events.into_events()),
    }
}

const TOO_LARGE: Refusal = Refusal::Malformed(
    "The evidence would have more than 10000 events: an operator can export them with actchain audit export",
);

/// What was requested, and the name of the folder.
struct EvidenceRequest {
    name: String,
    question: EvidenceQuestion,
    /// As the event of the download records the request.
    filter: Filter,
}

struct SearchedEvents {
    found: Vec<EventRow>,
    search_range: SearchRange,
    permit: SemaphorePermit<'static>,
}

async fn make(
    ctx: &RequestContext<'_>,
    signer: LogSigner<'_>,
    asked: EvidenceRequest,
    SearchedEvents { found, search_range, permit }: SearchedEvents,
) -> Result<EvidenceArchive, Error> {
    let (first, last) = found.first().zip(found.last()).ok_or(Refusal::NotFound)?;
    let note = vouching_checkpoint(ctx, signer, last.seq + 1).await?;
    let size = size_of(&note).ok_or_else(|| Fault::new("a checkpoint without a size"))?;
    let subject = subject_of(&mut *ctx.pool.acquire().await?, &found).await?;
    let people = match subject.named {
        Some(_) => PeopleMembers::Included,
        None => PeopleMembers::Omitted,
    };
    export::record(ctx, "evidence", &asked.filter, ExportedRange { from: first.seq, size, people }).await?;
    let about = EvidenceHeader {
        format: FORMAT,
        actchain: env!("CARGO_PKG_VERSION").to_owned(),
        question: asked.question,
        subject: subject.who,
        named: subject.named,
        first: search_range.first_available,
        size,
    };
    let proven = ProvenEvents::read(&mut *ctx.pool.acquire().await?, about, found, note).await?;
    let (folder, now) = (asked.name, ctx.now);
    let file_name = format!("{folder}.tar.gz");
    let made = tokio::task::spawn_blocking(move || {
        // Also where the reader is not there any more.
        let _permit = permit;
        tar_gz(&folder, &proven.files()?, now)
    });
    let bytes = made.await.context("writing evidence")??.into();
    Ok(EvidenceArchive { file_name, bytes })
}

/// The newest checkpoint that a quorum of witnesses has cosigned, if it covers the events and today's key of the log has
/// signed it; else a recent or new one.
async fn vouching_checkpoint(
    ctx: &RequestContext<'_>,
    signer: LogSigner<'_>,
    least: u64,
) -> Result<String, Fault> {
    let witnesses = Witnesses::new(&ctx.config.audit.witnesses, ctx.config.audit.witness_quorum)?;
    let mut connection = ctx.pool.acquire().await?;
    let size = newest_cosigned(&mut connection, &witnesses, u64::MAX).await?;
    if let Some(size) = size.filter(|size| *size >= least)
        && let Some(note) = store::find_checkpoint(&mut connection, size).await?
    {
        let today = log_keys(&mut connection, &origin(ctx.issuer)).await?.into_iter().next();
        let cosigned = with_witnesses(&mut connection, size, note.clone()).await?;
        // The rows of cosignatures alone vouch for nothing.
        if signed_note::open(&note, today.as_slice()).is_some()
            && witnesses.cosigned_size(&cosigned).is_some()
        {
            return Ok(note);
        }
    }
    drop(connection);
    checkpoint_covering(ctx.pool, signer, least, ctx.now).await
}

/// The subject of events, and how the log names it.
#[derive(Default)]
struct RecordedSubject {
    who: Option<Principal>,
    named: Option<SubjectName>,
}

async fn subject_of(connection: &mut PgConnection, found: &[EventRow]) -> Result<RecordedSubject, Fault> {
    let text = |one: &EventRow, at: &str| Some(one.event.pointer(at)?.as_str()?.to_owned());
    let recorded = found.iter().find_map(|one| text(one, "/subject/iss").zip(text(one, "/subject/sub")));
    let Some((iss, sub)) = recorded else { return Ok(RecordedSubject::default()) };
    if !is_pseudonym(&sub) {
        return Ok(RecordedSubject { who: Some(Principal::new(iss, sub)), named: None });
    }
    // The row of an erased person does not exist, and that of another person proves nothing.
    let person = person::store::find_all(connection, &[sub]).await?.pop().filter(person::Person::is_proven);
    let named = person.as_ref().map(name_of);
    Ok(RecordedSubject { who: person.map(|person| person.who), named })
}

/// Whether an event of the chain has used a token of this server whose issue is not among the events.
fn begins_earlier(found: &[EventRow], issuer: &str) -> bool {
    let text = |one: &EventRow, name: &str| one.event.get(name).and_then(Value::as_str).map(str::to_owned);
    let is_own = |value: Option<&Value>| value.and_then(|who| who.get("iss")?.as_str()) == Some(issuer);
    // A refresh token is named by the exchange that answered it.
    let refresh_token = |one: &EventRow| {
        one.event.pointer("/detail/refresh_token").and_then(Value::as_str).map(str::to_owned)
    };
    let issued: Vec<String> =
        found.iter().flat_map(|one| text(one, "jti").into_iter().chain(refresh_token(one))).collect();
    found.iter().filter(|one| text(one, "outcome").as_deref() == Some("success")).any(|one| {
        let links =
            one.event.get("act_chain").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        // The last actor of an issued token is new in it. Tokens of trusted issuers name no actor of this server.
        let earlier = links.len().saturating_sub(usize::from(text(one, "jti").is_some()));
        let used_own =
            is_own(one.event.get("subject")) || links.iter().take(earlier).any(|link| is_own(Some(link)));
        used_own && text(one, "parent_jti").is_some_and(|jti| !issued.contains(&jti))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn event(seq: u64, members: Value) -> EventRow {
        let mut event = json!({"outcome": "success", "act_chain": [{"iss": "here", "sub": "a"}, {"iss": "here", "sub": "b"}]});
        event.as_object_mut().unwrap().extend(members.as_object().unwrap().clone());
        EventRow { seq, document: event.to_string(), event, personal: None }
    }

    #[test]
    fn a_chain_begins_with_the_exchange_that_answered_its_refresh_token() {
        let exchanged = event(1, json!({"jti": "t1", "detail": {"refresh_token": "r1"}}));
        let refreshed = event(2, json!({"jti": "t2", "parent_jti": "r1"}));
        assert!(!begins_earlier(&[exchanged, refreshed.clone()], "here"));
        assert!(begins_earlier(&[refreshed], "here"));
    }
}
