//! Trusted issuers as declared.

use std::collections::BTreeSet;

use serde::Deserialize;
use serde_json::Value;

use crate::domain::client;
use crate::domain::issuer::{self, Issuer, SubjectForm};
use crate::platform::fault::Fault;
use crate::platform::jose::Alg;
use crate::platform::outbound::Outbound;
use crate::protocol::identity_token::{self, ClaimPolicy, MayActUse};

/// A trusted issuer.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IssuerDeclaration {
    iss: String,
    jwks: Option<Value>,
    jwks_uri: Option<String>,
    audiences: BTreeSet<String>,
    delegation_audiences: Option<BTreeSet<String>>,
    #[serde(default = "default_algorithms")]
    algorithms: Vec<String>,
    #[serde(default = "default_token_types")]
    token_types: Vec<String>,
    subject: Option<DeclaredSubject>,
    alias: Option<String>,
    #[serde(default)]
    may_act: MayActUse,
    scope_claims: Option<Vec<String>>,
}

/// How our tokens name the subjects of an issuer.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
enum DeclaredSubject {
    Raw,
    Prefixed,
}

pub(super) fn bad(what: impl std::fmt::Display, why: &str) -> Fault {
    Fault::new(format!("{what}: {why}"))
}

/// Exactly one of an inline set, which needs a usable key, and an address that may be fetched.
pub(super) fn check_keys(
    what: &str,
    jwks: Option<&Value>,
    jwks_uri: Option<&str>,
    outbound: &Outbound,
) -> Result<(), Fault> {
    match (jwks, jwks_uri) {
        (Some(_), Some(_)) => Err(bad(what, "jwks and jwks_uri exclude each other")),
        (None, None) => Err(bad(what, "jwks or jwks_uri is needed")),
        (Some(set), None) => match client::usable_keys(set) {
            Some(keys) if !keys.is_empty() => Ok(()),
            Some(_) => Err(bad(
                what,
                "jwks has no usable public key (ES256, ES384, Ed25519, RSA of 2048 bits and more)",
            )),
            None => Err(bad(what, "jwks is not a JWK Set")),
        },
        (None, Some(url)) if outbound.may_fetch(url) => Ok(()),
        (None, Some(_)) => Err(bad(what, "jwks_uri must be https and must not point to a private address")),
    }
}

fn default_algorithms() -> Vec<String> {
    ["ES256", "EdDSA", "Ed25519", "RS256", "PS256"].map(str::to_owned).to_vec()
}

fn default_token_types() -> Vec<String> {
    ["jwt", "id_token"].map(str::to_owned).to_vec()
}

impl IssuerDeclaration {
    /// Left out, an issuer with an alias is prefixed, and one without is raw.
    fn subject_form(&self, what: &str) -> Result<SubjectForm, Fault> {
        match (self.subject, &self.alias) {
            (None | Some(DeclaredSubject::Raw), None) => Ok(SubjectForm::Raw),
            (None | Some(DeclaredSubject::Prefixed), Some(alias)) if issuer::is_alias(alias) => {
                Ok(SubjectForm::Prefixed { alias: alias.clone() })
            }
            (None | Some(DeclaredSubject::Prefixed), Some(_)) => {
                Err(bad(what, "alias may have a to z, digits and -, at most 32, as in `alias: corp`"))
            }
            (Some(DeclaredSubject::Prefixed), None) => Err(bad(
                what,
                "subject: prefixed needs an alias, as in `alias: corp`: tokens then say corp:alice for its user alice",
            )),
            (Some(DeclaredSubject::Raw), Some(_)) => {
                Err(bad(what, "subject: raw has no alias: leave out one of them"))
            }
        }
    }

    /// Checks and converts.
    pub fn read(self, own_issuer: &str, outbound: &Outbound) -> Result<Issuer, Fault> {
        let what = format!("issuer {}", self.iss);
        let is_name = identity_token::is_name(&self.iss) && !self.iss.contains(char::is_whitespace);
        if !is_name || self.iss == own_issuer {
            return Err(bad(what, "iss is empty, too long, has spaces, or is this server itself"));
        }
        check_keys(&what, self.jwks.as_ref(), self.jwks_uri.as_deref(), outbound)?;
        if self.audiences.is_empty() {
            return Err(bad(what, "audiences is empty, so that no token of this issuer would be accepted"));
        }
        let subject = self.subject_form(&what)?;
        if self
            .scope_claims
            .as_ref()
            .is_some_and(|names| names.is_empty() || !names.iter().all(|name| identity_token::is_name(name)))
        {
            return Err(bad(
                what,
                "scope_claims must name the claims that hold scopes, as in `scope_claims: [permissions]`",
            ));
        }
        let algorithms = self.algorithms.iter().map(|name| {
            Alg::parse(name).ok_or_else(|| bad(&what, &format!("algorithm {name} is not supported")))
        });
        let token_types = self.token_types.iter().map(|name| {
            issuer::parse_token_type(name)
                .ok_or_else(|| bad(&what, &format!("token type {name} is not supported")))
        });
        let issuer = Issuer {
            algorithms: algorithms.collect::<Result<_, _>>()?,
            token_types: token_types.collect::<Result<_, _>>()?,
            iss: self.iss,
            jwks: self.jwks,
            keys: Vec::new(),
            jwks_uri: self.jwks_uri,
            audiences: self.audiences,
            delegation_audiences: self.delegation_audiences,
            subject,
            subject_changed_at: None,
            claims: ClaimPolicy { may_act: self.may_act, scope_claims: self.scope_claims },
        };
        Ok(issuer.with_keys())
    }
}
