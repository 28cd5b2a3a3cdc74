//! Servers and commands that use one cluster.

use nix::unistd::Pid;

use super::*;

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
    until("it has ended", || !is_running(pid)).await;
}

#[tokio::test]
async fn a_closed_cluster_has_no_process_left_even_if_its_logger_is_slow() {
    let folder = open_folder();
    let cluster = open(folder.path(), PostgresUser::Server).await.unwrap();
    let postmaster = cluster.postmaster_pid().unwrap();
    let is_logger = |pid: &u32| {
        let about = |name: &str| fs::read_to_string(format!("/proc/{pid}/{name}")).unwrap_or_default();
        about("stat").contains(&format!(") S {postmaster} ")) && about("cmdline").contains("logger")
    };
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let mut pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let logger: u32 = pids.find(is_logger).unwrap();
    kill(Pid::from_raw(logger.try_into().unwrap()), Signal::SIGSTOP).unwrap();
    cluster.close().await.unwrap();
    assert!(!is_running(logger));
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
    until("it has ended", || !is_running(pid.unwrap())).await;
}

#[tokio::test]
async fn a_lone_command_starts_and_stops_it() {
    let folder = open_folder();
    let command = open(folder.path(), PostgresUser::Command).await.unwrap();
    let pid = command.postmaster_pid().unwrap();
    assert_eq!(show(&command, "select 'works'").await, "works");
    command.close().await.unwrap();
    until("it has ended", || !is_running(pid)).await;
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
    until("it has ended", || !is_running(pid)).await;
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
async fn it_does_not_belong_to_the_process_group_of_its_server() {
    let folder = open_folder();
    let cluster = open(folder.path(), PostgresUser::Server).await.unwrap();
    let pid = Pid::from_raw(i32::try_from(cluster.postmaster_pid().unwrap()).unwrap());
    assert_ne!(nix::unistd::getpgid(Some(pid)).unwrap(), nix::unistd::getpgrp());
    cluster.close().await.unwrap();
}
