//! Tests with the real PostgreSQL of this machine.

mod crashes;
mod folders;
mod programs;
mod throwaways;
mod use_of_a_cluster;

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use sqlx::{Connection, PgConnection};
use tempfile::TempDir;

use super::*;

/// The mode lets every user enter the folder, as in the usual parents of a data directory.
fn open_folder() -> TempDir {
    let folder = TempDir::new().unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    folder
}

fn settings(data_dir: &Path) -> Settings {
    Settings { data_dir: data_dir.to_owned(), bin_dir: None, path: std::env::var_os("PATH") }
}

async fn open(data_dir: &Path, role: PostgresUser) -> Result<Cluster, Error> {
    Cluster::open(settings(data_dir), role).await
}

async fn connect(cluster: &Cluster) -> PgConnection {
    PgConnection::connect_with(&cluster.connect_options("actchain")).await.unwrap()
}

async fn show(cluster: &Cluster, query: &'static str) -> String {
    sqlx::query_scalar(query).fetch_one(&mut connect(cluster).await).await.unwrap()
}

async fn write_row(cluster: &Cluster) {
    let sql = "create table if not exists kept (n int); insert into kept values (1)";
    sqlx::raw_sql(sql).execute(&mut connect(cluster).await).await.unwrap();
}

async fn rows(cluster: &Cluster) -> i64 {
    sqlx::query_scalar("select count(*) from kept").fetch_one(&mut connect(cluster).await).await.unwrap()
}

async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    eprintln!("waiting until {what}");
    while !condition() {
        tokio::task::yield_now().await;
    }
}

fn kill_hard(pid: u32) {
    kill(Pid::from_raw(i32::try_from(pid).unwrap()), Signal::SIGKILL).unwrap();
}

/// A zombie, a child that its parent has not waited for, counts as ended.
fn is_running(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

/// Starts another process that opens a cluster and waits to be killed. Its standard input names the cluster.
fn other_process(wanted: &str) -> Child {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "tests::opens_the_cluster_of_its_input_and_waits"])
        .args(["--ignored", "--nocapture"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    writeln!(child.stdin.as_mut().unwrap(), "{wanted}").unwrap();
    child
}

/// Not a test: the code that `other_process` runs.
#[tokio::test]
#[ignore = "run by other tests"]
async fn opens_the_cluster_of_its_input_and_waits() {
    let mut wanted = String::new();
    std::io::stdin().read_line(&mut wanted).unwrap();
    let cluster = match wanted.trim() {
        "" => return,
        "throwaway" => Cluster::throwaway(None, None, Durability::On).await.unwrap(),
        data_dir => open(Path::new(data_dir), PostgresUser::Server).await.unwrap(),
    };
    println!(
        "\nopened {} {}",
        cluster.postmaster_pid().unwrap(),
        cluster.postmaster.place.data_dir.display()
    );
    std::io::stdin().read_line(&mut wanted).unwrap();
}

/// Waits until the other process has its cluster. Returns the postmaster's process id and the data directory.
fn opened(child: &mut Child) -> (u32, PathBuf) {
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    let line = lines.find_map(|line| line.strip_prefix("opened ").map(str::to_owned)).unwrap();
    let (pid, data_dir) = line.split_once(' ').unwrap();
    (pid.parse().unwrap(), PathBuf::from(data_dir))
}

fn kill_process(mut child: Child) {
    child.kill().unwrap();
    child.wait().unwrap();
}
