//! `/console/delegations/{id}/again`: grants an ended delegation once more, within the same limits.

use actix_web::HttpResponse;
use maud::{Markup, html};

use super::error_page::PageError;
use super::frame::ConsolePage;
use super::guard::{ConsoleRequest, Incoming, PageAnswer, serve};
use super::words;
use crate::domain::delegation::DelegationState;
use crate::domain::delegation::view::View;
use crate::domain::refusal::Refusal;
use crate::platform::fault::Fault;
use crate::services::caller::Caller;
use crate::services::delegations::{self, NewDelegation};

/// Ends that are offered: seconds and name.
const ENDS: [(u32, &str); 3] = [(3_600, "1 h"), (86_400, "1 day"), (604_800, "7 days")];
/// The beginning of the name of a scope's field.
const SCOPE_FIELD: &str = "scope:";
const OFFLINE_FIELD: &str = "offline:access";

/// Whether the person can give it again: a root delegation of the person that was active and has ended. An ephemeral agent ends with its
/// delegation.
pub(super) fn is_possible(known: &ConsoleRequest<'_>, one: &View) -> bool {
    let ended = matches!(one.state, DelegationState::Revoked | DelegationState::Expired);
    let was_active = one.activated_at.is_some();
    let own = matches!(&known.context.caller, Caller::User(user) if user.who == one.delegator);
    ended && was_active && own && one.parent.is_none() && one.ephemeral.is_none()
}

async fn ended(known: &ConsoleRequest<'_>) -> Result<View, PageError> {
    let one = delegations::show(&known.context, &known.segment("id")).await?;
    if is_possible(known, &one) { Ok(one) } else { Err(Refusal::NotFound.into()) }
}

pub(super) async fn show(incoming: Incoming) -> HttpResponse {
    serve(incoming, async |known| {
        let one = ended(&known).await?;
        let body = body(&known, &one)?;
        Ok(PageAnswer::Shown(ConsolePage::new(format!("Give {} again", one.delegate), body)))
    })
    .await
}

fn body(known: &ConsoleRequest<'_>, one: &View) -> Result<Markup, Fault> {
    let page = known.url(&format!("/console/delegations/{}", one.id));
    let target = format!("{page}/again");
    Ok(html! {
        p { a href=(page) data-back { "Back to the delegation" } }
        h1 { "Let " bdi { (one.delegate) } " act for you again" }
        p { "It had these limits. The new delegation can have less." }
        form method="post" action=(target) {
            (known.hidden(&target)?)
            fieldset {
                legend { "Scopes" }
                @match &one.scopes {
                    None => p { "All scopes that the agent is registered for." },
                    Some(scopes) => @for scope in scopes {
                        label { input type="checkbox" name={ (SCOPE_FIELD) (scope) } value="on" checked; code.scope { (words::visible(scope)) } } " "
                    },
                }
            }
            p { "At " (words::names(one.audiences.as_ref(), "every resource")) "." }
            dl {
                (words::limits(one))
                @if !one.ceremony_required_for.is_empty() { dt { "asks each time for" } dd { (words::names(Some(&one.ceremony_required_for), "")) } }
            }
            fieldset {
                legend { "For" }
                @for (place, (seconds, name)) in ENDS.iter().enumerate() {
                    label { input type="radio" name="expires_in" value=(seconds) checked[place == 0]; (name) } " "
                }
            }
            label.field { "Uses (empty: any number)" input type="number" name="max_uses" min="1" max=[one.max_uses] value=[one.max_uses]; }
            label.field { "Depth (1: it may not pass it on)" input type="number" name="max_depth" min="1" max=[one.max_depth] value=[one.max_depth]; }
            @if one.offline_access { p { label { input type="checkbox" name=(OFFLINE_FIELD) value="on" checked; "It may work while the user is away" } } }
            div.moves { button.primary type="submit" data-move="a" { "Give again" } a href=(page) { "Cancel" } }
        }
    })
}

pub(super) async fn give(incoming: Incoming) -> HttpResponse {
    serve(incoming, async |known| {
        let one = ended(&known).await?;
        known.require_fresh()?;
        let request = request(&known, &one)?;
        let made = delegations::create(&known.context, &request).await?;
        Ok(PageAnswer::See(known.url(&format!("/console/delegations/{}", made.value.id))))
    })
    .await
}

/// The limits of the form, never wider than those that were.
fn request(known: &ConsoleRequest<'_>, one: &View) -> Result<NewDelegation, PageError> {
    let number = |name: &'static str, most: Option<i64>| {
        let sentence = "Give a number from 1 to what it was.";
        let wrong = || PageError::Field { name, sentence };
        match known.form.get(name).filter(|text| !text.is_empty()) {
            None if most.is_some() => Err(wrong()),
            None => Ok(None),
            Some(text) => match text.parse::<u32>() {
                Ok(number) if number > 0 && most.is_none_or(|most| i64::from(number) <= most) => {
                    Ok(Some(number))
                }
                _ => Err(wrong()),
            },
        }
    };
    let kept: Vec<String> = known.form.names_after(SCOPE_FIELD).into_iter().map(str::to_owned).collect();
    let scopes = match &one.scopes {
        None => None,
        Some(had) if !kept.is_empty() && kept.iter().all(|scope| had.contains(scope)) => Some(kept),
        Some(had) if had.is_empty() => Some(Vec::new()),
        Some(_) => return Err(Refusal::Malformed("Keep at least one of the scopes that it had").into()),
    };
    let seconds = known.form.get("expires_in").and_then(|text| text.parse().ok());
    let seconds = seconds.filter(|seconds| ENDS.iter().any(|(known, _)| known == seconds));
    let details = one.authorization_details.as_ref().map(serde_json::to_value).transpose();
    Ok(NewDelegation {
        delegate: Some(one.delegate.clone()),
        scopes,
        audiences: one.audiences.clone(),
        authorization_details: details.map_err(|_| Fault::new("authorization details cannot be written"))?,
        capability_ceiling: one.capability_ceiling.clone(),
        ceremony_required_for: one.ceremony_required_for.clone(),
        max_uses: number("max_uses", one.max_uses)?,
        max_depth: number("max_depth", one.max_depth.map(i64::from))?,
        offline_access: one.offline_access.then(|| known.form.get(OFFLINE_FIELD).is_some()),
        expires_in: Some(seconds.ok_or(Refusal::Malformed("Choose one of the offered ends"))?),
        ..NewDelegation::default()
    })
}
