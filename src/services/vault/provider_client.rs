//! Requests to a provider's token and revocation endpoints.

use std::collections::BTreeSet;
use std::fmt::{Display, Formatter};

use secrecy::{ExposeSecret as _, SecretString};
use serde::Serializer as _;
use zeroize::Zeroizing;

use crate::domain::client::AuthMethod;
use crate::domain::provider::{
    ExchangeGrant, ExchangeSettings, OauthSettings, OpenedProvider, RequestEncoding, RevocationToken,
};
use crate::domain::vault::ProviderTokens;
use crate::platform::fault::{Context, Fault};
use crate::platform::outbound::{Outbound, PostRequest, PostResponse};
use actchain_protocol::jwt_assertion;
use actchain_protocol::oauth_client::{self, EndpointAuth};
use actchain_protocol::token_answer::{self, Extent, TokenResponse, TokenSet};
use actchain_protocol::token_exchange::{self, TokenType};

#[derive(Debug)]
pub(super) enum TokenEndpointResult {
    Tokens(TokenSet),
    /// The grant has ended, or only its owner can make it usable again.
    GrantRevoked(String),
    /// The provider refuses this server's requests.
    Rejected(ProviderProblem),
    /// A success without tokens: a refresh token that is good once may be used up.
    NoTokens(ProviderProblem),
    /// A later request may succeed.
    Unavailable(ProviderProblem),
}

/// Why there are no tokens.
#[derive(Debug)]
pub(super) struct ProviderProblem {
    /// For the log: an error code of the provider, or an observation.
    pub(super) why: String,
    /// When the same request can be sent again.
    pub(super) next: Next,
}

impl ProviderProblem {
    /// Seconds without another request.
    pub(super) fn pause(&self) -> u32 {
        match self.next {
            Next::After(seconds) => u32::try_from(seconds).unwrap_or(u32::MAX).max(1),
            Next::AtOnce | Next::Later => 1,
        }
    }
}

/// When the provider can be requested again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    AtOnce,
    /// Not within the same attempt.
    Later,
    /// After this many seconds, by the provider's response.
    After(u64),
}

impl Display for ProviderProblem {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(&self.why)
    }
}

/// Error codes for a revoked grant (RFC 6749 §5.2), and variants that servers use.
const GONE: [&str; 4] = ["invalid_grant", "bad_refresh_token", "invalid_refresh_token", "token_revoked"];
/// Errors that need the user at the provider (OpenID Connect Core 1.0 §3.1.2.6); Microsoft and others also return
/// them at the token endpoint.
const INTERACTION: [&str; 4] =
    ["interaction_required", "login_required", "consent_required", "account_selection_required"];
const PASSING: [&str; 9] = [
    "temporarily_unavailable",
    "slow_down",
    "server_error",
    "ratelimited",
    "rate_limited",
    "rate_limit_exceeded",
    "internal_error",
    "internal_server_error",
    "service_unavailable",
];
/// Statuses after which the same request may succeed (RFC 9110 §15.5.9, RFC 8470 §5.2).
const PASSING_STATUS: [u16; 2] = [408, 425];

fn is_among<'a>(code: &str, mut codes: impl Iterator<Item = &'a str>) -> bool {
    codes.any(|one| one.eq_ignore_ascii_case(code))
}

fn only_the_owner_cures(oauth: &OauthSettings, code: &str) -> bool {
    let declared = oauth.reconnect_errors.iter().map(String::as_str);
    is_among(code, GONE.into_iter().chain(INTERACTION).chain(declared))
}

/// Requests another access token (RFC 6749 §6).
pub(super) async fn refresh(
    outbound: &Outbound,
    provider: &OpenedProvider,
    tokens: &ProviderTokens,
) -> TokenEndpointResult {
    let Some(refresh_token) = &tokens.refresh_token else {
        return TokenEndpointResult::Rejected(ProviderProblem {
            why: "no refresh token".into(),
            next: Next::Later,
        });
    };
    let params = [("grant_type", "refresh_token"), ("refresh_token", refresh_token.expose_secret())];
    ask(outbound, provider, &params).await
}

/// A request to exchange a token of the chain.
#[derive(Debug, Clone, Copy)]
pub(super) struct ProviderExchange<'a> {
    pub(super) settings: &'a ExchangeSettings,
    pub(super) subject_token: &'a SecretString,
    pub(super) scopes: &'a BTreeSet<String>,
}

/// Exchanges a token of the chain for an access token (RFC 8693 §2.1, RFC 7523 §2.1).
pub(super) async fn exchange(
    outbound: &Outbound,
    provider: &OpenedProvider,
    asked: ProviderExchange<'_>,
) -> TokenEndpointResult {
    let ProviderExchange { settings, subject_token, scopes } = asked;
    let subject_token = subject_token.expose_secret();
    let mut params = match settings.grant {
        ExchangeGrant::TokenExchange => vec![
            ("grant_type", token_exchange::GRANT_TYPE),
            ("subject_token", subject_token),
            ("subject_token_type", TokenType::Jwt.urn()),
            ("requested_token_type", TokenType::AccessToken.urn()),
        ],
        ExchangeGrant::JwtBearer => {
            vec![("grant_type", jwt_assertion::GRANT_TYPE), ("assertion", subject_token)]
        }
    };
    let separator = provider.provider.settings.oauth.as_ref().map(|oauth| oauth.separator);
    let scope = separator.unwrap_or_default().join(scopes);
    params.extend(Some(("scope", scope.as_str())).filter(|(_, scope)| !scope.is_empty()));
    params.extend(settings.audience.as_deref().map(|audience| ("audience", audience)));
    params.extend(settings.resource.as_deref().map(|resource| ("resource", resource)));
    ask(outbound, provider, &params).await
}

/// Sends a request to the token endpoint.
pub(super) async fn ask(
    outbound: &Outbound,
    provider: &OpenedProvider,
    params: &[(&str, &str)],
) -> TokenEndpointResult {
    let Some(oauth) = &provider.provider.settings.oauth else {
        return TokenEndpointResult::Rejected(ProviderProblem {
            why: "the provider has no token endpoint".into(),
            next: Next::Later,
        });
    };
    match post(outbound, provider, oauth, &oauth.token_endpoint, params).await {
        Ok(posted) => result_of(oauth, &posted),
        Err(fault) => {
            TokenEndpointResult::Unavailable(ProviderProblem { why: fault.to_string(), next: Next::AtOnce })
        }
    }
}

fn result_of(oauth: &OauthSettings, posted: &PostResponse) -> TokenEndpointResult {
    let status = posted.status;
    let next = |usual| posted.retry_after.map_or(usual, Next::After);
    let observed = || {
        let incomplete = posted.incomplete.as_ref().map(|why| format!("; {why}"));
        format!("status {status}{}", incomplete.unwrap_or_default())
    };
    let extent = if posted.incomplete.is_some() { Extent::Truncated } else { Extent::Whole };
    let (code, is_success) = match token_answer::read(status, &posted.body, extent) {
        TokenResponse::Tokens(tokens) => {
            if let Some(why) = &posted.incomplete {
                tracing::warn!(provider = oauth.token_endpoint, why, "tokens of an answer that is not whole");
            }
            return TokenEndpointResult::Tokens(tokens);
        }
        TokenResponse::Empty => {
            return TokenEndpointResult::NoTokens(ProviderProblem {
                why: observed(),
                next: next(Next::Later),
            });
        }
        TokenResponse::Refused(code) => (Some(code), (200..300).contains(&status)),
        TokenResponse::Unusable => (None, false),
    };
    let passes = code.as_deref().is_some_and(|code| is_among(code, PASSING.into_iter()));
    let problem = |usual, code: Option<String>| ProviderProblem {
        why: code.unwrap_or_else(observed),
        next: next(usual),
    };
    match code {
        Some(code) if status != 429 && only_the_owner_cures(oauth, &code) => {
            TokenEndpointResult::GrantRevoked(code)
        }
        // RFC 6585 §4: the request is not to be sent again soon, whether or not the answer says when.
        code if status == 429 => TokenEndpointResult::Unavailable(problem(Next::Later, code)),
        code if passes || PASSING_STATUS.contains(&status) => {
            TokenEndpointResult::Unavailable(problem(Next::AtOnce, code))
        }
        code if is_success || (400..500).contains(&status) => {
            TokenEndpointResult::Rejected(problem(Next::Later, code))
        }
        // A redirect is not followed, and the next one would not be either.
        code if status < 500 => TokenEndpointResult::Unavailable(problem(Next::Later, code)),
        code => TokenEndpointResult::Unavailable(problem(Next::AtOnce, code)),
    }
}

/// Result of the revocation of a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Revoked {
    /// The provider has no revocation endpoint.
    Nowhere,
    /// The token is revoked.
    Done,
    /// The revocation failed; with the seconds until a retry, if the provider says so.
    Not(Option<u64>),
}

impl Revoked {
    /// The value in responses and events.
    pub(super) fn shown(self) -> Option<bool> {
        match self {
            Self::Nowhere => None,
            Self::Done => Some(true),
            Self::Not(_) => Some(false),
        }
    }
}

/// Revokes a token (RFC 7009): the refresh token where the provider accepts it, because that ends the whole grant.
pub(super) async fn revoke(
    outbound: &Outbound,
    provider: &OpenedProvider,
    tokens: &ProviderTokens,
) -> Revoked {
    let Some(oauth) = &provider.provider.settings.oauth else { return Revoked::Nowhere };
    let Some(endpoint) = &oauth.revocation_endpoint else { return Revoked::Nowhere };
    let refresh_token = tokens.refresh_token.as_ref();
    let access_token = Some(&tokens.access_token).filter(|token| !token.expose_secret().is_empty());
    let (token, hint) = match (oauth.revocation_token, refresh_token, access_token) {
        (RevocationToken::RefreshToken, Some(token), _) => (token, "refresh_token"),
        (_, _, Some(token)) => (token, "access_token"),
        (RevocationToken::AccessToken, Some(_), None) | (_, None, None) => return Revoked::Nowhere,
    };
    let params = [("token", token.expose_secret()), ("token_type_hint", hint)];
    let posted = match post(outbound, provider, oauth, endpoint, &params).await {
        Ok(posted) => posted,
        Err(fault) => {
            tracing::warn!(provider = provider.provider.id, error = %fault, "a token was not revoked");
            return Revoked::Not(None);
        }
    };
    let refused = token_answer::refusal(posted.status, &posted.body);
    let done = match &refused {
        None => (200..300).contains(&posted.status),
        // Some servers answer an error for an unknown or expired token: nothing is left to revoke.
        Some(code) => is_among(code, ["invalid_token"].into_iter().chain(GONE)),
    };
    if done {
        return Revoked::Done;
    }
    let error = refused.unwrap_or_default();
    tracing::warn!(
        provider = provider.provider.id,
        status = posted.status,
        error,
        "a provider did not revoke a token"
    );
    Revoked::Not(posted.retry_after)
}

async fn post(
    outbound: &Outbound,
    provider: &OpenedProvider,
    oauth: &OauthSettings,
    url: &str,
    params: &[(&str, &str)],
) -> Result<PostResponse, Fault> {
    let secret = provider.secret.as_ref().map(|secret| secret.expose_secret()).unwrap_or_default();
    let mut params = params.to_vec();
    let auth = match oauth.auth {
        AuthMethod::ClientSecretPost => EndpointAuth::Post(secret),
        AuthMethod::ClientSecretBasic => EndpointAuth::Basic(secret),
        AuthMethod::None | AuthMethod::PrivateKeyJwt => EndpointAuth::None,
    };
    let authorization = auth.apply(&oauth.client_id, &mut params);
    let (content_type, body) = match oauth.body {
        RequestEncoding::Form => ("application/x-www-form-urlencoded", oauth_client::form(&params)),
        RequestEncoding::Json => ("application/json", json(&params)?),
    };
    let authorization = authorization.as_ref().map(|value| value.as_str());
    let accept = "application/json";
    outbound.post(url, PostRequest { content_type, accept, authorization, body: &body }).await
}

fn json(params: &[(&str, &str)]) -> Result<Zeroizing<String>, Fault> {
    let length: usize = params.iter().map(|(name, value)| name.len() + 2 * value.len() + 8).sum();
    let mut writer = serde_json::Serializer::new(Vec::with_capacity(length));
    writer.collect_map(params.iter().copied()).context("writing a request")?;
    String::from_utf8(writer.into_inner()).map(Zeroizing::new).context("writing a request")
}

#[cfg(test)]
mod tests {
    use super::super::providers::{ProviderDeclaration, prepare};
    use super::*;
    use crate::platform::outbound::AddressPolicy;

    async fn of_template(name: &str) -> OauthSettings {
        let yaml = format!("{{id: a, template: {name}, client_id: c, client_secret: s}}");
        let declared: ProviderDeclaration = serde_saphyr::from_str(&yaml).unwrap();
        prepare(&Outbound::new(AddressPolicy::Public).unwrap(), declared).await.unwrap().into_oauth().unwrap()
    }

    fn answer(status: u16, body: &str) -> PostResponse {
        let body = Zeroizing::new(body.as_bytes().to_vec());
        PostResponse { status, retry_after: None, body, incomplete: None }
    }

    /// Error responses as documented by the providers or reported by their clients.
    #[tokio::test]
    async fn templates_know_what_only_the_owner_can_cure() {
        for (template, status, body) in [
            (
                "google",
                400,
                r#"{"error":"invalid_grant","error_description":"Token has been expired or revoked."}"#,
            ),
            ("microsoft", 400, r#"{"error":"interaction_required","suberror":"basic_action"}"#),
            ("microsoft", 400, r#"{"error":"consent_required"}"#),
            ("microsoft", 400, r#"{"error":"login_required"}"#),
            ("github", 200, r#"{"error":"bad_refresh_token","error_description":"x"}"#),
            ("github", 200, "error=unverified_user_email&error_uri=x"),
            ("slack", 200, r#"{"ok":false,"error":"invalid_refresh_token"}"#),
            ("slack", 200, r#"{"ok":false,"error":"token_revoked"}"#),
            ("slack", 200, r#"{"ok":false,"error":"account_inactive"}"#),
            ("notion", 400, r#"{"object":"error","status":400,"code":"invalid_grant","message":"x"}"#),
            ("linear", 400, r#"{"error":"invalid_grant"}"#),
            (
                "jira",
                403,
                r#"{"error":"invalid_grant","error_description":"Unknown or invalid refresh token."}"#,
            ),
            (
                "jira",
                403,
                r#"{"error":"unauthorized_client","error_description":"refresh_token is invalid"}"#,
            ),
            (
                "salesforce",
                400,
                r#"{"error":"invalid_grant","error_description":"expired access/refresh token"}"#,
            ),
            ("salesforce", 400, r#"{"error":"inactive_user","error_description":"x"}"#),
            (
                "hubspot",
                400,
                r#"{"status":"BAD_REFRESH_TOKEN","message":"missing or invalid refresh token"}"#,
            ),
        ] {
            let result = result_of(&of_template(template).await, &answer(status, body));
            assert!(matches!(result, TokenEndpointResult::GrantRevoked(_)), "{template} {body}: {result:?}");
        }
        for (template, status, body) in [
            ("google", 401, r#"{"error":"invalid_client"}"#),
            ("microsoft", 401, r#"{"error":"invalid_client","error_description":"AADSTS7000222"}"#),
            ("github", 200, r#"{"error":"incorrect_client_credentials"}"#),
            ("slack", 200, r#"{"ok":false,"error":"bad_client_secret"}"#),
            ("jira", 401, r#"{"error":"access_denied","error_description":"Unauthorized"}"#),
            ("hubspot", 400, r#"{"status":"BAD_CLIENT_ID","message":"x"}"#),
        ] {
            let result = result_of(&of_template(template).await, &answer(status, body));
            assert!(matches!(result, TokenEndpointResult::Rejected(_)), "{template} {body}: {result:?}");
        }
    }

    #[tokio::test]
    async fn what_passes_is_asked_for_again_and_what_does_not_is_not() {
        let oauth = of_template("google").await;
        let next = |status, retry_after| {
            let posted = PostResponse { retry_after, ..answer(status, "{}") };
            match result_of(&oauth, &posted) {
                TokenEndpointResult::Unavailable(problem)
                | TokenEndpointResult::Rejected(problem)
                | TokenEndpointResult::NoTokens(problem) => problem.next,
                other => panic!("{other:?}"),
            }
        };
        for (status, expected) in [
            (500, Next::AtOnce),
            (503, Next::AtOnce),
            (408, Next::AtOnce),
            (425, Next::AtOnce),
            (429, Next::Later),
            (400, Next::Later),
            (302, Next::Later),
            (200, Next::Later),
        ] {
            assert_eq!(next(status, None), expected, "{status}");
            assert_eq!(next(status, Some(7)), Next::After(7), "{status}");
        }
    }
}
