//! `POST /oauth/token`.

use std::sync::Arc;

use actix_web::{HttpRequest, HttpResponse, web};
use zeroize::Zeroizing;

use crate::app::App;
use crate::domain::audit::store::LeafRef;
use crate::domain::ceremony;
use crate::domain::delegation;
use crate::domain::refusal::{Error, Refusal};
use crate::domain::session;
use crate::domain::vault::is_usable;
use crate::http::credentials;
use crate::http::oauth::response::{self, RequestedGrant};
use crate::http::params::{Params, form};
use crate::services::client_request::OauthEndpoint;
use crate::services::issue::IssuedToken;
use crate::services::token_exchange::{GrantRequest, RefreshRequest, TokenRequest, token};
use crate::services::vault::{self, VaultExchangeRequest};
use actchain_protocol::authorization_details::Details;
use actchain_protocol::jose::MAX_TOKEN_BYTES;
use actchain_protocol::token_exchange::{
    self, ExchangeRequest, InvalidParameter, PresentedToken, RequestedAccess, TokenType, VAULT_TOKEN,
};

/// Names the session where a client cannot add a parameter.
const SESSION_HEADER: &str = "actchain-session";
const REFRESH_TOKEN: &str = "refresh_token";

pub(in crate::http) async fn post(
    request: HttpRequest,
    payload: web::Payload,
    app: web::Data<App>,
) -> HttpResponse {
    let mut grant = RequestedGrant::Other;
    let result = answer_to(&request, payload, app.clone().into_inner(), &mut grant).await;
    let nonce = app.next_nonce();
    let result = match result {
        Ok(TokenEndpointAnswer::Issued(issued)) => Ok(issued),
        Ok(TokenEndpointAnswer::Vault(document, place)) => {
            let mut response = HttpResponse::Ok();
            response.content_type("application/json");
            response::receipt(&app, &mut response, place);
            return response::uncached(response.body(document.to_vec()), nonce);
        }
        Err(stop) => Err(stop),
    };
    let reserved_by = reserved_by(&app, &result).await;
    response::token(&app, &result, nonce, reserved_by.as_deref(), grant)
}

/// The result of a token request.
enum TokenEndpointAnswer {
    /// An access token of this server.
    Issued(IssuedToken),
    /// A token of a third party from the vault, as a complete JSON response.
    Vault(Zeroizing<Vec<u8>>, Option<LeafRef>),
}

/// The delegation whose use needs a confirmation; the client needs it together with the ceremony's id.
async fn reserved_by(app: &App, result: &Result<IssuedToken, Error>) -> Option<String> {
    let Err(Error::Refused(Refusal::CeremonyRequired(id))) = result else { return None };
    let found = app.read(async |connection| ceremony::store::delegation_of(connection, *id).await).await;
    found.unwrap_or_else(|fault| {
        tracing::warn!(error = %fault, "the delegation of a ceremony was not found");
        None
    })
}

async fn answer_to(
    request: &HttpRequest,
    payload: web::Payload,
    app: Arc<App>,
    grant: &mut RequestedGrant,
) -> Result<TokenEndpointAnswer, Error> {
    let params = form(request, payload, app.config.limits.max_body_bytes).await?;
    if params.get("grant_type") == Some(REFRESH_TOKEN) {
        *grant = RequestedGrant::RefreshToken;
    }
    // The time after the whole request has arrived: a slow body must not extend the validity of a proof.
    let now = app.clock.now();
    let from = credentials::client_request(OauthEndpoint::Token, request, &params)?;
    let most_targets = app.config.limits.max_targets;
    let exchanges = params.get("grant_type") == Some(token_exchange::GRANT_TYPE);
    if exchanges && params.get("requested_token_type") == Some(VAULT_TOKEN) {
        let request = VaultExchangeRequest { from, asked: of_the_vault(&params, most_targets) };
        let answered = vault::exchange(&app, &request, now).await;
        return answered.map(|(document, place)| TokenEndpointAnswer::Vault(document, place));
    }
    let request = TokenRequest { from, asked: asked(request, &params, most_targets) };
    token(&app, &request, now).await.map(TokenEndpointAnswer::Issued)
}

/// Exactly one connection, and no parameter that would restrict a third party's token.
fn of_the_vault(params: &Params, most_targets: usize) -> Result<(PresentedToken, Details), Refusal> {
    let subject = presented(params, "subject_token", "subject_token_type")?
        .ok_or(Refusal::Malformed("subject_token and subject_token_type are required"))?;
    let others = [
        "actor_token",
        "actor_token_type",
        "scope",
        "audience",
        "resource",
        "capability_ceiling",
        "delegation_id",
        "subject_issuer",
    ];
    if others.iter().any(|name| !params.all(name).is_empty()) {
        return Err(Refusal::Malformed("A request for a stored credential has authorization_details only"));
    }
    let details = wanted(params, most_targets)?.details.ok_or(Refusal::AuthorizationDetailsMalformed)?;
    Ok((subject, details))
}

fn asked(request: &HttpRequest, params: &Params, most_targets: usize) -> Result<GrantRequest, Refusal> {
    match params.get("grant_type") {
        None => Err(Refusal::Malformed("grant_type is missing")),
        Some("client_credentials") => Ok(GrantRequest::ClientCredentials(wanted(params, most_targets)?)),
        Some(token_exchange::GRANT_TYPE) => {
            let exchange = ExchangeRequest {
                session_id: session_id(request, params),
                ..exchange(params, most_targets)?
            };
            Ok(GrantRequest::TokenExchange(Box::new(exchange)))
        }
        Some(REFRESH_TOKEN) => refreshing(params, most_targets),
        Some(_) => Err(Refusal::UnsupportedGrant),
    }
}

fn refreshing(params: &Params, most_targets: usize) -> Result<GrantRequest, Refusal> {
    let token = params.get("refresh_token").ok_or(Refusal::Malformed("refresh_token is missing"))?;
    Ok(GrantRequest::RefreshToken(Box::new(RefreshRequest {
        refresh_token: Zeroizing::new(token.to_owned()),
        wanted: wanted(params, most_targets)?,
    })))
}

fn wanted(params: &Params, most_targets: usize) -> Result<RequestedAccess, Refusal> {
    let details = match params.get("authorization_details") {
        None => None,
        Some(text) => {
            let details = Details::parse(text).filter(|details| details.0.iter().all(is_usable));
            Some(details.ok_or(Refusal::AuthorizationDetailsMalformed)?)
        }
    };
    let (audiences, resources) = (params.all("audience"), params.all("resource"));
    let wanted = token_exchange::wanted(params.get("scope"), audiences, resources, most_targets);
    let capability = params.get("capability_ceiling").map(str::to_owned);
    wanted.map(|wanted| RequestedAccess { details, capability, ..wanted }).map_err(|bad| match bad {
        InvalidParameter::Scope => Refusal::ScopeMalformed,
        InvalidParameter::Target => Refusal::ResourceMalformed,
        InvalidParameter::TooManyTargets => Refusal::Malformed("There are too many targets"),
    })
}

fn exchange(params: &Params, most_targets: usize) -> Result<ExchangeRequest, Refusal> {
    let subject = presented(params, "subject_token", "subject_token_type")?
        .ok_or(Refusal::Malformed("subject_token and subject_token_type are required"))?;
    let subject = PresentedToken { issuer: params.get("subject_issuer").map(str::to_owned), ..subject };
    let actor = presented(params, "actor_token", "actor_token_type")?;
    match params.get("requested_token_type") {
        None => {}
        Some(urn) if urn == TokenType::AccessToken.urn() => {}
        Some(_) => return Err(Refusal::Malformed("This requested_token_type cannot be issued")),
    }
    let delegation_id = params.get("delegation_id").map(str::to_owned);
    if delegation_id.as_ref().is_some_and(|id| !delegation::is_id(id)) {
        return Err(Refusal::Malformed("delegation_id is not the id of a delegation"));
    }
    Ok(ExchangeRequest {
        subject,
        actor,
        wanted: wanted(params, most_targets)?,
        delegation_id,
        session_id: None,
    })
}

/// The client's name for a piece of work: the parameter, else the header. A name of another form counts as none, because
/// a session never refuses anything.
fn session_id(request: &HttpRequest, params: &Params) -> Option<String> {
    let header = || request.headers().get(SESSION_HEADER).and_then(|value| value.to_str().ok());
    let name = params.get("session_id").or_else(header)?;
    session::is_name(name).then(|| name.to_owned())
}

/// A token and its type: both or neither (RFC 8693 §2.1).
fn presented(params: &Params, token: &str, kind: &str) -> Result<Option<PresentedToken>, Refusal> {
    match (params.get(token), params.get(kind)) {
        (None, None) => Ok(None),
        (Some(_), None) => Err(Refusal::Malformed("A token comes without its token type")),
        (None, Some(_)) => Err(Refusal::Malformed("A token type comes without its token")),
        (Some(token), Some(_)) if token.len() > MAX_TOKEN_BYTES => {
            Err(Refusal::Malformed("A token is too long"))
        }
        (Some(token), Some(kind)) => {
            let kind = TokenType::parse(kind).ok_or(Refusal::Malformed("A token type is not supported"))?;
            Ok(Some(PresentedToken { token: token.to_owned(), kind, issuer: None }))
        }
    }
}
