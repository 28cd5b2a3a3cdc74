//! The lifecycle of delegations: created or requested, approved or denied, used, renewed, revoked. Each transition is
//! one guarded row and one event; a refused transition is an event too.

mod approval;
mod commands;
mod create;
mod key_rotation;
mod queries;
mod renew;
mod request;
mod revoke;

pub mod ceremonies;
pub mod graph;

pub use self::approval::{approve, deny};
pub use self::commands::commands;
pub use self::create::create;
pub use self::key_rotation::rotate_key;
pub use self::queries::{Page, agents, list, show};
pub use self::renew::renew;
pub(super) use self::request::check_reason;
pub use self::request::{Approval, EphemeralRequest, NewDelegation};
pub(super) use self::revoke::counted;
pub use self::revoke::revoke;

use sqlx::PgConnection;

use super::request_context::{Call, Desk};
use crate::domain::client;
use crate::domain::delegation::{self, Delegation, DelegationPath, View};
use crate::domain::refusal::{Error, Refusal};
use crate::domain::row_mac::RowMac;
use crate::platform::fault::Fault;

/// The path of a delegation that the caller can see. A missing delegation and an invisible one have the same
/// response.
async fn visible(
    connection: &mut PgConnection,
    desk: &Desk<'_>,
    call: &Call,
    id: &str,
) -> Result<DelegationPath, Error> {
    let found = delegation::store::path(desk.rows, connection, id).await?;
    found.filter(|path| call.caller.may_see(path, desk.issuer)).ok_or_else(|| Refusal::NotFound.into())
}

/// The delegation itself, of a path that was found.
fn leaf(path: &DelegationPath) -> Result<&Delegation, Fault> {
    path.leaf().ok_or_else(|| Fault::new("a path without a delegation"))
}

/// Shows a path in its present state, with its agent.
async fn view(
    rows: &RowMac,
    connection: &mut PgConnection,
    path: &DelegationPath,
    now: time::OffsetDateTime,
) -> Result<View, Fault> {
    let delegate = client::store::find(rows, connection, &leaf(path)?.delegate).await?;
    View::of(path, delegate.as_ref(), now).ok_or_else(|| Fault::new("a path without a delegation"))
}

/// Reads and shows a path after a change.
async fn view_again(
    rows: &RowMac,
    connection: &mut PgConnection,
    id: &str,
    now: time::OffsetDateTime,
) -> Result<View, Fault> {
    let path = delegation::store::path(rows, connection, id).await?;
    view(rows, connection, &path.ok_or_else(|| Fault::new("a delegation that is gone"))?, now).await
}

/// The refusal for a transition from an unsuitable state.
async fn invalid_state_transition(
    rows: &RowMac,
    connection: &mut PgConnection,
    id: &str,
    now: time::OffsetDateTime,
) -> Result<Error, Fault> {
    let path = delegation::store::path(rows, connection, id).await?;
    let path = path.ok_or_else(|| Fault::new("a delegation that is gone"))?;
    Ok(Refusal::InvalidStateTransition(path.state(now).0).into())
}
