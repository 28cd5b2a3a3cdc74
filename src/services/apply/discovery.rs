//! Metadata of the declared issuers, read before the transaction of an `apply`.

use std::collections::BTreeMap;

use futures_util::future::{join, join_all};

use crate::domain::issuer::{Discovered, Issuer};
use crate::domain::sign_in::{SignIn, SignInEndpoints};
use crate::platform::fault::Fault;
use crate::platform::outbound::Outbound;
use crate::services::caller::Caller;
use crate::services::discovery::{DiscoveryFailure, MetadataSource};
use crate::services::issuer_metadata::{find, find_endpoints};
use crate::services::manifest::IssuerDeclaration;
use crate::services::request_context::RequestContext;

/// The metadata of issuers that a manifest declares with `discover: true` or with `sign_in`, by issuer.
#[derive(Default)]
pub(super) struct FoundMetadata {
    keys: BTreeMap<String, Result<Discovered, DiscoveryFailure>>,
    endpoints: BTreeMap<String, Result<SignInEndpoints, DiscoveryFailure>>,
}

impl FoundMetadata {
    /// Reads the metadata for an operator. Others cannot change an issuer, and cause no request.
    pub(super) async fn read(
        ctx: &RequestContext<'_>,
        declared: &[IssuerDeclaration],
    ) -> Result<Self, Fault> {
        let sources =
            |source: fn(&IssuerDeclaration) -> Option<MetadataSource>| -> Vec<(String, MetadataSource)> {
                declared.iter().filter_map(|one| Some((one.iss.clone(), source(one)?))).collect()
            };
        let keys = sources(IssuerDeclaration::metadata_source);
        let endpoints = sources(IssuerDeclaration::sign_in_source);
        if (keys.is_empty() && endpoints.is_empty()) || !matches!(ctx.caller, Caller::Operator) {
            return Ok(Self::default());
        }
        let outbound = Outbound::configured(ctx.config, ctx.now)?;
        let outbound = &outbound;
        // A source that may not be read is refused at the place of its declaration.
        let readable = |(_, source): &(String, MetadataSource)| outbound.may_fetch(&source.base);
        let keys = keys.into_iter().filter(readable);
        let keys = keys.map(|(iss, source)| async move { (iss, find(outbound, &source).await) });
        let endpoints = endpoints.into_iter().filter(readable);
        let endpoints =
            endpoints.map(|(iss, source)| async move { (iss, find_endpoints(outbound, &source).await) });
        let (keys, endpoints) = join(join_all(keys), join_all(endpoints)).await;
        Ok(Self { keys: keys.into_iter().collect(), endpoints: endpoints.into_iter().collect() })
    }

    /// The endpoints for sign-ins at an issuer. While the metadata cannot be read, the registered ones stay. `None` if
    /// there are none, and the caller may not cause a request for them.
    ///
    /// # Errors
    /// The metadata of an issuer without registered endpoints cannot be read.
    pub(super) fn endpoints(
        &mut self,
        iss: &str,
        old: Option<&SignIn>,
    ) -> Result<Option<CompletedEndpoints>, String> {
        let kept = old.map(|old| old.endpoints.clone());
        match (self.endpoints.remove(iss), kept) {
            (Some(Ok(endpoints)), _) => Ok(Some(CompletedEndpoints { endpoints, warning: None })),
            (Some(Err(failure)), Some(endpoints)) => {
                let warning = Some(format!("kept with the endpoints of before: {failure}"));
                Ok(Some(CompletedEndpoints { endpoints, warning }))
            }
            (Some(Err(failure)), None) => {
                Err(format!("sign_in needs the endpoints of the issuer: {failure}"))
            }
            (None, kept) => Ok(kept.map(|endpoints| CompletedEndpoints { endpoints, warning: None })),
        }
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
        let (discovered, warning) = match (self.keys.remove(&issuer.iss), kept) {
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

/// The endpoints of an issuer as they are to be stored.
pub(super) struct CompletedEndpoints {
    pub(super) endpoints: SignInEndpoints,
    /// What could not be read.
    pub(super) warning: Option<String>,
}
