//! Whether the token of a retrieval is active, before a request is sent to a provider. The ledger checks again.

use std::sync::Arc;

use time::OffsetDateTime;
use uuid::Uuid;

use crate::app::App;
use crate::domain::refusal::{Error, Refusal};
use crate::domain::token::TokenStatus;
use crate::domain::token::status_reader::StatusQuestion;
use crate::platform::fault::Fault;

async fn find(app: &App, jti: Uuid) -> Result<Option<Arc<TokenStatus>>, Fault> {
    Ok(app.statuses.read(StatusQuestion { client_id: None, jti: Some(jti) }).await?.token)
}

/// Whether the token itself is active, whatever its delegations allow.
pub(super) async fn is_valid(app: &App, jti: Uuid, now: OffsetDateTime) -> Result<bool, Fault> {
    Ok(find(app, jti).await?.is_some_and(|standing| standing.check(now).is_ok()))
}

/// Checks that the token and its delegations are active, and allow another use.
pub(super) async fn check(app: &App, jti: Uuid, now: OffsetDateTime) -> Result<(), Error> {
    let standing = find(app, jti).await?.ok_or(Refusal::AccessTokenInvalid)?;
    standing.check(now)?;
    // A delegation whose uses are exhausted keeps its tokens, but allows no further use.
    if let Some(path) = &standing.path {
        path.check(now).map_err(Refusal::from)?;
    }
    Ok(())
}
