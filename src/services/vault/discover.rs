//! Discovery of authorization server metadata (RFC 8414 §3), with OpenID Connect Discovery 1.0 §4 as a fallback.

use serde_json::Value;
use url::Url;

use crate::platform::fault::{Context, Fault};
use crate::platform::outbound::Outbound;
use actchain_protocol::json;

/// The required part of the metadata (RFC 8414 §2). A member that is null, empty or of a wrong type counts as absent.
pub(super) struct EndpointMetadata {
    pub(super) authorization_endpoint: Option<String>,
    pub(super) token_endpoint: String,
    pub(super) revocation_endpoint: Option<String>,
    pub(super) authorization_response_iss_parameter_supported: bool,
}

/// Reads the first document that is the metadata of this issuer.
pub(super) async fn discover(outbound: &Outbound, issuer: &str) -> Result<EndpointMetadata, Fault> {
    let url = Url::parse(issuer).context("reading issuer")?;
    let path = url.path().trim_end_matches('/');
    let mut oauth = url.clone();
    oauth.set_path(&format!("/.well-known/oauth-authorization-server{path}"));
    let mut openid = url.clone();
    openid.set_path(&format!("{path}/.well-known/openid-configuration"));
    let mut problems = Vec::new();
    for url in [oauth, openid] {
        match outbound.get_json(url.as_str()).await.and_then(|body| read(&body, &url, issuer)) {
            Ok(metadata) => return Ok(metadata),
            Err(fault) => problems.push(fault.to_string()),
        }
    }
    Err(Fault::new(problems.join("; ")))
}

fn read(body: &[u8], url: &Url, issuer: &str) -> Result<EndpointMetadata, Fault> {
    let said = json::parse(body).ok_or_else(|| Fault::new(format!("{url} is no metadata")))?;
    let text = |name: &str| said.get(name).and_then(Value::as_str).filter(|text| !text.is_empty());
    let own = |name: &str| text(name).map(str::to_owned);
    // RFC 8414 §3.3.
    match text("issuer") {
        None => return Err(Fault::new(format!("{url} names no issuer"))),
        Some(other) if other != issuer => {
            return Err(Fault::new(format!("{url} is the metadata of {other:?}")));
        }
        Some(_) => {}
    }
    let supported = said.get("authorization_response_iss_parameter_supported").and_then(Value::as_bool);
    Ok(EndpointMetadata {
        authorization_endpoint: own("authorization_endpoint"),
        token_endpoint: own("token_endpoint")
            .ok_or_else(|| Fault::new(format!("{url} names no token_endpoint")))?,
        revocation_endpoint: own("revocation_endpoint"),
        authorization_response_iss_parameter_supported: supported == Some(true),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_that_are_null_or_empty_are_absent() {
        let url = Url::parse("https://a.example/.well-known/oauth-authorization-server").unwrap();
        let body = r#"{"issuer":"https://a.example","token_endpoint":"https://a.example/t","authorization_endpoint":null,
            "revocation_endpoint":"","authorization_response_iss_parameter_supported":null,"scopes_supported":null}"#;
        let metadata = read(body.as_bytes(), &url, "https://a.example").unwrap();
        assert_eq!(metadata.token_endpoint, "https://a.example/t");
        assert!(metadata.authorization_endpoint.is_none() && metadata.revocation_endpoint.is_none());
        assert!(!metadata.authorization_response_iss_parameter_supported);
        for (body, part) in [
            ("{}", "names no issuer"),
            (r#"{"issuer":"https://b.example"}"#, "the metadata of"),
            (r#"{"issuer":"https://a.example","token_endpoint":""}"#, "token_endpoint"),
            ("<html>", "no metadata"),
        ] {
            let problem = read(body.as_bytes(), &url, "https://a.example").err().unwrap().to_string();
            assert!(problem.contains(part), "{problem}");
        }
    }
}
