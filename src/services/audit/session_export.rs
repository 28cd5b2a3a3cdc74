//! A session as a file, in pieces: JSON, CSV and SARIF. Memory is bounded by one piece, and no database connection is occupied
//! between pieces.

use bytes::Bytes;
use serde_json::{Value, json};
use sqlx::postgres::PgPool;

use super::export::{self, ExportPieces, ExportedRange};
use super::session_sarif::{self, RunRules};
use super::sessions::{SessionReader, SessionSummary, of_session};
use super::trace_keys;
use crate::domain::audit::filter::Filter;
use crate::domain::audit::personal::PeopleMembers;
use crate::domain::audit::search::{self, EventSearch, Order, SearchRange};
use crate::domain::audit::trace::{TraceBuilder, TraceItem};
use crate::domain::audit::{Actor, partitions};
use crate::domain::refusal::{Error, Refusal};
use crate::platform::clock::rfc3339;
use crate::platform::fault::{Context, Fault};
use crate::services::request_context::RequestContext;
use actchain_protocol::csv_export::{self, ByteOrderMark, Cell};
use actchain_protocol::sarif::{self, Category, RunEnd};

/// Number of items per read.
const PIECE: usize = 512;

/// The columns of a session in CSV. `seq`, `depth`, `took_us`, `gap_ms`, `took_ms`, `plan_step` and `earlier_seq` are numbers, all others are text.
const COLUMNS: [&str; 30] = [
    "seq",
    "id",
    "at",
    "kind",
    "action",
    "outcome",
    "reason",
    "actor_type",
    "actor_client_id",
    "actor_jkt",
    "actor_iss",
    "actor_sub",
    "depth",
    "txn",
    "delegation_id",
    "target",
    "scope",
    "audience",
    "jti",
    "parent_jti",
    "took_us",
    "gap_ms",
    "tool",
    "step_outcome",
    "took_ms",
    "plan_step",
    "tool_use_id",
    "findings",
    "earlier_seq",
    "earlier_jkt",
];

#[derive(Debug, Clone, Copy, PartialEq, Eq, strum::IntoStaticStr, strum::EnumString)]
#[strum(serialize_all = "snake_case")]
pub enum SessionFormat {
    /// The session and all items as one document.
    Json,
    /// One row for each item, after lines about the session.
    Csv,
    /// SARIF 2.1.0: the findings.
    Sarif,
}

impl SessionFormat {
    pub const ALL: [Self; 3] = [Self::Csv, Self::Json, Self::Sarif];

    pub fn parse(name: &str) -> Option<Self> {
        name.parse().ok()
    }

    /// Name of the format and file extension.
    pub fn name(self) -> &'static str {
        self.into()
    }

    pub fn media_type(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            Self::Csv => csv_export::MEDIA_TYPE,
            Self::Sarif => sarif::MEDIA_TYPE,
        }
    }
}

#[derive(Debug, Clone, Copy)]
pub struct SessionExportOptions {
    pub format: SessionFormat,
    /// Whether a CSV file begins with a byte order mark.
    pub mark: ByteOrderMark,
}

/// An export in progress. Its persons are pseudonyms, so that an erasure reaches the file.
#[derive(Debug)]
pub struct SessionExport {
    pub session: SessionSummary,
    /// Size of the log that is exported.
    pub size: u64,
    pool: PgPool,
    options: SessionExportOptions,
    filter: Filter,
    first_available: u64,
    builder: TraceBuilder,
    phase: SessionPhase,
    /// Members about the export itself.
    about: Value,
    sarif: sarif::Writer,
    /// Rules that the document describes where they found something.
    rules: Vec<sarif::Rule>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum SessionPhase {
    Head,
    /// Continues after the event with this `seq`.
    Body(Option<u64>),
    Tail,
    Done,
}

/// Begins an export. Over the API, the export is recorded as an event before the first piece.
pub async fn begin(
    ctx: &RequestContext<'_>,
    id: &str,
    options: SessionExportOptions,
) -> Result<SessionExport, Error> {
    if options.mark == ByteOrderMark::Present && options.format != SessionFormat::Csv {
        return Err(Refusal::Malformed("A byte order mark is for CSV only").into());
    }
    let filter = of_session(id)?;
    let mut connection = ctx.pool.acquire().await?;
    let reader = SessionReader::of(ctx, &mut connection, filter.clone()).await?.ok_or(Refusal::NotFound)?;
    let search_range = search::search_range(&mut connection).await?;
    let session = reader.summary(&mut connection, &search_range, id).await?;
    let rules = match options.format {
        SessionFormat::Sarif => session_sarif::rules(ctx, &mut connection).await?,
        SessionFormat::Json | SessionFormat::Csv => RunRules::default(),
    };
    drop(connection);
    let SearchRange { size, first_available, .. } = search_range;
    let exported = ExportedRange { from: first_available, size, people: PeopleMembers::Omitted };
    export::record(ctx, options.format.name(), &filter, exported).await?;
    let at = rfc3339(ctx.now);
    let about = json!({"issuer": ctx.issuer, "at": at, "size": size});
    let properties = json!({"export": about, "session": session});
    Ok(SessionExport {
        sarif: sarif::Writer::new(Category::Session, rules.listed, RunEnd { at, properties }),
        session,
        size,
        pool: ctx.pool.clone(),
        options,
        rules: rules.others,
        filter: reader.filter,
        first_available,
        builder: TraceBuilder::default(),
        phase: SessionPhase::Head,
        about,
    })
}

impl ExportPieces for SessionExport {
    async fn next_piece(&mut self) -> Result<Option<Bytes>, Fault> {
        Ok(self.next().await?.map(Bytes::from))
    }
}

impl SessionExport {
    /// The next piece; `None` after the last. A piece may be empty.
    pub async fn next(&mut self) -> Result<Option<String>, Fault> {
        match self.phase {
            SessionPhase::Done => Ok(None),
            SessionPhase::Head => {
                self.phase = SessionPhase::Body(None);
                self.head().map(Some)
            }
            SessionPhase::Body(after) => self.body(after).await.map(Some),
            SessionPhase::Tail => {
                self.phase = SessionPhase::Done;
                Ok(Some(self.tail()))
            }
        }
    }

    fn head(&self) -> Result<String, Fault> {
        match self.options.format {
            SessionFormat::Json => {
                let session = serde_json::to_string(&self.session).context("writing a session")?;
                Ok(format!("{{\"export\":{},\"session\":{session},\"items\":[", self.about))
            }
            SessionFormat::Csv => self.csv_head(),
            SessionFormat::Sarif => Ok(self.sarif.head()),
        }
    }

    fn csv_head(&self) -> Result<String, Fault> {
        let session = &self.session;
        let text = |name: &str| self.about.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
        let counts = &session.counts;
        let subjects: Vec<String> =
            session.subjects.iter().map(|who| format!("{} {}", who.iss, who.sub)).collect();
        let mut head = self.options.mark.text().to_owned();
        for (name, value) in [
            ("session", session.id.clone()),
            ("issuer", text("issuer")),
            ("exported_at", text("at")),
            ("log_size", self.size.to_string()),
            ("subjects", subjects.join(" ")),
            ("client_ids", session.client_ids.join(" ")),
            ("first_at", session.first_at.clone()),
            ("last_at", session.last_at.clone()),
            ("events", counts.events.to_string()),
            ("exchanges", counts.exchanges.to_string()),
            ("retrievals", counts.retrievals.to_string()),
            ("refusals", counts.refusals.to_string()),
            ("steps", counts.steps.to_string()),
            ("findings", counts.findings.to_string()),
            ("delegations", session.delegations.to_string()),
            ("complete", session.complete.to_string()),
        ] {
            head.push_str(&csv_export::metadata(name, &value, COLUMNS.len())?);
        }
        head.push_str(&csv_export::record(COLUMNS.map(Cell::from))?);
        Ok(head)
    }

    fn tail(&self) -> String {
        match self.options.format {
            SessionFormat::Json => "\n]}\n".to_owned(),
            SessionFormat::Csv => String::new(),
            SessionFormat::Sarif => self.sarif.tail(),
        }
    }

    /// Fails if events were archived meanwhile, so that no event is left out silently.
    async fn body(&mut self, after: Option<u64>) -> Result<String, Fault> {
        let mut connection = self.pool.acquire().await?;
        let present = search::search_range(&mut connection).await?;
        let search_range =
            SearchRange { indexed: present.indexed.min(self.size), size: self.size, ..present };
        let search = EventSearch { filter: &self.filter, besides: &[], without: &[], order: Order::Oldest };
        let page = search::page(&mut connection, search, &search_range, after, PIECE).await?;
        if partitions::first_available(&mut connection).await? > self.first_available {
            return Err(Fault::new("events were archived during the export of a session"));
        }
        let mut text = String::new();
        // The first item of all has no gap before it.
        let mut is_first = self.builder.is_new();
        let mut items = page.found.iter().map(|row| self.builder.item(row)).collect::<Result<Vec<_>, _>>()?;
        trace_keys::remove_confirmed(&mut connection, &search_range, &page.found, &mut items).await?;
        for (row, item) in page.found.iter().zip(items) {
            match self.options.format {
                SessionFormat::Json => {
                    text.push_str(if std::mem::take(&mut is_first) { "\n" } else { ",\n" });
                    text.push_str(&serde_json::to_string(&item).context("writing a session")?);
                }
                SessionFormat::Csv => text.push_str(&csv_export::record(cells(item))?),
                SessionFormat::Sarif => {
                    if let Some(earlier) = &item.earlier_key {
                        text.push_str(&session_sarif::key_drift(&mut self.sarif, &row.event, earlier));
                    }
                    for finding in &item.findings {
                        text.push_str(&session_sarif::result(
                            &mut self.sarif,
                            &self.rules,
                            &row.event,
                            finding,
                        ));
                    }
                }
            }
        }
        self.phase = page.next.map_or(SessionPhase::Tail, |seq| SessionPhase::Body(Some(seq)));
        Ok(text)
    }
}

/// The cells of [`COLUMNS`].
fn cells(item: TraceItem) -> [Cell; COLUMNS.len()] {
    let number = |number: Option<i64>| number.map_or_else(|| Cell::from(""), Cell::Number);
    let text = |text: Option<String>| Cell::from(text.unwrap_or_default());
    let [kind, client_id, jkt, iss, sub] = match item.actor {
        Actor::Client { client_id, jkt } => {
            ["client".to_owned(), client_id, jkt.unwrap_or_default(), String::new(), String::new()]
        }
        Actor::User(who) => ["user".to_owned(), String::new(), String::new(), who.iss, who.sub],
        Actor::Operator => ["operator", "", "", "", ""].map(str::to_owned),
        Actor::Server => ["server", "", "", "", ""].map(str::to_owned),
        Actor::Witness { name } => ["witness".to_owned(), name, String::new(), String::new(), String::new()],
    };
    let step = item.step;
    let tool = step.as_ref().map(|step| step.tool.clone());
    let outcome = step.as_ref().map(|step| <&str>::from(step.outcome).to_owned());
    let took = step.as_ref().and_then(|step| i64::try_from(step.took_ms?).ok());
    let plan_step = step.as_ref().and_then(|step| step.plan_step).map(i64::from);
    let tool_use_id = step.and_then(|step| step.tool_use_id);
    let rules: Vec<String> = item.findings.into_iter().map(|finding| finding.rule).collect();
    [
        number(i64::try_from(item.seq).ok()),
        item.id.into(),
        item.at.into(),
        item.kind.name().into(),
        item.action.into(),
        item.outcome.into(),
        text(item.reason),
        kind.into(),
        client_id.into(),
        jkt.into(),
        iss.into(),
        sub.into(),
        number(i64::try_from(item.depth).ok()),
        text(item.txn),
        text(item.delegation_id),
        text(item.target),
        text(item.scope),
        item.audience.join(" ").into(),
        text(item.jti),
        text(item.parent_jti),
        number(item.took_us.and_then(|micros| i64::try_from(micros).ok())),
        number(item.gap_ms),
        text(tool),
        text(outcome),
        number(took),
        number(plan_step),
        text(tool_use_id),
        rules.join(" ").into(),
        number(item.earlier_key.as_ref().and_then(|key| i64::try_from(key.seq).ok())),
        text(item.earlier_key.and_then(|key| key.jkt)),
    ]
}
