//! What every request to the console passes: its host, its session, its role, and for moves its origin and form token.

use std::sync::Arc;

use actix_web::http::StatusCode;
use actix_web::http::header::{HOST, HeaderName, HeaderValue, LOCATION, ORIGIN, SET_COOKIE};
use actix_web::web::{Data, Payload};
use actix_web::{HttpRequest, HttpResponse};
use maud::{Markup, html};
use serde::de::DeserializeOwned;
use time::OffsetDateTime;
use uuid::Uuid;

use super::access::{ConsoleMethod, RouteAccess, access_to};
use super::cookies;
use super::error_page::{self, PageError};
use super::form_token::{self, TOKEN_FIELD};
use super::frame::{ConsolePage, Frame, is_fragment};
use super::links::{form_encoded, url};
use super::log_badge::sees_log;
use crate::app::App;
use crate::domain::console::{ConsoleRole, ConsoleSession};
use crate::domain::delegation::waiting::BoundedCount;
use crate::domain::idempotency::{IdempotencyKey, is_key};
use crate::domain::refusal::Refusal;
use crate::http::credentials;
use crate::http::params::{self, Params};
use crate::platform::fault::Fault;
use crate::services::audit::health::health;
use crate::services::caller::Caller;
use crate::services::console::{self, SessionUse};
use crate::services::request_context::RequestContext;
use actchain_protocol::metadata::issuer_path;
use actchain_protocol::random;
use actchain_protocol::token_exchange::percent_decode;

const FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
/// The hidden field with the form's idempotency key.
pub(super) const ONCE_FIELD: &str = "once";

/// The parts of an incoming request that actix extracts.
pub(super) type Incoming = (HttpRequest, Payload, Data<App>);

/// What a handler answers.
pub(super) enum PageAnswer {
    Shown(ConsolePage),
    /// A page that binds something to the browser.
    ShownWithCookie(ConsolePage, HeaderValue),
    /// The page that shows what a move has done.
    See(String),
    Response(HttpResponse),
}

pub(super) type PageResult = Result<PageAnswer, PageError>;

/// A request of a person with a session.
pub(super) struct ConsoleRequest<'a> {
    pub(super) app: &'a Arc<App>,
    pub(super) session: &'a ConsoleSession,
    pub(super) context: RequestContext<'a>,
    pub(super) request: &'a HttpRequest,
    /// The fields of a move.
    pub(super) form: Params,
}

impl ConsoleRequest<'_> {
    /// Reads the query; unknown parameters are refused.
    pub(super) fn query<T: DeserializeOwned>(&self) -> Result<T, Refusal> {
        params::query(self.request)
    }

    /// What the path has in place of a name in braces.
    pub(super) fn segment(&self, name: &str) -> String {
        let raw = self.request.match_info().get(name).unwrap_or_default();
        // The router leaves some characters escaped, such as the slash of a URL that is a client id.
        percent_decode(raw).unwrap_or_else(|| raw.to_owned())
    }

    /// The URL of a place in the console.
    pub(super) fn url(&self, path: &str) -> String {
        url(&self.app.issuer, path)
    }

    /// The hidden fields of a form that is sent to `target`.
    pub(super) fn hidden(&self, target: &str) -> Result<Markup, Fault> {
        let token = form_token::make(self.app, self.session, target)?;
        let once = random::token()?;
        Ok(html! {
            input type="hidden" name=(TOKEN_FIELD) value=(token);
            input type="hidden" name=(ONCE_FIELD) value=(once);
        })
    }

    pub(super) fn has_role(&self, role: ConsoleRole) -> bool {
        self.session.role == role
    }

    /// Refuses a move that gives much, unless the person was authenticated a short time ago.
    pub(super) fn require_fresh(&self) -> Result<(), PageError> {
        let fresh = time::Duration::seconds(self.app.config.console.fresh.into());
        match self.session.is_fresh(self.context.now, fresh) {
            true => Ok(()),
            false => Err(PageError::NotFresh { kept: None }),
        }
    }

    /// As [`Self::require_fresh`]; the page to which the person returns has the query `kept`.
    pub(super) fn require_fresh_keeping(&self, kept: Option<String>) -> Result<(), PageError> {
        self.require_fresh().map_err(|_| PageError::NotFresh { kept })
    }
}

/// Serves a route of the table to the roles that the table has for it.
pub(super) async fn serve<F>((request, payload, app): Incoming, work: F) -> HttpResponse
where
    F: AsyncFnOnce(ConsoleRequest<'_>) -> PageResult,
{
    let app = app.into_inner();
    let now = app.clock.now();
    if let Some(elsewhere) = at_the_issuers_host(&app, &request) {
        return elsewhere;
    }
    let known = match find_session(&app, &request, now).await {
        Ok(known) => known,
        Err(fault) => return error_page::show(&app, None, &request, fault.into()),
    };
    let Some((caller, session)) = known else { return sign_in_first(&app, &request) };
    let context = RequestContext::new(&app, caller.clone(), credentials::origin(&request), now);
    let result = allowed(&app, &request, payload, KnownPerson { caller, session: &session, now }, work).await;
    let (page, cookie) = match result {
        Ok(PageAnswer::Shown(page)) => (page, None),
        Ok(PageAnswer::ShownWithCookie(page, cookie)) => (page, Some(cookie)),
        Ok(PageAnswer::See(path)) => return see_other(&path),
        Ok(PageAnswer::Response(response)) => return response,
        Err(error) => return error_page::show(&app, Some(&session), &request, error),
    };
    // The page is shown without the number if that fails: what was done is done, and a new secret is shown only once.
    let waiting = console::count_waiting(&context).await.unwrap_or_else(|fault| {
        tracing::error!(error = %fault, "what waits for a decision was not counted");
        BoundedCount::default()
    });
    let log = if sees_log(session.role) { Some(health(&app, now).await) } else { None };
    let frame = Frame { app: &app, session: Some(&session), request: &request, waiting, log };
    let mut response = frame.response(page);
    if let Some(cookie) = cookie {
        response.headers_mut().append(SET_COOKIE, cookie);
    }
    response
}

/// Whose request it is, and when it came.
struct KnownPerson<'a> {
    caller: Caller,
    session: &'a ConsoleSession,
    now: OffsetDateTime,
}

async fn allowed<F>(
    app: &Arc<App>,
    request: &HttpRequest,
    payload: Payload,
    person: KnownPerson<'_>,
    work: F,
) -> PageResult
where
    F: AsyncFnOnce(ConsoleRequest<'_>) -> PageResult,
{
    let KnownPerson { caller, session, now } = person;
    let method = if request.method() == "POST" { ConsoleMethod::Post } else { ConsoleMethod::Get };
    // The pattern of the route that was chosen: the path itself can be written in several ways.
    let pattern = request.match_pattern().unwrap_or_default();
    let path = pattern.strip_prefix(issuer_path(&app.issuer).as_str()).unwrap_or(&pattern);
    match access_to(request, method, path) {
        RouteAccess::Roles(roles) if roles.contains(&session.role) => {}
        _ => return Err(Refusal::NotFound.into()),
    }
    let name = session.who.as_ref().map_or_else(|| "operator".to_owned(), |who| who.key());
    if app.limits.requests.count(&name).is_err() {
        return Err(Refusal::RateLimited.into());
    }
    let mut context = RequestContext::new(app, caller, credentials::origin(request), now);
    let form = match method {
        ConsoleMethod::Get => Params::default(),
        ConsoleMethod::Post => {
            require_own_origin(&app.issuer, request)?;
            let form = params::form(request, payload, app.config.limits.max_body_bytes).await?;
            let token = form.get(TOKEN_FIELD).unwrap_or_default();
            if !form_token::fits(app, session, request.path(), token) {
                return Err(PageError::FormToken);
            }
            let once = form.get(ONCE_FIELD).map(|once| format!("console {once}"));
            context.idempotency_key = once
                .filter(|key| is_key(key))
                .map(|key| IdempotencyKey { key, fingerprint: fingerprint(app, request, &form) });
            form
        }
    };
    work(ConsoleRequest { app, session, context, request, form }).await
}

/// Digest of a move: its path and its fields, without the token that each page masks with other bytes.
fn fingerprint(app: &App, request: &HttpRequest, form: &Params) -> [u8; 32] {
    let fields = form.pairs().filter(|(name, _)| *name != TOKEN_FIELD);
    let mut text = format!("console {}\n", request.path());
    for (name, value) in fields {
        text.push_str(&format!("{}={}&", form_encoded(name), form_encoded(value)));
    }
    app.fingerprint(&[text.as_bytes()])
}

/// Marks a request that the script of a page made by itself. It can only shorten a session.
const UNATTENDED: &str = "actchain-unattended";

/// Whether the script of a page made a request by itself.
pub(super) fn is_unattended(request: &HttpRequest) -> bool {
    request.method() == "GET" && request.headers().contains_key(UNATTENDED)
}

/// The first cookie that is an open session, found by one query.
pub(super) async fn find_session(
    app: &App,
    request: &HttpRequest,
    now: OffsetDateTime,
) -> Result<Option<(Caller, ConsoleSession)>, Fault> {
    // An open page connects to its stream, and shows a list again, without the person.
    let is_stream = request.match_pattern() == Some(url(&app.issuer, "/console/live"));
    let reason = if is_stream || is_unattended(request) { SessionUse::LivePage } else { SessionUse::Request };
    console::open(app, &cookies::sessions(request, &app.issuer), reason, now).await
}

/// The session that is open in a browser; none where this server has no console.
pub(in crate::http) async fn open_session(
    app: &App,
    request: &HttpRequest,
    now: OffsetDateTime,
) -> Result<Option<Uuid>, Fault> {
    if !console::is_on(&app.config, &app.issuer, &app.registry()) {
        return Ok(None);
    }
    Ok(find_session(app, request, now).await?.map(|(_, session)| session.id))
}

/// Only pages of this origin may send a move: by `Sec-Fetch-Site`, and by `Origin` where a browser does not send that.
pub(super) fn require_own_origin(issuer: &str, request: &HttpRequest) -> Result<(), PageError> {
    let one = |name: HeaderName| {
        let mut fields = request.headers().get_all(name);
        let first = fields.next().and_then(|field| field.to_str().ok());
        first.filter(|_| fields.next().is_none())
    };
    let own = url::Url::parse(issuer).map(|url| url.origin().ascii_serialization()).unwrap_or_default();
    let same = match one(FETCH_SITE) {
        Some(site) => site == "same-origin",
        None => one(ORIGIN) == Some(own.as_str()),
    };
    if same { Ok(()) } else { Err(PageError::OtherOrigin) }
}

/// Refuses what another site has caused. A link in the page itself, or a typed address, is no other site.
pub(super) fn require_same_site(request: &HttpRequest) -> Result<(), PageError> {
    match request.headers().get(FETCH_SITE).map(HeaderValue::as_bytes) {
        None | Some(b"same-origin" | b"none") => Ok(()),
        Some(_) => Err(PageError::OtherOrigin),
    }
}

/// On loopback, a browser at another name of this machine is sent to the issuer's, so that cookies and origin fit.
/// Elsewhere proxies set `Host`.
pub(super) fn at_the_issuers_host(app: &App, request: &HttpRequest) -> Option<HttpResponse> {
    let issuer = url::Url::parse(&app.issuer).ok()?;
    if issuer.scheme() != "http" || request.method() != "GET" {
        return None;
    }
    let authority = app.issuer.strip_prefix("http://")?.split('/').next()?;
    let host = request.headers().get(HOST)?.to_str().ok()?;
    if host == authority {
        return None;
    }
    let place = format!("http://{authority}{}", request.uri());
    Some(HttpResponse::PermanentRedirect().insert_header((LOCATION, place)).finish())
}

fn sign_in_first(app: &App, request: &HttpRequest) -> HttpResponse {
    // A fragment cannot lead to the issuer's pages.
    if request.method() == "GET" && !is_fragment(request) {
        let path = request.uri().to_string();
        return see_other(&format!("{}?next={}", url(&app.issuer, "/console/sign-in"), form_encoded(&path)));
    }
    error_page::show(app, None, request, PageError::SignedOut)
}

pub(super) fn see_other(path: &str) -> HttpResponse {
    HttpResponse::build(StatusCode::SEE_OTHER)
        .insert_header((LOCATION, path))
        .insert_header((actix_web::http::header::CACHE_CONTROL, "no-store"))
        .finish()
}
