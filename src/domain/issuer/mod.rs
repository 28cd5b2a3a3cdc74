//! Trusted issuers: authorization servers and OpenID providers whose tokens this server accepts as subject or actor
//! tokens.

pub mod checks;
mod discovered;
mod tenants;

use std::collections::BTreeSet;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use time::OffsetDateTime;

pub use self::discovered::{Discovered, MetadataDifference, MetadataMember};
pub use self::tenants::{MAX_TENANTS, TENANT, TENANT_CLAIM, TrustedIssuer, is_template, is_tenant};
use super::client::usable_keys;
use super::introspection::Introspection;
use super::sign_in::SignIn;
use crate::platform::fault::Fault;
use actchain_protocol::jose::{Alg, JwkSet, PublicKey};
use actchain_protocol::token_exchange::TokenType;
use actchain_protocol::trusted_issuer_jwt::ClaimPolicy;

#[derive(Debug, Clone)]
pub struct Issuer {
    /// Issuer identifier, compared character by character. With `tenants`, it has the placeholder [`TENANT`].
    pub iss: String,
    /// The tenants whose tokens are accepted; `None` for an issuer without tenants.
    pub tenants: Option<BTreeSet<String>>,
    /// What takes the place of [`TENANT`] in the URL of the metadata.
    pub discovery_tenant: Option<String>,
    /// The JWK Set as registered.
    pub jwks: Option<Value>,
    /// The usable keys of the JWK Set.
    pub keys: Vec<PublicKey>,
    /// The declared URL of the JWK Set.
    pub jwks_uri: Option<String>,
    /// What the metadata of the issuer said, if its keys are discovered.
    pub discovered: Option<Discovered>,
    /// The `aud` of a token has to contain one of these values.
    pub audiences: BTreeSet<String>,
    /// Audiences of tokens with which users decide about delegations; `None`: all of `audiences`.
    pub delegation_audiences: Option<BTreeSet<String>>,
    /// Algorithms of its signatures (RFC 8725 §3.1: policy per issuer).
    pub algorithms: Vec<Alg>,
    /// Types of tokens that are accepted from this issuer.
    pub token_types: Vec<TokenType>,
    /// The form of its subjects in tokens of this server.
    pub subject: SubjectForm,
    /// When the form of its subjects, or the claim that names them, last changed.
    pub subject_changed_at: Option<OffsetDateTime>,
    /// The claims that are read from its tokens.
    pub claims: ClaimPolicy,
    /// Who creates standing grants for its users.
    pub standing_grants: GrantCreators,
    /// How its access tokens are introspected; `None`: they are not.
    pub introspection: Option<Introspection>,
    /// How its users sign in to the console; `None`: they do not.
    pub sign_in: Option<SignIn>,
}

/// Who creates, renews and revalidates standing grants for the users of an issuer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema, sqlx::Type)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "text", rename_all = "snake_case")]
pub enum GrantCreators {
    /// Each user for itself.
    #[default]
    ByUser,
    /// Also administrators and operators, for a user.
    ByUserOrAdmin,
}

/// The form of an issuer's subjects in `sub` of this server's tokens, so that `(iss, sub)` is unique (RFC 9068 §5).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SubjectForm {
    /// As the issuer names them. At most one issuer is raw.
    Raw,
    Prefixed {
        /// Unique to this issuer.
        alias: String,
    },
}

impl SubjectForm {
    /// The `sub` claim in tokens of this server.
    pub fn claim(&self, sub: &str) -> String {
        match self {
            Self::Raw => sub.to_owned(),
            Self::Prefixed { alias } => format!("{alias}:{sub}"),
        }
    }

    /// The issuer's own `sub` for a `sub` claim of this server; `None` if the claim does not have this form.
    pub fn original<'a>(&self, claim: &'a str) -> Option<&'a str> {
        match self {
            Self::Raw => Some(claim),
            Self::Prefixed { .. } => claim.strip_prefix(&self.prefix()).filter(|sub| !sub.is_empty()),
        }
    }

    /// The prefix that no other issuer's subjects have; empty for a raw form.
    pub fn prefix(&self) -> String {
        match self {
            Self::Raw => String::new(),
            Self::Prefixed { alias } => format!("{alias}:"),
        }
    }
}

/// Whether a text can be an alias: `[a-z0-9-]{1,32}`.
pub fn is_alias(text: &str) -> bool {
    (1..=32).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
}

impl Issuer {
    /// Derives the usable keys from the registered JWK Set.
    pub fn with_keys(self) -> Self {
        Self { keys: self.jwks.as_ref().and_then(usable_keys).unwrap_or_default(), ..self }
    }

    /// Whether the same claim names the users.
    pub fn names_users_like(&self, other: &Self) -> bool {
        self.claims.names.subject() == other.claims.names.subject()
    }

    /// The URL of the JWK Set, declared or discovered; `None` if the set is inline.
    pub fn keys_url(&self) -> Option<&str> {
        let discovered = self.discovered.as_ref().map(|found| found.jwks_uri.as_str());
        self.jwks_uri.as_deref().or(discovered)
    }

    /// Whether an algorithm is declared, and offered by the metadata where the keys are discovered.
    pub fn accepts(&self, alg: Alg) -> bool {
        self.algorithms.contains(&alg) && self.discovered.as_ref().is_none_or(|found| found.offers(alg))
    }

    pub fn accepted_algorithms(&self) -> Vec<Alg> {
        self.algorithms.iter().copied().filter(|alg| self.accepts(*alg)).collect()
    }

    /// This issuer, declared at `now` as the replacement of a registered one.
    pub fn instead_of(self, old: Option<&Self>, now: OffsetDateTime) -> Self {
        let subject_changed_at = match old {
            Some(old) if old.subject != self.subject || !self.names_users_like(old) => Some(now),
            Some(old) => old.subject_changed_at,
            None => None,
        };
        Self { subject_changed_at, ..self }
    }

    /// The reasons why keys of a JWK Set of this issuer cannot be used, each as `key "kid": reason`. Keys for
    /// encryption are not listed.
    ///
    /// # Errors
    /// The value is no JWK Set, or no key of the set verifies a token of this issuer.
    pub fn key_problems(&self, set: &Value) -> Result<Vec<String>, Fault> {
        let set = JwkSet::read(set).ok_or_else(|| Fault::new("this is no JWK Set (RFC 7517 §5)"))?;
        let unusable = set.unusable.iter().filter(|key| !key.encrypts);
        let mut problems: Vec<String> = unusable.map(|key| named(key.kid.as_deref(), &key.reason)).collect();
        let mut verifying = 0;
        for key in &set.keys {
            if !self.algorithms.iter().any(|alg| key.allows(*alg)) {
                problems.push(named(
                    key.kid(),
                    "the algorithms of this issuer do not include the one of the key",
                ));
                continue;
            }
            verifying += 1;
            if key.kid().is_none() && set.keys.len() > 1 {
                let why =
                    "it has no kid although the set has several keys, so that it is tried for each token";
                problems.push(named(None, why));
            }
        }
        if verifying == 0 {
            problems.insert(0, "no key verifies a token of this issuer".to_owned());
            return Err(Fault::new(problems.join("; ")));
        }
        Ok(problems)
    }

    /// Whether a token for these audiences lets a user decide about delegations.
    pub fn lets_decide(&self, audiences: &[String]) -> bool {
        let wanted = self.delegation_audiences.as_ref().unwrap_or(&self.audiences);
        audiences.iter().any(|name| wanted.contains(name))
    }
}

/// A problem of a key. A long `kid` is truncated to 64 characters.
fn named(kid: Option<&str>, why: &str) -> String {
    match kid {
        Some(kid) => format!("key {:?}: {why}", kid.chars().take(64).collect::<String>()),
        None => format!("key without kid: {why}"),
    }
}

pub fn token_type_name(kind: TokenType) -> &'static str {
    match kind {
        TokenType::Jwt => "jwt",
        TokenType::IdToken => "id_token",
        TokenType::AccessToken => "access_token",
    }
}

/// Parses a short name. Access tokens that are JWTs are presented as `jwt`; whether an issuer introspects access tokens
/// is declared elsewhere.
pub fn parse_token_type(name: &str) -> Option<TokenType> {
    [TokenType::Jwt, TokenType::IdToken].into_iter().find(|kind| token_type_name(*kind) == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefixed_subject_is_read_back_as_it_was() {
        let form = SubjectForm::Prefixed { alias: "corp".into() };
        for sub in ["alice", "corp:alice", "a:b", ":"] {
            assert_eq!(form.original(&form.claim(sub)), Some(sub));
        }
        for claim in ["alice", "corp", "corp:", "corporate:alice", "Corp:alice"] {
            assert_eq!(form.original(claim), None, "{claim}");
        }
        assert_eq!(SubjectForm::Raw.original(&SubjectForm::Raw.claim("corp:alice")), Some("corp:alice"));
    }

    #[test]
    fn an_alias_has_no_colon() {
        assert!(is_alias("corp-2") && is_alias(&"a".repeat(32)));
        for text in ["", "Corp", "a:b", "a b", "ä", &"a".repeat(33)] {
            assert!(!is_alias(text), "{text}");
        }
    }
}
