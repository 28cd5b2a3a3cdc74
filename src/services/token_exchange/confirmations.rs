//! Confirmations (ceremonies) of single uses: used up or requested.

use time::Duration;

use super::context::ExchangeContext;
use super::prepared::PreparedToken;
use crate::app::App;
use crate::domain::authority::ExchangeDecision;
use crate::domain::ceremony::{self, Asking, Ceremony, CeremonyState, Matter};
use crate::domain::refusal::{Error, Refusal};
use crate::platform::fault::Fault;
use actchain_protocol::random;

/// Result of a request before it is recorded.
pub(super) enum Decided {
    Plan(Box<PreparedToken>),
    /// A delegator on the path has to confirm first; the confirmation is requested.
    Ceremony(Box<Asking>, Vec<String>),
}

/// The confirmation that has to be asked for first, if there is one.
pub(super) async fn confirm_first(
    app: &App,
    context: &mut ExchangeContext,
    decision: &ExchangeDecision,
) -> Result<Option<Decided>, Error> {
    let Some(ceremony) = resolve_confirmations(app, context, decision).await? else {
        return Ok(None);
    };
    let settings = &app.config.delegations;
    let bound = |most: u32| usize::try_from(most).unwrap_or(usize::MAX);
    let asking = Asking {
        ceremony,
        most: bound(settings.max_pending_confirmations),
        most_of_client: bound(settings.max_pending_confirmations_per_client),
    };
    Ok(Some(Decided::Ceremony(Box::new(asking), decision.path.clone())))
}

/// Resolves the confirmations that a decision needs. Existing confirmations are used up with the token; the first
/// missing one is created and returned.
///
/// # Errors
/// [`Refusal::CeremonyRequired`] if a request is pending already, [`Refusal::CeremonyDenied`] if it was denied.
async fn resolve_confirmations(
    app: &App,
    context: &mut ExchangeContext,
    decision: &ExchangeDecision,
) -> Result<Option<Ceremony>, Error> {
    let mut found = Vec::new();
    for delegation_id in &decision.ceremonies {
        let issued_under = decision
            .path
            .last()
            .ok_or_else(|| Fault::new("a confirmation is required, and the token has no delegation"))?;
        let matter = Matter {
            delegation_id,
            client_id: &context.client.client_id,
            jkt: context.jkt.as_deref(),
            issued_under,
            scopes: &decision.scopes,
            audiences: &decision.audiences,
            details: decision.details.as_ref(),
            capability: decision.capability.as_deref(),
        };
        let fingerprint = matter.fingerprint()?;
        let client_id = context.client.client_id.as_str();
        let now = context.now;
        let open = app
            .read(async |connection| {
                ceremony::store::open(connection, delegation_id, client_id, &fingerprint, now).await
            })
            .await?;
        match open {
            Some(one) if one.stage(now) == CeremonyState::Approved => found.push(one.id),
            Some(one) => {
                context.is_about(delegation_id, &decision.path);
                let denied = one.stage(now) == CeremonyState::Denied;
                let refusal =
                    if denied { Refusal::CeremonyDenied } else { Refusal::CeremonyRequired(one.id) };
                return Err(refusal.into());
            }
            None => {
                return Ok(Some(Ceremony {
                    id: random::id(now)?,
                    delegation_id: delegation_id.clone(),
                    client_id: context.client.client_id.clone(),
                    fingerprint,
                    scopes: decision.scopes.clone(),
                    audiences: decision.audiences.clone(),
                    details: decision.details.clone(),
                    capability: decision.capability.clone(),
                    requested_at: now,
                    expires_at: now + Duration::seconds(app.config.delegations.ceremony_ttl.into()),
                    approved_at: None,
                    denied_at: None,
                    used_at: None,
                }));
            }
        }
    }
    // All confirmations are used up together, when the token is recorded.
    context.ceremonies = found;
    Ok(None)
}
