//! The token endpoint: authenticate, verify, decide, record, issue.

mod choose;
mod confirmations;
mod context;
mod explain;
mod hypothetical;
mod links;
mod prepared;
mod refresh;
mod rules;

use std::sync::Arc;

use time::{Duration, OffsetDateTime};
use uuid::Uuid;

use self::choose::{Exchange, choose};
use self::confirmations::{Decided, confirm_first};
use self::context::{ExchangeContext, plan};
pub use self::explain::{
    CheckResult, ExchangeCheck, Explanation, PresentedSubject, Question, check, explain,
};
pub(super) use self::links::chain;
use self::prepared::{Answering, PreparedToken};
pub use self::refresh::RefreshRequest;
pub use self::rules::{ExchangeRule, RuleOutcome, RuleResult};
use super::client_authentication::count_exception;
use super::client_request::{ClientCredentialsInput, authenticate};
use super::dpop::{self, DpopTarget, VerifiedDpopKey};
use super::issue::IssuedToken;
use super::standing_grants;
use super::verify_token::TokenVerifier;
use crate::app::App;
use crate::domain::audit::Actor;
use crate::domain::authority::{self, ClientDecisionInput};
use crate::domain::client::GrantType;
use crate::domain::delegation::candidates::Memory;
use crate::domain::ledger::{CommitOutcome, Entry, SingleUseId};
use crate::domain::refusal::{Error, Refusal};
use crate::domain::standing_grant::suspension::ProvenClientKey;
use crate::domain::subject::TokenSource;
use crate::platform::fault::Fault;
use actchain_protocol::random;
use actchain_protocol::token_exchange::{ExchangeRequest, RequestedAccess};
use actchain_protocol::token_problem::TokenProblem;

#[derive(Debug)]
pub enum GrantRequest {
    /// A token for the client itself.
    ClientCredentials(RequestedAccess),
    /// A token exchange (RFC 8693).
    TokenExchange(Box<ExchangeRequest>),
    /// A token by a refresh token (RFC 6749 §6).
    RefreshToken(Box<RefreshRequest>),
}

impl GrantRequest {
    fn wanted(&self) -> &RequestedAccess {
        match self {
            Self::ClientCredentials(wanted) => wanted,
            Self::TokenExchange(request) => &request.wanted,
            Self::RefreshToken(request) => &request.wanted,
        }
    }
}

/// A parsed token request. An invalid part is reported after client authentication, so that the refusal can be
/// recorded.
#[derive(Debug)]
pub struct TokenRequest {
    /// The client's credentials, DPoP proof and origin.
    pub from: ClientCredentialsInput,
    pub asked: Result<GrantRequest, Refusal>,
}

const PATH: &str = "/oauth/token";

/// How often a request is decided again after data it rests on has changed.
const ATTEMPTS: u32 = 4;

/// Handles a token request. Every response to a known client has been recorded.
pub async fn token(app: &App, request: &TokenRequest, now: OffsetDateTime) -> Result<IssuedToken, Error> {
    // Before any signature is verified: the time of a server with too much work belongs to the requests that wait.
    if app.ledger.is_full() {
        return Err(Fault::new("the ledger is not available: its queue is full").into());
    }
    let mut earlier = Earlier::default();
    for _ in 0..ATTEMPTS {
        if let Some(issued) = attempt(app, request, &mut earlier, now).await? {
            return Ok(issued);
        }
    }
    Err(Fault::new("the grounds of a decision changed faster than it could be made").into())
}

/// Effects of earlier attempts of the same request.
#[derive(Default)]
struct Earlier {
    /// Ids that earlier attempts have used up.
    consumed: Vec<SingleUseId>,
    /// Whether the request was counted against the client's limit.
    counted: bool,
    memory: Memory,
}

/// One attempt; `None` if a repetition is needed.
async fn attempt(
    app: &App,
    request: &TokenRequest,
    earlier: &mut Earlier,
    now: OffsetDateTime,
) -> Result<Option<IssuedToken>, Error> {
    let authenticated = authenticate(app, &request.from, now, earlier.memory).await?;
    // Counted in metrics only: a log entry for each request over the limit would defeat the limit.
    if !earlier.counted && app.limits.requests.count(&authenticated.client.client_id).is_err() {
        return Err(Refusal::RateLimited.into());
    }
    earlier.counted = true;
    let mut context = ExchangeContext::new(app, &request.from.origin, authenticated, now);
    context.memory = earlier.memory;
    let decided = decide(app, request, &mut context).await;
    let (entry, plan) = match decided {
        Ok(Decided::Plan(plan)) => (context.entry(Some(&plan), None)?, Ok(plan)),
        Ok(Decided::Ceremony(asking, path)) => {
            let refusal = Refusal::CeremonyRequired(asking.ceremony.id);
            (context.entry_asking(asking, path)?, Err(refusal))
        }
        Err(Error::Refused(refusal)) => {
            if let (Refusal::ResourceRefused, Ok(asked)) = (refusal, &request.asked) {
                context.name_near_target(asked.wanted());
            }
            (context.entry(None, Some(refusal))?, Err(refusal))
        }
        Err(stop @ Error::Failed(_)) => return Err(stop),
    };
    let fresh = |single_use_id: &SingleUseId| !earlier.consumed.contains(single_use_id);
    let entry = Entry { single_use_ids: entry.single_use_ids.into_iter().filter(fresh).collect(), ..entry };
    let single_use_ids = entry.single_use_ids.clone();
    match app.ledger.record(entry).await {
        Ok(CommitOutcome::Committed(committed)) => match plan {
            Ok(plan) => {
                let exception = context.client.exception_of_token(context.jkt.as_deref());
                exception.into_iter().for_each(count_exception);
                Ok(Some(plan.answer(app, committed)?))
            }
            Err(refusal) => Err(refusal.into()),
        },
        Ok(CommitOutcome::Rejected(refusal)) => Err(refusal.into()),
        Ok(CommitOutcome::Retry) => {
            earlier.consumed.extend(single_use_ids);
            earlier.memory = Memory::Outdated;
            app.caches.clients.invalidate(&context.client.client_id);
            if let Some(search) = &context.search {
                app.caches.paths.invalidate(search);
            }
            app.refresh_registry().await?;
            standing_grants::suspend_unpinned(&app.pool, &request.from.origin, &context.proven, now).await?;
            Ok(None)
        }
        Err(unrecorded) => Err(Fault::new(format!("the ledger is not available: {unrecorded:?}")).into()),
    }
}

async fn decide(app: &App, request: &TokenRequest, context: &mut ExchangeContext) -> Result<Decided, Error> {
    let proof = request.from.proof.as_ref().map_err(|refusal| *refusal)?;
    if let Some(VerifiedDpopKey { jkt, single_use_id, .. }) =
        dpop::prove(app, &context.client, proof.as_deref(), DpopTarget::post(PATH), context.now)?
    {
        context.single_use_ids.push(single_use_id);
        // A key that the client may not use suspends, too: its secret is in other hands.
        let own = ProvenClientKey::all(&context.client.client_id, std::iter::once(&jkt));
        context.proven.extend(own);
        if !context.client.may_use_key(&jkt) {
            return Err(Refusal::DpopProofKeyUnknown.into());
        }
        context.jkt = context.client.bound_key(Some(jkt));
        context.event.actor = Actor::client(&context.client.client_id, context.jkt.clone());
    }
    match request.asked.as_ref().map_err(|refusal| *refusal)? {
        GrantRequest::ClientCredentials(wanted) => {
            client_credentials(app, wanted, context).await.map(Box::new).map(Decided::Plan)
        }
        GrantRequest::TokenExchange(request) => exchange(app, request, context).await,
        GrantRequest::RefreshToken(request) => refresh::refresh(app, request, context).await,
    }
}

async fn client_credentials(
    app: &App,
    wanted: &RequestedAccess,
    context: &mut ExchangeContext,
) -> Result<PreparedToken, Error> {
    if !context.client.grant_types.contains(&GrantType::ClientCredentials) {
        return Err(Refusal::UnauthorizedClient.into());
    }
    let subject = authority::principal_of(&context.client, &app.issuer);
    context.event.subject = Some(subject);
    let most = Duration::seconds(app.config.tokens.max_ttl.into());
    let decision = authority::decide_client_credentials(&ClientDecisionInput {
        now: context.now,
        issuer: &app.issuer,
        client: &context.client,
        jkt: context.jkt.as_deref(),
        registry: context.registry.as_ref(),
        wanted,
        capability_levels: &app.capability_levels,
        max_ttl: most,
    })?;
    let txn = random::id(context.now)?;
    plan(app, context, decision, txn, Answering::Client).await
}

async fn exchange(
    app: &App,
    request: &ExchangeRequest,
    context: &mut ExchangeContext,
) -> Result<Decided, Error> {
    if !context.client.grant_types.contains(&GrantType::TokenExchange) {
        return Err(Refusal::UnauthorizedClient.into());
    }
    let registry = Arc::clone(&context.registry);
    let verifier = TokenVerifier { app, registry: &registry, now: context.now };
    let subject = verifier.subject(&request.subject, &context.client).await?;
    context.subject = Some(Arc::clone(&subject));
    context.event.subject = Some(subject.subject.clone());
    context.event.parent_jti = subject.jti().map(str::to_owned);
    context.event.act_chain = chain(subject.act.as_ref());
    context.asks_for_session(&subject, request.session_id.as_deref())?;
    context.guard_token(&subject)?;
    let txn = match &subject.source {
        TokenSource::Local { txn, .. } => {
            Uuid::parse_str(txn).map_err(|_| Refusal::SubjectTokenInvalid(TokenProblem::Claims))?
        }
        TokenSource::TrustedIssuer { .. } => random::id(context.now)?,
    };
    context.event.txn = Some(txn.to_string());
    let actor_expires_at = match &request.actor {
        None => None,
        Some(actor) => {
            let actor = verifier.actor(actor, &context.client, context.jkt.as_deref()).await?;
            context.guard_token(&actor)?;
            context.actor = Some(Arc::clone(&actor));
            Some(actor.validity.expires_at)
        }
    };
    let exchange = Exchange {
        wanted: &request.wanted,
        named: request.delegation_id.as_deref(),
        subject: &subject,
        actor_expires_at,
    };
    let decision = choose(app, context, exchange).await?;
    context.path.clone_from(&decision.path);
    context.event.standing_grant_id.clone_from(&decision.standing_grant_id);
    if let Some(asking) = confirm_first(app, context, &decision).await? {
        return Ok(asking);
    }
    let plan = plan(app, context, decision, txn, Answering::Exchange).await?;
    context.offline = refresh::issued_with(app, context, &plan)?;
    Ok(Decided::Plan(Box::new(plan)))
}
