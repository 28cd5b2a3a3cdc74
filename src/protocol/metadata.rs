//! Authorization server metadata (RFC 8414): what we say about ourselves, and where.

use serde_json::{Value, json};
use url::Url;

use super::token_exchange;
use crate::platform::jose::Alg;

/// The paths under which an issuer's documents are served: the one RFC 8414 §3.1 inserts before the issuer's path, and
/// what OpenID Connect Discovery appends after it (both spellings, §5).
pub fn well_known_paths(issuer: &str) -> Vec<String> {
    let path = issuer_path(issuer);
    let mut paths = vec![
        format!("/.well-known/oauth-authorization-server{path}"),
        format!("/.well-known/openid-configuration{path}"),
    ];
    if !path.is_empty() {
        paths.push(format!("{path}/.well-known/openid-configuration"));
    }
    paths
}

/// The issuer's path without a final slash; empty for an issuer without one.
pub fn issuer_path(issuer: &str) -> String {
    Url::parse(issuer).map(|url| url.path().trim_end_matches('/').to_owned()).unwrap_or_default()
}

/// Where an endpoint is: the issuer, less a final slash, and the endpoint's path.
pub fn endpoint(issuer: &str, path: &str) -> String {
    format!("{}{path}", issuer.trim_end_matches('/'))
}

/// What the document tells besides fixed facts.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    /// Scopes of all resources.
    pub scopes: Vec<String>,
    /// `authorization_details` types of all resources.
    pub detail_types: Vec<String>,
}

/// The document (§2). Lists without elements are left out (§3.2); everything whose default would mislead is written out.
pub fn document(issuer: &str, facts: &Facts) -> Value {
    let algs: Vec<&str> = Alg::ALL.iter().map(|alg| alg.name()).collect();
    let mut document = json!({
        "issuer": issuer,
        "token_endpoint": endpoint(issuer, "/oauth/token"),
        "jwks_uri": endpoint(issuer, "/oauth/jwks"),
        // Required by §2, though this server has no authorization endpoint and so no response type to offer.
        "response_types_supported": ["none"],
        "grant_types_supported": ["client_credentials", token_exchange::GRANT_TYPE],
        "token_endpoint_auth_methods_supported":
            ["client_secret_basic", "client_secret_post", "private_key_jwt", "none"],
        "token_endpoint_auth_signing_alg_values_supported": algs,
        "dpop_signing_alg_values_supported": algs,
    });
    if let Value::Object(members) = &mut document {
        let lists = [
            ("scopes_supported", &facts.scopes),
            ("authorization_details_types_supported", &facts.detail_types),
        ];
        for (name, list) in lists.into_iter().filter(|(_, list)| !list.is_empty()) {
            members.insert(name.to_owned(), json!(list));
        }
    }
    document
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn md_02_the_well_known_part_goes_between_host_and_path() {
        assert_eq!(
            well_known_paths("https://as.example.com").first().unwrap(),
            "/.well-known/oauth-authorization-server"
        );
        for issuer in ["https://as.example.com/t1", "https://as.example.com/t1/"] {
            assert_eq!(
                well_known_paths(issuer),
                [
                    "/.well-known/oauth-authorization-server/t1",
                    "/.well-known/openid-configuration/t1",
                    "/t1/.well-known/openid-configuration"
                ]
            );
        }
    }

    #[test]
    fn md_04_no_list_is_empty() {
        let document = document("https://as.example.com", &Facts::default());
        assert!(document.as_object().unwrap().values().all(|value| *value != json!([])));
        assert_eq!(document["token_endpoint"], "https://as.example.com/oauth/token");
    }
}
