//! Delegations as declared.

use std::collections::BTreeSet;

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;

use crate::domain::delegation;
use crate::domain::principal::Principal;
use crate::platform::yaml::{self, InvalidDeclaration, Place};

/// A delegation. A limit that is left out is the one above. The terms of a declared delegation do not change.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DelegationDeclaration {
    /// Delegation id: letters, digits and `-._~`; not beginning with `-` or `may-`.
    #[schemars(
        length(min = 1, max = 64),
        regex(pattern = "^[A-Za-z0-9._~][A-Za-z0-9._~-]*$"),
        example = &"alice-mail-bot"
    )]
    pub id: String,
    /// Delegator of a root delegation: a user of a trusted issuer, or a client of this server. Excludes `parent`.
    pub delegator: Option<Principal>,
    /// Id of the delegation above. Excludes `delegator`.
    #[schemars(example = &"alice-assistant")]
    pub parent: Option<String>,
    /// Client of kind `agent` that receives the authority.
    #[schemars(example = &"mail-bot")]
    pub delegate: String,
    /// Scopes, each declared by a resource; an empty list allows none.
    #[serde(default, deserialize_with = "yaml::present")]
    #[schemars(length(max = 100), example = ["mail.read"])]
    pub scopes: Option<BTreeSet<String>>,
    /// Resources, each declared; an empty list allows none.
    #[serde(default, deserialize_with = "yaml::present")]
    #[schemars(length(max = 100), example = ["https://mail.example.com"])]
    pub audiences: Option<BTreeSet<String>>,
    /// `authorization_details` (RFC 9396 §2); an empty list allows none.
    #[serde(default)]
    #[schemars(schema_with = "super::schema::details")]
    pub authorization_details: Option<Value>,
    /// Lifetime in seconds from the first apply; needed at the root. A lifetime after the parent's end or
    /// `delegations.max_ttl` is shortened, and the plan says to what.
    #[schemars(range(min = 1), example = 3600)]
    pub expires_in: Option<u32>,
    /// Most actors of a token under the delegation.
    #[schemars(range(min = 1, max = 2_147_483_647), example = 2)]
    pub max_depth: Option<u32>,
    /// Whether the delegate may get refresh tokens, and act without a token of the delegator.
    #[serde(default)]
    pub offline_access: bool,
    /// Most uses; a use is an exchange, a vault retrieval or a reported step.
    #[schemars(range(min = 1), example = 100)]
    pub max_uses: Option<u32>,
    /// Highest capability, one of `delegations.capabilities`.
    #[schemars(example = &"observe")]
    pub capability_ceiling: Option<String>,
    /// Capabilities and scopes whose every use the delegator confirms (a ceremony).
    #[serde(default)]
    #[schemars(length(max = 100), example = ["mail.send"])]
    pub ceremony_required_for: BTreeSet<String>,
    /// Reason, shown to people; at most 500 characters.
    #[schemars(length(max = 500), example = &"Answers mail while Alice is away")]
    pub reason: Option<String>,
    #[serde(skip)]
    pub(in crate::services) place: Place,
}

impl DelegationDeclaration {
    /// Checks the id, and that exactly one of delegator and parent is present.
    pub(in crate::services) fn check(&self) -> Result<(), InvalidDeclaration> {
        if !delegation::is_id(&self.id) || self.id.starts_with("may-") {
            let why = "id may have letters, digits and -._~, at most 64; it must not begin with - or may-, or be . or ..";
            return Err(self.place.fault("id", why));
        }
        if self.delegator.is_some() == self.parent.is_some() {
            return Err(self.place.whole("needs a delegator (at the root) or a parent, and not both"));
        }
        if self.max_depth.is_some_and(|depth| i32::try_from(depth).is_err()) {
            return Err(self.place.fault("max_depth", "max_depth is at most 2147483647"));
        }
        Ok(())
    }
}
