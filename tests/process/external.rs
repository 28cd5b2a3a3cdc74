//! An external database: migrated on purpose, opened with a given master key, shared by servers.

use std::process::{Output, Stdio};

use actchain::platform::local_postgres::{Cluster, Durability};
use actchain::platform::secret::MasterKey;
use secrecy::ExposeSecret as _;
use sqlx::{Connection as _, Executor as _, PgConnection};

use crate::stage::Stage;

#[tokio::test(flavor = "multi_thread")]
async fn serve_refuses_what_is_not_migrated_or_not_keyed_and_says_what_to_do() {
    let stage = Stage::new();
    let cluster = Cluster::throwaway(None, std::env::var_os("PATH"), Durability::Off).await.unwrap();
    let options = cluster.connect_options("postgres");
    PgConnection::connect_with(&options).await.unwrap().execute("CREATE DATABASE outside").await.unwrap();
    let socket = options.get_socket().expect("a socket").display().to_string();
    let url = format!("postgres:///outside?host={socket}&port={}&user=actchain", options.get_port());
    let master = MasterKey::generate().unwrap().to_text().expose_secret().to_owned();
    let run = |arguments: &[&str], key: bool| -> Output {
        let mut command = stage.command();
        command.args(arguments).env("ACTCHAIN_DATABASE_URL", &url).env("ACTCHAIN_LISTEN", "127.0.0.1:0");
        if key {
            command.env("ACTCHAIN_MASTER_KEY", &master);
        }
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).output().unwrap()
    };
    let says = |output: Output, part: &str| {
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(2) && text.contains(part), "{text}");
    };
    says(run(&["serve"], true), "actchain migrate");
    assert!(run(&["migrate"], false).status.success());
    says(run(&["serve"], false), "master key");
    assert!(run(&["doctor"], true).status.success());
    assert!(!stage.data_dir().exists(), "nothing was made beside it");
    let mut sql = PgConnection::connect_with(&cluster.connect_options("outside")).await.unwrap();
    sql.execute("INSERT INTO _sqlx_migrations SELECT 9999, description, installed_on, success, checksum, execution_time FROM _sqlx_migrations LIMIT 1").await.unwrap();
    says(run(&["serve"], true), "9999");
}
