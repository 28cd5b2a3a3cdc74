//! How people leave: here, everywhere, and at their issuer, which can also end their sessions by itself.

use actix_web::http::StatusCode;
use actix_web::http::header::{CACHE_CONTROL, LOCATION, SET_COOKIE};
use actix_web::web::Path;
use actix_web::{HttpRequest, HttpResponse};
use maud::html;

use super::cookies;
use super::error_page::{self, PageError};
use super::frame::{ConsolePage, Frame};
use super::guard::{self, ConsoleRequest, Incoming, PageAnswer, PageResult};
use super::words;
use crate::app::App;
use crate::domain::refusal::{Error, Refusal};
use crate::domain::sign_in::signed_out_uri;
use crate::http::{credentials, params};
use crate::services::console::{self, LogoutOutcome};

/// `POST /console/sign-out`
pub(super) async fn sign_out(incoming: Incoming) -> HttpResponse {
    guard::serve(incoming, async |known| {
        console::sign_out(&known.context).await?;
        signed_out(&known).await
    })
    .await
}

/// `POST /console/me/sign-out-everywhere`: all sessions of the person end.
pub(super) async fn everywhere(incoming: Incoming) -> HttpResponse {
    guard::serve(incoming, async |known| {
        console::end_everywhere(&known.context).await?;
        signed_out(&known).await
    })
    .await
}

/// Clears the cookie. The page that follows has the link to the issuer: a form of ours is not sent to another host.
async fn signed_out(known: &ConsoleRequest<'_>) -> PageResult {
    let at = match &known.session.who {
        Some(who) => console::issuer_of(known.app, &who.iss).await?,
        None => None,
    };
    let place = match at {
        Some(at) => known.url(&format!("/console/signed-out/{}", at.path_name())),
        None => known.url("/console/sign-in"),
    };
    let response = HttpResponse::build(StatusCode::SEE_OTHER)
        .insert_header((LOCATION, place))
        .insert_header((CACHE_CONTROL, "no-store"))
        .insert_header((SET_COOKIE, cookies::clear_session(&known.app.issuer)?))
        .finish();
    Ok(PageAnswer::Response(response))
}

/// `GET /console/signed-out/{issuer}`
pub(super) async fn show((request, _, app): Incoming, name: Path<String>) -> HttpResponse {
    if let Some(elsewhere) = guard::at_the_issuers_host(&app, &request) {
        return elsewhere;
    }
    match page(&app, &name).await {
        Ok(page) => Frame::public(&app, &request).response(page),
        Err(error) => error_page::show(&app, None, &request, error),
    }
}

async fn page(app: &App, name: &str) -> Result<ConsolePage, PageError> {
    let at = console::find_issuer(app, name).await?.ok_or(Refusal::NotFound)?;
    let end = at.end_session_url(&signed_out_uri(&app.issuer));
    let body = html! {
        h1 { "Signed out" }
        p { "Your session in this console has ended. You may still be signed in at " (words::visible(at.iss())) "." }
        @if let Some(end) = end { p { a href=(end) { "Sign out there, too" } } }
        p { a href=(super::links::url(&app.issuer, "/console/sign-in")) { "Sign in" } }
    };
    Ok(ConsolePage::new("Signed out", body))
}

/// `POST /console/backchannel-logout/{issuer}` (OpenID Connect Back-Channel Logout 1.0 §2.5, §2.8). A token is the only
/// credential: there is neither a session nor a browser.
pub(super) async fn log_out((request, payload, app): Incoming, name: Path<String>) -> HttpResponse {
    let status = match try_to_log_out(&app, &request, payload, &name).await {
        Ok(LogoutOutcome::LoggedOut) => StatusCode::OK,
        Ok(LogoutOutcome::Invalid) | Err(Error::Refused(_)) => StatusCode::BAD_REQUEST,
        Err(Error::Failed(fault)) => {
            tracing::error!(error = %fault, "a logout at an issuer could not be followed");
            metrics::counter!("actchain_errors_total").increment(1);
            StatusCode::SERVICE_UNAVAILABLE
        }
    };
    let mut response = HttpResponse::build(status);
    response.insert_header((CACHE_CONTROL, "no-store"));
    match status {
        StatusCode::BAD_REQUEST => response.json(serde_json::json!({"error": "invalid_request"})),
        _ => response.finish(),
    }
}

async fn try_to_log_out(
    app: &App,
    request: &HttpRequest,
    payload: actix_web::web::Payload,
    name: &str,
) -> Result<LogoutOutcome, Error> {
    let form = params::form(request, payload, app.config.limits.max_body_bytes).await?;
    let Some(token) = form.get("logout_token") else { return Ok(LogoutOutcome::Invalid) };
    let now = app.clock.now();
    Ok(console::log_out(app, name, token, credentials::origin(request), now).await?)
}
