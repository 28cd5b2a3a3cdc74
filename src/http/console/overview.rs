//! `/console`: what one can do something about.

use actix_web::HttpResponse;
use maud::{Markup, html};
use serde_json::Value;
use time::Duration;

use super::frame::ConsolePage;
use super::guard::{ConsoleRequest, Incoming, PageAnswer, serve};
use super::standing_grants::grant_path;
use super::{event_hours, log_badge, matter, who, words};
use crate::domain::audit::health::{LogHealth, LogVerdict};
use crate::domain::console::ConsoleRole;
use crate::domain::decision::MatterFilter;
use crate::domain::delegation::view::View;
use crate::domain::delegation::waiting::BoundedCount;
use crate::domain::refusal::Error;
use crate::domain::sink::SinkView;
use crate::domain::standing_grant::StandingGrantState;
use crate::domain::standing_grant::list::StandingGrantFilter;
use crate::domain::standing_grant::view::StandingGrantView;
use crate::domain::vault::ConnectionState;
use crate::platform::clock::rfc3339;
use crate::services::audit::health::health;
use crate::services::audit::hourly_counts::{self, CountedPeriod, HourlyEvents};
use crate::services::delegations::{self, MatterScope, WaitingView};
use crate::services::page::{Page, PageRequest};
use crate::services::vault::{self, ConnectionQuery, ConnectionView};
use crate::services::{console, sinks, standing_grants};

/// Maximum number of rows in each part of the page.
const SHOWN: u32 = 10;

/// The parts of the page; what the person may not see is empty.
#[derive(Default)]
struct Parts {
    waiting: BoundedCount,
    matters: Vec<WaitingView>,
    reconnect: Vec<ConnectionView>,
    ending: Vec<View>,
    /// Suspended, or ending within a week.
    grants: Vec<StandingGrantView>,
    /// Ids of sinks that do not deliver.
    sinks: Vec<String>,
    /// Only where the log needs attention.
    log: Option<std::sync::Arc<LogHealth>>,
    /// Of the last 24 hours; an error while the index is far behind.
    hours: Option<Result<HourlyEvents, Error>>,
    operator: Option<Value>,
    first_steps: Option<Vec<(&'static str, bool)>>,
}

impl Parts {
    fn is_empty(&self) -> bool {
        let lists = self.reconnect.is_empty() && self.ending.is_empty() && self.sinks.is_empty();
        let lists = lists && self.grants.is_empty();
        lists && self.waiting.number == 0 && self.log.is_none() && self.operator.is_none()
    }
}

pub(super) async fn show(incoming: Incoming) -> HttpResponse {
    serve(incoming, async |known| {
        let parts = parts(&known).await?;
        Ok(PageAnswer::Shown(ConsolePage::new("Overview", body(&known, &parts))))
    })
    .await
}

async fn parts(known: &ConsoleRequest<'_>) -> Result<Parts, Error> {
    let ctx = &known.context;
    let mut parts = Parts { waiting: console::count_waiting(ctx).await?, ..Parts::default() };
    if !known.has_role(ConsoleRole::Auditor) {
        parts.matters = matters(known).await?;
        parts.reconnect = to_reconnect(known).await?.items;
        parts.ending = console::ending(ctx).await?;
        parts.grants = grants(known).await?;
    }
    if !known.has_role(ConsoleRole::User) {
        let log = health(known.app, ctx.now).await;
        parts.log = Some(log).filter(|log| log.verdict != LogVerdict::Consistent(Vec::new()));
        let all = sinks::list(ctx).await?;
        let fails = |one: &SinkView| one.attempts > 0 || (!one.enabled && one.disabled_reason.is_some());
        parts.sinks = all.items.into_iter().filter(fails).map(|one| one.id).collect();
        parts.hours = Some(hourly_counts::count(ctx, CountedPeriod::default()).await);
    }
    if ctx.caller.administers() {
        parts.operator = console::operator_entered(ctx).await?;
        parts.first_steps = console::first_steps(ctx).await?;
    }
    Ok(parts)
}

/// The newest of what the person can decide.
async fn matters(known: &ConsoleRequest<'_>) -> Result<Vec<WaitingView>, Error> {
    let ctx = &known.context;
    let for_users = delegations::may_decide_for_users(ctx);
    let scope = if for_users { MatterScope::AllDelegators } else { MatterScope::Own };
    let page = PageRequest { cursor: None, limit: Some(SHOWN) };
    Ok(delegations::waiting(ctx, scope, &MatterFilter::default(), &page).await?.items)
}

async fn to_reconnect(known: &ConsoleRequest<'_>) -> Result<Page<ConnectionView>, Error> {
    let query = ConnectionQuery {
        state: Some(ConnectionState::NeedsReconnect),
        page: PageRequest { cursor: None, limit: Some(SHOWN) },
        ..ConnectionQuery::default()
    };
    vault::list(&known.context, &query).await
}

/// Standing grants whose user can do something about them: those that are suspended, and those that end within a week.
async fn grants(known: &ConsoleRequest<'_>) -> Result<Vec<StandingGrantView>, Error> {
    let soon = known.context.now + Duration::days(7);
    let suspended = StandingGrantFilter { state: Some(StandingGrantState::Suspended), ..Default::default() };
    let state = Some(StandingGrantState::Active);
    let ending = StandingGrantFilter { state, ends_before: Some(soon), ..Default::default() };
    let page = PageRequest { cursor: None, limit: Some(SHOWN) };
    let mut found = standing_grants::list(&known.context, &suspended, &page).await?.items;
    found.extend(standing_grants::list(&known.context, &ending, &page).await?.items);
    Ok(found)
}

fn body(known: &ConsoleRequest<'_>, parts: &Parts) -> Markup {
    let now = known.context.now;
    html! {
        h1 { "Overview" }
        @if let Some(event) = &parts.operator { (operator(event, known)) }
        @if parts.is_empty() {
            p { span.ok { span.mark aria-hidden="true" { "✓" } " Nothing waits for you." } " Checked at " (words::instant(&rfc3339(now), now)) "." }
        }
        @if parts.waiting.number > 0 {
            h2 { "Waits for a decision" }
            p { a href=(known.url("/console/approvals")) { (words::bounded(&parts.waiting)) @if parts.waiting.number == 1 { " approval" } @else { " approvals" } } }
            @if !parts.matters.is_empty() {
                table.rows {
                    thead { tr { th { "agent" } th { "kind" } th { "for" } th { "asked" } } }
                    tbody {
                        @for one in &parts.matters {
                            tr data-row {
                                td data-label="agent" { a href=(matter::page_of(known, one)) { bdi { (matter::agent_of(one)) } } }
                                td data-label="kind" { (matter::kind_name(one.kind)) }
                                td data-label="for" { (who::link(known, &one.delegation.delegator)) }
                                td data-label="asked" { (words::instant(matter::asked_at(one), now)) }
                            }
                        }
                    }
                }
            }
        }
        @if !parts.reconnect.is_empty() {
            h2 { "Has to be connected again" }
            ul {
                @for one in &parts.reconnect {
                    li { a href=(known.url(&format!("/console/connections/{}", one.id))) { bdi { (one.provider) } } " of " (who::link(known, &one.owner)) }
                }
            }
        }
        @if !parts.grants.is_empty() {
            h2 { "Standing grants that are suspended, or end within a week" }
            ul {
                @for one in &parts.grants {
                    li {
                        a href=(known.url(&grant_path(&one.id))) { bdi { (words::visible(&one.client_id)) } } " for " (who::link(known, &one.grantor))
                        ": " (words::grant_state(one.state)) ", ends " (words::instant(&one.expires_at, now))
                    }
                }
            }
        }
        @if !parts.ending.is_empty() {
            h2 { "In use, and ends within a day" }
            table.rows {
                thead { tr { th { "agent" } th { "for" } th { "scopes" } th { "ends" } } }
                tbody {
                    @for one in &parts.ending {
                        tr data-row {
                            td data-label="agent" { a href=(known.url(&format!("/console/delegations/{}", one.id))) { bdi { (one.delegate) } } }
                            td data-label="for" { (who::link(known, &one.delegator)) }
                            td data-label="scopes" { (words::names(one.scopes.as_ref(), "all")) }
                            td data-label="ends" { (words::instant(&one.expires_at, now)) }
                        }
                    }
                }
            }
        }
        @if let Some(log) = &parts.log {
            h2 { "The log" }
            (log_badge::explained(log, &known.app.issuer, now))
        }
        @if !parts.sinks.is_empty() {
            h2 { "Sinks that do not deliver" }
            @for id in &parts.sinks { p { code { (id) } ": read the error with " code { "actchain sink show " (id) } "." } }
        }
        @match &parts.hours {
            Some(Ok(counts)) => (event_hours::show(known, counts)),
            Some(Err(_)) => p.note { "What happened in the last 24 hours cannot be counted at present." },
            None => {}
        }
        @if let Some(steps) = &parts.first_steps { (first_steps(known, steps)) }
    }
}

fn operator(event: &Value, known: &ConsoleRequest<'_>) -> Markup {
    let text = |name: &str| event.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
    html! {
        p.note {
            span.warn { span.mark aria-hidden="true" { "!" } " An operator entered" }
            " by a link from the shell at " (words::instant(&text("at"), known.context.now)) ". It is event "
            code { (event.get("seq").map(Value::to_string).unwrap_or_default()) } " of the log."
        }
    }
}

/// The first exchange of the README, each step with its command.
fn first_steps(known: &ConsoleRequest<'_>, steps: &[(&'static str, bool)]) -> Markup {
    let issuer = &known.app.issuer;
    html! {
        h2 { "First steps" }
        p { "This server has exchanged no token yet. The example has two agents and a delegation between them." }
        ol.steps {
            @for (action, is_done) in steps {
                @let (name, command) = step(action, issuer);
                li {
                    @if *is_done { span.ok { span.mark aria-hidden="true" { "✓" } " done: " } }
                    (name)
                    pre tabindex="0" { (command) }
                    button.copy type="button" data-copy=(command) { "copy" }
                }
            }
        }
    }
}

/// Name and command of a first step.
fn step(action: &str, issuer: &str) -> (&'static str, String) {
    let token = format!("{issuer}/oauth/token");
    match action {
        "client.changed" => (
            "Declare two agents and a delegation",
            "actchain apply -f examples/first-exchange.yaml".to_owned(),
        ),
        "oauth.token.issued" => (
            "Get a token for the first agent",
            format!(
                "TOKEN=$(curl -s {token} -u assistant:assistant-secret-0123456789 \\\n    -d grant_type=client_credentials | sed -E 's/.*\"access_token\":\"([^\"]+)\".*/\\1/')"
            ),
        ),
        "oauth.token.exchanged" => (
            "Exchange it for a token of the second agent",
            format!(
                "curl -s {token} -u mail-bot:mail-bot-secret-0123456789 \\\n    -d grant_type=urn:ietf:params:oauth:grant-type:token-exchange \\\n    -d subject_token=$TOKEN \\\n    -d subject_token_type=urn:ietf:params:oauth:token-type:access_token"
            ),
        ),
        _ => ("Revoke the delegation", "actchain delegation revoke assistant-to-mail-bot".to_owned()),
    }
}
