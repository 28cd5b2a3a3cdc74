//! Pages for what was refused or has failed: a sentence, the id of the request, and one next step.

use actix_web::http::StatusCode;
use actix_web::http::header::{HeaderValue, RETRY_AFTER};
use actix_web::{HttpRequest, HttpResponse};
use maud::{Markup, html};

use super::frame::{ConsolePage, Frame};
use super::links::{form_encoded, url};
use crate::app::App;
use crate::domain::console::ConsoleSession;
use crate::domain::delegation::waiting::BoundedCount;
use crate::domain::refusal::{Error, Refusal};
use crate::domain::sign_in::path_name;
use crate::http::credentials;

/// Why there is no other page.
#[derive(Debug)]
pub(super) enum PageError {
    /// The session has ended.
    SignedOut,
    /// The move came from another site.
    OtherOrigin,
    /// The form was made for another session or another move.
    FormToken,
    /// The move gives much, and the person was authenticated too long ago.
    NotFresh {
        /// The query of the page to which the person returns: what it had chosen.
        kept: Option<String>,
    },
    /// What was shown differs from what is there; with the difference.
    Changed(Markup),
    /// What a field of the form has cannot be used.
    Field {
        name: &'static str,
        sentence: &'static str,
    },
    Stopped(Error),
}

impl<T: Into<Error>> From<T> for PageError {
    fn from(stop: T) -> Self {
        Self::Stopped(stop.into())
    }
}

/// What a page says about an error.
struct Explanation {
    status: StatusCode,
    title: &'static str,
    sentence: String,
    /// Name and path of the next step.
    next: Option<(&'static str, String)>,
    /// The field of the form that is the cause.
    field: Option<&'static str>,
}

/// What is being shown, and to whom.
struct Shown<'a> {
    app: &'a App,
    session: Option<&'a ConsoleSession>,
    request: &'a HttpRequest,
}

fn explain(shown: &Shown<'_>, error: &PageError) -> Explanation {
    let Shown { app, session, request } = shown;
    let page = match request.method().as_str() {
        "POST" => page_of_move(request.path()),
        _ => Some(request.uri().to_string()),
    };
    let next = page.as_deref().map(|page| format!("?next={}", form_encoded(page))).unwrap_or_default();
    let sign_in = || Some(("Sign in again", url(&app.issuer, &format!("/console/sign-in{next}"))));
    let again = || page.clone().map(|page| ("See it as it is now", page));
    let plain = |status, title, sentence: &str, next| Explanation {
        status,
        title,
        sentence: sentence.to_owned(),
        next,
        field: None,
    };
    match error {
        PageError::SignedOut => plain(
            StatusCode::UNAUTHORIZED,
            "You are signed out",
            "Your session has ended, so that nothing was done. Sign in again, then send it once more.",
            sign_in(),
        ),
        PageError::OtherOrigin => plain(
            StatusCode::FORBIDDEN,
            "Nothing was done",
            "The request did not come from a page of this console.",
            Some(("Overview", url(&app.issuer, "/console"))),
        ),
        PageError::FormToken => plain(
            StatusCode::FORBIDDEN,
            "Nothing was done",
            "The form is not one of your session: it was opened before you signed in, or in another browser.",
            again(),
        ),
        PageError::NotFresh { kept } => plain(
            StatusCode::FORBIDDEN,
            "Sign in once more",
            "This gives much, and you signed in too long ago. Nothing was done. Sign in once more: you come back to the page, \
             and decide there.",
            Some((
                "Sign in once more",
                fresh_sign_in(app, *session, with_query(page, kept.as_deref()).as_deref()),
            )),
        ),
        PageError::Changed(_) => plain(
            StatusCode::CONFLICT,
            "It has changed",
            "It is no longer what you were shown, so that nothing was done.",
            again(),
        ),
        PageError::Field { name, sentence } => Explanation {
            field: Some(name),
            ..plain(StatusCode::UNPROCESSABLE_ENTITY, "Nothing was done", sentence, again())
        },
        PageError::Stopped(Error::Failed(_)) => plain(
            StatusCode::SERVICE_UNAVAILABLE,
            "The server cannot answer now",
            "The server could not do it. Try again in a moment.",
            None,
        ),
        PageError::Stopped(Error::Refused(Refusal::NotFound)) => plain(
            StatusCode::NOT_FOUND,
            "There is nothing here",
            "This does not exist, or it is not yours to see.",
            Some(("Overview", url(&app.issuer, "/console"))),
        ),
        PageError::Stopped(Error::Refused(refusal)) => {
            let status = StatusCode::from_u16(refusal.code_for_resource().status);
            let state = refusal.state().map(|state| format!(" It is {state} now."));
            Explanation {
                status: status.unwrap_or(StatusCode::BAD_REQUEST),
                title: "Nothing was done",
                sentence: format!("{}{}", refusal.sentence(), state.unwrap_or_default()),
                next: again().filter(|_| request.method() == "POST"),
                field: None,
            }
        }
    }
}

fn with_query(page: Option<String>, query: Option<&str>) -> Option<String> {
    let page = page?;
    Some(query.map_or_else(|| page.clone(), |query| format!("{page}?{query}")))
}

/// Where a person is authenticated once more, to return to a page.
fn fresh_sign_in(app: &App, session: Option<&ConsoleSession>, page: Option<&str>) -> String {
    let registry = app.registry();
    let who = session.and_then(|session| session.who.as_ref());
    let issuer = who.and_then(|who| registry.issuer(&who.iss)).map(|trusted| trusted.declared);
    let at = issuer.filter(|issuer| issuer.sign_in.is_some()).map(|issuer| path_name(&issuer.iss));
    let next = page.map(|page| format!("&next={}", form_encoded(page))).unwrap_or_default();
    match at {
        Some(at) => url(&app.issuer, &format!("/console/sign-in/{at}?purpose=fresh{next}")),
        None => url(&app.issuer, "/console/sign-in"),
    }
}

/// The page that has the form of a move: the move's path is below it.
fn page_of_move(path: &str) -> Option<String> {
    let (page, _) = path.rsplit_once('/')?;
    let part = ["/uses/", "/sessions/"].into_iter().find_map(|part| Some(page.split_once(part)?.0));
    // A check and a draft are sent to their own pages.
    let own = ["/console/check", "/console/agents/new", "/console/standing-grants/new"];
    if own.iter().any(|page| path.ends_with(page)) {
        return Some(path.to_owned());
    }
    Some(part.unwrap_or(page).to_owned())
}

pub(super) fn show(
    app: &App,
    session: Option<&ConsoleSession>,
    request: &HttpRequest,
    error: PageError,
) -> HttpResponse {
    match &error {
        PageError::Stopped(Error::Failed(fault)) => {
            tracing::error!(error = %fault, "a request failed");
            metrics::counter!("actchain_errors_total").increment(1);
        }
        PageError::Stopped(Error::Refused(refusal)) => {
            metrics::counter!("actchain_refusals_total", "reason" => refusal.reason()).increment(1);
        }
        _ => {}
    }
    let explained = explain(&Shown { app, session, request }, &error);
    let detail = match &error {
        PageError::Changed(difference) => difference.clone(),
        _ => html! {},
    };
    let seconds = match &error {
        PageError::Stopped(Error::Refused(refusal)) => refusal.retry_after(),
        _ => 1,
    };
    let retry = [StatusCode::SERVICE_UNAVAILABLE, StatusCode::TOO_MANY_REQUESTS].contains(&explained.status);
    let retry = retry.then_some(seconds);
    let body = body(&explained, &detail, request, retry);
    let page = ConsolePage { status: explained.status, ..ConsolePage::new(explained.title, body) };
    let waiting = BoundedCount::default();
    let mut response = Frame { app, session, request, waiting, log: None }.response(page);
    if let Some(seconds) = retry {
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

fn body(explained: &Explanation, detail: &Markup, request: &HttpRequest, retry: Option<u32>) -> Markup {
    html! {
        h1 { (explained.title) }
        p data-field=[explained.field] { (explained.sentence) }
        @if let Some(seconds) = retry { p { "Try again in " (seconds) " s." } }
        (detail)
        @if let Some((name, path)) = &explained.next {
            p { a href=(path) data-back { (name) } }
        }
        @if let Some(id) = credentials::origin(request).request_id {
            p.dim { "Request " code { (id) } }
        }
    }
}
