//! Token revocation (RFC 7009): the token and all tokens derived from it are revoked before the response.

use sqlx::PgConnection;
use time::OffsetDateTime;
use uuid::Uuid;

use super::client_request::{ClientCredentialsInput, known};
use super::own_token;
use super::transaction::{AuditedTransaction, Authorized};
use crate::app::App;
use crate::domain::audit::{Actor, Event, EventKind};
use crate::domain::delegation::{self, DelegationPath};
use crate::domain::refresh_token::{self, RefreshToken, StoredRefreshToken};
use crate::domain::refusal::{Error, Refusal};
use crate::domain::registry::Registry;
use crate::domain::token;
use crate::domain::token::InactiveToken;
use crate::platform::fault::Context as _;
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
    let Some(mut found) = find(app, presented, now).await? else { return Ok(()) };
    if let Some(dlg) = &found.event.delegation_id {
        let path =
            app.read(async |connection| delegation::store::path(&app.rows, connection, dlg).await).await?;
        found.event.standing_grant_id = path.as_ref().and_then(DelegationPath::standing_grant_id);
        found.event.delegation_path = path.map(|path| path.ids()).unwrap_or_default();
    }
    let RevocableToken { jti, client_id, mut event } = found;
    event.actor = Actor::client(&client.client_id, None);
    event.origin = request.origin.clone();
    if client_id != client.client_id {
        let work = AuditedTransaction::begin(&app.pool).await?;
        let reason = Some(Refusal::TokenOfAnother.reason());
        let kind = EventKind::TokenRevocationRefused { cause: None };
        work.commit(&[Event { kind, reason, ..event }]).await?;
        return Err(Refusal::TokenOfAnother.into());
    }
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

/// A token of this server, with the event of its revocation.
struct RevocableToken {
    jti: Uuid,
    client_id: String,
    event: Event,
}

/// An access token or a refresh token. The hint of the request is not needed: their forms differ.
async fn find(app: &App, presented: &str, now: OffsetDateTime) -> Result<Option<RevocableToken>, Error> {
    if let Some(digest) = refresh_token::digest(presented) {
        let find = async |connection: &mut PgConnection| {
            refresh_token::store::find(&app.rows, connection, &digest).await
        };
        let Some(StoredRefreshToken { token, .. }) = app.read(find).await? else { return Ok(None) };
        let jti = Uuid::parse_str(&token.id).context("the id of a refresh token")?;
        let event = event_of_refresh_token(&token, now);
        return Ok(Some(RevocableToken { jti, client_id: token.client_id, event }));
    }
    let Some(claims) = own_token::find(app, presented, now).await? else { return Ok(None) };
    let Ok(jti) = Uuid::parse_str(&claims.jti) else { return Ok(None) };
    let event = event(&claims, &app.registry(), now);
    Ok(Some(RevocableToken { jti, client_id: claims.client_id.clone(), event }))
}

fn event_of_refresh_token(token: &RefreshToken, now: OffsetDateTime) -> Event {
    Event {
        subject: Some(token.subject.clone()),
        act_chain: super::token_exchange::chain(Some(&token.granted.act)),
        txn: Some(token.txn.clone()),
        delegation_id: Some(token.delegation_id.clone()),
        jti: Some(token.id.clone()),
        session_id: token.session_id.clone(),
        ..Event::new(now, EventKind::TokenRevoked, Actor::client(&token.client_id, None))
    }
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
