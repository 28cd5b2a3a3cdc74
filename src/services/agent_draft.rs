//! The draft of an agent as an entry of a manifest, with its plan. Nothing is changed or recorded, a refusal neither.

use std::collections::BTreeSet;

use serde::Serialize;
use serde_json::Value;

use super::apply::{Line, plan_only};
use super::request_context::RequestContext;
use crate::domain::client::{AuthMethod, ClientKind, GrantType};
use crate::domain::refusal::Error;
use crate::domain::vault::credential_cache::CredentialCache;
use crate::platform::fault::{Context as _, Fault};

/// Members as in the manifest.
#[derive(Debug, Serialize)]
pub struct AgentDraft {
    pub id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    pub auth: AuthMethod,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jwks: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jwks_uri: Option<String>,
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub scopes: BTreeSet<String>,
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub audiences: BTreeSet<String>,
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub grant_types: BTreeSet<GrantType>,
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub dpop_keys: BTreeSet<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_token_ttl: Option<u32>,
}

#[derive(Debug)]
pub struct DraftPlan {
    pub yaml: String,
    /// What applying it would change, or why it cannot be applied.
    pub lines: Result<Vec<Line>, String>,
}

#[derive(Serialize)]
struct DraftManifest<'a> {
    clients: [DraftEntry<'a>; 1],
}

#[derive(Serialize)]
struct DraftEntry<'a> {
    kind: ClientKind,
    #[serde(flatten)]
    draft: &'a AgentDraft,
}

impl AgentDraft {
    fn to_yaml(&self) -> Result<String, Fault> {
        let manifest = DraftManifest { clients: [DraftEntry { kind: ClientKind::Agent, draft: self }] };
        serde_saphyr::to_string(&manifest).context("writing a manifest")
    }
}

/// Writes the manifest of a draft and plans it, for an administrator.
///
/// # Errors
/// A refusal of other callers, or a fault.
pub async fn plan_of(
    ctx: &RequestContext<'_>,
    vault: &CredentialCache,
    draft: &AgentDraft,
) -> Result<DraftPlan, Error> {
    ctx.caller.require_administrator()?;
    let yaml = draft.to_yaml()?;
    let lines = match plan_only(ctx, vault, yaml.clone().into_bytes()).await {
        Ok(outcome) => Ok(outcome.lines),
        Err(error) => match error.stop {
            Error::Refused(_) => Err(error.to_string()),
            Error::Failed(fault) => return Err(fault.into()),
        },
    };
    Ok(DraftPlan { yaml, lines })
}
