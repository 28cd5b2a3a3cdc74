//! How a token of a chain is exchanged at a provider, as declared.

use schemars::JsonSchema;
use serde::Deserialize;

use crate::domain::provider::{ExchangeGrant, ExchangeSettings, OauthSettings};

/// The exchange of a token of the chain at the token endpoint of a provider of kind `token_exchange`.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct ExchangeDeclaration {
    /// Grant type: `token_exchange` (RFC 8693), also where absent, or `jwt_bearer` (RFC 7523).
    grant: Option<ExchangeGrant>,
    /// The only audience of the token that is sent: the provider's name for itself. `issuer` where absent, or else
    /// `token_endpoint`.
    #[schemars(example = &"https://accounts.example.com")]
    subject_token_audience: Option<String>,
    /// Parameter `audience` of the request (RFC 8693).
    #[schemars(example = &"https://api.example.com")]
    audience: Option<String>,
    /// Parameter `resource` of the request (RFC 8707).
    #[schemars(example = &"https://api.example.com/v1")]
    resource: Option<String>,
}

impl ExchangeDeclaration {
    /// The settings, completed from those of the authorization server.
    pub(super) fn complete(&self, oauth: &OauthSettings) -> Result<ExchangeSettings, String> {
        let names = [&self.subject_token_audience, &self.audience, &self.resource];
        if names.into_iter().flatten().any(|name| name.is_empty() || name.chars().any(char::is_control)) {
            return Err("exchange: subject_token_audience, audience and resource are names or URLs".into());
        }
        let own_name = self.subject_token_audience.as_ref().or(oauth.issuer.as_ref());
        Ok(ExchangeSettings {
            grant: self.grant.unwrap_or_default(),
            subject_token_audience: own_name.unwrap_or(&oauth.token_endpoint).clone(),
            audience: self.audience.clone(),
            resource: self.resource.clone(),
        })
    }
}
