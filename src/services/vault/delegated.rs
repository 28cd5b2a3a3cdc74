//! Tokens that a provider issues in exchange for a token of the chain (RFC 8693, RFC 7523). Owners connect nothing: the
//! connection is made by the first retrieval, and ends with the delegation.

use std::sync::Arc;

use secrecy::SecretString;
use time::Duration;

use super::exchange_order::{ExchangeOrder, OrderKey};
use super::exchanged_tokens::{self, StoredToken};
use super::provider_client::{self, Next, ProviderProblem, TokenEndpointResult};
use super::refresh;
use super::unused_tokens::{provider_tokens, revoke_detached, revoke_unused};
use crate::app::App;
use crate::domain::audit::{Event, EventKind};
use crate::domain::delegation::candidates::Memory;
use crate::domain::ledger::{CommitOutcome, Entry, SingleUseId, Write};
use crate::domain::provider::{self, OpenedProvider};
use crate::domain::refusal::{Error, Refusal};
use crate::domain::vault::credential_cache::OpenedConnection;
use crate::domain::vault::exchanged::{self, Unacceptable};
use crate::domain::vault::{self, ConnectionState};
use crate::platform::fault::Fault;
use crate::services::issue::seconds;
use actchain_protocol::jwt_assertion::{self, AssertionClaims, PermittedActor, without_keys};
use actchain_protocol::{random, scope};

/// Lifetime of the token that is sent to the provider: it is used once, at once.
const SUBJECT_TOKEN_TTL: Duration = Duration::minutes(1);

/// A decision in which the ledger may have taken part.
pub(super) enum LedgerDecision<T> {
    Granted(T),
    /// Data that the decision rests on has changed.
    Outdated,
    /// The ledger has recorded this refusal.
    Recorded(Refusal),
}

/// The provider of this name whose tokens are obtained by exchange.
pub(super) async fn find_provider(app: &App, name: &str) -> Result<Arc<OpenedProvider>, Error> {
    if !provider::is_id(name) {
        return Err(Refusal::NotFound.into());
    }
    let found = app
        .read(async |connection| match provider::store::find(connection, name).await? {
            Some(found) if found.exchanges() => found.open(&app.vault.keys, connection).await.map(Some),
            _ => Ok(None),
        })
        .await?;
    found.map(Arc::new).ok_or(Error::Refused(Refusal::NotFound))
}

/// The connection of an order, with a token that does not expire soon: the stored one, or a new one. `single_use_ids` is
/// emptied if the ids were recorded as used.
pub(super) async fn obtain(
    app: &Arc<App>,
    order: &ExchangeOrder,
    single_use_ids: &mut Vec<SingleUseId>,
) -> Result<LedgerDecision<Arc<OpenedConnection>>, Error> {
    let key = order.key()?;
    if let Some(opened) = held(app, order, &key).await?
        && !order.wants_another(app, &opened)
    {
        return Ok(LedgerDecision::Granted(opened));
    }
    let turn = app.vault.refreshing.get_with(key.connection.clone(), Arc::default);
    let _turn = turn.lock().await;
    // A request that waited finds the token of the previous one.
    let opened = held(app, order, &key).await?;
    if let Some(opened) = &opened
        && !order.wants_another(app, opened)
    {
        return Ok(LedgerDecision::Granted(Arc::clone(opened)));
    }
    let result = match app.vault.rests_for(&key.connection, app.clock.now()) {
        Some(rest) => Err(Refusal::ProviderUnavailable(rest).into()),
        None => {
            exchanged_tokens::require_place(app, order, &key).await?;
            let subject_token = match issue(app, order, &key, single_use_ids).await? {
                LedgerDecision::Granted(subject_token) => subject_token,
                LedgerDecision::Outdated => return Ok(LedgerDecision::Outdated),
                LedgerDecision::Recorded(refusal) => return Ok(LedgerDecision::Recorded(refusal)),
            };
            // Detached from the request, so that no token is lost, and not revoked, when the client disconnects.
            let task = app.detached.spawn({
                let (app, order) = (Arc::clone(app), order.clone());
                async move {
                    let stored = exchange(&app, &order, &key, subject_token).await?;
                    revoke_detached(&app, stored.replaced);
                    Ok(stored.opened)
                }
            });
            task.await.map_err(|error| Fault::caused("exchanging a token at a provider", error))?
        }
    };
    match (result, opened) {
        (Ok(opened), _) => Ok(LedgerDecision::Granted(opened)),
        // The present token is used until it expires.
        (Err(Error::Refused(Refusal::ProviderUnavailable(_))), Some(opened))
            if !opened.connection.has_ended(app.clock.now()) && !order.rejects(&opened) =>
        {
            Ok(LedgerDecision::Granted(opened))
        }
        (Err(stop), _) => Err(stop),
    }
}

/// The stored connection, if there is one. A cached one is enough to grant, because the ledger checks again.
async fn held(
    app: &App,
    order: &ExchangeOrder,
    key: &OrderKey,
) -> Result<Option<Arc<OpenedConnection>>, Error> {
    let version = order.provider.provider.version;
    let cached = app.vault.opened.get(&key.connection).filter(|opened| {
        order.memory == Memory::Usable
            && opened.provider.provider.version == version
            && !order.rejects(opened)
            && !order.wants_another(app, opened)
    });
    if let Some(opened) = cached {
        return Ok(Some(opened));
    }
    let opened = read(app, key).await?;
    let opened = match opened {
        Some(opened) if order.rejects(&opened) => {
            refresh::reject(app, &opened.connection, order.now).await?;
            read(app, key).await?
        }
        opened => opened,
    };
    if let Some(opened) = &opened {
        app.vault.opened.insert(key.connection.clone(), Arc::clone(opened));
    }
    Ok(opened)
}

async fn read(app: &App, key: &OrderKey) -> Result<Option<Arc<OpenedConnection>>, Error> {
    let found = app.read(async |connection| vault::store::find(connection, &key.connection).await).await?;
    match found {
        Some(found) if found.state() == ConnectionState::Disconnected => {
            Err(Refusal::ConnectionUnusable(found.state()).into())
        }
        // No owner can connect it again: the next exchange does.
        Some(found) if found.state() == ConnectionState::Active => {
            Ok(app.read(async |connection| app.vault.open_found(connection, found.clone()).await).await?)
        }
        Some(_) | None => Ok(None),
    }
}

/// Issues the token for the provider: recorded under the guards of the retrieval before it is sent. Its only audience is
/// the provider, its type is none that this server accepts, and only this server's client at the provider may use it.
async fn issue(
    app: &App,
    order: &ExchangeOrder,
    key: &OrderKey,
    single_use_ids: &mut Vec<SingleUseId>,
) -> Result<LedgerDecision<SecretString>, Error> {
    let (now, subject) = (app.clock.now(), &order.token.subject);
    let registry = app.registry();
    let audience = &key.exchange.subject_token_audience;
    let provider = &order.provider.provider;
    if registry.is_own_audience(audience, &app.issuer) {
        return Err(Fault::new(format!(
            "provider {}: exchange.subject_token_audience is this server or one of its resources",
            provider.id
        ))
        .into());
    }
    let oauth = provider.settings.oauth.as_ref().ok_or_else(|| Fault::new("a provider without endpoints"))?;
    let expires_at = (now + SUBJECT_TOKEN_TTL).min(order.token.validity.expires_at).min(order.ends_at);
    let keyring = app.keyring();
    let claims = AssertionClaims {
        iss: app.issuer.clone(),
        sub: registry.subject_claim(subject, &app.issuer).ok_or(Refusal::AccessTokenInvalid)?,
        idp: (subject.iss != app.issuer).then(|| subject.iss.clone()),
        aud: audience.clone(),
        client_id: order.client_id.clone(),
        scope: scope::join(&order.scopes),
        iat: seconds(now),
        exp: seconds(expires_at),
        jti: random::id(now)?.to_string(),
        act: order.token.act.as_ref().map(without_keys),
        may_act: PermittedActor {
            iss: oauth.issuer.as_ref().unwrap_or(audience).clone(),
            sub: oauth.client_id.clone(),
        },
        txn: order.event.txn.clone().unwrap_or_default(),
    };
    let kind = EventKind::VaultSubjectTokenIssued {
        provider: provider.id.clone(),
        exp: claims.exp,
        kid: keyring.active.kid().to_owned(),
    };
    let entry = Entry {
        now,
        single_use_ids: std::mem::take(single_use_ids),
        guards: order.guards.clone(),
        write: Write::Nothing,
        event: Some(Event {
            kind,
            jti: Some(claims.jti.clone()),
            scope: Some(claims.scope.clone()),
            audience: vec![audience.clone()],
            target: Some(provider.id.clone()),
            ..order.event.clone()
        }),
        session: None,
    };
    let recorded = app.ledger.record(entry).await;
    match recorded.map_err(|problem| Fault::new(format!("the ledger is not available: {problem:?}")))? {
        CommitOutcome::Committed(_) => {
            Ok(LedgerDecision::Granted(keyring.active.sign(jwt_assertion::TYP, &claims)?.into()))
        }
        CommitOutcome::Rejected(refusal) => Ok(LedgerDecision::Recorded(refusal)),
        CommitOutcome::Retry => Ok(LedgerDecision::Outdated),
    }
}

async fn exchange(
    app: &App,
    order: &ExchangeOrder,
    key: &OrderKey,
    subject_token: SecretString,
) -> Result<StoredToken, Error> {
    let provider = &order.provider;
    let asked = provider_client::ProviderExchange {
        settings: &key.exchange,
        subject_token: &subject_token,
        scopes: &order.scopes,
    };
    let refused = |problem: ProviderProblem| {
        tracing::error!(provider = provider.provider.id, error = %problem, "a provider refused to exchange a token");
        app.vault.rest(&key.connection, app.clock.now(), problem.pause());
        Err(Refusal::ProviderRefused.into())
    };
    let tokens = match provider_client::exchange(&app.vault.outbound, provider, asked).await {
        TokenEndpointResult::Tokens(tokens) => tokens,
        TokenEndpointResult::GrantRevoked(why) => return refused(ProviderProblem { why, next: Next::Later }),
        TokenEndpointResult::Rejected(problem) | TokenEndpointResult::NoTokens(problem) => {
            return refused(problem);
        }
        TokenEndpointResult::Unavailable(problem) => {
            tracing::warn!(provider = provider.provider.id, error = %problem, "a provider is unavailable");
            app.vault.rest(&key.connection, app.clock.now(), problem.pause());
            return Err(Refusal::ProviderUnavailable(problem.pause()).into());
        }
    };
    let stored = match exchanged::accept(&tokens, &order.scopes) {
        Ok(scopes) => exchanged_tokens::store(app, order, key, &tokens, scopes).await,
        Err(problem) => {
            tracing::error!(
                provider = provider.provider.id,
                ?problem,
                "a provider's token is not acceptable"
            );
            app.vault.rest(&key.connection, app.clock.now(), 1);
            Err(match problem {
                Unacceptable::Kind => Refusal::ProviderRefused,
                Unacceptable::Scope => Refusal::ConnectionScopeExceeded,
            }
            .into())
        }
    };
    if stored.is_err() {
        revoke_unused(app, provider, &provider_tokens(&tokens)).await;
    }
    stored
}
