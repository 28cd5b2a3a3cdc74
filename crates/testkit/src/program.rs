//! The program itself: servers and commands in processes of their own, on the data directory of a temporary folder.

use std::fs::{File, OpenOptions, Permissions};
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

/// The program, with a folder that is removed at the end.
pub struct Program {
    path: &'static str,
    folder: TempDir,
}

/// A server, and the URL at which it listens.
pub struct ServerProcess {
    pub child: Child,
    pub base: String,
    /// The signal that ends the process when this value is dropped: SIGKILL, as in a crash, unless it is changed.
    pub last_signal: Signal,
}

impl ServerProcess {
    /// A process that was started in another way than by [`Program::serve`].
    pub fn of(child: Child) -> Self {
        Self { child, base: String::new(), last_signal: Signal::SIGKILL }
    }

    /// Waits until the server says that it is ready; `None` if it ends instead.
    pub fn ready(mut self) -> Option<Self> {
        let mut line = String::new();
        BufReader::new(self.child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        line.split_whitespace().next_back()?.clone_into(&mut self.base);
        Some(self)
    }
}

impl Drop for ServerProcess {
    fn drop(&mut self) {
        // A process that a test has waited for has no id any more.
        if let Ok(None) = self.child.try_wait() {
            signal(self.child.id(), self.last_signal);
        }
        let _ = self.child.wait();
    }
}

/// Sends a signal. A process that has ended meanwhile is no error.
pub fn signal(pid: u32, signal: Signal) {
    let _ = kill(Pid::from_raw(pid.try_into().unwrap()), signal);
}

impl Program {
    /// `path` is `env!("CARGO_BIN_EXE_actchain")`, which cargo sets for tests and benchmarks only.
    pub fn new(path: &'static str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        // Under root, PostgreSQL runs as another account, which must be able to traverse the folder.
        std::fs::set_permissions(folder.path(), Permissions::from_mode(0o711)).unwrap();
        Self { path, folder }
    }

    pub fn data_dir(&self) -> PathBuf {
        self.path("data")
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The program with only the data directory configured.
    pub fn command(&self) -> Command {
        self.configured(Command::new(self.path))
    }

    /// Like [`Self::command`], started by another program that takes the command line after its own arguments.
    pub fn wrapped(&self, program: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(program);
        command.args(arguments).arg(self.path);
        self.configured(command)
    }

    fn configured(&self, mut command: Command) -> Command {
        for (name, _) in
            std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("ACTCHAIN_"))
        {
            command.env_remove(name);
        }
        command.env("ACTCHAIN_DATA_DIR", self.data_dir()).current_dir(self.folder.path());
        command
    }

    /// Starts a server on a free port, and waits until it is ready.
    ///
    /// # Errors
    /// The log of a server that ended instead.
    pub fn serve(&self, mut command: Command) -> Result<ServerProcess, String> {
        let log: File = OpenOptions::new().create(true).append(true).open(self.path("server.log")).unwrap();
        command.arg("serve").env("ACTCHAIN_LISTEN", "127.0.0.1:0").stdout(Stdio::piped()).stderr(log);
        let server = ServerProcess::of(command.spawn().unwrap()).ready();
        server.ok_or_else(|| std::fs::read_to_string(self.path("server.log")).unwrap())
    }

    /// Writes a manifest, and applies it by a command.
    pub fn apply(&self, mut command: Command, name: &str, yaml: &str) {
        let file = self.path(name);
        std::fs::write(&file, yaml).unwrap();
        let applied = command.args(["apply", "-f"]).arg(&file).output().unwrap();
        assert!(applied.status.success(), "{}", String::from_utf8_lossy(&applied.stderr));
    }
}
