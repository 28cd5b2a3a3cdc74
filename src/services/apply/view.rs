//! Registered entries with the member names of the manifest, so that two states can be compared. Secrets are left
//! out, and public keys are shown by thumbprint.

use serde_json::{Map, Value, json};

use crate::domain::client::Client;
use crate::domain::issuer::{self, Issuer, SubjectForm};
use crate::domain::provider::ProviderSettings;
use crate::domain::resource::Resource;
use crate::platform::fault::{Context, Fault};
use actchain_protocol::jose::PublicKey;
use actchain_protocol::trusted_issuer_jwt::ClaimPolicy;

/// Members by their names in the manifest.
pub type Members = Map<String, Value>;

pub(super) fn object(value: Value) -> Members {
    match value {
        Value::Object(members) => members,
        _ => Members::new(),
    }
}

fn thumbprints(keys: &[PublicKey]) -> Vec<&str> {
    keys.iter().map(PublicKey::thumbprint).collect()
}

pub(in crate::services) fn issuer(one: &Issuer) -> Members {
    // Exhaustive, so that a new member cannot be forgotten.
    let Issuer {
        iss: _,
        tenants,
        discovery_tenant,
        jwks,
        keys,
        jwks_uri,
        discovered,
        audiences,
        delegation_audiences,
        algorithms,
        token_types,
        subject,
        subject_changed_at: _,
        claims: ClaimPolicy { may_act, scope_claims, actors, names, accepted_clients },
        standing_grants,
        introspection,
        sign_in,
    } = one;
    let (subject, alias) = match subject {
        SubjectForm::Raw => ("raw", None),
        SubjectForm::Prefixed { alias } => ("prefixed", Some(alias)),
    };
    object(json!({
        "jwks": jwks.as_ref().map(|_| thumbprints(keys)),
        "jwks_uri": jwks_uri,
        "tenants": tenants,
        "discovery_tenant": discovery_tenant,
        "claims": names.declared().next().map(|_| names),
        "accepted_clients": accepted_clients,
        "discover": discovered.is_some().then_some(true),
        "discovered_jwks_uri": discovered.as_ref().map(|found| &found.jwks_uri),
        "discovered_algorithms": discovered.as_ref().map(|found| &found.algorithms),
        "audiences": audiences,
        "delegation_audiences": delegation_audiences,
        "algorithms": algorithms.iter().map(|alg| alg.name()).collect::<Vec<_>>(),
        "token_types": token_types.iter().map(|kind| issuer::token_type_name(*kind)).collect::<Vec<_>>(),
        "subject": subject,
        "alias": alias,
        "may_act": may_act,
        "scope_claims": scope_claims,
        "actors": actors,
        "standing_grants": standing_grants,
        "introspection": introspection.as_ref().map(|one| &one.settings),
        "sign_in": sign_in.as_ref().map(|one| &one.settings),
        "discovered_endpoints": sign_in.as_ref().map(|one| &one.endpoints),
    }))
}

pub(in crate::services) fn resource(one: &Resource) -> Members {
    let Resource { id: _, scopes, detail_types, token_ttl } = one;
    object(json!({"scopes": scopes, "authorization_details_types": detail_types, "token_ttl": token_ttl}))
}

pub(in crate::services) fn client(one: &Client) -> Members {
    let Client {
        client_id: _,
        version: _,
        kind,
        name,
        auth,
        secrets: _,
        declared_secret: _,
        jwks,
        keys,
        jwks_uri,
        scopes,
        audiences,
        detail_types,
        grant_types,
        dpop,
        token_type,
        assertion_audience,
        dpop_keys,
        dpop_restricted,
        removed_keys: _,
        actor_subjects,
        max_token_ttl,
        disabled_at: _,
        ephemeral: _,
    } = one;
    object(json!({
        "kind": kind,
        "name": name,
        "auth": auth,
        "jwks": jwks.as_ref().map(|_| thumbprints(keys)),
        "jwks_uri": jwks_uri,
        "scopes": scopes,
        "audiences": audiences,
        "authorization_details_types": detail_types,
        "grant_types": grant_types,
        "dpop": dpop,
        "token_type": token_type,
        "assertion_audience": assertion_audience,
        "dpop_keys": dpop_restricted.then_some(dpop_keys),
        "actor_subjects": actor_subjects,
        "max_token_ttl": max_token_ttl,
    }))
}

pub fn provider(settings: &ProviderSettings) -> Result<Members, Fault> {
    let mut members = object(serde_json::to_value(settings).context("writing a provider")?);
    for part in ["oauth", "placement"] {
        let inner = members.remove(part).map(object).unwrap_or_default();
        members.extend(inner.into_iter().map(|(name, value)| (declared_name(&name), value)));
    }
    Ok(members)
}

/// The name in the manifest of a stored provider setting.
fn declared_name(stored: &str) -> String {
    match stored {
        "auth" => "token_endpoint_auth",
        "separator" => "scope_separator",
        "body" => "token_body",
        same => same,
    }
    .to_owned()
}
