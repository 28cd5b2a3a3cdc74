//! A server with its own clients, a subject token, and any number of stored rows.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};
use std::time::Duration;

use actchain::domain::audit::{self, Actor, Event, EventKind};
use actchain::domain::row_mac::RowMac;
use actchain::platform::clock::Clock;
use actchain::platform::seal::SealingKey;
use actchain::platform::secret::MasterKey;
use actchain::services::seal_rows;
use actchain_embedded_postgres::{Cluster, PostgresUser, Settings};
use actchain_protocol::jose::{SigningAlg, SigningKey};
use actchain_testkit::agent::{ACCESS_TOKEN, Agent, Auth, JWT, basic};
use actchain_testkit::answer::Answer;
use actchain_testkit::api::Api;
use actchain_testkit::endpoint::Endpoint;
use actchain_testkit::program::{Program, ServerProcess};
use actchain_testkit::request::Request;
use nix::sys::signal::Signal;
use secrecy::SecretString;
use serde_json::json;
use sqlx::postgres::PgConnectOptions;
use sqlx::{Connection as _, PgConnection};

use crate::cpu;
use crate::generator::{self, Load, Method, Run};

pub const MAIL: &str = "https://mail.example.com";
const SECRET: &str = "bench-secret-0123456789";
pub const IDP: &str = "https://idp.example.com";

pub struct Stage {
    server: ServerProcess,
    program: Program,
    idp: SigningKey,
    proxy: Agent,
    by_secret: Agent,
    by_assertion: Agent,
    subject: String,
    cluster: Cluster,
}

impl Endpoint for Stage {
    fn base(&self) -> &str {
        &self.server.base
    }

    fn issuer(&self) -> &str {
        &self.server.base
    }

    fn now(&self) -> i64 {
        Clock::System.now().unix_timestamp()
    }
}

/// The result of an export; `peak` in kB.
pub struct Taken {
    pub lines: usize,
    pub bytes: f64,
    pub seconds: f64,
    pub peak: f64,
}

impl Stage {
    pub async fn set() -> Self {
        Self::set_with(&[]).await
    }

    /// With further settings of the server.
    pub async fn set_with(settings: &[(&str, &str)]) -> Self {
        let program = Program::new(env!("CARGO_BIN_EXE_actchain"));
        let mut command = program.command();
        command.env("ACTCHAIN_TOKENS_MAX_TTL", "86400").envs(settings.iter().copied());
        let mut server = program.serve(command).unwrap();
        // The server stops its database, which a killed server would leave running.
        server.last_signal = Signal::SIGTERM;
        let (idp, _) = SigningKey::generate(SigningAlg::ES256).unwrap();
        let opened = Settings { data_dir: program.data_dir(), bin_dir: None, path: std::env::var_os("PATH") };
        let cluster = Cluster::open(opened, PostgresUser::Command).await.unwrap();
        let mut stage = Self {
            server,
            program,
            idp,
            proxy: Agent::new("proxy", Auth::None),
            by_secret: Agent::new("by-secret", Auth::Basic(SECRET.to_owned())),
            by_assertion: Agent::new("by-assertion", Auth::Assertion),
            subject: String::new(),
            cluster,
        };
        stage.program.apply(stage.command(), "world.yaml", &stage.manifest());
        stage.subject = stage.first_token("alice").await;
        stage
    }

    /// The program as the server of this stage is configured.
    fn command(&self) -> Command {
        let mut command = self.program.command();
        command.env("ACTCHAIN_TOKENS_MAX_TTL", "86400").env("ACTCHAIN_ISSUER", self.issuer());
        command
    }

    /// A user's token of the trusted issuer.
    pub fn user(&self, sub: &str) -> String {
        let now = self.now();
        let claims = json!({"iss": IDP, "sub": sub, "aud": "actchain", "iat": now, "exp": now + 80_000});
        self.idp.sign("JWT", &claims).unwrap()
    }

    /// The proxy's token for a user that has a delegation to the proxy.
    pub async fn first_token(&self, user: &str) -> String {
        let exchange = self.proxy.exchange(self, &self.user(user), JWT).param("audience", MAIL);
        exchange.send().await.token().to_owned()
    }

    /// The token of the second hop, which a relying party receives.
    pub async fn second_token(&self) -> String {
        self.next_hop(&self.by_secret, &self.subject).send().await.token().to_owned()
    }

    pub fn address(&self) -> &str {
        self.issuer().strip_prefix("http://").unwrap()
    }

    fn next_hop(&self, agent: &Agent, subject: &str) -> Request<'_> {
        agent.exchange(self, subject, ACCESS_TOKEN).param("audience", MAIL)
    }

    /// An exchange by the second hop with any first token.
    pub fn exchange_under(&self, subject: &str) -> Vec<u8> {
        self.next_hop(&self.by_secret, subject).bytes()
    }

    /// Introspection of a token by a resource server.
    pub fn introspection(&self, token: &str) -> Vec<u8> {
        let request = Request::at(self, "/oauth/introspect").header("authorization", basic("mail", SECRET));
        request.param("token", token).bytes()
    }

    /// The revocation of a delegation by its user.
    pub fn revocation(&self, user: &str, delegation: &str) -> Vec<u8> {
        let path = format!("/delegate/{delegation}/revoke");
        Api::post(self, &path, json!({})).user(&self.user(user)).bytes()
    }

    /// A relying party's request for a status list.
    pub fn status_list(&self, list: u64) -> Vec<u8> {
        Api::get(self, &format!("/oauth/status-lists/{list}")).bytes()
    }

    /// Stores Alice's API key and delegates it to the proxy. Returns the token for the vault, and the connection.
    pub async fn vault(&self, upstream: &str) -> (String, String) {
        let yaml = format!(
            "providers:\n  - {{id: keys, kind: api_key, header: x-api-key, hosts: [\"http://{upstream}\"]}}\nclients:\n  \
             - {{id: proxy, kind: agent, auth: none, dpop_keys: [{}], scopes: [mail.read],\n     \
             audiences: [\"{MAIL}\", \"{}\"], authorization_details_types: [vault_connection],\n     \
             grant_types: [token-exchange]}}\n",
            self.proxy.jkt(),
            self.issuer()
        );
        self.program.apply(self.command(), "vault.yaml", &yaml);
        let user = self.user("alice");
        let connection = json!({"provider": "keys", "credential": {"key": "the-key"}});
        let made = Api::post(self, "/api/v1/connections", connection).user(&user).send().await;
        let details = json!([{"type": "vault_connection", "identifier": made.id()}]).to_string();
        let exchange = self.proxy.exchange(self, &user, JWT).param("audience", self.issuer());
        let answer = exchange.param("authorization_details", &details).send().await;
        (answer.token().to_owned(), made.id())
    }

    /// Lets the proxy report steps under its delegation `D`; returns its token for that.
    pub async fn reporting(&self) -> String {
        let yaml = format!(
            "clients:\n  - {{id: proxy, kind: agent, auth: none, dpop_keys: [{}],\n     scopes: [mail.read, actchain.delegate], \
             audiences: [\"{MAIL}\", \"{}\"], grant_types: [token-exchange, client_credentials]}}\n",
            self.proxy.jkt(),
            self.issuer()
        );
        self.program.apply(self.command(), "reporting.yaml", &yaml);
        self.own_token("proxy").await
    }

    /// A request with a body, of a client with the proxy's key and this access token.
    pub fn posted(&self, path: &str, token: &str, body: &serde_json::Value) -> Vec<u8> {
        Api::post(self, path, body.clone()).client(&self.proxy, token).bytes()
    }

    /// A request with a body, of a user.
    pub fn posted_by_user(&self, sub: &str, path: &str, body: &serde_json::Value) -> Vec<u8> {
        Api::post(self, path, body.clone()).user(&self.user(sub)).bytes()
    }

    /// The response to a request with a body, of a user.
    pub async fn as_user(&self, sub: &str, path: &str, body: serde_json::Value) -> Answer {
        Api::post(self, path, body).user(&self.user(sub)).send().await
    }

    /// Lets the proxy act for a user who is away; returns its refresh token.
    pub async fn offline(&self, sub: &str) -> String {
        let yaml = format!(
            "clients:\n  - {{id: proxy, kind: agent, auth: none, dpop_keys: [{}],\n     scopes: [mail.read, actchain.delegate], \
             audiences: [\"{MAIL}\", \"{}\"], grant_types: [token-exchange, client_credentials, refresh_token]}}\n\
             delegations:\n  - {{id: offline, delegator: {{iss: \"{IDP}\", sub: {sub}}}, delegate: proxy, scopes: [mail.read],\n     \
             offline_access: true, expires_in: 80000}}\n",
            self.proxy.jkt(),
            self.issuer()
        );
        self.program.apply(self.command(), "offline.yaml", &yaml);
        let exchange = self.proxy.exchange(self, &self.user(sub), JWT).param("audience", MAIL);
        exchange.send().await.json["refresh_token"].as_str().unwrap().to_owned()
    }

    /// An exchange of a user's token by the proxy.
    pub fn first_exchange(&self, user: &str) -> Vec<u8> {
        self.proxy.exchange(self, user, JWT).param("audience", MAIL).bytes()
    }

    /// A request of the proxy with a refresh token.
    pub fn refresh(&self, token: &str) -> Vec<u8> {
        let request = self.proxy.request(self).param("grant_type", "refresh_token");
        request.param("refresh_token", token).param("audience", MAIL).bytes()
    }

    /// Applies a manifest by the command.
    pub fn apply(&self, yaml: &str) {
        self.program.apply(self.command(), "applied.yaml", yaml);
    }

    /// The URL of a link by which an operator enters the console.
    pub fn console_link(&self) -> String {
        let made = self.command().args(["console", "--json"]).output().unwrap();
        let made: serde_json::Value = serde_json::from_slice(&made.stdout).unwrap();
        made["url"].as_str().unwrap().to_owned()
    }

    /// The response of the management API to a client with the proxy's key and this access token.
    pub async fn answer(&self, path: &str, token: &str) -> Answer {
        Api::get(self, path).client(&self.proxy, token).send().await
    }

    /// The auditor's access token, bound to the proxy's key.
    pub async fn auditor(&self) -> String {
        self.own_token("auditor").await
    }

    /// The administrator's access token, bound to the proxy's key.
    pub async fn admin(&self) -> String {
        self.own_token("admin").await
    }

    async fn own_token(&self, id: &str) -> String {
        let client = Agent { id: id.to_owned(), ..self.proxy.clone() };
        let request = client.request(self).param("grant_type", "client_credentials");
        request.param("audience", self.issuer()).send().await.token().to_owned()
    }

    /// A request of a client with the proxy's key and this access token.
    pub fn under(&self, method: &str, path: &str, token: &str) -> Vec<u8> {
        Api::new(self, method, path).client(&self.proxy, token).bytes()
    }

    pub fn exchange(&self, method: &Method) -> Vec<u8> {
        match method {
            Method::Secret => self.exchange_under(&self.subject),
            Method::Assertion => self.next_hop(&self.by_assertion, &self.subject).bytes(),
        }
    }

    pub async fn run(&self, method: &Method, connections: usize, requests: usize) -> Run {
        self.send((0..requests).map(|_| self.exchange(method)).collect(), connections, generator::is_200)
            .await
    }

    /// The headers of [`Self::run`] to a path that does not exist: what connections, HTTP and the log line cost.
    pub async fn run_unrouted(&self, connections: usize, requests: usize) -> Run {
        let unrouted = || {
            let request = String::from_utf8(self.exchange(&Method::Secret)).unwrap();
            let (head, _) = request.split_once("\r\n\r\n").unwrap();
            let head = head.lines().filter(|line| !line.to_ascii_lowercase().starts_with("content-"));
            let head = head.collect::<Vec<_>>().join("\r\n").replace("/oauth/token", "/nothing");
            format!("{head}\r\ncontent-length: 0\r\n\r\n").into_bytes()
        };
        let requests = (0..requests).map(|_| unrouted()).collect();
        self.send(requests, connections, |status, _| status == 404).await
    }

    /// Another server with the same database and issuer, on a port of its own.
    pub fn another_server(&self) -> ServerProcess {
        let options = self.database();
        let socket = options.get_socket().unwrap().display().to_string();
        let url = format!("postgres:///actchain?host={socket}&port={}&user=actchain", options.get_port());
        let mut command = self.command();
        command.env("ACTCHAIN_DATABASE_URL", url);
        command.env("ACTCHAIN_MASTER_KEY_FILE", self.program.data_dir().join("master.key"));
        let mut server = self.program.serve(command).unwrap();
        server.last_signal = Signal::SIGTERM;
        server
    }

    /// Exchanges at this server and others, each of which has its share of connections and requests. CPU time is that of
    /// all servers.
    pub async fn run_at_all(&self, others: &[ServerProcess], connections: usize, requests: usize) -> Run {
        let bases = std::iter::once(self.base()).chain(others.iter().map(|server| server.base.as_str()));
        let addresses: Vec<&str> = bases.filter_map(|base| base.strip_prefix("http://")).collect();
        let servers = || {
            cpu::of(self.server.child.id()) + others.iter().map(|one| cpu::of(one.child.id())).sum::<f64>()
        };
        let postgres = self.cluster.postmaster_pid().unwrap();
        let load = Load {
            connections: connections / addresses.len(),
            pause: Duration::ZERO,
            good: generator::is_200,
        };
        let signed = || (0..requests / addresses.len()).map(|_| self.exchange(&Method::Secret)).collect();
        let shares: Vec<Vec<Vec<u8>>> = addresses.iter().map(|_| signed()).collect();
        let before = (servers(), cpu::of_family(postgres));
        let sent = addresses.iter().zip(shares).map(|(address, share)| generator::send(address, share, load));
        let sent = futures_util::future::join_all(sent).await;
        let after = (servers(), cpu::of_family(postgres));
        let elapsed = sent.iter().map(|(elapsed, ..)| *elapsed).max().unwrap_or_default();
        let failed = sent.iter().map(|(_, _, failed)| failed).sum();
        let latencies: Vec<f64> = sent.into_iter().flat_map(|(_, latencies, _)| latencies).collect();
        let count = latencies.len() as f64;
        Run {
            elapsed,
            failed,
            server_cpu: (after.0 - before.0) / count,
            postgres_cpu: (after.1 - before.1) / count,
            latencies,
        }
    }

    /// Sends requests, and measures CPU time of the server and its database.
    pub async fn send(&self, requests: Vec<Vec<u8>>, connections: usize, good: generator::Good) -> Run {
        self.send_paced(requests, Load { connections, pause: Duration::ZERO, good }).await
    }

    pub async fn send_paced(&self, requests: Vec<Vec<u8>>, load: Load) -> Run {
        let count = requests.len() as f64;
        let (server, postgres) = (self.server.child.id(), self.cluster.postmaster_pid().unwrap());
        let before = (cpu::of(server), cpu::of_family(postgres));
        let (elapsed, latencies, failed) = generator::send(self.address(), requests, load).await;
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
        let text = std::fs::read_to_string(self.program.data_dir().join("master.key")).unwrap();
        let seal = SealingKey::of(&MasterKey::parse(&SecretString::from(text)).unwrap());
        RowMac::open(&mut self.sql().await, &seal).await.unwrap()
    }

    /// Adds the MACs to rows that a benchmark has written by SQL.
    pub async fn seal_rows(&self) {
        seal_rows::seal_unsealed(&self.rows().await, &mut self.sql().await).await.unwrap();
    }

    /// The process ids of the server and its database.
    pub fn pids(&self) -> (u32, u32) {
        (self.server.child.id(), self.cluster.postmaster_pid().unwrap())
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
            "WITH made AS (
                 INSERT INTO delegation (id, path, root_iss, root_sub, delegator_iss, delegator_sub, delegate, origin,
                                         requested_at, activated_at, expires_at)
                 SELECT 'x-' || $1 || '-' || n, ARRAY['x-' || $1 || '-' || n], 'https://idp.example.com', 'user-' || n,
                        'https://idp.example.com', 'user-' || n, 'by-secret', 'declared', now(), now(),
                        now() + interval '1 day'
                 FROM generate_series(1, $1) n RETURNING id
             )
             INSERT INTO delegation_usage (delegation_id, uses) SELECT id, 0 FROM made",
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
        let mut event = Event::new(Clock::System.now(), EventKind::ClientEnabled, Actor::Operator);
        event.target = Some("x".repeat(600));
        let events = vec![event; 10_000];
        for _ in 0..count / 10_000 {
            let mut transaction = sql.begin().await.unwrap();
            audit::append::append_events(&mut transaction, &events).await.unwrap();
            transaction.commit().await.unwrap();
        }
        sqlx::query("CHECKPOINT").execute(&mut sql).await.unwrap();
    }

    /// Runs an export; returns its size, speed and peak memory.
    pub async fn export(&self, words: &[&str]) -> Taken {
        let file = self.program.path("export");
        let started = std::time::Instant::now();
        let mut command = self.command();
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

    fn manifest(&self) -> String {
        format!(
            r#"issuers:
  - {{iss: {IDP}, jwks: {{keys: [{idp}]}}, audiences: [actchain]}}
resources:
  - {{id: "{MAIL}", scopes: [mail.read]}}
clients:
  - {{id: proxy, kind: agent, auth: none, dpop_keys: [{proxy}], scopes: [mail.read], audiences: ["{MAIL}"],
     grant_types: [token-exchange]}}
  - {{id: auditor, kind: auditor, auth: none, dpop_keys: [{proxy}], grant_types: [client_credentials]}}
  - {{id: admin, kind: admin, auth: none, dpop_keys: [{proxy}], scopes: [actchain.admin], grant_types: [client_credentials]}}
  - {{id: by-secret, kind: agent, auth: client_secret_basic, secret: {SECRET}, scopes: [mail.read],
     audiences: ["{MAIL}"], grant_types: [token-exchange]}}
  - {{id: by-assertion, kind: agent, auth: private_key_jwt, jwks: {{keys: [{by_assertion}]}}, scopes: [mail.read],
     audiences: ["{MAIL}"], grant_types: [token-exchange]}}
  - {{id: mail, kind: resource_server, auth: client_secret_basic, secret: {SECRET}, audiences: ["{MAIL}"]}}
delegations:
  - {{id: D, delegator: {{iss: {IDP}, sub: alice}}, delegate: proxy, expires_in: 86400}}
  - {{id: S, parent: D, delegate: by-secret}}
  - {{id: A, parent: D, delegate: by-assertion}}
"#,
            idp = self.idp.public_jwk(),
            proxy = self.proxy.jkt(),
            by_assertion = self.by_assertion.key.public_jwk(),
        )
    }

    pub async fn strike(self) {
        drop(self.server);
        self.cluster.close().await.unwrap();
    }
}
