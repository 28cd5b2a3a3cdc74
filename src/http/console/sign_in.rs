//! The page with the issuers at which people sign in, and the way to one of them.

use actix_web::http::StatusCode;
use actix_web::http::header::{CACHE_CONTROL, LOCATION, REFERRER_POLICY, SET_COOKIE};
use actix_web::web::Path;
use actix_web::{HttpRequest, HttpResponse};
use maud::{Markup, html};
use secrecy::ExposeSecret as _;
use serde::Deserialize;

use super::cookies;
use super::error_page::{self, PageError};
use super::frame::{ConsolePage, Frame};
use super::guard::{self, Incoming};
use super::links::{form_encoded, url};
use super::words;
use crate::app::App;
use crate::domain::console::SignInPurpose;
use crate::domain::rate_limit::network;
use crate::domain::refusal::Refusal;
use crate::http::credentials;
use crate::http::params;
use crate::services::console::{self, SignInIssuer, SignInRequest};

/// Parameters of the pages. Others are ignored: issuers add some to the places that they send browsers back to.
#[derive(Debug, Default, Deserialize)]
struct SignInQuery {
    next: Option<String>,
    purpose: Option<String>,
}

fn query(request: &HttpRequest) -> SignInQuery {
    params::query(request).unwrap_or_default()
}

/// `GET /console/sign-in`. Who comes from a page, where one issuer signs people in, is sent on. There is no loop: a page
/// about a failure or about a sign-out is no page to return to.
pub(super) async fn show((request, _, app): Incoming) -> HttpResponse {
    if let Some(elsewhere) = guard::at_the_issuers_host(&app, &request) {
        return elsewhere;
    }
    let issuers = match console::issuers(&app).await {
        Ok(issuers) => issuers,
        Err(fault) => return error_page::show(&app, None, &request, fault.into()),
    };
    let next = query(&request).next;
    if let ([only], Some(_)) = (issuers.as_slice(), &next) {
        return guard::see_other(&path(&app, only, next.as_deref()));
    }
    let body = body(&app, &issuers, next.as_deref());
    Frame::public(&app, &request).response(ConsolePage::new("Sign in", body))
}

fn path(app: &App, at: &SignInIssuer, next: Option<&str>) -> String {
    let next = next.map(|next| format!("?next={}", form_encoded(next))).unwrap_or_default();
    url(&app.issuer, &format!("/console/sign-in/{}{next}", at.path_name()))
}

fn body(app: &App, issuers: &[SignInIssuer], next: Option<&str>) -> Markup {
    html! {
        h1 { "Sign in" }
        @if !issuers.is_empty() {
            p { "You leave this page, and sign in at:" }
            ul.issuers {
                @for at in issuers { li { a href=(path(app, at, next)) { (words::visible(at.iss())) } } }
            }
        }
        p { "An operator enters with a link that is good once. On the machine of the server:" }
        pre { "actchain console" }
    }
}

/// `GET /console/sign-in/{issuer}`: begins a sign-in, and sends the browser to the issuer.
pub(super) async fn begin((request, _, app): Incoming, name: Path<String>) -> HttpResponse {
    if let Some(elsewhere) = guard::at_the_issuers_host(&app, &request) {
        return elsewhere;
    }
    match try_to_begin(&app, &request, &name).await {
        Ok(response) => response,
        Err(error) => error_page::show(&app, None, &request, error),
    }
}

async fn try_to_begin(app: &App, request: &HttpRequest, name: &str) -> Result<HttpResponse, PageError> {
    let from = credentials::origin(request).ip.map(|ip| network(ip).to_string()).unwrap_or_default();
    if !app.limits.sign_ins.count(&from) {
        return Err(Refusal::RateLimited.into());
    }
    let at = console::find_issuer(app, name).await?.ok_or(Refusal::NotFound)?;
    let SignInQuery { next, purpose } = query(request);
    let asked = SignInRequest {
        purpose: purpose.and_then(|name| name.parse().ok()).unwrap_or(SignInPurpose::Normal),
        next,
        browser: cookies::sign_ins(request, &app.issuer).into_iter().next(),
    };
    let begun = console::begin(app, &at, asked, app.clock.now()).await?;
    let response = HttpResponse::build(StatusCode::SEE_OTHER)
        .insert_header((LOCATION, begun.url.expose_secret()))
        .insert_header((CACHE_CONTROL, "no-store"))
        .insert_header((REFERRER_POLICY, "no-referrer"))
        .insert_header((SET_COOKIE, cookies::set_sign_in(&app.issuer, &begun.browser)?))
        .finish();
    Ok(response)
}
