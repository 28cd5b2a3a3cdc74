//! Discovery of other servers: authorization server metadata (RFC 8414 §3), then OpenID Connect Discovery 1.0 §4.

use std::fmt;

use crate::domain::issuer::TENANT;
use crate::platform::fault::Fault;
use crate::platform::outbound::Outbound;
use actchain_protocol::discovery::{IssuerMetadata, MetadataProblem, metadata_urls, read_metadata};

/// Where the metadata of an issuer is, and under which names.
#[derive(Debug, Clone)]
pub struct MetadataSource {
    /// The issuer that the URLs follow from.
    pub base: String,
    /// Accepted values of `issuer` in the document.
    pub names: Vec<String>,
}

impl MetadataSource {
    /// The metadata of an issuer at its own URL.
    pub fn at(issuer: &str) -> Self {
        Self { base: issuer.to_owned(), names: vec![issuer.to_owned()] }
    }

    /// The metadata of an issuer with tenants, published under the name of one of them. It names either that tenant, or
    /// all tenants by the placeholder.
    pub fn of_tenant(issuer: &str, tenant: &str) -> Self {
        let base = issuer.replace(TENANT, tenant);
        Self { names: vec![issuer.to_owned(), base.clone()], base }
    }
}

/// Why no metadata was found. The text names each URL with its problem, and repeats nothing of the documents.
#[derive(Debug)]
pub struct DiscoveryFailure {
    problems: Vec<String>,
    /// Whether a document names another issuer.
    pub is_of_another: bool,
}

impl fmt::Display for DiscoveryFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.problems.join("; "))
    }
}

impl From<DiscoveryFailure> for Fault {
    fn from(failure: DiscoveryFailure) -> Self {
        Self::new(failure.to_string())
    }
}

/// Returns what `use_of` makes of the first document that is the metadata of this issuer and that it can use.
///
/// # Errors
/// The problems of all documents.
pub(super) async fn discover<T>(
    outbound: &Outbound,
    source: &MetadataSource,
    use_of: impl Fn(IssuerMetadata) -> Result<T, MetadataProblem>,
) -> Result<T, DiscoveryFailure> {
    let names: Vec<&str> = source.names.iter().map(String::as_str).collect();
    let mut failure = DiscoveryFailure { problems: Vec::new(), is_of_another: false };
    let Some(urls) = metadata_urls(&source.base) else {
        failure.problems.push("the issuer is no URL without query and fragment".to_owned());
        return Err(failure);
    };
    for url in urls {
        let body = match outbound.get_json(url.as_str()).await {
            Ok(body) => body,
            Err(fault) => {
                failure.problems.push(fault.to_string());
                continue;
            }
        };
        match read_metadata(&body, &names).and_then(&use_of) {
            Ok(used) => return Ok(used),
            Err(problem) => {
                failure.is_of_another |= problem == MetadataProblem::OtherIssuer;
                failure.problems.push(format!("{url} {problem}"));
            }
        }
    }
    Err(failure)
}
