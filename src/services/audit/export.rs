//! Exports of the log in pieces: complete, for offline verification; filtered, each event with its proof; as CSV; as
//! SARIF. Memory is bounded by one piece, and no database connection is occupied between pieces.

use std::borrow::Cow;

use bytes::Bytes;
use serde_json::{Value, json};
use sqlx::PgConnection;
use sqlx::postgres::PgPool;

use super::checkpoint::{LogSigner, checkpoint_covering, signer_of};
use super::cosignatures::{newest_cosigned, with_witnesses};
use super::file::{GROUP, LeavesLine};
use super::log_names::{people_in, with_log_names};
use super::query::visible;
use super::{CheckpointLine, FrontierLine, checkpoint};
use crate::domain::audit::copied_rows::CopiedRows;
use crate::domain::audit::filter::Filter;
use crate::domain::audit::findings::Findings;
use crate::domain::audit::inclusion_batch::InclusionBatch;
use crate::domain::audit::personal::{self, PeopleMembers};
use crate::domain::audit::search::{self, EventRow, EventSearch, Order, SearchRange};
use crate::domain::audit::witness::Witnesses;
use crate::domain::audit::{EventKind, partitions, store, tree};
use crate::domain::refusal::{Error, Refusal};
use crate::platform::clock::rfc3339;
use crate::platform::fault::{Context, Fault};
use crate::platform::seal::SealingKey;
use crate::services::caller::Caller;
use crate::services::request_context::RequestContext;
use crate::services::transaction::AuditedTransaction;
use actchain_protocol::csv_export::{self, ByteOrderMark};
use actchain_protocol::merkle::{self, Hash};
use actchain_protocol::sarif::{self, Category, RunEnd};

/// Number of events per read.
const PIECE: u64 = 512;
/// Number of groups of documents per read.
const GROUPS: u64 = 4;

#[derive(Debug, Clone, Copy, PartialEq, Eq, strum::IntoStaticStr, strum::EnumString)]
#[strum(serialize_all = "snake_case")]
pub enum ExportFormat {
    /// JSON Lines that verify offline.
    Jsonl,
    Csv,
    /// SARIF 2.1.0, findings only.
    Sarif,
}

impl ExportFormat {
    pub fn parse(name: &str) -> Option<Self> {
        name.parse().ok()
    }

    /// Name of the format and file extension.
    pub fn name(self) -> &'static str {
        self.into()
    }

    pub fn media_type(self) -> &'static str {
        match self {
            Self::Jsonl => "application/jsonl",
            Self::Csv => csv_export::MEDIA_TYPE,
            Self::Sarif => sarif::MEDIA_TYPE,
        }
    }
}

#[derive(Debug, Clone)]
pub struct ExportOptions {
    pub format: ExportFormat,
    pub filter: Filter,
    /// `seq` of the first event.
    pub from: u64,
    /// Size of the checkpoint to export up to; a recent or new checkpoint where absent.
    pub size: Option<u64>,
    /// Whether a CSV file begins with a byte order mark.
    pub mark: ByteOrderMark,
    /// Whether a CSV file has the names of users and their personal data.
    pub people: PeopleMembers,
}

/// An export in progress.
#[derive(Debug)]
pub struct Export {
    pub size: u64,
    /// `seq` of the first exported event: as requested, or the first that is not archived.
    pub first: u64,
    pool: PgPool,
    format: ExportFormat,
    mark: ByteOrderMark,
    /// The last line, and before it the newest checkpoint with cosignatures of a quorum, if it is another.
    checkpoint_lines: String,
    people: PeopleMembers,
    filter: Filter,
    /// Whether the export is unfiltered and the caller can see all events.
    whole: bool,
    /// The next event to read.
    next: u64,
    phase: ExportPhase,
    inclusion_batch: InclusionBatch,
    findings: Findings,
    sarif: sarif::Writer,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ExportPhase {
    Head,
    Body,
    Done,
}

/// Begins an export. Over the API, the export is recorded as an event before the first piece; the exported range ends
/// before that event.
pub async fn begin(
    ctx: &RequestContext<'_>,
    seal: &SealingKey,
    options: ExportOptions,
) -> Result<Export, Error> {
    if options.mark == ByteOrderMark::Present && options.format != ExportFormat::Csv {
        return Err(Refusal::Malformed("A byte order mark is for CSV only").into());
    }
    // Findings name no user, and JSON Lines are the documents, which verify.
    if options.people.are_included() && options.format != ExportFormat::Csv {
        return Err(Refusal::Malformed("The names of people are for CSV only").into());
    }
    let visible = match visible(&ctx.caller, options.filter.clone())? {
        Some(filter) => Some(with_log_names(&mut *ctx.pool.acquire().await?, &filter).await?),
        None => None,
    };
    let note = match options.size {
        // An operator exports up to the present end of the log.
        None if matches!(ctx.caller, Caller::Operator) => {
            checkpoint(ctx.pool, seal, ctx.issuer, ctx.now).await?
        }
        None => {
            checkpoint_covering(ctx.pool, LogSigner { seal, issuer: ctx.issuer }, options.from, ctx.now)
                .await?
        }
        Some(size) => {
            let mut connection = ctx.pool.acquire().await?;
            let found = store::find_checkpoint(&mut connection, size).await?;
            found.ok_or(Refusal::Malformed("There is no checkpoint of this size"))?
        }
    };
    let size = note.lines().nth(1).and_then(|size| size.parse().ok());
    let size: u64 = size.ok_or_else(|| Fault::new("a checkpoint without a size"))?;
    if options.from > size {
        return Err(Refusal::Malformed("from_seq is after the end of the log").into());
    }
    let people = options.people;
    record(ctx, options.format.name(), &options.filter, ExportedRange { from: options.from, size, people })
        .await?;
    let mut connection = ctx.pool.acquire().await?;
    let first = options.from.max(partitions::first_available(&mut connection).await?).min(size);
    let whole = visible.as_ref() == Some(&Filter::default());
    let mut checkpoint_lines = checkpoint_line(&mut connection, size, note).await?;
    if whole && let Some(line) = witnessed_line(ctx, &mut connection, first..size).await? {
        checkpoint_lines = format!("{line}\n{checkpoint_lines}");
    }
    let findings = Findings::default();
    let end = RunEnd { at: rfc3339(ctx.now), properties: json!({"size": size, "from": first}) };
    Ok(Export {
        size,
        first,
        pool: ctx.pool.clone(),
        format: options.format,
        mark: options.mark,
        checkpoint_lines,
        whole,
        people: options.people,
        // A caller without visible events reads nothing.
        next: if visible.is_some() { first } else { size },
        filter: visible.unwrap_or_default(),
        phase: ExportPhase::Head,
        inclusion_batch: InclusionBatch::of(size),
        sarif: sarif::Writer::new(Category::Log, findings.rules().to_vec(), end),
        findings,
    })
}

/// What an export contains.
pub(super) struct ExportedRange {
    /// `seq` of the first event.
    pub(super) from: u64,
    pub(super) size: u64,
    pub(super) people: PeopleMembers,
}

/// Records an export over the API. One by an operator is not recorded.
pub(super) async fn record(
    ctx: &RequestContext<'_>,
    format: &str,
    filter: &Filter,
    exported: ExportedRange,
) -> Result<(), Error> {
    if matches!(ctx.caller, Caller::Operator) {
        return Ok(());
    }
    let mut work = AuditedTransaction::begin(ctx.pool).await?;
    ctx.require_active(work.connection()).await?;
    let named = with_log_names(work.connection(), filter).await?;
    let mut event = ctx.event(EventKind::AuditExported {
        format: format.to_owned(),
        filter: named.recorded(),
        from_seq: exported.from,
        size: exported.size,
        people: exported.people.are_included(),
    });
    event.subject = match &ctx.caller {
        Caller::User(user) => Some(user.who.clone()),
        _ => None,
    };
    work.commit(&[event]).await?;
    Ok(())
}

/// The line of a checkpoint, with the cosignatures of its witnesses.
async fn checkpoint_line(connection: &mut PgConnection, size: u64, note: String) -> Result<String, Fault> {
    let key = signer_of(connection, &note).await?.text();
    let checkpoint = with_witnesses(connection, size, note).await?;
    serde_json::to_string(&CheckpointLine { checkpoint, key }).context("writing an export")
}

/// The line of the newest checkpoint with cosignatures of a quorum, if its size is in the range. The checkpoint of an
/// export is often too new to be cosigned.
async fn witnessed_line(
    ctx: &RequestContext<'_>,
    connection: &mut PgConnection,
    sizes: std::ops::Range<u64>,
) -> Result<Option<String>, Fault> {
    let witnesses = Witnesses::new(&ctx.config.audit.witnesses, ctx.config.audit.witness_quorum)?;
    let size = newest_cosigned(connection, &witnesses, sizes.end).await?;
    let Some(size) = size.filter(|size| sizes.contains(size)) else { return Ok(None) };
    match store::find_checkpoint(connection, size).await? {
        Some(note) => checkpoint_line(connection, size, note).await.map(Some),
        None => Ok(None),
    }
}

/// A file that is produced in pieces.
pub trait ExportPieces: Send + 'static {
    /// The next piece; `None` after the last. A piece may be empty.
    fn next_piece(&mut self) -> impl Future<Output = Result<Option<Bytes>, Fault>> + Send;
}

impl ExportPieces for Export {
    async fn next_piece(&mut self) -> Result<Option<Bytes>, Fault> {
        Ok(self.next().await?.map(Bytes::from))
    }
}

impl Export {
    /// The next piece; `None` after the last. A piece may be empty.
    pub async fn next(&mut self) -> Result<Option<String>, Fault> {
        match self.phase {
            ExportPhase::Done => Ok(None),
            ExportPhase::Head => {
                self.phase = ExportPhase::Body;
                self.head().await.map(Some)
            }
            ExportPhase::Body if self.next >= self.size => {
                self.phase = ExportPhase::Done;
                Ok(Some(self.tail()))
            }
            ExportPhase::Body => self.body().await.map(Some),
        }
    }

    async fn head(&self) -> Result<String, Fault> {
        match self.format {
            ExportFormat::Csv => Ok(csv_export::head(self.mark)?),
            ExportFormat::Sarif => Ok(self.sarif.head()),
            ExportFormat::Jsonl if !self.whole => {
                let filter = self.filter.recorded();
                Ok(format!(
                    "{}\n",
                    json!({"extract": {"size": self.size, "from": self.first, "filter": filter}})
                ))
            }
            ExportFormat::Jsonl if self.first > 0 => {
                let mut connection = self.pool.acquire().await?;
                let frontier = tree::frontier(&mut connection, self.first).await?;
                let frontier_line =
                    serde_json::to_string(&FrontierLine::behind(&frontier)).context("writing an export")?;
                Ok(format!("{frontier_line}\n"))
            }
            ExportFormat::Jsonl => Ok(String::new()),
        }
    }

    fn tail(&self) -> String {
        match self.format {
            ExportFormat::Jsonl => format!("{}\n", self.checkpoint_lines),
            ExportFormat::Csv => String::new(),
            ExportFormat::Sarif => self.sarif.tail(),
        }
    }

    /// Reads the next piece. Fails if its events were archived during the read, so that no event is left out
    /// silently.
    async fn body(&mut self) -> Result<String, Fault> {
        let mut connection = self.pool.acquire().await?;
        let from = self.next;
        let read = self.read(&mut connection).await;
        if read.is_err() {
            // After a copy that did not begin, an answer is unread: the next user of the connection would take it for its own.
            connection.close_on_drop();
        }
        let text = read?;
        if partitions::first_available(&mut connection).await? > from {
            return Err(Fault::new("what was to come next has been archived"));
        }
        Ok(text)
    }

    async fn read(&mut self, connection: &mut PgConnection) -> Result<String, Fault> {
        if self.whole && self.format == ExportFormat::Jsonl {
            return self.documents(connection).await;
        }
        let search_range = search::search_range(connection).await?;
        let search_range =
            SearchRange { indexed: search_range.indexed.min(self.size), size: self.size, ..search_range };
        let search = EventSearch { filter: &self.filter, besides: &[], without: &[], order: Order::Oldest };
        let limit = usize::try_from(PIECE).unwrap_or(usize::MAX);
        let after = self.next.checked_sub(1);
        let page = search::page(connection, search, &search_range, after, limit).await?;
        self.next = page.next.map_or(self.size, |last| last + 1);
        let mut text = String::new();
        let people = match self.people {
            PeopleMembers::Omitted => None,
            PeopleMembers::Included => {
                Some(people_in(connection, page.found.iter().map(|one| &one.event)).await?)
            }
        };
        for found in &page.found {
            match self.format {
                ExportFormat::Csv => {
                    let event = match &people {
                        None => Cow::Borrowed(&found.event),
                        Some(people) => {
                            Cow::Owned(personal::resolved(&found.event, found.personal.as_deref(), people))
                        }
                    };
                    text.push_str(&csv_export::row(&event)?);
                }
                ExportFormat::Jsonl => {
                    let proof = self.inclusion_batch.prove(connection, found.seq).await?;
                    text.push_str(&proven(found, &proof));
                }
                ExportFormat::Sarif => {
                    if let Some(finding) = self.findings.of(&found.event) {
                        text.push_str(&self.sarif.result(&finding));
                    }
                }
            }
        }
        Ok(text)
    }
}

impl Export {
    /// The next documents in groups, each followed by the leaves of its group, including leaves of documents before them,
    /// because an interrupted file may lack those.
    async fn documents(&mut self, connection: &mut PgConnection) -> Result<String, Fault> {
        let first = self.next / GROUP * GROUP;
        let end = self.size.min(first + GROUPS * GROUP);
        let copied = CopiedRows::documents(connection, first..end).await?;
        let stored = tree::leaves_as_stored(connection, first, end).await?;
        let rows = copied.iter().collect::<Result<Vec<_>, _>>()?;
        let mut text = String::with_capacity(rows.iter().map(|row| row.document.len() + 64).sum());
        for group in rows.chunk_by(|one, other| one.seq / GROUP == other.seq / GROUP) {
            let Some(start) = group.first().map(|row| row.seq) else { continue };
            let past = end.min((start / GROUP + 1) * GROUP);
            let place = |seq: u64| stored.len().min(usize::try_from(seq - first).unwrap_or(usize::MAX));
            let mut leaves = stored.get(place(start)..place(past)).unwrap_or_default().to_vec();
            leaves.extend(group.iter().skip(leaves.len()).map(|row| merkle::leaf(row.document)));
            for row in group.iter().filter(|row| row.seq >= self.next) {
                text.push_str(std::str::from_utf8(row.document).context("writing an export")?);
                text.push('\n');
            }
            text += &serde_json::to_string(&LeavesLine::of(&leaves, past)).context("writing an export")?;
            text.push('\n');
        }
        self.next = end;
        Ok(text)
    }
}

/// A document as recorded, with its inclusion proof.
pub(super) fn proven(found: &EventRow, proof: &[Hash]) -> String {
    format!("{{\"event\":{},\"proof\":{}}}\n", found.document, in_base64(proof))
}

fn in_base64(hashes: &[Hash]) -> Value {
    use base64::Engine as _;
    let encoded = |hash: &Hash| base64::engine::general_purpose::STANDARD.encode(hash);
    hashes.iter().map(encoded).collect::<Vec<_>>().into()
}
