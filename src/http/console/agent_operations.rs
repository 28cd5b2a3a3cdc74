//! Operations against an agent. Each has a page that says first what it affects; what affects much has the agent's id typed.

use actix_web::HttpResponse;
use maud::{Markup, html};
use time::Duration;

use super::agents::agent_path;
use super::frame::ConsolePage;
use super::guard::{ConsoleRequest, Incoming, PageAnswer, PageResult, serve};
use super::words;
use crate::domain::delegation::impact::Impact;
use crate::domain::principal::Principal;
use crate::domain::refusal::{Error, Refusal};
use crate::platform::fault::Fault;
use crate::services::principals::{self, ClientKey, RevocationSubject, show_impact};
use crate::services::{clients, tasks};

/// How long the old secret stays valid beside a new one.
const OVERLAP: Duration = Duration::hours(1);

/// What an operation would end.
struct CountedImpact {
    impact: Impact,
    /// Tokens that were made from the counted ones end, too, and are not counted.
    has_uncounted: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum AgentOperation {
    Disable,
    RevokeAll,
    EndTask,
    RemoveKey,
}

impl AgentOperation {
    fn name(self) -> &'static str {
        match self {
            Self::Disable => "Disable",
            Self::RevokeAll => "Revoke all of",
            Self::EndTask => "End the task of",
            Self::RemoveKey => "Remove a key of",
        }
    }

    fn meaning(self) -> &'static str {
        match self {
            Self::Disable => "It gets no token, and its tokens count for nothing, until it is enabled again.",
            Self::RevokeAll => {
                "All that it has ends now and does not come back: delegations to it and by it, and its tokens. It stays \
                 registered, and later delegations are not affected."
            }
            Self::EndTask => {
                "All agents of the task are deactivated, and their delegations are revoked. This does not come back."
            }
            Self::RemoveKey => {
                "Tokens that were obtained with this key or are bound to it end, and all that were made from them. Only an \
                 operator can restore the key, by `actchain client key restore`."
            }
        }
    }
}

async fn counted_impact(
    known: &ConsoleRequest<'_>,
    id: &str,
    wanted: AgentOperation,
) -> Result<CountedImpact, Error> {
    let ctx = &known.context;
    let impact = match wanted {
        AgentOperation::Disable => show_impact(ctx, &RevocationSubject::Client(id.to_owned())).await?,
        AgentOperation::RevokeAll => {
            let who = Principal::new(ctx.issuer, id);
            show_impact(ctx, &RevocationSubject::Principal(who)).await?
        }
        AgentOperation::EndTask => tasks::show_impact(ctx, &task_of(known, id).await?).await?,
        AgentOperation::RemoveKey => {
            let jkt = known.segment("jkt");
            principals::show_key_impact(ctx, ClientKey { client_id: id, jkt: &jkt }).await?
        }
    };
    Ok(CountedImpact { impact, has_uncounted: wanted == AgentOperation::RemoveKey })
}

async fn task_of(known: &ConsoleRequest<'_>, id: &str) -> Result<String, Error> {
    let client = clients::show(&known.context, id).await?;
    client.task_id.ok_or_else(|| Refusal::NotFound.into())
}

async fn confirm(incoming: Incoming, wanted: AgentOperation) -> HttpResponse {
    serve(incoming, async |known| {
        let id = known.segment("id");
        let counted = counted_impact(&known, &id, wanted).await?;
        let body = body(&known, &id, wanted, &counted)?;
        Ok(PageAnswer::Shown(ConsolePage::new(format!("{} {id}", wanted.name()), body)))
    })
    .await
}

fn body(
    known: &ConsoleRequest<'_>,
    id: &str,
    wanted: AgentOperation,
    counted: &CountedImpact,
) -> Result<Markup, Fault> {
    let page = known.url(&agent_path(id));
    let here = known.request.path();
    let target = if wanted == AgentOperation::RemoveKey { format!("{here}/remove") } else { here.to_owned() };
    let impact = &counted.impact;
    let at_least = if impact.at_least { "at least " } else { "" };
    Ok(html! {
        p { a href=(page) data-back { "Back to the agent" } }
        h1 { (wanted.name()) " " bdi { (id) } }
        @if wanted == AgentOperation::RemoveKey { p { "The key " (words::id(&known.segment("jkt"))) } }
        p { (wanted.meaning()) }
        p {
            "Affects " (at_least) (words::count(impact.delegations, "delegation")) " and " (at_least) (words::count(impact.tokens, "token"))
            @if !impact.audiences.is_empty() { " for " (words::names(Some(&impact.audiences), "")) }
            @if counted.has_uncounted { ", and the tokens that were made from them" }
            "."
        }
        form method="post" action=(target) {
            (known.hidden(&target)?)
            @if impact.is_large() {
                label.field { "This affects many delegations or tokens. Type the agent's id: " code { (id) } input name="typed" required autocomplete="off"; }
            }
            @if wanted == AgentOperation::RevokeAll {
                label.field { "Why (for the log)" input name="reason" maxlength="500" size="40"; }
            }
            div.moves { button.danger type="submit" data-move="x" { (wanted.name()) } a href=(page) { "Cancel" } }
        }
    })
}

/// Refuses an operation that affects much, unless the agent's id was typed.
async fn require_typed(known: &ConsoleRequest<'_>, id: &str, wanted: AgentOperation) -> Result<(), Error> {
    let counted = counted_impact(known, id, wanted).await?;
    match counted.impact.is_large() && known.form.get("typed") != Some(id) {
        true => {
            Err(Refusal::Malformed("This affects many delegations or tokens: type the id of the agent")
                .into())
        }
        false => Ok(()),
    }
}

fn back(known: &ConsoleRequest<'_>, id: &str) -> PageResult {
    Ok(PageAnswer::See(known.url(&agent_path(id))))
}

pub(super) async fn show_disable(incoming: Incoming) -> HttpResponse {
    confirm(incoming, AgentOperation::Disable).await
}

pub(super) async fn disable(incoming: Incoming) -> HttpResponse {
    serve(incoming, async |known| {
        let id = known.segment("id");
        require_typed(&known, &id, AgentOperation::Disable).await?;
        principals::disable(&known.context, &id).await?;
        back(&known, &id)
    })
    .await
}

pub(super) async fn enable(incoming: Incoming) -> HttpResponse {
    serve(incoming, async |known| {
        known.require_fresh()?;
        let id = known.segment("id");
        principals::enable(&known.context, &id).await?;
        back(&known, &id)
    })
    .await
}

pub(super) async fn show_revoke_all(incoming: Incoming) -> HttpResponse {
    confirm(incoming, AgentOperation::RevokeAll).await
}

pub(super) async fn revoke_all(incoming: Incoming) -> HttpResponse {
    serve(incoming, async |known| {
        let id = known.segment("id");
        require_typed(&known, &id, AgentOperation::RevokeAll).await?;
        let who = Principal::new(known.context.issuer, id.clone());
        let reason = known.form.get("reason").unwrap_or_default();
        principals::revoke_all(&known.context, &who, reason).await?;
        back(&known, &id)
    })
    .await
}

pub(super) async fn show_end_task(incoming: Incoming) -> HttpResponse {
    confirm(incoming, AgentOperation::EndTask).await
}

pub(super) async fn end_task(incoming: Incoming) -> HttpResponse {
    serve(incoming, async |known| {
        let id = known.segment("id");
        require_typed(&known, &id, AgentOperation::EndTask).await?;
        let task = task_of(&known, &id).await?;
        tasks::end_task(&known.context, &task).await?;
        back(&known, &id)
    })
    .await
}

pub(super) async fn show_key(incoming: Incoming) -> HttpResponse {
    confirm(incoming, AgentOperation::RemoveKey).await
}

pub(super) async fn remove_key(incoming: Incoming) -> HttpResponse {
    serve(incoming, async |known| {
        let (id, jkt) = (known.segment("id"), known.segment("jkt"));
        require_typed(&known, &id, AgentOperation::RemoveKey).await?;
        principals::remove_key(&known.context, ClientKey { client_id: &id, jkt: &jkt }).await?;
        Ok(PageAnswer::See(format!("{}?tab=keys", known.url(&agent_path(&id)))))
    })
    .await
}

/// The new secret is on the answer and nowhere else: a reload sends the same form, whose stored result has none.
pub(super) async fn rotate_secret(incoming: Incoming) -> HttpResponse {
    serve(incoming, async |known| {
        known.require_fresh()?;
        let id = known.segment("id");
        let rotated = clients::rotate_secret(&known.context, &id, OVERLAP).await?.value;
        let page = known.url(&agent_path(&id));
        let body = html! {
            p { a href=(page) data-back { "Back to the agent" } }
            h1 { "New secret of " bdi { (id) } }
            @match &rotated.client_secret {
                Some(secret) => p { "Shown once. Keep it now: " code { (secret) } },
                None => p { "The secret was made and shown already. If it is lost, make another one." },
            }
            @if let Some(ends) = &rotated.old_expires_at { p { "The old secret is valid until " (words::instant(ends, known.context.now)) "." } }
        };
        Ok(PageAnswer::Shown(ConsolePage::new(format!("New secret of {id}"), body)))
    })
    .await
}
