//! Stores the tokens that providers issue by exchange: at most [`exchanged::MOST`] for a delegation at a provider.

use std::collections::BTreeSet;
use std::sync::Arc;

use secrecy::{ExposeSecret as _, SecretString};
use sqlx::PgConnection;
use time::OffsetDateTime;

use super::connections::{Wanted, blank, sealed};
use super::exchange_order::{ExchangeOrder, OrderKey};
use super::unused_tokens::{self, provider_tokens};
use crate::app::App;
use crate::domain::audit::detail::ConnectedBy;
use crate::domain::audit::{Actor, Event, EventKind};
use crate::domain::refusal::{Error, Refusal};
use crate::domain::token;
use crate::domain::vault::credential_cache::OpenedConnection;
use crate::domain::vault::unused::UnusedToken;
use crate::domain::vault::{self, Connection, ConnectionState, Credential, exchanged};
use crate::platform::fault::Fault;
use crate::services::transaction::AuditedTransaction;
use actchain_protocol::token_answer::TokenSet;

/// A stored token, and the tokens that it replaces.
pub(super) struct StoredToken {
    pub(super) opened: Arc<OpenedConnection>,
    /// To be revoked at the provider: the end of the chain would not reach them.
    pub(super) replaced: Vec<UnusedToken>,
}

/// Stores a token, as long as the agent's token and its delegation are active.
pub(super) async fn store(
    app: &App,
    order: &ExchangeOrder,
    key: &OrderKey,
    tokens: &TokenSet,
    scopes: BTreeSet<String>,
) -> Result<StoredToken, Error> {
    let (now, id) = (app.clock.now(), &key.connection);
    let provider = &order.provider.provider.id;
    let mut work = AuditedTransaction::begin(&app.pool).await?;
    let standing = token::store::standing(&app.rows, work.connection(), key.jti).await?;
    standing.ok_or(Refusal::AccessTokenInvalid)?.check(now)?;
    if exchanged::is_disconnected(work.connection(), &key.delegation, provider).await? {
        return Err(Refusal::ConnectionUnusable(ConnectionState::Disconnected).into());
    }
    let found = vault::store::find_for_update(work.connection(), id).await?;
    let is_new = found.is_none();
    let outdated = match &found {
        Some(found) => Some(found.clone()),
        None => {
            let present = exchanged::of_delegation(work.connection(), &key.delegation, provider).await?;
            place(present, now)?
        }
    };
    let mut replaced = Vec::new();
    if let Some(outdated) = &outdated {
        replaced.extend(keep(work.connection(), app, outdated, tokens, now).await?);
        if is_new && !exchanged::delete_replaced(work.connection(), outdated).await? {
            return Err(Refusal::RateLimited.into());
        }
    }
    let one = found.unwrap_or_else(|| Connection {
        delegation_id: Some(key.delegation.clone()),
        ..blank(id, provider, order.token.subject.clone(), now)
    });
    let rejected = one.rejected_at.is_some();
    let wanted = Wanted {
        credential: Credential::Oauth2(provider_tokens(tokens)),
        expires_at: Some(exchanged::expiry(tokens, now, order.ends_at)),
        scopes: Some(scopes).filter(|scopes| !scopes.is_empty()),
        obtained_at: now,
    };
    let next = sealed(work.connection(), &app.vault, Connection { updated_at: now, ..one }, &wanted).await?;
    // A refresh token is kept only to be revoked: the provider decides about each token by the chain as it is then.
    let next = Connection { has_refresh_token: false, refreshed_at: Some(now), ..next };
    vault::store::put(work.connection(), &next).await?;
    let (provider, scopes) = (provider.clone(), next.scopes.clone());
    let kind = match is_new {
        true => EventKind::ConnectionCreated { provider, scopes, how: ConnectedBy::Exchange },
        false => EventKind::ConnectionRefreshed { provider, scopes, rejected },
    };
    let event = Event {
        subject: Some(next.owner.clone()),
        target: Some(id.clone()),
        delegation_id: next.delegation_id.clone(),
        txn: order.event.txn.clone(),
        ..Event::new(now, kind, Actor::Server)
    };
    work.commit(&[event]).await?;
    if let Some(outdated) = outdated {
        app.vault.opened.invalidate(&outdated.id);
    }
    let opened = Arc::new(OpenedConnection {
        connection: Connection { version: next.version + 1, ..next },
        credential: wanted.credential,
        provider: Arc::clone(&order.provider),
    });
    app.vault.opened.insert(id.clone(), Arc::clone(&opened));
    Ok(StoredToken { opened, replaced })
}

/// Refuses before anything is sent to the provider; [`store`] checks again.
pub(super) async fn require_place(app: &App, order: &ExchangeOrder, key: &OrderKey) -> Result<(), Error> {
    let (provider, now) = (&order.provider.provider.id, app.clock.now());
    let refusal = app
        .read(async |connection| {
            if exchanged::is_disconnected(connection, &key.delegation, provider).await? {
                return Ok(Some(Refusal::ConnectionUnusable(ConnectionState::Disconnected)));
            }
            if vault::store::find(connection, &key.connection).await?.is_some() {
                return Ok(None);
            }
            let present = exchanged::of_delegation(connection, &key.delegation, provider).await?;
            Ok(place(present, now).err())
        })
        .await?;
    refusal.map_or(Ok(()), |refusal| Err(refusal.into()))
}

/// The connection whose place a new one takes; `None` if there is room.
fn place(present: Vec<Connection>, now: OffsetDateTime) -> Result<Option<Connection>, Refusal> {
    if present.len() < exchanged::MOST {
        return Ok(None);
    }
    let first = present.into_iter().next().filter(|one| exchanged::is_replaceable(one, now));
    first.map(Some).ok_or(Refusal::RateLimited)
}

/// Keeps the tokens of a connection until they are revoked, if they are of any use, and not those that were issued again.
async fn keep(
    connection: &mut PgConnection,
    app: &App,
    outdated: &Connection,
    issued: &TokenSet,
    now: OffsetDateTime,
) -> Result<Option<UnusedToken>, Fault> {
    let opened = match app.vault.open_found(connection, outdated.clone()).await {
        Ok(opened) => opened,
        Err(fault) => {
            tracing::error!(connection = outdated.id, error = %fault, "replaced tokens cannot be revoked");
            None
        }
    };
    let Some(opened) = opened else { return Ok(None) };
    let is_issued = |token: &SecretString| {
        issued.access_token.as_ref().is_some_and(|issued| issued.expose_secret() == token.expose_secret())
    };
    match &opened.credential {
        Credential::Oauth2(tokens)
            if !is_issued(&tokens.access_token)
                && (tokens.refresh_token.is_some() || !outdated.has_ended(now)) =>
        {
            unused_tokens::keep(connection, &app.vault, &opened.provider, tokens, now).await
        }
        Credential::Oauth2(_) | Credential::ApiKey { .. } | Credential::Basic { .. } => Ok(None),
    }
}
