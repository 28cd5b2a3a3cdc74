//! Explains the response to an exchange, by the same verification and decision. Nothing is recorded, counted or
//! issued, and the client is not authenticated: for operators and administrators only.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde::Serialize;
use time::OffsetDateTime;
use uuid::Uuid;

use super::choose::{Exchange, choose};
use super::context::ExchangeContext;
use super::hypothetical::HypotheticalSubjects;
use super::rules::{ExchangeRule, RULES, RuleOutcome, RuleResult};
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
use actchain_protocol::token_exchange::{PresentedToken, RequestedAccess, TokenType};
use actchain_protocol::token_problem::TokenProblem;

/// The subject token of a hypothetical exchange.
#[derive(Debug)]
pub enum PresentedSubject {
    Token {
        token: String,
        /// Declared token type; `None` means access token if this server issued the token, else JWT.
        token_type: Option<TokenType>,
        /// The issuer that the client would name (`subject_issuer`).
        issuer: Option<String>,
    },
    /// A valid token of a trusted issuer for this user, without actors and without limits.
    User(Principal),
    /// A valid token of this server under a delegation.
    Under(String),
}

/// A hypothetical exchange.
#[derive(Debug)]
pub struct Question {
    pub subject: PresentedSubject,
    /// The client that would request the exchange.
    pub client_id: String,
    /// Thumbprint of the proof's key; `None` means the client's first registered key.
    pub jkt: Option<String>,
    pub wanted: RequestedAccess,
    pub delegation_id: Option<String>,
}

/// The response that the exchange would have.
#[derive(Debug)]
pub struct Explanation {
    /// The subject of the token, once verified.
    pub subject: Option<Principal>,
    /// The rule that refuses the exchange, or the last one.
    pub rule: ExchangeRule,
    /// Earlier rules that were not checked.
    pub unchecked: Vec<ExchangeRule>,
    /// Rules that no token was presented for.
    pub assumed: Vec<ExchangeRule>,
    pub result: Result<ExchangeDecision, Refusal>,
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
    fn from(Explanation { subject, rule, unchecked, assumed, result }: Explanation) -> Self {
        let granted = result.is_ok();
        let mut is_over = false;
        let rules = RULES.map(|one| {
            let outcome = match one {
                one if is_over || unchecked.contains(&one) => RuleOutcome::NotReached,
                one if one == rule && !granted => RuleOutcome::Refused,
                one if assumed.contains(&one) => RuleOutcome::Assumed,
                _ => RuleOutcome::Met,
            };
            is_over |= outcome == RuleOutcome::Refused;
            RuleResult { rule: one, outcome }
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
    let Reached { mut rule, subject } = reached;
    let mut unchecked = Vec::new();
    if let (Err(refusal), ExchangeRule::Actor) = (&result, rule) {
        rule = ExchangeRule::of_decision(*refusal);
        // Without requested targets, the requested scopes select them.
        if rule == ExchangeRule::Scope && question.wanted.audiences.is_none() {
            unchecked.push(ExchangeRule::AuthorizationDetails);
        }
    }
    let assumed = match question.subject {
        PresentedSubject::Token { .. } => Vec::new(),
        PresentedSubject::User(_) => vec![ExchangeRule::SubjectToken, ExchangeRule::SubjectActive],
        PresentedSubject::Under(_) => vec![ExchangeRule::SubjectToken],
    };
    Ok(Explanation { subject, rule, unchecked, assumed, result })
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
    let hypothetical = HypotheticalSubjects { app, now };
    let subject = match &question.subject {
        PresentedSubject::Token { token, token_type, issuer } => {
            let kind = token_type_of(app, token, *token_type);
            let presented = PresentedToken { token: token.clone(), kind, issuer: issuer.clone() };
            let registry = app.registry();
            TokenVerifier { app, registry: &registry, now }.subject(&presented, &client).await?
        }
        PresentedSubject::User(who) => Arc::new(hypothetical.of_user(who)?),
        PresentedSubject::Under(id) => Arc::new(hypothetical.under(id).await?),
    };
    reached.subject = Some(subject.subject.clone());
    reached.rule = ExchangeRule::SubjectActive;
    if let PresentedSubject::Token { .. } = question.subject {
        check_active(app, &subject, now).await?;
    }
    subject.validity.check(now).map_err(Refusal::SubjectTokenInvalid)?;
    reached.rule = ExchangeRule::Actor;
    let jkt = question.jkt.clone().or_else(|| first_key(&client));
    let mut context =
        ExchangeContext::new(app, &RequestOrigin::default(), VerifiedClient { client, asserted: None }, now);
    context.jkt = context.client.bound_key(jkt);
    let exchange = Exchange {
        wanted: &question.wanted,
        named: question.delegation_id.as_deref(),
        subject: &subject,
        actor_expires_at: None,
    };
    choose(app, &mut context, exchange).await
}

fn token_type_of(app: &App, token: &str, declared: Option<TokenType>) -> TokenType {
    let issued_here = || Jws::parse(token).is_some_and(|jws| jws.text("iss") == Some(app.issuer.as_str()));
    match declared {
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
