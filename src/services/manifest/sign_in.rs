//! The sign-in at an issuer as declared.

use std::collections::BTreeSet;
use std::path::PathBuf;

use schemars::JsonSchema;
use secrecy::SecretString;
use serde::Deserialize;

use crate::domain::client::AuthMethod;
use crate::domain::sign_in::{RoleRule, SignInSettings};
use crate::platform::secret;
use actchain_protocol::{scope, trusted_issuer_jwt};

/// The scope without which an issuer answers without an ID token (OpenID Connect Core 1.0 §3.1.2.1).
const OPENID: &str = "openid";

/// Sign-in of the issuer's users to the console (OpenID Connect, authorization code with PKCE). The endpoints are those
/// in the metadata of the issuer, which `apply` reads. A change ends the sessions of the issuer's users.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "SignIn")]
pub struct SignInDeclaration {
    /// Client id of this server at the issuer.
    #[schemars(length(min = 1, max = 512), example = &"actchain-console")]
    client_id: String,
    /// Client secret of this server at the issuer; where absent, the stored secret stays while the client, the method and the
    /// token endpoint are the same.
    #[schemars(with = "Option<String>", example = &"console-secret-0123456789")]
    client_secret: Option<SecretString>,
    /// File with the client secret; a line break at its end is ignored.
    #[schemars(example = &"/run/secrets/console")]
    pub(super) client_secret_file: Option<PathBuf>,
    /// Authentication method at the token endpoint. `private_key_jwt` signs with the key that signs tokens, which the issuer
    /// reads at this server's `jwks_uri`; it has no secret. `none` is for a public client.
    #[serde(default = "default_auth")]
    auth: AuthMethod,
    /// Requested scopes; `openid` is among them.
    #[serde(default = "default_scopes")]
    #[schemars(length(min = 1), example = ["openid", "groups"])]
    scopes: Vec<String>,
    /// Requested authentication contexts, the preferred one first. An ID token whose `acr` is none of them is refused.
    #[serde(default)]
    #[schemars(example = ["mfa"])]
    acr: Vec<String>,
    /// Who gets a role. A person whom no rule names is a user, who decides about what concerns itself.
    #[serde(default)]
    roles: Vec<RoleRule>,
    /// Claim of the ID token that the console shows beside the name of a person. It is kept with the session.
    #[schemars(length(min = 1, max = 512), example = &"email")]
    label: Option<String>,
}

fn default_auth() -> AuthMethod {
    AuthMethod::ClientSecretBasic
}

fn default_scopes() -> Vec<String> {
    vec![OPENID.to_owned()]
}

/// A declaration that was checked, with its secret.
#[derive(Debug)]
pub(in crate::services) struct DeclaredSignIn {
    pub(in crate::services) settings: SignInSettings,
    pub(in crate::services) secret: Option<SecretString>,
}

impl SignInDeclaration {
    /// Validates the declaration for an issuer with these tenants.
    ///
    /// # Errors
    /// The reason, in words for the author of the manifest.
    pub(super) fn read(self, tenants: Option<&BTreeSet<String>>) -> Result<DeclaredSignIn, String> {
        if !trusted_issuer_jwt::is_name(&self.client_id) {
            return Err("client_id is empty, too long, or has control characters".to_owned());
        }
        if !self.scopes.iter().any(|name| name == OPENID) {
            return Err("scopes needs openid: without it an issuer does not say who has signed in".to_owned());
        }
        if !self.scopes.iter().all(|name| scope::is_token(name)) {
            return Err("scopes has a value that is no scope".to_owned());
        }
        let named = |name: &String| trusted_issuer_jwt::is_name(name);
        if !self.acr.iter().all(|name| named(name) && !name.contains(' ')) {
            return Err("acr has a value that is empty, too long, or has spaces".to_owned());
        }
        if !self.label.iter().all(named) {
            return Err("label must name a claim, as in `label: email`".to_owned());
        }
        self.roles.iter().try_for_each(|rule| check_rule(rule, tenants))?;
        let secret = match (self.client_secret, self.client_secret_file) {
            (Some(_), Some(_)) => {
                return Err("client_secret and client_secret_file exclude each other".to_owned());
            }
            (None, Some(path)) => Some(secret::read_file(&path).map_err(|fault| fault.to_string())?),
            (secret, None) => secret,
        };
        if secret.is_some() && !self.auth.uses_secret() {
            return Err("auth: private_key_jwt and auth: none have no client secret: leave it out".to_owned());
        }
        let settings = SignInSettings {
            client_id: self.client_id,
            auth: self.auth,
            scopes: self.scopes,
            acr: self.acr,
            roles: self.roles,
            label: self.label,
        };
        Ok(DeclaredSignIn { settings, secret })
    }
}

/// A rule names either a claim with its value or one person. An administrator of one tenant must not be able to make
/// administrators of its users by the name of a group that another tenant has, so a rule names its tenant.
fn check_rule(rule: &RoleRule, tenants: Option<&BTreeSet<String>>) -> Result<(), String> {
    let mut texts = [&rule.claim, &rule.value, &rule.sub].into_iter().flatten();
    let complete =
        matches!((&rule.claim, &rule.value, &rule.sub), (Some(_), Some(_), None) | (None, None, Some(_)));
    if !complete {
        return Err(
            "roles: each rule has claim and value, or sub, as in `{role: admin, claim: groups, value: ops}`"
                .to_owned(),
        );
    }
    if !texts.all(|text| trusted_issuer_jwt::is_name(text)) {
        return Err("roles: claim, value and sub have 1 to 512 bytes and no control characters".to_owned());
    }
    match (tenants, &rule.tenant) {
        (None, None) => Ok(()),
        (None, Some(_)) => Err("roles: tenant is for an issuer with tenants".to_owned()),
        (Some(tenants), Some(tenant)) if tenants.contains(tenant) => Ok(()),
        (Some(_), _) => Err(
            "roles: each rule of an issuer with tenants has one of its tenants in `tenant`: names of groups \
                             and people are unique in their tenant only"
                .to_owned(),
        ),
    }
}
