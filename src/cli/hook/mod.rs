//! `actchain hook`: the hook of an agent's program. It asks the server before the use of a tool, and reports it afterwards.

mod event;
mod queue;

use std::io::{Read as _, stdin};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use actchain_client::{ApiAnswer, ApiCall, Authentication, Client, Error, Key};
use secrecy::SecretString;
use serde_json::{Value, json};

use self::event::{HookEvent, HookFormat, HookInput};
use self::queue::{Queue, QueuedReport};
use crate::platform::fault::{Context as _, Fault};
use actchain_protocol::{base64url, metadata, random};

/// How long the agent's program waits for an answer, at most.
const PATIENCE: Duration = Duration::from_secs(10);
/// The longest input that is read, in bytes.
const MAX_INPUT: u64 = 64 * 1024 * 1024;
/// Queued reports that one call sends.
const MAX_SENT: usize = 100;

/// The answer to the agent's program while the server cannot be reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum WhenAway {
    /// Let the person at the machine decide
    Ask,
    Allow,
    Deny,
}

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Issuer of the server
    #[arg(long, value_name = "URL")]
    server: String,
    /// The id of the agent, which authenticates by `private_key_jwt`
    #[arg(long, value_name = "ID")]
    client: String,
    /// The private key of the agent: PKCS#8 in PEM, on P-256 or Ed25519
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    /// The delegation under which the agent works
    #[arg(long, value_name = "ID")]
    delegation: String,
    /// Folder for reports that wait for the server
    #[arg(long, value_name = "FOLDER")]
    queue: PathBuf,
    /// The answer to the agent's program while the server cannot be reached
    #[arg(long, value_enum, default_value = "ask")]
    when_away: WhenAway,
}

struct Hook {
    args: Args,
    client: Client,
}

/// What became of a report.
enum Sent {
    Accepted(Value),
    /// The server will never accept it.
    Refused(String),
    /// The server refuses it now: the agent is disabled, or its delegation suspended.
    RefusedNow(String),
    /// The server did not answer.
    Away(String),
}

pub(super) async fn run(args: Args) -> Result<ExitCode, Fault> {
    let mut input = Vec::new();
    stdin().lock().take(MAX_INPUT).read_to_end(&mut input).context("reading standard input")?;
    let input = HookInput::read(&input)?;
    let text = std::fs::read_to_string(&args.key).context(&format!("reading {}", args.key.display()))?;
    let key = Key::from_pem(&SecretString::from(text)).context(&format!("reading {}", args.key.display()))?;
    let client = Client::builder(&args.server, &args.client, key)
        .authentication(Authentication::PrivateKeyJwt)
        .build()
        .context("--server")?;
    let hook = Hook { args, client };
    match &input.event {
        HookEvent::Before(step) => hook.ask(&input, step).await?,
        HookEvent::TooLong(step) => {
            hook.keep(&input, step)?;
            deny(&input, "the input is too long to be examined")?;
        }
        HookEvent::After(step) => {
            hook.keep(&input, step)?;
            hook.send_waiting().await?;
        }
        HookEvent::Other => hook.send_waiting().await?,
    }
    Ok(ExitCode::SUCCESS)
}

impl Hook {
    /// Asks before a step, and tells the agent's program the answer.
    async fn ask(&self, input: &HookInput, step: &Value) -> Result<(), Fault> {
        let report = json!({"session_id": input.session, "ask": true, "steps": [step]});
        match self.send(&self.args.delegation, &report, &new_key()?).await {
            Sent::Accepted(answer) => self.tell(input, &answer),
            Sent::Refused(why) | Sent::RefusedNow(why) => deny(input, &format!("actchain refused it: {why}")),
            Sent::Away(why) => {
                self.keep(input, step)?;
                eprintln!("actchain: {why}");
                match (input.format, self.args.when_away) {
                    (_, WhenAway::Allow) => Ok(()),
                    (_, WhenAway::Deny) => deny(input, "the authorization server cannot be reached"),
                    (HookFormat::ClaudeCode, WhenAway::Ask) => {
                        permission("ask", "the authorization server cannot be reached")
                    }
                    (HookFormat::Plain, WhenAway::Ask) => print(
                        &json!({"decision": "away", "reason": "the authorization server cannot be reached"}),
                    ),
                }
            }
        }
    }

    fn tell(&self, input: &HookInput, answer: &Value) -> Result<(), Fault> {
        if input.format == HookFormat::Plain {
            return print(answer);
        }
        let found: Vec<&str> = answer
            .pointer("/steps/0/findings")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .filter_map(|finding| finding.get("rule")?.as_str())
            .collect();
        let found = found.join(", ");
        match answer.get("decision").and_then(Value::as_str) {
            Some("allow") => Ok(()),
            Some("flag") => print(&json!({"systemMessage": format!("actchain: {found} matched this step")})),
            Some("confirm") => {
                let text = |name: &str| {
                    answer.pointer(&format!("/steps/0/{name}")).and_then(Value::as_str).unwrap_or_default()
                };
                let page = format!("/console/approvals/{}/uses/{}", text("confirmed_at"), text("ceremony"));
                let page = metadata::endpoint(&self.args.server, &page);
                deny(
                    input,
                    &format!("{found} matched: the user has to confirm this step at {page}; then try again"),
                )
            }
            _ => deny(input, &format!("actchain blocks this step: {found}")),
        }
    }

    /// Writes a report to the queue.
    fn keep(&self, input: &HookInput, step: &Value) -> Result<(), Fault> {
        let report = report(input, step);
        let queued = QueuedReport { key: new_key()?, delegation: self.args.delegation.clone(), report };
        Queue::open(&self.args.queue)?.add(&queued)
    }

    /// Sends what waits, oldest first, until the server cannot be reached or its time is over. Other processes add to the queue
    /// meanwhile; a report that two of them send counts once.
    async fn send_waiting(&self) -> Result<(), Fault> {
        let waiting = Queue::open(&self.args.queue)?.list()?;
        let mut done = Vec::new();
        let sending = async {
            for one in waiting.iter().take(MAX_SENT) {
                match self.send(&one.delegation, &one.report, &one.key).await {
                    Sent::Accepted(_) => {}
                    Sent::Refused(why) => {
                        Queue::open(&self.args.queue)?.keep_refused(one, &why)?;
                        eprintln!("actchain: a report was refused: {why}");
                    }
                    Sent::RefusedNow(why) | Sent::Away(why) => {
                        eprintln!("actchain: {why}; {} reports wait", waiting.len() - done.len());
                        break;
                    }
                }
                done.push(one.key.as_str());
            }
            Ok(())
        };
        // What was not sent in time is sent at the next call.
        let sent = tokio::time::timeout(PATIENCE, sending).await.unwrap_or(Ok(()));
        if !done.is_empty() {
            Queue::open(&self.args.queue)?.remove(&done)?;
        }
        sent
    }

    async fn send(&self, delegation: &str, report: &Value, key: &str) -> Sent {
        let calling = async {
            let token = self.client.client_credentials().audience(&self.args.server).token().await?;
            let call = ApiCall {
                method: "POST",
                path: &format!("/delegate/{delegation}/steps"),
                headers: vec![("content-type", "application/json"), ("idempotency-key", key)],
                body: report.to_string().into_bytes(),
            };
            self.client.call(&token, &call).await
        };
        match tokio::time::timeout(PATIENCE, calling).await {
            Err(_) => Sent::Away("the server did not answer in time".into()),
            Ok(Err(Error::Refused(refused))) if refused.retry_after.is_none() && refused.status < 500 => {
                Sent::RefusedNow(refused.to_string())
            }
            Ok(Err(error)) => Sent::Away(error.to_string()),
            Ok(Ok(answer)) => sent(&answer),
        }
    }
}

/// What an answer of the server means for a report.
fn sent(ApiAnswer { status, body, .. }: &ApiAnswer) -> Sent {
    let body: Value = serde_json::from_slice(body).unwrap_or(Value::Null);
    match status {
        200..=299 => Sent::Accepted(body),
        401 | 408 | 425 | 429 | 500.. => Sent::Away(format!("the server answered with status {status}")),
        _ => {
            let text = |name: &str| body.get(name).and_then(Value::as_str);
            let why = text("reason").or(text("title")).unwrap_or("status of an error").to_owned();
            match why.as_str() {
                "actor_disabled" | "delegation_requested" => Sent::RefusedNow(why),
                _ => Sent::Refused(why),
            }
        }
    }
}

fn report(input: &HookInput, step: &Value) -> Value {
    json!({"session_id": input.session, "steps": [step]})
}

fn new_key() -> Result<String, Fault> {
    Ok(base64url::encode(random::bytes::<16>()?))
}

fn deny(input: &HookInput, why: &str) -> Result<(), Fault> {
    match input.format {
        HookFormat::ClaudeCode => permission("deny", why),
        HookFormat::Plain => print(&json!({"decision": "block", "reason": why})),
    }
}

/// The answer to Claude Code before the use of a tool.
fn permission(decision: &str, why: &str) -> Result<(), Fault> {
    print(&json!({"hookSpecificOutput": {
        "hookEventName": "PreToolUse", "permissionDecision": decision, "permissionDecisionReason": why,
    }}))
}

fn print(answer: &Value) -> Result<(), Fault> {
    println!("{answer}");
    Ok(())
}
