//! `actchain demo`: plays the whole story against a real server, checks every answer, and says what each step proves.
//! The exit code is 1 if a check fails.

mod audit;
mod chain;
mod client;
mod console;
mod delegations;
mod detail;
mod fixtures;
mod narrator;
mod night;
mod process;
mod provider;
mod revocation;
mod steps;
mod vault;

use std::process::ExitCode;
use std::sync::Arc;

use actchain_client::{Token, TokenRequest};
use serde_json::Value;

use self::client::{Agent, Http, claims_of, http_client, text};
use self::detail::Detail;
use self::fixtures::Cast;
use self::narrator::Narrator;
use self::process::{CommandOutput, DemoProcess, FolderAtEnd};
use super::context::Signals;
use super::stdio;
use crate::domain::client::usable_keys;
use crate::platform::fault::{Context, Fault};
use actchain_protocol::access_token;
use actchain_protocol::jose::{Alg, Jws};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Keep the demo's folder, with the server's data and log
    #[arg(long)]
    keep: bool,
    /// Then open the console over the data of the demo in a browser, and keep the server running until Ctrl-C
    #[arg(long)]
    open_console: bool,
    /// Show every check, command and answer, with decoded tokens
    #[arg(long, short)]
    verbose: bool,
}

pub(super) async fn run(args: Args) -> Result<ExitCode, Fault> {
    let detail = if args.verbose { Detail::Verbose } else { Detail::Story };
    let folder = if args.keep { FolderAtEnd::Kept } else { FolderAtEnd::Removed };
    let after = if args.open_console { AfterStory::Console } else { AfterStory::End };
    let mut signals = Signals::listen()?;
    let client = http_client().build().context("building an HTTP client")?;
    let process = DemoProcess::set(detail).await?;
    let http = Http::new(process.issuer.clone(), client, detail);
    let mut story = Story { process, http, detail, narrator: Narrator::new(detail) };
    // Whatever the result, no process is left running and no secret is left on disk.
    let mut played = tokio::select! {
        played = story.play() => played,
        cut = stdio::broken() => Err(cut),
        () = signals.stop() => Err(Fault::new("interrupted")),
    };
    if played.is_ok() && after == AfterStory::Console {
        played = tokio::select! {
            shown = story.show_console() => shown,
            cut = stdio::broken() => Err(cut),
            () = signals.stop() => Ok(()),
        };
    }
    let Story { process, mut narrator, .. } = story;
    let status = process.end(folder).await?;
    narrator.check("the server stops with exit code 0", status.code(), Some(0));
    played?;
    if after == AfterStory::End {
        println!("\nTo see its chains and decisions in a browser: actchain demo --open-console");
    }
    Ok(if narrator.end() == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What happens after the story.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum AfterStory {
    End,
    /// The server goes on, and the console is opened.
    Console,
}

struct Story {
    process: DemoProcess,
    http: Http,
    detail: Detail,
    narrator: Narrator,
}

impl Story {
    async fn play(&mut self) -> Result<(), Fault> {
        println!("The demo runs its own server at {}, and checks every answer.", self.http.issuer);
        let cast = Cast::new(&self.http.issuer)?;
        self.chain(&cast).await?;
        let granted = self.delegations(&cast).await?;
        self.revocation(&cast, &granted).await?;
        self.night(&cast).await?;
        self.vault(&cast).await?;
        self.steps(&cast).await?;
        self.audit(&cast).await
    }

    /// Runs a command that has to succeed.
    async fn command(&mut self, what: &str, arguments: &[&str]) -> Result<CommandOutput, Fault> {
        let output = self.process.run(arguments).await?;
        self.check_success(what, &output);
        Ok(output)
    }

    fn check_success(&mut self, what: &str, output: &CommandOutput) {
        let found = (output.code, if output.code == 0 { "" } else { output.stderr.as_str() });
        self.narrator.check(what, found, (0, ""));
    }

    /// Sends an exchange that has to be granted. Checks that the new token names the agent and is bound to its key.
    async fn hop(&mut self, agent: &Agent, request: TokenRequest<'_>) -> Result<Arc<Token>, Fault> {
        let answer = self.http.token(agent, request).await?;
        self.narrator.check_status(&format!("the exchange of {} is granted", agent.id), &answer, 200);
        let token = answer.token()?;
        let claims = Value::Object(claims_of(token.secret()));
        let newest = text(&claims, "/act/sub");
        self.narrator.check("its newest actor is the agent", newest, agent.id.as_str());
        let bound = text(&claims, "/cnf/jkt");
        self.narrator.check(
            "the token is bound to the key of its newest actor",
            bound,
            agent.key().thumbprint(),
        );
        Ok(token)
    }

    /// Shows the chain of a token, and what the token allows.
    fn show_token(&self, token: &Token) {
        let claims = Value::Object(claims_of(token.secret()));
        let chain = [vec![text(&claims, "/sub").to_owned()], actors(&claims)].concat();
        let chain = chain.iter().map(|name| short(name)).collect::<Vec<_>>().join(" → ");
        let scope = match text(&claims, "/scope") {
            "" => "the vault".to_owned(),
            scope => format!("{scope} at {}", audiences(&claims).join(", ").replace("https://", "")),
        };
        self.narrator.picture(&format!("{chain}: {scope}, {} s", lifetime(&claims)));
    }

    /// The id of the key that has signed the token, if the server publishes it in its JWKS (RFC 8414).
    async fn verified_key_id(&self, jws: &Jws<'_>) -> Result<Option<String>, Fault> {
        let metadata = format!("{}/.well-known/oauth-authorization-server", self.http.issuer);
        let metadata = self.http.document(&metadata).await?;
        let keys = self.http.document(text(&metadata, "/jwks_uri")).await?;
        let keys = usable_keys(&keys).unwrap_or_default();
        let named = keys.iter().find(|key| key.kid() == jws.header.kid.as_deref());
        let verified = named.filter(|key| jws.verified_by(key, &Alg::ALL));
        Ok(verified.and_then(|key| key.kid()).map(str::to_owned))
    }
}

/// A name for output: the generated id of an ephemeral agent is cut.
fn short(name: &str) -> String {
    let cut = name.char_indices().nth(16).and_then(|(end, _)| name.get(..end));
    cut.map_or_else(|| name.to_owned(), |start| format!("{start}…"))
}

/// The actors of a token, in the order in which they acted.
fn actors(claims: &Value) -> Vec<String> {
    let mut actors = Vec::new();
    let mut act = claims.get("act");
    while let Some(actor) = act {
        actors.push(text(actor, "/sub").to_owned());
        act = actor.get("act");
    }
    actors.reverse();
    actors
}

fn audiences(claims: &Value) -> Vec<String> {
    let audience = claims.as_object().and_then(access_token::audience);
    audience.map(|audience| audience.values().to_vec()).unwrap_or_default()
}

/// The lifetime of a token, in seconds.
fn lifetime(claims: &Value) -> i64 {
    let number = |name: &str| claims.get(name).and_then(Value::as_i64).unwrap_or_default();
    number("exp") - number("iat")
}

/// How many of the secrets appear in a text.
fn count_leaks(text: &str, secrets: &[String]) -> usize {
    secrets.iter().filter(|secret| text.contains(secret.as_str())).count()
}
