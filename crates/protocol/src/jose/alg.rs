//! The accepted signature algorithms (RFC 7518 §3.1, RFC 8037 §3.1, RFC 9864). Never `none`, never a MAC.

use jsonwebtoken::Algorithm;
use serde::{Deserialize, Serialize};

/// An asymmetric signature algorithm, by its registered, case-sensitive name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Alg {
    /// ECDSA on P-256 with SHA-256.
    ES256,
    /// ECDSA on P-384 with SHA-384.
    ES384,
    /// Ed25519 under its polymorphic name.
    EdDSA,
    /// Ed25519 under its fully specified name.
    Ed25519,
    /// RSASSA-PKCS1-v1_5 with SHA-256.
    RS256,
    /// RSASSA-PSS with SHA-256.
    PS256,
}

impl Alg {
    /// All algorithms, in the order of the metadata document.
    pub const ALL: [Self; 6] =
        [Self::ES256, Self::EdDSA, Self::Ed25519, Self::ES384, Self::RS256, Self::PS256];

    /// The registered name, as in `alg` headers and metadata.
    pub fn name(self) -> &'static str {
        match self {
            Self::ES256 => "ES256",
            Self::ES384 => "ES384",
            Self::EdDSA => "EdDSA",
            Self::Ed25519 => "Ed25519",
            Self::RS256 => "RS256",
            Self::PS256 => "PS256",
        }
    }

    /// Parses a registered name; the comparison is exact (RFC 8725 §3.1).
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|alg| alg.name() == name)
    }

    /// Compares algorithms. A key signs with one algorithm, but the Ed25519 algorithm has two names.
    pub fn same_as(self, other: Self) -> bool {
        self == other || (self.is_ed25519() && other.is_ed25519())
    }

    fn is_ed25519(self) -> bool {
        matches!(self, Self::EdDSA | Self::Ed25519)
    }

    /// The exact length of a signature in bytes, if the algorithm fixes it (RFC 7518 §3.4, RFC 8037 §3.1).
    pub(super) fn signature_bytes(self) -> Option<usize> {
        match self {
            Self::ES256 | Self::EdDSA | Self::Ed25519 => Some(64),
            Self::ES384 => Some(96),
            Self::RS256 | Self::PS256 => None,
        }
    }

    pub(super) fn backend(self) -> Algorithm {
        match self {
            Self::ES256 => Algorithm::ES256,
            Self::ES384 => Algorithm::ES384,
            Self::EdDSA | Self::Ed25519 => Algorithm::EdDSA,
            Self::RS256 => Algorithm::RS256,
            Self::PS256 => Algorithm::PS256,
        }
    }
}
