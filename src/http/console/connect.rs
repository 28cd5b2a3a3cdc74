//! `/console/connections/new`: connecting an account, from the choice of a provider to the link that leaves for it, and
//! `/console/connections/{id}/finish` for an authorization that came back in another browser.

use std::collections::BTreeSet;

use actix_web::HttpResponse;
use actix_web::http::StatusCode;
use maud::{Markup, html};
use secrecy::SecretString;
use serde::Deserialize;
use url::Url;

use super::error_page::PageError;
use super::frame::ConsolePage;
use super::guard::{ConsoleRequest, Incoming, PageAnswer, PageResult, serve};
use super::links::form_encoded;
use super::words;
use crate::domain::pending_authorization::store::OpenAuthorization;
use crate::domain::principal::Principal;
use crate::domain::provider::ProviderKind;
use crate::domain::refusal::{Error, Refusal};
use crate::http::connect_cookie;
use crate::platform::clock::rfc3339;
use crate::platform::fault::{Context as _, Fault};
use crate::services::vault::{
    self, AuthorizationRequest, ConnectableProvider, ConnectionView, Import, NewConnection,
};

/// The prefix of the fields that ask for a scope.
const SCOPE_FIELD: &str = "scope:";

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct ConnectQuery {
    provider: Option<String>,
    /// The connection that is connected again.
    connection: Option<String>,
}

pub(super) async fn new(incoming: Incoming) -> HttpResponse {
    serve(incoming, async |known| {
        let ConnectQuery { provider, connection } = known.query()?;
        let again = match &connection {
            Some(id) => Some(vault::show(&known.context, id).await?),
            None => None,
        };
        let mut providers = vault::connectable(&known.context).await?;
        let wanted = again.as_ref().map(|one| one.provider.clone()).or(provider);
        if let Some(wanted) = &wanted {
            providers.retain(|one| one.id == *wanted);
        }
        let body = match providers.as_slice() {
            [] if wanted.is_some() => return Err(Refusal::NotFound.into()),
            [only] => form(&known, only, again.as_ref())?,
            _ => choice(&known, &providers),
        };
        Ok(PageAnswer::Shown(ConsolePage::new("Connect an account", body)))
    })
    .await
}

fn choice(known: &ConsoleRequest<'_>, providers: &[ConnectableProvider]) -> Markup {
    html! {
        (back(known))
        h1 { "Connect an account" }
        @if providers.is_empty() {
            p { "There is no provider at which an account can be connected. An administrator declares providers in the manifest." }
        } @else {
            ul {
                @for (place, one) in providers.iter().enumerate() {
                    li data-row { a href=(new_url(known, &one.id)) autofocus[place == 0] { bdi { (words::visible(&one.name)) } } " " span.dim { (one.id) } }
                }
            }
        }
    }
}

fn back(known: &ConsoleRequest<'_>) -> Markup {
    html! { p { a href=(known.url("/console/connections")) data-back { "Connections" } } }
}

/// The page on which an account is connected at a provider.
pub(super) fn new_url(known: &ConsoleRequest<'_>, provider: &str) -> String {
    format!("{}?provider={}", known.url("/console/connections/new"), form_encoded(provider))
}

/// The page on which a connection gets another credential.
pub(super) fn again_url(known: &ConsoleRequest<'_>, one: &ConnectionView) -> String {
    format!("{}?connection={}", known.url("/console/connections/new"), form_encoded(&one.id))
}

/// Whether the caller can connect this connection again: the owner, or an administrator where no provider asks the owner.
pub(super) fn may_connect_again(
    known: &ConsoleRequest<'_>,
    one: &ConnectionView,
    kind: ProviderKind,
) -> bool {
    let owns = known.context.caller.is(&one.owner, known.context.issuer);
    match kind {
        ProviderKind::Oauth2 => owns,
        ProviderKind::ApiKey | ProviderKind::Basic => owns || known.context.caller.administers(),
        ProviderKind::TokenExchange => false,
    }
}

fn form(
    known: &ConsoleRequest<'_>,
    provider: &ConnectableProvider,
    again: Option<&ConnectionView>,
) -> Result<Markup, PageError> {
    if again.is_some_and(|one| !may_connect_again(known, one, provider.kind)) {
        return Err(Refusal::InsufficientScope.into());
    }
    let target = known.url("/console/connections/new");
    let oauth = provider.kind == ProviderKind::Oauth2;
    let owner = known.context.caller.principal(known.context.issuer);
    Ok(html! {
        (back(known))
        h1 { @if again.is_some() { "Connect " bdi { (words::visible(&provider.name)) } " again" } @else { "Connect " bdi { (words::visible(&provider.name)) } } }
        @if oauth && owner.is_none() {
            p { "A provider asks the owner of an account. Sign in as this person to connect it." }
        } @else {
            form method="post" action=(target) autocomplete="off" {
                (known.hidden(&target)?)
                input type="hidden" name="provider" value=(provider.id);
                @if let Some(one) = again { input type="hidden" name="connection" value=(one.id); }
                @if again.is_none() || oauth {
                    label.field { "Name (optional)" input name="name" maxlength="100" size="40" value=[again.and_then(|one| one.name.as_deref())]; }
                }
                @match provider.kind {
                    ProviderKind::ApiKey => label.field { "Key" input type="password" name="key" required autocomplete="off" size="40"; },
                    ProviderKind::Basic => {
                        label.field { "User name" input name="username" required autocomplete="off" size="40"; }
                        label.field { "Password" input type="password" name="password" required autocomplete="off" size="40"; }
                    },
                    ProviderKind::Oauth2 | ProviderKind::TokenExchange => (scopes(provider, again)),
                }
                @if !oauth && again.is_none() && known.context.caller.administers() { (owner_fields(owner.as_ref())) }
                @if oauth { p { "The next page has the link to the provider." } }
                @else { p { "It is sealed in the vault, and is never shown again." } }
                div.moves { button.primary type="submit" autofocus[oauth] { @if oauth { "Begin" } @else { "Connect" } } }
            }
        }
    })
}

/// The scopes to ask for: those of the connection, or all.
fn scopes(provider: &ConnectableProvider, again: Option<&ConnectionView>) -> Markup {
    let before = again.and_then(|one| one.scopes.as_ref());
    let before = before.filter(|before| provider.scopes.iter().any(|scope| before.contains(scope)));
    let checked = |scope: &String| before.is_none_or(|before| before.contains(scope));
    html! {
        @if !provider.scopes.is_empty() {
            fieldset {
                legend { "Ask for" }
                @for scope in &provider.scopes {
                    label { input type="checkbox" name={ (SCOPE_FIELD) (scope) } value="on" checked[checked(scope)]; code.scope { (words::visible(scope)) } }
                    br;
                }
            }
        }
        @if !provider.always_scopes.is_empty() {
            p { "Always asked: " (words::names(Some(&provider.always_scopes.iter().cloned().collect()), "")) }
        }
    }
}

fn owner_fields(owner: Option<&Principal>) -> Markup {
    html! {
        fieldset {
            legend { "For whom" }
            @if owner.is_some() { p.dim { "Leave both empty for yourself." } }
            label.field { "Issuer" input name="owner_iss" size="40"; }
            label.field { "Name at the issuer" input name="owner_sub" size="40"; }
        }
    }
}

pub(super) async fn create(incoming: Incoming) -> HttpResponse {
    serve(incoming, async |known| {
        let provider = known.form.get("provider").unwrap_or_default();
        let providers = vault::connectable(&known.context).await?;
        let found = providers.into_iter().find(|one| one.id == provider).ok_or(Refusal::ProviderUnknown)?;
        let field = |name: &str| known.form.get(name).map(str::to_owned);
        let secret = |name: &str| SecretString::from(field(name).unwrap_or_default());
        match found.kind {
            ProviderKind::Oauth2 => begin(&known, found).await,
            ProviderKind::ApiKey => store(&known, &found, Import::api_key(secret("key"))).await,
            ProviderKind::Basic => {
                let name = field("username").unwrap_or_default();
                store(&known, &found, Import::login(name, secret("password"))).await
            }
            ProviderKind::TokenExchange => Err(Refusal::ProviderUnknown.into()),
        }
    })
    .await
}

/// Begins an authorization. The answer is a page with a link: a form may not lead to another host.
async fn begin(known: &ConsoleRequest<'_>, provider: ConnectableProvider) -> PageResult {
    let kept: BTreeSet<String> = known.form.names_after(SCOPE_FIELD).into_iter().map(str::to_owned).collect();
    let request = NewConnection {
        provider: provider.id.clone(),
        name: known.form.get("name").map(str::to_owned),
        owner: None,
        credential: None,
        scopes: (!provider.scopes.is_empty()).then_some(kept),
        connection: known.form.get("connection").map(str::to_owned),
    };
    let begun = vault::begin(&known.context, &known.app.vault, &request).await?.value;
    let asked = request.scopes.unwrap_or_default();
    let asked: Vec<String> = asked.union(&provider.always_scopes).cloned().collect();
    let page = ConsolePage::new("You are leaving", leaving(known, &provider, &begun, &asked)?);
    Ok(PageAnswer::ShownWithCookie(page, connect_cookie::set(known.app, &begun.browser)?))
}

fn leaving(
    known: &ConsoleRequest<'_>,
    provider: &ConnectableProvider,
    begun: &AuthorizationRequest,
    asked: &Vec<String>,
) -> Result<Markup, Fault> {
    let url = Url::parse(&begun.authorization_url).context("reading an authorization endpoint")?;
    let host = url.host_str().ok_or_else(|| Fault::new("an authorization endpoint without a host"))?;
    let until = rfc3339(known.context.now + time::Duration::seconds(begun.expires_in));
    Ok(html! {
        (back(known))
        h1 { "You are leaving for " bdi { (host) } }
        p {
            "There you allow " bdi { (words::visible(&provider.name)) } " to give this server: "
            @if asked.is_empty() { "what the provider decides" } @else { (words::names(Some(asked), "")) }
            ". Then you come back to this console."
        }
        p { "It has to be finished by " (words::instant(&until, known.context.now)) "." }
        p { a.button href=(begun.authorization_url) rel="noreferrer" autofocus { "Continue to " bdi { (host) } } }
        p.dim { "Did you open the link in another browser? Then " a href=(finish_url(known, &begun.connection)) { "type the code here" } " that it shows." }
    })
}

/// Where the code of another browser is typed.
pub(super) fn finish_url(known: &ConsoleRequest<'_>, connection: &str) -> String {
    known.url(&format!("/console/connections/{connection}/finish"))
}

/// Stores a key or password: of a new connection, or of one that gets another.
async fn store(known: &ConsoleRequest<'_>, provider: &ConnectableProvider, import: Import) -> PageResult {
    let vault = &known.app.vault;
    let own = known.context.caller.principal(known.context.issuer);
    if let Some(id) = known.form.get("connection") {
        let there = vault::show(&known.context, id).await?;
        if own.as_ref() != Some(&there.owner) {
            known.require_fresh()?;
        }
        let stored = vault::rotate(&known.context, vault, id, &import).await?.value;
        return Ok(PageAnswer::See(known.url(&format!("/console/connections/{}", stored.id))));
    }
    let named = match (known.form.get("owner_iss"), known.form.get("owner_sub")) {
        (None, None) => None,
        (Some(iss), Some(sub)) => Some(Principal::new(iss, sub)),
        _ => return Err(Refusal::Malformed("Issuer and name of the owner belong together").into()),
    };
    if named.is_some() && named != own {
        known.require_fresh()?;
    }
    let request = NewConnection {
        provider: provider.id.clone(),
        name: known.form.get("name").map(str::to_owned),
        owner: named.or(own),
        credential: Some(import),
        scopes: None,
        connection: None,
    };
    let stored = vault::create(&known.context, vault, &request).await?.value;
    Ok(PageAnswer::See(known.url(&format!("/console/connections/{}", stored.id))))
}

/// The caller's own authorization that is under way for a connection.
async fn under_way(known: &ConsoleRequest<'_>, id: &str) -> Result<Option<OpenAuthorization>, PageError> {
    let all = vault::open_authorizations(&known.context).await?;
    Ok(all.into_iter().find(|one| one.connection == id))
}

pub(super) async fn finish_page(incoming: Incoming) -> HttpResponse {
    serve(incoming, async |known| {
        let id = known.segment("id");
        let body = match under_way(&known, &id).await? {
            Some(one) => finish_body(&known, &one, None)?,
            // It is finished, if the connection is there.
            None => {
                let one = vault::show(&known.context, &id).await?;
                html! {
                    (back(&known))
                    h1 { "Nothing waits for a code" }
                    p { a href=(known.url(&format!("/console/connections/{}", one.id))) { "See the connection" } }
                }
            }
        };
        Ok(PageAnswer::Shown(ConsolePage::new("Finish a connection", body)))
    })
    .await
}

fn finish_body(
    known: &ConsoleRequest<'_>,
    one: &OpenAuthorization,
    problem: Option<&str>,
) -> Result<Markup, Fault> {
    let target = finish_url(known, &one.connection);
    Ok(html! {
        (back(known))
        h1 { "Finish the connection to " bdi { (one.provider) } }
        p {
            @if one.has_code { "Another browser came back from the provider, and shows a code. " }
            @else { "No browser has come back from the provider yet. If another browser does, it shows a code. " }
            "Type it here until " (words::instant(&rfc3339(one.expires_at), known.context.now)) "."
        }
        p.note { "Type only a code that you see on a screen of your own. A code that someone sends you connects their account as yours." }
        form method="post" action=(target) autocomplete="off" {
            (known.hidden(&target)?)
            label.field { "Code" input name="code" required autocomplete="off" size="20" maxlength="40" autofocus aria-invalid=[problem.map(|_| "true")] aria-describedby=[problem.map(|_| "code-problem")]; }
            @if let Some(problem) = problem { p.bad #code-problem { span.mark aria-hidden="true" { "✗" } " " (problem) } }
            div.moves { button.primary type="submit" { "Finish" } }
        }
    })
}

pub(super) async fn finish(incoming: Incoming) -> HttpResponse {
    serve(incoming, async |known| {
        let id = known.segment("id");
        let code = SecretString::from(known.form.get("code").unwrap_or_default().to_owned());
        match vault::finish(known.app, &known.context, &id, code).await {
            Ok(_) => Ok(PageAnswer::See(known.url(&format!("/console/connections/{id}")))),
            Err(Error::Refused(Refusal::NotFound)) => {
                // A wrong code leaves the authorization, unless it was one too many.
                let one = under_way(&known, &id).await?.ok_or(Refusal::NotFound)?;
                let problem =
                    "This code does not fit. After five wrong codes, the connection has to be begun again.";
                let body = finish_body(&known, &one, Some(problem))?;
                let status = StatusCode::UNPROCESSABLE_ENTITY;
                Ok(PageAnswer::Shown(ConsolePage { status, ..ConsolePage::new("Finish a connection", body) }))
            }
            Err(error) => Err(error.into()),
        }
    })
    .await
}
