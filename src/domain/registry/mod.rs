//! All trusted issuers and resources: few and rarely changed, kept in memory under a version number.

pub mod dependents;
mod mac;
pub mod store;

use std::collections::BTreeMap;

use super::issuer::{Issuer, SubjectForm, TrustedIssuer};
use super::principal::Principal;
use super::resource::Resource;
use actchain_protocol::access_token::Claims;

/// The scope that lets an admin client administer this server.
pub const ADMIN_SCOPE: &str = "actchain.admin";

/// The scope that lets an agent request delegations and delegate further.
pub const DELEGATE_SCOPE: &str = "actchain.delegate";

/// The scope that lets an auditor read the audit log.
pub const AUDIT_SCOPE: &str = "actchain.audit";

/// The type of `authorization_details` that names a connection of the vault.
pub const VAULT_DETAIL: &str = "vault_connection";

/// The registered issuers and resources, as of one version.
#[derive(Debug, Clone, Default)]
pub struct Registry {
    /// Increases with every change of an issuer or resource.
    pub version: i64,
    pub issuers: BTreeMap<String, Issuer>,
    /// By id; includes this server.
    pub resources: BTreeMap<String, Resource>,
}

impl Registry {
    /// Whether a resource declares this scope.
    pub fn has_scope(&self, name: &str) -> bool {
        self.resources.values().any(|resource| resource.scopes.contains(name))
    }

    /// Whether a resource declares this type of `authorization_details`.
    pub fn has_detail_type(&self, name: &str) -> bool {
        self.resources.values().any(|resource| resource.detail_types.contains(name))
    }

    /// Whether tokens for this audience are accepted by this server or by a resource server.
    pub fn is_own_audience(&self, audience: &str, own_issuer: &str) -> bool {
        audience == own_issuer || self.resources.contains_key(audience)
    }

    /// The issuer of a name that tokens have.
    pub fn issuer(&self, iss: &str) -> Option<TrustedIssuer<'_>> {
        // An issuer with tenants is declared under a name that no token has.
        let named = self.issuers.get(iss).and_then(|issuer| issuer.identified_by(iss));
        named.or_else(|| self.issuers.values().find_map(|issuer| issuer.identified_by(iss)))
    }

    /// The `sub` claim of a principal in this server's tokens. `None` if its issuer is not registered, or if the
    /// claim would have the form of another issuer's subjects.
    pub fn subject_claim(&self, who: &Principal, own_issuer: &str) -> Option<String> {
        if who.iss == own_issuer {
            return Some(who.sub.clone());
        }
        let trusted = self.issuer(&who.iss)?;
        let claim = trusted.subject_claim(&who.sub);
        let of_another = self.issuers.values().any(|issuer| {
            let prefix = issuer.subject.prefix();
            issuer.iss != trusted.declared.iss && !prefix.is_empty() && claim.starts_with(&prefix)
        });
        (!of_another).then_some(claim)
    }

    /// The root subject of a token of this server, as its issuer names it. `None` if the issuer is no longer
    /// registered, or if the form of its subjects has changed since.
    pub fn root_subject(&self, claims: &Claims) -> Option<Principal> {
        let Some(idp) = &claims.idp else { return Some(Principal::new(&claims.iss, &claims.sub)) };
        let sub = self.issuer(idp)?.original_subject(&claims.sub, claims.iat)?;
        Some(Principal::new(idp, sub))
    }

    /// Checks that no two issuers have subjects of the same form in this server's tokens, or the same name in theirs.
    ///
    /// # Errors
    /// The first two issuers whose users or tokens could be confused.
    pub fn check_issuers(&self) -> Result<(), IssuerClash> {
        let mut forms: BTreeMap<String, &str> = BTreeMap::new();
        let mut names: BTreeMap<String, &str> = BTreeMap::new();
        for issuer in self.issuers.values() {
            let clash = |first: &str, shared| {
                Err(IssuerClash { issuers: [first.to_owned(), issuer.iss.clone()], shared })
            };
            if let Some(first) = forms.insert(issuer.subject.prefix(), &issuer.iss) {
                return clash(first, Shared::Form(issuer.subject.clone()));
            }
            for name in issuer.identifiers() {
                if let Some(first) = names.insert(name.clone(), &issuer.iss) {
                    return clash(first, Shared::Name(name));
                }
            }
        }
        Ok(())
    }
}

/// Two issuers whose users or tokens could be confused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IssuerClash {
    pub issuers: [String; 2],
    shared: Shared,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Shared {
    /// Their subjects in this server's tokens.
    Form(SubjectForm),
    /// The `iss` of their tokens.
    Name(String),
}

impl IssuerClash {
    /// The member of the manifest that has to change for one of the issuers.
    pub fn member(&self) -> &'static str {
        match self.shared {
            Shared::Form(SubjectForm::Raw) => "subject",
            Shared::Form(SubjectForm::Prefixed { .. }) => "alias",
            Shared::Name(_) => "iss",
        }
    }
}

impl std::fmt::Display for IssuerClash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [first, second] = &self.issuers;
        match &self.shared {
            Shared::Form(SubjectForm::Raw) => write!(
                f,
                "issuers {first} and {second} are both raw, so that a `sub` in our tokens could be a user of either: write \
                 `subject: prefixed` and an `alias` for one of them"
            ),
            Shared::Name(name) => write!(f, "issuers {first} and {second} both cover tokens of {name}"),
            Shared::Form(SubjectForm::Prefixed { alias }) => write!(
                f,
                "issuers {first} and {second} have the same alias {alias}: each needs an alias of its own"
            ),
        }
    }
}
