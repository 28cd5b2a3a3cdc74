//! The world of the proxy tests: an upstream server that stores received requests byte by byte and sends configured
//! responses, and Alice's agent with connections to it.

use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use super::Answer;
use super::agent::{ACCESS_TOKEN, Agent, Auth, JWT};
use super::management::Api;
use super::world::{IDP, World};

/// One request as it arrived.
#[derive(Debug, Clone, Default)]
pub struct Received {
    pub head: String,
    pub body: Vec<u8>,
}

impl Received {
    pub fn line(&self) -> &str {
        self.head.lines().next().unwrap()
    }

    /// The values of a header field.
    pub fn all(&self, name: &str) -> Vec<&str> {
        let fields = self.head.lines().skip(1).filter_map(|line| line.split_once(": "));
        fields.filter(|(field, _)| field.eq_ignore_ascii_case(name)).map(|(_, value)| value).collect()
    }
}

#[derive(Debug, Default)]
struct Kept {
    received: Vec<Received>,
    hung_up: usize,
    answer: Option<Vec<u8>>,
}

/// A server of a third party.
#[derive(Debug, Clone)]
pub struct Upstream {
    pub authority: String,
    kept: Arc<Mutex<Kept>>,
    /// Lets `/v1/stream` continue.
    pub go_on: Arc<Semaphore>,
}

impl Upstream {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let authority = listener.local_addr().unwrap().to_string();
        let upstream = Self { authority, kept: Arc::default(), go_on: Arc::new(Semaphore::new(0)) };
        let own = upstream.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let own = own.clone();
                tokio::spawn(async move { own.serve(stream).await });
            }
        });
        upstream
    }

    pub fn received(&self) -> Vec<Received> {
        self.kept.lock().unwrap().received.clone()
    }

    pub fn last(&self) -> Received {
        self.received().pop().expect("something was received")
    }

    /// The number of clients that closed the connection while they waited.
    pub fn hung_up(&self) -> usize {
        self.kept.lock().unwrap().hung_up
    }

    /// Sets the response to all later requests.
    pub fn will_answer(&self, head: &str, body: &str) {
        let answer = format!("HTTP/1.1 {head}\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        self.kept.lock().unwrap().answer = Some(answer.into_bytes());
    }

    /// Like [`Self::will_answer`], with the framing in the text.
    pub fn will_answer_raw(&self, answer: &str) {
        self.kept.lock().unwrap().answer = Some(format!("HTTP/1.1 {answer}").into_bytes());
    }

    async fn serve(self, mut stream: TcpStream) -> Option<()> {
        let mut buffer = Vec::new();
        let end = loop {
            if let Some(at) = buffer.windows(4).position(|part| part == b"\r\n\r\n") {
                break at + 4;
            }
            if stream.read_buf(&mut buffer).await.ok()? == 0 {
                return None;
            }
        };
        let head = String::from_utf8_lossy(&buffer[..end]).into_owned();
        let place = {
            let mut kept = self.kept.lock().unwrap();
            kept.received.push(Received { head, body: buffer[end..].to_vec() });
            kept.received.len() - 1
        };
        let received = self.received()[place].clone();
        let path = received.line().split(' ').nth(1).unwrap().to_owned();
        match path.as_str() {
            "/v1/silent" => {
                let mut rest = Vec::new();
                let _ = stream.read_to_end(&mut rest).await;
                self.kept.lock().unwrap().hung_up += 1;
                return Some(());
            }
            "/v1/garbage" => {
                stream.write_all(b"220 mail.example.com ESMTP\r\n\r\n").await.ok()?;
                return Some(());
            }
            "/v1/stream" => {
                let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n";
                stream.write_all(head.as_bytes()).await.ok()?;
                self.go_on.acquire().await.unwrap().forget();
                stream.write_all(b"6\r\nsecond\r\n0\r\n\r\n").await.ok()?;
                return Some(());
            }
            "/v1/endless" => {
                stream.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n").await.ok()?;
                while stream.write_all(&[b'x'; 8192]).await.is_ok() {
                    tokio::task::yield_now().await;
                }
                self.kept.lock().unwrap().hung_up += 1;
                return Some(());
            }
            "/v1/broken" => {
                stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nonly this").await.ok()?;
                return Some(());
            }
            _ => {}
        }
        self.read_body(&mut stream, &received, place).await?;
        let configured = self.kept.lock().unwrap().answer.clone();
        let usual =
            b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 11\r\n\r\n{\"ok\":true}";
        let mut answer = configured.unwrap_or_else(|| usual.to_vec());
        if received.line().starts_with("HEAD ") {
            let end = answer.windows(4).position(|part| part == b"\r\n\r\n").unwrap() + 4;
            answer.truncate(end);
        }
        stream.write_all(&answer).await.ok()?;
        stream.shutdown().await.ok()
    }

    /// Reads the body of the request, and stores it as it arrives.
    async fn read_body(&self, stream: &mut TcpStream, received: &Received, place: usize) -> Option<()> {
        let length: Option<usize> =
            received.all("content-length").first().map(|value| value.parse().unwrap());
        let chunked = !received.all("transfer-encoding").is_empty();
        loop {
            {
                let kept = self.kept.lock().unwrap();
                let body = &kept.received[place].body;
                if chunked && body.ends_with(b"0\r\n\r\n") || !chunked && body.len() >= length.unwrap_or(0) {
                    return Some(());
                }
            }
            let mut more = vec![0; 64 * 1024];
            let read = stream.read(&mut more).await.unwrap_or(0);
            if read == 0 {
                self.kept.lock().unwrap().hung_up += 1;
                return None;
            }
            self.kept.lock().unwrap().received[place].body.extend_from_slice(&more[..read]);
        }
    }
}

/// Alice has connections at the upstream server, delegated to `courier`, which may delegate them to `second`.
pub struct Vaulted {
    pub world: World,
    pub upstream: Upstream,
    pub courier: Agent,
    pub second: Agent,
}

pub const KEY: &str = "key-0123456789abcdef";
pub const ACCESS: &str = "upstream-access-token-0123456789";
pub const PASSWORD: &str = "correct horse";

impl Vaulted {
    pub async fn new() -> Self {
        Self::configured("", "").await
    }

    /// With lines of TOML, and with more members of the provider `api`.
    pub async fn configured(config: &str, more: &str) -> Self {
        let world = World::configured(config).await;
        let upstream = Upstream::start().await;
        let courier = Agent::new("courier", Auth::Assertion);
        let second = Agent::new("second", Auth::Assertion);
        let issuer = &world.server.app.issuer;
        let at = &upstream.authority;
        let client = |agent: &Agent| {
            format!(
                "  - {{id: {}, kind: agent, auth: private_key_jwt, jwks: {{keys: [{}]}}, scopes: [], \
                 audiences: ['{issuer}'], authorization_details_types: [vault_connection], grant_types: [token-exchange]}}\n",
                agent.id,
                agent.key.public_jwk()
            )
        };
        let yaml = format!(
            "clients:\n{}{}delegations:\n\
             \x20 - {{id: V, delegator: {{iss: {IDP}, sub: alice}}, delegate: courier, expires_in: 3600, max_depth: 3}}\n\
             \x20 - {{id: W, parent: V, delegate: second, expires_in: 3600}}\n\
             providers:\n\
             \x20 - {{id: api, kind: api_key, header: X-Api-Key, hosts: ['http://{at}']{more}}}\n\
             \x20 - {{id: schemed, kind: api_key, scheme: Token, hosts: ['http://{at}']}}\n\
             \x20 - {{id: named, kind: basic, hosts: ['http://{at}']}}\n\
             \x20 - {{id: oauth, client_id: us, token_endpoint: 'http://{at}/token', hosts: ['http://{at}']}}\n",
            client(&courier),
            client(&second)
        );
        world.server.apply(&yaml).await.unwrap();
        Self { world, upstream, courier, second }
    }

    /// Creates a connection of Alice; returns its id.
    pub async fn connect(&self, provider: &str, credential: Value) -> String {
        self.world.connected(provider, credential).await
    }

    /// Creates a connection with an API key.
    pub async fn by_key(&self) -> String {
        self.connect("api", json!({"key": KEY})).await
    }

    /// A token of `courier` that names a connection, with more members in the object.
    pub async fn token_with(&self, connection: &str, more: Value) -> String {
        let mut detail = json!({"type": "vault_connection", "identifier": connection});
        detail.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let exchange = self.courier.exchange(&self.world.server, &self.world.user_token(), JWT);
        let exchange = exchange.param("audience", &self.world.server.app.issuer);
        let answer = exchange
            .param("authorization_details", &json!([detail]).to_string())
            .send()
            .await
            .with_status(200);
        answer.token().to_owned()
    }

    pub async fn token(&self, connection: &str) -> String {
        self.token_with(connection, json!({})).await
    }

    /// The token that `second` gets for a token of `courier`.
    pub async fn passed_on(&self, token: &str) -> String {
        let answer =
            self.second.exchange(&self.world.server, token, ACCESS_TOKEN).send().await.with_status(200);
        answer.token().to_owned()
    }

    /// The proxy path for a path of the upstream server.
    pub fn path(&self, connection: &str, path: &str) -> String {
        format!("/vault/proxy/{connection}/{}{path}", self.upstream.authority)
    }

    /// The two header fields of an agent's request.
    pub fn fields(
        &self,
        agent: &Agent,
        token: &str,
        (method, path): (&str, &str),
    ) -> [(&'static str, String); 2] {
        let claims = Api::new(&self.world.server, method, path).proof_claims(token);
        let proof = agent.key.sign_proof("dpop+jwt", &claims).unwrap();
        [("authorization", format!("DPoP {token}")), ("dpop", proof)]
    }

    /// A request of `courier`.
    pub fn request(&self, token: &str, (method, path): (&str, &str)) -> reqwest::RequestBuilder {
        let url = format!("{}{path}", self.world.server.base);
        let request = client().request(method.parse().unwrap(), url);
        self.fields(&self.courier, token, (method, path))
            .iter()
            .fold(request, |request, (name, value)| request.header(*name, value))
    }

    pub async fn send(&self, token: &str, at: (&str, &str)) -> Answer {
        Answer::read(self.request(token, at).send().await.unwrap()).await
    }

    /// Sends a request that no client library would send; returns the response.
    pub async fn raw(&self, request: &str) -> String {
        let mut stream = TcpStream::connect(self.world.server.app.config.listen).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        String::from_utf8_lossy(&answer).into_owned()
    }

    /// The events of an action, once there are this many.
    pub async fn events_of(&self, action: &str, count: usize) -> Vec<Value> {
        self.events_of_any(&[action], count).await
    }

    /// Like [`Self::events_of`], for several actions.
    pub async fn events_of_any(&self, actions: &[&str], count: usize) -> Vec<Value> {
        loop {
            let mut events = self.world.server.events().await;
            events.retain(|event| actions.contains(&event["action"].as_str().unwrap()));
            if events.len() >= count {
                return events;
            }
            tokio::task::yield_now().await;
        }
    }
}

/// A client that follows no redirects.
fn client() -> reqwest::Client {
    let client = reqwest::Client::builder().pool_max_idle_per_host(0);
    client.redirect(reqwest::redirect::Policy::none()).build().unwrap()
}
