//! Authorization server metadata (RFC 8414): the document and its URLs.

use serde_json::{Value, json};
use url::Url;

use super::token_exchange;
use crate::jose::Alg;

/// Client authentication methods of all endpoints that need client authentication.
const AUTH_METHODS: [&str; 4] = ["client_secret_basic", "client_secret_post", "private_key_jwt", "none"];

/// The paths of an issuer's metadata documents. RFC 8414 §3.1 inserts its path before the issuer's path; OpenID
/// Connect Discovery appends its own (RFC 8414 §5 allows both).
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

/// The issuer's path without a final slash; empty for an issuer without a path.
pub fn issuer_path(issuer: &str) -> String {
    Url::parse(issuer).map(|url| url.path().trim_end_matches('/').to_owned()).unwrap_or_default()
}

/// The URL of an endpoint: the issuer without a final slash, then the endpoint's path.
pub fn endpoint(issuer: &str, path: &str) -> String {
    format!("{}{path}", issuer.trim_end_matches('/'))
}

/// The variable parts of the document.
#[derive(Debug, Clone)]
pub struct MetadataInput {
    /// `scopes_supported`: the scopes of all resources.
    pub scopes: Vec<String>,
    /// `authorization_details` types of all resources.
    pub detail_types: Vec<String>,
    /// The algorithm of the current token signing key.
    pub signing_alg: Alg,
}

/// The document (RFC 8414 §2). Empty lists are left out (§3.2). Members whose default would be wrong are written out.
pub fn document(issuer: &str, facts: &MetadataInput) -> Value {
    let algs: Vec<&str> = Alg::ALL.iter().map(|alg| alg.name()).collect();
    let mut document = json!({
        "issuer": issuer,
        "token_endpoint": endpoint(issuer, "/oauth/token"),
        "jwks_uri": endpoint(issuer, "/oauth/jwks"),
        // Required by RFC 8414 §2, though this server has no authorization endpoint and therefore no response type.
        "response_types_supported": ["none"],
        "grant_types_supported": ["client_credentials", token_exchange::GRANT_TYPE, "refresh_token"],
        "token_endpoint_auth_methods_supported": AUTH_METHODS,
        "token_endpoint_auth_signing_alg_values_supported": algs,
        "introspection_endpoint": endpoint(issuer, "/oauth/introspect"),
        "introspection_endpoint_auth_methods_supported": AUTH_METHODS,
        "introspection_endpoint_auth_signing_alg_values_supported": algs,
        // RFC 9701 §7: the key that signs tokens also signs introspection responses.
        "introspection_signing_alg_values_supported": [facts.signing_alg.name()],
        "revocation_endpoint": endpoint(issuer, "/oauth/revoke"),
        "revocation_endpoint_auth_methods_supported": AUTH_METHODS,
        "revocation_endpoint_auth_signing_alg_values_supported": algs,
        "status_list_aggregation_endpoint": endpoint(issuer, "/oauth/status-lists"),
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
    fn the_well_known_part_goes_between_host_and_path() {
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

    fn facts() -> MetadataInput {
        MetadataInput { scopes: Vec::new(), detail_types: Vec::new(), signing_alg: Alg::EdDSA }
    }

    #[test]
    fn metadata_has_no_empty_list() {
        let document = document("https://as.example.com", &facts());
        assert!(document.as_object().unwrap().values().all(|value| *value != json!([])));
        assert_eq!(document["token_endpoint"], "https://as.example.com/oauth/token");
    }

    #[test]
    fn metadata_lists_the_authentication_methods_of_every_endpoint() {
        let document = document("https://as.example.com/t1/", &facts());
        for (name, path) in [
            ("token", "/oauth/token"),
            ("introspection", "/oauth/introspect"),
            ("revocation", "/oauth/revoke"),
        ] {
            assert_eq!(document[format!("{name}_endpoint")], format!("https://as.example.com/t1{path}"));
            assert_eq!(document[format!("{name}_endpoint_auth_methods_supported")], json!(AUTH_METHODS));
            let algs = &document[format!("{name}_endpoint_auth_signing_alg_values_supported")];
            assert!(algs.as_array().unwrap().contains(&json!("RS256")), "{name}: {algs}");
        }
    }

    #[test]
    fn metadata_has_signed_introspection_and_status_lists() {
        let document = document("https://as.example.com/t1", &facts());
        assert_eq!(document["introspection_signing_alg_values_supported"], json!(["EdDSA"]));
        assert_eq!(
            document["status_list_aggregation_endpoint"],
            "https://as.example.com/t1/oauth/status-lists"
        );
    }
}
