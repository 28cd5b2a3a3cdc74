//! A chain reconstructed from audit events: its hops in order, the parent and children of each hop, the
//! retrieved credentials, and whether each hop's key agrees with earlier events and the registered keys.
//!
//! This module does no I/O: callers pass events and facts.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde::Serialize;
use serde_json::Value;

use super::action::Action;
use super::chain_keys::{KeyContinuity, KeySources, KeyStatement, ProvedKey, keys_of};
use super::personal::PersonalView;
use super::search::EventRow;
use crate::domain::delegation::DelegationState;

/// Current facts that the log does not contain: the state of each delegation and the keys of clients that may
/// use only registered keys.
#[derive(Debug, Default)]
pub struct ChainFacts {
    /// By delegation id; deleted delegations are absent.
    pub states: HashMap<String, DelegationState>,
    /// By client id: every key that the client has or had. Clients that may use any key are absent.
    pub keys: HashMap<String, BTreeSet<String>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum HopKind {
    /// Client credentials grant.
    Issue,
    /// Token exchange (RFC 8693).
    Exchange,
    /// A credential was retrieved from the vault or added to a proxied request.
    Retrieval,
    /// A refused token request or retrieval.
    Refusal,
}

#[derive(Debug, Clone, Serialize)]
pub struct Hop {
    /// `seq` of the event of this hop.
    pub seq: u64,
    pub id: Value,
    pub at: Value,
    pub kind: HopKind,
    pub action: Value,
    pub outcome: Value,
    #[serde(skip_serializing_if = "Value::is_null")]
    pub reason: Value,
    /// The client that made the request.
    pub client_id: Value,
    /// Name of the client, from the personal data of the event.
    #[serde(skip_serializing_if = "Value::is_null")]
    pub label: Value,
    /// Thumbprint of the proved DPoP key.
    pub jkt: Value,
    /// Number of actors in the chain of this hop.
    pub depth: usize,
    /// `jti` of the issued token.
    pub jti: Value,
    /// `jti` of the subject token.
    pub parent_jti: Value,
    /// `seq` of the hop that issued the subject token, if that token is of this chain.
    pub parent: Option<u64>,
    /// `seq` of the hops that exchanged this hop's token.
    pub children: Vec<u64>,
    /// The delegation that authorized the hop.
    pub delegation_id: Value,
    /// The current state of the delegation.
    pub delegation_state: Option<DelegationState>,
    pub scope: Value,
    pub audience: Value,
    #[serde(skip_serializing_if = "Value::is_null")]
    pub target: Value,
    pub key_continuity: KeyContinuity,
    pub key_statements: Vec<KeyStatement>,
}

#[derive(Debug, Clone, Serialize)]
pub struct Chain {
    pub txn: String,
    pub subject: Value,
    pub session_id: Value,
    /// Subjects of all actors, in order of appearance.
    pub actors: Vec<String>,
    /// When the first event happened, by the clock of the server that recorded the event.
    pub first_at: Value,
    /// When the last event happened.
    pub last_at: Value,
    /// `seq` of the first event.
    pub first_seq: u64,
    /// `seq` of the last event.
    pub last_seq: u64,
    /// Number of events in the chain, including events that are not shown.
    pub events: u64,
    /// Number of refusals among the shown events.
    pub refusals: usize,
    /// Number of retrievals among the shown events.
    pub retrievals: usize,
    /// Summary of the last event.
    pub last: Value,
    /// The current state of the delegation of the last hop.
    pub state: Option<DelegationState>,
    /// The worst value of all hops.
    pub key_continuity: KeyContinuity,
    /// In the order of the log.
    pub hops: Vec<Hop>,
    /// `seq` of the hops whose subject token is not of this chain.
    pub roots: Vec<u64>,
    /// `seq` of the hops that have more than one child.
    pub branches: Vec<u64>,
    /// Whether all events of the chain are shown.
    pub complete: bool,
}

impl Chain {
    /// Builds a chain from its events, in order; `total` is the number of events in the log. Returns `None`
    /// if `found` is empty.
    pub fn build(txn: &str, found: &[EventRow], total: u64, facts: &ChainFacts) -> Option<Self> {
        let (first, last) = (found.first()?, found.last()?);
        let mut builder = ChainBuilder::default();
        let mut hops: Vec<Hop> = found.iter().filter_map(|one| builder.hop(one, facts)).collect();
        connect(&mut hops);
        let count = |kind| hops.iter().filter(|hop| hop.kind == kind).count();
        let made = hops.iter().rev().find(|hop| hop.kind != HopKind::Refusal).or(hops.last());
        let member = |found: &EventRow, name: &str| found.event.get(name).cloned().unwrap_or_default();
        let named = |name: &str| found.iter().map(|one| member(one, name)).find(|value| !value.is_null());
        Some(Self {
            txn: txn.to_owned(),
            subject: named("subject").unwrap_or_default(),
            session_id: named("session_id").unwrap_or_default(),
            actors: builder.actors,
            first_at: member(first, "at"),
            last_at: member(last, "at"),
            first_seq: first.seq,
            last_seq: last.seq,
            events: total,
            refusals: count(HopKind::Refusal),
            retrievals: count(HopKind::Retrieval),
            last: last_event(last),
            state: made.and_then(|hop| hop.delegation_state),
            key_continuity: hops.iter().map(|hop| hop.key_continuity).max().unwrap_or(KeyContinuity::NoKey),
            roots: hops.iter().filter(|hop| hop.parent.is_none()).map(|hop| hop.seq).collect(),
            branches: hops.iter().filter(|hop| hop.children.len() > 1).map(|hop| hop.seq).collect(),
            complete: u64::try_from(found.len()) == Ok(total),
            hops,
        })
    }
}

fn last_event(last: &EventRow) -> Value {
    let members = ["id", "at", "action", "outcome", "reason", "target", "audience"];
    let known = members.iter().filter_map(|name| Some(((*name).to_owned(), last.event.get(*name)?.clone())));
    Value::Object(known.chain([("seq".to_owned(), last.seq.into())]).collect())
}

/// Ids of the delegations and clients that [`ChainFacts`] must cover for these events.
pub fn named<'a>(events: impl Iterator<Item = &'a EventRow>) -> (BTreeSet<String>, BTreeSet<String>) {
    let (mut delegations, mut clients) = (BTreeSet::new(), BTreeSet::new());
    for found in events {
        let text = |pointer: &str| found.event.pointer(pointer).and_then(Value::as_str).map(str::to_owned);
        delegations.extend(text("/delegation_id"));
        clients.extend(text("/actor/client_id"));
    }
    (delegations, clients)
}

/// What the earlier hops say about tokens and keys.
#[derive(Default)]
struct ChainBuilder {
    /// By token: `seq` of the hop that issued the token, and the keys of its actors, root first.
    tokens: HashMap<String, (u64, Vec<Option<String>>)>,
    /// By actor and delegation: the first proved key, and `seq` of its hop.
    keys: BTreeMap<(String, String), (String, u64)>,
    /// Actors in order of appearance; those of other issuers before the first hop.
    actors: Vec<String>,
}

impl ChainBuilder {
    fn hop(&mut self, found: &EventRow, facts: &ChainFacts) -> Option<Hop> {
        let kind = kind(&found.event)?;
        let member = |name: &str| found.event.get(name).cloned().unwrap_or_default();
        let actor = |name: &str| found.event.pointer(&format!("/actor/{name}")).cloned().unwrap_or_default();
        let links: Vec<&Value> =
            found.event.get("act_chain").and_then(Value::as_array).into_iter().flatten().collect();
        let subs =
            links.iter().filter_map(|link| link.get("sub")).chain(found.event.pointer("/actor/client_id"));
        for name in subs.filter_map(Value::as_str) {
            if !self.actors.iter().any(|had| had == name) {
                self.actors.push(name.to_owned());
            }
        }
        let personal = PersonalView::of(&found.event, found.personal.as_deref());
        let label = personal.and_then(|view| view.data.get("client_name").cloned()).unwrap_or_default();
        let parent_jti = member("parent_jti");
        let parent = parent_jti.as_str().and_then(|jti| self.tokens.get(jti)).map(|(seq, _)| *seq);
        let delegation_id = member("delegation_id");
        let delegation_state = delegation_id.as_str().and_then(|id| facts.states.get(id)).copied();
        let hop = Hop {
            seq: found.seq,
            id: member("id"),
            at: member("at"),
            kind,
            action: member("action"),
            outcome: member("outcome"),
            reason: member("reason"),
            client_id: actor("client_id"),
            label,
            jkt: actor("jkt"),
            depth: links.len(),
            jti: member("jti"),
            parent_jti,
            parent,
            children: Vec::new(),
            delegation_id,
            delegation_state,
            scope: member("scope"),
            audience: member("audience"),
            target: member("target"),
            key_continuity: KeyContinuity::NoKey,
            key_statements: Vec::new(),
        };
        let key_statements = self.statements(&hop, &links, facts);
        let key_continuity = KeyContinuity::of(&key_statements);
        if kind != HopKind::Refusal {
            self.learn(&hop, &links);
            // Tokens that are made with a refresh token come from the exchange that answered it.
            if let Some(id) = found.event.pointer("/detail/refresh_token").and_then(Value::as_str) {
                self.tokens.entry(id.to_owned()).or_insert_with(|| (hop.seq, keys_of(&links)));
            }
        }
        Some(Hop { key_continuity, key_statements, ..hop })
    }

    fn statements(&self, hop: &Hop, links: &[&Value], facts: &ChainFacts) -> Vec<KeyStatement> {
        let (Some(proved), Some(client)) = (hop.jkt.as_str(), hop.client_id.as_str()) else {
            return Vec::new();
        };
        let at = (client.to_owned(), hop.delegation_id.as_str().unwrap_or_default().to_owned());
        let earlier = self.keys.get(&at).filter(|_| hop.kind != HopKind::Refusal);
        let subject_token = hop.parent_jti.as_str().and_then(|jti| self.tokens.get(jti));
        let sources = KeySources { links, earlier, registered: facts.keys.get(client), subject_token };
        sources.about(&ProvedKey { seq: hop.seq, client, jkt: proved })
    }

    fn learn(&mut self, hop: &Hop, links: &[&Value]) {
        if let Some(jti) = hop.jti.as_str() {
            self.tokens.insert(jti.to_owned(), (hop.seq, keys_of(links)));
        }
        if let (Some(client), Some(jkt)) = (hop.client_id.as_str(), hop.jkt.as_str()) {
            let delegation = hop.delegation_id.as_str().unwrap_or_default();
            let at = (client.to_owned(), delegation.to_owned());
            self.keys.entry(at).or_insert_with(|| (jkt.to_owned(), hop.seq));
        }
    }
}

/// The kind of hop, or `None` for events that are not hops.
fn kind(event: &Value) -> Option<HopKind> {
    match Action::of(event)? {
        Action::TokenIssued => Some(HopKind::Issue),
        Action::TokenExchanged | Action::TokenRefreshed => Some(HopKind::Exchange),
        Action::VaultTokenRetrieved | Action::VaultProxyCalled => Some(HopKind::Retrieval),
        Action::TokenRefused | Action::VaultTokenRefused | Action::VaultProxyRefused => {
            Some(HopKind::Refusal)
        }
        _ => None,
    }
}

/// Sets the children of each hop. A flat list, not a recursive tree: the number of nested exchanges is not
/// limited.
fn connect(hops: &mut [Hop]) {
    let mut children: HashMap<u64, Vec<u64>> = HashMap::new();
    for hop in hops.iter() {
        if let Some(parent) = hop.parent {
            children.entry(parent).or_default().push(hop.seq);
        }
    }
    for hop in hops {
        hop.children = children.remove(&hop.seq).unwrap_or_default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn event(
        seq: u64,
        action: &str,
        client: (&str, Option<&str>),
        tokens: (Option<&str>, Option<&str>),
    ) -> EventRow {
        let event = json!({"seq": seq, "action": action, "at": "2026-01-01T00:00:00.000000Z", "txn": "t",
            "actor": {"type": "client", "client_id": client.0, "jkt": client.1}, "delegation_id": format!("D-{}", client.0),
            "act_chain": [{"sub": client.0, "iss": "us", "jkt": client.1}], "jti": tokens.0, "parent_jti": tokens.1});
        EventRow { seq, document: event.to_string(), event, personal: None }
    }

    fn build(events: &[EventRow]) -> Chain {
        Chain::build("t", events, events.len() as u64, &ChainFacts::default()).unwrap()
    }

    #[test]
    fn two_hops_from_one_token_are_a_branch() {
        let chain = build(&[
            event(1, "oauth.token.exchanged", ("a", Some("ka")), (Some("1"), Some("outside"))),
            event(2, "oauth.token.exchanged", ("b", Some("kb")), (Some("2"), None)),
            event(4, "vault.token.retrieved", ("a", Some("ka")), (None, Some("1"))),
            event(5, "oauth.token.refused", ("a", Some("ka")), (None, Some("1"))),
        ]);
        let children: Vec<&[u64]> = chain.hops.iter().map(|hop| hop.children.as_slice()).collect();
        assert_eq!(children, [&[4, 5][..], &[], &[], &[]]);
        assert_eq!((chain.roots.as_slice(), chain.branches.as_slice()), (&[1, 2][..], &[1][..]));
        assert_eq!((chain.retrievals, chain.refusals, chain.complete), (1, 1, true));
        assert_eq!(chain.key_continuity, KeyContinuity::Consistent);
    }

    #[test]
    fn a_key_that_nothing_speaks_of_is_a_drift() {
        let key_continuities =
            |events: &[EventRow]| build(events).hops.iter().map(|hop| hop.key_continuity).collect::<Vec<_>>();
        let first = event(1, "oauth.token.exchanged", ("a", Some("ka")), (Some("1"), None));
        let again = event(2, "oauth.token.exchanged", ("a", Some("other")), (Some("2"), None));
        assert_eq!(
            key_continuities(&[first.clone(), again]),
            [KeyContinuity::Consistent, KeyContinuity::KeyMismatch],
            "as before"
        );
        let mut below = event(3, "oauth.token.exchanged", ("b", Some("kb")), (Some("3"), Some("1")));
        below.event["act_chain"] = json!([{"sub": "a", "jkt": "forged"}, {"sub": "b", "jkt": "kb"}]);
        assert_eq!(
            key_continuities(&[first.clone(), below.clone()]),
            [KeyContinuity::Consistent, KeyContinuity::KeyMismatch],
            "its parent"
        );
        let hops = build(&[first.clone(), below]).hops;
        let both = hops[1].key_statements.iter().find(|one| one.contradicts).unwrap();
        assert_eq!((both.jkt.as_deref(), both.instead.as_deref()), (Some("ka"), Some("forged")));
        let mut other = first.clone();
        other.event["act_chain"][0]["jkt"] = json!("forged");
        assert_eq!(key_continuities(&[other]), [KeyContinuity::KeyMismatch], "the token");
        let unbound = event(4, "oauth.token.exchanged", ("c", None), (Some("4"), None));
        assert_eq!(key_continuities(&[unbound]), [KeyContinuity::NoKey]);
        let keys = HashMap::from([("a".to_owned(), BTreeSet::from(["registered".to_owned()]))]);
        let facts = ChainFacts { keys, ..ChainFacts::default() };
        assert_eq!(
            Chain::build("t", &[first], 1, &facts).unwrap().key_continuity,
            KeyContinuity::KeyMismatch,
            "its client"
        );
    }
}
