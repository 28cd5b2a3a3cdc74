//! The lifecycle of delegations: created or requested, approved or denied, used, renewed, revoked. Each transition is
//! one guarded row and one event; a refused transition is an event too.

mod approval;
mod asking_agent;
mod create;
mod decisions;
mod ephemeral;
mod key_rotation;
mod queries;
mod renew;
mod request;
mod revoke;
mod shown;
mod standing_grant;
mod step_answers;
mod step_entry;
mod step_report;
mod step_session;
mod step_transaction;
mod steps;

pub mod ceremonies;
pub mod graph;

pub(super) use self::approval::require_console;
pub use self::approval::{approve, deny, may_decide, may_decide_for_users};
pub use self::asking_agent::{AskingAgent, asking_agent};
pub use self::create::create;
pub use self::decisions::{
    DecidedView, MatterScope, WaitingView, decided, decisions_about, matter_of, waiting,
};
pub use self::key_rotation::rotate_key;
pub use self::queries::{AgentView, agents, children, list, show};
pub use self::renew::renew;
pub use self::request::{Approval, EphemeralRequest, NewDelegation};
pub(super) use self::request::{after, check_reason};
pub(super) use self::revoke::count_affected;
pub use self::revoke::{Affected, Revocation, revoke};
pub use self::shown::{ShownDifference, ShownRequest};
pub use self::step_report::{AnsweredStep, StepsReported};
pub use self::steps::{Reported, report_steps};

use sqlx::PgConnection;

use super::request_context::RequestContext;
use crate::domain::client;
use crate::domain::delegation::view::View;
use crate::domain::delegation::{self, Delegation, DelegationPath};
use crate::domain::refusal::{Error, Refusal};
use crate::platform::fault::Fault;

/// The path of a delegation that the caller can see. A missing delegation and an invisible one have the same
/// response.
async fn visible(
    ctx: &RequestContext<'_>,
    connection: &mut PgConnection,
    id: &str,
) -> Result<DelegationPath, Error> {
    let found = delegation::store::path(ctx.rows, connection, id).await?;
    found.filter(|path| ctx.caller.may_see(path, ctx.issuer)).ok_or_else(|| Refusal::NotFound.into())
}

/// The delegation itself, of a path that was found.
fn leaf(path: &DelegationPath) -> Result<&Delegation, Fault> {
    path.leaf().ok_or_else(|| Fault::new("a path without a delegation"))
}

/// Shows a path in its present state, with its agent.
async fn view(
    ctx: &RequestContext<'_>,
    connection: &mut PgConnection,
    path: &DelegationPath,
) -> Result<View, Fault> {
    let delegate = client::store::find(ctx.rows, connection, &leaf(path)?.delegate).await?;
    View::of(path, delegate.as_ref(), ctx.now).ok_or_else(|| Fault::new("a path without a delegation"))
}

/// Reads and shows a path after a change.
async fn view_again(
    ctx: &RequestContext<'_>,
    connection: &mut PgConnection,
    id: &str,
) -> Result<View, Fault> {
    let path = read_again(ctx, connection, id).await?;
    view(ctx, connection, &path).await
}

/// The refusal for a transition from an unsuitable state.
async fn invalid_state_transition(
    ctx: &RequestContext<'_>,
    connection: &mut PgConnection,
    id: &str,
) -> Result<Error, Fault> {
    let path = read_again(ctx, connection, id).await?;
    Ok(Refusal::InvalidStateTransition(path.state(ctx.now).0).into())
}

async fn read_again(
    ctx: &RequestContext<'_>,
    connection: &mut PgConnection,
    id: &str,
) -> Result<DelegationPath, Fault> {
    let path = delegation::store::path(ctx.rows, connection, id).await?;
    path.ok_or_else(|| Fault::new(format!("delegation {id} cannot be read again")))
}
