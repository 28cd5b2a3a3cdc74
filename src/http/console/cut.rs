//! `/console/delegations/{id}/cut`: what a revocation affects and when it is known where, the revocation, and what it
//! affected.

use actix_web::HttpResponse;
use actix_web::http::StatusCode;
use maud::{Markup, html};
use time::{Duration, OffsetDateTime};

use super::error_page::PageError;
use super::frame::{ConsolePage, is_fragment};
use super::guard::{ConsoleRequest, Incoming, PageAnswer, serve};
use super::links::{event_path, form_encoded};
use super::words;
use crate::domain::audit::Action;
use crate::domain::audit::filter::Filter;
use crate::domain::delegation::DelegationState;
use crate::domain::delegation::impact::Impact;
use crate::domain::delegation::view::View;
use crate::platform::clock::rfc3339;
use crate::platform::fault::Fault;
use crate::services::audit::query::{self, AuditQuery};
use crate::services::delegations::{self, Affected};
use crate::services::principals::{RevocationSubject, show_impact};

const TYPE_IT: &str =
    "This affects many delegations or tokens. Type the id of the agent as it is shown. Nothing was cut.";

pub(super) async fn show(incoming: Incoming) -> HttpResponse {
    serve(incoming, async |known| {
        let (one, impact) = subject(&known).await?;
        if matches!(one.state, DelegationState::Revoked | DelegationState::Expired) {
            let delegation = known.url(&format!("/console/delegations/{}", one.id));
            let body = html! {
                h1 { bdi { (one.delegate) } " has ended" }
                p { (words::state(one.state)) ". There is nothing left to cut." }
                (log_of(&known, &one).await?)
                p { a href=(delegation) data-back { "See the delegation" } }
            };
            return Ok(PageAnswer::Shown(page(&one, body)));
        }
        Ok(PageAnswer::Shown(page(&one, body(&known, &one, &impact, None)?)))
    })
    .await
}

async fn subject(known: &ConsoleRequest<'_>) -> Result<(View, Impact), PageError> {
    let one = delegations::show(&known.context, &known.segment("id")).await?;
    let impact = show_impact(&known.context, &RevocationSubject::Delegation(one.id.clone())).await?;
    Ok((one, impact))
}

fn page(one: &View, body: Markup) -> ConsolePage {
    ConsolePage::new(format!("Cut {}", one.delegate), body)
}

/// `wrong` says why the form was not accepted; its values stay.
fn body(
    known: &ConsoleRequest<'_>,
    one: &View,
    impact: &Impact,
    wrong: Option<&str>,
) -> Result<Markup, Fault> {
    let page = known.url(&format!("/console/delegations/{}", one.id));
    let target = format!("{page}/cut");
    let at_least = if impact.at_least { "at least " } else { "" };
    let typed = wrong.and_then(|_| known.form.get("typed"));
    let reason = wrong.and_then(|_| known.form.get("reason"));
    let described = wrong.map(|_| "wrong");
    Ok(html! {
        p { a href=(page) data-back { "Back to the delegation" } }
        h1 { "Cut " bdi { (one.delegate) } }
        p {
            "Ends " (at_least) (words::count(impact.delegations, "delegation")) " of " (at_least) (words::count(impact.agents, "agent")) " and " (at_least) (words::count(impact.tokens, "token"))
            @if !impact.audiences.is_empty() { " for " (words::names(Some(&impact.audiences), "")) }
            "."
        }
        (agents(known, impact))
        (relying_parties(known, impact))
        form method="post" action=(target) {
            (known.hidden(&target)?)
            @if impact.is_large() {
                label.field {
                    "This affects many delegations or tokens. Type the agent's id: " code { (one.delegate) }
                    input name="typed" required autocomplete="off" value=[typed] aria-invalid=[wrong.map(|_| "true")] aria-describedby=[described];
                }
                @if let Some(wrong) = wrong { p.bad #wrong { (wrong) } }
            }
            label.field { "Why (optional, for the log)" input name="reason" maxlength="500" size="40" value=[reason]; }
            div.moves { button.danger type="submit" data-move="x" { "Cut " (impact.delegations) } a href=(page) { "Cancel" } }
        }
    })
}

fn agents(known: &ConsoleRequest<'_>, impact: &Impact) -> Markup {
    let named = i64::try_from(impact.first_agents.len()).unwrap_or(i64::MAX);
    html! {
        @if !impact.first_agents.is_empty() {
            p {
                "Agents: "
                @for (place, id) in impact.first_agents.iter().enumerate() {
                    @if place > 0 { ", " }
                    a href=(known.url(&format!("/console/agents/{}", form_encoded(id)))) { bdi { (id) } }
                }
                @if impact.agents > named { ", … " (impact.agents - named) " more" }
                "."
            }
        }
    }
}

/// When relying parties refuse the tokens, if it is cut now.
fn relying_parties(known: &ConsoleRequest<'_>, impact: &Impact) -> Markup {
    let now = known.context.now;
    let lists = now + Duration::seconds(known.app.config.status.ttl.into());
    html! {
        table {
            caption { "When relying parties know" }
            thead { tr { th scope="col" { "who checks by" } th scope="col" { "refuses" } } }
            tbody {
                tr { th scope="row" { "introspection" } td { "at once" } }
                tr { th scope="row" { "status lists" } td { "by " (words::instant(&rfc3339(lists), now)) } }
                tr { th scope="row" { "signatures alone" } td { (last_token(known, impact, now)) } }
            }
        }
    }
}

fn last_token(known: &ConsoleRequest<'_>, impact: &Impact, now: OffsetDateTime) -> Markup {
    let longest = now + Duration::seconds(known.app.config.tokens.max_ttl.into());
    html! {
        @match &impact.last_token_exp {
            Some(last) => { "by " (words::instant(last, now)) ", when the last token expires" },
            None if impact.tokens == 0 => "no token is active",
            None => { "by " (words::instant(&rfc3339(longest), now)) " at the latest, when every token has expired" },
        }
    }
}

pub(super) async fn cut(incoming: Incoming) -> HttpResponse {
    serve(incoming, async |known| {
        let (one, impact) = subject(&known).await?;
        if impact.is_large() && known.form.get("typed") != Some(one.delegate.as_str()) {
            // The script keeps the form; without it, the form comes again with what was typed.
            if is_fragment(known.request) {
                return Err(PageError::Field { name: "typed", sentence: TYPE_IT });
            }
            let page = page(&one, body(&known, &one, &impact, Some(TYPE_IT))?);
            return Ok(PageAnswer::Shown(ConsolePage { status: StatusCode::UNPROCESSABLE_ENTITY, ..page }));
        }
        let reason = known.form.get("reason").filter(|reason| !reason.is_empty());
        let done = delegations::revoke(&known.context, &one.id, reason).await?;
        let body = html! {
            (done_body(&known, &one, &impact, done.value.affected.as_ref()))
            (log_of(&known, &one).await?)
        };
        Ok(PageAnswer::Shown(ConsolePage::new(format!("{} is cut", one.delegate), body)))
    })
    .await
}

/// The event of the revocation, and where the refusals that follow are.
async fn log_of(known: &ConsoleRequest<'_>, one: &View) -> Result<Markup, PageError> {
    let filter = Filter {
        delegation: Some(one.id.clone()),
        action: Some(Action::DelegationRevoked.name().to_owned()),
        ..Filter::default()
    };
    let asked = AuditQuery { filter, limit: Some(1), ..AuditQuery::default() };
    let found = query::list(&known.context, &asked).await?;
    let refusals =
        format!("{}?delegation={}&outcome=refused", known.url("/console/events"), form_encoded(&one.id));
    Ok(html! {
        p {
            @if let Some(event) = found.items.first() { a href=(known.url(&event_path(event))) { "The event of the revocation" } ", " }
            a href=(refusals) { "refusals that follow" }
        }
    })
}

/// What was affected: the counts after the revocation, which the API answers, too.
fn done_body(known: &ConsoleRequest<'_>, one: &View, impact: &Impact, affected: Option<&Affected>) -> Markup {
    let page = known.url(&format!("/console/delegations/{}", one.id));
    html! {
        h1 { bdi { (one.delegate) } " is cut" }
        @match affected {
            Some(affected) => {
                @let at_least = if affected.at_least { "at least " } else { "" };
                p { span.ok { span.mark aria-hidden="true" { "✓" } } " Ended " (at_least) (words::count(affected.delegations, "delegation")) " and " (at_least) (words::count(affected.tokens, "token")) "." }
            }
            None => p { "It has ended, with everything below. What it affected could not be counted." },
        }
        (agents(known, impact))
        (relying_parties(known, impact))
        p { a href=(page) data-back { "See the delegation" } }
    }
}
