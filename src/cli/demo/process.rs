//! The demo's environment: a real server in its own process, and real commands beside it.

use std::fs::DirBuilder;
use std::io::Write as _;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::{Child, Command};

use super::detail::Detail;
use crate::platform::fault::{Context, Fault};
use crate::platform::private_file;
use actchain_protocol::jose::Jws;
use actchain_protocol::{base64url, random};

const READY: Duration = Duration::from_secs(60);

/// A running server with a data directory of its own.
pub(super) struct DemoProcess {
    program: PathBuf,
    pub(super) folder: PathBuf,
    pub(super) issuer: String,
    server: Child,
    detail: Detail,
}

/// The result of a command.
pub(super) struct CommandOutput {
    pub(super) code: i32,
    pub(super) stdout: String,
    pub(super) stderr: String,
}

impl CommandOutput {
    /// The last line of standard output, which has the result of most commands.
    pub(super) fn last_line(&self) -> &str {
        self.stdout.lines().last().unwrap_or_default()
    }
}

/// What becomes of the demo's folder at the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FolderAtEnd {
    Removed,
    Kept,
}

impl DemoProcess {
    /// Starts a server with the embedded default database.
    pub(super) async fn set(detail: Detail) -> Result<Self, Fault> {
        let program = std::env::current_exe().context("finding this program")?;
        let name = base64url::encode(random::bytes::<9>()?);
        let folder = std::env::temp_dir().join(format!("actchain-demo-{name}"));
        let root = nix::unistd::geteuid().is_root();
        // Under root, PostgreSQL runs as another account, which needs to traverse the folder.
        let mode = if root { 0o711 } else { 0o700 };
        DirBuilder::new().mode(mode).create(&folder).context("making a folder for the demo")?;
        match Self::start(program, folder.clone(), detail).await {
            Ok(process) => Ok(process),
            Err(fault) => {
                let log = std::fs::read_to_string(folder.join("server.log")).unwrap_or_default();
                // A failed removal must not hide why the server did not start.
                drop(std::fs::remove_dir_all(&folder));
                Err(Fault::new(format!("{fault}\n{log}")))
            }
        }
    }

    async fn start(program: PathBuf, folder: PathBuf, detail: Detail) -> Result<Self, Fault> {
        let log = private_file::create(&folder.join("server.log")).context("making the server's log")?;
        let mut server = command(&program, &folder)
            .arg("serve")
            .env("ACTCHAIN_LISTEN", "127.0.0.1:0")
            // A slow machine plays the same story.
            .env("ACTCHAIN_LEDGER_TIMEOUT", "60s")
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
        Ok(Self { program, folder, issuer, server, detail })
    }

    /// Runs a command against the running server's data directory.
    pub(super) async fn run(&self, arguments: &[&str]) -> Result<CommandOutput, Fault> {
        self.run_reading(arguments, "").await
    }

    /// Like [`Self::run`], with text for standard input.
    pub(super) async fn run_reading(&self, arguments: &[&str], input: &str) -> Result<CommandOutput, Fault> {
        let mut child = command(&self.program, &self.folder)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // A demo that ends early must not leave a user of its database behind.
            .kill_on_drop(true)
            .spawn()
            .context("running a command")?;
        if let Some(mut stdin) = child.stdin.take() {
            // A command that closed its input early has failed; its output says why.
            drop(stdin.write_all(input.as_bytes()).await);
        }
        let output = child.wait_with_output().await.context("running a command")?;
        let [stdout, stderr] =
            [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        let code = output.status.code().unwrap_or(-1);
        self.detail.raw(format_args!("$ actchain {}\n{stdout}{stderr}", shown(arguments)));
        Ok(CommandOutput { code, stdout, stderr })
    }

    /// Writes a file into the demo's folder, and returns its path.
    pub(super) fn write(&self, name: &str, content: &[u8]) -> Result<String, Fault> {
        let path = self.folder.join(name);
        let written = private_file::create(&path).and_then(|mut file| file.write_all(content));
        written.context("writing a file of the demo")?;
        Ok(path.display().to_string())
    }

    /// Stops the server as an operator would. Returns its exit status.
    pub(super) async fn end(mut self, folder: FolderAtEnd) -> Result<ExitStatus, Fault> {
        let status = stop(&mut self.server).await?;
        match folder {
            FolderAtEnd::Kept => println!("\nThe server's data and log are in {}.", self.folder.display()),
            FolderAtEnd::Removed => {
                std::fs::remove_dir_all(&self.folder).context("removing the demo's folder")?;
            }
        }
        Ok(status)
    }
}

/// Stops a server with SIGTERM, so that its database stops, too.
async fn stop(server: &mut Child) -> Result<ExitStatus, Fault> {
    if let Some(pid) = server.id().and_then(|pid| i32::try_from(pid).ok()) {
        let pid = nix::unistd::Pid::from_raw(pid);
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).context("stopping the server")?;
    }
    let stopped = tokio::time::timeout(READY, server.wait()).await;
    stopped.context("stopping the server")?.context("stopping the server")
}

/// The arguments of a command for output, without tokens.
fn shown(arguments: &[&str]) -> String {
    let shown = |argument: &&str| if Jws::parse(argument).is_some() { "TOKEN" } else { *argument }.to_owned();
    arguments.iter().map(shown).collect::<Vec<_>>().join(" ")
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
