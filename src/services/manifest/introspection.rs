//! The introspection of an issuer as declared.

use std::path::PathBuf;

use schemars::JsonSchema;
use secrecy::SecretString;
use serde::Deserialize;

use crate::domain::client::AuthMethod;
use crate::domain::introspection::{AudienceRule, IntrospectionSettings, MAX_CACHE};
use crate::platform::outbound::Outbound;
use crate::platform::secret;
use actchain_protocol::trusted_issuer_jwt;

/// Introspection (RFC 7662) of an issuer's access tokens that cannot be verified here, such as opaque tokens.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Introspection")]
pub struct IntrospectionDeclaration {
    /// Introspection endpoint; https, and no private address.
    #[schemars(example = &"https://idp.example.com/introspect")]
    endpoint: String,
    /// Client id of this server at the issuer.
    #[schemars(length(min = 1, max = 512), example = &"actchain")]
    client_id: String,
    /// Client secret of this server at the issuer; where absent, the stored secret stays while no other member changes.
    #[schemars(with = "Option<String>", example = &"issuer-secret-0123456789")]
    client_secret: Option<SecretString>,
    /// File with the client secret; a line break at its end is ignored.
    #[schemars(example = &"/run/secrets/idp")]
    pub(super) client_secret_file: Option<PathBuf>,
    /// Authentication method at the endpoint. `private_key_jwt` signs with the key that signs tokens, which the issuer reads
    /// at this server's `jwks_uri`; it has no secret. `none` is not supported.
    #[serde(default = "default_auth")]
    auth: AuthMethod,
    /// Whether answers have to be signed by the issuer (RFC 9701).
    #[serde(default)]
    #[schemars(example = true)]
    signed: bool,
    /// Whether answers have to name the audience of a token.
    #[serde(default)]
    audience: AudienceRule,
    /// How long an answer about an active token is used, in seconds; not after the token has expired.
    #[serde(default = "default_cache")]
    #[schemars(range(max = 60), example = 10)]
    cache: u32,
}

fn default_auth() -> AuthMethod {
    AuthMethod::ClientSecretBasic
}

fn default_cache() -> u32 {
    30
}

/// A declaration that was checked, with its secret.
#[derive(Debug)]
pub(in crate::services) struct DeclaredIntrospection {
    pub(in crate::services) settings: IntrospectionSettings,
    pub(in crate::services) secret: Option<SecretString>,
}

impl IntrospectionDeclaration {
    /// Whether keys of the issuer are needed to verify answers.
    pub(super) fn needs_keys(&self) -> bool {
        self.signed
    }

    /// Validates the declaration.
    ///
    /// # Errors
    /// The reason, in words for the author of the manifest.
    pub(super) fn read(self, outbound: &Outbound) -> Result<DeclaredIntrospection, String> {
        if !outbound.may_fetch(&self.endpoint) {
            return Err("endpoint must be https, at a public address or one of outbound.allow".to_owned());
        }
        if !trusted_issuer_jwt::is_name(&self.client_id) {
            return Err("client_id is empty, too long, or has control characters".to_owned());
        }
        if self.cache > MAX_CACHE {
            return Err(format!("cache is at most {MAX_CACHE} seconds: a revoked token is accepted as long"));
        }
        let secret = match (self.client_secret, self.client_secret_file) {
            (Some(_), Some(_)) => {
                return Err("client_secret and client_secret_file exclude each other".to_owned());
            }
            (None, Some(path)) => Some(secret::read_file(&path).map_err(|fault| fault.to_string())?),
            (secret, None) => secret,
        };
        match self.auth {
            AuthMethod::None => return Err("auth: none is not supported (RFC 7662 §2.1)".to_owned()),
            AuthMethod::PrivateKeyJwt if secret.is_some() => {
                return Err("auth: private_key_jwt has no client secret: leave out one of them".to_owned());
            }
            _ => {}
        }
        let settings = IntrospectionSettings {
            endpoint: self.endpoint,
            client_id: self.client_id,
            auth: self.auth,
            signed: self.signed,
            audience: self.audience,
            cache: self.cache,
        };
        Ok(DeclaredIntrospection { settings, secret })
    }
}
