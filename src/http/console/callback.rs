//! `GET /console/callback/{issuer}`: the redirect URI to which issuers send browsers back, and the pages for what went wrong.

use actix_web::http::StatusCode;
use actix_web::http::header::{CACHE_CONTROL, LOCATION, SET_COOKIE};
use actix_web::web::Path;
use actix_web::{HttpRequest, HttpResponse};
use maud::html;
use secrecy::SecretString;

use super::cookies;
use super::enter::end_previous;
use super::error_page::{self, PageError};
use super::frame::{AGAIN, ConsolePage, Frame};
use super::guard::Incoming;
use super::links::url;
use crate::app::App;
use crate::domain::audit::detail::SignInProblem;
use crate::domain::console::SignInPurpose;
use crate::domain::refusal::Refusal;
use crate::http::credentials;
use crate::http::redirect_params::single;
use crate::services::console::{self, AuthorizationAnswer, SignInOutcome, SignInResponse, SignedIn};
use actchain_protocol::oauth_client;

pub(super) async fn finish((request, _, app): Incoming, name: Path<String>) -> HttpResponse {
    let app = app.into_inner();
    let Ok(response) = read(&app, &request, &name) else {
        return failed(&app, &request, &name, Failure::NoAnswer);
    };
    let now = app.clock.now();
    let finished = console::finish(&app, response, credentials::origin(&request), now).await;
    let shown = match finished {
        Ok(SignInOutcome::SignedIn(signed_in)) => signed_in_response(&app, &request, *signed_in).await,
        Ok(SignInOutcome::NotFound) => return failed(&app, &request, &name, Failure::NotFound),
        Ok(SignInOutcome::Refused(problem)) => {
            return failed(&app, &request, &name, Failure::Refused(problem));
        }
        Err(fault) => Err(fault.into()),
    };
    shown.unwrap_or_else(|error| error_page::show(&app, None, &request, error))
}

/// Reads the parameters of RFC 6749 §4.1.2, §4.1.2.1 and RFC 9207 §2, each at most once (RFC 6749 §3.1).
fn read(app: &App, request: &HttpRequest, name: &str) -> Result<SignInResponse, Refusal> {
    let malformed = Refusal::Malformed("The query is not what this endpoint reads");
    let query = request.query_string();
    let state = single(query, "state")?.and_then(Result::ok).ok_or(malformed)?;
    let said = match (single(query, "code")?, single(query, "error")?) {
        (Some(Ok(code)), None) if oauth_client::is_code(&code) => {
            AuthorizationAnswer::Code(SecretString::from(code))
        }
        // An `error` parameter counts in any encoding.
        (None, Some(error)) => AuthorizationAnswer::Error(error.unwrap_or_default()),
        _ => return Err(malformed),
    };
    Ok(SignInResponse {
        at: name.to_owned(),
        state: SecretString::from(state),
        said,
        // An `iss` that cannot be decoded is read as empty, which matches no issuer.
        iss: single(query, "iss")?.map(Result::unwrap_or_default),
        browser: cookies::sign_ins(request, &app.issuer),
    })
}

/// A new session always, and the old one of this browser ends: an attacker cannot have fixed it.
async fn signed_in_response(
    app: &App,
    request: &HttpRequest,
    signed_in: SignedIn,
) -> Result<HttpResponse, PageError> {
    end_previous(app, request).await?;
    let back = signed_in.return_to.unwrap_or_else(|| url(&app.issuer, "/console"));
    let place = match signed_in.purpose {
        SignInPurpose::Normal => back,
        SignInPurpose::Fresh => format!("{back}#{AGAIN}"),
    };
    let response = HttpResponse::build(StatusCode::SEE_OTHER)
        .insert_header((LOCATION, place))
        .insert_header((CACHE_CONTROL, "no-store"))
        .append_header((SET_COOKIE, cookies::set_session(&app.issuer, &signed_in.new.secret)?))
        .append_header((SET_COOKIE, cookies::clear_sign_in(&app.issuer)?))
        .finish();
    Ok(response)
}

/// Why there is no session.
#[derive(Clone, Copy)]
enum Failure {
    /// The query is none of an issuer.
    NoAnswer,
    NotFound,
    Refused(SignInProblem),
}

/// The next step after a failure.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Step {
    SignIn,
    /// The issuer is to authenticate the person once more.
    SignInOnceMore,
}

impl Failure {
    fn status(self) -> StatusCode {
        match self {
            Self::NoAnswer => StatusCode::BAD_REQUEST,
            Self::NotFound => StatusCode::GONE,
            Self::Refused(SignInProblem::CodeRefused | SignInProblem::IssuerUnavailable) => {
                StatusCode::BAD_GATEWAY
            }
            Self::Refused(_) => StatusCode::FORBIDDEN,
        }
    }

    fn sentence(self) -> &'static str {
        match self {
            Self::NoAnswer => "This is not an answer that an issuer gives.",
            Self::NotFound => {
                "This sign-in was used before, took longer than ten minutes, or began in another browser."
            }
            Self::Refused(problem) => match problem {
                SignInProblem::Declined => "Your issuer did not sign you in to this console.",
                SignInProblem::OtherIssuer => {
                    "The answer came from another issuer than the one that was asked."
                }
                SignInProblem::CodeRefused => {
                    "Your issuer did not honour its own answer. Its administrator can check how this console is registered there."
                }
                SignInProblem::IssuerUnavailable => {
                    "Your issuer does not answer as it should. Try again in a moment."
                }
                SignInProblem::IdTokenInvalid => {
                    "What your issuer says about you is not valid for this sign-in. The log of this server has the reason."
                }
                SignInProblem::AuthTimeMissing => {
                    "Your issuer did not say when you signed in. Ask its administrator for the claim auth_time."
                }
                SignInProblem::AuthTimeTooOld => "Your issuer says that you signed in too long ago.",
                SignInProblem::AuthenticationContext => {
                    "This console asks for another way to sign in, such as a second factor. Your issuer did not say that you used it."
                }
                SignInProblem::Revoked => {
                    "All access of yours was revoked after you had signed in at your issuer. Sign in there once more."
                }
                SignInProblem::Changed => {
                    "An operator changed how people of your issuer sign in, while you did. Sign in again."
                }
                SignInProblem::LoggedOut => "Your issuer ended your session there meanwhile. Sign in again.",
            },
        }
    }

    fn step(self) -> Step {
        match self {
            Self::Refused(SignInProblem::AuthTimeTooOld | SignInProblem::Revoked) => Step::SignInOnceMore,
            Self::NoAnswer | Self::NotFound | Self::Refused(_) => Step::SignIn,
        }
    }
}

fn failed(app: &App, request: &HttpRequest, name: &str, failure: Failure) -> HttpResponse {
    if let Failure::Refused(_) = failure {
        metrics::counter!("actchain_refusals_total", "reason" => Refusal::SignInRefused.reason())
            .increment(1);
    }
    let is_name = name.bytes().all(|byte| byte.is_ascii_hexdigit());
    let (label, next) = match failure.step() {
        Step::SignInOnceMore if is_name => {
            ("Sign in once more", format!("/console/sign-in/{name}?purpose=fresh"))
        }
        Step::SignInOnceMore | Step::SignIn => ("Sign in", "/console/sign-in".to_owned()),
    };
    let body = html! {
        h1 { "Not signed in" }
        p { (failure.sentence()) }
        p { a href=(url(&app.issuer, &next)) { (label) } }
        @if let Some(id) = credentials::origin(request).request_id { p.dim { "Request " code { (id) } } }
    };
    let page = ConsolePage { status: failure.status(), ..ConsolePage::new("Not signed in", body) };
    Frame::public(app, request).response(page)
}
