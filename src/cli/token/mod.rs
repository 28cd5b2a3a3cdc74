//! `actchain token inspect|verify|explain`. `inspect` decodes a token and its chain; `verify` checks it as a resource
//! server does; `explain` says whether the server would exchange it.

mod explain;
mod verify;

use std::process::ExitCode;

use clap::ArgAction::SetTrue;
use serde_json::json;

use self::verify::{TokenReport, Trust};
use super::chain_view;
use super::context::{self, Opening};
use super::output::{OutputFormat, print_json};
use crate::platform::clock::Clock;
use crate::platform::fault::{Context, Fault};
use crate::platform::outbound::{AddressPolicy, Outbound};
use actchain_protocol::jose::Jws;

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Decode and explain a token; checks nothing
    Inspect {
        /// The token; «-» reads it from standard input
        jwt: String,
        #[arg(long = "json", action = SetTrue)]
        format: OutputFormat,
    },
    /// Check type, issuer, signature, times, audience and status, as a resource server does, and say what was checked
    ///
    /// The issuer is the configured server's; a token of another issuer needs --issuer or --jwks. Exits 0 for a valid
    /// token, 1 for an invalid token, 2 if the token could not be checked.
    Verify {
        /// The token; «-» reads it from standard input
        jwt: String,
        /// The issuer whose tokens are accepted; its metadata names the keys
        #[arg(long, value_name = "ISSUER")]
        issuer: Option<String>,
        /// A URL or file with the keys; with a file, nothing is fetched and the status is not checked
        #[arg(long, value_name = "URL|FILE")]
        jwks: Option<String>,
        /// The audience that the token must name
        #[arg(long)]
        audience: Option<String>,
        #[arg(long = "json", action = SetTrue)]
        format: OutputFormat,
    },
    /// Say whether the server would exchange a token for a client, and if not, which check fails
    ///
    /// The same verification and decision as an exchange; nothing is recorded or issued. Exits 0 if the exchange would
    /// be granted, 1 if it would be refused, 2 if this cannot be decided.
    Explain(explain::Args),
}

pub(super) async fn run(
    opening: impl FnOnce() -> Result<Opening, Fault>,
    command: Command,
) -> Result<ExitCode, Fault> {
    match command {
        Command::Inspect { jwt, format } => {
            let jwt = read(jwt)?;
            explain(&parsed(&jwt)?, format)?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Verify { jwt, issuer, jwks, audience, format } => {
            let jwt = read(jwt)?;
            let jws = parsed(&jwt)?;
            let opening = opening()?;
            let policy = AddressPolicy::PublicAndLoopback;
            let outbound = Outbound::of_command(opening.config(), policy, Clock::System.now())?;
            let issuer = match (issuer, &jwks) {
                (None, None) => Some(own_issuer(opening).await?),
                (issuer, _) => issuer,
            };
            let report = verify::verify(&jws, &Trust { issuer, jwks, audience, outbound }).await?;
            print(&jws, &report, format)?;
            Ok(if report.wrong.is_none() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
        Command::Explain(mut args) => {
            args.jwt = read(args.jwt)?;
            context::with(opening()?, async |context, _| explain::run(context, &args).await).await
        }
    }
}

/// The issuer of the configured server, or of the server that uses the database here.
async fn own_issuer(opening: Opening) -> Result<String, Fault> {
    if let Some(issuer) = &opening.config().issuer {
        return Ok(issuer.clone());
    }
    context::with(opening, async |context, _| Ok(context.config.issuer())).await
}

fn parsed(jwt: &str) -> Result<Jws<'_>, Fault> {
    Jws::parse(jwt).ok_or_else(|| Fault::new("this is no JWT in compact form"))
}

fn read(jwt: String) -> Result<String, Fault> {
    if jwt != "-" {
        return Ok(jwt);
    }
    let text = std::io::read_to_string(std::io::stdin()).context("reading standard input")?;
    Ok(text.trim().to_owned())
}

fn explain(jws: &Jws<'_>, format: OutputFormat) -> Result<(), Fault> {
    let header = json!({"alg": jws.header.alg, "typ": jws.header.typ, "kid": jws.header.kid});
    if format == OutputFormat::Json {
        return print_json(&json!({"header": header, "claims": jws.claims}));
    }
    println!("header      {header}");
    let label = if jws.claims.contains_key("act") { "chain" } else { "subject" };
    println!("{label:<11} {}", chain_view::draw(&jws.claims).replace('\n', "\n            "));
    for (name, value) in jws.claims.iter().filter(|(name, _)| *name != "act") {
        println!("{name:<11} {value}");
    }
    Ok(())
}

fn print(jws: &Jws<'_>, report: &TokenReport, format: OutputFormat) -> Result<(), Fault> {
    let TokenReport { wrong, checked, unchecked } = report;
    if format == OutputFormat::Json {
        return print_json(&json!({
            "valid": wrong.is_none(), "reason": wrong, "checked": checked, "not_checked": unchecked, "claims": jws.claims,
        }));
    }
    if let Some(wrong) = wrong {
        println!("not valid: {wrong}");
        return Ok(());
    }
    explain(jws, OutputFormat::Text)?;
    checked.iter().for_each(|what| println!("checked     {what}"));
    unchecked.iter().for_each(|what| println!("not checked {what}"));
    println!("valid");
    Ok(())
}
