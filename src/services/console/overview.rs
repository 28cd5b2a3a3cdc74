//! What the overview shows besides lists that have pages of their own.

use serde_json::Value;
use time::{Duration, OffsetDateTime};

use crate::domain::audit::filter::Filter;
use crate::domain::audit::search::Order;
use crate::domain::delegation::list;
use crate::domain::delegation::view::View;
use crate::domain::refusal::{Error, Refusal};
use crate::services::audit::query::{self, AuditQuery};
use crate::services::caller::Caller;
use crate::services::delegations;
use crate::services::request_context::RequestContext;

const SHOWN: i64 = 10;

/// The steps of a new server: the action of the event that completes each.
const FIRST_STEPS: [&str; 4] =
    ["client.changed", "oauth.token.issued", "oauth.token.exchanged", "delegation.revoked"];
/// A server with this event is not new.
const FIRST_EXCHANGE: &str = "oauth.token.exchanged";

/// The first steps in their order, each with whether it is done; `None` on a server that is not new.
pub async fn first_steps(ctx: &RequestContext<'_>) -> Result<Option<Vec<(&'static str, bool)>>, Error> {
    if newest(ctx, FIRST_EXCHANGE, None).await?.is_some() {
        return Ok(None);
    }
    let mut steps = Vec::new();
    for action in FIRST_STEPS {
        steps.push((action, newest(ctx, action, None).await?.is_some()));
    }
    Ok(Some(steps))
}

/// The newest entry of an operator within a day.
pub async fn operator_entered(ctx: &RequestContext<'_>) -> Result<Option<Value>, Error> {
    newest(ctx, "console.operator_entered", Some(ctx.now - Duration::days(1))).await
}

async fn newest(
    ctx: &RequestContext<'_>,
    action: &str,
    from: Option<OffsetDateTime>,
) -> Result<Option<Value>, Error> {
    let filter = Filter { action: Some(action.to_owned()), from, ..Filter::default() };
    let wanted = AuditQuery { filter, order: Order::Newest, limit: Some(1), ..AuditQuery::default() };
    Ok(query::list(ctx, &wanted).await?.items.into_iter().next())
}

/// Active delegations without a parent that end within a day, and under which a token was issued within a day; the next
/// end first.
pub async fn ending(ctx: &RequestContext<'_>) -> Result<Vec<View>, Error> {
    let root = match &ctx.caller {
        Caller::User(user) => Some(user.who.clone()),
        Caller::Admin(_) | Caller::Operator => None,
        Caller::Agent(_) | Caller::Auditor(_) => return Err(Refusal::InsufficientScope.into()),
    };
    let ids = list::ending_soon(&mut *ctx.pool.acquire().await?, root.as_ref(), SHOWN, ctx.now).await?;
    let mut found = Vec::new();
    for id in ids {
        found.push(delegations::show(ctx, &id).await?);
    }
    Ok(found)
}
