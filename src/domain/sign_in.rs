//! How people of an issuer sign in to the console: this server's registration at the issuer, the endpoints there, and
//! which roles people get.

use schemars::JsonSchema;
use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::client::AuthMethod;
use super::console::ConsoleRole;
use super::issuer_secret;
use crate::platform::fault::Fault;
use crate::platform::seal::SealingKey;
use actchain_protocol::digest::{hex, sha256};
use actchain_protocol::discovery::{IssuerMetadata, MetadataProblem};
use actchain_protocol::id_token::claim_has;
use actchain_protocol::metadata::endpoint;

/// A role that a rule gives. Who matches no rule is a user.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RuleRole {
    Admin,
    Auditor,
}

/// Who gets a role in the console: people with a value of a claim, or one person.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RoleRule {
    /// The role: an administrator, or an auditor.
    pub role: RuleRole,
    /// Name of a claim of the ID token, which is a text or a list of texts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512), example = &"groups")]
    pub claim: Option<String>,
    /// The value that the claim has to be or to contain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512), example = &"platform-security")]
    pub value: Option<String>,
    /// The name of one person, as this issuer names it in delegations; in place of `claim` and `value`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512), example = &"8f2c")]
    pub sub: Option<String>,
    /// The tenant of these people; needed for an issuer with tenants.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64))]
    pub tenant: Option<String>,
}

/// This server's registration at an issuer, as declared.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SignInSettings {
    pub client_id: String,
    pub auth: AuthMethod,
    /// The requested scopes.
    pub scopes: Vec<String>,
    /// The accepted values of `acr`, the preferred one first; any where empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub acr: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub roles: Vec<RoleRule>,
    /// The claim that is shown beside the name of a person.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
}

/// The endpoints of an issuer, from its metadata.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SignInEndpoints {
    pub authorization_endpoint: String,
    pub token_endpoint: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end_session_endpoint: Option<String>,
    /// Whether each authorization response has `iss` (RFC 9207 §3).
    pub authorization_response_iss_parameter_supported: bool,
}

impl SignInEndpoints {
    /// Takes over the metadata of an issuer.
    ///
    /// # Errors
    /// [`MetadataProblem::Missing`] without an authorization endpoint or a token endpoint.
    pub fn of(metadata: IssuerMetadata) -> Result<Self, MetadataProblem> {
        let missing = MetadataProblem::Missing;
        Ok(Self {
            authorization_endpoint: metadata
                .authorization_endpoint
                .ok_or(missing("authorization_endpoint"))?,
            token_endpoint: metadata.token_endpoint.ok_or(missing("token_endpoint"))?,
            end_session_endpoint: metadata.end_session_endpoint,
            authorization_response_iss_parameter_supported: metadata
                .authorization_response_iss_parameter_supported,
        })
    }

    /// The URLs with their names in the metadata.
    pub fn urls(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let needed = [
            ("authorization_endpoint", self.authorization_endpoint.as_str()),
            ("token_endpoint", self.token_endpoint.as_str()),
        ];
        let end = self.end_session_endpoint.as_deref().map(|url| ("end_session_endpoint", url));
        needed.into_iter().chain(end)
    }
}

/// Sign-in as registered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignIn {
    pub settings: SignInSettings,
    pub endpoints: SignInEndpoints,
    /// This server's client secret at the issuer, sealed for the client and the token endpoint; absent for other methods.
    pub sealed: Option<String>,
}

impl SignIn {
    /// The additional authenticated data of the secret: what decides where the secret is sent.
    pub fn secret_row(
        iss: &str,
        settings: &SignInSettings,
        endpoints: &SignInEndpoints,
    ) -> Result<String, Fault> {
        let bound = json!({"sign_in": {
            "client_id": settings.client_id, "auth": settings.auth, "token_endpoint": endpoints.token_endpoint,
        }});
        issuer_secret::row(iss, &bound)
    }

    /// Opens the secret.
    ///
    /// # Errors
    /// A fault if there is no secret, or if it was sealed for another issuer, client or token endpoint.
    pub fn secret(&self, iss: &str, key: &SealingKey) -> Result<SecretString, Fault> {
        let row = Self::secret_row(iss, &self.settings, &self.endpoints)?;
        issuer_secret::open(key, &row, self.sealed.as_deref())
    }

    /// The role of a person: by the first rule that fits, administrators before auditors.
    pub fn role(&self, person: &RuledPerson<'_>) -> GivenRole {
        let fitting = self.settings.roles.iter().filter(|rule| person.fits(rule));
        let Some(rule) = fitting.min_by_key(|rule| rule.role) else {
            return GivenRole { role: ConsoleRole::User, by: None };
        };
        let role = match rule.role {
            RuleRole::Admin => ConsoleRole::Admin,
            RuleRole::Auditor => ConsoleRole::Auditor,
        };
        GivenRole { role, by: rule.condition() }
    }
}

/// A role, and the condition of the rule that gives it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GivenRole {
    pub role: ConsoleRole,
    /// `None` for a person whom no rule names.
    pub by: Option<String>,
}

impl RoleRule {
    /// The condition in words; `None` for an incomplete rule, which fits no person.
    fn condition(&self) -> Option<String> {
        match (&self.claim, &self.value, &self.sub) {
            (Some(claim), Some(value), None) => Some(format!("{claim} has {value}")),
            (None, None, Some(sub)) => Some(format!("sub is {sub}")),
            _ => None,
        }
    }
}

/// The facts that rules about roles read.
#[derive(Debug, Clone, Copy)]
pub struct RuledPerson<'a> {
    pub sub: &'a str,
    pub tenant: Option<&'a str>,
    /// The claims of the ID token.
    pub claims: &'a Map<String, Value>,
}

impl RuledPerson<'_> {
    fn fits(&self, rule: &RoleRule) -> bool {
        let fits = match (&rule.claim, &rule.value, &rule.sub) {
            (Some(claim), Some(value), None) => claim_has(self.claims, claim, value),
            (None, None, Some(sub)) => self.sub == sub,
            _ => false,
        };
        fits && rule.tenant.as_deref() == self.tenant
    }
}

/// The name of an issuer in paths of the console: 16 hexadecimal digits that follow from the issuer, so that a registered
/// redirect URI stays the same.
pub fn path_name(iss: &str) -> String {
    hex(&sha256(&[iss.as_bytes()])).chars().take(16).collect()
}

/// The redirect URI of an issuer. Each issuer has its own, against mix-up attacks (RFC 9700 §4.4.2).
pub fn redirect_uri(own_issuer: &str, iss: &str) -> String {
    endpoint(own_issuer, &format!("/console/callback/{}", path_name(iss)))
}

/// Where an issuer says that sessions have ended.
pub fn logout_uri(own_issuer: &str, iss: &str) -> String {
    endpoint(own_issuer, &format!("/console/backchannel-logout/{}", path_name(iss)))
}

/// Where browsers come back to after they have signed out at an issuer.
pub fn signed_out_uri(own_issuer: &str) -> String {
    endpoint(own_issuer, "/console/sign-in")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(role: RuleRole, who: &Value, tenant: Option<&str>) -> RoleRule {
        let text = |name: &str| who.get(name).and_then(Value::as_str).map(str::to_owned);
        RoleRule {
            role,
            claim: text("claim"),
            value: text("value"),
            sub: text("sub"),
            tenant: tenant.map(str::to_owned),
        }
    }

    #[test]
    fn administrators_come_first_and_a_rule_of_another_tenant_gives_nothing() {
        let of_group = |value: &str| json!({"claim": "groups", "value": value});
        let settings = SignInSettings {
            client_id: "us".into(),
            auth: AuthMethod::None,
            scopes: vec!["openid".into()],
            acr: Vec::new(),
            roles: vec![
                rule(RuleRole::Auditor, &of_group("audit"), Some("a")),
                rule(RuleRole::Admin, &of_group("ops"), Some("a")),
                rule(RuleRole::Admin, &json!({"sub": "root"}), Some("a")),
                rule(RuleRole::Admin, &json!({}), Some("a")),
            ],
            label: None,
        };
        let endpoints = SignInEndpoints {
            authorization_endpoint: "https://idp.example/a".into(),
            token_endpoint: "https://idp.example/t".into(),
            end_session_endpoint: None,
            authorization_response_iss_parameter_supported: false,
        };
        let sign_in = SignIn { settings, endpoints, sealed: None };
        let role = |sub: &str, groups: Value, tenant: Option<&str>| {
            let claims = json!({"groups": groups});
            sign_in.role(&RuledPerson { sub, tenant, claims: claims.as_object().unwrap() }).role
        };
        assert_eq!(role("x", json!(["audit", "ops"]), Some("a")), ConsoleRole::Admin);
        assert_eq!(role("x", json!("audit"), Some("a")), ConsoleRole::Auditor);
        assert_eq!(role("root", json!(null), Some("a")), ConsoleRole::Admin);
        for tenant in [Some("b"), None] {
            assert_eq!(role("root", json!(["ops"]), tenant), ConsoleRole::User);
        }
    }

    #[test]
    fn the_name_in_paths_follows_from_the_issuer() {
        assert_eq!(path_name("https://idp.example"), path_name("https://idp.example"));
        assert_ne!(path_name("https://idp.example"), path_name("https://idp.example/"));
        assert_eq!(path_name("https://idp.example").len(), 16);
    }
}
