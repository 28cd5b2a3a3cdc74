//! All trusted issuers and resources: few and rarely changed, kept in memory under a version number.

pub mod dependents;
mod mac;
pub mod store;

use std::collections::BTreeMap;

use super::issuer::{Issuer, SubjectForm};
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

    /// The `sub` claim of a principal in this server's tokens. `None` if its issuer is not registered, or if the
    /// claim would have the form of another issuer's subjects.
    pub fn subject_claim(&self, who: &Principal, own_issuer: &str) -> Option<String> {
        if who.iss == own_issuer {
            return Some(who.sub.clone());
        }
        let form = &self.issuers.get(&who.iss)?.subject;
        let claim = form.claim(&who.sub);
        let of_another = self.issuers.values().any(|issuer| {
            let prefix = issuer.subject.prefix();
            issuer.iss != who.iss && !prefix.is_empty() && claim.starts_with(&prefix)
        });
        (!of_another).then_some(claim)
    }

    /// The root subject of a token of this server, as its issuer names it. `None` if the issuer is no longer
    /// registered, or if the form of its subjects has changed since.
    pub fn root_subject(&self, claims: &Claims) -> Option<Principal> {
        let Some(idp) = &claims.idp else { return Some(Principal::new(&claims.iss, &claims.sub)) };
        let sub = self.issuers.get(idp)?.original_subject(&claims.sub, claims.iat)?;
        Some(Principal::new(idp, sub))
    }

    /// Checks that no two issuers have subjects of the same form in this server's tokens.
    ///
    /// # Errors
    /// The first two issuers with the same form of subjects.
    pub fn check_subject_forms(&self) -> Result<(), SubjectFormClash> {
        let mut seen: BTreeMap<String, &str> = BTreeMap::new();
        for issuer in self.issuers.values() {
            let Some(first) = seen.insert(issuer.subject.prefix(), &issuer.iss) else { continue };
            let issuers = [first.to_owned(), issuer.iss.clone()];
            return Err(SubjectFormClash { issuers, form: issuer.subject.clone() });
        }
        Ok(())
    }
}

/// Two issuers whose subjects have the same form in this server's tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubjectFormClash {
    pub issuers: [String; 2],
    form: SubjectForm,
}

impl SubjectFormClash {
    /// The member of the manifest that has to change for one of the issuers.
    pub fn member(&self) -> &'static str {
        match self.form {
            SubjectForm::Raw => "subject",
            SubjectForm::Prefixed { .. } => "alias",
        }
    }
}

impl std::fmt::Display for SubjectFormClash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [first, second] = &self.issuers;
        match &self.form {
            SubjectForm::Raw => write!(
                f,
                "issuers {first} and {second} are both raw, so that a `sub` in our tokens could be a user of either: write \
                 `subject: prefixed` and an `alias` for one of them"
            ),
            SubjectForm::Prefixed { alias } => write!(
                f,
                "issuers {first} and {second} have the same alias {alias}: each needs an alias of its own"
            ),
        }
    }
}
