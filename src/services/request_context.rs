//! The context of management requests: the caller, what services need, idempotent replay of responses, and the
//! recording of refused operations.

use std::sync::Arc;

use serde_json::{Value, json};
use sqlx::PgConnection;
use sqlx::postgres::PgPool;
use time::OffsetDateTime;
use uuid::Uuid;

use super::access_token_auth::{require_active_client, user_not_revoked};
use super::transaction::{AuditedTransaction, Authorized};
use crate::app::App;
use crate::domain::audit::{Action, Actor, Event, Origin};
use crate::domain::capability::CapabilityLevels;
use crate::domain::client::Client;
use crate::domain::delegation::{self, DelegationPath};
use crate::domain::idempotency::{self, Claim, Key, Stored};
use crate::domain::principal::Principal;
use crate::domain::refusal::{Error, Refusal};
use crate::domain::row_mac::RowMac;
use crate::platform::config::Config;
use crate::platform::fault::{Context, Fault};
use crate::protocol::jwt_time::SKEW;

/// What the services of the management API need.
#[derive(Debug, Clone, Copy)]
pub struct Desk<'a> {
    pub pool: &'a PgPool,
    pub issuer: &'a str,
    /// Capabilities in their order.
    pub capability_levels: &'a CapabilityLevels,
    /// As configured.
    pub config: &'a Config,
    /// Computes and verifies the MACs of rows.
    pub rows: &'a RowMac,
}

impl<'a> Desk<'a> {
    /// The context of a running server.
    pub fn of(app: &'a App) -> Self {
        Self {
            pool: &app.pool,
            issuer: &app.issuer,
            capability_levels: &app.capability_levels,
            config: &app.config,
            rows: &app.rows,
        }
    }
}

/// The caller of a management request.
#[derive(Debug, Clone)]
pub enum Caller {
    User(AuthenticatedUser),
    /// An agent with its own DPoP-bound token.
    Agent(AuthenticatedClient),
    /// An administrator with a DPoP-bound token.
    Admin(AuthenticatedClient),
    /// An auditor with a DPoP-bound token; can only read the audit log.
    Auditor(AuthenticatedClient),
    /// An operator with a shell on the machine.
    Operator,
}

/// A user with a token of a trusted issuer.
#[derive(Debug, Clone)]
pub struct AuthenticatedUser {
    pub who: Principal,
    /// Issue time of the token, by the issuer's clock.
    pub since: OffsetDateTime,
    pub until: OffsetDateTime,
}

/// A client with a DPoP-bound access token of this server.
#[derive(Debug, Clone)]
pub struct AuthenticatedClient {
    pub client: Arc<Client>,
    pub jkt: String,
    pub jti: Uuid,
}

impl Caller {
    /// The actor as recorded in events.
    pub fn actor(&self) -> Actor {
        match self {
            Self::User(user) => Actor::user(user.who.clone()),
            Self::Agent(holder) | Self::Admin(holder) | Self::Auditor(holder) => {
                Actor::client(&holder.client.client_id, Some(holder.jkt.clone()))
            }
            Self::Operator => Actor::operator(),
        }
    }

    /// The principal of the caller; `None` for an operator.
    pub fn principal(&self, issuer: &str) -> Option<Principal> {
        match self {
            Self::User(user) => Some(user.who.clone()),
            Self::Agent(holder) | Self::Admin(holder) | Self::Auditor(holder) => {
                Some(Principal::new(issuer, holder.client.client_id.clone()))
            }
            Self::Operator => None,
        }
    }

    /// Whether the caller's credentials are still valid and not revoked.
    pub async fn is_active(
        &self,
        rows: &RowMac,
        connection: &mut PgConnection,
        now: OffsetDateTime,
    ) -> Result<bool, Fault> {
        match self {
            Self::User(user) => {
                Ok(now < user.until + SKEW && user_not_revoked(connection, &user.who, user.since).await?)
            }
            Self::Agent(holder) | Self::Admin(holder) | Self::Auditor(holder) => {
                let found =
                    require_active_client(rows, connection, (&holder.client.client_id, holder.jti), now)
                        .await?;
                Ok(found.is_some_and(|client| client.kind == holder.client.kind))
            }
            Self::Operator => Ok(true),
        }
    }

    /// Whether the caller is an administrator or an operator.
    pub fn administers(&self) -> bool {
        matches!(self, Self::Admin(..) | Self::Operator)
    }

    pub fn is(&self, who: &Principal, issuer: &str) -> bool {
        self.principal(issuer).as_ref() == Some(who)
    }

    /// Whether it may see a delegation: it is on the path, or administers.
    pub fn may_see(&self, path: &DelegationPath, issuer: &str) -> bool {
        self.administers() || self.principal(issuer).is_some_and(|who| path.involves(&who, issuer))
    }
}

/// A request to the management API.
#[derive(Debug, Clone)]
pub struct Call {
    pub caller: Caller,
    pub origin: Origin,
    /// Idempotency key of the request.
    pub idempotency_key: Option<Key>,
    pub now: OffsetDateTime,
}

/// A response of the management API.
#[derive(Debug, Clone, PartialEq)]
pub struct ApiResponse {
    pub status: u16,
    /// Location of the created resource.
    pub location: Option<String>,
    pub body: Value,
    /// Whether the response is a stored response to an earlier request with the same idempotency key.
    pub replayed: bool,
}

impl ApiResponse {
    /// A response 200 with a body.
    pub fn with(body: impl serde::Serialize) -> Result<Self, Fault> {
        let body = serde_json::to_value(body).context("writing an answer")?;
        Ok(Self { status: 200, location: None, body, replayed: false })
    }
}

/// Result of beginning an operation that ends authority.
pub(super) enum Entry<T> {
    /// The request is a repetition; this is the stored response.
    Before(ApiResponse),
    /// The transaction has the exclusive authority lock and the check has passed under the lock.
    Now(AuditedTransaction, T),
}

impl Call {
    /// A request by an operator on the machine.
    pub fn of_operator(now: OffsetDateTime) -> Self {
        Self { caller: Caller::Operator, origin: Origin::default(), idempotency_key: None, now }
    }

    /// An event with the caller as actor.
    pub fn event(&self, action: Action) -> Event {
        Event { origin: self.origin.clone(), ..Event::new(self.now, action, self.caller.actor()) }
    }

    /// An event of whoever calls about the last delegation of a path.
    pub fn event_about(&self, desk: &Desk<'_>, action: Action, path: &DelegationPath) -> Event {
        Event {
            origin: self.origin.clone(),
            ..Event::of_delegation(self.now, action, self.caller.actor(), (path, desk.issuer))
        }
    }

    /// Re-checks, inside the transaction, that the caller is still active, then claims the idempotency key until
    /// commit or rollback. For a repeated request, returns the stored response.
    pub(super) async fn authorize_and_claim(
        &self,
        desk: &Desk<'_>,
        work: &mut AuditedTransaction,
    ) -> Result<Option<ApiResponse>, Error> {
        if !self.caller.is_active(desk.rows, work.connection(), self.now).await? {
            return Err(Refusal::AccessTokenInvalid.into());
        }
        let Some(key) = &self.idempotency_key else { return Ok(None) };
        match idempotency::store::claim(work.connection(), &self.name(desk), key, self.now).await? {
            Claim::New => Ok(None),
            Claim::Reused => Err(Refusal::IdempotencyReused.into()),
            Claim::Repeated(stored) => Ok(Some(ApiResponse {
                status: stored.status,
                location: stored.location,
                body: serde_json::from_str(&stored.body).context("reading an answer that was kept")?,
                replayed: true,
            })),
        }
    }

    /// Begins an operation that ends authority. `check` decides whether the caller is allowed and whether there is
    /// anything to end. It runs before the exclusive lock is taken, and again under the lock; the second result
    /// counts.
    ///
    /// # Errors
    /// The error of `check`. A request that the first check refuses has not taken the lock.
    pub(super) async fn begin_exclusive<T>(
        &self,
        desk: &Desk<'_>,
        check: impl AsyncFn(&mut PgConnection) -> Result<T, Error>,
    ) -> Result<Entry<T>, Error> {
        let mut work = AuditedTransaction::begin_unlocked(desk.pool).await?;
        if let Some(done) = self.authorize_and_claim(desk, &mut work).await? {
            return Ok(Entry::Before(done));
        }
        let (authorized, _) = Authorized::by(check(work.connection())).await?;
        work.abandon().await?;
        let mut work = AuditedTransaction::begin_exclusive(desk.pool, authorized).await?;
        if let Some(done) = self.authorize_and_claim(desk, &mut work).await? {
            return Ok(Entry::Before(done));
        }
        let found = check(work.connection()).await?;
        Ok(Entry::Now(work, found))
    }

    /// Stores the response in the transaction of the change.
    pub(super) async fn store_response(
        &self,
        desk: &Desk<'_>,
        work: &mut AuditedTransaction,
        done: &ApiResponse,
    ) -> Result<(), Fault> {
        let Some(key) = &self.idempotency_key else { return Ok(()) };
        idempotency::store::put_answer(work.connection(), &self.name(desk), key, &stored(done)).await
    }

    /// Adds to the stored response a count that is known only after the commit.
    pub(super) async fn update_stored_response(
        &self,
        desk: &Desk<'_>,
        done: &ApiResponse,
    ) -> Result<(), Fault> {
        let Some(key) = &self.idempotency_key else { return Ok(()) };
        let mut connection = desk.pool.acquire().await?;
        idempotency::store::put_answer(&mut connection, &self.name(desk), key, &stored(done)).await
    }

    fn name(&self, desk: &Desk<'_>) -> String {
        let who = self.caller.principal(desk.issuer);
        who.map_or_else(|| "operator".to_owned(), |who| who.key())
    }
}

fn stored(done: &ApiResponse) -> Stored {
    Stored { status: done.status, location: done.location.clone(), body: done.body.to_string() }
}

/// The target of a refused operation, as named by the caller.
#[derive(Debug, Clone, Copy)]
pub(super) enum AuditTarget<'a> {
    /// The target does not exist, or none was named.
    Nothing,
    /// A delegation, or the parent of a delegation to be created.
    Delegation(&'a str),
    Other(&'a str),
}

/// Maximum length of a recorded name, in bytes. A longer text could be a token and is not recorded.
const MOST_NAME: usize = 128;

/// Records the refusal of an operation on a delegation and returns the result unchanged.
pub(super) async fn record_delegation_refusal(
    desk: &Desk<'_>,
    call: &Call,
    made: (&'static str, AuditTarget<'_>),
    result: Result<ApiResponse, Error>,
) -> Result<ApiResponse, Error> {
    record_refusal(desk, call, (Action::DelegationRefused, made), result).await
}

/// Records a refusal and returns the result unchanged. Refusals that only concern the polling rate are not recorded.
pub(super) async fn record_refusal(
    desk: &Desk<'_>,
    call: &Call,
    (action, (made, about)): (Action, (&'static str, AuditTarget<'_>)),
    result: Result<ApiResponse, Error>,
) -> Result<ApiResponse, Error> {
    let Err(Error::Refused(refusal)) = &result else { return result };
    if matches!(refusal, Refusal::RateLimited | Refusal::SlowDown) {
        return result;
    }
    let mut work = AuditedTransaction::begin(desk.pool).await?;
    let path = match about {
        AuditTarget::Delegation(id) => delegation::store::path(desk.rows, work.connection(), id).await?,
        AuditTarget::Nothing | AuditTarget::Other(_) => None,
    };
    let mut event = match &path {
        Some(path) => call.event_about(desk, action, path),
        None => Event { subject: call.caller.principal(desk.issuer), ..call.event(action) },
    }
    .refused(*refusal);
    let named = match about {
        AuditTarget::Nothing => None,
        AuditTarget::Delegation(text) | AuditTarget::Other(text) => Some(text),
    };
    let is_name = |text: &&str| text.len() <= MOST_NAME && !text.chars().any(char::is_control);
    event.target = named.filter(is_name).map(str::to_owned);
    event.detail = Some(json!({"operation": made, "state": refusal.state()}));
    work.commit(&[event]).await?;
    result
}
