//! Metadata of the declared issuers, read before the transaction of an `apply`.

use std::collections::BTreeMap;

use futures_util::future::join_all;

use crate::domain::issuer::{Discovered, Issuer};
use crate::platform::fault::Fault;
use crate::platform::outbound::Outbound;
use crate::services::caller::Caller;
use crate::services::discovery::DiscoveryFailure;
use crate::services::issuer_metadata::find;
use crate::services::manifest::IssuerDeclaration;
use crate::services::request_context::RequestContext;

/// The metadata of issuers that a manifest declares with `discover: true`, by issuer.
#[derive(Default)]
pub(super) struct FoundMetadata(BTreeMap<String, Result<Discovered, DiscoveryFailure>>);

impl FoundMetadata {
    /// Reads the metadata for an operator. Others cannot change an issuer, and cause no request.
    pub(super) async fn read(
        ctx: &RequestContext<'_>,
        declared: &[IssuerDeclaration],
    ) -> Result<Self, Fault> {
        let sources: Vec<_> =
            declared.iter().filter_map(|one| Some((one.iss.clone(), one.metadata_source()?))).collect();
        if sources.is_empty() || !matches!(ctx.caller, Caller::Operator) {
            return Ok(Self::default());
        }
        let outbound = Outbound::configured(ctx.config, ctx.now)?;
        let outbound = &outbound;
        let reads = sources.into_iter().map(|(iss, source)| async move {
            let found = match outbound.may_fetch(&source.base) {
                true => find(outbound, &source).await,
                // The declaration is refused at its place.
                false => return None,
            };
            Some((iss, found))
        });
        Ok(Self(join_all(reads).await.into_iter().flatten().collect()))
    }

    /// Completes a declared issuer. While the metadata cannot be read, a registered issuer keeps what was discovered
    /// before: one provider that is down must not prevent other changes.
    ///
    /// # Errors
    /// The metadata of a new issuer cannot be read, or offers none of the declared algorithms.
    pub(super) fn complete(
        &mut self,
        issuer: Issuer,
        old: Option<&Issuer>,
    ) -> Result<CompletedIssuer, String> {
        let kept = old.and_then(|old| old.discovered.clone());
        let (discovered, warning) = match (self.0.remove(&issuer.iss), kept) {
            (Some(Ok(found)), _) => (Some(found), None),
            (Some(Err(failure)), Some(kept)) => {
                (Some(kept), Some(format!("kept with what was discovered before: {failure}")))
            }
            (Some(Err(failure)), None) => return Err(failure.to_string()),
            (None, kept) => (kept, None),
        };
        let issuer = Issuer { discovered, ..issuer };
        if issuer.accepted_algorithms().is_empty() {
            return Err("its metadata offers none of the declared algorithms".to_owned());
        }
        Ok(CompletedIssuer { issuer, warning })
    }
}

/// An issuer as it is to be stored.
pub(super) struct CompletedIssuer {
    pub(super) issuer: Issuer,
    /// What could not be read.
    pub(super) warning: Option<String>,
}
