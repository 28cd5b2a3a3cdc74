//! Cookies of the console. Their names contain a digest of the issuer: cookies do not know ports, and issuers with paths
//! share a host.

use actix_web::HttpRequest;
use actix_web::http::header::{COOKIE, HeaderValue};
use secrecy::{ExposeSecret as _, SecretString};

use crate::domain::console::SIGN_IN_LIFE;
use crate::platform::fault::{Context as _, Fault};
use actchain_protocol::digest::{hex, sha256};

/// A browser sends fewer.
const MOST_COOKIES: usize = 8;

/// With the prefix `__Host-` (RFC 6265bis §4.1.3.2), no other host can have set the cookie. Browsers accept it over
/// https only, which a server on loopback need not have.
fn session_name(issuer: &str) -> String {
    let digest: String = hex(&sha256(&[issuer.as_bytes()])).chars().take(8).collect();
    match issuer.starts_with("https://") {
        true => format!("__Host-actchain-{digest}"),
        false => format!("actchain-{digest}"),
    }
}

/// The name of the cookie that binds a sign-in to its browser.
fn sign_in_name(issuer: &str) -> String {
    format!("{}-sign-in", session_name(issuer))
}

/// The values that a browser sent for the session; another path can have set some of them.
pub(super) fn sessions(request: &HttpRequest, issuer: &str) -> Vec<String> {
    values(request, &session_name(issuer))
}

/// The values that a browser sent for sign-ins that have begun in it.
pub(super) fn sign_ins(request: &HttpRequest, issuer: &str) -> Vec<String> {
    values(request, &sign_in_name(issuer))
}

/// Binds a sign-in to the browser. `Lax`: the browser sends it when the issuer sends it back.
pub(super) fn set_sign_in(issuer: &str, secret: &SecretString) -> Result<HeaderValue, Fault> {
    let life = format!("; Max-Age={}", SIGN_IN_LIFE.whole_seconds());
    cookie(issuer, &sign_in_name(issuer), secret.expose_secret(), &life)
}

pub(super) fn clear_sign_in(issuer: &str) -> Result<HeaderValue, Fault> {
    cookie(issuer, &sign_in_name(issuer), "", "; Max-Age=0")
}

fn values(request: &HttpRequest, name: &str) -> Vec<String> {
    let fields = request.headers().get_all(COOKIE).filter_map(|field| field.to_str().ok());
    let pairs = fields.flat_map(|field| field.split(';')).filter_map(|pair| pair.trim().split_once('='));
    pairs.filter(|(own, _)| *own == name).map(|(_, value)| value.to_owned()).take(MOST_COOKIES).collect()
}

/// Sets the session: until the browser ends it, or the server. `Lax`, so that links from elsewhere arrive signed in.
pub(super) fn set_session(issuer: &str, secret: &SecretString) -> Result<HeaderValue, Fault> {
    cookie(issuer, &session_name(issuer), secret.expose_secret(), "")
}

pub(super) fn clear_session(issuer: &str) -> Result<HeaderValue, Fault> {
    cookie(issuer, &session_name(issuer), "", "; Max-Age=0")
}

/// The chosen value of a preference.
pub(super) fn preference(request: &HttpRequest, name: &str) -> Option<String> {
    values(request, name).pop()
}

/// Keeps a preference for a year. It is no secret, and the script of the console reads it.
pub(super) fn set_preference(path: &str, name: &str, value: &str) -> Result<HeaderValue, Fault> {
    let text = format!("{name}={value}; Path={path}; Max-Age=31536000; SameSite=Lax");
    HeaderValue::from_str(&text).context("setting a cookie")
}

fn cookie(issuer: &str, name: &str, value: &str, life: &str) -> Result<HeaderValue, Fault> {
    let secure = if issuer.starts_with("https://") { "; Secure" } else { "" };
    let text = format!("{name}={value}; Path=/{life}; HttpOnly; SameSite=Lax{secure}");
    HeaderValue::from_str(&text).context("setting a cookie")
}
