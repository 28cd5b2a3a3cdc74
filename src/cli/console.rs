//! Prints a link by which an operator enters the console.

use std::process::ExitCode;

use clap::ArgAction::SetTrue;
use secrecy::ExposeSecret as _;
use serde_json::json;

use super::context::{self, Opening};
use super::output::{OutputFormat, print_json, print_refusal};
use crate::platform::clock::rfc3339;
use crate::platform::fault::Fault;
use crate::services::console::make_link;

#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  actchain console")]
pub(super) struct Args {
    #[arg(long = "json", action = SetTrue)]
    format: OutputFormat,
}

pub(super) async fn run(opening: Opening, args: Args) -> Result<ExitCode, Fault> {
    let made = context::as_operator(opening, async |ctx, _| Ok(make_link(ctx).await)).await?;
    let link = match made {
        Ok(link) => link,
        Err(error) => return print_refusal(error),
    };
    let (url, expires_at) = (link.url.expose_secret(), rfc3339(link.expires_at));
    if args.format == OutputFormat::Json {
        print_json(&json!({"url": url, "expires_at": expires_at}))?;
    } else {
        println!(
            "{url}\nGood once, until {expires_at}. A browser that opens it acts as an operator for an hour."
        );
    }
    Ok(ExitCode::SUCCESS)
}
