//! Whether the token of a retrieval is active, before a request is sent to a provider. The ledger checks again.

use time::OffsetDateTime;
use uuid::Uuid;

use crate::app::App;
use crate::domain::refusal::{Error, Refusal};
use crate::domain::token;

/// Checks that the token and its delegations are active, and allow another use.
pub(super) async fn check(app: &App, jti: Uuid, now: OffsetDateTime) -> Result<(), Error> {
    let standing =
        app.read(async |connection| token::store::standing(&app.rows, connection, jti).await).await?;
    let standing = standing.ok_or(Refusal::AccessTokenInvalid)?;
    standing.check(now)?;
    // A delegation whose uses are exhausted keeps its tokens, but allows no further use.
    if let Some(path) = &standing.path {
        path.check(now).map_err(Refusal::from)?;
    }
    Ok(())
}
