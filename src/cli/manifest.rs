//! `actchain manifest export`: what is registered, as a manifest without secrets.

use std::process::ExitCode;

use actchain_client::ApiCall;
use clap::ArgAction::SetTrue;

use super::context::{self, Opening};
use super::output::{self, OutputFormat};
use super::remote::RemoteArgs;
use crate::domain::refusal::Error;
use crate::platform::fault::{Context, Fault};
use crate::services::apply::export;

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Print everything that is registered as a manifest; applying it changes nothing
    Export(Args),
}

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    remote: RemoteArgs,
    /// Print JSON instead of YAML
    #[arg(long = "json", action = SetTrue)]
    format: OutputFormat,
}

pub(super) async fn run(
    opening: impl FnOnce() -> Result<Opening, Fault>,
    Command::Export(args): Command,
) -> Result<ExitCode, Fault> {
    if let Some(server) = args.remote.server()? {
        let accept = match args.format {
            OutputFormat::Json => "application/json",
            OutputFormat::Text => "application/yaml",
        };
        let headers = vec![("accept", accept)];
        let call = ApiCall { method: "GET", path: "/api/v1/manifest", headers, body: Vec::new() };
        let body = server.call(&call).await?;
        let text = String::from_utf8(body).context("reading the answer")?;
        println!("{}", text.trim_end());
        return Ok(ExitCode::SUCCESS);
    }
    context::as_operator(opening()?, async |ctx, _| {
        let exported = export(ctx).await.map_err(|error| match error {
            Error::Failed(fault) => fault,
            Error::Refused(refusal) => Fault::new(refusal.sentence()),
        })?;
        match args.format {
            OutputFormat::Json => output::print_json(&exported.manifest)?,
            OutputFormat::Text => println!("{}", exported.to_yaml()?.trim_end()),
        }
        Ok(ExitCode::SUCCESS)
    })
    .await
}
