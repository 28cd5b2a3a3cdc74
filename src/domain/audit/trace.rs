//! The trace of a session: its events in the order of the log, each as one item.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use time::OffsetDateTime;

use super::action::{Action, EventKind};
use super::event::Actor;
use super::last_keys::{EarlierKey, LastKeys};
use super::search::EventRow;
use crate::domain::finding::Finding;
use crate::domain::step::StepDetail;
use crate::platform::clock;
use crate::platform::fault::{Context, Fault};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, strum::IntoStaticStr)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum TraceItemKind {
    /// A token was exchanged.
    Exchange,
    /// A credential was retrieved from the vault, or added to a proxied request.
    Retrieval,
    /// Something was refused.
    Refusal,
    /// An agent reported a step.
    Step,
    /// Any other event, such as the revocation of a token.
    Event,
}

impl TraceItemKind {
    pub fn name(self) -> &'static str {
        self.into()
    }
}

/// The members of a document that an item shows.
#[derive(Debug, Deserialize)]
struct TraceEvent {
    seq: u64,
    id: String,
    at: String,
    action: String,
    outcome: String,
    reason: Option<String>,
    actor: Actor,
    #[serde(default)]
    act_chain: Vec<Value>,
    txn: Option<String>,
    delegation_id: Option<String>,
    jti: Option<String>,
    parent_jti: Option<String>,
    target: Option<String>,
    scope: Option<String>,
    #[serde(default)]
    audience: Vec<String>,
    took_us: Option<u64>,
    #[serde(default)]
    findings: Vec<Finding>,
}

#[derive(Debug, Clone, Serialize)]
pub struct TraceItem {
    pub seq: u64,
    pub id: String,
    pub at: String,
    pub kind: TraceItemKind,
    pub action: String,
    pub outcome: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    pub actor: Actor,
    /// Number of actors in the chain.
    pub depth: usize,
    pub txn: Option<String>,
    pub delegation_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scope: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub audience: Vec<String>,
    /// `jti` of the issued token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jti: Option<String>,
    /// `jti` of the subject token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parent_jti: Option<String>,
    /// Microseconds that the server needed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub took_us: Option<u64>,
    /// What an agent reported. Its texts are in the personal data of the event.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub step: Option<StepDetail>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub findings: Vec<Finding>,
    /// The key that the actor proved before in this chain under this delegation, if that was another one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub earlier_key: Option<EarlierKey>,
    /// Milliseconds since the item before; negative if the clocks of two servers differ. `None` for the first item.
    pub gap_ms: Option<i64>,
}

/// Makes items from events in the order of the log.
#[derive(Debug, Default)]
pub struct TraceBuilder {
    /// The instant of the item before.
    before: Option<OffsetDateTime>,
    last_keys: LastKeys,
}

impl TraceBuilder {
    /// Continues after this event.
    pub fn after(row: &EventRow) -> Self {
        let at = row.event.get("at").and_then(Value::as_str).and_then(clock::instant);
        Self { before: at, ..Self::default() }
    }

    /// Takes an earlier event, in the order of the log, whose item is not made.
    pub fn note(&mut self, event: &Value) {
        self.last_keys.next(event);
    }

    /// Whether no item came before.
    pub fn is_new(&self) -> bool {
        self.before.is_none()
    }

    /// The next item.
    ///
    /// # Errors
    /// A fault for a document that this version cannot read: an item that is left out would go unnoticed.
    pub fn item(&mut self, row: &EventRow) -> Result<TraceItem, Fault> {
        let unreadable = || format!("reading event {}: run actchain audit verify", row.seq);
        let event: TraceEvent = serde_json::from_str(&row.document).context(&unreadable())?;
        let at = clock::instant(&event.at).ok_or_else(|| Fault::new(unreadable()))?;
        let before = self.before.replace(at);
        let gap = before.map(|before| (clock::micros(at) - clock::micros(before)) / 1_000);
        Ok(TraceItem {
            seq: event.seq,
            id: event.id,
            at: event.at,
            kind: kind(&event.action, &event.outcome),
            action: event.action,
            outcome: event.outcome,
            reason: event.reason,
            actor: event.actor,
            depth: event.act_chain.len(),
            txn: event.txn,
            delegation_id: event.delegation_id,
            target: event.target,
            scope: event.scope,
            audience: event.audience,
            jti: event.jti,
            parent_jti: event.parent_jti,
            took_us: event.took_us,
            step: step(row),
            findings: event.findings,
            earlier_key: self.last_keys.next(&row.event),
            gap_ms: gap,
        })
    }
}

fn step(row: &EventRow) -> Option<StepDetail> {
    match EventKind::of(&row.event)? {
        EventKind::DelegationStep(step) => Some(step),
        _ => None,
    }
}

fn kind(action: &str, outcome: &str) -> TraceItemKind {
    match action.parse() {
        _ if outcome == "refused" => TraceItemKind::Refusal,
        Ok(Action::TokenExchanged | Action::TokenRefreshed) => TraceItemKind::Exchange,
        Ok(Action::DelegationStep) => TraceItemKind::Step,
        Ok(Action::VaultTokenRetrieved | Action::VaultProxyCalled) => TraceItemKind::Retrieval,
        _ => TraceItemKind::Event,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn row(seq: u64, at: &str) -> EventRow {
        let event = json!({"seq": seq, "id": "i", "at": at, "action": "oauth.token.exchanged", "outcome": "success",
            "actor": {"type": "client", "client_id": "a"}, "act_chain": [{"iss": "i", "sub": "a"}]});
        EventRow { seq, document: event.to_string(), event, personal: None }
    }

    #[test]
    fn gaps_are_whole_milliseconds_and_show_clocks_that_differ() {
        let times =
            ["2026-01-01T00:00:01.000000Z", "2026-01-01T00:00:01.001900Z", "2026-01-01T00:00:00.901900Z"];
        let mut builder = TraceBuilder::default();
        let gaps: Vec<Option<i64>> =
            (1..).zip(times).map(|(seq, at)| builder.item(&row(seq, at)).unwrap().gap_ms).collect();
        assert_eq!(gaps, [None, Some(1), Some(-100)]);
        let mut later = TraceBuilder::after(&row(3, times[2]));
        assert_eq!(later.item(&row(4, times[0])).unwrap().gap_ms, Some(98));
    }

    #[test]
    fn a_document_that_cannot_be_read_is_a_fault() {
        for document in ["{", r#"{"seq":1}"#] {
            let damaged = EventRow { document: document.to_owned(), ..row(7, "2026-01-01T00:00:01.000000Z") };
            let fault = TraceBuilder::default().item(&damaged).unwrap_err();
            assert!(fault.to_string().contains("event 7"), "{fault}");
        }
    }

    #[test]
    fn what_is_refused_is_a_refusal_whatever_it_is() {
        assert_eq!(kind("vault.token.refused", "refused"), TraceItemKind::Refusal);
        assert_eq!(kind("of another version", "refused"), TraceItemKind::Refusal);
        assert_eq!(kind("of another version", "success"), TraceItemKind::Event);
        assert_eq!(kind("vault.proxy.called", "success"), TraceItemKind::Retrieval);
    }
}
