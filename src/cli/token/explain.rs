//! `actchain token explain`: whether an exchange of a token would be granted, and why.

use std::process::ExitCode;

use clap::ArgAction::SetTrue;

use crate::app::App;
use crate::cli::context::CommandContext;
use crate::cli::output::{OutputFormat, print_json, to_value};
use crate::domain::issuer::parse_token_type;
use crate::platform::fault::{Context, Fault};
use crate::services::token_exchange::{ExchangeCheck, Explanation, PresentedSubject, Question, explain};
use actchain_protocol::scope;
use actchain_protocol::token_exchange::{RequestedAccess, TokenType};

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Args {
    /// The subject token; «-» reads it from standard input
    pub(super) jwt: String,
    /// The client that would exchange the token
    #[arg(long, value_name = "ID")]
    client: String,
    /// The scopes to request, separated by spaces
    #[arg(long)]
    scope: Option<String>,
    /// An audience to request; repeat for several
    #[arg(long, value_name = "NAME")]
    audience: Vec<String>,
    /// The id of the delegation to use
    #[arg(long, value_name = "ID")]
    delegation: Option<String>,
    /// Thumbprint of the key that would sign the DPoP proof; by default the client's first registered key
    #[arg(long, value_name = "JKT")]
    key: Option<String>,
    /// The declared type of the token: access_token, jwt or id_token; by default the type that its issuer implies
    #[arg(long = "type", value_name = "TYPE")]
    token_type: Option<String>,
    /// The issuer of an access token that names none
    #[arg(long, value_name = "ISS")]
    subject_issuer: Option<String>,
    #[arg(long = "json", action = SetTrue)]
    format: OutputFormat,
}

pub(super) async fn run(context: &CommandContext, args: &Args) -> Result<ExitCode, Fault> {
    let question = question(args)?;
    let master = context.master_key()?;
    let database = context.database.clone();
    let (config, clock) = (context.config.clone(), context.clock.clone());
    let (app, ledger) = App::build(config, clock, database, &master, context.seal()?).await?;
    let explained = explain(&app, &question, app.clock.now()).await;
    app.pool.close().await;
    drop(app);
    ledger.await.context("ending the ledger")?;
    let explained = explained?;
    let code = if explained.result.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    print(args, explained)?;
    Ok(code)
}

fn question(args: &Args) -> Result<Question, Fault> {
    let scopes = args.scope.as_deref().map(|text| {
        scope::parse(text).ok_or_else(|| Fault::new(format!("--scope {text:?} is not a list of scopes")))
    });
    let token_type = args.token_type.as_deref().map(|name| match name {
        "access_token" => Ok(TokenType::AccessToken),
        other => parse_token_type(other)
            .ok_or_else(|| Fault::new(format!("--type {other:?} is not access_token, jwt or id_token"))),
    });
    Ok(Question {
        subject: PresentedSubject::Token {
            token: args.jwt.clone(),
            token_type: token_type.transpose()?,
            issuer: args.subject_issuer.clone(),
        },
        client_id: args.client.clone(),
        jkt: args.key.clone(),
        wanted: RequestedAccess {
            scopes: scopes.transpose()?,
            audiences: (!args.audience.is_empty()).then(|| args.audience.iter().cloned().collect()),
            details: None,
            capability: None,
        },
        delegation_id: args.delegation.clone(),
    })
}

fn print(args: &Args, explained: Explanation) -> Result<(), Fault> {
    let refused = explained.result.as_ref().err().copied();
    let answer = to_value(&ExchangeCheck::from(explained))?;
    if args.format == OutputFormat::Json {
        return print_json(&answer);
    }
    println!("{}", if refused.is_none() { "would be granted" } else { "would be refused" });
    let shown = |name: &str| !["granted", "rules"].contains(&name);
    for (name, value) in answer.as_object().into_iter().flatten().filter(|(name, _)| shown(name)) {
        if !value.is_null() {
            println!("{name:<20} {}", value.as_str().map_or_else(|| value.to_string(), str::to_owned));
        }
    }
    if let Some(refusal) = refused {
        println!("{:<20} docs/reference/problems.md, `{}`", "what to do", refusal.reason());
    }
    Ok(())
}
