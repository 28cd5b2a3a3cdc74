//! A data directory, servers and commands that use it, and one client that exchanges Alice's token.

use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use actchain_protocol::jose::{SigningAlg, SigningKey};
use actchain_testkit::agent::{Agent, Auth, JWT};
use actchain_testkit::api::Api;
use actchain_testkit::endpoint::Endpoint;
pub use actchain_testkit::program::{Program, ServerProcess as Server, signal};
use actchain_testkit::request::Request;
use serde_json::{Value, json};
use sqlx::{Connection as _, PgConnection};

pub const MAIL: &str = "https://mail.example.com";
/// The issuer of the servers, which is the same after a restart on another port.
pub const ISSUER: &str = "http://127.0.0.1:1";

/// The program, with the keys of the parties that a manifest declares.
pub struct Stage {
    program: Program,
    pub idp: SigningKey,
    agent: Agent,
}

impl Deref for Stage {
    type Target = Program;

    fn deref(&self) -> &Program {
        &self.program
    }
}

/// The servers of all stages. Where they listen is named when a request is sent.
pub struct Servers;

impl Endpoint for Servers {
    fn base(&self) -> &str {
        ISSUER
    }

    fn issuer(&self) -> &str {
        ISSUER
    }

    fn now(&self) -> i64 {
        now()
    }
}

/// An exchange that can be sent, and sent again to a restarted server.
pub type Exchange = Request<'static>;

/// Waits until the condition is true.
pub fn until(what: &str, mut is_true: impl FnMut() -> bool) {
    eprintln!("waiting until {what}");
    while !is_true() {
        std::thread::yield_now();
    }
}

pub fn now() -> i64 {
    time::OffsetDateTime::now_utc().unix_timestamp()
}

impl Stage {
    pub fn new() -> Self {
        let (idp, _) = SigningKey::generate(SigningAlg::ES256).unwrap();
        let program = Program::new(env!("CARGO_BIN_EXE_actchain"));
        Self { program, idp, agent: Agent::new("agent", Auth::None) }
    }

    /// The program with only the data directory configured, and with patience: test machines can be busy. A request that
    /// waits without success takes longer and still fails.
    pub fn command(&self) -> Command {
        let mut command = self.program.command();
        command.env("ACTCHAIN_LEDGER_TIMEOUT", "120s");
        command
    }

    pub fn run(&self, arguments: &[&str]) -> Output {
        // Without `--init`, only a server would create the data directory.
        let mut command = self.command();
        command.args(arguments).arg("--init").env("ACTCHAIN_ISSUER", ISSUER).output().unwrap()
    }

    /// Runs a command that must succeed and print JSON.
    pub fn json(&self, arguments: &[&str]) -> Value {
        let output = self.run(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// A server whose issuer stays the same after a restart.
    pub fn serve(&self) -> Server {
        self.serve_by(self.command())
    }

    pub fn try_serve(&self) -> Result<Server, String> {
        self.serve_with(&[])
    }

    /// A server that a command starts, such as a server with other limits.
    pub fn serve_by(&self, mut command: Command) -> Server {
        command.env("ACTCHAIN_ISSUER", ISSUER);
        self.program.serve(command).unwrap_or_else(|log| panic!("the server did not start: {log}"))
    }

    /// A server with a data directory; the issuer is configured or follows from the address.
    pub fn serve_under(&self, data_dir: &Path, issuer: Option<&str>) -> Result<Server, String> {
        let mut command = self.command();
        command.env("ACTCHAIN_DATA_DIR", data_dir).envs(issuer.map(|issuer| ("ACTCHAIN_ISSUER", issuer)));
        self.program.serve(command)
    }

    /// A server with a database that the environment names.
    pub fn serve_with(&self, environment: &[(&'static str, String)]) -> Result<Server, String> {
        let mut command = self.command();
        command.env("ACTCHAIN_ISSUER", ISSUER).envs(environment.iter().cloned());
        self.program.serve(command)
    }

    /// Declares Alice, one agent, and one delegation.
    pub fn declare(&self) {
        self.declare_in(&self.data_dir());
    }

    /// Like [`Self::declare`], in another data directory.
    pub fn declare_in(&self, data_dir: &Path) {
        let mut command = self.command();
        command.arg("--init").env("ACTCHAIN_DATA_DIR", data_dir).env("ACTCHAIN_ISSUER", ISSUER);
        self.apply(command, "world.yaml", &self.manifest());
    }

    /// Writes the manifest that declares them.
    pub fn world(&self) -> PathBuf {
        std::fs::write(self.path("world.yaml"), self.manifest()).unwrap();
        self.path("world.yaml")
    }

    /// Declares a second scope, which the agent may not have: asking for it is refused, and a finding.
    pub fn declare_scope(&self, mut command: Command) {
        command.env("ACTCHAIN_ISSUER", ISSUER);
        let yaml = format!("resources:\n  - {{id: \"{MAIL}\", scopes: [mail.read, mail.send]}}\n");
        self.apply(command, "scope.yaml", &yaml);
    }

    fn manifest(&self) -> String {
        format!(
            r#"issuers:
  - {{iss: "https://idp.example.com", jwks: {{keys: [{}]}}, audiences: [actchain]}}
resources:
  - {{id: "{MAIL}", scopes: [mail.read]}}
clients:
  - {{id: agent, kind: agent, auth: none, dpop_keys: [{}], scopes: [mail.read], audiences: ["{MAIL}"],
     grant_types: [token-exchange]}}
delegations:
  - {{id: D, delegator: {{iss: "https://idp.example.com", sub: alice}}, delegate: agent, expires_in: 86400}}
"#,
            self.idp.public_jwk(),
            self.agent.jkt()
        )
    }

    /// Alice's token of the identity provider.
    pub fn users_token(&self) -> String {
        let claims = json!({"iss": "https://idp.example.com", "sub": "alice", "aud": "actchain", "iat": now(), "exp": now() + 600});
        self.idp.sign("JWT", &claims).unwrap()
    }

    /// Declares providers, and lets the agent use the vault.
    pub fn declare_vault(&self, providers: &str) {
        let yaml = format!(
            r#"{providers}clients:
  - {{id: agent, kind: agent, auth: none, dpop_keys: [{}], scopes: [mail.read],
     audiences: ["{MAIL}", "{ISSUER}"], authorization_details_types: [vault_connection],
     grant_types: [token-exchange]}}
"#,
            self.agent.jkt()
        );
        let mut command = self.command();
        command.env("ACTCHAIN_ISSUER", ISSUER);
        self.apply(command, "vault.yaml", &yaml);
    }

    /// A valid exchange of Alice's token.
    pub fn exchange(&self) -> Exchange {
        self.agent.exchange(&Servers, &self.users_token(), JWT)
    }

    /// An exchange for a token that names a connection.
    pub fn exchange_for(&self, connection: &str) -> Exchange {
        let details = json!([{"type": "vault_connection", "identifier": connection}]).to_string();
        self.exchange().param("audience", ISSUER).param("authorization_details", &details)
    }

    /// The agent's retrieval of a credential.
    pub fn retrieval(&self, connection: &str, token: &str) -> Api<'static> {
        let path = format!("/vault/connections/{connection}/token");
        Api::new(&Servers, "POST", &path).client(&self.agent, token)
    }

    /// Alice's request to store a credential.
    pub fn storing(&self, connection: Value) -> Api<'static> {
        Api::post(&Servers, "/api/v1/connections", connection).user(&self.users_token())
    }
}

/// Sends an exchange; returns status and body, or `None` if the connection broke.
pub async fn send(base: &str, exchange: &Exchange) -> Option<(u16, Value)> {
    let answer = exchange.send_to(base).await.ok()?;
    Some((answer.status, answer.json))
}

/// Standard error of a command, without the line that says which database it changes.
pub fn complaints(stderr: &[u8]) -> String {
    let text = std::str::from_utf8(stderr).unwrap();
    text.split_inclusive('\n').filter(|line| !line.starts_with("actchain: issuer ")).collect()
}

/// Writes a file that only its owner can read, as required for keys.
pub fn write_private(path: &Path, text: &str) {
    std::fs::write(path, text).unwrap();
    std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
}

/// A connection to the cluster of a data directory, while a server uses it.
pub async fn sql(stage: &Stage) -> PgConnection {
    use actchain_embedded_postgres::{Cluster, PostgresUser, Settings};
    let settings = Settings { data_dir: stage.data_dir(), bin_dir: None, path: std::env::var_os("PATH") };
    let cluster = Cluster::open(settings, PostgresUser::Command).await.unwrap();
    let connection = PgConnection::connect_with(&cluster.connect_options("actchain")).await.unwrap();
    cluster.close().await.unwrap();
    connection
}
