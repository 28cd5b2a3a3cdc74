//! Tokens that a provider issues in exchange for a token of the chain (RFC 8693, RFC 7523). Owners connect nothing: the
//! connection is made by the first retrieval, and ends with the delegation.

use std::collections::BTreeSet;
use std::sync::Arc;

use secrecy::SecretString;
use time::{Duration, OffsetDateTime};
use uuid::Uuid;

use super::connections::{Wanted, blank, sealed};
use super::provider_client::{self, Next, ProviderProblem, TokenEndpointResult};
use super::refresh;
use super::unused_tokens::{provider_tokens, revoke_replaced, revoke_unused};
use crate::app::App;
use crate::domain::audit::detail::ConnectedBy;
use crate::domain::audit::{Actor, Event, EventKind};
use crate::domain::delegation::candidates::Memory;
use crate::domain::ledger::{CommitOutcome, Entry, Guards, SingleUseId, Write};
use crate::domain::provider::{self, ExchangeSettings, OpenedProvider};
use crate::domain::refusal::{Error, Refusal};
use crate::domain::subject::{TokenSource, VerifiedSubject};
use crate::domain::token;
use crate::domain::vault::credential_cache::OpenedConnection;
use crate::domain::vault::exchanged::{self, Purpose, Unacceptable};
use crate::domain::vault::{self, Connection, ConnectionState, Credential};
use crate::platform::fault::Fault;
use crate::services::issue::seconds;
use crate::services::transaction::AuditedTransaction;
use actchain_protocol::jwt_assertion::{self, AssertionClaims, PermittedActor, without_keys};
use actchain_protocol::token_answer::TokenSet;
use actchain_protocol::{random, scope};

/// Lifetime of the token that is sent to the provider: it is used once, at once.
const SUBJECT_TOKEN_TTL: Duration = Duration::minutes(1);

/// A retrieval of a token that a provider issues by exchange.
#[derive(Debug, Clone)]
pub(super) struct ExchangeOrder {
    /// The agent's token, which names the provider.
    pub(super) token: Arc<VerifiedSubject>,
    pub(super) client_id: String,
    /// When the delegation or one of its ancestors expires.
    pub(super) ends_at: OffsetDateTime,
    /// The event of the retrieval without its action.
    pub(super) event: Event,
    /// What the retrieval relies on, apart from the connection.
    pub(super) guards: Guards,
    pub(super) provider: Arc<OpenedProvider>,
    /// The scopes to request.
    pub(super) scopes: BTreeSet<String>,
    /// SHA-256 of an access token that the provider's API has refused.
    pub(super) rejected: Option<[u8; 32]>,
    pub(super) memory: Memory,
    pub(super) now: OffsetDateTime,
}

/// What identifies the connection of an order.
struct Key {
    connection: String,
    delegation: String,
    jti: Uuid,
    exchange: ExchangeSettings,
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

/// The connection of an order, with a token that does not expire soon: the stored one, or a new one. `None` if data that
/// the order rests on has changed. `single_use_ids` is emptied if the ids were recorded as used.
pub(super) async fn obtain(
    app: &Arc<App>,
    order: &ExchangeOrder,
    single_use_ids: &mut Vec<SingleUseId>,
) -> Result<Option<Arc<OpenedConnection>>, Error> {
    let key = order.key()?;
    if let Some(opened) = held(app, order, &key).await?
        && !order.wants_another(app, &opened)
    {
        return Ok(Some(opened));
    }
    let turn = app.vault.refreshing.get_with(key.connection.clone(), Arc::default);
    let _turn = turn.lock().await;
    // A request that waited finds the token of the previous one.
    let opened = held(app, order, &key).await?;
    if let Some(opened) = &opened
        && !order.wants_another(app, opened)
    {
        return Ok(Some(Arc::clone(opened)));
    }
    let result = match app.vault.rests_for(&key.connection, app.clock.now()) {
        Some(rest) => Err(Refusal::ProviderUnavailable(rest).into()),
        None => {
            require_place(app, order, &key).await?;
            let Some(subject_token) = issue(app, order, &key, single_use_ids).await? else { return Ok(None) };
            // Detached from the request, so that no token is lost, and not revoked, when the client disconnects.
            let task = app.detached.spawn({
                let (app, order, replaced) = (Arc::clone(app), order.clone(), opened.clone());
                async move {
                    let stored = exchange(&app, &order, &key, subject_token).await?;
                    if let Some(replaced) = replaced {
                        revoke_replaced(&app, replaced);
                    }
                    Ok(stored)
                }
            });
            task.await.map_err(|error| Fault::caused("exchanging a token at a provider", error))?
        }
    };
    match (result, opened) {
        (Ok(opened), _) => Ok(Some(opened)),
        // The present token is used until it expires.
        (Err(Error::Refused(Refusal::ProviderUnavailable(_))), Some(opened))
            if !opened.connection.has_ended(app.clock.now()) && !order.rejects(&opened) =>
        {
            Ok(Some(opened))
        }
        (Err(stop), _) => Err(stop),
    }
}

impl ExchangeOrder {
    fn key(&self) -> Result<Key, Error> {
        let (TokenSource::Local { jti, dlg: Some(delegation), .. }, Some(act)) =
            (&self.token.source, &self.token.act)
        else {
            return Err(Refusal::InsufficientScope.into());
        };
        let provider = &self.provider.provider;
        let exchange = provider.settings.oauth.as_ref().and_then(|oauth| oauth.exchange.clone());
        let purpose = Purpose { provider, delegation_id: delegation, act, scopes: &self.scopes };
        Ok(Key {
            connection: purpose.connection_id()?,
            delegation: delegation.clone(),
            jti: Uuid::parse_str(jti).map_err(|_| Refusal::AccessTokenInvalid)?,
            exchange: exchange.ok_or_else(|| Fault::new("a provider without its exchange"))?,
        })
    }

    fn wants_another(&self, app: &App, opened: &OpenedConnection) -> bool {
        let leeway = Duration::seconds(app.config.vault.refresh_leeway.into());
        opened.connection.is_due(self.now, leeway)
    }

    /// Whether the provider's API has refused the access token.
    fn rejects(&self, opened: &OpenedConnection) -> bool {
        self.rejected.is_some_and(|digest| opened.credential.has_access_token(&digest))
    }
}

/// The stored connection, if there is one. A cached one is enough to grant, because the ledger checks again.
async fn held(app: &App, order: &ExchangeOrder, key: &Key) -> Result<Option<Arc<OpenedConnection>>, Error> {
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

async fn read(app: &App, key: &Key) -> Result<Option<Arc<OpenedConnection>>, Error> {
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
/// the provider, its type is none that this server accepts, and only this server's client at the provider may use it. `None`
/// if the guarded data has changed.
async fn issue(
    app: &App,
    order: &ExchangeOrder,
    key: &Key,
    single_use_ids: &mut Vec<SingleUseId>,
) -> Result<Option<SecretString>, Error> {
    let (now, subject) = (app.clock.now(), &order.token.subject);
    let registry = app.registry();
    let audience = &key.exchange.subject_token_audience;
    let provider = &order.provider.provider;
    if *audience == app.issuer || registry.resources.contains_key(audience) {
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
    };
    let recorded = app.ledger.record(entry).await;
    match recorded.map_err(|problem| Fault::new(format!("the ledger is not available: {problem:?}")))? {
        CommitOutcome::Committed(_) => {
            Ok(Some(SecretString::from(keyring.active.sign(jwt_assertion::TYP, &claims)?)))
        }
        CommitOutcome::Rejected(refusal) => Err(refusal.into()),
        CommitOutcome::Retry => Ok(None),
    }
}

async fn exchange(
    app: &App,
    order: &ExchangeOrder,
    key: &Key,
    subject_token: SecretString,
) -> Result<Arc<OpenedConnection>, Error> {
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
        Ok(scopes) => store(app, order, key, &tokens, scopes).await,
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

/// Stores a token, as long as the agent's token and its delegation are active.
async fn store(
    app: &App,
    order: &ExchangeOrder,
    key: &Key,
    tokens: &TokenSet,
    scopes: BTreeSet<String>,
) -> Result<Arc<OpenedConnection>, Error> {
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
    if is_new && exchanged::count(work.connection(), &key.delegation, provider, now).await? >= exchanged::MOST
    {
        return Err(Refusal::RateLimited.into());
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
    let opened = Arc::new(OpenedConnection {
        connection: Connection { version: next.version + 1, ..next },
        credential: wanted.credential,
        provider: Arc::clone(&order.provider),
    });
    app.vault.opened.insert(id.clone(), Arc::clone(&opened));
    Ok(opened)
}

/// Refuses before anything is sent to the provider; `store` checks again.
async fn require_place(app: &App, order: &ExchangeOrder, key: &Key) -> Result<(), Error> {
    let (provider, now) = (&order.provider.provider.id, app.clock.now());
    let refusal = app
        .read(async |connection| {
            if exchanged::is_disconnected(connection, &key.delegation, provider).await? {
                return Ok(Some(Refusal::ConnectionUnusable(ConnectionState::Disconnected)));
            }
            let is_new = vault::store::find(connection, &key.connection).await?.is_none();
            let count = exchanged::count(connection, &key.delegation, provider, now).await?;
            Ok((is_new && count >= exchanged::MOST).then_some(Refusal::RateLimited))
        })
        .await?;
    refusal.map_or(Ok(()), |refusal| Err(refusal.into()))
}
