//! The content of issuers and resources that their row MACs cover: all columns.

use serde_json::{Value, json};

use crate::domain::issuer::{Issuer, SubjectForm, token_type_name};
use crate::domain::resource::Resource;
use crate::domain::row_mac::MacRow;
use crate::platform::clock::rfc3339;
use actchain_protocol::trusted_issuer_jwt::ClaimPolicy;

impl MacRow for Issuer {
    const TABLE: &'static str = "issuer";
    const KEY: &'static str = "iss";

    fn row_id(&self) -> &str {
        &self.iss
    }

    fn content(&self) -> Value {
        let Self {
            iss: _,
            tenants,
            discovery_tenant,
            jwks,
            // Derived from `jwks`.
            keys: _,
            jwks_uri,
            discovered,
            audiences,
            delegation_audiences,
            algorithms,
            token_types,
            subject,
            subject_changed_at,
            claims: ClaimPolicy { may_act, scope_claims, actors, names, accepted_clients },
            standing_grants,
            introspection,
            sign_in,
        } = self;
        let alias = match subject {
            SubjectForm::Raw => None,
            SubjectForm::Prefixed { alias } => Some(alias),
        };
        let algorithms: Vec<&str> = algorithms.iter().map(|alg| alg.name()).collect();
        let token_types: Vec<&str> = token_types.iter().map(|kind| token_type_name(*kind)).collect();
        json!({
            "jwks": jwks, "jwks_uri": jwks_uri, "discovered": discovered, "audiences": audiences,
            "delegation_audiences": delegation_audiences,
            "algorithms": algorithms, "token_types": token_types, "alias": alias,
            "subject_changed_at": subject_changed_at.map(rfc3339), "may_act": may_act, "scope_claims": scope_claims,
            "actors": actors, "tenants": tenants, "discovery_tenant": discovery_tenant, "claim_names": names,
            "accepted_clients": accepted_clients,
            "standing_grants": standing_grants,
            // The secrets have seals of their own, which a rotation of the master key replaces.
            "introspection": introspection.as_ref().map(|one| &one.settings),
            "sign_in": sign_in.as_ref().map(|one| json!({"settings": one.settings, "endpoints": one.endpoints})),
        })
    }
}

impl MacRow for Resource {
    const TABLE: &'static str = "resource";
    const KEY: &'static str = "id";

    fn row_id(&self) -> &str {
        &self.id
    }

    fn content(&self) -> Value {
        let Self { id: _, scopes, detail_types, token_ttl } = self;
        json!({"scopes": scopes, "detail_types": detail_types, "token_ttl": token_ttl})
    }
}
