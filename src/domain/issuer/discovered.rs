//! What the metadata of an issuer said when the issuer was declared. It is in force until the issuer is declared again:
//! metadata that changes later never decides which keys are trusted.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use actchain_protocol::discovery::{IssuerMetadata, MetadataProblem};
use actchain_protocol::jose::Alg;

/// The parts of an issuer's metadata that this server relies on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Discovered {
    pub jwks_uri: String,
    /// The supported algorithms that the metadata offers; `None` if the metadata has no list.
    pub algorithms: Option<Vec<Alg>>,
}

/// A part of the metadata of an issuer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum MetadataMember {
    /// The metadata names another issuer.
    Issuer,
    /// Another URL of the JWK Set.
    JwksUri,
    /// An accepted algorithm is not offered any more.
    Algorithms,
}

/// How published metadata differs from the metadata in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MetadataDifference {
    /// The document names another issuer.
    OtherIssuer,
    /// The published URL of the JWK Set.
    JwksUri(String),
    /// Accepted algorithms that are not offered any more.
    Algorithms(Vec<Alg>),
}

impl MetadataDifference {
    pub fn member(&self) -> MetadataMember {
        match self {
            Self::OtherIssuer => MetadataMember::Issuer,
            Self::JwksUri(_) => MetadataMember::JwksUri,
            Self::Algorithms(_) => MetadataMember::Algorithms,
        }
    }
}

impl std::fmt::Display for MetadataDifference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::OtherIssuer => {
                f.write_str("its metadata names another issuer; the keys discovered before stay in force")
            }
            Self::JwksUri(url) => write!(
                f,
                "its metadata names the jwks_uri {url:?}; the one discovered before stays in force until the issuer is \
                 applied again"
            ),
            Self::Algorithms(missing) => {
                let names: Vec<&str> = missing.iter().map(|alg| alg.name()).collect();
                write!(
                    f,
                    "its metadata does not offer {} any more; accepted until the issuer is applied again",
                    names.join(", ")
                )
            }
        }
    }
}

impl Discovered {
    /// Takes over the metadata of an issuer.
    ///
    /// # Errors
    /// [`MetadataProblem::Missing`] without a `jwks_uri`.
    pub fn of(metadata: IssuerMetadata) -> Result<Self, MetadataProblem> {
        let offered = metadata.id_token_signing_alg_values_supported;
        let supported = |names: Vec<String>| names.iter().filter_map(|name| Alg::parse(name)).collect();
        Ok(Self {
            jwks_uri: metadata.jwks_uri.ok_or(MetadataProblem::Missing("jwks_uri"))?,
            algorithms: offered.map(supported),
        })
    }

    /// Whether the metadata allows signatures by this algorithm.
    pub fn offers(&self, alg: Alg) -> bool {
        self.algorithms.as_ref().is_none_or(|offered| offered.contains(&alg))
    }

    /// What differs in metadata that was read now, for an issuer with these accepted algorithms. Metadata that offers
    /// more does not differ.
    pub fn differences(&self, now: &Self, accepted: &[Alg]) -> Vec<MetadataDifference> {
        let missing: Vec<Alg> = accepted.iter().filter(|alg| !now.offers(**alg)).copied().collect();
        let uri = (now.jwks_uri != self.jwks_uri).then(|| MetadataDifference::JwksUri(now.jwks_uri.clone()));
        let algorithms = (!missing.is_empty()).then_some(MetadataDifference::Algorithms(missing));
        uri.into_iter().chain(algorithms).collect()
    }
}
