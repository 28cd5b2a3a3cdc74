//! `/console/agents/new`: a form that writes an agent's entry of a manifest, and the plan of it. Applying stays with the
//! file.

use actix_web::HttpResponse;
use maud::{Markup, html};

use super::frame::ConsolePage;
use super::guard::{ConsoleRequest, Incoming, PageAnswer, serve};
use super::words;
use crate::domain::client::{AuthMethod, GrantType};
use crate::domain::refusal::Error;
use crate::platform::fault::Fault;
use crate::services::agent_draft::{AgentDraft, DraftPlan, plan_of};
use crate::services::apply::{Change, Line};

const AUTH: [(AuthMethod, &str); 4] = [
    (AuthMethod::PrivateKeyJwt, "a key of its own, by signed assertions"),
    (AuthMethod::ClientSecretBasic, "a secret, in the header"),
    (AuthMethod::ClientSecretPost, "a secret, in the form"),
    (AuthMethod::None, "nothing but its DPoP key"),
];
const GRANTS: [GrantType; 3] =
    [GrantType::TokenExchange, GrantType::ClientCredentials, GrantType::RefreshToken];

pub(super) async fn show(incoming: Incoming) -> HttpResponse {
    serve(incoming, async |known| {
        Ok(PageAnswer::Shown(ConsolePage::new("Set up an agent", body(&known, None)?)))
    })
    .await
}

/// Shows the manifest and its plan. Nothing is changed or recorded.
pub(super) async fn plan(incoming: Incoming) -> HttpResponse {
    serve(incoming, async |known| {
        let drafted = drafted(&known).await?;
        Ok(PageAnswer::Shown(ConsolePage::new("Set up an agent", body(&known, Some(&drafted))?)))
    })
    .await
}

/// The manifest with its plan, or why the form does not make one.
enum Drafted {
    Planned(DraftPlan),
    Refused(String),
}

async fn drafted(known: &ConsoleRequest<'_>) -> Result<Drafted, Error> {
    match draft(known) {
        Ok(draft) => Ok(Drafted::Planned(plan_of(&known.context, &known.app.vault, &draft).await?)),
        Err(why) => Ok(Drafted::Refused(why)),
    }
}

/// The fields of the form.
///
/// # Errors
/// What is missing or wrong, in words.
fn draft(known: &ConsoleRequest<'_>) -> Result<AgentDraft, String> {
    let field = |name: &str| known.form.get(name).map(str::trim).filter(|text| !text.is_empty());
    let list =
        |name: &str| field(name).iter().flat_map(|text| text.split_whitespace()).map(str::to_owned).collect();
    let auth = AUTH.iter().find(|(method, _)| Some(words::serialized(method).as_str()) == field("auth"));
    let jwks = field("jwks")
        .map(|text| serde_json::from_str(text).map_err(|_| "The keys are not JSON: paste a JWK Set"));
    let ttl = field("max_token_ttl")
        .map(|text| text.parse().map_err(|_| "The lifetime is a whole number of seconds"));
    let grants = GRANTS
        .into_iter()
        .filter(|grant| known.form.get(&format!("grant:{}", words::serialized(grant))).is_some());
    Ok(AgentDraft {
        id: field("id").ok_or("An agent needs an id")?.to_owned(),
        name: field("name").map(str::to_owned),
        auth: auth.map(|(method, _)| *method).ok_or("Choose how the agent authenticates")?,
        jwks: jwks.transpose()?,
        jwks_uri: field("jwks_uri").map(str::to_owned),
        scopes: list("scopes"),
        audiences: list("audiences"),
        grant_types: grants.collect(),
        dpop_keys: list("dpop_keys"),
        max_token_ttl: ttl.transpose()?,
    })
}

fn body(known: &ConsoleRequest<'_>, drafted: Option<&Drafted>) -> Result<Markup, Fault> {
    Ok(html! {
        p { a href=(known.url("/console/agents")) data-back { "Agents" } }
        h1 { "Set up an agent" }
        p { "The form writes the agent's entry of a manifest and says what it would change. Apply the file to make it so: the file stays the truth." }
        @match drafted {
            None => {},
            Some(Drafted::Refused(why)) => p.bad role="status" { span.mark aria-hidden="true" { "✗" } " " (why) "." },
            Some(Drafted::Planned(plan)) => (planned(plan)),
        }
        (form(known, drafted)?)
    })
}

fn planned(plan: &DraftPlan) -> Markup {
    html! {
        h2 { "Manifest" }
        pre tabindex="0" { code { (words::visible(&plan.yaml)) } }
        h2 { "Plan" }
        @match &plan.lines {
            Ok(lines) => {
                p role="status" { span.ok { span.mark aria-hidden="true" { "✓" } " It can be applied. Nothing was changed yet." } }
                ul { @for line in lines { li { (line_of(line)) } } }
                p { "Keep it as " code { "agent.yaml" } " and run:" }
                pre tabindex="0" { code { "actchain apply agent.yaml" } }
            },
            Err(why) => p.bad role="status" { span.mark aria-hidden="true" { "✗" } " It cannot be applied: " (words::visible(why)) },
        }
    }
}

fn line_of(line: &Line) -> Markup {
    let change = match line.change {
        Change::Create => "is created",
        Change::Update => "is changed",
        Change::Unchanged => "stays as it is",
    };
    html! {
        (line.kind.to_string()) " " bdi { (line.id) } " " (change)
        @if let Some(remark) = line.note.as_ref().or(line.warning.as_ref()) { " (" (words::visible(remark)) ")" }
        @if !line.members.is_empty() || !line.removed_keys.is_empty() {
            ul {
                @for member in &line.members { li { code { (words::visible(&member.to_string())) } } }
                @for jkt in &line.removed_keys { li { "The key " (words::id(jkt)) " is removed, with what was issued to it." } }
            }
        }
    }
}

fn form(known: &ConsoleRequest<'_>, drafted: Option<&Drafted>) -> Result<Markup, Fault> {
    let here = known.url("/console/agents/new");
    let before = |name: &str| known.form.get(name).unwrap_or_default();
    let registry = known.app.registry();
    let checked = |grant: GrantType| match drafted.is_some() {
        true => known.form.get(&format!("grant:{}", words::serialized(&grant))).is_some(),
        false => grant == GrantType::TokenExchange,
    };
    Ok(html! {
        form method="post" action=(here) {
            (known.hidden(&here)?)
            p { label.field { "id" input name="id" required size="40" value=(before("id")) autofocus autocomplete="off" spellcheck="false"; } }
            p { label.field { "name for people" input name="name" size="40" maxlength="100" value=(before("name")); } }
            p {
                label.field { "authenticates by"
                    select name="auth" {
                        @for (method, words) in AUTH {
                            @let name = words::serialized(&method);
                            option value=(name) selected[before("auth") == name] { (words) " (" (name) ")" }
                        }
                    }
                }
            }
            p { label.field { "URL of its keys, for signed assertions" input name="jwks_uri" type="url" size="60" value=(before("jwks_uri")); } }
            p { label.field { "or its public keys as a JWK Set" textarea name="jwks" rows="4" cols="72" spellcheck="false" { (before("jwks")) } } }
            p { label.field { "thumbprints of its DPoP keys" input name="dpop_keys" size="60" value=(before("dpop_keys")) autocomplete="off" spellcheck="false"; } }
            p { label.field { "scopes" input name="scopes" size="60" value=(before("scopes")) placeholder="mail.read mail.send"; } }
            p { label.field { "audiences" input name="audiences" size="60" value=(before("audiences")) list="resources"; } }
            datalist #resources { @for id in registry.resources.keys().filter(|id| **id != known.app.issuer) { option value=(id) {} } }
            fieldset {
                legend { "may use" }
                @for grant in GRANTS {
                    @let name = words::serialized(&grant);
                    label { input type="checkbox" name={ "grant:" (name) } checked[checked(grant)]; code { (name) } } " "
                }
            }
            p { label.field { "tokens last at most (seconds)" input name="max_token_ttl" type="number" min="1" value=(before("max_token_ttl")); } }
            div.moves { button.primary type="submit" data-move="c" { "Write the manifest" } }
        }
    })
}
