//! What `actchain apply` reads: issuers, resources, clients and delegations as YAML. Unknown keys are refused.

use std::collections::BTreeSet;
use std::path::PathBuf;

use secrecy::SecretString;
use serde::Deserialize;
use serde_json::Value;

use crate::domain::client::{self, AuthMethod, Binding, Grant, Kind};
use crate::domain::delegation;
use crate::domain::principal::Principal;
use crate::domain::registry::{ADMIN_SCOPE, AUDIT_SCOPE};
use crate::domain::resource::Resource;
use crate::domain::vault;
use crate::flows::declared_issuer::{IssuerDeclaration, bad, check_keys};
use crate::flows::sinks::SinkDeclaration;
use crate::flows::vault::ProviderDeclaration;
use crate::platform::fault::Fault;
use crate::platform::outbound::Outbound;
use crate::protocol::authorization_details::Details;
use crate::protocol::{resource, scope};

/// All that one file, or several, declare.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Declaration {
    /// Trusted issuers.
    pub issuers: Vec<IssuerDeclaration>,
    /// Resources.
    pub resources: Vec<ResourceDeclaration>,
    /// Clients.
    pub clients: Vec<ClientDeclaration>,
    /// Providers of credentials.
    pub providers: Vec<ProviderDeclaration>,
    /// Where the audit log is sent.
    pub sinks: Vec<SinkDeclaration>,
    /// Delegations, parents before children.
    pub delegations: Vec<DelegationDeclaration>,
}

/// A resource.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ResourceDeclaration {
    id: String,
    scopes: BTreeSet<String>,
    #[serde(default)]
    authorization_details_types: BTreeSet<String>,
    token_ttl: Option<u32>,
}

/// A client.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClientDeclaration {
    /// Its id.
    pub id: String,
    /// What it is.
    pub kind: Kind,
    /// For people; the id where absent.
    pub name: Option<String>,
    /// How it authenticates.
    pub auth: AuthMethod,
    /// Its secret.
    pub secret: Option<SecretString>,
    /// A file that holds it.
    pub secret_file: Option<PathBuf>,
    /// Its keys.
    pub jwks: Option<Value>,
    /// Where its keys are.
    pub jwks_uri: Option<String>,
    /// Scopes it may ever get; none where absent.
    #[serde(default)]
    pub scopes: BTreeSet<String>,
    /// Targets it may ever get tokens for; none where absent.
    #[serde(default)]
    pub audiences: BTreeSet<String>,
    /// `authorization_details` types it may ever get; none where absent.
    #[serde(default)]
    pub authorization_details_types: BTreeSet<String>,
    /// Grants it may use.
    #[serde(default)]
    pub grant_types: BTreeSet<Grant>,
    /// Whether proofs are required.
    #[serde(default)]
    pub dpop: Binding,
    /// The only keys it may use.
    #[serde(default)]
    pub dpop_keys: BTreeSet<String>,
    /// Workloads whose tokens prove it.
    #[serde(default)]
    pub actor_subjects: Vec<Principal>,
    /// The longest life of its tokens, in seconds.
    pub max_token_ttl: Option<u32>,
}

/// A delegation. Limits that are left out are the delegator's own.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DelegationDeclaration {
    /// Its id.
    pub id: String,
    /// Who gives it, at the root.
    pub delegator: Option<Principal>,
    /// What it hangs below, elsewhere.
    pub parent: Option<String>,
    /// Who gets it.
    pub delegate: String,
    /// Scopes.
    pub scopes: Option<BTreeSet<String>>,
    /// Targets.
    pub audiences: Option<BTreeSet<String>>,
    /// `authorization_details`.
    pub authorization_details: Option<Value>,
    /// Seconds from now; as long as its parent where absent.
    pub expires_in: Option<u32>,
    /// The most actors of a token under it.
    pub max_depth: Option<u32>,
    /// How often it may be used.
    pub max_uses: Option<u32>,
    /// The highest capability.
    pub capability_ceiling: Option<String>,
    /// Capabilities and scopes for which each exchange needs a confirmation.
    #[serde(default)]
    pub ceremony_required_for: BTreeSet<String>,
    /// What for.
    pub reason: Option<String>,
}

impl Declaration {
    /// Reads one file's text.
    ///
    /// # Errors
    /// A fault that says what and where.
    pub fn parse(origin: &str, yaml: &str) -> Result<Self, Fault> {
        // YAML 1.2: `y`, the name of a coordinate in every elliptic JWK, is a name and not «yes».
        let options = serde_saphyr::options! { strict_booleans: true };
        serde_saphyr::from_str_with_options(yaml, options)
            .map_err(|error| Fault::new(format!("{origin}: {error}")))
    }

    /// Adds what another file declares.
    pub fn merge(&mut self, other: Self) {
        self.issuers.extend(other.issuers);
        self.resources.extend(other.resources);
        self.clients.extend(other.clients);
        self.providers.extend(other.providers);
        self.sinks.extend(other.sinks);
        self.delegations.extend(other.delegations);
    }
}

/// A life of at least a second and at most what can be stored.
fn check_ttl(what: &str, name: &str, ttl: Option<u32>) -> Result<(), Fault> {
    match ttl {
        Some(0) => Err(bad(what, &format!("{name} must not be 0"))),
        Some(ttl) if i32::try_from(ttl).is_err() => Err(bad(what, &format!("{name} is too long"))),
        _ => Ok(()),
    }
}

impl ResourceDeclaration {
    /// Checks and converts.
    pub fn read(self, own_issuer: &str) -> Result<Resource, Fault> {
        let what = format!("resource {}", self.id);
        if !resource::is_audience(&self.id) || self.id == own_issuer {
            return Err(bad(what, "id must be printable ASCII without spaces, and not this server's issuer"));
        }
        check_ttl(&what, "token_ttl", self.token_ttl)?;
        if let Some(scope) = self
            .scopes
            .iter()
            .find(|scope| !scope::is_token(scope) || [ADMIN_SCOPE, AUDIT_SCOPE].contains(&scope.as_str()))
        {
            return Err(bad(what, &format!("{scope:?} is not usable as a scope")));
        }
        Ok(Resource {
            id: self.id,
            scopes: self.scopes,
            detail_types: self.authorization_details_types,
            token_ttl: self.token_ttl,
        })
    }
}

impl ClientDeclaration {
    /// Checks all that can be checked without knowing anything else.
    pub fn check(&self, outbound: &Outbound) -> Result<(), Fault> {
        let what = format!("client {}", self.id);
        if !client::is_client_id(&self.id) || self.id == "operator" {
            return Err(bad(
                what,
                "id may have letters, digits and -._~:/@, at most 128, and not be «operator»",
            ));
        }
        check_ttl(&what, "max_token_ttl", self.max_token_ttl)?;
        let with_keys = self.jwks.is_some() || self.jwks_uri.is_some();
        let with_secret = self.secret.is_some() || self.secret_file.is_some();
        match self.auth {
            AuthMethod::PrivateKeyJwt => {
                check_keys(&what, self.jwks.as_ref(), self.jwks_uri.as_deref(), outbound)?;
            }
            _ if with_keys => return Err(bad(what, "jwks and jwks_uri belong to auth private_key_jwt")),
            _ => {}
        }
        if with_secret && !self.auth.uses_secret() {
            return Err(bad(what, "a secret belongs to auth client_secret_basic or client_secret_post"));
        }
        if self.secret.is_some() && self.secret_file.is_some() {
            return Err(bad(what, "secret and secret_file exclude each other"));
        }
        if self.auth == AuthMethod::None && self.dpop_keys.is_empty() {
            return Err(bad(what, "auth none needs dpop_keys, else anybody could be this client"));
        }
        let thumbprint =
            |jkt: &String| crate::platform::base64url::decode(jkt).is_some_and(|bytes| bytes.len() == 32);
        if !self.dpop_keys.iter().all(thumbprint) {
            return Err(bad(what, "dpop_keys must be SHA-256 thumbprints in base64url"));
        }
        if let Some(scope) = self.scopes.iter().find(|scope| !scope::is_token(scope)) {
            return Err(bad(what, &format!("{scope:?} is not usable as a scope")));
        }
        if self.scopes.contains(ADMIN_SCOPE) && self.kind != Kind::Admin {
            return Err(bad(what, "the scope actchain.admin is for clients of kind admin"));
        }
        if self.scopes.contains(AUDIT_SCOPE) && self.kind != Kind::Auditor {
            return Err(bad(what, "the scope actchain.audit is for clients of kind auditor"));
        }
        Ok(())
    }
}

impl DelegationDeclaration {
    /// Checks the form and reads the details.
    pub fn read_details(&self) -> Result<Option<Details>, Fault> {
        let what = format!("delegation {}", self.id);
        if !delegation::is_id(&self.id) || self.id.starts_with("may-") {
            return Err(bad(
                what,
                "id may have letters, digits and -._~, at most 64, and not begin with may-",
            ));
        }
        if self.delegator.is_some() == self.parent.is_some() {
            return Err(bad(what, "needs a delegator (at the root) or a parent, and not both"));
        }
        match &self.authorization_details {
            None => Ok(None),
            Some(value) => {
                let details = Details::from_value(value).ok_or_else(|| {
                    bad(what.clone(), "authorization_details must be a list of objects with a type")
                })?;
                if !details.0.iter().all(vault::is_usable) {
                    return Err(bad(
                        what,
                        "authorization_details: a vault_connection to retrieve is limited by actions and scopes only, one for the proxy also by locations",
                    ));
                }
                Ok(Some(details))
            }
        }
    }
}

/// Reads several declarations as one.
pub fn read_all(files: &[(String, String)]) -> Result<Declaration, Fault> {
    let mut all = Declaration::default();
    for (origin, text) in files {
        all.merge(Declaration::parse(origin, text)?);
    }
    let twice = |ids: Vec<&String>| {
        let mut seen = BTreeSet::new();
        ids.into_iter().find(|id| !seen.insert(*id)).cloned()
    };
    let repeated = twice(all.clients.iter().map(|one| &one.id).collect())
        .or_else(|| twice(all.sinks.iter().map(|one| &one.id).collect()))
        .or_else(|| twice(all.delegations.iter().map(|one| &one.id).collect()));
    if let Some(id) = repeated {
        return Err(Fault::new(format!("{id} is declared twice")));
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_jwk_may_be_written_without_quotes() {
        let yaml = "clients:
  - {id: a, kind: agent, auth: private_key_jwt, jwks: {keys: [{kty: EC, crv: P-256, x: f83, y: x_F}]}}";
        let declared = Declaration::parse("test", yaml).unwrap();
        assert_eq!(declared.clients[0].jwks.as_ref().unwrap()["keys"][0]["y"], "x_F");
    }
}
