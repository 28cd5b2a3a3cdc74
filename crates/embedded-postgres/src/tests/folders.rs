//! Data directories that PostgreSQL cannot use as they are.

use super::*;

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
async fn a_socket_folder_of_another_user_is_not_used() {
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
async fn below_a_folder_of_root_alone_the_cluster_is_elsewhere() {
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
    let second = cluster.postmaster.place.home.clone();
    assert_ne!(second, home);
    cluster.close().await.unwrap();

    fs::remove_dir_all(&second).unwrap();
    let fault = open(&data_dir, PostgresUser::Server).await.unwrap_err().to_string();
    assert!(fault.contains("where there is none"), "{fault}");
    fs::remove_dir_all(&home).unwrap();
}
