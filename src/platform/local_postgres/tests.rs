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

async fn open(data_dir: &Path, role: PostgresUser) -> Result<Cluster, Fault> {
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

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    eprintln!("waiting until {what}");
    while !holds() {
        tokio::task::yield_now().await;
    }
}

fn kill_hard(pid: u32) {
    kill(Pid::from_raw(i32::try_from(pid).unwrap()), Signal::SIGKILL).unwrap();
}

/// A zombie, a child that its parent has not waited for, counts as ended.
fn lives(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

/// Starts another process that opens a cluster and waits to be killed. Its standard input names the cluster.
fn other_process(wanted: &str) -> Child {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "platform::local_postgres::tests::opens_what_it_is_told_and_waits"])
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
async fn opens_what_it_is_told_and_waits() {
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

#[tokio::test]
async fn makes_a_durable_private_cluster() {
    let folder = open_folder();
    let cluster = open(&folder.path().join("data"), PostgresUser::Server).await.unwrap();
    assert_eq!(
        show(&cluster, "select current_setting('fsync') || current_setting('synchronous_commit')").await,
        "onon"
    );
    assert_eq!(show(&cluster, "select current_setting('data_checksums')").await, "on");
    assert_eq!(show(&cluster, "select current_setting('listen_addresses')").await, "");
    assert_eq!(show(&cluster, "select current_setting('server_encoding')").await, "UTF8");
    assert_eq!(
        show(&cluster, "select datcollate || current_user from pg_database where datname = 'actchain'").await,
        "Cactchain"
    );
    let home = &cluster.postmaster.place.home;
    assert_eq!(fs::metadata(home).unwrap().mode() & 0o777, 0o700);
    assert!(fs::read_dir(home.join("log")).unwrap().next().is_some());
    let pid = cluster.postmaster_pid().unwrap();
    cluster.close().await.unwrap();
    until("it has ended", || !lives(pid)).await;
}

#[tokio::test]
async fn keeps_its_data_over_a_restart() {
    let folder = open_folder();
    let cluster = open(folder.path(), PostgresUser::Server).await.unwrap();
    write_row(&cluster).await;
    cluster.close().await.unwrap();
    let cluster = open(folder.path(), PostgresUser::Server).await.unwrap();
    assert_eq!(rows(&cluster).await, 1);
    cluster.close().await.unwrap();
}

#[tokio::test]
async fn refuses_a_second_server_and_says_why() {
    let folder = open_folder();
    let first = open(folder.path(), PostgresUser::Server).await.unwrap();
    let fault = open(folder.path(), PostgresUser::Server).await.unwrap_err();
    assert_eq!(
        fault.to_string(),
        format!(
            "another actchain server (process {}) is already running on the data directory {}",
            std::process::id(),
            folder.path().canonicalize().unwrap().display()
        )
    );
    first.close().await.unwrap();
    open(folder.path(), PostgresUser::Server).await.unwrap().close().await.unwrap();
}

#[tokio::test]
async fn commands_come_and_go_beside_a_server() {
    let folder = open_folder();
    let server = open(folder.path(), PostgresUser::Server).await.unwrap();
    let pid = server.postmaster_pid();
    let command = open(folder.path(), PostgresUser::Command).await.unwrap();
    assert_eq!(command.postmaster_pid(), pid);
    command.close().await.unwrap();
    assert_eq!(server.postmaster_pid(), pid);

    // The last process that leaves stops the cluster, whether that is the server or a command.
    let command = open(folder.path(), PostgresUser::Command).await.unwrap();
    server.close().await.unwrap();
    assert_eq!(command.postmaster_pid(), pid);
    command.close().await.unwrap();
    until("it has ended", || !lives(pid.unwrap())).await;
}

#[tokio::test]
async fn a_lone_command_starts_and_stops_it() {
    let folder = open_folder();
    let command = open(folder.path(), PostgresUser::Command).await.unwrap();
    let pid = command.postmaster_pid().unwrap();
    assert_eq!(show(&command, "select 'works'").await, "works");
    command.close().await.unwrap();
    until("it has ended", || !lives(pid)).await;
}

#[tokio::test]
async fn many_at_once_share_one_cluster() {
    let folder = open_folder();
    let opened =
        futures_util::future::join_all((0..8).map(|_| open(folder.path(), PostgresUser::Command))).await;
    let clusters: Vec<Cluster> = opened.into_iter().map(Result::unwrap).collect();
    let pid = clusters[0].postmaster_pid().unwrap();
    assert!(clusters.iter().all(|cluster| cluster.postmaster_pid() == Some(pid)));
    for closed in futures_util::future::join_all(clusters.into_iter().map(Cluster::close)).await {
        closed.unwrap();
    }
    until("it has ended", || !lives(pid)).await;
}

#[tokio::test]
async fn a_dropped_command_stops_it_too_and_the_next_open_copes_with_that() {
    let folder = open_folder();
    let command = open(folder.path(), PostgresUser::Command).await.unwrap();
    let pid = command.postmaster_pid().unwrap();
    drop(command);
    let next = open(folder.path(), PostgresUser::Command).await.unwrap();
    assert_ne!(next.postmaster_pid(), Some(pid));
    next.close().await.unwrap();
}

#[tokio::test]
async fn ensure_running_brings_a_killed_cluster_back() {
    let folder = open_folder();
    let cluster = open(folder.path(), PostgresUser::Server).await.unwrap();
    for round in 1..=3 {
        write_row(&cluster).await;
        let killed = cluster.postmaster_pid().unwrap();
        kill_hard(killed);
        until("it is dead", || cluster.postmaster_pid().is_none()).await;
        cluster.ensure_running().await.unwrap();
        assert_ne!(cluster.postmaster_pid(), Some(killed));
        assert_eq!(rows(&cluster).await, round);
    }
    cluster.close().await.unwrap();
}

/// A session in a long calculation does not notice that the postmaster ended, and keeps its shared memory.
#[tokio::test]
async fn orphans_of_a_killed_cluster_do_not_keep_it_down() {
    let folder = open_folder();
    let cluster = open(folder.path(), PostgresUser::Server).await.unwrap();
    write_row(&cluster).await;
    let mut busy = connect(&cluster).await;
    let orphan: i32 = sqlx::query_scalar("select pg_backend_pid()").fetch_one(&mut busy).await.unwrap();
    let calculation = "do $$ begin loop end loop; end $$";
    let calculating =
        tokio::spawn(async move { sqlx::raw_sql(calculation).execute(&mut busy).await.is_err() });
    let active = "select count(*) from pg_stat_activity where state = 'active' and query like 'do $$%'";
    let mut watcher = connect(&cluster).await;
    while sqlx::query_scalar::<_, i64>(active).fetch_one(&mut watcher).await.unwrap() == 0 {
        tokio::task::yield_now().await;
    }
    kill_hard(cluster.postmaster_pid().unwrap());
    until("it is dead", || cluster.postmaster_pid().is_none()).await;
    let orphan = u32::try_from(orphan).unwrap();
    assert!(lives(orphan));
    cluster.ensure_running().await.unwrap();
    assert!(!lives(orphan));
    assert!(calculating.await.unwrap());
    assert_eq!(rows(&cluster).await, 1);
    cluster.close().await.unwrap();
}

#[tokio::test]
async fn open_recovers_a_cluster_killed_with_its_server() {
    let folder = open_folder();
    let cluster = open(folder.path(), PostgresUser::Server).await.unwrap();
    write_row(&cluster).await;
    cluster.close().await.unwrap();
    let mut server = other_process(folder.path().to_str().unwrap());
    let (pid, _) = opened(&mut server);
    kill_process(server);
    kill_hard(pid);
    let cluster = open(folder.path(), PostgresUser::Server).await.unwrap();
    assert_eq!(rows(&cluster).await, 1);
    cluster.close().await.unwrap();
}

#[tokio::test]
async fn open_adopts_the_cluster_of_a_killed_server() {
    let folder = open_folder();
    let mut server = other_process(folder.path().to_str().unwrap());
    let (pid, _) = opened(&mut server);
    let fault = open(folder.path(), PostgresUser::Server).await.unwrap_err().to_string();
    assert!(fault.contains(&format!("another actchain server (process {})", server.id())), "{fault}");
    kill_process(server);
    let cluster = open(folder.path(), PostgresUser::Server).await.unwrap();
    assert_eq!(cluster.postmaster_pid(), Some(pid));
    cluster.close().await.unwrap();
    until("it has ended", || !lives(pid)).await;
}

/// After a container restarts, the recorded id often belongs to another process, even to the test itself.
#[tokio::test]
async fn a_stale_pid_file_that_names_a_living_process_is_overcome() {
    let folder = open_folder();
    let cluster = open(folder.path(), PostgresUser::Command).await.unwrap();
    let (pid_file, socket_pid_file) =
        (cluster.postmaster.place.pid_file(), cluster.postmaster.place.socket_pid_file());
    let account = cluster.postmaster.place.account.clone();
    cluster.close().await.unwrap();
    let mut stranger = account.command(Path::new("/bin/sleep"), Path::new("/")).arg("600").spawn().unwrap();
    for content in [format!("{}\n", stranger.id()), String::new()] {
        fs::write(&pid_file, &content).unwrap();
        fs::write(&socket_pid_file, &content).unwrap();
        let cluster = open(folder.path(), PostgresUser::Server).await.unwrap();
        assert_eq!(show(&cluster, "select 'works'").await, "works");
        cluster.close().await.unwrap();
    }
    assert!(stranger.try_wait().unwrap().is_none());
    stranger.kill().unwrap();
    stranger.wait().unwrap();
}

#[tokio::test]
async fn an_init_interrupted_by_a_kill_is_begun_again() {
    let folder = open_folder();
    let unfinished = folder.path().join("postgres/cluster.new");
    let server = other_process(folder.path().to_str().unwrap());
    until("initdb works", || unfinished.join("base").exists()).await;
    kill_process(server);
    let cluster = open(folder.path(), PostgresUser::Server).await.unwrap();
    assert_eq!(show(&cluster, "select 'works'").await, "works");
    assert!(!unfinished.exists());
    cluster.close().await.unwrap();
}

#[tokio::test]
async fn a_cancelled_init_is_begun_again() {
    let folder = open_folder();
    let unfinished = folder.path().join("postgres/cluster.new");
    let mut opening = Box::pin(open(folder.path(), PostgresUser::Server));
    // The future makes progress only when it is polled, and needs several polls from here to complete.
    while !unfinished.join("base").exists() {
        assert!(futures_util::poll!(&mut opening).is_pending());
        tokio::task::yield_now().await;
    }
    drop(opening);
    let cluster = open(folder.path(), PostgresUser::Server).await.unwrap();
    assert_eq!(show(&cluster, "select 'works'").await, "works");
    assert!(!unfinished.exists());
    cluster.close().await.unwrap();
}

#[tokio::test]
async fn deep_and_odd_data_directories_work() {
    let folder = open_folder();
    let data_dir = folder.path().join("a \"$HOME\", 'b'; ünï").join("deep".repeat(30));
    let cluster = open(&data_dir, PostgresUser::Server).await.unwrap();
    let sockets = cluster.postmaster.place.sockets.clone();
    assert!(sockets.starts_with("/tmp"));
    assert_eq!(fs::metadata(&sockets).unwrap().mode() & 0o777, 0o700);
    assert_eq!(show(&cluster, "select 'works'").await, "works");
    cluster.close().await.unwrap();
    assert!(!sockets.exists());

    let data_dir = folder.path().join("a \"b\", c");
    let cluster = open(&data_dir, PostgresUser::Server).await.unwrap();
    assert!(cluster.postmaster.place.sockets.starts_with(data_dir.canonicalize().unwrap()));
    cluster.close().await.unwrap();
}

#[tokio::test]
async fn a_socket_folder_made_by_somebody_else_is_passed_over() {
    let folder = open_folder();
    let data_dir = folder.path().join("deep".repeat(30));
    let taken = {
        let cluster = open(&data_dir, PostgresUser::Server).await.unwrap();
        let taken = cluster.postmaster.place.sockets.clone();
        cluster.close().await.unwrap();
        taken
    };
    fs::create_dir(&taken).unwrap();
    fs::set_permissions(&taken, fs::Permissions::from_mode(0o777)).unwrap();
    let cluster = open(&data_dir, PostgresUser::Server).await.unwrap();
    assert_ne!(cluster.postmaster.place.sockets, taken);
    cluster.close().await.unwrap();
    fs::remove_dir(&taken).unwrap();
}

#[tokio::test]
async fn below_a_folder_of_root_alone_it_lives_elsewhere() {
    if !geteuid().is_root() {
        return;
    }
    let folder = TempDir::new().unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o700)).unwrap();
    let data_dir = folder.path().join("data");
    let cluster = open(&data_dir, PostgresUser::Server).await.unwrap();
    let home = cluster.postmaster.place.home.clone();
    assert!(home.starts_with("/var/lib/actchain"));
    assert_ne!(fs::metadata(&home).unwrap().uid(), 0);
    write_row(&cluster).await;
    cluster.close().await.unwrap();
    let cluster = open(&data_dir, PostgresUser::Command).await.unwrap();
    assert_eq!(cluster.postmaster.place.home, home);
    assert_eq!(rows(&cluster).await, 1);
    cluster.close().await.unwrap();

    // A removed data directory means that its database is no longer wanted: a new one is made.
    fs::remove_dir_all(&data_dir).unwrap();
    let cluster = open(&data_dir, PostgresUser::Server).await.unwrap();
    let anew = cluster.postmaster.place.home.clone();
    assert_ne!(anew, home);
    cluster.close().await.unwrap();

    fs::remove_dir_all(&anew).unwrap();
    let fault = open(&data_dir, PostgresUser::Server).await.unwrap_err().to_string();
    assert!(fault.contains("where there is none"), "{fault}");
    fs::remove_dir_all(&home).unwrap();
}

fn fake_postgres(folder: &Path, version: &str) {
    for name in ["postgres", "initdb"] {
        let file = folder.join(name);
        fs::write(&file, format!("#!/bin/sh\necho 'postgres (PostgreSQL) {version}'\n")).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
    }
}

#[tokio::test]
async fn missing_or_old_programs_are_named_in_one_sentence() {
    let (folder, programs) = (open_folder(), open_folder());
    let told = async |data_dir: &Path| {
        let settings = Settings { bin_dir: Some(programs.path().to_owned()), ..settings(data_dir) };
        Cluster::open(settings, PostgresUser::Server).await.unwrap_err().to_string()
    };
    let advice =
        "install it (package `postgresql`), or set ACTCHAIN_DATABASE_URL to a database that already exists";
    let place = programs.path().display();
    assert_eq!(
        told(folder.path()).await,
        format!("PostgreSQL 15 or newer was not found in {place}: {advice}")
    );
    fake_postgres(programs.path(), "14.2");
    assert_eq!(
        told(folder.path()).await,
        format!("PostgreSQL 15 or newer was not found in {place} (only 14 in {place}): {advice}")
    );

    open(folder.path(), PostgresUser::Command).await.unwrap().close().await.unwrap();
    fake_postgres(programs.path(), "99.1");
    let fault = told(folder.path()).await;
    assert!(fault.contains("which made the database in the data directory, was not found"), "{fault}");
}

#[tokio::test]
async fn programs_on_the_path_are_found_where_links_lead() {
    let folder = open_folder();
    let links = open_folder();
    let cluster = open(folder.path(), PostgresUser::Command).await.unwrap();
    let Settings { path, .. } = settings(folder.path());
    let search = Search { bin_dir: None, path: path.as_deref() };
    let account = &cluster.postmaster.place.account;
    let real = search.run(account, None).unwrap();
    std::os::unix::fs::symlink(real.postgres(), links.path().join("postgres")).unwrap();
    let linked = Search { bin_dir: None, path: Some(links.path().as_os_str()) }.run(account, None).unwrap();
    assert_eq!((&linked.folder, linked.major), (&real.folder, real.major));
    assert!(Search { bin_dir: None, path: None }.run(account, None).is_ok());
    cluster.close().await.unwrap();
}

#[test]
fn versions_are_read_from_every_kind_of_build() {
    for (text, major) in [
        ("postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)", Some(15)),
        ("postgres (PostgreSQL) 19devel", Some(19)),
        ("postgres (PostgreSQL) 17beta1\n", Some(17)),
        ("no such thing", None),
    ] {
        assert_eq!(discover::major_version(text), major);
    }
}

#[tokio::test]
async fn a_start_that_cannot_succeed_quotes_the_log() {
    let folder = open_folder();
    let cluster = open(folder.path(), PostgresUser::Command).await.unwrap();
    let configuration = cluster.postmaster.place.cluster().join("postgresql.conf");
    cluster.close().await.unwrap();
    fs::write(configuration, "nonsense = 1\n").unwrap();
    let fault = open(folder.path(), PostgresUser::Command).await.unwrap_err().to_string();
    assert!(fault.contains("unrecognized configuration parameter \"nonsense\""), "{fault}");
}

#[tokio::test]
async fn it_does_not_belong_to_the_process_group_of_its_server() {
    let folder = open_folder();
    let cluster = open(folder.path(), PostgresUser::Server).await.unwrap();
    let pid = Pid::from_raw(i32::try_from(cluster.postmaster_pid().unwrap()).unwrap());
    assert_ne!(nix::unistd::getpgid(Some(pid)).unwrap(), nix::unistd::getpgrp());
    cluster.close().await.unwrap();
}

#[tokio::test]
async fn a_throwaway_is_gone_when_closed_or_dropped() {
    for close in [true, false] {
        let cluster = Cluster::throwaway(None, None, Durability::Off).await.unwrap();
        assert_eq!(show(&cluster, "select current_setting('fsync')").await, "off");
        let data_dir = cluster.postmaster.place.data_dir.clone();
        let pid = cluster.postmaster_pid().unwrap();
        if close {
            cluster.close().await.unwrap();
            assert!(!data_dir.exists());
        } else {
            drop(cluster);
        }
        until("it is gone", || !lives(pid) && !data_dir.exists()).await;
    }
}

#[tokio::test]
async fn a_throwaway_is_gone_when_its_maker_is_killed() {
    let mut maker = other_process("throwaway");
    let (pid, data_dir) = opened(&mut maker);
    assert!(lives(pid) && data_dir.exists());
    kill_process(maker);
    until("it is gone", || !lives(pid) && !data_dir.exists()).await;
}

#[tokio::test]
async fn an_unfinished_throwaway_is_gone_when_its_maker_is_killed() {
    let maker = other_process("throwaway");
    let data_dir = PathBuf::from(format!("/tmp/actchain-throwaway-{}-0", maker.id()));
    until("initdb works", || data_dir.join("postgres/cluster.new/base").exists()).await;
    kill_process(maker);
    until("it is gone", || !data_dir.exists()).await;
}
