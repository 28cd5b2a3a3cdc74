//! Clients as declared.

use std::collections::BTreeSet;
use std::path::PathBuf;

use schemars::JsonSchema;
use secrecy::SecretString;
use serde::Deserialize;
use serde_json::Value;

use super::check::{check_keys, check_ttl};
use crate::domain::client::{
    self, AssertionAudience, AuthMethod, ClientKind, DpopPolicy, GrantType, TokenBinding,
};
use crate::domain::principal::Principal;
use crate::domain::registry::{ADMIN_SCOPE, AUDIT_SCOPE};
use crate::platform::outbound::Outbound;
use crate::platform::yaml::{self, InvalidDeclaration, Place};
use actchain_protocol::{base64url, scope, trusted_issuer_jwt};

/// Maximum length of a display name, in characters.
const MAX_NAME: usize = 100;

/// A client that authenticates at this server.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ClientDeclaration {
    /// Client id: letters, digits and `-._~:/@`, not beginning with `-`.
    #[schemars(
        length(min = 1, max = 128),
        regex(pattern = r"^[A-Za-z0-9._~:/@][A-Za-z0-9._~:/@-]*$"),
        example = &"mail-bot"
    )]
    pub id: String,
    /// Kind of the client. A declared client of another kind is replaced only with `--replace`.
    pub kind: ClientKind,
    /// Name for people; the id where absent.
    #[schemars(length(min = 1, max = 100), example = &"Mail bot")]
    pub name: Option<String>,
    /// Authentication method (RFC 7591 §2).
    pub auth: AuthMethod,
    /// Client secret for `client_secret_basic` and `client_secret_post`; at least 16 bytes. Where neither `secret` nor
    /// `secret_file` is set and the client has no secret, a secret is made and printed once.
    #[schemars(with = "Option<String>", length(min = 16), example = &"mail-bot-secret-0123456789")]
    pub secret: Option<SecretString>,
    /// File with the client secret; a line break at its end is ignored.
    #[schemars(example = &"/run/secrets/mail-bot")]
    pub secret_file: Option<PathBuf>,
    /// Public keys for `private_key_jwt` as a JWK Set.
    #[serde(default)]
    #[schemars(schema_with = "super::schema::jwks")]
    pub jwks: Option<Value>,
    /// URL of the JWK Set for `private_key_jwt`; https, and no private address.
    #[schemars(example = &"https://bot.example.com/jwks.json")]
    pub jwks_uri: Option<String>,
    /// Scopes that the client can get at most. Each is declared by a resource, or is one of `actchain.delegate`,
    /// `actchain.admin` (kind `admin`) and `actchain.audit` (kind `auditor`).
    #[serde(default)]
    #[schemars(example = ["mail.read"])]
    pub scopes: BTreeSet<String>,
    /// Resources that the client can get tokens for; this server's issuer is one, too.
    #[serde(default)]
    #[schemars(example = ["https://mail.example.com"])]
    pub audiences: BTreeSet<String>,
    /// Types of `authorization_details` that the client can get at most; each is declared by a resource.
    #[serde(default)]
    #[schemars(example = ["mailbox"])]
    pub authorization_details_types: BTreeSet<String>,
    /// Grant types that the client can use.
    #[serde(default)]
    #[schemars(example = ["token-exchange"])]
    pub grant_types: BTreeSet<GrantType>,
    /// Whether each token request needs a DPoP proof (RFC 9449).
    #[serde(default)]
    pub dpop: DpopPolicy,
    /// Whether the client's tokens are bound to the key of a proof. `bearer` is for software that knows no DPoP.
    #[serde(default)]
    pub token_type: TokenBinding,
    /// Audiences that are accepted in assertions of `private_key_jwt`. `token_endpoint` is for software that cannot be
    /// configured.
    #[serde(default)]
    pub assertion_audience: AssertionAudience,
    /// SHA-256 thumbprints (RFC 7638) of the only keys that the client can use for DPoP; any key where absent. Needed for
    /// `auth: none`. An empty list is refused.
    #[serde(default, deserialize_with = "yaml::present")]
    #[schemars(length(min = 1), example = ["0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I"])]
    pub dpop_keys: Option<BTreeSet<String>>,
    /// Workload identities of trusted issuers whose tokens prove this client as an actor.
    #[serde(default)]
    #[schemars(example = [serde_json::json!({"iss": "https://idp.example.com", "sub": "spiffe://example.com/mail-bot"})])]
    pub actor_subjects: Vec<Principal>,
    /// Longest lifetime of the client's tokens, in seconds; `tokens.max_ttl` where absent.
    #[schemars(range(min = 1, max = 2_147_483_647), example = 300)]
    pub max_token_ttl: Option<u32>,
    #[serde(skip)]
    pub(in crate::services) place: Place,
}

impl ClientDeclaration {
    /// The checks that need no other data.
    pub fn check(&self, outbound: &Outbound) -> Result<(), InvalidDeclaration> {
        let place = &self.place;
        if !client::is_new_id(&self.id) {
            let why = "id may have letters, digits and -._~:/@, at most 128; it must not begin with -, have a part . or .., \
                       or be «server», «user», «operator» or «witness»";
            return Err(place.fault("id", why));
        }
        check_name(place, self.name.as_ref())?;
        check_ttl(place, "max_token_ttl", self.max_token_ttl)?;
        self.check_credentials(outbound)?;
        if let Some(scope) = self.scopes.iter().find(|scope| !scope::is_token(scope)) {
            return Err(place.fault("scopes", format!("{scope:?} is not usable as a scope")));
        }
        if self.scopes.contains(ADMIN_SCOPE) && self.kind != ClientKind::Admin {
            return Err(place.fault("scopes", "the scope actchain.admin is for clients of kind admin"));
        }
        if self.scopes.contains(AUDIT_SCOPE) && self.kind != ClientKind::Auditor {
            return Err(place.fault("scopes", "the scope actchain.audit is for clients of kind auditor"));
        }
        let is_name =
            |one: &Principal| trusted_issuer_jwt::is_name(&one.iss) && trusted_issuer_jwt::is_name(&one.sub);
        if !self.actor_subjects.iter().all(is_name) {
            let why = "iss and sub have 1 to 512 bytes and no control characters";
            return Err(place.fault("actor_subjects", why));
        }
        Ok(())
    }

    fn check_credentials(&self, outbound: &Outbound) -> Result<(), InvalidDeclaration> {
        let place = &self.place;
        let with_keys = self.jwks.is_some() || self.jwks_uri.is_some();
        let with_secret = self.secret.is_some() || self.secret_file.is_some();
        match self.auth {
            AuthMethod::PrivateKeyJwt => {
                check_keys(place, self.jwks.as_ref(), self.jwks_uri.as_deref(), outbound)?;
            }
            _ if with_keys => {
                return Err(place.whole("jwks and jwks_uri belong to auth private_key_jwt"));
            }
            _ => {}
        }
        if with_secret && !self.auth.uses_secret() {
            return Err(place.whole("a secret belongs to auth client_secret_basic or client_secret_post"));
        }
        if self.secret.is_some() && self.secret_file.is_some() {
            return Err(place.whole("secret and secret_file exclude each other"));
        }
        self.check_exceptions()?;
        if self.dpop_keys.as_ref().is_some_and(BTreeSet::is_empty) {
            let why = "dpop_keys is an empty list, so that no key could be used: leave dpop_keys out to allow any key, or \
                       name the keys, as in `dpop_keys: [0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I]`";
            return Err(place.fault("dpop_keys", why));
        }
        if self.auth == AuthMethod::None && self.dpop_keys.is_none() {
            return Err(
                place.whole("auth none needs dpop_keys: without them, any key would prove this client")
            );
        }
        let thumbprint = |jkt: &String| base64url::decode(jkt).is_some_and(|bytes| bytes.len() == 32);
        if !self.dpop_keys.iter().flatten().all(thumbprint) {
            return Err(place.fault("dpop_keys", "dpop_keys must be SHA-256 thumbprints in base64url"));
        }
        Ok(())
    }
}

impl ClientDeclaration {
    /// Refuses exceptions where only bound tokens are accepted, or where they have no effect.
    fn check_exceptions(&self) -> Result<(), InvalidDeclaration> {
        let bearer = |why: &str| Err(self.place.fault("token_type", why));
        if self.token_type == TokenBinding::Bearer {
            if self.kind.administers() {
                return bearer("an administrator or auditor needs bound tokens: no other token is accepted");
            }
            if self.auth == AuthMethod::None || self.dpop_keys.is_some() {
                return bearer(
                    "dpop_keys bind tokens to keys: leave out dpop_keys or token_type, and choose another auth than none",
                );
            }
        }
        let for_assertions = self.auth == AuthMethod::PrivateKeyJwt;
        if self.assertion_audience == AssertionAudience::TokenEndpoint && !for_assertions {
            return Err(self
                .place
                .fault("assertion_audience", "assertion_audience belongs to auth private_key_jwt"));
        }
        Ok(())
    }
}

fn check_name(place: &Place, name: Option<&String>) -> Result<(), InvalidDeclaration> {
    let fits =
        |name: &String| (1..=MAX_NAME).contains(&name.chars().count()) && !name.chars().any(char::is_control);
    if name.is_none_or(fits) {
        return Ok(());
    }
    Err(place.fault("name", format!("name has 1 to {MAX_NAME} characters and no control characters")))
}
