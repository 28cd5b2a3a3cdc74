//! What trusted issuers publish, and whether they answer this server.

use std::collections::BTreeMap;

use time::OffsetDateTime;

use super::finding::DoctorFinding;
use crate::domain::issuer::Issuer;
use crate::domain::key::{Keyring, StoredKey};
use crate::platform::fault::Fault;
use crate::platform::outbound::Outbound;
use crate::platform::seal::SealingKey;
use crate::services::introspection_request::Introspector;
use crate::services::issuer_metadata::{check_endpoints, differences};
use actchain_protocol::json;

/// What the examination of issuers needs.
pub(super) struct IssuerExaminer<'a> {
    pub(super) outbound: &'a Outbound,
    pub(super) seal: Result<&'a SealingKey, Fault>,
    /// The keys of this server.
    pub(super) keys: &'a [StoredKey],
    pub(super) now: OffsetDateTime,
}

impl IssuerExaminer<'_> {
    pub(super) async fn examine(
        &self,
        issuers: &BTreeMap<String, Issuer>,
        findings: &mut Vec<DoctorFinding>,
    ) {
        let outbound = self.outbound;
        // Without keys, all tokens of an issuer are introspected.
        let with_keys = issuers.iter().filter(|(_, one)| one.jwks.is_some() || one.keys_url().is_some());
        for (iss, one) in with_keys {
            findings.push(issuer_keys(outbound, iss, one).await);
            findings.extend(issuer_metadata(outbound, iss, one).await);
        }
        for one in issuers.values().filter(|one| one.introspection.is_some()) {
            findings.extend(self.introspection(one).await);
        }
        for (iss, one) in issuers {
            let checked = check_endpoints(outbound, one).await;
            let what = format!("issuer {iss}: the endpoints for sign-ins");
            findings.extend(checked.map(|checked| DoctorFinding::of(what, checked)));
        }
    }

    /// Whether an issuer answers introspections of this server.
    async fn introspection(&self, issuer: &Issuer) -> Option<DoctorFinding> {
        let introspection = issuer.introspection.as_ref()?;
        let what = format!("issuer {}: introspection at {}", issuer.iss, introspection.settings.endpoint);
        let seal = match &self.seal {
            Ok(seal) => *seal,
            Err(fault) => return Some(DoctorFinding::of::<()>(what, Err(Fault::new(fault.to_string())))),
        };
        let keyring = Keyring::open(self.keys, seal).ok();
        let signer = keyring.as_ref().map(|keyring| &keyring.active);
        let by = Introspector { outbound: self.outbound, seal, signer };
        Some(DoctorFinding::of(what, by.probe(issuer, introspection, self.now).await))
    }
}

/// Compares the metadata of an issuer with what was discovered, which stays in force: a difference is a warning.
async fn issuer_metadata(outbound: &Outbound, iss: &str, issuer: &Issuer) -> Option<DoctorFinding> {
    issuer.discovered.as_ref()?;
    let warnings = match differences(outbound, issuer).await {
        Ok(differing) => differing.iter().map(ToString::to_string).collect(),
        Err(failure) => vec![format!("its metadata cannot be read: {failure}")],
    };
    Some(DoctorFinding { warnings, ..DoctorFinding::of(format!("issuer {iss}: metadata"), Ok(())) })
}

/// Reads the keys of an issuer, declared or published, and names each unusable key.
async fn issuer_keys(outbound: &Outbound, iss: &str, issuer: &Issuer) -> DoctorFinding {
    let (what, set) = match (issuer.keys_url(), &issuer.jwks) {
        (Some(url), _) => {
            let fetched = outbound.get_json(url).await;
            let set =
                fetched.and_then(|body| json::parse(&body).ok_or_else(|| Fault::new("this is no JSON")));
            (format!("issuer {iss}: {url}"), set)
        }
        (None, set) => (format!("issuer {iss}: declared keys"), Ok(set.clone().unwrap_or_default())),
    };
    match set.and_then(|set| issuer.key_problems(&set)) {
        Ok(warnings) => DoctorFinding { warnings, ..DoctorFinding::of(what, Ok(())) },
        Err(fault) => DoctorFinding::of::<()>(what, Err(fault)),
    }
}
