//! The life of delegations: given or asked for, approved or denied, used, renewed, taken back. Each move is one guarded
//! row and one event; a refused move is an event, too.

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

/// The path of a delegation that the caller may see. One that is not there and one that is not the caller's look alike.
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

/// Shows a path as it is now, with what there is to say of its agent.
async fn view(
    rows: &RowMac,
    connection: &mut PgConnection,
    path: &DelegationPath,
    now: time::OffsetDateTime,
) -> Result<View, Fault> {
    let delegate = client::store::find(rows, connection, &leaf(path)?.delegate).await?;
    View::of(path, delegate.as_ref(), now).ok_or_else(|| Fault::new("a path without a delegation"))
}

/// Reads a path again, after it was changed, and shows it.
async fn view_again(
    rows: &RowMac,
    connection: &mut PgConnection,
    id: &str,
    now: time::OffsetDateTime,
) -> Result<View, Fault> {
    let path = delegation::store::path(rows, connection, id).await?;
    view(rows, connection, &path.ok_or_else(|| Fault::new("a delegation that is gone"))?, now).await
}

/// What the present state answers to a move that did not find the state it needs.
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
