//! `/console/standing-grants/{id}`: one standing grant, what happened under it, and what its user can do: confirm the keys of
//! the agent, renew, revoke.

use std::collections::BTreeSet;

use actix_web::HttpResponse;
use maud::{Markup, html};
use serde_json::Value;

use super::error_page::PageError;
use super::frame::ConsolePage;
use super::guard::{ConsoleRequest, Incoming, PageAnswer, serve};
use super::links::event_path;
use super::standing_grants::{GRANTS_PATH, each, grant_path};
use super::{live, who, words};
use crate::domain::audit::Action;
use crate::domain::audit::filter::Filter;
use crate::domain::delegation::impact::Impact;
use crate::domain::refusal::{Error, Refusal, catalogue};
use crate::domain::standing_grant::view::StandingGrantView;
use crate::domain::standing_grant::{GrantCreator, KeySuspicion, StandingGrantState};
use crate::platform::fault::Fault;
use crate::services::audit::query::{self, AuditQuery, LogPage};
use crate::services::console::{LiveLog, LogRows};
use crate::services::standing_grants::{self, KeyConfirmation, StandingGrantDetail};

/// Events that the page shows.
const EVENTS: usize = 20;
/// The prefix of the fields that confirm a key.
const KEY_FIELD: &str = "key:";
/// Later ends that are offered, in seconds, with their names.
const ENDS: [(u32, &str); 3] = [(86_400, "1 day"), (7 * 86_400, "7 days"), (30 * 86_400, "30 days")];

pub(super) async fn show(incoming: Incoming) -> HttpResponse {
    serve(incoming, async |known| {
        let one = standing_grants::show(&known.context, &known.segment("id")).await?;
        let impact = standing_grants::impact(&known.context, &one.grant.id).await?;
        let filter = Filter { standing_grant: Some(one.grant.id.clone()), ..Filter::default() };
        let asked = AuditQuery { filter, limit: Some(EVENTS), ..AuditQuery::default() };
        let found = query::list(&known.context, &asked).await?;
        let seen_from = match one.grant.state {
            // Another cause is a request of who changed the registration.
            StandingGrantState::Suspended if came_with_key(&one.grant) => seen_from(&known, &one.grant.id).await?,
            _ => None,
        };
        let renewals = renewals(&known, &one.grant.id).await?;
        let body = html! {
            p { a href=(known.url(GRANTS_PATH)) data-back { "Standing grants" } }
            h1 { bdi { (words::visible(&one.grant.client_id)) } " may act for " bdi { (words::visible(&one.grant.grantor.sub)) } " without a click" }
            p { (words::grant_state(one.grant.state)) }
            (facts(&known, &one))
            @if one.grant.state == StandingGrantState::Suspended { (confirm(&known, &one, &impact, seen_from.as_deref())?) }
            @if one.grant.state == StandingGrantState::Active { (renewal(&known, &one)?) }
            @if matches!(one.grant.state, StandingGrantState::Active | StandingGrantState::Suspended) {
                div.moves { a.button.danger href={ (known.url(&grant_path(&one.grant.id))) "/revoke" } data-move="x" { "Revoke…" } }
            }
            @if !renewals.is_empty() {
                h2 { "Renewals" }
                ul { @for event in &renewals { li { (renewed(&known, event)) } } }
            }
            h2 { "Recent activity" }
            p.newer #newer role="status" {}
            (activity(&known, &found.items))
        };
        let page = ConsolePage::new(format!("Standing grant of {}", one.grant.client_id), body);
        let log = LiveLog { filter: asked.filter, size: found.size, rows: LogRows::Events };
        let feed = live::log_feed(&grant_path(&one.grant.id), &log);
        Ok(PageAnswer::Shown(ConsolePage { feed, ..page }))
    })
    .await
}

fn facts(known: &ConsoleRequest<'_>, one: &StandingGrantDetail) -> Markup {
    let (now, grant) = (known.context.now, &one.grant);
    html! {
        dl {
            dt { "user" } dd { (who::link(known, &grant.grantor)) }
            dt { "agent" } dd { bdi { (words::visible(&grant.client_id)) } }
            dt { "scopes" } dd { (words::names(Some(&grant.scopes), "")) }
            dt { "targets" } dd { (words::names(Some(&grant.audiences), "")) }
            dt { "highest capability" } dd { @match &grant.capability_ceiling { Some(ceiling) => code { (ceiling) }, None => "any capability" } }
            dt { "authorization details" } dd { @match &grant.authorization_details { Some(asked) => (words::details(asked)), None => "any details" } }
            dt { "each delegation at most" } dd { (each(grant)) }
            dt { "confirmed keys" } dd { (keys(&grant.keys)) }
            dt { "granted" } dd {
                (words::instant(&grant.created_at, now))
                @match grant.created_by {
                    GrantCreator::User => {},
                    GrantCreator::Admin => span.warn { " by an administrator, in place of the user" },
                    GrantCreator::Operator => span.warn { " by an operator, in place of the user" },
                }
            }
            dt { "ends" } dd { (words::deadline(&grant.expires_at, now)) }
            @if let Some(at) = &grant.revoked_at { dt { "revoked" } dd { (words::instant(at, now)) } }
            dt { "last used" } dd { @match &grant.last_used_at { Some(at) => (words::instant(at, now)), None => span.dim { "never" } } }
        }
    }
}

fn keys(keys: &[String]) -> Markup {
    html! { @for (place, jkt) in keys.iter().enumerate() { @if place > 0 { ", " } (words::id(jkt)) } }
}

/// The keys that were confirmed, and those that can be: the person ticks what is confirmed from now on.
fn confirm(
    known: &ConsoleRequest<'_>,
    one: &StandingGrantDetail,
    impact: &Impact,
    seen_from: Option<&str>,
) -> Result<Markup, Fault> {
    let Some(suspension) = &one.grant.suspension else { return Ok(html! {}) };
    let target = format!("{}/confirm", known.url(&grant_path(&one.grant.id)));
    let removed = suspension.cause == KeySuspicion::KeyRemoved;
    let seen = suspension.seen_key.iter().filter(|_| !removed);
    let choices: BTreeSet<&String> = one.registered_keys.iter().chain(&one.grant.keys).chain(seen).collect();
    Ok(html! {
        section aria-labelledby="confirm" {
            h2 #confirm { span.bad { span.mark aria-hidden="true" { "✗" } " " (suspicion(suspension.cause)) } }
            p { "Since " (words::instant(&suspension.at, known.context.now)) " nothing passes. Confirm only keys that you know to be those of the agent." }
            dl {
                dt { "confirmed until now" } dd { (keys(&one.grant.keys)) }
                @if let Some(jkt) = &suspension.seen_key { dt { @if removed { "removed key" } @else { "new key" } } dd { (words::id(jkt)) } }
                @if let Some(ip) = seen_from { dt { "from" } dd { (words::visible(ip)) } }
                dt { "registered at present" } dd { @if one.registered_keys.is_empty() { "none" } @else { (keys(&one.registered_keys)) } }
            }
            p { "A confirmation lets " (reach(impact)) " work again." }
            form method="post" action=(target) {
                (known.hidden(&target)?)
                input type="hidden" name="replaces" value=(one.grant.keys.join(" "));
                input type="hidden" name="client_version" value=[one.client_version];
                fieldset {
                    legend { "Keys of the agent from now on" }
                    @for jkt in choices {
                        label {
                            input type="checkbox" name={ (KEY_FIELD) (jkt) } value="on";
                            code { (jkt) }
                            @if one.grant.keys.contains(jkt) { span.dim { " confirmed before" } }
                            @if suspension.seen_key.as_ref() == Some(jkt) { span.warn { " seen since" } }
                        }
                        br;
                    }
                }
                div.moves { button.primary type="submit" data-move="a" { "Confirm the new key" } }
            }
        }
    })
}

fn suspicion(cause: KeySuspicion) -> &'static str {
    match cause {
        KeySuspicion::KeyNotPinned => "The agent came with a key that you have not confirmed",
        KeySuspicion::RegistrationChanged => {
            "The registered keys of the agent changed, or how it authenticates"
        }
        KeySuspicion::KeyRemoved => "A confirmed key of the agent was removed",
        KeySuspicion::BackupRestored => "A backup was put back: a later revocation can be lost",
    }
}

/// What came of the grant and has not ended.
fn reach(impact: &Impact) -> String {
    let at_least = if impact.at_least { "at least " } else { "" };
    let (delegations, tokens) =
        (words::count(impact.delegations, "delegation"), words::count(impact.tokens, "token"));
    format!("{at_least}{delegations} and {tokens}")
}

fn renewal(known: &ConsoleRequest<'_>, one: &StandingGrantDetail) -> Result<Markup, Fault> {
    let target = format!("{}/renew", known.url(&grant_path(&one.grant.id)));
    let longest = known.app.config.standing_grants.max_ttl;
    Ok(html! {
        h2 #renew { "Renew" }
        p { "It ends " (words::instant(&one.grant.expires_at, known.context.now)) ". Requests within its limits become active without a click until the new end." }
        form method="post" action=(target) {
            (known.hidden(&target)?)
            fieldset {
                legend { "From now on for" }
                @for (place, (seconds, name)) in ENDS.iter().filter(|(seconds, _)| *seconds < longest).enumerate() {
                    label { input type="radio" name="expires_in" value=(seconds) checked[place == 0]; (name) } " "
                }
                label { input type="radio" name="expires_in" value=(longest); "the longest: " (words::duration(time::Duration::seconds(longest.into()))) }
            }
            div.moves { button type="submit" { "Renew" } }
        }
    })
}

/// The newest events of a standing grant with this action.
async fn newest(
    known: &ConsoleRequest<'_>,
    grant: &str,
    action: Action,
    limit: usize,
) -> Result<LogPage<Value>, PageError> {
    let (standing_grant, action) = (Some(grant.to_owned()), Some(action.name().to_owned()));
    let filter = Filter { standing_grant, action, ..Filter::default() };
    Ok(query::list(&known.context, &AuditQuery { filter, limit: Some(limit), ..AuditQuery::default() })
        .await?)
}

fn came_with_key(one: &StandingGrantView) -> bool {
    one.suspension.as_ref().is_some_and(|suspension| suspension.cause == KeySuspicion::KeyNotPinned)
}

/// The address from which the request came that suspended the grant.
async fn seen_from(known: &ConsoleRequest<'_>, grant: &str) -> Result<Option<String>, PageError> {
    let found = newest(known, grant, Action::StandingGrantSuspended, 1).await?;
    let ip = found.beside.personal.values().next().and_then(|personal| personal.data.get("ip")?.as_str());
    Ok(ip.map(str::to_owned))
}

async fn renewals(known: &ConsoleRequest<'_>, grant: &str) -> Result<Vec<Value>, PageError> {
    Ok(newest(known, grant, Action::StandingGrantRenewed, EVENTS).await?.items)
}

fn renewed(known: &ConsoleRequest<'_>, event: &Value) -> Markup {
    let time = |at: &str| {
        words::instant(event.pointer(at).and_then(Value::as_str).unwrap_or_default(), known.context.now)
    };
    html! { a href=(known.url(&event_path(event))) { (time("/at")) } ": until " (time("/detail/to")) }
}

/// The sentence of a refusal, unless its limit says it.
fn refused(event: &Value) -> Option<&'static str> {
    let reason = event.get("reason")?.as_str()?;
    let says_limit = event.pointer("/detail/limit").is_some();
    catalogue::find(reason).filter(|_| !says_limit).map(|entry| entry.sentence)
}

/// The newest events: used and refused, with the limit in words.
fn activity(known: &ConsoleRequest<'_>, events: &[Value]) -> Markup {
    let text =
        |event: &Value, at: &str| event.pointer(at).and_then(Value::as_str).unwrap_or_default().to_owned();
    html! {
        @if events.is_empty() { p.dim { "Nothing yet." } } @else {
            table.rows {
                thead { tr { th { "time" } th { "what" } th { "delegation" } } }
                tbody {
                    @for event in events {
                        tr data-row {
                            td data-label="time" { a href=(known.url(&event_path(event))) { (words::instant(&text(event, "/at"), known.context.now)) } }
                            td data-label="what" { (what(&text(event, "/action"), &text(event, "/detail/limit"))) @if let Some(entry) = refused(event) { ": " (entry) } }
                            td data-label="delegation" {
                                @let id = text(event, "/delegation_id");
                                @if id.is_empty() { span.dim { "–" } } @else { a href=(known.url(&format!("/console/delegations/{id}"))) { code { (words::short(&id)) } } }
                            }
                        }
                    }
                }
            }
        }
    }
}

fn what(action: &str, limit: &str) -> Markup {
    let exceeded = match limit {
        "expired" => "refused: the grant had expired",
        "suspended" => "refused: the keys of the agent are not confirmed",
        "keys" => "refused: it came with a key that is not confirmed",
        "scopes" => "refused: it asked for other scopes",
        "audiences" => "refused: it asked for other targets",
        "authorization_details" => "refused: it asked for more authorization details",
        "offline_access" => "refused: it asked to work while the user is away",
        _ => "refused: it asked for a higher capability",
    };
    html! {
        @match action {
            "standing_grant.used" => span.ok { span.mark aria-hidden="true" { "✓" } " used: a request became active" },
            "standing_grant.rejected" => span.bad { span.mark aria-hidden="true" { "✗" } " " (exceeded) },
            "oauth.token.exchanged" => "a token was issued",
            "oauth.token.refreshed" => "a token was issued without the user",
            "oauth.token.refused" => span.bad { span.mark aria-hidden="true" { "✗" } " a token was refused" },
            "delegation.created" => "asked for",
            "delegation.activated" => "became active",
            "standing_grant.created" => "granted",
            "standing_grant.renewed" => "renewed",
            "standing_grant.suspended" => span.bad { span.mark aria-hidden="true" { "✗" } " suspended: key changed" },
            "standing_grant.revalidated" => "keys confirmed",
            "standing_grant.revoked" => "revoked",
            "standing_grant.expired" => "expired",
            "vault.token.retrieved" => "a credential was taken from the vault",
            "vault.proxy.called" => "a request was sent with a credential of the vault",
            "delegation.revoked" => "a delegation was revoked",
            "delegation.expired" => "a delegation expired",
            "delegation.renewed" => "a delegation was renewed",
            "standing_grant.renewal_refused" => span.bad { span.mark aria-hidden="true" { "✗" } " a renewal was refused" },
            "standing_grant.revocation_refused" => span.bad { span.mark aria-hidden="true" { "✗" } " a revocation was refused" },
            "standing_grant.revalidation_refused" => span.bad { span.mark aria-hidden="true" { "✗" } " a confirmation was refused" },
            other => code { (other) },
        }
    }
}

pub(super) async fn confirm_keys(incoming: Incoming) -> HttpResponse {
    serve(incoming, async |known| {
        known.require_fresh()?;
        let id = known.segment("id");
        let keys: Vec<String> = known.form.names_after(KEY_FIELD).into_iter().map(str::to_owned).collect();
        if keys.is_empty() {
            return Err(Refusal::Malformed("Tick the keys that you confirm").into());
        }
        let replaces = known.form.get("replaces").unwrap_or_default().split(' ').map(str::to_owned).collect();
        // Without what was shown, nothing is confirmed.
        let shown = known.form.get("client_version").and_then(|text| text.parse().ok());
        let client_version = Some(shown.ok_or(Refusal::RequestChanged)?);
        let confirmation = KeyConfirmation { keys, replaces, client_version };
        match standing_grants::revalidate(&known.context, &id, &confirmation).await {
            Err(Error::Refused(Refusal::RequestChanged)) => {
                let present = standing_grants::show(&known.context, &id).await?;
                Err(PageError::Changed(
                    html! { p { "These keys are confirmed at present: " (keys_of(&present)) } },
                ))
            }
            Err(error) => Err(error.into()),
            Ok(_) => Ok(PageAnswer::See(known.url(&grant_path(&id)))),
        }
    })
    .await
}

fn keys_of(one: &StandingGrantDetail) -> Markup {
    keys(&one.grant.keys)
}

pub(super) async fn renew(incoming: Incoming) -> HttpResponse {
    serve(incoming, async |known| {
        known.require_fresh()?;
        let id = known.segment("id");
        let seconds = known.form.get("expires_in").and_then(|text| text.parse().ok());
        let seconds = seconds.ok_or(Refusal::Malformed("Choose one of the offered ends"))?;
        standing_grants::renew(&known.context, &id, seconds).await?;
        Ok(PageAnswer::See(known.url(&grant_path(&id))))
    })
    .await
}

/// What ends with a standing grant, before it is revoked.
pub(super) async fn show_revocation(incoming: Incoming) -> HttpResponse {
    serve(incoming, async |known| {
        let one = standing_grants::show(&known.context, &known.segment("id")).await?;
        let impact = standing_grants::impact(&known.context, &one.grant.id).await?;
        let page = known.url(&grant_path(&one.grant.id));
        let target = format!("{page}/revoke");
        let body = html! {
            p { a href=(page) data-back { "Back to the standing grant" } }
            h1 { "Revoke the standing grant of " bdi { (words::visible(&one.grant.client_id)) } }
            p { "Ends " (reach(&impact)) " that came of it, at once. Later requests of the agent wait for a decision." }
            @if !impact.first_agents.is_empty() { p { "Agents: " (words::names(Some(&impact.first_agents), "")) } }
            @if !impact.audiences.is_empty() { p { "Targets of its tokens: " (words::names(Some(&impact.audiences), "")) } }
            form method="post" action=(target) {
                (known.hidden(&target)?)
                div.moves { button.danger type="submit" data-move="x" { "Revoke" } a href=(page) { "Cancel" } }
            }
        };
        Ok(PageAnswer::Shown(ConsolePage::new("Revoke a standing grant", body)))
    })
    .await
}

pub(super) async fn revoke(incoming: Incoming) -> HttpResponse {
    serve(incoming, async |known| {
        let id = known.segment("id");
        standing_grants::revoke(&known.context, &id).await?;
        Ok(PageAnswer::See(known.url(&grant_path(&id))))
    })
    .await
}
