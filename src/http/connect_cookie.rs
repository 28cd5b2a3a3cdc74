//! The cookie that binds an authorization at a provider to the browser in which it began.

use actix_web::HttpRequest;
use actix_web::http::header::{COOKIE, HeaderValue};
use secrecy::{ExposeSecret as _, SecretString};

use crate::app::App;
use crate::platform::fault::{Context as _, Fault};

/// The most cookies of one name that are read. A browser sends fewer.
const MOST_COOKIES: usize = 8;

/// With the `__Host-` prefix (RFC 6265bis §4.1.3.2), neither another host nor a network attacker can have set the
/// cookie. Browsers accept the prefix only over https, which a server on loopback need not have.
fn name(issuer: &str) -> &'static str {
    if issuer.starts_with("https://") { "__Host-actchain-connect" } else { "actchain-connect" }
}

/// Sets the cookie. The browser sends it to the callback; scripts cannot read it.
pub(super) fn set(app: &App, secret: &SecretString) -> Result<HeaderValue, Fault> {
    let name = name(&app.issuer);
    let secure = if app.issuer.starts_with("https://") { "; Secure" } else { "" };
    let life = app.config.vault.connect_ttl;
    let value =
        format!("{name}={}; Path=/; Max-Age={life}; HttpOnly; SameSite=Lax{secure}", secret.expose_secret());
    HeaderValue::from_str(&value).context("setting a cookie")
}

/// The values that the browser sent; another path can have set some of them.
pub(super) fn values(request: &HttpRequest, issuer: &str) -> Vec<String> {
    let fields = request.headers().get_all(COOKIE).filter_map(|field| field.to_str().ok());
    let pairs = fields.flat_map(|field| field.split(';')).filter_map(|pair| pair.trim().split_once('='));
    let named = pairs.filter(|(own, _)| *own == name(issuer));
    named.map(|(_, value)| value.to_owned()).take(MOST_COOKIES).collect()
}
