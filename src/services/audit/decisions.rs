//! What a person decided and changed of late, by its own events. Reads only.

use serde_json::Value;
use uuid::Uuid;

use super::query::{self, AuditQuery, LogPage};
use crate::domain::audit::filter::Filter;
use crate::domain::audit::personal::PersonView;
use crate::domain::audit::search::Order;
use crate::domain::principal::Principal;
use crate::domain::refusal::Error;
use crate::services::request_context::RequestContext;

/// Number of newest events of the person that are read.
const MAX_READ: usize = 100;
const MAX_SHOWN: usize = 20;

/// The newest moves of the caller in the console or with its tokens; of an operator, those of its session. Events of agents
/// that act for the person are left out, and so are sign-ins.
///
/// # Errors
/// A refusal of agents.
pub async fn own(ctx: &RequestContext<'_>) -> Result<LogPage<Value>, Error> {
    let who = ctx.caller.principal(ctx.issuer);
    let session = ctx.caller.session().map(|session| session.session);
    let filter = match &who {
        Some(who) => {
            Filter { actor: Some(who.sub.clone()), actor_type: Some("user".to_owned()), ..Filter::default() }
        }
        None => Filter { actor_type: Some("operator".to_owned()), ..Filter::default() },
    };
    let asked = AuditQuery { filter, order: Order::Newest, limit: Some(MAX_READ), ..AuditQuery::default() };
    let mut found = query::list(ctx, &asked).await?;
    let names = names_of(&found, who.as_ref());
    found.items.retain(|event| is_own(event, &names, session) && !is_of_session(event));
    found.items.truncate(MAX_SHOWN);
    Ok(found)
}

/// The pseudonyms of the person in these events.
fn names_of(found: &LogPage<Value>, who: Option<&Principal>) -> Vec<String> {
    let Some(who) = who else { return Vec::new() };
    let is_who = |view: &PersonView| matches!(view, PersonView::Known { iss, sub } if *iss == who.iss && *sub == who.sub);
    let known = found.beside.people.iter().filter(|(_, view)| is_who(view));
    known.map(|(name, _)| name.clone()).collect()
}

fn is_own(event: &Value, names: &[String], session: Option<Uuid>) -> bool {
    match event.pointer("/actor/sub").and_then(Value::as_str) {
        Some(sub) => names.iter().any(|name| name == sub),
        None => {
            let of = event.pointer("/console/session").and_then(Value::as_str);
            of.is_some() && of.map(str::to_owned) == session.map(|session| session.to_string())
        }
    }
}

fn is_of_session(event: &Value) -> bool {
    event.get("action").and_then(Value::as_str).is_some_and(|action| action.starts_with("console."))
}
