//! The frame of every page: headers, navigation, and who one is.

use actix_web::http::StatusCode;
use actix_web::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderName, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
};
use actix_web::{HttpRequest, HttpResponse};
use maud::{DOCTYPE, Markup, html};

use super::access::{ConsoleMethod, RouteAccess, access_to};
use super::form_token::{self, TOKEN_FIELD};
use super::links::url;
use super::{assets, cookies, words};
use crate::app::App;
use crate::domain::console::{ConsoleRole, ConsoleSession};

/// The fragment of a page to which a person returns after a fresh sign-in.
pub(super) const AGAIN: &str = "signed-in-again";

const OPENER_POLICY: HeaderName = HeaderName::from_static("cross-origin-opener-policy");

/// The places of the navigation: path, name, and the key after `g`.
const PLACES: &[(&str, &str, &str)] = &[
    ("/console", "Overview", "o"),
    ("/console/approvals", "Approvals", "i"),
    ("/console/delegations", "Delegations", "d"),
    ("/console/agents", "Agents", "a"),
    ("/console/check", "Check", "k"),
    ("/console/connections", "Connections", "v"),
    ("/console/registry/clients", "Registry", "r"),
    ("/console/settings", "Settings", "s"),
    ("/console/me", "Me", "m"),
];

/// The content of a page.
pub(super) struct ConsolePage {
    pub(super) status: StatusCode,
    pub(super) title: String,
    pub(super) body: Markup,
}

impl ConsolePage {
    pub(super) fn new(title: impl Into<String>, body: Markup) -> Self {
        Self { status: StatusCode::OK, title: title.into(), body }
    }
}

/// What the frame shows around a page.
pub(super) struct Frame<'a> {
    pub(super) app: &'a App,
    pub(super) session: Option<&'a ConsoleSession>,
    pub(super) request: &'a HttpRequest,
}

impl Frame<'_> {
    pub(super) fn response(&self, page: ConsolePage) -> HttpResponse {
        let text = self.render(&page).into_string();
        HttpResponse::build(page.status)
            .insert_header((CONTENT_TYPE, "text/html; charset=utf-8"))
            .insert_header((CONTENT_SECURITY_POLICY, policy(&self.app.issuer)))
            .insert_header((OPENER_POLICY, "same-origin"))
            .insert_header((REFERRER_POLICY, "same-origin"))
            .insert_header((X_CONTENT_TYPE_OPTIONS, "nosniff"))
            .insert_header((CACHE_CONTROL, "no-store"))
            .body(text)
    }

    fn preference(&self, name: &str) -> Option<String> {
        cookies::preference(self.request, name)
    }

    fn render(&self, page: &ConsolePage) -> Markup {
        let asset = |name: &str| url(&self.app.issuer, &format!("/console/assets/{name}"));
        let theme =
            self.preference("actchain-theme").filter(|theme| ["light", "dark"].contains(&theme.as_str()));
        let keys = self.preference("actchain-keys").filter(|keys| keys == "off");
        html! {
            (DOCTYPE)
            html lang="en" data-theme=[theme] data-keys=[keys] {
                head {
                    meta charset="utf-8";
                    meta name="viewport" content="width=device-width, initial-scale=1";
                    title { (page.title) " · actchain" }
                    link rel="stylesheet" href=(asset(&assets::STYLE.name));
                    script src=(asset(&assets::SCRIPT.name)) defer {}
                }
                body {
                    a.skip href="#page" { "Skip to the page" }
                    div.frame {
                        (self.top())
                        (self.navigation())
                        div.page #page role="main" tabindex="-1" {
                            @if self.session.is_some() { p.note.again id=(AGAIN) { "You have signed in once more. Nothing was done yet: decide now." } }
                            (page.body)
                        }
                    }
                    p #live.visually-hidden role="status" {}
                }
            }
        }
    }

    fn top(&self) -> Markup {
        html! {
            header.top {
                a.brand href=(url(&self.app.issuer, "/console")) { "actchain" }
                span.dim { (self.app.issuer) }
                @if let Some(session) = self.session {
                    span.who {
                        @match &session.who {
                            Some(who) => {
                                @if let Some(label) = &session.label { bdi { (words::visible(label)) } " · " }
                                bdi { (who.sub) } " · " (who.iss)
                            },
                            None => "operator",
                        }
                        " as " (role(session.role))
                    }
                    (self.sign_out(session))
                }
            }
        }
    }

    fn sign_out(&self, session: &ConsoleSession) -> Markup {
        let target = url(&self.app.issuer, "/console/sign-out");
        // Without a random mask there is no form: the page says so where it fails.
        let token = form_token::make(self.app, session, &target).ok();
        html! {
            @if let Some(token) = token {
                form method="post" action=(target) {
                    input type="hidden" name=(TOKEN_FIELD) value=(token);
                    button type="submit" { "Sign out" }
                }
            }
        }
    }

    fn navigation(&self) -> Markup {
        let Some(session) = self.session else { return html! { nav.nav aria-label="Console" {} } };
        let here = self.request.path();
        let overview = url(&self.app.issuer, "/console");
        html! {
            nav.nav aria-label="Console" {
                ul {
                    @for (path, name, key) in PLACES.iter().filter(|(path, ..)| may_see(self.request, session.role, path)) {
                        @let target = url(&self.app.issuer, path);
                        @let below = target != overview && here.starts_with(&format!("{target}/"));
                        li {
                            a href=(target) data-key=(key) aria-current=[(here == target || below).then_some("page")] { (name) }
                        }
                    }
                }
            }
        }
    }
}

fn may_see(request: &HttpRequest, role: ConsoleRole, path: &str) -> bool {
    let access = access_to(request, ConsoleMethod::Get, path);
    matches!(access, RouteAccess::Roles(roles) if roles.contains(&role))
}

pub(super) fn role(role: ConsoleRole) -> &'static str {
    match role {
        ConsoleRole::User => "user",
        ConsoleRole::Auditor => "auditor",
        ConsoleRole::Admin => "administrator",
        ConsoleRole::Operator => "operator",
    }
}

/// Nothing inline, nothing from elsewhere, and no text becomes script. A source list cannot name an IPv6 address, so that
/// assets of such an issuer are allowed by `'self'`.
fn policy(issuer: &str) -> String {
    let host = url::Url::parse(issuer).ok().and_then(|url| url.host().map(|host| host.to_owned()));
    let assets = match host {
        Some(url::Host::Ipv6(_)) | None => "'self'".to_owned(),
        Some(url::Host::Ipv4(address)) if !address.is_loopback() => "'self'".to_owned(),
        Some(_) => format!("{issuer}/console/assets/"),
    };
    format!(
        "default-src 'none'; script-src {assets}; style-src {assets}; img-src 'self'; connect-src 'self'; \
         form-action 'self'; base-uri 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; \
         trusted-types actchain"
    )
}
