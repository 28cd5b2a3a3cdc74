//! The management API at which delegations, agents and principals are administered: who comes, what has to be known, how an answer
//! is kept for whoever repeats the request, and that refused moves are recorded, too.

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

/// What the flows of the management API need to know.
#[derive(Debug, Clone, Copy)]
pub struct Desk<'a> {
    pub pool: &'a PgPool,
    pub issuer: &'a str,
    /// Capabilities in their order.
    pub capability_levels: &'a CapabilityLevels,
    /// As configured.
    pub config: &'a Config,
    /// Makes and checks the MACs of rows.
    pub rows: &'a RowMac,
}

impl<'a> Desk<'a> {
    /// The management API of a running server.
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

/// Who comes to the management API.
#[derive(Debug, Clone)]
pub enum Caller {
    User(AuthenticatedUser),
    /// An agent for itself, under a key.
    Agent(AuthenticatedClient),
    /// An administrator, under a key.
    Admin(AuthenticatedClient),
    /// An auditor, under a key: reads the audit log, and gets nowhere else.
    Auditor(AuthenticatedClient),
    /// Whoever has a shell on the machine.
    Operator,
}

/// A user with a token of its issuer.
#[derive(Debug, Clone)]
pub struct AuthenticatedUser {
    pub who: Principal,
    /// When the token was issued, by the clock of its issuer.
    pub since: OffsetDateTime,
    pub until: OffsetDateTime,
}

/// A client of ours with a token of its own.
#[derive(Debug, Clone)]
pub struct AuthenticatedClient {
    pub client: Arc<Client>,
    pub jkt: String,
    pub jti: Uuid,
}

impl Caller {
    /// As the log names it.
    pub fn actor(&self) -> Actor {
        match self {
            Self::User(user) => Actor::user(user.who.clone()),
            Self::Agent(holder) | Self::Admin(holder) | Self::Auditor(holder) => {
                Actor::client(&holder.client.client_id, Some(holder.jkt.clone()))
            }
            Self::Operator => Actor::operator(),
        }
    }

    /// Who it is; nobody in particular for an operator.
    pub fn principal(&self, issuer: &str) -> Option<Principal> {
        match self {
            Self::User(user) => Some(user.who.clone()),
            Self::Agent(holder) | Self::Admin(holder) | Self::Auditor(holder) => {
                Some(Principal::new(issuer, holder.client.client_id.clone()))
            }
            Self::Operator => None,
        }
    }

    /// Whether it may still come under what it came with.
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

    /// Whether it administers this server.
    pub fn administers(&self) -> bool {
        matches!(self, Self::Admin(..) | Self::Operator)
    }

    /// Whether it is this principal.
    pub fn is(&self, who: &Principal, issuer: &str) -> bool {
        self.principal(issuer).as_ref() == Some(who)
    }

    /// Whether it may see a delegation: it is on the path, or administers.
    pub fn may_see(&self, path: &DelegationPath, issuer: &str) -> bool {
        self.administers() || self.principal(issuer).is_some_and(|who| path.involves(&who, issuer))
    }
}

/// A call at the management API.
#[derive(Debug, Clone)]
pub struct Call {
    pub caller: Caller,
    pub origin: Origin,
    /// How it would be repeated.
    pub idempotency_key: Option<Key>,
    pub now: OffsetDateTime,
}

/// An answer of the management API.
#[derive(Debug, Clone, PartialEq)]
pub struct ApiResponse {
    pub status: u16,
    /// Where what was made is.
    pub location: Option<String>,
    pub body: Value,
    /// Whether it was said before.
    pub replayed: bool,
}

impl ApiResponse {
    /// An answer with something to say.
    pub fn with(body: impl serde::Serialize) -> Result<Self, Fault> {
        let body = serde_json::to_value(body).context("writing an answer")?;
        Ok(Self { status: 200, location: None, body, replayed: false })
    }
}

/// What a call that ends something begins with.
pub(super) enum Entry<T> {
    /// The call is a repetition: the answer that was kept.
    Before(ApiResponse),
    /// The gate is closed, and the check was passed behind it.
    Now(AuditedTransaction, T),
}

impl Call {
    /// A call of whoever has a shell on the machine.
    pub fn of_operator(now: OffsetDateTime) -> Self {
        Self { caller: Caller::Operator, origin: Origin::default(), idempotency_key: None, now }
    }

    /// An event of whoever calls.
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

    /// The first thing in any work: behind the gate, whoever calls still has to be somebody. Gives the answer again if the
    /// call is repeated; else claims its key, until the work is committed or dropped.
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

    /// Begins a call that ends something. The check says whether the caller may, and that there is something to end. It is
    /// made before the gate is closed, and again behind it: its second result is the one that holds.
    ///
    /// # Errors
    /// What the check says. A call that is refused the first time has not closed the gate.
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

    /// Keeps the answer with the change that it is about.
    pub(super) async fn store_response(
        &self,
        desk: &Desk<'_>,
        work: &mut AuditedTransaction,
        done: &ApiResponse,
    ) -> Result<(), Fault> {
        let Some(key) = &self.idempotency_key else { return Ok(()) };
        idempotency::store::put_answer(work.connection(), &self.name(desk), key, &stored(done)).await
    }

    /// Adds to a kept answer what could be counted only when the change was in force.
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

/// What a refused move was about, as the caller named it.
#[derive(Debug, Clone, Copy)]
pub(super) enum AuditTarget<'a> {
    /// Nothing that there is.
    Nothing,
    /// A delegation, or what it should hang below.
    Delegation(&'a str),
    Other(&'a str),
}

/// The longest name of anything; texts that are longer may be anything, a token too, and are not written down.
const MOST_NAME: usize = 128;

/// Records a refused move of a delegation, and passes the answer on.
pub(super) async fn record_delegation_refusal(
    desk: &Desk<'_>,
    call: &Call,
    made: (&'static str, AuditTarget<'_>),
    result: Result<ApiResponse, Error>,
) -> Result<ApiResponse, Error> {
    record_refusal(desk, call, (Action::DelegationRefused, made), result).await
}

/// Records a refused move, and passes the answer on. What is about nothing but the pace of asking is not recorded.
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
