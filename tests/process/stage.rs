//! A data directory, servers and commands that use it, and one client that exchanges Alice's token.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use actchain_protocol::jose::{SigningAlg, SigningKey};
use serde_json::{Value, json};
use sqlx::{Connection as _, PgConnection};

const PROGRAM: &str = env!("CARGO_BIN_EXE_actchain");
pub const MAIL: &str = "https://mail.example.com";

pub struct Stage {
    folder: tempfile::TempDir,
    pub idp: SigningKey,
    agent: SigningKey,
}

/// A server process; killed when dropped.
pub struct Server {
    pub child: Child,
    pub base: String,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Waits until the condition is true.
pub fn until(what: &str, mut holds: impl FnMut() -> bool) {
    eprintln!("waiting until {what}");
    while !holds() {
        std::thread::yield_now();
    }
}

pub fn now() -> i64 {
    time::OffsetDateTime::now_utc().unix_timestamp()
}

pub fn jti() -> String {
    uuid::Uuid::now_v7().to_string()
}

impl Stage {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        // Under root, PostgreSQL runs as another account, which must be able to traverse the folder.
        std::fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o711)).unwrap();
        let [idp, agent] = [(); 2].map(|()| SigningKey::generate(SigningAlg::ES256).unwrap().0);
        Self { folder, idp, agent }
    }

    pub fn data_dir(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The program with only the data directory configured.
    pub fn command(&self) -> Command {
        self.configured(Command::new(PROGRAM))
    }

    /// Like [`Self::command`], started by another program that takes the command line after its own arguments.
    pub fn wrapped(&self, program: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(program);
        command.args(arguments).arg(PROGRAM);
        self.configured(command)
    }

    fn configured(&self, mut command: Command) -> Command {
        for (name, _) in
            std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("ACTCHAIN_"))
        {
            command.env_remove(name);
        }
        command.env("ACTCHAIN_DATA_DIR", self.data_dir()).current_dir(self.folder.path());
        command
    }

    pub fn run(&self, arguments: &[&str]) -> Output {
        // Without `--init`, only a server would create the data directory.
        let mut command = self.command();
        command.args(arguments).arg("--init").env("ACTCHAIN_ISSUER", "http://127.0.0.1:1").output().unwrap()
    }

    /// Runs a command that must succeed and print JSON.
    pub fn json(&self, arguments: &[&str]) -> Value {
        let output = self.run(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// A server whose issuer stays the same after a restart.
    pub fn serve(&self) -> Server {
        self.try_serve().unwrap_or_else(|log| panic!("the server did not start: {log}"))
    }

    pub fn try_serve(&self) -> Result<Server, String> {
        self.try_serve_by(self.command())
    }

    /// A server that a command starts, such as a server with other limits.
    pub fn serve_by(&self, command: Command) -> Server {
        self.try_serve_by(command).unwrap_or_else(|log| panic!("the server did not start: {log}"))
    }

    fn try_serve_by(&self, command: Command) -> Result<Server, String> {
        self.serve_in(command, vec![("ACTCHAIN_ISSUER", "http://127.0.0.1:1".to_owned())])
    }

    /// A server with a data directory; the issuer is configured or follows from the address.
    pub fn serve_under(&self, data_dir: &Path, issuer: Option<&str>) -> Result<Server, String> {
        let issuer = issuer.map(|issuer| ("ACTCHAIN_ISSUER", issuer.to_owned()));
        let data_dir = ("ACTCHAIN_DATA_DIR", data_dir.to_str().unwrap().to_owned());
        self.serve_in(self.command(), issuer.into_iter().chain([data_dir]).collect())
    }

    /// A server with a database that the environment names.
    pub fn serve_with(&self, environment: &[(&'static str, String)]) -> Result<Server, String> {
        let issuer = ("ACTCHAIN_ISSUER", "http://127.0.0.1:1".to_owned());
        self.serve_in(self.command(), environment.iter().cloned().chain([issuer]).collect())
    }

    fn serve_in(&self, mut command: Command, environment: Vec<(&str, String)>) -> Result<Server, String> {
        let log =
            std::fs::OpenOptions::new().create(true).append(true).open(self.path("server.log")).unwrap();
        let mut child = command
            .arg("serve")
            .env("ACTCHAIN_LISTEN", "127.0.0.1:0")
            .envs(environment)
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        match line.split_whitespace().next_back() {
            Some(base) => Ok(Server { child, base: base.to_owned() }),
            None => {
                child.wait().unwrap();
                Err(std::fs::read_to_string(self.path("server.log")).unwrap())
            }
        }
    }

    /// Declares Alice, one agent, and one delegation.
    pub fn declare(&self) {
        self.declare_in(&self.data_dir());
    }

    /// Like [`Self::declare`], in another data directory.
    pub fn declare_in(&self, data_dir: &Path) {
        let world = self.world();
        let mut command = self.command();
        command.env("ACTCHAIN_DATA_DIR", data_dir).env("ACTCHAIN_ISSUER", "http://127.0.0.1:1");
        let output = command.args(["apply", "--init", "-f", world.to_str().unwrap()]).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    /// Writes the manifest that declares them.
    pub fn world(&self) -> PathBuf {
        let yaml = format!(
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
            self.agent.kid()
        );
        std::fs::write(self.path("world.yaml"), yaml).unwrap();
        self.path("world.yaml")
    }

    /// Alice's token of the identity provider.
    pub fn users_token(&self) -> String {
        let claims = json!({"iss": "https://idp.example.com", "sub": "alice", "aud": "actchain", "iat": now(), "exp": now() + 600});
        self.idp.sign("JWT", &claims).unwrap()
    }

    /// Lets the agent use the vault, and declares a provider with this token endpoint.
    pub fn declare_vault(&self, token_endpoint: &str) {
        let yaml = format!(
            r#"providers:
  - {{id: third, token_endpoint: "{token_endpoint}", client_id: us}}
clients:
  - {{id: agent, kind: agent, auth: none, dpop_keys: [{}], scopes: [mail.read],
     audiences: ["{MAIL}", "http://127.0.0.1:1"], authorization_details_types: [vault_connection],
     grant_types: [token-exchange]}}
"#,
            self.agent.kid()
        );
        std::fs::write(self.path("vault.yaml"), yaml).unwrap();
        let file = self.path("vault.yaml");
        let mut command = self.command();
        command.args(["apply", "-f", file.to_str().unwrap()]).env("ACTCHAIN_ISSUER", "http://127.0.0.1:1");
        let applied = command.output().unwrap();
        assert!(applied.status.success(), "{}", String::from_utf8_lossy(&applied.stderr));
    }

    /// The body and proof of an exchange for a token that names a connection.
    pub fn exchange_for(&self, connection: &str) -> (String, String) {
        let (body, proof) = self.exchange();
        let details = json!([{"type": "vault_connection", "identifier": connection}]).to_string();
        let more = url::form_urlencoded::Serializer::new(String::new())
            .append_pair("audience", "http://127.0.0.1:1")
            .append_pair("authorization_details", &details)
            .finish();
        (format!("{body}&{more}"), proof)
    }

    /// The agent's proof for one request to the vault.
    pub fn proof_at(&self, path: &str, token: &str) -> String {
        use actchain_protocol::{base64url, digest::sha256};
        let ath = base64url::encode(sha256(&[token.as_bytes()]));
        let claims = json!({"jti": jti(), "htm": "POST", "htu": format!("http://127.0.0.1:1{path}"), "iat": now(),
                            "ath": ath});
        self.agent.sign_proof("dpop+jwt", &claims).unwrap()
    }

    /// The body and proof of a valid exchange.
    pub fn exchange(&self) -> (String, String) {
        let token = self.users_token();
        let body = url::form_urlencoded::Serializer::new(String::new())
            .append_pair("grant_type", "urn:ietf:params:oauth:grant-type:token-exchange")
            .append_pair("subject_token", &token)
            .append_pair("subject_token_type", "urn:ietf:params:oauth:token-type:jwt")
            .append_pair("client_id", "agent")
            .finish();
        let proof =
            json!({"jti": jti(), "htm": "POST", "htu": "http://127.0.0.1:1/oauth/token", "iat": now()});
        (body, self.agent.sign_proof("dpop+jwt", &proof).unwrap())
    }
}

/// Sends an exchange; returns status and body, or `None` if the connection broke.
pub async fn send(base: &str, (body, proof): &(String, String)) -> Option<(u16, Value)> {
    let request = reqwest::Client::new()
        .post(format!("{base}/oauth/token"))
        .header("content-type", "application/x-www-form-urlencoded")
        .header("dpop", proof)
        .body(body.clone());
    let response = request.send().await.ok()?;
    let status = response.status().as_u16();
    let text = response.text().await.ok()?;
    Some((status, serde_json::from_str(&text).unwrap_or_default()))
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

pub fn signal(pid: u32, signal: nix::sys::signal::Signal) {
    let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid as i32), signal);
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
