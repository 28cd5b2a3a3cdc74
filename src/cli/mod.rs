//! ENTRY POINT: the command line, one file per command.

#[macro_use]
mod stdio;

mod apply;
mod arguments;
mod audit;
mod backup;
mod chain_view;
mod client;
mod connection;
mod console;
mod context;
mod delegation;
mod delegation_tree;
mod demo;
mod doctor;
mod grant;
mod hook;
mod issuer;
mod key;
mod manifest;
mod master_key;
mod output;
mod principal;
mod registration;
mod remote;
mod resource;
mod restored;
mod rules;
mod serve;
mod session;
mod sink;
mod token;
mod top;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use self::context::{Access, IfMissing, Opening};
use crate::platform::config::Config;
use crate::platform::fault::Fault;
use crate::platform::process;

/// OAuth 2.0 token exchange (RFC 8693) for agents that act on a user's behalf.
#[derive(Debug, Parser)]
#[command(name = "actchain", version, disable_help_subcommand = true)]
pub struct Cli {
    /// A TOML file; every key can also be set as ACTCHAIN_SECTION_KEY
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Create the data directory with an embedded database and a master key if there is none; otherwise only `serve`
    /// does
    #[arg(long, global = true)]
    init: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the server until SIGTERM or Ctrl-C
    Serve,
    /// Play every feature against a real server of its own; non-zero if any step differs
    Demo(demo::Args),
    /// Declare issuers, resources, providers, clients, sinks, delegations and rules
    Apply(apply::Args),
    /// Print what is registered as a manifest
    #[command(subcommand)]
    Manifest(manifest::Command),
    /// Print a link to the console that is good once, for an operator
    Console(console::Args),
    /// Bring the schema of an external database up to date
    Migrate,
    /// List, show, disable, enable clients; rotate their secrets
    #[command(subcommand)]
    Client(client::Command),
    /// List, show and remove trusted issuers
    #[command(subcommand)]
    Issuer(issuer::Command),
    /// List, show and remove resources
    #[command(subcommand)]
    Resource(resource::Command),
    /// List, show, request, approve, deny, revoke, renew and draw delegations
    #[command(subcommand)]
    Delegation(delegation::Command),
    /// Create, list, show, renew, revoke and revalidate standing grants
    #[command(subcommand)]
    Grant(grant::Command),
    /// List, show, import, rotate and disconnect credentials of third parties; list their providers
    #[command(subcommand)]
    Connection(connection::Command),
    /// List, show and rotate signing keys
    #[command(subcommand)]
    Key(key::Command),
    /// Erase users from the audit log
    #[command(subcommand)]
    Principal(principal::Command),
    /// Ask and report as the hook of an agent's program, such as Claude Code
    Hook(hook::Args),
    /// Decode, explain and verify tokens
    #[command(subcommand)]
    Token(token::Command),
    /// Verify, follow and export the audit log, and prove its events
    #[command(subcommand)]
    Audit(audit::Command),
    /// List, show, trace and export sessions from the audit log
    #[command(subcommand)]
    Session(session::Command),
    /// List, show, disable and enable audit sinks; rotate their secrets, replay their dead letters
    #[command(subcommand)]
    Sink(sink::Command),
    /// List, show, test and remove the rules that examine what agents do
    #[command(subcommand)]
    Rules(rules::Command),
    /// Watch rates, refusals, approvals, events and findings on a terminal
    Top(top::Args),
    /// Write the embedded database to a file, while the server runs
    Backup(backup::Backup),
    /// Create a data directory from a backup file and the master key
    Restore(backup::Restore),
    /// After a backup was put back: revoke all tokens of before, suspend delegations for a review
    Restored(restored::Args),
    /// Check configuration, database, clock, keys and issuers
    Doctor(doctor::Args),
}

pub fn main() -> ExitCode {
    match Cli::try_parse() {
        Ok(cli) => run(cli),
        Err(message) => {
            // Help and version go to standard output.
            let printed = message.print();
            let code = u8::try_from(message.exit_code()).unwrap_or(2);
            stdio::finish(match printed {
                Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
                    Err(Fault::caused("writing help", error))
                }
                _ => Ok(ExitCode::from(code)),
            })
        }
    }
}

/// Runs a command. Results go to standard output, errors to standard error.
fn run(cli: Cli) -> ExitCode {
    // Before any key is read, so that no core dump contains a key.
    if let Err(fault) = process::forbid_core_dumps() {
        eprintln!("actchain: {fault}");
        return ExitCode::from(2);
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("actchain: {error}");
            return ExitCode::from(2);
        }
    };
    stdio::finish(runtime.block_on(dispatch(cli)))
}

impl Command {
    /// How a command uses the database. A command that is not listed here may change it.
    fn access(&self) -> Access {
        match self {
            Self::Doctor(_) => Access::Inspect,
            Self::Client(
                client::Command::List { .. }
                | client::Command::Show { .. }
                | client::Command::Key(client::KeyCommand::List { .. }),
            )
            | Self::Delegation(
                delegation::Command::List { .. }
                | delegation::Command::Show { .. }
                | delegation::Command::Tree(_),
            )
            | Self::Grant(grant::Command::List { .. } | grant::Command::Show { .. })
            | Self::Connection(
                connection::Command::List(_)
                | connection::Command::Show { .. }
                | connection::Command::Providers { .. },
            )
            | Self::Issuer(issuer::Command::List { .. } | issuer::Command::Show { .. })
            | Self::Resource(resource::Command::List { .. } | resource::Command::Show { .. })
            | Self::Rules(
                rules::Command::List { .. }
                | rules::Command::Show { .. }
                | rules::Command::Test(_)
                | rules::Command::Lint(_),
            )
            | Self::Backup(_)
            | Self::Manifest(_)
            | Self::Session(_)
            | Self::Token(_)
            | Self::Top(_)
            | Self::Key(key::Command::List { .. } | key::Command::Show { .. })
            | Self::Audit(
                audit::Command::Verify(_)
                | audit::Command::VerifyReceipt(_)
                | audit::Command::Chains(_)
                | audit::Command::Tail(_)
                | audit::Command::Show(_),
            )
            | Self::Sink(
                sink::Command::List { .. } | sink::Command::Show(_) | sink::Command::DeadLetters { .. },
            ) => Access::Read,
            _ => Access::Change,
        }
    }
}

async fn dispatch(cli: Cli) -> Result<ExitCode, Fault> {
    let config = || Config::load(cli.config.as_deref());
    let (access, missing) =
        (cli.command.access(), if cli.init { IfMissing::Make } else { IfMissing::Refuse });
    let opening = || Opening::new(config()?, access, missing);
    match cli.command {
        Command::Serve => serve::run(config()?).await,
        Command::Demo(args) => demo::run(args).await,
        Command::Apply(args) => match apply::print_schema(&args) {
            Some(printed) => printed,
            None => apply::run(opening, args).await,
        },
        Command::Manifest(command) => manifest::run(opening, command).await,
        Command::Migrate => context::migrate(&config()?).await,
        Command::Client(command) => client::run(opening()?, command).await,
        Command::Issuer(command) => issuer::run(opening()?, command).await,
        Command::Resource(command) => resource::run(opening()?, command).await,
        Command::Delegation(command) => delegation::run(opening()?, command).await,
        Command::Grant(command) => grant::run(opening()?, command).await,
        Command::Connection(command) => connection::run(opening()?, command).await,
        Command::Key(command) => key::run(opening()?, command).await,
        Command::Console(args) => console::run(opening()?, args).await,
        Command::Principal(command) => principal::run(opening()?, command).await,
        Command::Hook(args) => hook::run(args).await,
        Command::Token(command) => token::run(opening, command).await,
        Command::Audit(command) => audit::run(opening, command).await,
        Command::Session(command) => session::run(opening()?, command).await,
        Command::Sink(command) => sink::run(opening()?, command).await,
        Command::Rules(command) => rules::run(opening, command).await,
        Command::Top(args) => top::run(opening()?, args, config).await,
        Command::Backup(args) => backup::backup(opening()?, &args).await,
        Command::Restore(args) => backup::restore(config()?, &args).await,
        Command::Restored(args) => restored::run(opening()?, args).await,
        Command::Doctor(args) => doctor::run(opening(), args).await,
    }
}
