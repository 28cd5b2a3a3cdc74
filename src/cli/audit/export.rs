//! `actchain audit export`: writes the log to a file, piece by piece in constant memory.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use super::arguments::filter;
use crate::cli::context::{self, Opening};
use crate::cli::stdio;
use crate::domain::audit::personal::PeopleMembers;
use crate::domain::refusal::Error;
use crate::platform::fault::{Context, Fault};
use crate::platform::private_file;
use crate::services::audit::export::{self, Export, ExportFormat, ExportOptions};
use actchain_protocol::csv_export::ByteOrderMark;

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Args {
    /// The file to write; standard output if absent
    #[arg(short, long)]
    out: Option<PathBuf>,
    /// The format of the file: jsonl, csv or sarif
    #[arg(long, default_value = "jsonl", value_parser = format)]
    format: ExportFormat,
    /// Only from this event on; an existing JSON Lines or CSV file is continued
    #[arg(long, value_name = "SEQ", default_value_t = 0)]
    from: u64,
    /// Up to the stored checkpoint of this size; a new checkpoint is signed if absent
    #[arg(long)]
    size: Option<u64>,
    /// Begin a CSV file with a byte order mark, so that Excel reads it as UTF-8
    #[arg(long)]
    bom: bool,
    /// Write the names of users and their personal data into a CSV file: an erasure does not reach them there
    #[arg(long)]
    people: bool,
    /// Only events that match, such as action=oauth.token.refused or from=2026-01-01T00:00:00Z; repeat to narrow
    /// further
    #[arg(long, value_name = "NAME=VALUE")]
    filter: Vec<String>,
}

fn format(name: &str) -> Result<ExportFormat, String> {
    ExportFormat::parse(name).ok_or_else(|| "a format is jsonl, csv or sarif".to_owned())
}

pub(super) async fn run(config: Opening, args: Args) -> Result<ExitCode, Fault> {
    let mark = if args.bom { ByteOrderMark::Present } else { ByteOrderMark::Absent };
    let people = if args.people { PeopleMembers::Included } else { PeopleMembers::Omitted };
    let (format, filter) = (args.format, filter(&args.filter)?);
    let options = ExportOptions { format, filter, from: args.from, size: args.size, mark, people };
    context::as_operator(config, async |ctx, context| {
        let seal = context.seal()?;
        let export = match export::begin(ctx, &seal, options).await {
            Ok(export) => export,
            Err(Error::Failed(fault)) => return Err(fault),
            Err(Error::Refused(refusal)) => return Err(Fault::new(refusal.sentence())),
        };
        if export.first > args.from {
            eprintln!("actchain: events below {} are archived; this begins there", export.first);
        }
        let (first, size) = (export.first, export.size);
        write(export, &args).await?;
        if let Some(path) = &args.out {
            println!("what was asked for of the {size} events, from {first} on, is in {}", path.display());
        }
        Ok(ExitCode::SUCCESS)
    })
    .await
}

async fn write(mut export: Export, args: &Args) -> Result<(), Fault> {
    let held =
        args.out.as_ref().and_then(|path| std::fs::metadata(path).ok()).is_some_and(|file| file.len() > 0);
    // A SARIF file is one document and is never continued.
    let goes_on = args.from > 0 && held && args.format != ExportFormat::Sarif;
    let mut out: Box<dyn std::io::Write + Send> = match &args.out {
        Some(path) => {
            let open = if goes_on { private_file::append } else { private_file::create };
            Box::new(std::io::BufWriter::new(open(path).context(&format!("writing {}", path.display()))?))
        }
        None => Box::new(std::io::BufWriter::new(stdio::Stdout)),
    };
    if goes_on && args.format == ExportFormat::Csv {
        // The file that is continued already has the header with the column names.
        export.next().await?;
    }
    while let Some(piece) = export.next().await? {
        out.write_all(piece.as_bytes()).context("writing the export")?;
    }
    out.flush().context("writing the export")
}
