//! Makes, starts and stops one cluster, and restarts it after any crash.

use std::ffi::{OsStr, OsString};
use std::fs::{self, OpenOptions};
use std::io::ErrorKind;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use sqlx::{Connection, PgConnection};
use tokio::time::{Instant, sleep, timeout};

use super::data_dir::{DataDir, NAME, PORT};
use super::discover::Programs;
use super::lock::StartLock;
use crate::error::{Context, Error};

const START_LIMIT: Duration = Duration::from_secs(30);
const INIT_LIMIT: Duration = Duration::from_secs(120);
const STOP_LIMIT: Duration = Duration::from_secs(20);
const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// How long the processes of a killed postmaster may take to end by themselves before they are killed.
const ORPHAN_LIMIT: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(10);

/// Settings for a small server. Passed on the command line, so that a newer actchain changes them for existing
/// clusters too. Failed statements are not logged, since they may contain secrets.
const SETTINGS: [&str; 14] = [
    "listen_addresses=",
    "unix_socket_permissions=0700",
    "max_connections=100",
    "shared_buffers=128MB",
    "jit=off",
    "timezone=UTC",
    "log_timezone=UTC",
    "logging_collector=on",
    "log_destination=stderr",
    "log_filename=postgresql-%a.log",
    "log_truncate_on_rotation=on",
    "log_rotation_age=1d",
    "log_rotation_size=0",
    "log_min_error_statement=panic",
];

/// Whether committed data must survive a crash of the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// As PostgreSQL does it by default.
    On,
    /// Faster; allowed only for throwaway clusters.
    Off,
}

#[derive(Debug)]
pub(crate) struct Postmaster {
    pub(crate) place: DataDir,
    programs: Programs,
    durability: Durability,
    /// Process id of the last postmaster that this process started, until it is reaped; 0 for none.
    child: AtomicI32,
}

impl Postmaster {
    pub(crate) fn new(place: DataDir, programs: Programs, durability: Durability) -> Self {
        Self { place, programs, durability, child: AtomicI32::new(0) }
    }

    /// The process id, if the postmaster runs. Reads only two or three small files.
    pub(crate) fn pid(&self) -> Option<Pid> {
        pid_in(&self.place.pid_file()).filter(|pid| self.is_working(*pid))
    }

    /// A command for one of PostgreSQL's client programs, with the options that connect it to this cluster.
    pub(crate) fn client(&self, program: &str) -> std::process::Command {
        let mut command = self.place.account.command(&self.programs.folder.join(program), &self.place.home);
        command.arg("--host").arg(&self.place.sockets).args([
            "--port",
            &PORT.to_string(),
            "--username",
            NAME,
        ]);
        command
    }

    /// Makes the cluster accept connections, whatever state it is in.
    pub(crate) async fn run(&self, deciding: &StartLock) -> Result<(), Error> {
        if self.place.made_by().is_none() {
            self.make(deciding).await?;
        }
        let began = Instant::now();
        while began.elapsed() < START_LIMIT {
            if self.gave_up() {
                return Err(self.failed("PostgreSQL ended right after its start"));
            }
            if self.pid().is_some() {
                if self.answers().await {
                    return Ok(());
                }
            } else if self.child.load(Ordering::Relaxed) == 0 && self.orphans_have_ended(began) {
                self.spawn()?;
            }
            sleep(PAUSE).await;
        }
        // The postmaster keeps running: a long recovery goes on, and the next start finds it further on or complete.
        Err(self.failed("PostgreSQL did not get ready in time"))
    }

    /// Also ends the sessions of other processes; committed data is kept.
    pub(crate) async fn stop(&self, _deciding: &StartLock) -> Result<(), Error> {
        let Some(pid) = self.pid() else { return Ok(()) };
        for signal in [Signal::SIGINT, Signal::SIGQUIT, Signal::SIGKILL] {
            // An error means that the process has just ended, which is fine.
            kill(pid, signal).ok();
            let asked = Instant::now();
            while asked.elapsed() < STOP_LIMIT {
                self.reap();
                if !self.is_working(pid) {
                    self.logger_ended().await;
                    self.place.tidy();
                    return Ok(());
                }
                sleep(PAUSE).await;
            }
        }
        Err(self.failed("PostgreSQL did not stop"))
    }

    /// The logger ends after the postmaster, as soon as no other process can write to it.
    async fn logger_ended(&self) {
        let began = Instant::now();
        while !self.orphans_have_ended(began) && began.elapsed() < STOP_LIMIT {
            sleep(PAUSE).await;
        }
    }

    /// Starts a stop without waiting for its end.
    pub(crate) fn stop_soon(&self, _deciding: &StartLock) {
        if let Some(pid) = self.pid() {
            kill(pid, Signal::SIGINT).ok();
        }
    }

    /// Makes the cluster under a temporary name and then renames the folder, so an incomplete cluster is never used.
    async fn make(&self, deciding: &StartLock) -> Result<(), Error> {
        let unfinished = self.place.unfinished_cluster();
        match fs::remove_dir_all(&unfinished) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(Error::caused(format!("removing {}", unfinished.display()), error));
            }
            _ => {}
        }
        let mut initdb = self.place.account.command(&self.programs.initdb(), &self.place.home);
        initdb.arg("-D").arg(&unfinished).args(["--username", NAME, "--encoding=UTF8", "--locale=C"]);
        // Only the owner can enter the folder, which keeps other users out. `peer` would need a mapping for root,
        // which runs the server in many containers.
        initdb.args(["--auth-local=trust", "--auth-host=reject", "--data-checksums", "--no-instructions"]);
        if self.durability == Durability::Off {
            initdb.arg("--no-sync");
        }
        // If this process is killed, the orphaned `initdb` keeps the lock, so no other process makes a cluster in the
        // same folder.
        initdb.stdin(deciding.lend()?);
        let output = tokio::process::Command::from(initdb).kill_on_drop(true).output();
        let output = timeout(INIT_LIMIT, output).await.context("making the database took too long")?;
        let output = output.context(&format!("running {}", self.programs.initdb().display()))?;
        if !output.status.success() {
            let lines = last_lines(&String::from_utf8_lossy(&output.stderr));
            return Err(Error::new(format!("initdb could not make the database: {lines}")));
        }
        fs::rename(&unfinished, self.place.cluster()).context("moving the new database to its place")?;
        fs::File::open(&self.place.home)
            .and_then(|home| home.sync_all())
            .context("syncing the database's folder")
    }

    fn spawn(&self) -> Result<(), Error> {
        for file in [self.place.pid_file(), self.place.socket_pid_file()] {
            self.remove_if_stale(&file)?;
        }
        let program = self.programs.postgres();
        let what = format!("starting {}", program.display());
        let log = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .custom_flags(nix::fcntl::OFlag::O_NOFOLLOW.bits())
            .open(self.place.start_log())
            .context(&what)?;
        let mut command = self.place.account.command(&program, &self.place.home);
        command.arg("-D").arg(self.place.cluster()).arg("-p").arg(PORT.to_string());
        for setting in self.settings() {
            command.arg("-c").arg(setting);
        }
        command.stdout(log.try_clone().context(&what)?).stderr(log);
        // Ctrl-C in a terminal reaches the whole process group, but the server still needs its database to drain.
        command.process_group(0);
        self.child.store(start_detached(command).context(&what)?, Ordering::Relaxed);
        Ok(())
    }

    fn settings(&self) -> Vec<OsString> {
        let durability: &[&str] = match self.durability {
            Durability::On => &["fsync=on", "full_page_writes=on", "synchronous_commit=on"],
            Durability::Off => &["fsync=off", "full_page_writes=off", "synchronous_commit=off"],
        };
        let mut settings: Vec<OsString> = SETTINGS.iter().chain(durability).map(OsString::from).collect();
        settings.push(format!("cluster_name={}", self.place.title()).into());
        settings.push(setting("log_directory=", self.place.logs().as_os_str().as_bytes()));
        settings.push(setting("unix_socket_directories=", &quoted(&self.place.sockets)));
        settings
    }

    /// PostgreSQL takes any running process with the recorded id for its postmaster. After a restart of a container or
    /// machine, that id often belongs to another process. Callers make sure that no process works on the cluster.
    fn remove_if_stale(&self, file: &Path) -> Result<(), Error> {
        let stale = file.exists() && pid_in(file).is_none_or(|pid| self.works_here(pid) == Some(false));
        if stale {
            fs::remove_file(file).context(&format!("removing the stale {}", file.display()))?;
        }
        Ok(())
    }

    /// Whether the postmaster that this process started has ended for a reason that a retry does not fix.
    fn gave_up(&self) -> bool {
        let Some(WaitStatus::Exited(_, _)) = self.reap() else { return false };
        let passing = ["pre-existing shared memory block", "lock file \""];
        let log = self.log_end();
        self.pid().is_none() && !passing.iter().any(|reason| log.contains(reason))
    }

    fn reap(&self) -> Option<WaitStatus> {
        let child = self.child.load(Ordering::Relaxed);
        if child == 0 {
            return None;
        }
        let status = waitpid(Pid::from_raw(child), Some(WaitPidFlag::WNOHANG));
        if status == Ok(WaitStatus::StillAlive) {
            return None;
        }
        self.child.store(0, Ordering::Relaxed);
        status.ok()
    }

    /// Processes of a killed postmaster keep its shared memory, and a new postmaster must not start beside them. Kills
    /// them after [`ORPHAN_LIMIT`].
    fn orphans_have_ended(&self, since: Instant) -> bool {
        let orphans = self.processes();
        if since.elapsed() > ORPHAN_LIMIT {
            for pid in &orphans {
                // As safe as the crash that orphaned the process. An error means that the process has already ended.
                kill(*pid, Signal::SIGKILL).ok();
            }
        }
        orphans.is_empty()
    }

    fn processes(&self) -> Vec<Pid> {
        let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
        let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).map(Pid::from_raw);
        pids.filter(|pid| self.works_here(*pid) == Some(true)).collect()
    }

    fn is_working(&self, pid: Pid) -> bool {
        self.works_here(pid).unwrap_or_else(|| kill(pid, None).is_ok())
    }

    /// Whether a process belongs to this cluster; `None` if that cannot be determined. Zombies belong to none. The
    /// working folder is the surest sign, but root in a container may not be allowed to read it.
    fn works_here(&self, pid: Pid) -> Option<bool> {
        let about = PathBuf::from(format!("/proc/{pid}"));
        let name = fs::read_to_string(about.join("comm")).ok()?;
        if !name.contains("postgres") {
            return Some(false);
        }
        if let (Ok(there), Ok(here)) = (fs::metadata(about.join("cwd")), fs::metadata(self.place.cluster())) {
            return Some(there.dev() == here.dev() && there.ino() == here.ino());
        }
        let arguments = fs::read(about.join("cmdline")).ok()?;
        let title = format!("postgres: {}: ", self.place.title());
        let cluster = self.place.cluster();
        let mut arguments = arguments.split(|byte| *byte == 0).map(OsStr::from_bytes).peekable();
        let titled = arguments.peek().is_some_and(|first| first.as_bytes().starts_with(title.as_bytes()));
        Some(titled || arguments.any(|argument| argument == cluster.as_os_str()))
    }

    async fn answers(&self) -> bool {
        let options = self.place.connect_options(NAME);
        match timeout(CONNECT_LIMIT, PgConnection::connect_with(&options)).await {
            Ok(Ok(connection)) => {
                connection.close().await.ok();
                true
            }
            Ok(Err(sqlx::Error::Database(refusal))) => match refusal.code().as_deref() {
                Some("3D000") => self.make_database().await.is_ok(),
                // `too_many_connections`: the server is up and busy.
                Some("53300") => true,
                _ => false,
            },
            _ => false,
        }
    }

    async fn make_database(&self) -> Result<(), Error> {
        let making = async {
            let mut connection = PgConnection::connect_with(&self.place.connect_options("postgres")).await?;
            sqlx::raw_sql("CREATE DATABASE actchain").execute(&mut connection).await?;
            connection.close().await
        };
        making.await.context("making the database actchain")
    }

    fn failed(&self, what: &str) -> Error {
        Error::new(format!("{what} in {}; its log ends with: {}", self.place.home.display(), self.log_end()))
    }

    /// The end of the newest log file. PostgreSQL logs to the start log until its collector runs, and to the
    /// collector's files after that.
    fn log_end(&self) -> String {
        let files = fs::read_dir(self.place.logs()).into_iter().flatten().flatten().map(|entry| entry.path());
        let files = std::iter::once(self.place.start_log()).chain(files);
        let latest = files.max_by_key(|file| fs::metadata(file).and_then(|found| found.modified()).ok());
        let text = latest.and_then(|file| fs::read(file).ok()).unwrap_or_default();
        last_lines(&String::from_utf8_lossy(&text))
    }
}

/// The child runs longer than this process by design, so only [`Postmaster::reap`] waits for it.
fn start_detached(mut command: std::process::Command) -> std::io::Result<i32> {
    let child = command.spawn()?;
    i32::try_from(child.id()).map_err(std::io::Error::other)
}

fn pid_in(file: &Path) -> Option<Pid> {
    let text = fs::read_to_string(file).ok()?;
    let pid: i32 = text.lines().next()?.trim().parse().ok()?;
    (pid > 1).then(|| Pid::from_raw(pid))
}

fn setting(name: &str, value: &[u8]) -> OsString {
    OsString::from_vec([name.as_bytes(), value].concat())
}

/// The setting is a list: without quotes, a comma would split the folder's name.
fn quoted(folder: &Path) -> Vec<u8> {
    let mut text = vec![b'"'];
    for byte in folder.as_os_str().as_bytes() {
        text.extend(std::iter::repeat_n(*byte, if *byte == b'"' { 2 } else { 1 }));
    }
    text.push(b'"');
    text
}

pub(crate) fn last_lines(text: &str) -> String {
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    lines.get(lines.len().saturating_sub(8)..).unwrap_or_default().join(" | ")
}
