//! Connecting a third party's account in a browser: the start at the management API, and the pages at the end. The pages
//! are fixed texts: they never contain a value from the query.

use actix_web::http::StatusCode;
use actix_web::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, LOCATION, REFERRER_POLICY, SET_COOKIE,
};
use actix_web::web::{Data, Path};
use actix_web::{HttpRequest, HttpResponse};
use secrecy::SecretString;
use serde::Serialize;

use crate::app::App;
use crate::domain::refusal::{Error, Refusal};
use crate::http::connect_cookie;
use crate::http::console::open_session;
use crate::http::credentials;
use crate::http::management::request::{AuthenticatedRequest, accepted};
use crate::http::redirect_params::single;
use crate::platform::fault::Fault;
use crate::services::transition::Reply;
use crate::services::vault::{
    self, AuthorizationRequest, AuthorizationResponse, CallbackPage, CallbackParams, NewConnection,
};
use actchain_protocol::metadata::issuer_path;
use actchain_protocol::{base64url, oauth_client};

/// A started authorization.
#[derive(Serialize)]
struct AuthorizationBody {
    connection: String,
    authorization_url: String,
    expires_in: i64,
}

/// Begins the authorization for a connection that is created without a credential.
pub(super) async fn begin(
    known: &AuthenticatedRequest<'_>,
    request: &NewConnection,
) -> Result<HttpResponse, Error> {
    let Reply { value, replayed } = vault::begin(&known.context, &known.app.vault, request).await?;
    let AuthorizationRequest { connection, authorization_url, expires_in, browser } = value;
    let value = AuthorizationBody { connection, authorization_url, expires_in };
    let mut response = accepted(Reply { value, replayed });
    response.headers_mut().insert(SET_COOKIE, connect_cookie::set(known.app, &browser)?);
    Ok(response)
}

/// `GET /vault/callback/{provider}`: the redirect URI to which providers send browsers back. A browser with a session in
/// the console finds the way back to it.
pub(super) async fn callback(request: HttpRequest, app: Data<App>, provider: Path<String>) -> HttpResponse {
    let app = app.into_inner();
    let now = app.clock.now();
    let finished = async {
        let session = open_session(&app, &request, now).await?;
        let back = session.map(|_| format!("{}/console/connections", issuer_path(&app.issuer)));
        let Ok(params) = read(&app, &request, provider.into_inner()) else {
            return Ok(page(StatusCode::BAD_REQUEST, "Not connected", MALFORMED, back.as_deref()));
        };
        let params = CallbackParams { console_session: session, ..params };
        let shown = vault::handle_callback(&app, params, credentials::origin(&request), now).await?;
        Ok::<_, Fault>(show(&app, shown, back.as_deref()))
    };
    finished.await.unwrap_or_else(|fault| {
        tracing::error!(error = %fault, "a request failed");
        metrics::counter!("actchain_errors_total").increment(1);
        page(StatusCode::SERVICE_UNAVAILABLE, "Not connected", FAILED, None)
    })
}

/// Reads the parameters of RFC 6749 §4.1.2, §4.1.2.1 and RFC 9207 §2.
fn read(app: &App, request: &HttpRequest, provider: String) -> Result<CallbackParams, Refusal> {
    let malformed = Refusal::Malformed("The query is not what this endpoint reads");
    let query = request.query_string();
    let state = single(query, "state")?.and_then(Result::ok);
    let is_ours = |text: &String| base64url::decode(text).is_some_and(|bytes| bytes.len() == 32);
    let state = state.filter(is_ours).ok_or(malformed)?;
    let said = match (single(query, "code")?, single(query, "error")?) {
        (Some(Ok(code)), None) if oauth_client::is_code(&code) => {
            AuthorizationResponse::Code(SecretString::from(code))
        }
        // An `error` parameter counts in any encoding.
        (None, Some(error)) => AuthorizationResponse::Error(error.unwrap_or_default()),
        _ => return Err(malformed),
    };
    // An `iss` that cannot be decoded is read as empty, which matches no issuer.
    let iss = single(query, "iss")?.map(Result::unwrap_or_default);
    Ok(CallbackParams {
        state: SecretString::from(state),
        said,
        provider,
        iss,
        browser: connect_cookie::values(request, &app.issuer),
        console_session: None,
    })
}

const MALFORMED: &str =
    "<p>This is not an answer that a provider gives. Begin again where you came from.</p>";
const FAILED: &str = "<p>The server cannot say at the moment how it went. Check your connections, and begin again if the new one is missing.</p>";
const GONE: &str = "<p>This was used before, or it took too long, or it was ended meanwhile. Begin again where you came from.</p>";
const DECLINED: &str = "<p>The provider did not give access. Nothing was connected.</p>";
const MIXED_UP: &str =
    "<p>The answer came from another provider than the one that was asked. Nothing was connected.</p>";
const REFUSED: &str = "<p>The provider did not honour its own answer. Nothing was connected. Begin again where you came from.</p>";
const UNAVAILABLE: &str =
    "<p>The provider did not answer as it should. Nothing was connected. Begin again later.</p>";
const CONNECTED: &str = "<p>You can close this page.</p>";

fn show(app: &App, shown: CallbackPage, back: Option<&str>) -> HttpResponse {
    let no = "Not connected";
    let page = |status, title, text: &str| page(status, title, text, back);
    match shown {
        CallbackPage::Connected => page(StatusCode::OK, "Connected", CONNECTED),
        CallbackPage::ConnectedInConsole(connection) => HttpResponse::build(StatusCode::SEE_OTHER)
            .insert_header((
                LOCATION,
                format!("{}/console/connections/{connection}", issuer_path(&app.issuer)),
            ))
            .insert_header((REFERRER_POLICY, "no-referrer"))
            .insert_header((CACHE_CONTROL, "no-store"))
            .finish(),
        CallbackPage::Waits(code) => page(
            StatusCode::OK,
            "Not connected yet",
            &format!(
                "<p>This was begun elsewhere. To finish, type this code there, where you began:</p>\
                 <p><code>{}</code></p>\
                 <p><strong>Do not give this code to others.</strong> Anyone with this code can connect your account to theirs. If you \
                 did not begin this yourself, close this page: nothing has been connected.</p>",
                code.as_str()
            ),
        ),
        CallbackPage::NotFound => page(StatusCode::GONE, no, GONE),
        CallbackPage::Declined => page(StatusCode::FORBIDDEN, no, DECLINED),
        CallbackPage::MixedUp => page(StatusCode::FORBIDDEN, no, MIXED_UP),
        CallbackPage::Refused => page(StatusCode::BAD_GATEWAY, no, REFUSED),
        CallbackPage::Unavailable => page(StatusCode::BAD_GATEWAY, no, UNAVAILABLE),
    }
}

fn page(status: StatusCode, title: &str, text: &str, back: Option<&str>) -> HttpResponse {
    const POLICY: &str = "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
    // The path of the issuer, as the configuration has it.
    let back = back.map(|path| path.replace('&', "&amp;").replace('"', "&quot;"));
    let back =
        back.map(|path| format!("<p><a href=\"{path}\">See your connections</a></p>")).unwrap_or_default();
    HttpResponse::build(status)
        .insert_header((CONTENT_TYPE, "text/html; charset=utf-8"))
        .insert_header((CONTENT_SECURITY_POLICY, POLICY))
        .insert_header((REFERRER_POLICY, "no-referrer"))
        .insert_header((CACHE_CONTROL, "no-store"))
        .body(format!(
            "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>{title}</title></head>\
             <body><h1>{title}</h1>{text}{back}</body></html>\n"
        ))
}
