//! `actchain audit verify`: only reads; exits 0 for a valid log, 1 for an invalid log, 2 if part of it could not be
//! checked.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::ArgAction::SetTrue;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use sqlx::Connection as _;

use super::arguments::{read_checkpoint, verifier_keys};
use crate::cli::context::{self, Opening};
use crate::cli::output::{OutputFormat, print_json};
use crate::domain::audit::verify::IntegrityError;
use crate::domain::audit::witness::Witnesses;
use crate::platform::fault::{Context, Fault};
use crate::platform::tar_gz::unpack;
use crate::services::audit::evidence::{EvidenceReport, is_evidence, verify_evidence};
use crate::services::audit::{self, LogDatabase, Report, TrustAnchors, VerifyScope};

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Args {
    /// An export, an archive, or evidence as a folder or a `.tar.gz`; the database if absent
    #[arg(value_name = "PATH", conflicts_with_all = ["db", "file"])]
    path: Option<PathBuf>,
    /// Check the log in the database: the default without a file
    #[arg(long, conflicts_with = "file")]
    db: bool,
    /// An export or an archive; the database if absent
    #[arg(long)]
    file: Option<PathBuf>,
    /// The folder with the files that events were archived to; they are checked, too
    #[arg(long, value_name = "DIR", conflicts_with_all = ["file", "path"])]
    archives: Option<PathBuf>,
    /// A checkpoint that was stored outside this server
    #[arg(long, value_name = "FILE")]
    checkpoint: Vec<PathBuf>,
    /// A checkpoint that is trusted: only later events are read
    #[arg(long, value_name = "FILE")]
    from_checkpoint: Option<PathBuf>,
    /// The only key to trust, as «name+id+key», that was stored outside this server
    #[arg(long)]
    key: Vec<String>,
    /// A witness to trust, as «name+id+key»; the configured witnesses if absent and the database is checked
    #[arg(long, value_name = "KEY")]
    witness: Vec<String>,
    /// How many of these witnesses must have cosigned a checkpoint; more than half of them if absent
    #[arg(long, value_name = "N", requires = "witness")]
    quorum: Option<u32>,
    /// Also check what searches rely on: the index and the partitions of the database
    #[arg(long, conflicts_with_all = ["file", "path"])]
    index: bool,
    /// How many connections read the database at the same time; the number of cores, at most 4, if absent
    #[arg(long, value_name = "N", conflicts_with_all = ["file", "path"], value_parser = clap::value_parser!(u32).range(1..=64))]
    connections: Option<u32>,
    #[arg(long = "json", action = SetTrue)]
    format: OutputFormat,
}

pub(super) async fn run(
    config: impl FnOnce() -> Result<Opening, Fault>,
    args: Args,
) -> Result<ExitCode, Fault> {
    let mut anchors = TrustAnchors {
        keys: verifier_keys(&args.key)?,
        notes: args.checkpoint.iter().map(|path| read_checkpoint(path)).collect::<Result<_, _>>()?,
        from: args.from_checkpoint.as_deref().map(read_checkpoint).transpose()?,
        archives: args.archives.as_deref().map(folder).transpose()?,
        witnesses: Witnesses::new(&args.witness, args.quorum)?,
    };
    let file = args.path.as_deref().or(args.file.as_deref());
    let unpacked = file.filter(|path| is_packed(path)).map(unpack).transpose()?;
    let file = unpacked.as_ref().map(|unpacked| unpacked.folder.as_path()).or(file);
    if let Some(folder) = file.filter(|path| path.is_dir()) {
        if !is_evidence(folder) {
            return Err(Fault::new(format!("{} is a folder without evidence", folder.display())));
        }
        return print_evidence(&verify_evidence(folder, &anchors)?, &anchors.witnesses, args.format);
    }
    let bar = bar();
    let mut show = |done: u64, all: u64| {
        bar.set_length(all);
        bar.set_position(done);
    };
    let report = match file {
        // A file needs neither configuration nor database.
        Some(path) => audit::verify_export_shown(path, &anchors, &mut show),
        None => {
            context::with(config()?, async |context, pool| {
                if args.witness.is_empty() {
                    let audit = &context.config.audit;
                    anchors.witnesses = Witnesses::new(&audit.witnesses, audit.witness_quorum)?;
                }
                let mut others = Vec::new();
                for _ in 1..args.connections.unwrap_or_else(default_connections) {
                    others.push(context.connect().await?);
                }
                let mut connection = pool.acquire().await?;
                let issuer = context.config.issuer();
                if let Some(named) = audit::other_origin(&mut connection, &issuer).await? {
                    eprintln!(
                        "actchain: the newest checkpoint is of the log {named}, and that of the issuer {issuer} is {}: this is the \
                         database of another issuer, or the issuer was renamed",
                        audit::origin(&issuer)
                    );
                }
                let scope = if args.index { VerifyScope::LogAndIndex } else { VerifyScope::Log };
                let database = LogDatabase { connection: &mut connection, others: &mut others, scope };
                let report = audit::verify_database_shown(database, &anchors, &mut show).await;
                for other in others {
                    other.close().await.context("closing a connection")?;
                }
                report
            })
            .await
        }
    };
    bar.finish_and_clear();
    let report = report?;
    if args.format == OutputFormat::Json {
        print_json(&report)?
    } else {
        print(&report, &anchors.witnesses)?
    }
    Ok(exit_code(&report, &anchors.witnesses))
}

/// Whether a path is a file as the console downloads evidence.
fn is_packed(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.is_file() && (name.ends_with(".tar.gz") || name.ends_with(".tgz"))
}

fn exit_code(report: &Report, witnesses: &Witnesses) -> ExitCode {
    let unwitnessed = report.witnessed.is_none() && !witnesses.is_empty();
    match (report.valid, report.hashes_only, unwitnessed) {
        (true, 0, false) => ExitCode::SUCCESS,
        // Part of the log could not be checked, or the witnesses do not vouch for it.
        (true, ..) => ExitCode::from(2),
        (false, ..) => ExitCode::FAILURE,
    }
}

/// The number of cores, at most 4: more connections than that wait for each other.
fn default_connections() -> u32 {
    std::thread::available_parallelism().map_or(1, |cores| u32::try_from(cores.get()).unwrap_or(4).min(4))
}

fn folder(path: &Path) -> Result<PathBuf, Fault> {
    match path.is_dir() {
        true => Ok(path.to_owned()),
        false => Err(Fault::new(format!("{} is not a folder", path.display()))),
    }
}

/// The progress bar: on a terminal only, and on standard error.
fn bar() -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr_with_hz(5));
    match ProgressStyle::with_template("{bar:40} {percent:>3} % {elapsed} (about {eta} left)") {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

fn print(report: &Report, witnesses: &Witnesses) -> Result<(), Fault> {
    if let Some(integrity_error) = &report.integrity_error {
        let place = report.index_error.map_or_else(String::new, |place| match place.term {
            Some(term) => format!(" (block {}, term {term})", place.block),
            None => format!(" (block {})", place.block),
        });
        println!("BROKEN at seq {}: {}{place}", integrity_error.seq, name(integrity_error)?);
        return Ok(());
    }
    let root = report.root.as_deref().unwrap_or_default();
    let but = match report.hashes_only {
        0 => String::new(),
        events => format!(" but for {events} archived events whose files were not shown (--archives DIR)"),
    };
    println!("valid{but}: {} events, {} checkpoints, root {root}", report.events, report.checkpoints);
    if report.vouched < report.events {
        println!("checkpoints vouch for the first {} of them", report.vouched);
    }
    if report.from > 0 {
        println!("events before {} were believed", report.from);
    }
    print_witnessed(report, witnesses);
    Ok(())
}

fn print_witnessed(report: &Report, witnesses: &Witnesses) {
    match (report.witnessed, witnesses.quorum()) {
        (_, 0) => {}
        (Some(size), quorum) => println!("{quorum} witnesses or more have cosigned the first {size} of them"),
        (None, quorum) => println!("no checkpoint has cosignatures of {quorum} of the witnesses"),
    }
}

/// Prints the result of verifying a folder with evidence, and returns its exit code.
fn print_evidence(
    report: &EvidenceReport,
    witnesses: &Witnesses,
    format: OutputFormat,
) -> Result<ExitCode, Fault> {
    if format == OutputFormat::Json {
        print_json(report)?;
    } else if report.valid {
        let root = report.events.root.as_deref().unwrap_or_default();
        let (events, vouched) = (report.events.events, report.events.vouched);
        println!("valid: {events} events, each proven in the log of {vouched} events, root {root}");
        if report.keys_of_folder {
            println!(
                "the keys in keys.txt were believed: compare them with a key that was kept elsewhere (--key)"
            );
        }
        print_witnessed(&report.events, witnesses);
    } else if let Some(integrity_error) = &report.events.integrity_error {
        println!("BROKEN at seq {}: {}", integrity_error.seq, name(integrity_error)?);
    } else {
        println!("ALTERED: not what follows from the events: {}", report.altered.join(", "));
    }
    Ok(if report.valid { exit_code(&report.events, witnesses) } else { ExitCode::FAILURE })
}

/// The stable name of an integrity error.
fn name(integrity_error: &IntegrityError) -> Result<String, Fault> {
    let kind = serde_json::to_value(integrity_error.kind).context("naming what is broken")?;
    Ok(kind.as_str().unwrap_or_default().to_owned())
}
