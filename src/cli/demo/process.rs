//! The demo's environment: a real server in its own process, real commands, and real clients over HTTP.

use std::fs::DirBuilder;
use std::io::Write as _;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::{Child, Command};

use crate::platform::clock::Clock;
use crate::platform::digest::sha256;
use crate::platform::fault::{Context, Fault};
use crate::platform::jose::{SigningAlg, SigningKey};
use crate::platform::{base64url, private_file, random};
use crate::protocol::token_exchange::GRANT_TYPE;

const READY: Duration = Duration::from_secs(60);

/// A running server with a data directory of its own.
pub(super) struct DemoProcess {
    program: PathBuf,
    pub(super) folder: PathBuf,
    pub(super) issuer: String,
    server: Child,
    http: reqwest::Client,
}

/// The result of a command.
pub(super) struct Said {
    pub(super) code: i32,
    pub(super) out: String,
    /// Standard output and standard error.
    pub(super) text: String,
}

pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) body: Value,
}

/// A client with its key, and its secret if it authenticates with a secret.
pub(super) struct Agent {
    pub(super) id: String,
    pub(super) key: SigningKey,
    pub(super) secret: Option<String>,
}

impl Agent {
    /// Authenticates with signed assertions, or with its registered key alone.
    pub(super) fn with_key(id: &str) -> Result<Self, Fault> {
        Ok(Self { id: id.to_owned(), key: SigningKey::generate(SigningAlg::ES256)?.0, secret: None })
    }

    /// Authenticates with a client secret.
    pub(super) fn with_secret(id: &str) -> Result<Self, Fault> {
        Ok(Self { secret: Some(random::token()?), ..Self::with_key(id)? })
    }
}

/// The caller at the management API, with its access token.
pub(super) enum Caller<'a> {
    /// A user with a token of its own issuer.
    User(&'a str),
    /// An agent with an access token bound to its key.
    Agent(&'a Agent, &'a str),
}

impl DemoProcess {
    /// Starts a server with the embedded default database.
    pub(super) async fn set() -> Result<Self, Fault> {
        let program = std::env::current_exe().context("finding this program")?;
        let name = base64url::encode(random::bytes::<9>()?);
        let folder = std::env::temp_dir().join(format!("actchain-demo-{name}"));
        let root = nix::unistd::geteuid().is_root();
        // Under root, PostgreSQL runs as another account, which needs to traverse the folder.
        let mode = if root { 0o711 } else { 0o700 };
        DirBuilder::new().mode(mode).create(&folder).context("making a folder for the demo")?;
        match Self::start(program, folder.clone()).await {
            Ok(process) => Ok(process),
            Err(fault) => {
                let log = std::fs::read_to_string(folder.join("server.log")).unwrap_or_default();
                // A failed removal must not hide why the server did not start.
                drop(std::fs::remove_dir_all(&folder));
                Err(Fault::new(format!("{fault}\n{log}")))
            }
        }
    }

    async fn start(program: PathBuf, folder: PathBuf) -> Result<Self, Fault> {
        let log = private_file::create(&folder.join("server.log")).context("making the server's log")?;
        let mut server = command(&program, &folder)
            .arg("serve")
            .env("ACTCHAIN_LISTEN", "127.0.0.1:0")
            .stdout(Stdio::piped())
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .context("starting the server")?;
        let issuer = match ready(&mut server).await {
            Ok(issuer) => issuer,
            Err(fault) => {
                // The server may already have started its database.
                stop(&mut server).await?;
                return Err(fault);
            }
        };
        let http = reqwest::Client::builder().no_proxy().build().context("building an HTTP client")?;
        Ok(Self { program, folder, issuer, server, http })
    }

    /// Runs a command against the running server's data directory.
    pub(super) async fn run(&self, arguments: &[&str]) -> Result<Said, Fault> {
        self.run_reading(arguments, "").await
    }

    /// Like [`Self::run`], with text for standard input.
    pub(super) async fn run_reading(&self, arguments: &[&str], input: &str) -> Result<Said, Fault> {
        let mut child = command(&self.program, &self.folder)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("running a command")?;
        if let Some(mut stdin) = child.stdin.take() {
            // A command that closed its input early has failed; its output says why.
            drop(stdin.write_all(input.as_bytes()).await);
        }
        let output = child.wait_with_output().await.context("running a command")?;
        let out = String::from_utf8_lossy(&output.stdout).into_owned();
        let text = format!("{out}{}", String::from_utf8_lossy(&output.stderr));
        Ok(Said { code: output.status.code().unwrap_or(-1), out, text })
    }

    /// Exchanges a token as an agent, with a DPoP proof of a key.
    pub(super) async fn exchange(
        &self,
        agent: &Agent,
        key: &SigningKey,
        parameters: &[(&str, &str)],
    ) -> Result<Answer, Fault> {
        let all = [&[("grant_type", GRANT_TYPE)], parameters].concat();
        self.form("/oauth/token", (agent, Some(key)), &all).await
    }

    /// Sends a form to an OAuth endpoint as a client, with a DPoP proof if there is a key.
    pub(super) async fn form(
        &self,
        path: &str,
        (client, key): (&Agent, Option<&SigningKey>),
        parameters: &[(&str, &str)],
    ) -> Result<Answer, Fault> {
        let mut form = url::form_urlencoded::Serializer::new(String::new());
        form.extend_pairs(parameters).append_pair("client_id", &client.id);
        if let Some(secret) = &client.secret {
            form.append_pair("client_secret", secret);
        }
        let url = format!("{}{path}", self.issuer);
        let mut request = self.http.post(&url).header("content-type", "application/x-www-form-urlencoded");
        if let Some(key) = key {
            request = request.header("dpop", proof(key, ("POST", &url), None)?);
        }
        read(request.body(form.finish())).await
    }

    /// Calls the management API: `/delegate` and its subordinate paths.
    pub(super) async fn call(
        &self,
        caller: &Caller<'_>,
        (method, path): (&str, &str),
        body: Option<&Value>,
    ) -> Result<Answer, Fault> {
        let url = format!("{}{path}", self.issuer);
        let verb = method.parse::<reqwest::Method>().context("naming a method")?;
        let request = self.http.request(verb, &url);
        let request = match caller {
            Caller::User(token) => request.header("authorization", format!("Bearer {token}")),
            Caller::Agent(agent, token) => {
                let htu = url.split('?').next().unwrap_or_default();
                let proof = proof(&agent.key, (method, htu), Some(token))?;
                request.header("authorization", format!("DPoP {token}")).header("dpop", proof)
            }
        };
        match body {
            None => read(request).await,
            Some(body) => {
                read(request.header("content-type", "application/json").body(body.to_string())).await
            }
        }
    }

    /// Fetches a URL as a relying party would.
    pub(super) async fn text(&self, url: &str) -> Result<String, Fault> {
        let response = self.http.get(url).send().await.context("reading a document")?;
        response.text().await.context("reading a document")
    }

    /// Fetches a JSON document of the server.
    pub(super) async fn document(&self, url: &str) -> Result<Value, Fault> {
        serde_json::from_str(&self.text(url).await?).context("reading a document")
    }

    /// Writes a file into the demo's folder, and returns its path.
    pub(super) fn write(&self, name: &str, content: &[u8]) -> Result<String, Fault> {
        let path = self.folder.join(name);
        let written = private_file::create(&path).and_then(|mut file| file.write_all(content));
        written.context("writing a file of the demo")?;
        Ok(path.display().to_string())
    }

    /// Stops the server as an operator would, and removes the folder unless `keep` is set.
    pub(super) async fn strike(mut self, keep: bool) -> Result<bool, Fault> {
        let clean = stop(&mut self.server).await?;
        if keep {
            println!("\nEverything is in {}", self.folder.display());
        } else {
            std::fs::remove_dir_all(&self.folder).context("clearing the demo's folder away")?;
        }
        Ok(clean)
    }
}

/// Stops a server with SIGTERM, so that its database stops, too. Returns whether it exited with 0.
async fn stop(server: &mut Child) -> Result<bool, Fault> {
    if let Some(pid) = server.id().and_then(|pid| i32::try_from(pid).ok()) {
        let pid = nix::unistd::Pid::from_raw(pid);
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).context("stopping the server")?;
    }
    let stopped = tokio::time::timeout(READY, server.wait()).await;
    Ok(stopped.context("stopping the server")?.context("stopping the server")?.success())
}

/// The current time, in seconds since 1970.
pub(super) fn now() -> i64 {
    Clock::System.now().unix_timestamp()
}

/// Makes a DPoP proof for one request (RFC 9449 §4.2) and the access token in it.
fn proof(key: &SigningKey, (method, url): (&str, &str), token: Option<&str>) -> Result<String, Fault> {
    let mut claims = json!({"jti": random::token()?, "htm": method, "htu": url, "iat": now()});
    if let (Some(token), Value::Object(claims)) = (token, &mut claims) {
        claims.insert("ath".into(), json!(base64url::encode(sha256(&[token.as_bytes()]))));
    }
    key.sign_proof("dpop+jwt", &claims)
}

async fn read(request: reqwest::RequestBuilder) -> Result<Answer, Fault> {
    let response = request.send().await.context("asking the server")?;
    let status = response.status().as_u16();
    let text = response.text().await.context("reading an answer")?;
    let body = serde_json::from_str(&text).context(&format!("reading the answer {text}"))?;
    Ok(Answer { status, body })
}

/// This program, with only its data directory configured.
fn command(program: &Path, folder: &Path) -> Command {
    let mut command = Command::new(program);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("ACTCHAIN_") {
            command.env_remove(name);
        }
    }
    command.env("ACTCHAIN_DATA_DIR", folder.join("data")).current_dir(folder);
    command
}

/// Waits for the line that a server prints when it is ready, and reads the issuer from it.
async fn ready(server: &mut Child) -> Result<String, Fault> {
    let stdout = server.stdout.take().ok_or_else(|| Fault::new("the server has no output"))?;
    let mut lines = BufReader::new(stdout).lines();
    let line = tokio::time::timeout(READY, lines.next_line()).await.context("waiting for the server")?;
    let line =
        line.context("waiting for the server")?.ok_or_else(|| Fault::new("the server ended at once"))?;
    let issuer = line.split_whitespace().find(|word| word.starts_with("http://"));
    issuer.map(str::to_owned).ok_or_else(|| Fault::new(format!("the server said {line:?}")))
}
