//! Whether an actor proves another key than before in the same chain, under the same delegation. No I/O.

use std::collections::{BTreeSet, HashMap, VecDeque};

use serde::Serialize;
use serde_json::Value;

use super::action::{Action, EventKind};
use actchain_protocol::digest::sha256;

/// Maximum number of actors remembered, per chain; the oldest entry is removed first.
const MAX_REMEMBERED: usize = 20_000;
/// Maximum number of confirmed keys remembered for an actor.
const MAX_CONFIRMED: usize = 16;

/// The key that an actor proved before another one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct EarlierKey {
    /// Thumbprint of the key; `None` if the request had no proof.
    pub jkt: Option<String>,
    pub seq: u64,
}

/// Keys of an agent that a person has confirmed.
#[derive(Debug)]
pub struct ConfirmedKeys {
    /// Ids of the delegation or of the standing grant for which they were confirmed.
    delegation: Option<String>,
    grant: Option<String>,
    keys: BTreeSet<String>,
}

impl ConfirmedKeys {
    /// `None` for an event that confirms no key.
    pub fn of(event: &Value) -> Option<Self> {
        let action = Action::of(event)?;
        if !matches!(action, Action::DelegationActivated | Action::StandingGrantRevalidated) {
            return None;
        }
        let of = |name: &str| text(event, name).map(str::to_owned);
        match EventKind::of(event)? {
            EventKind::DelegationActivated { new_key: true, jkt, .. } => {
                Some(Self { delegation: of("/delegation_id"), grant: None, keys: jkt.into_iter().collect() })
            }
            EventKind::StandingGrantRevalidated { new, .. } => {
                Some(Self { delegation: None, grant: of("/standing_grant_id"), keys: new })
            }
            _ => None,
        }
    }

    /// Whether this key of the agent of the exchange was confirmed.
    pub fn cover(&self, exchange: &Value) -> bool {
        let of_delegation =
            self.delegation.is_some() && self.delegation.as_deref() == text(exchange, "/delegation_id");
        let of_grant = self.grant.is_some() && self.grant.as_deref() == text(exchange, "/standing_grant_id");
        (of_delegation || of_grant) && text(exchange, "/actor/jkt").is_some_and(|jkt| self.keys.contains(jkt))
    }
}

#[derive(Debug)]
struct LastKey {
    delegation: String,
    grant: Option<String>,
    key: EarlierKey,
    /// The latest keys that were confirmed since.
    confirmed: VecDeque<String>,
}

impl LastKey {
    fn confirm(&mut self, confirmed: &ConfirmedKeys) {
        let of_grant = self.grant.is_some() && self.grant == confirmed.grant;
        if of_grant || confirmed.delegation.as_ref() == Some(&self.delegation) {
            self.confirmed.extend(confirmed.keys.iter().cloned());
            let too_many = self.confirmed.len().saturating_sub(MAX_CONFIRMED);
            self.confirmed.drain(..too_many);
        }
    }
}

/// The last proved key of each actor, per chain and delegation.
#[derive(Debug, Default)]
pub(super) struct LastKeys {
    keys: HashMap<[u8; 32], LastKey>,
    order: VecDeque<[u8; 32]>,
}

impl LastKeys {
    /// Takes the next event in the order of the log. Returns the previously proved key if this event has a different one,
    /// which no person has confirmed.
    pub(super) fn next(&mut self, event: &Value) -> Option<EarlierKey> {
        if let Some(confirmed) = ConfirmedKeys::of(event) {
            self.keys.values_mut().for_each(|last| last.confirm(&confirmed));
            return None;
        }
        if !Action::of(event)?.is_exchange() {
            return None;
        }
        let delegation = text(event, "/delegation_id")?;
        let (txn, who) = (text(event, "/txn")?, text(event, "/actor/client_id")?);
        let key = EarlierKey {
            jkt: text(event, "/actor/jkt").map(str::to_owned),
            seq: event.get("seq").and_then(Value::as_u64).unwrap_or_default(),
        };
        let name = sha256(&[txn.as_bytes(), &[0], delegation.as_bytes(), &[0], who.as_bytes()]);
        if let Some(last) = self.keys.get_mut(&name) {
            let before = std::mem::replace(&mut last.key, key);
            let is_confirmed = last.key.jkt.as_ref().is_some_and(|jkt| last.confirmed.contains(jkt));
            return (before.jkt != last.key.jkt && !is_confirmed).then_some(before);
        }
        if self.order.len() >= MAX_REMEMBERED
            && let Some(oldest) = self.order.pop_front()
        {
            self.keys.remove(&oldest);
        }
        self.order.push_back(name);
        let grant = text(event, "/standing_grant_id").map(str::to_owned);
        let last = LastKey { delegation: delegation.to_owned(), grant, key, confirmed: VecDeque::new() };
        self.keys.insert(name, last);
        None
    }
}

fn text<'a>(event: &'a Value, pointer: &str) -> Option<&'a str> {
    event.pointer(pointer).and_then(Value::as_str)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn exchange(seq: u64, txn: &str, jkt: &str) -> Value {
        json!({"seq": seq, "action": "oauth.token.exchanged", "outcome": "success", "txn": txn, "delegation_id": "D",
               "actor": {"type": "client", "client_id": "a", "jkt": jkt}})
    }

    #[test]
    fn the_earlier_key_is_that_of_the_last_exchange() {
        let mut keys = LastKeys::default();
        assert_eq!(keys.next(&exchange(1, "t", "k1")), None);
        assert_eq!(keys.next(&exchange(2, "t", "k1")), None);
        let before = keys.next(&exchange(3, "t", "k2"));
        assert_eq!(before, Some(EarlierKey { jkt: Some("k1".to_owned()), seq: 2 }));
    }

    #[test]
    fn a_key_that_the_grantor_of_a_standing_grant_confirmed_is_expected() {
        let within = |seq, grant: &str, jkt| {
            let mut event = exchange(seq, "t", jkt);
            event["standing_grant_id"] = json!(grant);
            event
        };
        let confirmed = json!({"action": "standing_grant.revalidated", "standing_grant_id": "G",
            "detail": {"old": ["k1"], "new": ["k2"]}});
        for (grant, key, is_expected) in [("G", "k2", true), ("G", "k3", false), ("other", "k2", false)] {
            let mut keys = LastKeys::default();
            keys.next(&within(1, grant, "k1"));
            keys.next(&confirmed);
            let found = keys.next(&within(2, grant, key));
            assert_eq!(found.is_none(), is_expected, "{grant} {key}");
            assert_eq!(ConfirmedKeys::of(&confirmed).unwrap().cover(&within(2, grant, key)), is_expected);
        }
    }

    #[test]
    fn memory_is_bounded() {
        let mut keys = LastKeys::default();
        for number in 0..MAX_REMEMBERED + 10 {
            keys.next(&exchange(0, &number.to_string(), "k"));
        }
        assert_eq!((keys.keys.len(), keys.order.len()), (MAX_REMEMBERED, MAX_REMEMBERED));
        assert!(keys.next(&exchange(0, "0", "other")).is_none(), "forgotten");
        assert!(keys.next(&exchange(0, "50", "other")).is_some());
    }
}
