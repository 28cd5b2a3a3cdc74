//! Token revocation (RFC 7009): the token and all tokens derived from it are revoked before the response.

use time::OffsetDateTime;
use uuid::Uuid;

use super::client_request::{ClientCredentialsInput, known};
use super::transaction::{AuditedTransaction, Authorized};
use super::verify_token;
use crate::app::App;
use crate::domain::audit::{Actor, Event, EventKind};
use crate::domain::refusal::{Error, Refusal};
use crate::domain::registry::Registry;
use crate::domain::token::InactiveToken;
use crate::domain::{delegation, token};
use actchain_protocol::access_token::Claims;

/// Revokes a token of the authenticated client. A token that is unknown or has expired needs no revocation (RFC 7009
/// §2.2).
///
/// # Errors
/// [`Refusal::TokenOfAnother`] for another client's token.
pub async fn revoke(
    app: &App,
    request: &ClientCredentialsInput,
    presented: &str,
    now: OffsetDateTime,
) -> Result<(), Error> {
    let client = known(app, request, now).await?;
    let Some(claims) = verify_token::our_claims(app, presented, now).await? else { return Ok(()) };
    let mut event = event(&claims, &app.registry(), now);
    event.actor = Actor::client(&client.client_id, None);
    if let Some(dlg) = &claims.dlg {
        let path =
            app.read(async |connection| delegation::store::path(&app.rows, connection, dlg).await).await?;
        event.delegation_path = path.map(|path| path.ids()).unwrap_or_default();
    }
    event.origin = request.origin.clone();
    if claims.client_id != client.client_id {
        let work = AuditedTransaction::begin(&app.pool).await?;
        let reason = Some(Refusal::TokenOfAnother.reason());
        let kind = EventKind::TokenRevocationRefused { cause: None };
        work.commit(&[Event { kind, reason, ..event }]).await?;
        return Err(Refusal::TokenOfAnother.into());
    }
    let Ok(jti) = Uuid::parse_str(&claims.jti) else { return Ok(()) };
    // A token that is revoked or expired already is not revoked again, so no lock is needed.
    let live = async {
        let standing =
            app.read(async |connection| token::store::standing(&app.rows, connection, jti).await).await?;
        Ok(standing.is_some_and(|standing| standing.problem != Some(InactiveToken::TokenRevoked)))
    };
    let (authorized, live) = Authorized::by(live).await?;
    if !live {
        return Ok(());
    }
    let mut work = AuditedTransaction::begin_exclusive(&app.pool, authorized).await?;
    if token::store::mark_revoked(work.connection(), jti, now).await? {
        work.commit(&[event]).await?;
    }
    Ok(())
}

fn event(claims: &Claims, registry: &Registry, now: OffsetDateTime) -> Event {
    Event {
        subject: registry.root_subject(claims),
        act_chain: super::token_exchange::chain(claims.act.as_ref()),
        txn: Some(claims.txn.clone()),
        delegation_id: claims.dlg.clone(),
        jti: Some(claims.jti.clone()),
        audience: claims.aud.values().to_vec(),
        session_id: claims.sid.clone(),
        ..Event::new(now, EventKind::TokenRevoked, Actor::client(&claims.client_id, None))
    }
}
