//! Databases whose migrations are not those of the program: each command refuses them and names the database.

use std::process::Output;

use actchain::platform::secret::MasterKey;
use actchain_embedded_postgres::{Cluster, Durability, PostgresUser, Settings};
use secrecy::ExposeSecret as _;
use sqlx::{AssertSqlSafe, Connection as _, Executor as _, PgConnection};

use crate::stage::{Stage, sql};

/// The migrations of a development version: 0001 to 0025, without 0024.
const DEVELOPMENT: &str = "
    CREATE TABLE _sqlx_migrations (version bigint PRIMARY KEY, description text NOT NULL,
        installed_on timestamptz NOT NULL DEFAULT now(), success boolean NOT NULL, checksum bytea NOT NULL,
        execution_time bigint NOT NULL);
    INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time)
        SELECT version, 'development', true, sha512(version::text::bytea), 0 FROM generate_series(1, 25) AS version
        WHERE version <> 24;
    CREATE TABLE client (client_id text PRIMARY KEY)";

/// Undoes the last migration.
const UNDO_LAST: &str = "DROP TABLE refresh_token";

/// Commands that open a database in different ways, and none of which changes one.
const COMMANDS: [&[&str]; 8] = [
    &["client", "list"],
    &["client", "list", "--json"],
    &["key", "rotate"],
    &["issuer", "list", "--json"],
    &["audit", "verify", "--json"],
    &["audit", "archive", "--before", "2020-01-01", "--dir", "."],
    &["sink", "list", "--json"],
    // Last: a server that does not refuse would run forever.
    &["serve"],
];

/// An external cluster with an empty database for each test.
struct External {
    stage: Stage,
    cluster: Cluster,
    key: String,
}

impl External {
    async fn new() -> Self {
        let cluster = Cluster::throwaway(None, std::env::var_os("PATH"), Durability::On).await.unwrap();
        let key = MasterKey::generate().unwrap().to_text().expose_secret().to_owned();
        Self { stage: Stage::new(), cluster, key }
    }

    async fn create(&self, database: &str) {
        let mut admin = PgConnection::connect_with(&self.cluster.connect_options("postgres")).await.unwrap();
        admin.execute(AssertSqlSafe(format!("CREATE DATABASE {database}"))).await.unwrap();
    }

    async fn execute(&self, database: &str, statement: &'static str) {
        let mut sql = PgConnection::connect_with(&self.cluster.connect_options(database)).await.unwrap();
        sql.execute(statement).await.unwrap();
    }

    fn run(&self, database: &str, arguments: &[&str]) -> Output {
        let options = self.cluster.connect_options(database);
        let socket = options.get_socket().expect("a socket").display().to_string();
        let url = format!("postgres:///{database}?host={socket}&port={}&user=actchain", options.get_port());
        let environment = [
            ("ACTCHAIN_DATABASE_URL", &*url),
            ("ACTCHAIN_MASTER_KEY", &self.key),
            ("ACTCHAIN_LISTEN", "127.0.0.1:0"),
        ];
        self.stage.command().args(arguments).envs(environment).output().unwrap()
    }

    /// Every command refuses the database with a message that has these parts.
    fn every_command_refuses(&self, database: &str, parts: &[&str]) {
        for arguments in [&["migrate"][..]].into_iter().chain(COMMANDS) {
            refuses(arguments, &self.run(database, arguments), parts);
        }
    }
}

fn refuses(arguments: &[&str], output: &Output, parts: &[&str]) {
    let message = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{arguments:?}: {message}");
    assert!(output.stdout.is_empty(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stdout));
    for part in parts {
        assert!(message.contains(part), "{arguments:?}: {part} is not in {message}");
    }
}

const UNRELATED: &str = "was made by an earlier development version of actchain or by another program";
const REMEDY: &str = "make a new database or data directory";

#[tokio::test(flavor = "multi_thread")]
async fn a_database_of_a_development_version_is_refused_by_every_command_and_left_as_it_is() {
    let external = External::new().await;
    external.create("development").await;
    external.execute("development", DEVELOPMENT).await;
    external
        .every_command_refuses("development", &[UNRELATED, " development was made", "migration 1 ", REMEDY]);
    let mut sql = PgConnection::connect_with(&external.cluster.connect_options("development")).await.unwrap();
    let tables = "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'";
    assert_eq!(sqlx::query_scalar::<_, i64>(tables).fetch_one(&mut sql).await.unwrap(), 2);
    let migrations: i64 =
        sqlx::query_scalar("SELECT count(*) FROM _sqlx_migrations").fetch_one(&mut sql).await.unwrap();
    assert_eq!(migrations, 24);
}

#[tokio::test(flavor = "multi_thread")]
async fn doctor_names_a_database_of_a_development_version() {
    let external = External::new().await;
    external.create("development").await;
    external.execute("development", DEVELOPMENT).await;
    let output = external.run("development", &["doctor", "--json"]);
    assert_eq!(output.status.code(), Some(1));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        (&report["ok"], &report["checks"][1]["check"]),
        (&false.into(), &"database".into()),
        "{report}"
    );
    let problem = report["checks"][1]["problem"].as_str().unwrap();
    assert!(problem.contains(UNRELATED) && problem.contains(REMEDY), "{problem}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_whose_list_of_migrations_was_edited_is_refused_by_every_command() {
    let external = External::new().await;
    let edits = [
        ("checksum", "UPDATE _sqlx_migrations SET checksum = 'x' WHERE version = 3", "migration 3 "),
        ("gap", "DELETE FROM _sqlx_migrations WHERE version = 2", "migration 3 "),
        ("failed", "UPDATE _sqlx_migrations SET success = false WHERE version = 4", "migration 4 "),
        (
            "last",
            "UPDATE _sqlx_migrations SET checksum = 'x' WHERE version = (SELECT max(version) FROM _sqlx_migrations)",
            "is not this program's",
        ),
    ];
    for (database, edit, migration) in edits {
        external.create(database).await;
        assert!(external.run(database, &["migrate"]).status.success());
        external.execute(database, edit).await;
        external.every_command_refuses(database, &[UNRELATED, migration, REMEDY]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newer_database_is_refused_by_every_command_with_its_version() {
    let external = External::new().await;
    external.create("newer").await;
    assert!(external.run("newer", &["migrate"]).status.success());
    external.execute("newer", "INSERT INTO _sqlx_migrations SELECT 9999, 'newer', now(), true, '', 0").await;
    external.every_command_refuses("newer", &["schema is version 9999, newer than", "use a newer actchain"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_and_a_half_migrated_database_are_completed_by_migrate() {
    let external = External::new().await;
    external.create("empty").await;
    external.create("half").await;
    assert!(external.run("half", &["migrate"]).status.success());
    // The migrations before the last one are complete.
    external.execute("half", UNDO_LAST).await;
    external
        .execute(
            "half",
            "DELETE FROM _sqlx_migrations WHERE version = (SELECT max(version) FROM _sqlx_migrations)",
        )
        .await;
    for database in ["empty", "half"] {
        for arguments in COMMANDS {
            refuses(
                arguments,
                &external.run(database, arguments),
                &["older than this program's", "actchain migrate"],
            );
        }
        let migrated = external.run(database, &["migrate"]);
        assert!(migrated.status.success(), "{database}: {}", String::from_utf8_lossy(&migrated.stderr));
        let listed = external.run(database, &["client", "list", "--json"]);
        assert!(listed.status.success(), "{database}: {}", String::from_utf8_lossy(&listed.stderr));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_embedded_database_of_a_development_version_is_refused_and_named_by_its_folder() {
    let stage = Stage::new();
    stage.declare();
    let server = stage.serve();
    let mut database = sql(&stage).await;
    let backup = stage.path("development.backup");
    database.execute("UPDATE _sqlx_migrations SET checksum = 'x' WHERE version = 2").await.unwrap();
    database.close().await.unwrap();
    drop(server);
    let place = format!("the database in {} was made by", stage.data_dir().display());
    for arguments in [&["backup", backup.to_str().unwrap()][..]].into_iter().chain(COMMANDS) {
        let output = stage.command().args(arguments).env("ACTCHAIN_LISTEN", "127.0.0.1:0").output().unwrap();
        refuses(arguments, &output, &[UNRELATED, &place, "migration 2 ", REMEDY]);
    }
    assert!(!backup.exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_of_a_development_version_is_not_restored() {
    let stage = Stage::new();
    stage.declare();
    let server = stage.serve();
    let mut database = sql(&stage).await;
    database.execute("UPDATE _sqlx_migrations SET checksum = 'x' WHERE version = 2").await.unwrap();
    database.close().await.unwrap();
    let settings = Settings { data_dir: stage.data_dir(), bin_dir: None, path: std::env::var_os("PATH") };
    let cluster = Cluster::open(settings, PostgresUser::Command).await.unwrap();
    let backup = std::fs::File::create(stage.path("development.backup")).unwrap();
    cluster.dump("actchain", backup).await.unwrap();
    cluster.close().await.unwrap();
    drop(server);
    let new = stage.path("new");
    std::fs::create_dir(&new).unwrap();
    std::fs::set_permissions(&new, std::os::unix::fs::PermissionsExt::from_mode(0o711)).unwrap();
    let master = stage.data_dir().join("master.key");
    let mut restore = stage.command();
    restore.args(["restore", "development.backup"]).env("ACTCHAIN_DATA_DIR", &new);
    let output = restore.env("ACTCHAIN_MASTER_KEY_FILE", master).output().unwrap();
    refuses(&["restore"], &output, &["nothing was restored: the database in the backup was made by", REMEDY]);
    assert!(!new.join("postgres").exists());
}
