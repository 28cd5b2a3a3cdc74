//! What is left after a kill, a cancellation or a failed start, and how the next start copes.

use super::*;

#[tokio::test]
async fn ensure_running_brings_a_killed_cluster_back() {
    let folder = open_folder();
    let cluster = open(folder.path(), PostgresUser::Server).await.unwrap();
    for round in 1..=3 {
        write_row(&cluster).await;
        let killed = cluster.postmaster_pid().unwrap();
        kill_hard(killed);
        until("the postmaster has ended", || cluster.postmaster_pid().is_none()).await;
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
    until("the postmaster has ended", || cluster.postmaster_pid().is_none()).await;
    let orphan = u32::try_from(orphan).unwrap();
    assert!(is_running(orphan));
    cluster.ensure_running().await.unwrap();
    assert!(!is_running(orphan));
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
    until("it has ended", || !is_running(pid)).await;
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
async fn a_start_that_cannot_succeed_quotes_the_log() {
    let folder = open_folder();
    let cluster = open(folder.path(), PostgresUser::Command).await.unwrap();
    let configuration = cluster.postmaster.place.cluster().join("postgresql.conf");
    cluster.close().await.unwrap();
    fs::write(configuration, "nonsense = 1\n").unwrap();
    let fault = open(folder.path(), PostgresUser::Command).await.unwrap_err().to_string();
    assert!(fault.contains("unrecognized configuration parameter \"nonsense\""), "{fault}");
}
