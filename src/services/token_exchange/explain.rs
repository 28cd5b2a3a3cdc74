//! Explains the response to an exchange, by the same verification and decision. Nothing is recorded, counted or
//! issued, and the client is not authenticated: for operators and administrators only.

use std::collections::BTreeSet;

use serde::Serialize;
use time::OffsetDateTime;
use uuid::Uuid;

use super::choose::{Exchange, choose};
use super::context::ExchangeContext;
use crate::app::App;
use crate::domain::audit::RequestOrigin;
use crate::domain::authority::ExchangeDecision;
use crate::domain::client::{Client, GrantType};
use crate::domain::principal::Principal;
use crate::domain::refusal::{ClientProblem, Error, Refusal};
use crate::domain::subject::{TokenSource, VerifiedSubject};
use crate::domain::token;
use crate::platform::clock::rfc3339;
use crate::platform::fault::Fault;
use crate::services::client_authentication::{self, VerifiedClient};
use crate::services::request_context::RequestContext;
use crate::services::verify_token::TokenVerifier;
use actchain_protocol::jose::Jws;
use actchain_protocol::scope;
use actchain_protocol::token_exchange::{ExchangeRequest, PresentedToken, RequestedAccess, TokenType};
use actchain_protocol::token_problem::TokenProblem;

/// A hypothetical exchange.
#[derive(Debug)]
pub struct Question {
    pub token: String,
    /// Declared token type; `None` means access token if this server issued the token, else JWT.
    pub token_type: Option<TokenType>,
    /// The issuer that the client would name (`subject_issuer`).
    pub subject_issuer: Option<String>,
    /// The client that would request the exchange.
    pub client_id: String,
    /// Thumbprint of the proof's key; `None` means the client's first registered key.
    pub jkt: Option<String>,
    pub wanted: RequestedAccess,
    pub delegation_id: Option<String>,
}

/// A rule of an exchange, in the order in which the rules are checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ExchangeRule {
    /// The client is registered and enabled.
    Client,
    /// The client may use token exchange.
    GrantType,
    /// The subject token is valid and was issued to be presented by this client.
    SubjectToken,
    /// The subject token and all tokens that it was derived from are active.
    SubjectActive,
    /// A delegation gives the requested authority.
    Authority,
}

const RULES: [ExchangeRule; 5] = [
    ExchangeRule::Client,
    ExchangeRule::GrantType,
    ExchangeRule::SubjectToken,
    ExchangeRule::SubjectActive,
    ExchangeRule::Authority,
];

/// The response that the exchange would have.
#[derive(Debug)]
pub struct Explanation {
    /// The subject of the token, once verified.
    pub subject: Option<Principal>,
    /// The rule that refuses the exchange, or the last one.
    pub rule: ExchangeRule,
    pub result: Result<ExchangeDecision, Refusal>,
}

/// Whether a rule is met.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RuleOutcome {
    Met,
    Refused,
    /// An earlier rule refuses the exchange.
    NotReached,
}

#[derive(Debug, Clone, Serialize)]
pub struct RuleResult {
    pub rule: ExchangeRule,
    pub outcome: RuleOutcome,
}

/// The explanation as commands and the management API show it.
#[derive(Debug, Serialize)]
pub struct ExchangeCheck {
    pub granted: bool,
    pub rules: Vec<RuleResult>,
    /// The subject of the token, once verified.
    pub subject: Option<Principal>,
    #[serde(flatten)]
    pub result: CheckResult,
}

#[derive(Debug, Serialize)]
#[serde(untagged)]
pub enum CheckResult {
    Granted {
        scope: String,
        audience: BTreeSet<String>,
        expires_at: String,
        delegation_path: Vec<String>,
        confirmations_needed: Vec<String>,
    },
    Refused {
        reason: &'static str,
        cause: Option<&'static str>,
        sentence: &'static str,
    },
}

impl From<Explanation> for ExchangeCheck {
    fn from(Explanation { subject, rule, result }: Explanation) -> Self {
        let granted = result.is_ok();
        let mut outcome = RuleOutcome::Met;
        let rules = RULES.map(|one| {
            let reached = outcome;
            if one == rule && !granted {
                outcome = RuleOutcome::NotReached;
                return RuleResult { rule: one, outcome: RuleOutcome::Refused };
            }
            RuleResult { rule: one, outcome: reached }
        });
        let result = match result {
            Ok(decision) => CheckResult::Granted {
                scope: scope::join(&decision.scopes),
                audience: decision.audiences,
                expires_at: rfc3339(decision.expires_at),
                delegation_path: decision.path,
                confirmations_needed: decision.ceremonies,
            },
            Err(refusal) => CheckResult::Refused {
                reason: refusal.reason(),
                cause: refusal.cause(),
                sentence: refusal.sentence(),
            },
        };
        Self { granted, rules: rules.into(), subject, result }
    }
}

/// Explains an exchange to an administrator.
///
/// # Errors
/// A refusal of other callers, or a fault where the response cannot be determined.
pub async fn check(ctx: &RequestContext<'_>, app: &App, question: &Question) -> Result<Explanation, Error> {
    ctx.caller.require_administrator()?;
    Ok(explain(app, question, ctx.now).await?)
}

/// Explains an exchange.
///
/// # Errors
/// A fault where the response cannot be determined.
pub async fn explain(app: &App, question: &Question, now: OffsetDateTime) -> Result<Explanation, Fault> {
    let mut reached = Reached { rule: ExchangeRule::Client, subject: None };
    let result = match decide(app, question, &mut reached, now).await {
        Ok(decision) => Ok(decision),
        Err(Error::Refused(refusal)) => Err(refusal),
        Err(Error::Failed(fault)) => return Err(fault),
    };
    let Reached { rule, subject } = reached;
    Ok(Explanation { subject, rule, result })
}

/// How far a decision came.
struct Reached {
    rule: ExchangeRule,
    subject: Option<Principal>,
}

async fn decide(
    app: &App,
    question: &Question,
    reached: &mut Reached,
    now: OffsetDateTime,
) -> Result<ExchangeDecision, Error> {
    let unknown = Refusal::InvalidClient(ClientProblem::Unknown);
    let client = client_authentication::find(app, &question.client_id).await?.ok_or(unknown)?;
    if client.is_inactive() {
        return Err(Refusal::InvalidClient(ClientProblem::Disabled).into());
    }
    reached.rule = ExchangeRule::GrantType;
    if !client.grant_types.contains(&GrantType::TokenExchange) {
        return Err(Refusal::UnauthorizedClient.into());
    }
    reached.rule = ExchangeRule::SubjectToken;
    let request = ExchangeRequest {
        subject: PresentedToken {
            token: question.token.clone(),
            kind: token_type(app, question),
            issuer: question.subject_issuer.clone(),
        },
        actor: None,
        wanted: question.wanted.clone(),
        delegation_id: question.delegation_id.clone(),
        session_id: None,
    };
    let registry = app.registry();
    let subject = TokenVerifier { app, registry: &registry, now }.subject(&request.subject, &client).await?;
    reached.subject = Some(subject.subject.clone());
    reached.rule = ExchangeRule::SubjectActive;
    check_active(app, &subject, now).await?;
    reached.rule = ExchangeRule::Authority;
    let jkt = question.jkt.clone().or_else(|| first_key(&client));
    let mut context =
        ExchangeContext::new(app, &RequestOrigin::default(), VerifiedClient { client, asserted: None }, now);
    context.jkt = context.client.bound_key(jkt);
    choose(app, &mut context, Exchange { request: &request, subject: &subject, actor_expires_at: None }).await
}

fn token_type(app: &App, question: &Question) -> TokenType {
    let issued_here =
        || Jws::parse(&question.token).is_some_and(|jws| jws.text("iss") == Some(app.issuer.as_str()));
    match question.token_type {
        Some(token_type) => token_type,
        None if issued_here() => TokenType::AccessToken,
        None => TokenType::Jwt,
    }
}

fn first_key(client: &Client) -> Option<String> {
    client.dpop_keys.first().cloned().or_else(|| client.keys.first().map(|key| key.thumbprint().to_owned()))
}

/// Checks, as the ledger does at an exchange, that the token and all tokens it was derived from are active.
async fn check_active(app: &App, subject: &VerifiedSubject, now: OffsetDateTime) -> Result<(), Error> {
    let TokenSource::Local { jti, .. } = &subject.source else { return Ok(()) };
    let claims = |_| Refusal::SubjectTokenInvalid(TokenProblem::Claims);
    let jti = Uuid::parse_str(jti).map_err(claims)?;
    let found = app.read(async |connection| token::store::standing(&app.rows, connection, jti).await).await?;
    found.ok_or(Refusal::SubjectTokenInvalid(TokenProblem::NotRecorded))?.check(now)?;
    Ok(())
}
