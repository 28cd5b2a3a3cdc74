//! Refresh tokens (RFC 6749 §6): issued with the token of a hop, and used in place of a subject token.

use std::sync::Arc;

use time::Duration;
use zeroize::Zeroizing;

use super::choose::{Exchange, choose};
use super::confirmations::{Decided, confirm_first};
use super::context::{ExchangeContext, plan};
use super::links::chain;
use super::prepared::{Answering, PreparedToken};
use crate::app::App;
use crate::domain::client::GrantType;
use crate::domain::ledger::OfflineUse;
use crate::domain::refresh_token::problem::RefreshTokenProblem;
use crate::domain::refresh_token::store::RefreshTokenInsert;
use crate::domain::refresh_token::{self, OfflineGrant, RefreshToken, StoredRefreshToken};
use crate::domain::refusal::{Error, Refusal};
use crate::platform::fault::{Context as _, Fault};
use crate::services::verify_token::TokenVerifier;
use actchain_protocol::random;
use actchain_protocol::token_exchange::RequestedAccess;
use uuid::Uuid;

/// A request with `grant_type=refresh_token`.
#[derive(Debug)]
pub struct RefreshRequest {
    pub refresh_token: Zeroizing<String>,
    pub wanted: RequestedAccess,
}

/// The longest time that a refresh token may stay unused.
pub(super) fn max_idle(app: &App) -> Duration {
    Duration::seconds(app.config.offline.max_idle.into())
}

/// The refresh token of a hop: where every delegation of the path grants offline access, the client may use refresh tokens,
/// and a key binds it (RFC 9700 §4.14.2).
pub(super) fn issued_with(
    app: &App,
    context: &ExchangeContext,
    plan: &PreparedToken,
) -> Result<OfflineUse, Fault> {
    let decision = &plan.decision;
    let (Some(subject), Some(jkt), Some(act), Some(delegation_id)) =
        (&context.subject, &context.jkt, &decision.act, decision.path.last())
    else {
        return Ok(OfflineUse::None);
    };
    let may_refresh = context.client.grant_types.contains(&GrantType::RefreshToken);
    // The holder of the subject token got its refresh token at the hop.
    let is_hop = !subject.is_held_by(&context.client.client_id, &app.issuer);
    if !(decision.offline_access && may_refresh && is_hop) {
        return Ok(OfflineUse::None);
    }
    let id = random::id(context.now)?.to_string();
    let token = app.refresh_tokens.token(&id);
    let digest =
        refresh_token::digest(&token).ok_or_else(|| Fault::new("a refresh token of another form"))?;
    let token = RefreshToken {
        id,
        digest,
        delegation_id: delegation_id.clone(),
        client_id: context.client.client_id.clone(),
        jkt: jkt.clone(),
        subject: subject.subject.clone(),
        granted: OfflineGrant::of(subject, act.clone()),
        login: subject.login.clone(),
        txn: plan.txn.to_string(),
        // The ledger decides the session.
        session_id: context.event.session_id.clone(),
        issued_at: context.now,
    };
    Ok(OfflineUse::Issue(Box::new(RefreshTokenInsert::new(token, max_idle(app), plan.jti)?)))
}

/// Decides a request with a refresh token as the exchange of a token with the same rights.
pub(super) async fn refresh(
    app: &App,
    request: &RefreshRequest,
    context: &mut ExchangeContext,
) -> Result<Decided, Error> {
    if !context.client.grant_types.contains(&GrantType::RefreshToken) {
        return Err(Refusal::UnauthorizedClient.into());
    }
    let unknown = Refusal::RefreshTokenInvalid(RefreshTokenProblem::Unknown);
    let digest = refresh_token::digest(&request.refresh_token).ok_or(unknown)?;
    let found = app
        .read(async |connection| refresh_token::store::find(&app.rows, connection, &digest).await)
        .await?
        .ok_or(unknown)?;
    if found.token.client_id != context.client.client_id {
        return Err(Refusal::RefreshTokenInvalid(RefreshTokenProblem::OfAnotherClient).into());
    }
    let token = &found.token;
    let subject = Arc::new(token.subject(context.now));
    context.subject = Some(Arc::clone(&subject));
    context.event.subject = Some(subject.subject.clone());
    context.event.parent_jti = Some(token.id.clone());
    context.event.act_chain = chain(subject.act.as_ref());
    context.event.session_id.clone_from(&token.session_id);
    context.event.txn = Some(token.txn.clone());
    context.event.delegation_id = Some(token.delegation_id.clone());
    context.event.standing_grant_id.clone_from(&found.standing_grant_id);
    usable(app, &found, context)?;
    let registry = Arc::clone(&context.registry);
    let verifier = TokenVerifier { app, registry: &registry, now: context.now };
    if !verifier.is_named_uniquely(&subject).await? {
        return Err(Refusal::SubjectAmbiguous.into());
    }
    context.guard_token(&subject)?;
    let id = Uuid::parse_str(&token.id).context("the id of a refresh token")?;
    let txn = Uuid::parse_str(&token.txn).context("the chain of a refresh token")?;
    let exchange =
        Exchange { wanted: &request.wanted, named: None, subject: &subject, actor_expires_at: None };
    let decision = choose(app, context, exchange).await?;
    context.path.clone_from(&decision.path);
    if !decision.offline_access {
        return Err(Refusal::RefreshTokenInvalid(RefreshTokenProblem::NotGranted).into());
    }
    if let Some(asking) = confirm_first(app, context, &decision).await? {
        return Ok(asking);
    }
    context.offline = OfflineUse::Use(id);
    Ok(Decided::Plan(Box::new(plan(app, context, decision, txn, Answering::Refresh).await?)))
}

/// Checks the key of the request, and that the refresh token is neither revoked nor idle.
fn usable(app: &App, found: &StoredRefreshToken, context: &ExchangeContext) -> Result<(), Refusal> {
    match &context.jkt {
        None => return Err(Refusal::DpopProofMissing),
        Some(jkt) if *jkt != found.token.jkt => {
            return Err(Refusal::RefreshTokenInvalid(RefreshTokenProblem::OtherKey));
        }
        Some(_) => {}
    }
    if let Some(problem) = found.problem {
        return Err(problem.refusal());
    }
    found.check(max_idle(app), context.now).map_err(Refusal::RefreshTokenInvalid)
}
