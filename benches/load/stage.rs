//! A server with its own clients, a subject token, and any number of stored rows.

use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use actchain::domain::audit::{self, Action, Event};
use actchain::domain::row_mac::RowMac;
use actchain::platform::clock::Clock;
use actchain::platform::seal::SealingKey;
use actchain::platform::secret::MasterKey;
use actchain::services::seal_rows;
use actchain_embedded_postgres::{Cluster, PostgresUser, Settings};
use actchain_protocol::base64url;
use actchain_protocol::digest::sha256;
use actchain_protocol::jose::{SigningAlg, SigningKey};
use secrecy::SecretString;
use serde_json::{Value, json};
use sqlx::postgres::PgConnectOptions;
use sqlx::{Connection as _, PgConnection};

use crate::cpu;
use crate::generator::{self, Method, Run};

pub const MAIL: &str = "https://mail.example.com";
const SECRET: &str = "bench-secret-0123456789";
pub const IDP: &str = "https://idp.example.com";
const FORM: &str = "content-type: application/x-www-form-urlencoded";
const JSON: &str = "content-type: application/json";

pub struct Stage {
    server: Running,
    issuer: String,
    folder: PathBuf,
    idp: SigningKey,
    proxy: SigningKey,
    by_secret: SigningKey,
    by_assertion: SigningKey,
    subject: String,
    cluster: Cluster,
}

/// The result of an export; `peak` in kB.
pub struct Taken {
    pub lines: usize,
    pub bytes: f64,
    pub seconds: f64,
    pub peak: f64,
}

/// Stops the process when dropped, also after a failure.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let pid = nix::unistd::Pid::from_raw(self.0.id() as i32);
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
        let _ = self.0.wait();
    }
}

fn now() -> i64 {
    Clock::System.now().unix_timestamp()
}

fn jti() -> String {
    uuid::Uuid::now_v7().to_string()
}

impl Stage {
    pub async fn set() -> Self {
        static STAGES: AtomicU32 = AtomicU32::new(0);
        let name =
            format!("actchain-bench-{}-{}", std::process::id(), STAGES.fetch_add(1, Ordering::Relaxed));
        let folder = std::env::temp_dir().join(name);
        std::fs::create_dir(&folder).unwrap();
        let program = env!("CARGO_BIN_EXE_actchain");
        let command = || {
            let mut command = Command::new(program);
            command.env("ACTCHAIN_DATA_DIR", folder.join("data")).env("ACTCHAIN_TOKENS_MAX_TTL", "86400");
            command
        };
        let log = std::fs::File::create(folder.join("server.log")).unwrap();
        let mut server = Running(
            command()
                .arg("serve")
                .env("ACTCHAIN_LISTEN", "127.0.0.1:0")
                .stdout(Stdio::piped())
                .stderr(log)
                .spawn()
                .unwrap(),
        );
        let mut line = String::new();
        BufReader::new(server.0.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let issuer = line.split_whitespace().find(|word| word.starts_with("http")).unwrap().to_owned();
        let [idp, proxy, by_secret, by_assertion] =
            [(); 4].map(|()| SigningKey::generate(SigningAlg::ES256).unwrap().0);
        let world = folder.join("world.yaml");
        std::fs::write(&world, yaml(&idp, &proxy, &by_assertion)).unwrap();
        let applied =
            command().args(["apply", "-f"]).arg(&world).env("ACTCHAIN_ISSUER", &issuer).output().unwrap();
        assert!(applied.status.success(), "{}", String::from_utf8_lossy(&applied.stderr));
        let settings =
            Settings { data_dir: folder.join("data"), bin_dir: None, path: std::env::var_os("PATH") };
        let cluster = Cluster::open(settings, PostgresUser::Command).await.unwrap();
        let mut stage = Self {
            server,
            issuer,
            folder,
            idp,
            proxy,
            by_secret,
            by_assertion,
            subject: String::new(),
            cluster,
        };
        stage.subject = stage.first_token("alice").await;
        stage
    }

    /// A user's token of the trusted issuer.
    pub fn user(&self, sub: &str) -> String {
        let claims = json!({"iss": IDP, "sub": sub, "aud": "actchain", "iat": now(), "exp": now() + 80_000});
        self.idp.sign("JWT", &claims).unwrap()
    }

    /// The proxy's token for a user that has a delegation to the proxy.
    pub async fn first_token(&self, user: &str) -> String {
        let user = self.user(user);
        let body = self.form(&user, "urn:ietf:params:oauth:token-type:jwt", &[("client_id", "proxy")]);
        token_in(&one(self.address(), self.request(&self.proxy, &[], body)).await)
    }

    /// The token of the second hop, which a relying party receives.
    pub async fn second_token(&self) -> String {
        token_in(&one(self.address(), self.exchange(&Method::Secret)).await)
    }

    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    pub fn address(&self) -> &str {
        self.issuer.strip_prefix("http://").unwrap()
    }

    fn form(&self, subject: &str, kind: &str, more: &[(&str, &str)]) -> String {
        url::form_urlencoded::Serializer::new(String::new())
            .append_pair("grant_type", "urn:ietf:params:oauth:grant-type:token-exchange")
            .append_pair("subject_token", subject)
            .append_pair("subject_token_type", kind)
            .append_pair("audience", MAIL)
            .extend_pairs(more)
            .finish()
    }

    fn request(&self, key: &SigningKey, headers: &[String], body: String) -> Vec<u8> {
        let claims =
            json!({"jti": jti(), "htm": "POST", "htu": format!("{}/oauth/token", self.issuer), "iat": now()});
        let proof = key.sign_proof("dpop+jwt", &claims).unwrap();
        let own = [format!("dpop: {proof}"), FORM.to_owned()];
        self.http("POST /oauth/token", &[&own, headers].concat(), &body)
    }

    fn http(&self, what: &str, headers: &[String], body: &str) -> Vec<u8> {
        let headers: String = headers.iter().map(|header| format!("{header}\r\n")).collect();
        let (host, length) = (self.address(), body.len());
        format!("{what} HTTP/1.1\r\nhost: {host}\r\n{headers}content-length: {length}\r\n\r\n{body}")
            .into_bytes()
    }

    /// An exchange by the second hop with any first token.
    pub fn exchange_under(&self, subject: &str) -> Vec<u8> {
        let form = self.form(subject, "urn:ietf:params:oauth:token-type:access_token", &[]);
        self.request(&self.by_secret, &[basic("by-secret")], form)
    }

    /// Introspection of a token by a resource server.
    pub fn introspection(&self, token: &str) -> Vec<u8> {
        let body = url::form_urlencoded::Serializer::new(String::new()).append_pair("token", token).finish();
        self.http("POST /oauth/introspect", &[basic("mail"), FORM.to_owned()], &body)
    }

    /// The revocation of a delegation by its user.
    pub fn revocation(&self, user: &str, delegation: &str) -> Vec<u8> {
        let headers = [format!("authorization: Bearer {}", self.user(user)), JSON.to_owned()];
        self.http(&format!("POST /delegate/{delegation}/revoke"), &headers, "{}")
    }

    /// A relying party's request for a status list.
    pub fn status_list(&self, list: u64) -> Vec<u8> {
        self.http(&format!("GET /oauth/status-lists/{list}"), &[], "")
    }

    /// Stores Alice's API key and delegates it to the proxy. Returns the token for the vault, and the connection.
    pub async fn vault(&self, upstream: &str) -> (String, String) {
        let yaml = format!(
            "providers:\n  - {{id: keys, kind: api_key, header: x-api-key, hosts: [\"http://{upstream}\"]}}\nclients:\n  \
             - {{id: proxy, kind: agent, auth: none, dpop_keys: [{}], scopes: [mail.read],\n     \
             audiences: [\"{MAIL}\", \"{}\"], authorization_details_types: [vault_connection],\n     \
             grant_types: [token-exchange]}}\n",
            self.proxy.kid(),
            self.issuer
        );
        let file = self.folder.join("vault.yaml");
        std::fs::write(&file, yaml).unwrap();
        let applied = Command::new(env!("CARGO_BIN_EXE_actchain"))
            .env("ACTCHAIN_DATA_DIR", self.folder.join("data"))
            .env("ACTCHAIN_ISSUER", &self.issuer)
            .args(["apply", "-f"])
            .arg(&file)
            .output()
            .unwrap();
        assert!(applied.status.success(), "{}", String::from_utf8_lossy(&applied.stderr));
        let user = self.user("alice");
        let headers = [format!("authorization: Bearer {user}"), JSON.to_owned()];
        let body = json!({"provider": "keys", "credential": {"key": "the-key"}}).to_string();
        let made = one(self.address(), self.http("POST /api/v1/connections", &headers, &body)).await;
        let made: Value = serde_json::from_str(made.split_once("\r\n\r\n").unwrap().1).unwrap();
        let id = made["id"].as_str().unwrap_or_else(|| panic!("{made}")).to_owned();
        let details = json!([{"type": "vault_connection", "identifier": id}]).to_string();
        let form = url::form_urlencoded::Serializer::new(String::new())
            .append_pair("grant_type", "urn:ietf:params:oauth:grant-type:token-exchange")
            .append_pair("subject_token", &user)
            .append_pair("subject_token_type", "urn:ietf:params:oauth:token-type:jwt")
            .append_pair("client_id", "proxy")
            .append_pair("audience", &self.issuer)
            .append_pair("authorization_details", &details)
            .finish();
        (token_in(&one(self.address(), self.request(&self.proxy, &[], form)).await), id)
    }

    /// The auditor's access token, bound to the proxy's key.
    pub async fn auditor(&self) -> String {
        let form = url::form_urlencoded::Serializer::new(String::new())
            .append_pair("grant_type", "client_credentials")
            .append_pair("client_id", "auditor")
            .append_pair("audience", &self.issuer)
            .finish();
        token_in(&one(self.address(), self.request(&self.proxy, &[], form)).await)
    }

    /// A request of a client with the proxy's key and this access token.
    pub fn under(&self, (method, path): (&str, &str), token: &str) -> Vec<u8> {
        let ath = base64url::encode(sha256(&[token.as_bytes()]));
        let target = path.split('?').next().unwrap();
        let claims = json!({"jti": jti(), "htm": method, "htu": format!("{}{target}", self.issuer), "iat": now(),
                            "ath": ath});
        let proof = self.proxy.sign_proof("dpop+jwt", &claims).unwrap();
        let headers = [format!("authorization: DPoP {token}"), format!("dpop: {proof}")];
        self.http(&format!("{method} {path}"), &headers, "")
    }

    pub fn exchange(&self, method: &Method) -> Vec<u8> {
        let kind = "urn:ietf:params:oauth:token-type:access_token";
        match method {
            Method::Secret => self.exchange_under(&self.subject),
            Method::Assertion => {
                let claims = json!({"iss": "by-assertion", "sub": "by-assertion", "aud": self.issuer, "jti": jti(),
                                    "iat": now(), "exp": now() + 120});
                let assertion = self.by_assertion.sign("client-authentication+jwt", &claims).unwrap();
                let more = [
                    ("client_assertion_type", "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"),
                    ("client_assertion", assertion.as_str()),
                ];
                self.request(&self.by_assertion, &[], self.form(&self.subject, kind, &more))
            }
        }
    }

    pub async fn run(&self, method: &Method, connections: usize, requests: usize) -> Run {
        self.send((0..requests).map(|_| self.exchange(method)).collect(), connections, generator::is_200)
            .await
    }

    /// Sends requests, and measures CPU time of the server and its database.
    pub async fn send(&self, requests: Vec<Vec<u8>>, connections: usize, good: generator::Good) -> Run {
        let count = requests.len() as f64;
        let (server, postgres) = (self.server.0.id(), self.cluster.postmaster_pid().unwrap());
        let before = (cpu::of(server), cpu::of_family(postgres));
        let (elapsed, latencies, failed) = generator::send(self.address(), requests, connections, good).await;
        let after = (cpu::of(server), cpu::of_family(postgres));
        Run {
            elapsed,
            latencies,
            failed,
            server_cpu: (after.0 - before.0) / count,
            postgres_cpu: (after.1 - before.1) / count,
        }
    }

    pub fn database(&self) -> PgConnectOptions {
        self.cluster.connect_options("actchain")
    }

    pub async fn sql(&self) -> PgConnection {
        PgConnection::connect_with(&self.database()).await.unwrap()
    }

    /// The key for the MACs of the server's rows.
    pub async fn rows(&self) -> RowMac {
        let text = std::fs::read_to_string(self.folder.join("data/master.key")).unwrap();
        let seal = SealingKey::of(&MasterKey::parse(&SecretString::from(text)).unwrap());
        RowMac::open(&mut self.sql().await, &seal).await.unwrap()
    }

    /// Adds the MACs to rows that a benchmark has written by SQL.
    pub async fn seal_rows(&self) {
        seal_rows::seal_unsealed(&self.rows().await, &mut self.sql().await).await.unwrap();
    }

    /// The process ids of the server and its database.
    pub fn pids(&self) -> (u32, u32) {
        (self.server.0.id(), self.cluster.postmaster_pid().unwrap())
    }

    /// Waits until the index includes the last complete block.
    pub async fn covered(&self) {
        let mut sql = self.sql().await;
        let sql_text = "SELECT (SELECT size / 1024 FROM audit_head), (SELECT count(*) FROM audit_block)";
        loop {
            let (complete, covered): (i64, i64) = sqlx::query_as(sql_text).fetch_one(&mut sql).await.unwrap();
            if covered >= complete {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
    }

    /// Adds delegations of other users to the same client, so that indexes have realistic sizes.
    pub async fn add_delegations(&self, count: i32) {
        let mut sql = self.sql().await;
        sqlx::query(
            "INSERT INTO delegation (id, path, root_iss, root_sub, delegator_iss, delegator_sub, delegate, origin,
                                     requested_at, activated_at, expires_at)
             SELECT 'x-' || $1 || '-' || n, ARRAY['x-' || $1 || '-' || n], 'https://idp.example.com', 'user-' || n,
                    'https://idp.example.com', 'user-' || n, 'by-secret', 'declared', now(), now(),
                    now() + interval '1 day'
             FROM generate_series(1, $1) n",
        )
        .bind(count)
        .execute(&mut sql)
        .await
        .unwrap();
        self.seal_rows().await;
        sqlx::query("ANALYZE delegation").execute(&mut sql).await.unwrap();
    }

    /// Appends events with the same function as the server.
    pub async fn fill_log(&self, count: u64) {
        let mut sql = self.sql().await;
        let event = Event::of_operator(Clock::System.now(), Action::ClientChanged, "x".repeat(600));
        let drafts = vec![event.unsequenced().unwrap(); 10_000];
        for _ in 0..count / 10_000 {
            let mut transaction = sql.begin().await.unwrap();
            audit::store::append(&mut transaction, &drafts).await.unwrap();
            transaction.commit().await.unwrap();
        }
        sqlx::query("CHECKPOINT").execute(&mut sql).await.unwrap();
    }

    /// Waits until the index includes this many events, except the last block.
    pub async fn wait_for_index(&self, events: u64) {
        let mut sql = self.sql().await;
        loop {
            let blocks: i64 =
                sqlx::query_scalar("SELECT count(*) FROM audit_block").fetch_one(&mut sql).await.unwrap();
            if blocks >= i64::try_from(events / 1_024).unwrap() {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
    }

    /// Runs an export; returns its size, speed and peak memory.
    pub async fn export(&self, words: &[&str]) -> Taken {
        let file = self.folder.join("export");
        let started = std::time::Instant::now();
        let mut command = Command::new(env!("CARGO_BIN_EXE_actchain"));
        command.env("ACTCHAIN_DATA_DIR", self.folder.join("data")).env("ACTCHAIN_ISSUER", &self.issuer);
        command.args(["audit", "export", "-o"]).arg(&file).args(words).stdout(Stdio::null());
        let mut child = command.spawn().unwrap();
        let mut peak = 0.0_f64;
        let status = loop {
            // The high-water mark disappears with the process.
            peak = peak.max(cpu::peak(child.id()));
            if let Some(status) = child.try_wait().unwrap() {
                break status;
            }
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        };
        assert!(status.success());
        let seconds = started.elapsed().as_secs_f64();
        let reader = BufReader::new(std::fs::File::open(&file).unwrap());
        let lines = reader.split(b'\n').count();
        let bytes = std::fs::metadata(&file).unwrap().len() as f64;
        Taken { lines, bytes, seconds, peak }
    }

    pub async fn strike(self) {
        drop(self.server);
        self.cluster.close().await.unwrap();
        std::fs::remove_dir_all(&self.folder).unwrap();
    }
}

fn basic(client_id: &str) -> String {
    use base64::Engine as _;
    let text = base64::engine::general_purpose::STANDARD.encode(format!("{client_id}:{SECRET}"));
    format!("authorization: Basic {text}")
}

fn token_in(answer: &str) -> String {
    let body: Value = serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap();
    body["access_token"].as_str().unwrap_or_else(|| panic!("{body}")).to_owned()
}

async fn one(address: &str, request: Vec<u8>) -> String {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let closing =
        String::from_utf8(request).unwrap().replacen("\r\n\r\n", "\r\nconnection: close\r\n\r\n", 1);
    stream.write_all(closing.as_bytes()).await.unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    text
}

fn yaml(idp: &SigningKey, proxy: &SigningKey, by_assertion: &SigningKey) -> String {
    format!(
        r#"issuers:
  - {{iss: https://idp.example.com, jwks: {{keys: [{}]}}, audiences: [actchain]}}
resources:
  - {{id: "{MAIL}", scopes: [mail.read]}}
clients:
  - {{id: proxy, kind: agent, auth: none, dpop_keys: [{}], scopes: [mail.read], audiences: ["{MAIL}"],
     grant_types: [token-exchange]}}
  - {{id: auditor, kind: auditor, auth: none, dpop_keys: [{}], grant_types: [client_credentials]}}
  - {{id: by-secret, kind: agent, auth: client_secret_basic, secret: {SECRET}, scopes: [mail.read],
     audiences: ["{MAIL}"], grant_types: [token-exchange]}}
  - {{id: by-assertion, kind: agent, auth: private_key_jwt, jwks: {{keys: [{}]}}, scopes: [mail.read],
     audiences: ["{MAIL}"], grant_types: [token-exchange]}}
  - {{id: mail, kind: resource_server, auth: client_secret_basic, secret: {SECRET}, audiences: ["{MAIL}"]}}
delegations:
  - {{id: D, delegator: {{iss: https://idp.example.com, sub: alice}}, delegate: proxy, expires_in: 86400}}
  - {{id: S, parent: D, delegate: by-secret}}
  - {{id: A, parent: D, delegate: by-assertion}}
"#,
        idp.public_jwk(),
        proxy.kid(),
        proxy.kid(),
        by_assertion.public_jwk()
    )
}
