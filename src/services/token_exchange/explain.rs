//! Explains the response to an exchange, by the same verification and decision. Nothing is recorded, counted or
//! issued, and the client is not authenticated: for operators only.

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
use crate::platform::fault::Fault;
use crate::services::client_authentication::{self, VerifiedClient};
use crate::services::verify_token::TokenVerifier;
use actchain_protocol::jose::Jws;
use actchain_protocol::token_exchange::{ExchangeRequest, PresentedToken, RequestedAccess, TokenType};
use actchain_protocol::token_problem::TokenProblem;

/// A hypothetical exchange.
#[derive(Debug)]
pub struct Question {
    pub token: String,
    /// Declared token type; `None` means access token if this server issued the token, else JWT.
    pub token_type: Option<TokenType>,
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
    pub result: Result<ExchangeDecision, Refusal>,
}

/// Explains an exchange.
///
/// # Errors
/// A fault where the response cannot be determined.
pub async fn explain(app: &App, question: &Question, now: OffsetDateTime) -> Result<Explanation, Fault> {
    let mut subject = None;
    let result = match decide(app, question, &mut subject, now).await {
        Ok(decision) => Ok(decision),
        Err(Error::Refused(refusal)) => Err(refusal),
        Err(Error::Failed(fault)) => return Err(fault),
    };
    Ok(Explanation { subject, result })
}

async fn decide(
    app: &App,
    question: &Question,
    about: &mut Option<Principal>,
    now: OffsetDateTime,
) -> Result<ExchangeDecision, Error> {
    let unknown = Refusal::InvalidClient(ClientProblem::Unknown);
    let client = client_authentication::find(app, &question.client_id).await?.ok_or(unknown)?;
    if client.is_inactive() {
        return Err(Refusal::InvalidClient(ClientProblem::Disabled).into());
    }
    if !client.grant_types.contains(&GrantType::TokenExchange) {
        return Err(Refusal::UnauthorizedClient.into());
    }
    let request = ExchangeRequest {
        subject: PresentedToken { token: question.token.clone(), kind: token_type(app, question) },
        actor: None,
        wanted: question.wanted.clone(),
        delegation_id: question.delegation_id.clone(),
    };
    let registry = app.registry();
    let subject = TokenVerifier { app, registry: &registry, now }.subject(&request.subject, &client).await?;
    *about = Some(subject.subject.clone());
    check_active(app, &subject, now).await?;
    let jkt = question.jkt.clone().or_else(|| first_key(&client));
    let mut context =
        ExchangeContext::new(app, &RequestOrigin::default(), VerifiedClient { client, asserted: None }, now);
    context.jkt = jkt;
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
