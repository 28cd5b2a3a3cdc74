//! Discovery of other authorization servers and OpenID providers: where their metadata is (RFC 8414 §3.1, OpenID
//! Connect Discovery 1.0 §4.1), and what it says.

use serde_json::Value;
use thiserror::Error;
use url::Url;

use crate::json;

/// The longest URL that is accepted in metadata, in bytes.
const MAX_URL_BYTES: usize = 2_048;

/// The metadata of an issuer, as far as this crate reads it. A member that is null, empty, too long or of a wrong type
/// counts as absent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IssuerMetadata {
    /// Compared with the issuer that was asked for.
    pub issuer: String,
    /// Where the keys of the issuer are published.
    pub jwks_uri: Option<String>,
    /// URL of the authorization endpoint.
    pub authorization_endpoint: Option<String>,
    /// URL of the token endpoint.
    pub token_endpoint: Option<String>,
    /// URL of the revocation endpoint.
    pub revocation_endpoint: Option<String>,
    /// URL at which a browser ends the session at the issuer (OpenID Connect RP-Initiated Logout 1.0 §2.1).
    pub end_session_endpoint: Option<String>,
    /// Names of the algorithms that sign ID tokens; `None` if the metadata has no such list.
    pub id_token_signing_alg_values_supported: Option<Vec<String>>,
    /// Whether each authorization response has `iss` (RFC 9207 §3).
    pub authorization_response_iss_parameter_supported: bool,
}

/// Why a document is not the metadata that was asked for. The texts repeat nothing of the document.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum MetadataProblem {
    /// The document is not a JSON object.
    #[error("is no metadata")]
    NotMetadata,
    /// `issuer` is absent, or longer than URLs may be.
    #[error("names no issuer")]
    NoIssuer,
    /// `issuer` differs (RFC 8414 §3.3).
    #[error("is the metadata of another issuer")]
    OtherIssuer,
    /// A member that is needed is absent.
    #[error("names no {0}")]
    Missing(&'static str),
    /// A URL that must not be fetched.
    #[error("names a {0} that this server may not send requests to")]
    Forbidden(&'static str),
}

/// The URLs of an issuer's metadata, in the order in which they are read. `None` if the issuer is no URL, or has a query
/// or a fragment (RFC 8414 §2).
pub fn metadata_urls(issuer: &str) -> Option<[Url; 2]> {
    let url = Url::parse(issuer).ok()?;
    if url.cannot_be_a_base() || url.query().is_some() || url.fragment().is_some() {
        return None;
    }
    let path = url.path().trim_end_matches('/').to_owned();
    let (mut oauth, mut openid) = (url.clone(), url);
    oauth.set_path(&format!("/.well-known/oauth-authorization-server{path}"));
    openid.set_path(&format!("{path}/.well-known/openid-configuration"));
    Some([oauth, openid])
}

/// Reads a document as the metadata of an issuer with one of these names, compared character by character.
///
/// # Errors
/// The first problem of the document. Which members are needed is the caller's to decide.
pub fn read_metadata(body: &[u8], names: &[&str]) -> Result<IssuerMetadata, MetadataProblem> {
    let document = json::parse(body).ok_or(MetadataProblem::NotMetadata)?;
    let text = |name: &str| {
        let text = document.get(name).and_then(Value::as_str);
        text.filter(|text| !text.is_empty() && text.len() <= MAX_URL_BYTES).map(str::to_owned)
    };
    let issuer = text("issuer").ok_or(MetadataProblem::NoIssuer)?;
    if !names.contains(&issuer.as_str()) {
        return Err(MetadataProblem::OtherIssuer);
    }
    let listed = |name: &str| {
        let items = document.get(name).and_then(Value::as_array)?;
        let names: Vec<String> = items.iter().filter_map(Value::as_str).map(str::to_owned).collect();
        (!names.is_empty()).then_some(names)
    };
    let supported = document.get("authorization_response_iss_parameter_supported").and_then(Value::as_bool);
    Ok(IssuerMetadata {
        issuer,
        jwks_uri: text("jwks_uri"),
        authorization_endpoint: text("authorization_endpoint"),
        token_endpoint: text("token_endpoint"),
        revocation_endpoint: text("revocation_endpoint"),
        end_session_endpoint: text("end_session_endpoint"),
        id_token_signing_alg_values_supported: listed("id_token_signing_alg_values_supported"),
        authorization_response_iss_parameter_supported: supported == Some(true),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_is_below_the_host_or_below_the_path_of_the_issuer() {
        let urls = |issuer: &str| metadata_urls(issuer).map(|urls| urls.map(|url| url.to_string()));
        let at = |oauth: &str, openid: &str| Some([oauth, openid].map(str::to_owned));
        assert_eq!(
            urls("https://a.example"),
            at(
                "https://a.example/.well-known/oauth-authorization-server",
                "https://a.example/.well-known/openid-configuration"
            )
        );
        for issuer in ["https://a.example/realms/x", "https://a.example/realms/x/"] {
            assert_eq!(
                urls(issuer),
                at(
                    "https://a.example/.well-known/oauth-authorization-server/realms/x",
                    "https://a.example/realms/x/.well-known/openid-configuration"
                )
            );
        }
        for issuer in ["accounts.example", "https://a.example?x=1", "https://a.example#x", "urn:a:b", ""] {
            assert_eq!(urls(issuer), None, "{issuer}");
        }
    }

    #[test]
    fn members_that_are_null_or_empty_are_absent() {
        let body = r#"{"issuer":"https://a.example","token_endpoint":"https://a.example/t","authorization_endpoint":null,
            "revocation_endpoint":"","authorization_response_iss_parameter_supported":null,"scopes_supported":null,
            "id_token_signing_alg_values_supported":[],"jwks_uri":7}"#;
        let metadata = read_metadata(body.as_bytes(), &["https://a.example"]).unwrap();
        assert_eq!(metadata.token_endpoint.as_deref(), Some("https://a.example/t"));
        assert_eq!((metadata.authorization_endpoint, metadata.revocation_endpoint), (None, None));
        assert_eq!((metadata.jwks_uri, metadata.id_token_signing_alg_values_supported), (None, None));
        assert!(!metadata.authorization_response_iss_parameter_supported);
    }

    #[test]
    fn a_document_of_another_issuer_is_not_read() {
        let read = |body: &str| read_metadata(body.as_bytes(), &["https://a.example"]).map(drop);
        assert_eq!(read("{}"), Err(MetadataProblem::NoIssuer));
        assert_eq!(read("<html>"), Err(MetadataProblem::NotMetadata));
        for other in ["https://b.example", "https://a.example/", "HTTPS://a.example", "https://a.example "] {
            assert_eq!(
                read(&format!(r#"{{"issuer":"{other}"}}"#)),
                Err(MetadataProblem::OtherIssuer),
                "{other}"
            );
        }
    }
}
