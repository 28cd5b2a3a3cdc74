//! `/console/delegations/{id}/cut`: what a revocation reaches, and the revocation.

use actix_web::HttpResponse;
use maud::{Markup, html};

use super::frame::ConsolePage;
use super::guard::{ConsoleRequest, Incoming, PageAnswer, serve};
use super::words;
use crate::domain::delegation::impact::Impact;
use crate::domain::delegation::view::View;
use crate::domain::refusal::Refusal;
use crate::platform::fault::Fault;
use crate::services::delegations;
use crate::services::principals::{RevocationSubject, show_impact};

/// Above this number the agent's id is typed first.
const TYPED_ABOVE: i64 = 100;

pub(super) async fn show(incoming: Incoming) -> HttpResponse {
    serve(incoming, async |known| {
        let one = delegations::show(&known.context, &known.segment("id")).await?;
        let reached = show_impact(&known.context, &RevocationSubject::Delegation(one.id.clone())).await?;
        Ok(PageAnswer::Shown(ConsolePage::new(
            format!("Cut {}", one.delegate),
            body(&known, &one, &reached)?,
        )))
    })
    .await
}

fn body(known: &ConsoleRequest<'_>, one: &View, reached: &Impact) -> Result<Markup, Fault> {
    let page = known.url(&format!("/console/delegations/{}", one.id));
    let target = format!("{page}/cut");
    let at_least = if reached.at_least { "at least " } else { "" };
    let list_ttl = time::Duration::seconds(known.app.config.status.ttl.into());
    Ok(html! {
        p { a href=(page) data-back { "Back to the delegation" } }
        h1 { "Cut " bdi { (one.delegate) } }
        p {
            "Ends " (at_least) (count(reached.delegations, "delegation")) " of " (count(reached.agents, "agent")) " and " (at_least) (count(reached.tokens, "token"))
            @if !reached.audiences.is_empty() { " for " (words::names(Some(&reached.audiences), "")) }
            "."
        }
        dl {
            dt { "introspection" } dd { "refuses at once" }
            dt { "status lists" } dd { "within " (words::duration(list_ttl)) }
            dt { "signatures alone" } dd { "until each token expires, at most " (words::duration(time::Duration::seconds(known.app.config.tokens.max_ttl.into()))) }
        }
        form method="post" action=(target) {
            (known.hidden(&target)?)
            @if reached.delegations > TYPED_ABOVE {
                label.field { "This reaches many. Type the agent's id: " code { (one.delegate) } input name="typed" required autocomplete="off"; }
            }
            label.field { "Why (optional, for the log)" input name="reason" maxlength="500" size="40"; }
            div.moves { button.danger type="submit" data-move="x" { "Cut" } a href=(page) { "Cancel" } }
        }
    })
}

fn count(number: i64, name: &str) -> String {
    if number == 1 { format!("1 {name}") } else { format!("{number} {name}s") }
}

pub(super) async fn cut(incoming: Incoming) -> HttpResponse {
    serve(incoming, async |known| {
        let one = delegations::show(&known.context, &known.segment("id")).await?;
        let reached = show_impact(&known.context, &RevocationSubject::Delegation(one.id.clone())).await?;
        if reached.delegations > TYPED_ABOVE && known.form.get("typed") != Some(one.delegate.as_str()) {
            return Err(Refusal::Malformed("This reaches many: type the id of the agent").into());
        }
        delegations::revoke(&known.context, &one.id, known.form.get("reason")).await?;
        Ok(PageAnswer::See(known.url(&format!("/console/delegations/{}", one.id))))
    })
    .await
}
