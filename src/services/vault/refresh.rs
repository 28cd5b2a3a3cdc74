//! Renews an access token before it expires. One refresh at a time for each connection, across all servers. New
//! tokens are stored before the request is answered. No provider request runs inside a transaction.

use std::sync::Arc;
use std::time::Duration;

use time::OffsetDateTime;
use tokio::time::Instant;
use uuid::Uuid;

use super::provider_client::{Next, ProviderProblem, Revoked, TokenEndpointResult, refresh as ask, revoke};
use crate::app::App;
use crate::domain::audit::{Actor, Event, EventKind};
use crate::domain::refusal::{Error, Refusal};
use crate::domain::vault::credential_cache::OpenedConnection;
use crate::domain::vault::store::RefreshLease;
use crate::domain::vault::{self, Connection, ConnectionState, Credential, ProviderTokens};
use crate::platform::fault::Fault;
use crate::services::transaction::AuditedTransaction;
use actchain_protocol::random;
use actchain_protocol::token_answer::{Scope, TokenSet};

/// Maximum duration of one attempt, in seconds: longer than the provider's timeout, shorter than `PATIENCE`, so that
/// waiting requests outlast a killed server.
const LEASE_SECONDS: f64 = 15.0;
/// How long a request waits for a refresh by another server.
const PATIENCE: Duration = Duration::from_secs(25);
/// Interval between checks for the result of another server.
const READ_INTERVAL: Duration = Duration::from_millis(100);
/// Attempts to store new tokens, one second apart, while the database is unavailable.
const STORES: u32 = 30;
/// Pauses between attempts.
const PAUSES: [Duration; 2] = [Duration::from_millis(250), Duration::from_millis(1_000)];
/// Pause after a success response without tokens. The refresh token may be used up, and some servers revoke a grant
/// when a refresh token is reused (RFC 9700 §4.14.2).
const AFTER_A_LOSS: time::Duration = time::Duration::minutes(1);
/// A token renewed less than this ago is not renewed after a rejection: its age is not the reason.
const SETTLED: time::Duration = time::Duration::minutes(1);

/// The connection with an access token that does not expire within the leeway. Where renewal fails, the present token
/// is used until it expires.
pub(super) async fn fresh(
    app: &Arc<App>,
    opened: Arc<OpenedConnection>,
    now: OffsetDateTime,
) -> Result<Arc<OpenedConnection>, Error> {
    let id = opened.connection.id.clone();
    let turn = app.vault.refreshing.get_with(id.clone(), Arc::default);
    let _turn = turn.lock().await;
    let leeway = time::Duration::seconds(app.config.vault.refresh_leeway.into());
    let until = Instant::now() + PATIENCE;
    let version = opened.connection.version;
    // A request that waited finds the result of the previous request in the cache.
    let mut opened = match app.vault.opened.get(&id) {
        Some(newer) if newer.connection.version > version => newer,
        _ => opened,
    };
    let mut has_read = false;
    loop {
        let connection = &opened.connection;
        // A token that was renewed since this request began is used, however short its lifetime: one renewal is enough
        // for all requests that waited.
        let is_renewed = connection.version > version && connection.rejected_at.is_none();
        if !connection.is_due(now, leeway) || (is_renewed && !connection.has_ended(now)) {
            return Ok(opened);
        }
        let rest = connection.rests_for(app.clock.now());
        let hopeless = !connection.has_refresh_token || rest.is_some() || app.vault.unwell.contains_key(&id);
        if hopeless && !connection.has_ended(now) {
            return Ok(opened);
        }
        // A cached connection is enough to grant, because the ledger checks again. A refusal needs a read.
        if hopeless && has_read {
            if !connection.has_refresh_token && mark_needs_reconnect(app, connection, "expired", now).await? {
                return Err(Refusal::ConnectionUnusable(ConnectionState::NeedsReconnect).into());
            }
            return Err(Refusal::ProviderUnavailable(rest.unwrap_or(1)).into());
        }
        let lease = random::id(now)?;
        let terms = RefreshLease { id: lease, seconds: LEASE_SECONDS, now: app.clock.now() };
        let present = opened.connection.version;
        let leased = !hopeless
            && app
                .read(async |connection| vault::store::mark_leased(connection, &id, present, terms).await)
                .await?;
        if leased {
            // Detached from the request, so that a single-use refresh token is not lost when the client disconnects.
            let task = app.detached.spawn({
                let (app, opened) = (Arc::clone(app), Arc::clone(&opened));
                async move {
                    let outcome = attempt(&app, &opened, lease, now).await;
                    if !matches!(outcome, Ok(Outcome::Fresh(_))) {
                        let id = opened.connection.id.as_str();
                        // Others may try at once; if that fails, too, the lease ends by itself.
                        let release = app.read(async |connection| {
                            vault::store::mark_released(connection, id, lease).await
                        });
                        drop(release.await);
                    }
                    outcome
                }
            });
            match task.await.map_err(|error| Fault::caused("refreshing", error))?? {
                Outcome::Fresh(opened) => return Ok(opened),
                Outcome::Changed => {}
                Outcome::Unavailable(until) => {
                    // Without a retry time from the provider, no request is sent for a moment.
                    if until.is_none() {
                        app.vault.unwell.insert(id, ());
                    }
                    let connection = Connection { retry_at: until, ..opened.connection.clone() };
                    return until_expiry(opened, &connection, app.clock.now());
                }
            }
        }
        // Another server refreshes, or the credential has been replaced.
        let found = app.read(async |connection| app.vault.open(connection, &id).await).await?;
        let Some(found) = found else {
            let one = app.read(async |connection| vault::store::find(connection, &id).await).await?;
            let state = one.map_or(ConnectionState::Disconnected, |one| one.state());
            return Err(Refusal::ConnectionUnusable(state).into());
        };
        opened = found;
        if opened.connection.state() != ConnectionState::Active {
            return Err(Refusal::ConnectionUnusable(opened.connection.state()).into());
        }
        app.vault.opened.insert(id.clone(), Arc::clone(&opened));
        has_read = true;
        if Instant::now() >= until {
            let connection = opened.connection.clone();
            return until_expiry(opened, &connection, app.clock.now());
        }
        if !hopeless && opened.connection.is_due(now, leeway) {
            tokio::time::sleep(READ_INTERVAL).await;
        }
    }
}

/// The connection until its access token expires; after that, a refusal with the time to retry.
fn until_expiry(
    opened: Arc<OpenedConnection>,
    rest: &Connection,
    now: OffsetDateTime,
) -> Result<Arc<OpenedConnection>, Error> {
    if !opened.connection.has_ended(now) {
        return Ok(opened);
    }
    Err(Refusal::ProviderUnavailable(rest.rests_for(now).unwrap_or(1)).into())
}

enum Outcome {
    Fresh(Arc<OpenedConnection>),
    /// The connection has another credential now, or was disconnected.
    Changed,
    /// The provider is unavailable; with the earliest time to retry, if known.
    Unavailable(Option<OffsetDateTime>),
}

/// Requests new tokens from the provider; repeats a request that the provider could not process.
async fn attempt(
    app: &App,
    opened: &OpenedConnection,
    lease: Uuid,
    now: OffsetDateTime,
) -> Result<Outcome, Error> {
    // The cached provider may have had another address: secrets are sent only to the stored address.
    let found = app.read(async |connection| app.vault.open(connection, &opened.connection.id).await).await?;
    let same = found.filter(|found| found.connection.version == opened.connection.version);
    let Some(opened) = same.as_deref() else { return Ok(Outcome::Changed) };
    let Credential::Oauth2(tokens) = &opened.credential else { return Ok(Outcome::Unavailable(None)) };
    let connection = &opened.connection;
    let mut pauses = PAUSES.iter();
    loop {
        let problem = match ask(&app.vault.outbound, &opened.provider, tokens).await {
            TokenEndpointResult::Tokens(new) => {
                return Ok(store(app, opened, tokens, new, now).await?);
            }
            TokenEndpointResult::GrantRevoked(code) => {
                if mark_needs_reconnect(app, connection, &code, now).await? {
                    return Err(Refusal::ConnectionUnusable(ConnectionState::NeedsReconnect).into());
                }
                return Ok(Outcome::Changed);
            }
            TokenEndpointResult::NoTokens(problem) => {
                tracing::error!(connection = connection.id, error = %problem, "a provider answered no tokens");
                // While the present token is valid, waiting costs nothing.
                let until = connection.expires_at.unwrap_or(now).max(app.clock.now() + AFTER_A_LOSS);
                return rest(app, connection, &problem, Some(until)).await;
            }
            TokenEndpointResult::Rejected(problem) => {
                tracing::error!(connection = connection.id, error = %problem, "a provider refuses the requests of this server");
                return rest(app, connection, &problem, None).await;
            }
            TokenEndpointResult::Unavailable(problem) => {
                tracing::warn!(connection = connection.id, error = %problem, "a provider is unavailable");
                problem
            }
        };
        let Some(pause) = pauses.next().filter(|_| problem.next == Next::AtOnce) else {
            return rest(app, connection, &problem, None).await;
        };
        tokio::time::sleep(*pause).await;
        let id = connection.id.as_str();
        let extended = app
            .read(async |connection| vault::store::mark_extended(connection, id, lease, LEASE_SECONDS).await)
            .await?;
        if !extended {
            return Ok(Outcome::Changed);
        }
    }
}

/// Sends nothing to the provider until the retry time, on every server.
async fn rest(
    app: &App,
    connection: &Connection,
    problem: &ProviderProblem,
    least: Option<OffsetDateTime>,
) -> Result<Outcome, Error> {
    let said = match problem.next {
        Next::After(seconds) => i64::try_from(seconds).ok().map(time::Duration::seconds),
        Next::AtOnce | Next::Later => None,
    };
    let until = said.map(|rest| app.clock.now() + rest).max(least);
    if let Some(until) = until {
        let (id, version) = (connection.id.as_str(), connection.version);
        app.read(async |connection| vault::store::mark_resting(connection, id, version, until).await).await?;
        app.vault.opened.invalidate(&connection.id);
    }
    Ok(Outcome::Unavailable(until))
}

/// The provider's API has rejected the access token: the next retrieval renews the token, on any server. A token
/// that cannot be renewed, or was renewed recently, is left unchanged.
pub(super) async fn reject(app: &App, one: &Connection, now: OffsetDateTime) -> Result<(), Fault> {
    let settled = one.refreshed_at.is_none_or(|at| now - at >= SETTLED);
    let renewable = one.has_refresh_token || one.delegation_id.is_some();
    if !renewable || !settled {
        return Ok(());
    }
    let (id, version) = (one.id.as_str(), one.version);
    app.read(async |connection| vault::store::mark_rejected(connection, id, version, now).await).await?;
    app.vault.opened.invalidate(&one.id);
    Ok(())
}

/// Stores the new tokens before the request is answered.
async fn store(
    app: &App,
    opened: &OpenedConnection,
    old: &ProviderTokens,
    tokens: TokenSet,
    now: OffsetDateTime,
) -> Result<Outcome, Fault> {
    let mut next = opened.connection.clone();
    match tokens.scope {
        Scope::Known(scopes) => next.scopes = Some(scopes),
        Scope::Unsaid => {}
        // The new scopes are unknown and may be wider, so no token limited by scopes can retrieve the credential.
        Scope::Unknown => next.scopes = None,
    }
    let refresh_token = tokens.refresh_token.or_else(|| old.refresh_token.clone());
    next.has_refresh_token = refresh_token.is_some();
    (next.retry_at, next.updated_at) = (None, now);
    let renewed = tokens.access_token.is_some();
    if renewed {
        next.expires_at = tokens.expires_in.map(|seconds| now + time::Duration::seconds(seconds.into()));
        (next.refreshed_at, next.obtained_at) = (Some(now), now);
    } else {
        // The old access token is kept, and the new refresh token is not used at once.
        next.retry_at = Some(now + AFTER_A_LOSS);
        tracing::error!(connection = next.id, "a provider answered a refresh token without an access token");
    }
    let credential = Credential::Oauth2(ProviderTokens {
        access_token: tokens.access_token.unwrap_or_else(|| old.access_token.clone()),
        token_type: if renewed { tokens.token_type } else { old.token_type.clone() },
        refresh_token,
    });
    let mut last = Fault::new("a refreshed credential was not stored");
    for _ in 0..STORES {
        match put(app, opened, &next, &credential, now).await {
            Ok(Outcome::Changed) => {
                revoke_unused_tokens(app, opened, &credential).await?;
                return Ok(Outcome::Changed);
            }
            Ok(_) if !renewed => return Ok(Outcome::Unavailable(next.retry_at)),
            Ok(outcome) => return Ok(outcome),
            Err(fault) => last = fault,
        }
        tokio::time::sleep(PAUSES[1]).await;
    }
    Err(last)
}

/// Revokes the new tokens if the connection was disconnected during the request: the disconnect revoked the previous
/// tokens only.
async fn revoke_unused_tokens(
    app: &App,
    opened: &OpenedConnection,
    credential: &Credential,
) -> Result<(), Fault> {
    let id = opened.connection.id.as_str();
    let found = app.read(async |connection| vault::store::find(connection, id).await).await?;
    if let Credential::Oauth2(tokens) = credential
        && found.is_none_or(|found| found.state() == ConnectionState::Disconnected)
        && matches!(revoke(&app.vault.outbound, &opened.provider, tokens).await, Revoked::Not(_))
    {
        tracing::warn!(connection = id, "the tokens of a disconnected connection were not revoked");
    }
    Ok(())
}

async fn put(
    app: &App,
    opened: &OpenedConnection,
    next: &Connection,
    credential: &Credential,
    now: OffsetDateTime,
) -> Result<Outcome, Fault> {
    let mut work = AuditedTransaction::begin(&app.pool).await?;
    let found = vault::store::find_for_update(work.connection(), &next.id).await?;
    let same =
        found.is_some_and(|found| found.version == next.version && found.state() == ConnectionState::Active);
    if !same {
        return Ok(Outcome::Changed);
    }
    let sealed = app.vault.keys.seal(work.connection(), &next.aad(), &credential.to_bytes()?).await?;
    let next = Connection { sealed: Some(sealed), ..next.clone() };
    vault::store::put(work.connection(), &next).await?;
    let kind = EventKind::ConnectionRefreshed {
        provider: next.provider.clone(),
        scopes: next.scopes.clone(),
        rejected: opened.connection.rejected_at.is_some(),
    };
    work.commit(&[about(kind, &next, now)]).await?;
    let stored = Arc::new(OpenedConnection {
        connection: Connection { version: next.version + 1, rejected_at: None, ..next },
        credential: credential.clone(),
        provider: Arc::clone(&opened.provider),
    });
    app.vault.opened.insert(stored.connection.id.clone(), Arc::clone(&stored));
    Ok(Outcome::Fresh(stored))
}

/// Records that only the owner can renew the credential; `false` if the connection has another credential now, or none.
async fn mark_needs_reconnect(
    app: &App,
    one: &Connection,
    code: &str,
    now: OffsetDateTime,
) -> Result<bool, Fault> {
    let mut work = AuditedTransaction::begin(&app.pool).await?;
    let marked = vault::store::mark_needs_reconnect(work.connection(), &one.id, one.version, now).await?;
    app.vault.opened.invalidate(&one.id);
    if !marked {
        return Ok(false);
    }
    let (provider, error) = (one.provider.clone(), code.to_owned());
    let kind = EventKind::ConnectionNeedsReconnect { provider, error };
    work.commit(&[about(kind, one, now)]).await?;
    Ok(true)
}

fn about(kind: EventKind, one: &Connection, now: OffsetDateTime) -> Event {
    Event {
        subject: Some(one.owner.clone()),
        target: Some(one.id.clone()),
        ..Event::new(now, kind, Actor::Server)
    }
}
