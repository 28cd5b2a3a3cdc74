//! Exceptions of a client from the rules for its tokens and assertions, for software that cannot meet them.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Whether tokens are bound to the key of a proof.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema, sqlx::Type)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "text", rename_all = "snake_case")]
pub enum TokenBinding {
    /// Tokens are bound to the key of the proof, if there is one (RFC 9449).
    #[default]
    Dpop,
    /// Tokens are bearer tokens (RFC 6750), even with a proof. No proof is needed.
    Bearer,
}

/// The audience of the client's assertions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema, sqlx::Type)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "text", rename_all = "snake_case")]
pub enum AssertionAudience {
    /// This server's issuer identifier alone (RFC 10070 §4).
    #[default]
    Issuer,
    /// The issuer identifier, or the URL of the token endpoint (RFC 7523 §3).
    TokenEndpoint,
}

/// An exception, named by the member of the declaration that makes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ClientException {
    AssertionAudience,
    TokenType,
    Dpop,
}

impl ClientException {
    /// The declaration, as in a manifest.
    pub fn declaration(self) -> &'static str {
        match self {
            Self::AssertionAudience => "assertion_audience: token_endpoint",
            Self::TokenType => "token_type: bearer",
            Self::Dpop => "dpop: optional",
        }
    }

    /// The label in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::AssertionAudience => "assertion_audience",
            Self::TokenType => "token_type",
            Self::Dpop => "dpop",
        }
    }
}
