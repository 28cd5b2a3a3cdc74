//! Operators enter by a link that is good once.

use actix_web::http::StatusCode;
use actix_web::http::header::{CACHE_CONTROL, LOCATION, SET_COOKIE};
use actix_web::web::Path;
use actix_web::{HttpRequest, HttpResponse};
use maud::{Markup, html};

use super::cookies;
use super::error_page::{self, PageError};
use super::frame::{ConsolePage, Frame};
use super::guard::{self, Incoming};
use super::links::url;
use crate::app::App;
use crate::http::credentials;
use crate::services::console;
use crate::services::request_context::RequestContext;

/// `GET /console/enter/{secret}`: a button, so that a preview of the link does not use it up.
pub(super) async fn show((request, _, app): Incoming) -> HttpResponse {
    if let Some(elsewhere) = guard::at_the_issuers_host(&app, &request) {
        return elsewhere;
    }
    let body = html! {
        h1 { "Enter as an operator" }
        p { "This link is good once. You will have the rights of an administrator for an hour, and the log will say so." }
        form method="post" { button.primary type="submit" autofocus { "Enter" } }
    };
    Frame::public(&app, &request).response(ConsolePage::new("Enter", body))
}

/// `POST /console/enter/{secret}`
pub(super) async fn enter((request, _, app): Incoming, secret: Path<String>) -> HttpResponse {
    if let Err(error) = guard::require_own_origin(&app.issuer, &request) {
        return error_page::show(&app, None, &request, error);
    }
    let entered = console::enter(&app, &secret, credentials::origin(&request), app.clock.now()).await;
    if let Ok(Some(_)) = &entered
        && let Err(error) = end_previous(&app, &request).await
    {
        return error_page::show(&app, None, &request, error);
    }
    let made = entered.and_then(|made| match made {
        None => Ok(None),
        Some(new) => cookies::set_session(&app.issuer, &new.secret).map(Some),
    });
    match made {
        Ok(Some(cookie)) => HttpResponse::build(StatusCode::SEE_OTHER)
            .insert_header((LOCATION, url(&app.issuer, "/console")))
            .insert_header((CACHE_CONTROL, "no-store"))
            .insert_header((SET_COOKIE, cookie))
            .finish(),
        Ok(None) => {
            let page = ConsolePage { status: StatusCode::GONE, ..ConsolePage::new("Not entered", used_up()) };
            Frame::public(&app, &request).response(page)
        }
        Err(fault) => error_page::show(&app, None, &request, PageError::from(fault)),
    }
}

/// Ends the session that this browser had: a new one begins.
pub(super) async fn end_previous(app: &App, request: &HttpRequest) -> Result<(), PageError> {
    let now = app.clock.now();
    if let Some((caller, _)) = guard::find_session(app, request, now).await? {
        let context = RequestContext::new(app, caller, credentials::origin(request), now);
        console::sign_out(&context).await?;
    }
    Ok(())
}

fn used_up() -> Markup {
    html! {
        h1 { "Not entered" }
        p { "This link was used before, or it is older than five minutes. Make another one:" }
        pre tabindex="0" { "actchain console" }
    }
}
