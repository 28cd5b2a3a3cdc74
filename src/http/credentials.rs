//! Reads credentials, DPoP proof and origin of a request. Nothing is verified here.

use actix_web::http::header::{AUTHORIZATION, HeaderMap, HeaderName};
use actix_web::{HttpMessage as _, HttpRequest};
use secrecy::SecretString;

use crate::domain::audit::RequestOrigin;
use crate::domain::client::AuthMethod;
use crate::domain::refusal::{ClientProblem, CredentialProblem, Refusal};
use crate::http::params::Params;
use crate::services::access_token_auth::{PresentedAccessToken, Scheme};
use crate::services::client_authentication::Credentials;
use crate::services::client_request::{ClientCredentialsInput, OauthEndpoint};
use crate::services::dpop;
use actchain_protocol::client_auth::{JWT_BEARER, parse_basic};
use actchain_protocol::jose::MAX_TOKEN_BYTES;
use actchain_protocol::metadata::issuer_path;

const DPOP: HeaderName = HeaderName::from_static("dpop");

/// The one method with which the client authenticates (RFC 6749 §2.3).
pub(super) fn credentials(headers: &HeaderMap, params: &Params) -> Result<Credentials, Refusal> {
    let authorization: Vec<_> = headers.get_all(AUTHORIZATION).collect();
    let secret = params.get("client_secret");
    let assertion = params.get("client_assertion");
    let assertion_type = params.get("client_assertion_type");
    let client_id = params.get("client_id");
    let methods = usize::from(!authorization.is_empty()) + usize::from(secret.is_some());
    if assertion.is_some() || assertion_type.is_some() {
        if methods > 0 {
            return Err(Refusal::InvalidClient(ClientProblem::MultipleMethods));
        }
        return by_assertion(assertion, assertion_type, client_id);
    }
    match (authorization.as_slice(), secret, client_id) {
        ([_, _, ..], ..) | ([_], Some(_), _) => {
            Err(Refusal::Malformed("More than one client authentication method was used"))
        }
        ([header], None, client_id) => {
            let unproven =
                Refusal::InvalidClient(ClientProblem::InvalidCredentials(CredentialProblem::Malformed));
            let basic = header.to_str().ok().and_then(parse_basic).ok_or(unproven)?;
            if client_id.is_some_and(|id| id != basic.client_id) {
                return Err(unproven);
            }
            let method = AuthMethod::ClientSecretBasic;
            Ok(Credentials::Secret { client_id: basic.client_id, secret: basic.secret, method })
        }
        ([], Some(secret), Some(client_id)) => Ok(Credentials::Secret {
            client_id: client_id.to_owned(),
            secret: SecretString::from(secret.to_owned()),
            method: AuthMethod::ClientSecretPost,
        }),
        ([], None, Some(client_id)) => Ok(Credentials::Key { client_id: client_id.to_owned() }),
        ([], _, None) => Err(Refusal::InvalidClient(ClientProblem::Unknown)),
    }
}

fn by_assertion(
    assertion: Option<&str>,
    assertion_type: Option<&str>,
    client_id: Option<&str>,
) -> Result<Credentials, Refusal> {
    match (assertion, assertion_type) {
        (Some(assertion), Some(JWT_BEARER)) => Ok(Credentials::Assertion {
            client_id: client_id.map(str::to_owned),
            assertion: assertion.to_owned(),
        }),
        _ => Err(Refusal::InvalidClient(ClientProblem::InvalidCredentials(CredentialProblem::Malformed))),
    }
}

/// The DPoP proof: at most one header field (RFC 9449 §4.3 step 1).
pub(super) fn proof(headers: &HeaderMap) -> Result<Option<String>, Refusal> {
    let mut fields = headers.get_all(DPOP);
    match (fields.next(), fields.next()) {
        (None, _) => Ok(None),
        (Some(field), None) if field.len() <= MAX_TOKEN_BYTES => {
            field.to_str().map(|proof| Some(proof.to_owned())).map_err(|_| dpop::malformed())
        }
        _ => Err(dpop::malformed()),
    }
}

/// Where a request comes from, for the audit log and for limits; `request_log` determines it once for each request.
pub(super) fn origin(request: &HttpRequest) -> RequestOrigin {
    request.extensions().get::<RequestOrigin>().cloned().unwrap_or_default()
}

/// A request with a client's own credentials at an OAuth endpoint.
pub(super) fn client_request(
    endpoint: OauthEndpoint,
    request: &HttpRequest,
    params: &Params,
) -> Result<ClientCredentialsInput, Refusal> {
    Ok(ClientCredentialsInput {
        endpoint,
        credentials: credentials(request.headers(), params)?,
        proof: proof(request.headers()),
        origin: origin(request),
    })
}

/// The access token (RFC 6750 §2.1, RFC 9449 §7.1): one header field, one scheme; never in body or URI.
pub(super) fn access(issuer: &str, request: &HttpRequest) -> Result<PresentedAccessToken, Refusal> {
    let headers = request.headers();
    let mut fields = headers.get_all(AUTHORIZATION);
    let field = match (fields.next(), fields.next()) {
        (None, _) => return Err(Refusal::Unauthenticated),
        (Some(field), None) => field.to_str().map_err(|_| Refusal::AccessTokenInvalid)?,
        (Some(_), Some(_)) => return Err(Refusal::Malformed("There is more than one Authorization header")),
    };
    let (scheme, token) = field.split_once(' ').ok_or(Refusal::AccessTokenInvalid)?;
    let scheme = match scheme.to_ascii_lowercase().as_str() {
        "bearer" => Scheme::Bearer,
        "dpop" => Scheme::Dpop,
        _ => return Err(Refusal::Unauthenticated),
    };
    let token = token.trim().to_owned();
    if token.is_empty() || token.len() > MAX_TOKEN_BYTES {
        return Err(Refusal::AccessTokenInvalid);
    }
    let (method, path) = (request.method().as_str().to_owned(), path(issuer, request).to_owned());
    Ok(PresentedAccessToken { scheme, token, proof: proof(headers)?, method, path, origin: origin(request) })
}

/// The raw path below the issuer, without the query: `htu` of a proof has the external URI, to which the issuer's path
/// is added again.
pub(super) fn path<'a>(issuer: &str, request: &'a HttpRequest) -> &'a str {
    let path = request.uri().path();
    path.strip_prefix(issuer_path(issuer).as_str()).unwrap_or(path)
}
