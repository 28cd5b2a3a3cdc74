//! The frame of every page: headers, navigation, and who one is.

use std::sync::Arc;

use actix_web::http::StatusCode;
use actix_web::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderName, REFERRER_POLICY, VARY,
    X_CONTENT_TYPE_OPTIONS,
};
use actix_web::{HttpRequest, HttpResponse};
use maud::{DOCTYPE, Markup, html};

use super::access::{ConsoleMethod, RouteAccess, access_to};
use super::form_token::{self, TOKEN_FIELD};
use super::links::url;
use super::{assets, cookies, log_badge, words};
use crate::app::App;
use crate::domain::audit::health::LogHealth;
use crate::domain::console::{ConsoleRole, ConsoleSession};
use crate::domain::delegation::waiting::BoundedCount;
use crate::platform::clock::rfc3339;
use actchain_protocol::digest::{hex, sha256};
use actchain_protocol::metadata::issuer_path;

/// The fragment of a page to which a person returns after a fresh sign-in.
pub(super) const AGAIN: &str = "signed-in-again";

/// No style and no script of its own, no cache of pages; Back asks the server again.
const HTMX_CONFIG: &str = r#"{"extensions":"actchain, sse","includeIndicatorCSS":false,"history":"reload"}"#;

const OPENER_POLICY: HeaderName = HeaderName::from_static("cross-origin-opener-policy");

/// The field of the jump box.
pub(super) const JUMP_FIELD: &str = "what";

/// The stream of a page without a list.
const FEED: &str = "/console/live";
const APPROVALS: &str = "/console/approvals";

/// The places of the navigation: path, name, and the key after `g`.
pub(super) const PLACES: &[(&str, &str, &str)] = &[
    ("/console", "Overview", "o"),
    (APPROVALS, "Approvals", "i"),
    ("/console/delegations", "Delegations", "d"),
    ("/console/chains", "Chains", "c"),
    ("/console/sessions", "Sessions", "s"),
    ("/console/events", "Events", "e"),
    ("/console/agents", "Agents", "a"),
    ("/console/check", "Check", "h"),
    ("/console/standing-grants", "Standing grants", "t"),
    ("/console/connections", "Connections", "v"),
    ("/console/log", "Log", "l"),
    ("/console/registry/clients", "Registry", "r"),
    ("/console/sinks", "Sinks", "n"),
    ("/console/settings", "Settings", "k"),
    ("/console/me", "Me", "m"),
];

/// The content of a page.
pub(super) struct ConsolePage {
    pub(super) status: StatusCode,
    pub(super) title: String,
    pub(super) body: Markup,
    /// The path and query of the stream that keeps the page up to date; the frame's alone by default.
    pub(super) feed: String,
}

impl ConsolePage {
    pub(super) fn new(title: impl Into<String>, body: Markup) -> Self {
        Self { status: StatusCode::OK, title: title.into(), body, feed: FEED.to_owned() }
    }
}

/// What the frame shows around a page.
pub(super) struct Frame<'a> {
    pub(super) app: &'a App,
    pub(super) session: Option<&'a ConsoleSession>,
    pub(super) request: &'a HttpRequest,
    /// Decisions that wait for the person.
    pub(super) waiting: BoundedCount,
    /// The state of the log, for administrators and auditors.
    pub(super) log: Option<Arc<LogHealth>>,
}

impl<'a> Frame<'a> {
    /// The frame of a page without a session.
    pub(super) fn public(app: &'a App, request: &'a HttpRequest) -> Self {
        Self { app, session: None, request, waiting: BoundedCount::default(), log: None }
    }

    pub(super) fn response(&self, page: ConsolePage) -> HttpResponse {
        let text = if is_fragment(self.request) { self.fragment(&page) } else { self.render(&page) };
        let text = text.into_string();
        HttpResponse::build(page.status)
            .insert_header((CONTENT_TYPE, "text/html; charset=utf-8"))
            .insert_header((CONTENT_SECURITY_POLICY, policy(&self.app.issuer)))
            .insert_header((OPENER_POLICY, "same-origin"))
            .insert_header((REFERRER_POLICY, "same-origin"))
            .insert_header((X_CONTENT_TYPE_OPTIONS, "nosniff"))
            .insert_header((CACHE_CONTROL, "no-store"))
            .insert_header((VARY, "HX-Request"))
            .body(text)
    }

    fn preference(&self, name: &str) -> Option<String> {
        cookies::preference(self.request, name)
    }

    fn render(&self, page: &ConsolePage) -> Markup {
        let asset = |name: &str| url(&self.app.issuer, &format!("/console/assets/{name}"));
        let chosen = |name: &str, values: &[&str]| {
            self.preference(name).filter(|value| values.contains(&value.as_str()))
        };
        html! {
            (DOCTYPE)
            html lang="en" data-theme=[chosen("actchain-theme", &["light", "dark"])] data-zone=[chosen("actchain-zone", &["local"])]
                data-keys=[chosen("actchain-keys", &["off"])] data-density=[chosen("actchain-density", &["compact"])] {
                head {
                    meta charset="utf-8";
                    meta name="viewport" content="width=device-width, initial-scale=1";
                    meta name="htmx-config" content=(HTMX_CONFIG);
                    (self.title(page))
                    link rel="stylesheet" href=(asset(&assets::STYLE.name));
                    script src=(asset(&assets::SCRIPT.name)) defer {}
                }
                body {
                    a.skip href="#page" { "Skip to the page" }
                    // Links and forms with `hx-get` replace the page and keep the frame.
                    div.frame hx-target:inherited="#page" hx-swap:inherited="outerMorph" hx-push-url:inherited="true" {
                        (self.top())
                        (self.navigation())
                        div.content {
                            @if let Some(log) = &self.log { div #log-banner { (log_badge::banner(log)) } }
                            (self.page(page))
                            (self.printed())
                        }
                    }
                    p #live.visually-hidden role="status" {}
                }
            }
        }
    }

    /// The page without its frame.
    fn fragment(&self, page: &ConsolePage) -> Markup {
        html! { (self.title(page)) (self.page(page)) }
    }

    fn title(&self, page: &ConsolePage) -> Markup {
        let counted = self.request.path() == url(&self.app.issuer, APPROVALS) && self.waiting.number > 0;
        html! { title { @if counted { "(" (words::bounded(&self.waiting)) ") " } (page.title) " · actchain" } }
    }

    fn page(&self, page: &ConsolePage) -> Markup {
        html! {
            div.page #page role="main" tabindex="-1" {
                @if self.session.is_some() { p.note.again id=(AGAIN) { "You have signed in once more. Nothing was done yet: decide now." } }
                (page.body)
                @if self.session.is_some() && page.status.is_success() {
                    @let feed = url(&self.app.issuer, &page.feed);
                    div hidden id={ "feed-" (digest_of(&feed)) } hx-sse:connect=(feed) hx-swap="none" hx-push-url="false" {}
                }
            }
        }
    }

    /// What a printed page says of itself: who printed what, when, and the log at that time.
    fn printed(&self) -> Markup {
        let Some(session) = self.session else { return Markup::default() };
        let issuer = &self.app.issuer;
        let origin = issuer.strip_suffix(&issuer_path(issuer)).unwrap_or(issuer);
        let who = session
            .who
            .as_ref()
            .map_or_else(|| "an operator".to_owned(), |who| format!("{} of {}", who.sub, who.iss));
        html! {
            footer.printed {
                p { "Printed by " bdi { (words::visible(&who)) } " as " (role(session.role)) " at " (rfc3339(self.app.clock.now())) "." }
                p { (origin) (self.request.uri()) }
                @if let Some(log) = &self.log { p { (log_badge::printed(log)) } }
            }
        }
    }

    fn top(&self) -> Markup {
        html! {
            header.top {
                a.brand href=(url(&self.app.issuer, "/console")) { "actchain" }
                span.dim { (self.app.issuer) }
                @if let Some(session) = self.session {
                    (self.jump_box(session))
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
                    span #live-state.dim {}
                    @if let Some(log) = &self.log { (log_badge::badge(log, &self.app.issuer, self.app.clock.now())) }
                    a href=(url(&self.app.issuer, "/console/help")) data-help { "Help" }
                    (self.sign_out(session))
                }
            }
        }
    }

    fn jump_box(&self, session: &ConsoleSession) -> Markup {
        let target = url(&self.app.issuer, "/console/find");
        let token = form_token::make(self.app, session, &target).ok();
        html! {
            @if let Some(token) = token {
                form.jump method="post" action=(target) role="search" {
                    input type="hidden" name=(TOKEN_FIELD) value=(token);
                    label.visually-hidden for="jump" { "Go to an id, a key or a token" }
                    // A password manager or a history of the browser must not keep a token.
                    input #jump name=(JUMP_FIELD) autocomplete="off" spellcheck="false" placeholder="Go to an id, key or token (/)" required;
                    button.visually-hidden type="submit" tabindex="-1" { "Go" }
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
                            a href=(target) data-key=(key) aria-current=[(here == target || below).then_some("page")] {
                                (name)
                                @if *path == APPROVALS { " " span #waiting { (waiting(&self.waiting)) } }
                            }
                        }
                    }
                }
            }
        }
    }
}

/// The number beside `Approvals`.
pub(super) fn waiting(count: &BoundedCount) -> Markup {
    html! { @if count.number > 0 { "(" (words::bounded(count)) ")" span.visually-hidden { " waiting" } } }
}

/// Another stream is another element: the script ends the stream of an element that a page no longer has.
fn digest_of(feed: &str) -> String {
    hex(&sha256(&[feed.as_bytes()])).chars().take(16).collect()
}

/// Whether the script of a page asks for another page without its frame.
pub(super) fn is_fragment(request: &HttpRequest) -> bool {
    request.headers().get("hx-request").is_some_and(|value| value == "true")
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
pub(super) fn policy(issuer: &str) -> String {
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
