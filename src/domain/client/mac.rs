//! The content of a client that its row MAC covers: all columns except times that are only shown.

use serde_json::{Value, json};

use super::{Client, Ephemeral};
use crate::domain::row_mac::MacRow;
use crate::platform::clock::rfc3339;

impl MacRow for Client {
    const TABLE: &'static str = "client";
    const KEY: &'static str = "client_id";

    fn row_id(&self) -> &str {
        &self.client_id
    }

    fn content(&self) -> Value {
        let Self {
            client_id: _,
            version,
            kind,
            name,
            auth,
            secrets,
            declared_secret,
            jwks,
            // Derived from `jwks`.
            keys: _,
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
            removed_keys,
            actor_subjects,
            max_token_ttl,
            disabled_at,
            ephemeral,
        } = self;
        json!({
            "version": version, "kind": kind, "name": name, "auth": auth, "secrets": secrets,
            "declared_secret": declared_secret, "jwks": jwks,
            "jwks_uri": jwks_uri, "scopes": scopes, "audiences": audiences, "detail_types": detail_types,
            "grant_types": grant_types, "dpop": dpop, "dpop_keys": dpop_keys, "dpop_restricted": dpop_restricted,
            "token_type": token_type, "assertion_audience": assertion_audience,
            "removed_keys": removed_keys, "actor_subjects": actor_subjects, "max_token_ttl": max_token_ttl,
            "disabled_at": disabled_at.map(rfc3339), "ephemeral": ephemeral.as_ref().map(made_for),
        })
    }
}

fn made_for(agent: &Ephemeral) -> Value {
    let Ephemeral { delegation_id, task_id, owner, deactivated_at } = agent;
    json!({"delegation_id": delegation_id, "task_id": task_id, "owner": owner, "deactivated_at": deactivated_at.map(rfc3339)})
}
