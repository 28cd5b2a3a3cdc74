//! Connecting a third party's account in a browser: the cookie at the start and the pages at the end. The pages are
//! fixed texts: they never contain a value from the query.

use actix_web::http::StatusCode;
use actix_web::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, COOKIE, HeaderMap, HeaderValue, REFERRER_POLICY,
    SET_COOKIE,
};
use actix_web::web::{Data, Path};
use actix_web::{HttpRequest, HttpResponse};
use secrecy::{ExposeSecret as _, SecretString};
use serde::Serialize;

use crate::app::App;
use crate::domain::refusal::{Error, Refusal};
use crate::http::credentials;
use crate::http::management::request::{AuthenticatedRequest, accepted};
use crate::http::redirect_params::single;
use crate::platform::fault::Context;
use crate::services::transition::Reply;
use crate::services::vault::{
    self, AuthorizationRequest, AuthorizationResponse, CallbackPage, CallbackParams, NewConnection,
};
use actchain_protocol::base64url;
use actchain_protocol::oauth_client;

/// The most cookies of one name that are read. A browser sends fewer.
const MOST_COOKIES: usize = 8;

/// With the `__Host-` prefix (RFC 6265bis §4.1.3.2), neither another host nor a network attacker can have set the
/// cookie. Browsers accept the prefix only over https, which a server on loopback need not have.
fn cookie_name(issuer: &str) -> &'static str {
    if issuer.starts_with("https://") { "__Host-actchain-connect" } else { "actchain-connect" }
}

/// The cookie that binds the authorization to this browser. The browser sends it to the callback; scripts cannot read
/// it.
pub(super) fn cookie(app: &App, secret: &SecretString) -> Result<HeaderValue, Error> {
    let name = cookie_name(&app.issuer);
    let secure = if app.issuer.starts_with("https://") { "; Secure" } else { "" };
    let life = app.config.vault.connect_ttl;
    let value =
        format!("{name}={}; Path=/; Max-Age={life}; HttpOnly; SameSite=Lax{secure}", secret.expose_secret());
    Ok(HeaderValue::from_str(&value).context("setting a cookie")?)
}

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
    response.headers_mut().insert(SET_COOKIE, cookie(known.app, &browser)?);
    Ok(response)
}

/// `GET /vault/callback/{provider}`: the redirect URI to which providers send browsers back.
pub(super) async fn callback(request: HttpRequest, app: Data<App>, provider: Path<String>) -> HttpResponse {
    let app = app.into_inner();
    let Ok(params) = read(&app, &request, provider.into_inner()) else {
        return page(StatusCode::BAD_REQUEST, "Not connected", MALFORMED);
    };
    let origin = credentials::origin(&request);
    let now = app.clock.now();
    match vault::handle_callback(&app, params, origin, now).await {
        Ok(shown) => show(shown),
        Err(fault) => {
            tracing::error!(error = %fault, "a request failed");
            metrics::counter!("actchain_errors_total").increment(1);
            page(StatusCode::SERVICE_UNAVAILABLE, "Not connected", FAILED)
        }
    }
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
        browser: cookies(request.headers(), cookie_name(&app.issuer)),
    })
}

fn cookies(headers: &HeaderMap, name: &str) -> Vec<String> {
    let pairs =
        headers.get_all(COOKIE).filter_map(|field| field.to_str().ok()).flat_map(|field| field.split(';'));
    let named = pairs.filter_map(|pair| pair.trim().split_once('=')).filter(|(own, _)| *own == name);
    named.map(|(_, value)| value.to_owned()).take(MOST_COOKIES).collect()
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

fn show(shown: CallbackPage) -> HttpResponse {
    let no = "Not connected";
    match shown {
        CallbackPage::Connected => page(StatusCode::OK, "Connected", CONNECTED),
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

fn page(status: StatusCode, title: &str, text: &str) -> HttpResponse {
    const POLICY: &str = "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
    HttpResponse::build(status)
        .insert_header((CONTENT_TYPE, "text/html; charset=utf-8"))
        .insert_header((CONTENT_SECURITY_POLICY, POLICY))
        .insert_header((REFERRER_POLICY, "no-referrer"))
        .insert_header((CACHE_CONTROL, "no-store"))
        .body(format!(
            "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>{title}</title></head>\
             <body><h1>{title}</h1>{text}</body></html>\n"
        ))
}
