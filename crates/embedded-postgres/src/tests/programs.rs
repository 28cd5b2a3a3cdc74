//! The search for the programs of PostgreSQL.

use super::*;
use crate::discover;

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
    let refusal = async |data_dir: &Path| {
        let settings = Settings { bin_dir: Some(programs.path().to_owned()), ..settings(data_dir) };
        Cluster::open(settings, PostgresUser::Server).await.unwrap_err().to_string()
    };
    let advice =
        "install it (package `postgresql`), or set ACTCHAIN_DATABASE_URL to a database that already exists";
    let place = programs.path().display();
    assert_eq!(
        refusal(folder.path()).await,
        format!("PostgreSQL 15 or newer was not found in {place}: {advice}")
    );
    fake_postgres(programs.path(), "14.2");
    assert_eq!(
        refusal(folder.path()).await,
        format!("PostgreSQL 15 or newer was not found in {place} (only 14 in {place}): {advice}")
    );

    open(folder.path(), PostgresUser::Command).await.unwrap().close().await.unwrap();
    fake_postgres(programs.path(), "99.1");
    let fault = refusal(folder.path()).await;
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
