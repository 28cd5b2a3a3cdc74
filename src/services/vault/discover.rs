//! The endpoints of a provider, from its metadata.

use crate::platform::fault::Fault;
use crate::platform::outbound::Outbound;
use crate::services::discovery::{self, MetadataSource};
use actchain_protocol::discovery::MetadataProblem;

/// The required part of the metadata (RFC 8414 §2).
pub(super) struct EndpointMetadata {
    pub(super) authorization_endpoint: Option<String>,
    pub(super) token_endpoint: String,
    pub(super) revocation_endpoint: Option<String>,
    pub(super) authorization_response_iss_parameter_supported: bool,
}

/// Reads the first document that is the metadata of this issuer and names a token endpoint.
pub(super) async fn discover(outbound: &Outbound, issuer: &str) -> Result<EndpointMetadata, Fault> {
    let source = MetadataSource::at(issuer);
    let found = discovery::discover(outbound, &source, |metadata| {
        Ok(EndpointMetadata {
            authorization_endpoint: metadata.authorization_endpoint,
            token_endpoint: metadata.token_endpoint.ok_or(MetadataProblem::Missing("token_endpoint"))?,
            revocation_endpoint: metadata.revocation_endpoint,
            authorization_response_iss_parameter_supported: metadata
                .authorization_response_iss_parameter_supported,
        })
    });
    Ok(found.await?)
}
