//! A third party for the demo: a small authorization server (RFC 6749 with PKCE, RFC 7009, RFC 8414) and the API that
//! it protects. Clients authenticate, refresh tokens can be used once, and access tokens are short-lived.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Mutex;
use tokio::task::JoinHandle;
use url::Url;
use url::form_urlencoded;

use super::process::now;
use crate::platform::fault::{Context, Fault};
use crate::platform::random;
use crate::protocol::oauth_client::{basic, challenge};

/// The client id of the demo's server at the provider.
pub(super) const CLIENT: &str = "actchain-at-the-calendar";
/// Lifetime of the provider's access tokens, in seconds.
const LIFE: i64 = 3_600;
/// The redirect URI of the browser.
const BACK: &str = "https://app.example.com/back";
const MOST: usize = 64 * 1024;

/// A provider that runs until it is dropped.
pub(super) struct Provider {
    pub(super) base: String,
    /// The client secret of the demo's server at the provider.
    pub(super) secret: String,
    state: Arc<State>,
    http: reqwest::Client,
    task: JoinHandle<()>,
}

struct State {
    base: String,
    secret: String,
    books: Mutex<Books>,
}

#[derive(Default)]
struct Books {
    codes: BTreeMap<String, Code>,
    /// By refresh token: the index of the grant, and whether the token was used.
    refresh: BTreeMap<String, (usize, Spent)>,
    /// By access token: the index of the grant, and the token's expiry.
    access: BTreeMap<String, (usize, i64)>,
    grants: Vec<Grant>,
    given: Vec<String>,
}

struct Code {
    user: String,
    redirect_uri: String,
    challenge: String,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Spent {
    Yes,
    No,
}

struct Grant {
    user: String,
    renewed: u32,
    ended: Option<i64>,
}

type Params = BTreeMap<String, String>;

struct Request {
    method: String,
    path: String,
    query: Params,
    fields: Params,
    form: Params,
}

struct Reply {
    status: u16,
    location: Option<String>,
    body: Value,
}

impl Reply {
    fn with(status: u16, body: Value) -> Self {
        Self { status, location: None, body }
    }

    fn error(status: u16, code: &str) -> Self {
        Self::with(status, json!({"error": code}))
    }
}

impl Drop for Provider {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Provider {
    /// Starts the provider on a free port of loopback.
    pub(super) async fn open() -> Result<Self, Fault> {
        let listener = TcpListener::bind("127.0.0.1:0").await.context("opening the provider")?;
        let address = listener.local_addr().context("opening the provider")?;
        let (base, secret) = (format!("http://{address}"), random::token()?);
        let state = State { base: base.clone(), secret: secret.clone(), books: Mutex::default() };
        let state = Arc::new(state);
        let shared = Arc::clone(&state);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, Arc::clone(&shared)));
            }
        });
        let http = reqwest::Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none());
        let http = http.build().context("building an HTTP client")?;
        Ok(Self { base, secret, state, http, task })
    }

    /// As `actchain apply` reads it; the rest it says of itself.
    pub(super) fn manifest(&self, secret_file: &str) -> String {
        format!(
            "providers:\n  - {{id: calendar, name: Calendar, issuer: \"{}\", client_id: {CLIENT}, client_secret_file: \
             \"{secret_file}\", scopes: [events.read], rotates_refresh_tokens: true}}\n",
            self.base
        )
    }

    /// Plays the user's browser and a client together: the user agrees, and the client gets tokens.
    pub(super) async fn agree(&self, user: &str) -> Result<Value, Fault> {
        let (verifier, state) = (random::token()?, random::token()?);
        let params = [
            ("response_type", "code"),
            ("client_id", CLIENT),
            ("redirect_uri", BACK),
            ("scope", "events.read"),
            ("state", state.as_str()),
            ("code_challenge", &challenge(&verifier)),
            ("code_challenge_method", "S256"),
        ];
        let url = Url::parse_with_params(&format!("{}/authorize", self.base), params);
        let url = url.context("writing an authorization request")?;
        let sent = self.http.get(url).header("cookie", format!("user={user}")).send().await;
        let sent = sent.context("authorizing at the provider")?;
        let back = sent.headers().get("location").and_then(|value| value.to_str().ok()).unwrap_or_default();
        let back = Url::parse(back).context("reading where the provider sends a browser")?;
        let said: Params = back.query_pairs().into_owned().collect();
        if said.get("state") != Some(&state) {
            return Err(Fault::new("the provider answered somebody else's request"));
        }
        let code = said.get("code").map(String::as_str).unwrap_or_default();
        let mut form = form_urlencoded::Serializer::new(String::new());
        form.append_pair("grant_type", "authorization_code").append_pair("code", code);
        form.append_pair("redirect_uri", BACK).append_pair("code_verifier", &verifier);
        let request = self.http.post(format!("{}/token", self.base)).body(form.finish());
        let request = request.header("content-type", "application/x-www-form-urlencoded");
        let request = request.header("authorization", basic(CLIENT, &self.secret).as_str());
        let answer = request.send().await.context("asking the provider for tokens")?;
        let answer = answer.text().await.context("asking the provider for tokens")?;
        serde_json::from_str(&answer).context("reading the provider's tokens")
    }

    /// Calls the provider's API with an access token; returns status and body.
    pub(super) async fn events(&self, token: &str) -> Result<(u16, Value), Fault> {
        let request = self.http.get(format!("{}/events", self.base));
        let answer = request.header("authorization", format!("Bearer {token}")).send().await;
        let answer = answer.context("using the provider's interface")?;
        let status = answer.status().as_u16();
        let text = answer.text().await.context("using the provider's interface")?;
        Ok((status, serde_json::from_str(&text).context("reading the provider's answer")?))
    }

    /// Every secret that the provider has issued, and the demo server's client secret: none may appear in any output.
    pub(super) async fn secrets(&self) -> Vec<String> {
        let given = self.state.books.lock().await.given.clone();
        given.into_iter().chain([self.secret.clone()]).collect()
    }
}

async fn serve(mut stream: TcpStream, state: Arc<State>) {
    // A connection without a valid request is closed without a response.
    let Some(request) = read(&mut stream).await else { return };
    let reply = state.answer(&request).await;
    let reply = reply.unwrap_or_else(|_| Reply::error(500, "server_error"));
    let body = reply.body.to_string();
    let location = reply.location.map(|url| format!("location: {url}\r\n")).unwrap_or_default();
    let head = format!(
        "HTTP/1.1 {} -\r\ncontent-type: application/json\r\ncontent-length: {}\r\ncache-control: no-store\r\n{location}\
         connection: close\r\n\r\n",
        reply.status,
        body.len()
    );
    drop(stream.write_all(format!("{head}{body}").as_bytes()).await);
}

/// Reads one request with a `Content-Length` body (RFC 9112), to the extent that the demo needs.
async fn read(stream: &mut TcpStream) -> Option<Request> {
    let mut bytes = Vec::new();
    loop {
        if let Some(request) = parse(&bytes) {
            return Some(request);
        }
        let more = stream.read_buf(&mut bytes).await.ok()?;
        if more == 0 || bytes.len() > MOST {
            return None;
        }
    }
}

fn parse(bytes: &[u8]) -> Option<Request> {
    let text = std::str::from_utf8(bytes).ok()?;
    let (head, body) = text.split_once("\r\n\r\n")?;
    let mut lines = head.split("\r\n");
    let mut first = lines.next()?.split(' ');
    let (method, target) = (first.next()?.to_owned(), first.next()?);
    let fields: Params = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    let length: usize = fields.get("content-length").map_or(Some(0), |length| length.parse().ok())?;
    let body = body.get(..length)?;
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let pairs = |text: &str| form_urlencoded::parse(text.as_bytes()).into_owned().collect();
    Some(Request { method, path: path.to_owned(), query: pairs(query), fields, form: pairs(body) })
}

impl State {
    async fn answer(&self, request: &Request) -> Result<Reply, Fault> {
        match (request.method.as_str(), request.path.as_str()) {
            ("GET", "/.well-known/oauth-authorization-server") => Ok(Reply::with(200, self.metadata())),
            ("GET", "/authorize") => self.authorize(request).await,
            ("POST", "/token" | "/revoke") if !self.knows(request) => Ok(Reply::error(401, "invalid_client")),
            ("POST", "/token") => self.token(&request.form).await,
            ("POST", "/revoke") => Ok(self.revoke(&request.form).await),
            ("GET", "/events") => Ok(self.events(request).await),
            _ => Ok(Reply::error(404, "not_found")),
        }
    }

    fn metadata(&self) -> Value {
        let base = &self.base;
        json!({
            "issuer": base, "authorization_endpoint": format!("{base}/authorize"),
            "token_endpoint": format!("{base}/token"), "revocation_endpoint": format!("{base}/revoke"),
        })
    }

    fn knows(&self, request: &Request) -> bool {
        request.fields.get("authorization").map(String::as_str) == Some(basic(CLIENT, &self.secret).as_str())
    }

    async fn authorize(&self, request: &Request) -> Result<Reply, Fault> {
        let asked = |name: &str| request.query.get(name).cloned().unwrap_or_default();
        let user = request.fields.get("cookie").and_then(|cookie| cookie.strip_prefix("user="));
        let (Some(user), "S256") = (user, asked("code_challenge_method").as_str()) else {
            return Ok(Reply::error(400, "invalid_request"));
        };
        let (code, redirect_uri) = (random::token()?, asked("redirect_uri"));
        let params = [("code", code.as_str()), ("state", &asked("state"))];
        let Ok(back) = Url::parse_with_params(&redirect_uri, params) else {
            return Ok(Reply::error(400, "invalid_request"));
        };
        let kept = Code { user: user.to_owned(), redirect_uri, challenge: asked("code_challenge") };
        let mut books = self.books.lock().await;
        books.given.push(code.clone());
        books.codes.insert(code, kept);
        Ok(Reply { status: 302, location: Some(back.into()), body: json!({}) })
    }

    async fn token(&self, form: &Params) -> Result<Reply, Fault> {
        let of = |name: &str| form.get(name).map(String::as_str).unwrap_or_default();
        let gone = || Ok(Reply::error(400, "invalid_grant"));
        let mut books = self.books.lock().await;
        match of("grant_type") {
            "authorization_code" => {
                let code = books.codes.remove(of("code"));
                let proved = |code: &Code| {
                    code.redirect_uri == of("redirect_uri")
                        && code.challenge == challenge(of("code_verifier"))
                };
                let Some(code) = code.filter(proved) else { return gone() };
                books.grants.push(Grant { user: code.user, renewed: 0, ended: None });
                let number = books.grants.len() - 1;
                books.give(number)
            }
            "refresh_token" => {
                let Some(&(number, spent)) = books.refresh.get(of("refresh_token")) else { return gone() };
                let Some(grant) = books.grants.get_mut(number) else { return gone() };
                // A refresh token that is used twice was stolen (RFC 9700 §4.14.2).
                if spent == Spent::Yes {
                    grant.ended = Some(now());
                }
                if grant.ended.is_some() {
                    return gone();
                }
                grant.renewed += 1;
                books.refresh.insert(of("refresh_token").to_owned(), (number, Spent::Yes));
                books.give(number)
            }
            _ => Ok(Reply::error(400, "unsupported_grant_type")),
        }
    }

    async fn revoke(&self, form: &Params) -> Reply {
        let token = form.get("token").map(String::as_str).unwrap_or_default();
        let mut books = self.books.lock().await;
        let number = books.refresh.get(token).map(|(number, _)| *number);
        let number = number.or_else(|| books.access.get(token).map(|(number, _)| *number));
        if let Some(grant) = number.and_then(|number| books.grants.get_mut(number)) {
            grant.ended = Some(now());
        }
        Reply::with(200, json!({}))
    }

    /// The protected API: the events of the user, for a valid access token.
    async fn events(&self, request: &Request) -> Reply {
        let token = request.fields.get("authorization").and_then(|value| value.strip_prefix("Bearer "));
        let books = self.books.lock().await;
        let good = token.and_then(|token| books.access.get(token)).filter(|(_, end)| *end > now());
        let grant = good.and_then(|(number, _)| books.grants.get(*number));
        match grant.filter(|grant| grant.ended.is_none()) {
            Some(grant) => Reply::with(
                200,
                json!({"events_of": grant.user, "events": ["lunch"], "renewed": grant.renewed}),
            ),
            None => Reply::error(401, "invalid_token"),
        }
    }
}

impl Books {
    fn give(&mut self, number: usize) -> Result<Reply, Fault> {
        let (access, refresh) = (random::token()?, random::token()?);
        self.given.extend([access.clone(), refresh.clone()]);
        self.access.insert(access.clone(), (number, now() + LIFE));
        self.refresh.insert(refresh.clone(), (number, Spent::No));
        Ok(Reply::with(
            200,
            json!({
                "access_token": access, "token_type": "Bearer", "expires_in": LIFE, "refresh_token": refresh,
                "scope": "events.read",
            }),
        ))
    }
}
