//! Issuers that we trust to say who somebody is.

use std::collections::BTreeSet;

use serde_json::Value;

use super::client::usable_keys;
use crate::platform::jose::{Alg, PublicKey};
use crate::protocol::token_exchange::TokenType;

/// A trusted issuer.
#[derive(Debug, Clone)]
pub struct Issuer {
    /// Its identifier, compared character by character.
    pub iss: String,
    /// Its JWK Set as registered.
    pub jwks: Option<Value>,
    /// The keys of that set that can be used.
    pub keys: Vec<PublicKey>,
    /// Where its JWK Set is, if not inline.
    pub jwks_uri: Option<String>,
    /// The `aud` values, one of which its tokens have to carry.
    pub audiences: BTreeSet<String>,
    /// Those of tokens under which users decide about delegations; `None` where all of `audiences` do.
    pub delegation_audiences: Option<BTreeSet<String>>,
    /// The algorithms it signs with (RFC 8725 §3.1: policy per issuer).
    pub algorithms: Vec<Alg>,
    /// The token types it may be presented as the issuer of.
    pub token_types: Vec<TokenType>,
}

impl Issuer {
    /// An issuer as registered.
    pub fn with_keys(self) -> Self {
        Self { keys: self.jwks.as_ref().and_then(usable_keys).unwrap_or_default(), ..self }
    }
}

impl Issuer {
    /// Whether it is registered just like another.
    pub fn says_the_same(&self, other: &Self) -> bool {
        (&self.jwks, &self.jwks_uri, &self.audiences) == (&other.jwks, &other.jwks_uri, &other.audiences)
            && self.delegation_audiences == other.delegation_audiences
            && (&self.algorithms, &self.token_types) == (&other.algorithms, &other.token_types)
    }

    /// Whether a token for these audiences lets a user decide about delegations.
    pub fn lets_decide(&self, audiences: &[String]) -> bool {
        let wanted = self.delegation_audiences.as_ref().unwrap_or(&self.audiences);
        audiences.iter().any(|name| wanted.contains(name))
    }
}

/// The short name of a token type in registrations.
pub fn token_type_name(kind: TokenType) -> &'static str {
    match kind {
        TokenType::Jwt => "jwt",
        TokenType::IdToken => "id_token",
        TokenType::AccessToken => "access_token",
    }
}

/// Reads a short name; other issuers' access tokens come as `jwt` (RFC 8693 §3).
pub fn parse_token_type(name: &str) -> Option<TokenType> {
    [TokenType::Jwt, TokenType::IdToken].into_iter().find(|kind| token_type_name(*kind) == name)
}
