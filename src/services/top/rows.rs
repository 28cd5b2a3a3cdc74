//! Events, chains, matters and settings as rows: with the names of persons, and without what a row does not show.

use serde::Serialize;
use serde_json::Value;

use crate::domain::audit::chain::Chain;
use crate::domain::audit::personal::{People, resolved};
use crate::domain::delegation::DelegationState;
use crate::domain::principal::Principal;
use crate::platform::config::{Setting, SettingSource, SettingValue};
use crate::services::delegations::WaitingView;

#[derive(Debug, Clone, Serialize)]
pub struct EventLine {
    pub seq: u64,
    pub at: String,
    pub action: String,
    pub outcome: String,
    pub reason: Option<String>,
    pub subject: Option<String>,
    /// The actors of the chain, root first.
    pub actors: Vec<String>,
    /// The client that made the request, or the type of another actor.
    pub by: String,
    pub target: Option<String>,
    pub session_id: Option<String>,
    pub took_us: Option<u64>,
    pub findings: Vec<FindingLine>,
}

#[derive(Debug, Clone, Serialize)]
pub struct FindingLine {
    pub rule: String,
    pub severity: String,
}

fn text(value: &Value, pointer: &str) -> Option<String> {
    value.pointer(pointer).and_then(Value::as_str).map(str::to_owned)
}

fn items<'a>(value: &'a Value, name: &str) -> impl Iterator<Item = &'a Value> {
    value.get(name).and_then(Value::as_array).into_iter().flatten()
}

impl EventLine {
    pub(super) fn of(event: &Value, people: &People) -> Self {
        let event = resolved(event, None, people);
        let finding = |one: &Value| FindingLine {
            rule: text(one, "/rule").unwrap_or_default(),
            severity: text(one, "/severity").unwrap_or_default(),
        };
        let target = text(&event, "/target").or_else(|| text(&event, "/audience/0"));
        Self {
            seq: event.get("seq").and_then(Value::as_u64).unwrap_or_default(),
            at: text(&event, "/at").unwrap_or_default(),
            action: text(&event, "/action").unwrap_or_default(),
            outcome: text(&event, "/outcome").unwrap_or_default(),
            reason: text(&event, "/reason"),
            subject: text(&event, "/subject/sub"),
            actors: items(&event, "act_chain").filter_map(|link| text(link, "/sub")).collect(),
            by: text(&event, "/actor/client_id").or_else(|| text(&event, "/actor/type")).unwrap_or_default(),
            target: target.or_else(|| text(&event, "/delegation_id")),
            session_id: text(&event, "/session_id"),
            took_us: event.get("took_us").and_then(Value::as_u64),
            findings: items(&event, "findings").map(finding).collect(),
        }
    }
}

/// A chain whose last hop's delegation is active.
#[derive(Debug, Clone, Serialize)]
pub struct ChainLine {
    pub txn: String,
    pub subject: Option<String>,
    pub actors: Vec<String>,
    pub state: Option<DelegationState>,
    pub last_at: String,
    /// Number of events of the chain in the log.
    pub events: u64,
    pub refusals: usize,
}

impl ChainLine {
    pub(super) fn of(chain: &Chain, people: &People) -> Self {
        Self {
            txn: chain.txn.clone(),
            subject: text(&resolved(&chain.subject, None, people), "/sub"),
            actors: chain.actors.clone(),
            state: chain.state,
            last_at: chain.last_at.as_str().unwrap_or_default().to_owned(),
            events: chain.events,
            refusals: chain.refusals,
        }
    }
}

/// Something that waits for a decision.
#[derive(Debug, Clone, Serialize)]
pub struct WaitingLine {
    pub kind: &'static str,
    pub agent: String,
    pub delegator: Principal,
    pub delegation_id: String,
    pub requested_at: String,
}

impl From<&WaitingView> for WaitingLine {
    fn from(one: &WaitingView) -> Self {
        let delegation = &one.delegation;
        let asked = one.one_use.as_ref().map(|one| (&one.client_id, &one.requested_at));
        // For one use, the agent can be below that of the delegation.
        let (agent, requested_at) = asked.unwrap_or((&delegation.delegate, &delegation.requested_at));
        Self {
            kind: one.kind.into(),
            agent: agent.clone(),
            delegator: delegation.delegator.clone(),
            delegation_id: delegation.id.clone(),
            requested_at: requested_at.clone(),
        }
    }
}

/// A key of the configuration. A secret has no value.
#[derive(Debug, Clone, Serialize)]
pub struct SettingLine {
    pub key: &'static str,
    pub value: Option<String>,
    /// `secret` for a secret that is set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret: Option<bool>,
    /// `default`, `file` or `variable`.
    pub source: &'static str,
    /// The name of the file or variable.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source_name: Option<String>,
}

impl From<Setting> for SettingLine {
    fn from(setting: Setting) -> Self {
        let (value, secret) = match setting.value {
            SettingValue::Unset => (None, None),
            SettingValue::Secret => (None, Some(true)),
            SettingValue::Text(text) => (Some(text), None),
        };
        let (source, source_name) = match setting.source {
            SettingSource::Default => ("default", None),
            SettingSource::File(name) => ("file", Some(name)),
            SettingSource::Variable(name) => ("variable", Some(name)),
        };
        Self { key: setting.key, value, secret, source, source_name }
    }
}
