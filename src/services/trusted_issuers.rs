//! What a running server knows of a trusted issuer besides its declaration: its keys and its sign-ins. Reads only.

use time::OffsetDateTime;

use super::request_context::RequestContext;
use crate::app::App;
use crate::domain::console;
use crate::domain::refusal::{Error, Refusal};

#[derive(Debug)]
pub struct IssuerFacts {
    /// `None` where keys are declared or tokens are introspected.
    pub keys: Option<FetchedKeys>,
    pub has_sign_in: bool,
    /// Of the sessions that are kept.
    pub last_sign_in: Option<OffsetDateTime>,
}

/// Keys that this server fetches.
#[derive(Debug)]
pub struct FetchedKeys {
    pub url: String,
    pub number: i64,
    pub fetched_at: Option<OffsetDateTime>,
    /// From when on the next token has them fetched again.
    pub due_at: Option<OffsetDateTime>,
    /// Since this server was started.
    pub last_failure: Option<(OffsetDateTime, String)>,
}

/// The facts of an issuer, for administrators.
///
/// # Errors
/// A refusal of other callers; [`Refusal::NotFound`].
pub async fn issuer_facts(ctx: &RequestContext<'_>, app: &App, iss: &str) -> Result<IssuerFacts, Error> {
    ctx.caller.require_administrator()?;
    let registry = app.current_registry().await?;
    let issuer = registry.issuers.get(iss).ok_or(Refusal::NotFound)?;
    let keys = issuer.keys_url().map(|url| {
        let report = app.caches.jwk_sets.report(url);
        FetchedKeys {
            url: url.to_owned(),
            number: i64::try_from(report.keys).unwrap_or(i64::MAX),
            fetched_at: report.fetched_at,
            due_at: report.due_at,
            last_failure: report.last_failure,
        }
    });
    let last_sign_in =
        app.read(async |connection| console::store::last_sign_in(connection, iss).await).await?;
    Ok(IssuerFacts { keys, has_sign_in: issuer.sign_in.is_some(), last_sign_in })
}
