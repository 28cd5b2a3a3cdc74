//! `actchain session list|show|trace|export`: sessions as `/api/v1/sessions` returns them.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::ArgAction::SetTrue;
use serde_json::Value;

use super::arguments::instant;
use super::context::{self, Opening};
use super::output::{OutputFormat, print_json, print_refusal, text, to_value};
use super::stdio;
use crate::domain::audit::filter::Filter;
use crate::domain::refusal::Error;
use crate::platform::fault::{Context, Fault};
use crate::platform::private_file;
use crate::services::audit::session_export::{self, SessionExportOptions, SessionFormat};
use crate::services::audit::sessions::{self, SessionQuery, TraceQuery};
use actchain_protocol::csv_export::ByteOrderMark;

/// How much of a reasoning a line of a trace shows, in characters.
const MAX_REASONING: usize = 200;

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// List a page of sessions, newest first
    List(List),
    /// Show a session in numbers
    Show {
        id: String,
        #[arg(long = "json", action = SetTrue)]
        format: OutputFormat,
    },
    /// Print a page of the events of a session, oldest first
    Trace(Trace),
    /// Write a session to a file: JSON, CSV or SARIF
    Export(ExportSession),
}

#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  actchain session list --subject alice --from 2026-11-01 --has-refusals")]
pub(super) struct List {
    /// Only sessions with an event whose request this client sent
    #[arg(long, value_name = "ID")]
    client: Option<String>,
    /// Only sessions with an event about this subject
    #[arg(long, value_name = "SUB")]
    subject: Option<String>,
    /// The issuer of the subject
    #[arg(long, value_name = "URL")]
    issuer: Option<String>,
    /// Only sessions with an event of this delegation or of a descendant
    #[arg(long, value_name = "ID")]
    delegation: Option<String>,
    /// Only sessions with an event at or after this instant (RFC 3339) or date
    #[arg(long, value_name = "TIME")]
    from: Option<String>,
    /// Only sessions with an event before this instant or date
    #[arg(long, value_name = "TIME")]
    to: Option<String>,
    /// Only sessions with a refusal; one event must have all that is named here
    #[arg(long)]
    has_refusals: bool,
    /// Only sessions with a finding
    #[arg(long)]
    has_findings: bool,
    /// Only sessions with a finding of this rule
    #[arg(long, value_name = "ID")]
    rule: Option<String>,
    /// How many sessions to list, 1 to 100; 20 if absent
    #[arg(long)]
    limit: Option<usize>,
    /// The cursor that the previous page printed
    #[arg(long)]
    cursor: Option<String>,
    #[arg(long = "json", action = SetTrue)]
    format: OutputFormat,
}

#[derive(Debug, clap::Args)]
pub(super) struct Trace {
    id: String,
    /// How many items to print, 1 to 200; 200 if absent
    #[arg(long)]
    limit: Option<usize>,
    /// The cursor that the previous page printed
    #[arg(long)]
    cursor: Option<String>,
    #[arg(long = "json", action = SetTrue)]
    format: OutputFormat,
}

#[derive(Debug, clap::Args)]
pub(super) struct ExportSession {
    id: String,
    /// The format of the file: json, csv or sarif
    #[arg(long, default_value = "json", value_parser = file_format)]
    format: SessionFormat,
    /// Begin a CSV file with a byte order mark, so that Excel reads it as UTF-8
    #[arg(long)]
    bom: bool,
    /// The file to write; standard output if absent
    #[arg(short, long)]
    out: Option<PathBuf>,
}

fn file_format(name: &str) -> Result<SessionFormat, String> {
    SessionFormat::parse(name).ok_or_else(|| "a format is json, csv or sarif".to_owned())
}

pub(super) async fn run(config: Opening, command: Command) -> Result<ExitCode, Fault> {
    match command {
        Command::List(args) => list(config, args).await,
        Command::Show { id, format } => {
            let shown =
                context::as_operator(config, async |ctx, _| Ok(sessions::show(ctx, &id).await)).await?;
            print(shown.map(|session| to_value(&session)), format, |session| {
                print_session(session, session.get("people"));
            })
        }
        Command::Trace(args) => {
            let query = TraceQuery { limit: args.limit, cursor: args.cursor };
            let page =
                context::as_operator(config, async |ctx, _| Ok(sessions::trace(ctx, &args.id, &query).await))
                    .await?;
            print(page.map(|page| to_value(&page)), args.format, print_trace)
        }
        Command::Export(args) => export(config, args).await,
    }
}

fn print(
    found: Result<Result<Value, Fault>, Error>,
    format: OutputFormat,
    as_text: impl FnOnce(&Value),
) -> Result<ExitCode, Fault> {
    let body = match found {
        Ok(body) => body?,
        Err(error) => return print_refusal(error),
    };
    match format {
        OutputFormat::Json => print_json(&body)?,
        OutputFormat::Text => as_text(&body),
    }
    Ok(ExitCode::SUCCESS)
}

fn filter(args: &List) -> Result<Filter, Fault> {
    let mut filter = Filter::default();
    let refused = args.has_refusals.then(|| "refused".to_owned());
    let flagged = args.has_findings.then(|| "true".to_owned());
    for (name, value) in [
        ("client_id", &args.client),
        ("subject_sub", &args.subject),
        ("subject_iss", &args.issuer),
        ("delegation_id", &args.delegation),
        ("outcome", &refused),
        ("has_findings", &flagged),
        ("rule", &args.rule),
    ] {
        if let Some(value) = value {
            filter.set(name, value).map_err(|refusal| Fault::new(refusal.sentence()))?;
        }
    }
    filter.from = args.from.as_deref().map(instant).transpose()?;
    filter.to = args.to.as_deref().map(instant).transpose()?;
    Ok(filter)
}

async fn list(config: Opening, args: List) -> Result<ExitCode, Fault> {
    let query = SessionQuery { filter: filter(&args)?, limit: args.limit, cursor: args.cursor };
    let page = context::as_operator(config, async |ctx, _| Ok(sessions::list(ctx, &query).await)).await?;
    print(page.map(|page| to_value(&page)), args.format, print_page)
}

fn print_page(page: &Value) {
    let sessions = page.get("items").and_then(Value::as_array);
    let is_last = page.get("next").is_none_or(Value::is_null);
    if is_last && sessions.is_none_or(Vec::is_empty) {
        println!("no sessions");
    }
    for session in sessions.into_iter().flatten() {
        print_session(session, page.get("people"));
    }
    print_next(page);
}

fn print_next(page: &Value) {
    if let Some(next) = page.get("next").and_then(Value::as_str) {
        println!("more: --cursor {next}");
    }
}

/// Prints one line about a session. Users are shown by name, unless they were erased. Names can be any text of an issuer.
fn print_session(session: &Value, people: Option<&Value>) {
    let list = |name: &str| session.get(name).and_then(Value::as_array).into_iter().flatten();
    let person = |name: &str| people.and_then(|people| people.get(name)?.get("sub")?.as_str());
    let subjects: Vec<String> = list("subjects")
        .map(|who| text(who, "/sub"))
        .map(|sub| person(sub).unwrap_or(sub).escape_debug().to_string())
        .collect();
    let clients: Vec<&str> = list("client_ids").filter_map(Value::as_str).collect();
    let more = if session.get("complete") == Some(&Value::Bool(true)) { "" } else { " or more" };
    println!(
        "{}  {}  {}  {}  {}  {} events, {} exchanges, {} retrievals, {} refusals, {} steps, {} findings, {}{more} delegations",
        text(session, "/id").escape_debug(),
        text(session, "/first_at"),
        text(session, "/last_at"),
        subjects.join(" "),
        clients.join(" "),
        number(session, "events"),
        number(session, "exchanges"),
        number(session, "retrievals"),
        number(session, "refusals"),
        number(session, "steps"),
        number(session, "findings"),
        number(session, "delegations"),
    );
}

fn print_trace(page: &Value) {
    for item in page.get("items").and_then(Value::as_array).into_iter().flatten() {
        let mut line = format!("event {}  {}", number(item, "seq"), text(item, "/at"));
        if let Some(gap) = item.get("gap_ms").and_then(Value::as_i64) {
            line.push_str(&format!("  {gap:+} ms"));
        }
        let who = match text(item, "/actor/client_id") {
            "" => text(item, "/actor/type"),
            client => client,
        };
        let about = (text(item, "/kind"), text(item, "/action"), number(item, "depth"));
        line.push_str(&format!("  {}  {who}  {}  depth {}", about.0, about.1, about.2));
        for name in ["reason", "scope", "target", "delegation_id"] {
            if let Some(value) = item.get(name).and_then(Value::as_str) {
                line.push_str(&format!("  {name} {value:?}"));
            }
        }
        if let Some(took) = item.get("took_us").and_then(Value::as_u64) {
            line.push_str(&format!("  took {took} µs"));
        }
        if item.get("step").is_some() {
            line.push_str(&format!("  tool {} {}", text(item, "/step/tool"), text(item, "/step/outcome")));
        }
        for finding in item.get("findings").and_then(Value::as_array).into_iter().flatten() {
            line.push_str(&format!("  {} ({})", text(finding, "/rule"), text(finding, "/severity")));
        }
        if let Some(earlier) = item.get("earlier_key") {
            let key = earlier.get("jkt").and_then(Value::as_str).unwrap_or("no proof");
            line.push_str(&format!("  key_drift: {key} in event {}", number(earlier, "seq")));
        }
        line.push_str(&said(page, item).unwrap_or_default());
        println!("{line}");
    }
    print_next(page);
}

/// What the agent says about a step, or that its texts do not exist any more.
fn said(page: &Value, item: &Value) -> Option<String> {
    let seq = item.get("step").and(item.get("seq"))?.to_string();
    let personal = page.get("personal")?.get(&seq)?;
    match personal.get("reasoning").and_then(Value::as_str) {
        Some(reasoning) => {
            let beginning: String = reasoning.chars().take(MAX_REASONING).collect();
            let more = if beginning.len() < reasoning.len() { " …" } else { "" };
            Some(format!("  says {beginning:?}{more}"))
        }
        None if text(personal, "/state") == "matches" => None,
        None => Some(format!("  texts: {}", text(personal, "/state"))),
    }
}

fn number(value: &Value, name: &str) -> u64 {
    value.get(name).and_then(Value::as_u64).unwrap_or_default()
}

async fn export(config: Opening, args: ExportSession) -> Result<ExitCode, Fault> {
    let mark = if args.bom { ByteOrderMark::Present } else { ByteOrderMark::Absent };
    let options = SessionExportOptions { format: args.format, mark };
    context::as_operator(config, async |ctx, _| {
        let mut export = match session_export::begin(ctx, &args.id, options).await {
            Ok(export) => export,
            Err(error) => return print_refusal(error),
        };
        let mut out: Box<dyn std::io::Write + Send> = match &args.out {
            Some(path) => {
                let file = private_file::create(path).context(&format!("writing {}", path.display()))?;
                Box::new(std::io::BufWriter::new(file))
            }
            None => Box::new(std::io::BufWriter::new(stdio::Stdout)),
        };
        while let Some(piece) = export.next().await? {
            out.write_all(piece.as_bytes()).context("writing the export")?;
        }
        out.flush().context("writing the export")?;
        if let Some(path) = &args.out {
            println!("{} events are in {}", export.session.counts.events, path.display());
        }
        Ok(ExitCode::SUCCESS)
    })
    .await
}
