//! Findings in the log: refusals, and key changes within a chain.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};

use serde_json::Value;

use super::event::Actor;
use super::last_keys::{EarlierKey, LastKeys};
use crate::domain::refusal::catalogue;
use crate::domain::refusal::catalogue::entry::CatalogueEntry;
use actchain_protocol::sarif::{Finding, Rule};
use actchain_protocol::severity::Severity;

/// The key of an actor changed within a chain.
const DRIFT: Rule = Rule {
    id: Cow::Borrowed("key_drift"),
    sentence: Cow::Borrowed(
        "An actor proved another key than before in the same chain, under the same delegation",
    ),
    meaning: Cow::Borrowed(
        "Two exchanges of one chain under one delegation came with proofs by different keys, and the delegator has not \
         confirmed a new key in between.",
    ),
    advice: Cow::Borrowed(
        "Find out which of the two keys is the agent's. Revoke the delegation and remove the other key from the client.",
    ),
    severity: Severity::High,
};
/// A refusal with a reason that this version does not know.
const UNKNOWN: Rule = Rule {
    id: Cow::Borrowed("refused_otherwise"),
    sentence: Cow::Borrowed("Something was refused for a reason that this version does not know"),
    meaning: Cow::Borrowed(
        "The event was recorded by another version of the server, with a reason that this one has no rule for.",
    ),
    advice: Cow::Borrowed(
        "Read about the reason in the documentation of the version that recorded the event.",
    ),
    severity: Severity::Medium,
};

/// Derives findings from events in log order.
#[derive(Debug)]
pub struct Findings {
    rules: Vec<Rule>,
    places: HashMap<Cow<'static, str>, usize>,
    last_keys: LastKeys,
}

impl Default for Findings {
    fn default() -> Self {
        let refusals = catalogue::explained().filter(|entry| !catalogue::is_protocol_step(entry.reason));
        let rules: Vec<Rule> = refusals.map(rule).chain([DRIFT, UNKNOWN]).collect();
        let places = rules.iter().enumerate().map(|(place, rule)| (rule.id.clone(), place)).collect();
        Self { rules, places, last_keys: LastKeys::default() }
    }
}

impl Findings {
    /// All rules that a finding can refer to.
    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }

    /// Processes an event without a finding: used for events before the requested range. Returns the previous
    /// key if it changed.
    pub fn note(&mut self, event: &Value) -> Option<EarlierKey> {
        self.last_keys.next(event)
    }

    /// The finding about the next event, if any.
    pub fn of<'a>(&mut self, event: &'a Value) -> Option<Finding<'a>> {
        if let Some(before) = self.note(event) {
            return Some(key_drift(self.place(&DRIFT.id), event, &before));
        }
        let reason = refusal_of(event).filter(|reason| !catalogue::is_protocol_step(reason))?;
        let rule = self.place(reason);
        let sentence = &self.rules.get(rule)?.sentence;
        let who = who(event);
        let action = text(event, "/action").unwrap_or_default();
        let message = format!("{who} was refused ({action}): {sentence}");
        Some(finding(rule, event, message))
    }

    fn place(&self, id: &str) -> usize {
        let place = self.places.get(id).or_else(|| self.places.get(&UNKNOWN.id));
        place.copied().unwrap_or_default()
    }
}

/// The rule of [`key_drift`].
pub fn key_drift_rule() -> Rule {
    DRIFT.clone()
}

/// The finding that an actor has proved another key than before.
pub fn key_drift<'a>(rule: usize, event: &'a Value, before: &EarlierKey) -> Finding<'a> {
    let now = text(event, "/actor/jkt").unwrap_or("none");
    let before = before.jkt.as_deref().unwrap_or("none");
    finding(rule, event, format!("{} proved the key {now}, and {before} before in this chain", who(event)))
}

fn who(event: &Value) -> String {
    Actor::of(event).map_or_else(|| "an unknown actor".to_owned(), |actor| actor.to_string())
}

/// The severity of an event by its outcome and reason.
pub fn severity(event: &Value) -> Severity {
    let Some(reason) = refusal_of(event) else { return Severity::Informational };
    catalogue::find(reason).map_or(UNKNOWN.severity, |entry| entry.severity)
}

fn finding(rule: usize, event: &Value, message: String) -> Finding<'_> {
    Finding { rule, event, message, severity: None, details: BTreeMap::new() }
}

/// A refusal as a rule. A step of a protocol is no finding and has no rule.
fn rule(entry: &CatalogueEntry) -> Rule {
    Rule {
        id: entry.reason.into(),
        sentence: entry.sentence.into(),
        meaning: entry.meaning.into(),
        advice: entry.advice.into(),
        severity: entry.severity,
    }
}

fn refusal_of(event: &Value) -> Option<&str> {
    if text(event, "/outcome") != Some("refused") {
        return None;
    }
    Some(text(event, "/reason").unwrap_or_default())
}

fn text<'a>(event: &'a Value, pointer: &str) -> Option<&'a str> {
    event.pointer(pointer).and_then(Value::as_str)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::collections::BTreeSet;

    fn exchange(txn: &str, delegation: &str, who: &str, jkt: &str) -> Value {
        json!({"action": "oauth.token.exchanged", "outcome": "success", "txn": txn, "delegation_id": delegation,
               "actor": {"type": "client", "client_id": who, "jkt": jkt}})
    }

    fn ids(events: &[Value]) -> Vec<Option<String>> {
        let mut findings = Findings::default();
        let rules = findings.rules().to_vec();
        events.iter().map(|event| findings.of(event).map(|found| rules[found.rule].id.to_string())).collect()
    }

    #[test]
    fn a_drift_is_another_key_of_the_same_actor_in_the_same_chain_under_the_same_delegation() {
        let found = ids(&[
            exchange("t", "D", "a", "k1"),
            exchange("t", "D", "a", "k1"),
            exchange("u", "D", "a", "k2"),
            exchange("t", "E", "a", "k2"),
            exchange("t", "D", "b", "k2"),
            exchange("t", "D", "a", "k2"),
            exchange("t", "D", "a", "k2"),
        ]);
        assert_eq!(found, [None, None, None, None, None, Some("key_drift".to_owned()), None]);
    }

    #[test]
    fn a_key_that_the_delegator_let_it_take_is_no_drift() {
        let rotated = json!({"action": "delegation.activated", "delegation_id": "D", "detail": {"new_key": true, "jkt": "k2", "terms": {
                "delegator": {"iss": "i", "sub": "s"}, "delegate": "a", "origin": "granted", "scopes": null,
                "audiences": null, "authorization_details": null, "capability_ceiling": null,
                "ceremony_required_for": [], "max_uses": null, "max_depth": null,
                "expires_at": "2026-01-01T00:00:00.000000Z"}}});
        let found = ids(&[exchange("t", "D", "a", "k1"), rotated, exchange("t", "D", "a", "k2")]);
        assert_eq!(found, [None, None, None]);
    }

    #[test]
    fn every_reason_but_steps_of_a_protocol_has_one_rule() {
        let findings = Findings::default();
        let ids: BTreeSet<&str> = findings.rules().iter().map(|rule| rule.id.as_ref()).collect();
        assert_eq!(ids.len(), findings.rules().len());
        let reasons = catalogue::ENTRIES.iter().map(|entry| entry.reason);
        let steps = ["nonce_required", "ceremony_required"];
        let mut expected: BTreeSet<&str> = reasons.filter(|reason| !steps.contains(reason)).collect();
        expected.extend(["key_drift", "refused_otherwise"]);
        assert_eq!(ids, expected);
    }

    #[test]
    fn refusals_are_findings_and_what_succeeded_is_none() {
        let refused = |reason: &str| json!({"outcome": "refused", "reason": reason, "actor": {"type": "client", "client_id": "a"}});
        let expired =
            json!({"action": "delegation.expired", "outcome": "success", "reason": "delegation_expired"});
        let found = ids(&[refused("actor_cycle"), refused("of another time"), expired.clone()]);
        assert_eq!(found, [Some("actor_cycle".to_owned()), Some("refused_otherwise".to_owned()), None]);
        let steps = ids(&[refused("nonce_required"), refused("ceremony_required")]);
        assert_eq!(steps, [None, None], "every client meets these on its way");
        assert_eq!(severity(&refused("actor_cycle")), Severity::High);
        assert_eq!(severity(&refused("of another time")), Severity::Medium);
        assert_eq!(severity(&expired), Severity::Informational);
    }
}
