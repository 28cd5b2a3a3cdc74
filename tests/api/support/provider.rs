//! A third party: an authorization server on port 0 with authorization codes and PKCE, refresh tokens that may rotate,
//! and revocation. It counts requests, stores every secret that it issues, and fails on demand.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};

use actchain_protocol::oauth_client::{basic, challenge};
use actix_web::body::MessageBody as _;
use actix_web::web::{Bytes, Data, Query};
use actix_web::{App, HttpRequest, HttpResponse, HttpServer, web};
use reqwest::Url;
use serde_json::{Value, json};
use tokio::sync::{Semaphore, watch};

pub const CLIENT: &str = "actchain at the provider";
pub const SECRET: &str = "s3cret:of+us/at the provider";

/// The kind of request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Asked {
    Authorize,
    /// A code at the token endpoint.
    Code,
    /// A refresh token at the token endpoint.
    Refresh,
    Revoke,
}

/// How the server authenticates as a client of the provider.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientAuth {
    Basic,
    Post,
    None,
}

/// The behaviour of the provider.
#[derive(Debug, Clone)]
pub struct Kind {
    pub auth: ClientAuth,
    /// A refresh token can be used once; its reuse revokes the grant (RFC 9700 §4.14.2).
    pub rotates: bool,
    /// Whether authorization responses carry `iss` (RFC 9207).
    pub sends_issuer: bool,
    pub expires_in: Option<u32>,
    /// Whether it issues refresh tokens.
    pub refreshes: bool,
    /// The granted scope, regardless of the request; `None` grants the requested scope and leaves `scope` out of the
    /// response.
    pub grants: Option<String>,
}

impl Default for Kind {
    fn default() -> Self {
        Self {
            auth: ClientAuth::Basic,
            rotates: true,
            sends_issuer: false,
            expires_in: Some(3600),
            refreshes: true,
            grants: None,
        }
    }
}

/// Delays responses until the test opens the gate, which stays open.
#[derive(Debug, Clone)]
pub struct Gate(Arc<Semaphore>);

impl Gate {
    fn closed() -> Self {
        Self(Arc::new(Semaphore::new(0)))
    }

    pub fn open(&self) {
        self.0.close();
    }

    async fn passed(&self) {
        // No permit is ever issued: closing the semaphore ends the wait.
        let _ = self.0.acquire().await;
    }
}

/// A fault to inject instead of the normal behaviour.
#[derive(Debug, Clone)]
pub struct Wrong {
    /// The gate that the response waits for.
    pub gate: Option<Gate>,
    /// Status, media type and body; `None` sends the normal response.
    pub answer: Option<(u16, String, String)>,
    /// An additional header field.
    pub field: Option<(&'static str, String)>,
    /// Changes the form of the normal response after the work is done.
    pub rework: Option<Rework>,
    /// Whether the provider does its work before it sends the faulty response.
    pub after: After,
}

/// Converts the normal response, a JSON object.
#[derive(Clone)]
pub struct Rework(Arc<dyn Fn(Value) -> Said + Send + Sync>);

/// A response as it is sent.
pub struct Said {
    pub status: u16,
    pub kind: &'static str,
    pub coding: Option<&'static str>,
    pub body: Vec<u8>,
}

impl Said {
    pub fn json(body: impl Into<Vec<u8>>) -> Self {
        Self { status: 200, kind: "application/json", coding: None, body: body.into() }
    }
}

impl std::fmt::Debug for Rework {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Rework")
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum After {
    Nothing,
    ItsWork,
}

impl Wrong {
    pub fn json(status: u16, body: Value) -> Self {
        Self::says(status, "application/json", &body.to_string())
    }

    pub fn says(status: u16, kind: &str, body: &str) -> Self {
        let answer = Some((status, kind.to_owned(), body.to_owned()));
        Self { gate: None, answer, field: None, rework: None, after: After::Nothing }
    }

    /// The normal response in another form.
    pub fn reworked(rework: impl Fn(Value) -> Said + Send + Sync + 'static) -> Self {
        let rework = Some(Rework(Arc::new(rework)));
        Self { gate: None, answer: None, field: None, rework, after: After::ItsWork }
    }

    /// Adds a header field.
    pub fn with(self, name: &'static str, value: &str) -> Self {
        Self { field: Some((name, value.to_owned())), ..self }
    }

    /// The normal response, but delayed until the gate is open. The work is done at once.
    pub fn held() -> (Self, Gate) {
        let gate = Gate::closed();
        let held =
            Self { gate: Some(gate.clone()), answer: None, field: None, rework: None, after: After::ItsWork };
        (held, gate)
    }
}

#[derive(Debug, Clone)]
struct Code {
    redirect_uri: String,
    challenge: String,
    scope: String,
}

#[derive(Debug, Clone)]
struct Grant {
    family: u64,
    scope: String,
    used: bool,
}

#[derive(Debug, Default)]
struct Books {
    counts: BTreeMap<Asked, usize>,
    plans: BTreeMap<Asked, VecDeque<Wrong>>,
    always: BTreeMap<Asked, Wrong>,
    codes: BTreeMap<String, Code>,
    refresh: BTreeMap<String, Grant>,
    access: BTreeMap<String, u64>,
    ended: Vec<u64>,
    issued: Vec<String>,
    newest: Option<String>,
    revoked: Vec<String>,
    asked_for: Vec<BTreeMap<String, String>>,
    revocation_requests: Vec<String>,
    number: u64,
    busy: usize,
    busiest: usize,
}

struct State {
    base: String,
    kind: Mutex<Kind>,
    books: Mutex<Books>,
    /// Changes with every request.
    requests: watch::Sender<()>,
}

/// A running authorization server of a third party.
pub struct Provider {
    pub base: String,
    state: Arc<State>,
    handle: actix_web::dev::ServerHandle,
}

impl Provider {
    pub async fn start() -> Self {
        Self::of(Kind::default()).await
    }

    pub async fn of(kind: Kind) -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        let (kind, books) = (Mutex::new(kind), Mutex::default());
        let state = Arc::new(State { base: base.clone(), kind, books, requests: watch::Sender::new(()) });
        let shared = Data::from(Arc::clone(&state));
        let server = HttpServer::new(move || {
            App::new()
                .app_data(shared.clone())
                .route("/authorize", web::get().to(authorize))
                .route("/token", web::post().to(token))
                .route("/revoke", web::post().to(revoke))
                .route("/api/{tail:.*}", web::route().to(api))
                .route("/.well-known/oauth-authorization-server", web::get().to(metadata))
        })
        .workers(1)
        .disable_signals()
        .listen(listener)
        .unwrap()
        .run();
        let handle = server.handle();
        tokio::spawn(server);
        Self { base, state, handle }
    }

    /// The manifest with this provider id; `more` are further members, such as `scopes: [a, b]`.
    pub fn manifest(&self, id: &str, more: &str) -> String {
        let auth = self.state.kind.lock().unwrap().auth;
        let client = match auth {
            ClientAuth::Basic => {
                format!("client_secret: {SECRET:?}, token_endpoint_auth: client_secret_basic")
            }
            ClientAuth::Post => format!("client_secret: {SECRET:?}, token_endpoint_auth: client_secret_post"),
            ClientAuth::None => "token_endpoint_auth: none".to_owned(),
        };
        let base = &self.base;
        let more = if more.is_empty() { String::new() } else { format!(", {more}") };
        format!(
            "providers:\n  - {{id: {id}, client_id: {CLIENT:?}, {client}, \
             authorization_endpoint: \"{base}/authorize\", token_endpoint: \"{base}/token\", \
             revocation_endpoint: \"{base}/revoke\"{more}}}\n"
        )
    }

    /// Changes the behaviour of the provider.
    pub fn becomes(&self, change: impl FnOnce(&mut Kind)) {
        change(&mut self.state.kind.lock().unwrap());
    }

    /// Plays the browser at the authorization URL: the user agrees; returns the URL of the redirect.
    pub async fn agree(&self, authorization_url: &str) -> Url {
        let client = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).build().unwrap();
        let answer = client.get(authorization_url).send().await.unwrap();
        assert_eq!(answer.status().as_u16(), 302, "{}", answer.text().await.unwrap());
        Url::parse(answer.headers()["location"].to_str().unwrap()).unwrap()
    }

    /// Injects a fault into the next request of this kind; several faults are used in turn.
    pub fn once(&self, asked: Asked, wrong: Wrong) {
        self.books().plans.entry(asked).or_default().push_back(wrong);
    }

    /// Injects a fault into every request of this kind from now on.
    pub fn always(&self, asked: Asked, wrong: Wrong) {
        self.books().always.insert(asked, wrong);
    }

    /// Removes all injected faults.
    pub fn behaves(&self) {
        let mut books = self.books();
        books.plans.clear();
        books.always.clear();
    }

    /// The number of requests of this kind.
    pub fn count(&self, asked: Asked) -> usize {
        self.books().counts.get(&asked).copied().unwrap_or_default()
    }

    /// Waits until there were this many requests of this kind.
    pub async fn asked(&self, asked: Asked, times: usize) {
        let mut requests = self.state.requests.subscribe();
        while self.count(asked) < times {
            requests.changed().await.unwrap();
        }
    }

    /// The maximum of concurrent requests at the token endpoint.
    pub fn busiest(&self) -> usize {
        self.books().busiest
    }

    /// The user revokes all grants: every refresh token is invalid.
    pub fn end_everything(&self) {
        let mut books = self.books();
        let families: Vec<u64> = books.refresh.values().map(|grant| grant.family).collect();
        books.ended.extend(families);
    }

    /// Whether the provider's API accepts an access token.
    pub fn honours(&self, access_token: &str) -> bool {
        let books = self.books();
        books.access.get(access_token).is_some_and(|family| !books.ended.contains(family))
    }

    /// Invalidates an access token before its expiry; its grant stays valid.
    pub fn forget(&self, access_token: &str) {
        self.books().access.remove(access_token).unwrap();
    }

    /// The access token that was issued last.
    pub fn newest(&self) -> Option<String> {
        self.books().newest.clone()
    }

    /// The tokens in revocation requests, in order, whatever the result.
    pub fn revocation_requests(&self) -> Vec<String> {
        self.books().revocation_requests.clone()
    }

    /// The revoked tokens, in order.
    pub fn revoked(&self) -> Vec<String> {
        self.books().revoked.clone()
    }

    /// The parameters of all requests at the token endpoint, without those of the `Authorization` field.
    pub fn asked_for(&self) -> Vec<BTreeMap<String, String>> {
        self.books().asked_for.clone()
    }

    /// Every code and token that was issued: none of them may appear in any output.
    pub fn secrets(&self) -> Vec<String> {
        self.books().issued.clone()
    }

    fn books(&self) -> std::sync::MutexGuard<'_, Books> {
        self.state.books.lock().unwrap()
    }
}

impl Drop for Provider {
    fn drop(&mut self) {
        drop(self.handle.stop(false));
    }
}

impl State {
    fn books(&self) -> std::sync::MutexGuard<'_, Books> {
        self.books.lock().unwrap()
    }

    fn kind(&self) -> Kind {
        self.kind.lock().unwrap().clone()
    }

    /// Counts a request, and returns the fault to inject.
    fn count(&self, asked: Asked) -> Option<Wrong> {
        let mut books = self.books();
        *books.counts.entry(asked).or_default() += 1;
        self.requests.send_replace(());
        let planned = books.plans.get_mut(&asked).and_then(VecDeque::pop_front);
        planned.or_else(|| books.always.get(&asked).cloned())
    }

    async fn answer(&self, wrong: Option<Wrong>, work: impl FnOnce() -> HttpResponse) -> HttpResponse {
        let Some(wrong) = wrong else { return work() };
        let right = (wrong.after == After::ItsWork).then(work);
        if let Some(gate) = &wrong.gate {
            gate.passed().await;
        }
        match (wrong.answer, right) {
            (Some((status, kind, body)), _) => {
                let mut answer = HttpResponse::build(status.try_into().unwrap());
                answer.content_type(kind).insert_header(("location", format!("{}/elsewhere", self.base)));
                if let Some((name, value)) = wrong.field {
                    answer.insert_header((name, value));
                }
                answer.body(body)
            }
            (None, Some(right)) if wrong.rework.is_some() && right.status().is_success() => {
                let body = right.into_body().try_into_bytes().unwrap();
                let said = wrong.rework.unwrap().0(serde_json::from_slice(&body).unwrap());
                let mut answer = HttpResponse::build(said.status.try_into().unwrap());
                answer.content_type(said.kind);
                if let Some(coding) = said.coding {
                    answer.insert_header(("content-encoding", coding));
                }
                answer.body(said.body)
            }
            (None, Some(right)) => right,
            (None, None) => HttpResponse::InternalServerError().finish(),
        }
    }

    fn knows_us(&self, request: &HttpRequest, params: &BTreeMap<String, String>) -> bool {
        let header = request.headers().get("authorization").map(|value| value.to_str().unwrap());
        let (id, secret) = (params.get("client_id"), params.get("client_secret"));
        match self.kind().auth {
            ClientAuth::Basic => {
                header == Some(basic(CLIENT, SECRET).as_str()) && id.is_none() && secret.is_none()
            }
            ClientAuth::Post => {
                header.is_none() && id.is_some_and(|id| id == CLIENT) && secret.is_some_and(|s| s == SECRET)
            }
            ClientAuth::None => header.is_none() && id.is_some_and(|id| id == CLIENT) && secret.is_none(),
        }
    }

    fn give(&self, family: Option<u64>, scope: &str) -> HttpResponse {
        let kind = self.kind();
        let granted = kind.grants.clone().unwrap_or_else(|| scope.to_owned());
        let mut books = self.books();
        books.number += 1;
        let number = books.number;
        let family = family.unwrap_or(number);
        let access = format!("access-{number}-of-a-third-party");
        books.access.insert(access.clone(), family);
        books.issued.push(access.clone());
        books.newest = Some(access.clone());
        let mut body = json!({"access_token": access, "token_type": "Bearer", "expires_in": kind.expires_in});
        if kind.grants.is_some() {
            body["scope"] = granted.clone().into();
        }
        let first = family == number;
        if kind.refreshes && (first || kind.rotates) {
            let refresh = format!("refresh-{number}-of-a-third-party");
            books.refresh.insert(refresh.clone(), Grant { family, scope: granted, used: false });
            books.issued.push(refresh.clone());
            body["refresh_token"] = refresh.into();
        }
        HttpResponse::Ok().insert_header(("cache-control", "no-store")).json(body)
    }
}

fn refused(error: &str) -> HttpResponse {
    HttpResponse::BadRequest().json(json!({"error": error}))
}

async fn authorize(state: Data<State>, query: Query<BTreeMap<String, String>>) -> HttpResponse {
    let wrong = state.count(Asked::Authorize);
    let right = || {
        let asked = |name: &str| query.get(name).cloned().unwrap_or_default();
        let whole = asked("response_type") == "code"
            && asked("client_id") == CLIENT
            && asked("code_challenge_method") == "S256"
            && asked("code_challenge").len() == 43
            && asked("state").len() >= 32;
        if !whole {
            return refused("invalid_request");
        }
        let mut books = state.books();
        books.number += 1;
        let code = format!("code-{}-of-a-third-party", books.number);
        books.issued.push(code.clone());
        let kept = Code {
            redirect_uri: asked("redirect_uri"),
            challenge: asked("code_challenge"),
            scope: asked("scope"),
        };
        books.codes.insert(code.clone(), kept);
        let mut back = Url::parse(&asked("redirect_uri")).unwrap();
        back.query_pairs_mut().append_pair("code", &code).append_pair("state", &asked("state"));
        if state.kind().sends_issuer {
            back.query_pairs_mut().append_pair("iss", &state.base);
        }
        HttpResponse::Found().insert_header(("location", back.to_string())).finish()
    };
    state.answer(wrong, right).await
}

async fn token(request: HttpRequest, state: Data<State>, body: Bytes) -> HttpResponse {
    let kind = request.headers().get("content-type").map(|value| value.to_str().unwrap().to_owned());
    let params: BTreeMap<String, String> = if kind.as_deref() == Some("application/json") {
        serde_json::from_slice(&body).unwrap()
    } else {
        url::form_urlencoded::parse(&body).into_owned().collect()
    };
    let of = |name: &str| params.get(name).cloned().unwrap_or_default();
    let refreshing = of("grant_type") == "refresh_token";
    {
        let mut books = state.books();
        books.asked_for.push(params.clone());
        books.busy += 1;
        books.busiest = books.busiest.max(books.busy);
    }
    let wrong = state.count(if refreshing { Asked::Refresh } else { Asked::Code });
    let right = || {
        if !state.knows_us(&request, &params) {
            return HttpResponse::Unauthorized().json(json!({"error": "invalid_client"}));
        }
        if refreshing {
            return refresh(&state, &of("refresh_token"));
        }
        if of("grant_type") != "authorization_code" {
            return refused("unsupported_grant_type");
        }
        let code = state.books().codes.remove(&of("code"));
        match code {
            Some(code)
                if code.redirect_uri == of("redirect_uri")
                    && code.challenge == challenge(&of("code_verifier")) =>
            {
                state.give(None, &code.scope)
            }
            _ => refused("invalid_grant"),
        }
    };
    let answer = state.answer(wrong, right).await;
    state.books().busy -= 1;
    answer
}

fn refresh(state: &State, presented: &str) -> HttpResponse {
    let rotates = state.kind().rotates;
    let mut books = state.books();
    let Some(grant) = books.refresh.get(presented).cloned() else { return refused("invalid_grant") };
    if books.ended.contains(&grant.family) {
        return refused("invalid_grant");
    }
    if grant.used {
        books.ended.push(grant.family);
        return refused("invalid_grant");
    }
    if rotates {
        books.refresh.get_mut(presented).unwrap().used = true;
    }
    drop(books);
    state.give(Some(grant.family), &grant.scope)
}

async fn revoke(request: HttpRequest, state: Data<State>, body: Bytes) -> HttpResponse {
    let params: BTreeMap<String, String> = url::form_urlencoded::parse(&body).into_owned().collect();
    state.books().revocation_requests.extend(params.get("token").cloned());
    let wrong = state.count(Asked::Revoke);
    let right = || {
        if !state.knows_us(&request, &params) {
            return HttpResponse::Unauthorized().json(json!({"error": "invalid_client"}));
        }
        let token = params.get("token").cloned().unwrap_or_default();
        let mut books = state.books();
        let family = books.refresh.get(&token).map(|grant| grant.family);
        let family = family.or_else(|| books.access.get(&token).copied());
        books.ended.extend(family);
        books.revoked.push(token);
        HttpResponse::Ok().finish()
    };
    state.answer(wrong, right).await
}

/// The provider's API: returns what was requested, for an access token that it accepts.
async fn api(request: HttpRequest, state: Data<State>, body: Bytes) -> HttpResponse {
    let authorization = request.headers().get("authorization").and_then(|value| value.to_str().ok());
    let token = authorization.and_then(|value| value.strip_prefix("Bearer "));
    let books = state.books();
    let family = token.and_then(|token| books.access.get(token));
    if family.is_none_or(|family| books.ended.contains(family)) {
        return HttpResponse::Unauthorized().insert_header(("www-authenticate", "Bearer")).finish();
    }
    HttpResponse::Ok().json(json!({
        "method": request.method().as_str(), "path": request.path(), "query": request.query_string(),
        "body": String::from_utf8_lossy(&body),
    }))
}

async fn metadata(state: Data<State>) -> HttpResponse {
    let base = &state.base;
    HttpResponse::Ok().json(json!({
        "issuer": base, "authorization_endpoint": format!("{base}/authorize"), "token_endpoint": format!("{base}/token"),
        "revocation_endpoint": format!("{base}/revoke"),
        "authorization_response_iss_parameter_supported": state.kind().sends_issuer,
    }))
}
