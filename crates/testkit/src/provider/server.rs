//! The provider's endpoints, and what it has issued.

use std::collections::{BTreeMap, VecDeque};
use std::net::TcpListener;
use std::sync::{Arc, Mutex, MutexGuard};

use actchain_protocol::oauth_client::{basic, challenge};
use actix_web::body::MessageBody as _;
use actix_web::dev::ServerHandle;
use actix_web::web::{Bytes, Data, Query};
use actix_web::{App, HttpRequest, HttpResponse, HttpServer, web};
use serde_json::json;
use tokio::sync::watch;
use url::Url;

use super::behaviour::{After, Asked, Behaviour, CLIENT, ClientAuth, SECRET, Wrong};

#[derive(Debug, Clone)]
struct Code {
    redirect_uri: String,
    challenge: String,
    scope: String,
}

#[derive(Debug, Clone)]
pub(super) struct Grant {
    pub(super) family: u64,
    pub(super) scope: String,
    pub(super) used: bool,
}

#[derive(Debug, Default)]
pub(super) struct Books {
    pub(super) counts: BTreeMap<Asked, usize>,
    pub(super) plans: BTreeMap<Asked, VecDeque<Wrong>>,
    pub(super) always: BTreeMap<Asked, Wrong>,
    codes: BTreeMap<String, Code>,
    pub(super) refresh: BTreeMap<String, Grant>,
    pub(super) access: BTreeMap<String, u64>,
    pub(super) ended: Vec<u64>,
    pub(super) issued: Vec<String>,
    pub(super) newest: Option<String>,
    pub(super) revoked: Vec<String>,
    pub(super) asked_for: Vec<BTreeMap<String, String>>,
    pub(super) revocation_requests: Vec<String>,
    number: u64,
    busy: usize,
    pub(super) busiest: usize,
}

pub(super) struct ProviderState {
    pub(super) base: String,
    pub(super) kind: Mutex<Behaviour>,
    pub(super) books: Mutex<Books>,
    /// Changes with every request.
    pub(super) requests: watch::Sender<()>,
}

impl ProviderState {
    pub(super) fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap()
    }

    fn kind(&self) -> Behaviour {
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

pub(super) fn start(listener: TcpListener, state: &Arc<ProviderState>) -> ServerHandle {
    let shared = Data::from(Arc::clone(state));
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
    handle
}

fn refused(error: &str) -> HttpResponse {
    HttpResponse::BadRequest().json(json!({"error": error}))
}

async fn authorize(state: Data<ProviderState>, query: Query<BTreeMap<String, String>>) -> HttpResponse {
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

async fn token(request: HttpRequest, state: Data<ProviderState>, body: Bytes) -> HttpResponse {
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
    let exchanging = ["token-exchange", "jwt-bearer"].iter().any(|grant| of("grant_type").ends_with(grant));
    let wrong = state.count(match (refreshing, exchanging) {
        (true, _) => Asked::Refresh,
        (_, true) => Asked::Exchange,
        _ => Asked::Code,
    });
    let right = || {
        if !state.knows_us(&request, &params) {
            return HttpResponse::Unauthorized().json(json!({"error": "invalid_client"}));
        }
        if refreshing {
            return refresh(&state, &of("refresh_token"));
        }
        if exchanging {
            return state.give(None, &of("scope"));
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

fn refresh(state: &ProviderState, presented: &str) -> HttpResponse {
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

async fn revoke(request: HttpRequest, state: Data<ProviderState>, body: Bytes) -> HttpResponse {
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
async fn api(request: HttpRequest, state: Data<ProviderState>, body: Bytes) -> HttpResponse {
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

async fn metadata(state: Data<ProviderState>) -> HttpResponse {
    let base = &state.base;
    HttpResponse::Ok().json(json!({
        "issuer": base, "authorization_endpoint": format!("{base}/authorize"), "token_endpoint": format!("{base}/token"),
        "revocation_endpoint": format!("{base}/revoke"),
        "authorization_response_iss_parameter_supported": state.kind().sends_issuer,
    }))
}
