//! `/console/approvals/{id}`: one request or one use, and its decision. Approvals only narrow, and only what was shown is
//! approved.

use actix_web::HttpResponse;
use maud::html;
use uuid::Uuid;

use super::chosen::Chosen;
use super::error_page::PageError;
use super::frame::ConsolePage;
use super::guard::{ConsoleRequest, Incoming, PageAnswer, PageResult, serve};
use super::matter::decided_by;
use super::request_page::{
    CEREMONY_FIELD, MOST_CHOSEN, OFFLINE_BOX, OFFLINE_FIELD, RequestItem, SCOPE_FIELD, SHOWN_FIELD, changed,
    is_in_place_of_the_user, item_body, narrows, use_body,
};
use super::{live, who, words};
use crate::domain::ceremony::CeremonyState;
use crate::domain::delegation::DelegationState;
use crate::domain::delegation::list::DelegationFilter;
use crate::domain::delegation::view::View;
use crate::domain::refusal::{Error, Refusal};
use crate::platform::clock::rfc3339;
use crate::services::delegations::ceremonies::{self, CeremonyId, ConfirmationDecision};
use crate::services::delegations::{self, Approval, DecidedView, ShownRequest};
use crate::services::page::PageRequest;

/// Requests of the same agent that are shown beside a request.
const EARLIER: u32 = 5;
/// Uses that a page shows, newest first.
const USES: u32 = 100;
/// The boxes of the form.
const BOXES: [&str; 3] = [SCOPE_FIELD, CEREMONY_FIELD, OFFLINE_FIELD];
/// A life above this many seconds gives much.
const LONG: u32 = 86_400;

pub(super) async fn show(incoming: Incoming) -> HttpResponse {
    serve(incoming, async |known| {
        let chosen = Chosen::read(&known, &BOXES)?;
        let one = delegations::show(&known.context, &known.segment("id")).await?;
        let page = PageRequest { cursor: None, limit: Some(USES) };
        let uses = ceremonies::list(&known.context, &one.id, &page).await?.items;
        let decisions = delegations::decisions_about(&known.context, &one.id, None).await?;
        let filter = DelegationFilter {
            delegate: Some(one.delegate.clone()),
            delegator_iss: Some(one.delegator.iss.clone()),
            delegator_sub: Some(one.delegator.sub.clone()),
            ..DelegationFilter::default()
        };
        let page = PageRequest { cursor: None, limit: Some(EARLIER + 1) };
        let mut earlier = delegations::list(&known.context, &filter, &page).await?.items;
        earlier.retain(|other| other.id != one.id);
        let above = match &one.parent {
            None => None,
            Some(parent) => Some(delegations::show(&known.context, parent).await?),
        };
        let agent = delegations::asking_agent(&known.context, &one.delegate).await?;
        let item = RequestItem {
            one: &one,
            uses: &uses,
            decisions: &decisions,
            earlier: &earlier,
            above: above.as_ref(),
            agent: &agent,
            chosen: &chosen,
        };
        let body = item_body(&known, &item)?;
        let ends = uses.iter().map(|use_| use_.expires_at.as_str()).chain([one.expires_at.as_str()]);
        let page = ConsolePage::new(format!("{} asks", one.delegate), body);
        Ok(PageAnswer::Shown(ConsolePage { feed: live::deadlines_feed(ends), ..page }))
    })
    .await
}

pub(super) async fn approve(incoming: Incoming) -> HttpResponse {
    serve(incoming, async |known| {
        let one = delegations::show(&known.context, &known.segment("id")).await?;
        let shown = shown(&known);
        // Whether it gives much depends on what was shown: so it is compared here, and again by what decides.
        let present = ShownRequest::of_delegation(&one)?;
        if one.state == DelegationState::Requested && shown != present {
            return Err(changed(Some(&shown), &present));
        }
        let approval = approval(&known, &one)?;
        // What was decided before answers for itself.
        let gives = one.state == DelegationState::Requested && gives_much(&known, &one, &approval);
        if is_in_place_of_the_user(&known, &one) || gives {
            known.require_fresh_keeping(Chosen::query(&known, &BOXES))?;
        }
        match delegations::approve(&known.context, &one.id, &approval, Some(&shown)).await {
            Err(Error::Refused(Refusal::RequestChanged)) => {
                let one = delegations::show(&known.context, &one.id).await?;
                Err(changed(Some(&shown), &ShownRequest::of_delegation(&one)?))
            }
            Err(Error::Refused(Refusal::InvalidStateTransition(_))) => Err(decided(&known, &one.id).await?),
            Err(error) => Err(error.into()),
            Ok(_) => Ok(PageAnswer::See(known.url(&format!("/console/delegations/{}", one.id)))),
        }
    })
    .await
}

/// What was shown with the form. A form without it fits nothing.
fn shown(known: &ConsoleRequest<'_>) -> ShownRequest {
    known.form.get(SHOWN_FIELD).and_then(ShownRequest::parse).unwrap_or_default()
}

/// The page of a person who comes second: the present state, and who decided.
async fn decided(known: &ConsoleRequest<'_>, id: &str) -> Result<PageError, PageError> {
    let one = delegations::show(&known.context, id).await?;
    let decisions = delegations::decisions_about(&known.context, &one.id, None).await?;
    Ok(PageError::Changed(html! {
        p { "It is " (one.state.name()) " now." }
        @if let Some(newest) = decisions.first() { p { (decision(known, newest)) } }
    }))
}

/// A decision with its time.
fn decision(known: &ConsoleRequest<'_>, one: &DecidedView) -> maud::Markup {
    html! { (decided_by(&one.decision)) ", " (words::instant(&rfc3339(one.decision.decided_at), known.context.now)) "." }
}

/// Whether an approval has no end within a day, or contains the highest capability.
fn gives_much(known: &ConsoleRequest<'_>, one: &View, approval: &Approval) -> bool {
    let life = approval.expires_in.or(one.expires_in);
    life.is_none_or(|seconds| seconds > LONG) || is_highest(known, one.capability_ceiling.as_ref())
}

/// Whether a capability is the highest, or none limits it.
fn is_highest(known: &ConsoleRequest<'_>, capability: Option<&String>) -> bool {
    capability.is_none() || capability == known.app.capability_levels.names().last()
}

/// The approval of a form: a limit that the form does not narrow stays as it was asked.
fn approval(known: &ConsoleRequest<'_>, one: &View) -> Result<Approval, Refusal> {
    let number = |name: &str| match known.form.get(name) {
        None => Ok(None),
        Some(text) => match text.parse::<u32>() {
            Ok(number) if number > 0 => Ok(Some(number)),
            _ => Err(Refusal::Malformed("A limit is a number of at least 1")),
        },
    };
    let named = |prefix: &str| known.form.names_after(prefix).into_iter().map(str::to_owned).collect();
    let (kept, each_time): (Vec<String>, Vec<String>) = (named(SCOPE_FIELD), named(CEREMONY_FIELD));
    let scopes = match &one.scopes {
        // A new key has no fields: its limits stay.
        Some(asked) if narrows(one) && !asked.is_empty() && asked.len() <= MOST_CHOSEN => match kept.len() {
            0 => return Err(Refusal::Malformed("Keep at least one scope, or deny the request")),
            most if most < asked.len() || kept.iter().any(|scope| !asked.contains(scope)) => Some(kept),
            _ => None,
        },
        _ => None,
    };
    let granted = scopes.as_ref().or(one.scopes.as_ref());
    let each_time = each_time.into_iter().filter(|scope| {
        // A scope that is not granted is not used.
        granted.is_none_or(|granted| granted.contains(scope)) && !one.ceremony_required_for.contains(scope)
    });
    // A box that is not ticked removes it.
    let kept_offline = known.form.names_after(OFFLINE_FIELD).contains(&OFFLINE_BOX);
    Ok(Approval {
        ceremony_required_for: each_time.collect(),
        offline_access: (one.offline_access && narrows(one) && !kept_offline).then_some(false),
        scopes,
        max_uses: number("max_uses")?,
        max_depth: number("max_depth")?,
        expires_in: number("expires_in")?,
        ..Approval::default()
    })
}

pub(super) async fn deny(incoming: Incoming) -> HttpResponse {
    serve(incoming, async |known| {
        let id = known.segment("id");
        match delegations::deny(&known.context, &id, known.form.get("reason")).await {
            Err(Error::Refused(Refusal::InvalidStateTransition(_))) => Err(decided(&known, &id).await?),
            Err(error) => Err(error.into()),
            Ok(_) => Ok(PageAnswer::See(known.url(&format!("/console/approvals/{id}")))),
        }
    })
    .await
}

/// The confirmation of a path.
fn ceremony(known: &ConsoleRequest<'_>) -> Result<Uuid, Refusal> {
    Uuid::parse_str(&known.segment("ceremony")).map_err(|_| Refusal::NotFound)
}

pub(super) async fn show_use(incoming: Incoming) -> HttpResponse {
    serve(incoming, async |known| {
        let above = delegations::show(&known.context, &known.segment("id")).await?;
        let id = CeremonyId { delegation: &above.id, id: ceremony(&known)? };
        let one = ceremonies::show(&known.context, id).await?;
        let decisions = delegations::decisions_about(&known.context, &above.id, Some(one.id)).await?;
        let body = html! {
            p { a href=(known.url("/console/approvals")) data-back { "Approvals" } }
            h1 { bdi { (one.client_id) } " asks for one use" }
            p { "Under the delegation " a href=(known.url(&format!("/console/approvals/{}", above.id))) { (words::short(&above.id)) } " of " (who::link(&known, &above.delegator)) "." }
            @if let Some(decided) = decisions.first() { p { (decision(&known, decided)) } }
            (use_body(&known, &above, &one)?)
        };
        Ok(PageAnswer::Shown(ConsolePage::new(format!("{} asks", one.client_id), body)))
    })
    .await
}

pub(super) async fn approve_use(incoming: Incoming) -> HttpResponse {
    serve(incoming, async |known| decide_use(&known, ConfirmationDecision::Approve).await).await
}

pub(super) async fn deny_use(incoming: Incoming) -> HttpResponse {
    serve(incoming, async |known| decide_use(&known, ConfirmationDecision::Deny).await).await
}

async fn decide_use(known: &ConsoleRequest<'_>, decision: ConfirmationDecision) -> PageResult {
    let delegation = known.segment("id");
    let one = CeremonyId { delegation: &delegation, id: ceremony(known)? };
    let done = match decision {
        ConfirmationDecision::Deny => ceremonies::decide(&known.context, one, decision, None).await,
        ConfirmationDecision::Approve => {
            let above = delegations::show(&known.context, &delegation).await?;
            let asked = ceremonies::show(&known.context, one).await?;
            let gives =
                is_in_place_of_the_user(known, &above) || is_highest(known, asked.capability.as_ref());
            if asked.state == CeremonyState::Pending && gives {
                known.require_fresh()?;
            }
            ceremonies::decide(&known.context, one, decision, Some(&shown(known))).await
        }
    };
    match done {
        Err(Error::Refused(Refusal::RequestChanged)) => {
            let present = ceremonies::show(&known.context, one).await?;
            Err(changed(Some(&shown(known)), &ShownRequest::of_use(&present)?))
        }
        Err(error) => Err(error.into()),
        Ok(_) => Ok(PageAnswer::See(known.url(&format!("/console/approvals/{delegation}/uses/{}", one.id)))),
    }
}
