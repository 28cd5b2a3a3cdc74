//! `POST /console/find`: the jump box. What was pasted can be a token, so that it is in no URL, no page and no log.

use actix_web::HttpResponse;
use actix_web::http::StatusCode;
use maud::html;

use super::chains::chain_path;
use super::frame::{ConsolePage, JUMP_FIELD};
use super::guard::{Incoming, PageAnswer, serve};
use super::links::{form_encoded, seq_path};
use super::sessions::session_path;
use crate::services::console::{FoundPlace, find};

pub(super) async fn jump(incoming: Incoming) -> HttpResponse {
    serve(incoming, async |known| {
        let text = known.form.get(JUMP_FIELD).unwrap_or_default();
        let path = match find(known.app, &known.context, text).await? {
            Some(FoundPlace::Approval(id)) => format!("/console/approvals/{id}"),
            Some(FoundPlace::Delegation(id)) => format!("/console/delegations/{id}"),
            Some(FoundPlace::Agent(id)) => format!("/console/agents/{}", form_encoded(&id)),
            Some(FoundPlace::Connection(id)) => format!("/console/connections/{id}"),
            Some(FoundPlace::Session(id)) => session_path(&id),
            Some(FoundPlace::Chain { txn, seq: None }) => chain_path(&txn),
            Some(FoundPlace::Chain { txn, seq: Some(seq) }) => {
                format!("{}?hop={seq}#hop-{seq}", chain_path(&txn))
            }
            Some(FoundPlace::Event(seq)) => seq_path(seq),
            Some(FoundPlace::Address(ip)) => {
                format!("/console/events?ip={}", form_encoded(&ip.to_string()))
            }
            None => return Ok(PageAnswer::Shown(nothing())),
        };
        Ok(PageAnswer::See(known.url(&path)))
    })
    .await
}

fn nothing() -> ConsolePage {
    let body = html! {
        h1 { "Nothing found" }
        p { "Nothing that you may see has this name. Compared with it:" }
        ul {
            li { "a delegation, a request, an agent, or a connection with this id" }
            li { "an agent with this key thumbprint" }
            li { "an event with this id or number (" code { "seq" } ")" }
            li { "a chain with this id (" code { "txn" } "), or the hop that issued a token with this id (" code { "jti" } ")" }
            li { "a session, or a request, with this id" }
            li { "the hop of this token, if it is an access token of this server that has not expired" }
        }
        p { "Names are compared exactly. Paste the whole id, and try again." }
    };
    ConsolePage { status: StatusCode::NOT_FOUND, ..ConsolePage::new("Nothing found", body) }
}
