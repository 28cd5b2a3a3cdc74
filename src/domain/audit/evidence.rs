//! Derives the readable files of an evidence package: chains, delegations with their terms, and a summary.
//! All files follow from the events alone, so a verifier can derive and compare them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use serde::Serialize;
use serde_json::{Value, json};

use super::chain::{Chain, ChainFacts, Hop, HopKind};
use super::evidence_header::{EvidenceHeader, EvidenceQuestion, SubjectName, one_line};
use super::evidence_readme::{question, readme};
use super::personal::resolved;
use super::search::EventRow;
use super::{Action, Actor, EventKind};
use crate::domain::delegation::RecordedTerms;
use crate::platform::fault::{Context, Fault};

/// Actions that change the delegation itself.
pub const LIFECYCLE: [Action; 8] = [
    Action::DelegationCreated,
    Action::DelegationActivated,
    Action::DelegationRenewed,
    Action::DelegationKeyRotationRequested,
    Action::DelegationSuspended,
    Action::DelegationResumed,
    Action::DelegationRevoked,
    Action::DelegationExpired,
];

/// Content of the derived files, by file name.
pub type Derived = BTreeMap<&'static str, String>;

/// Derives the files.
///
/// # Errors
/// A fault if JSON cannot be written.
pub fn derive(about: &EvidenceHeader, events: &[EventRow]) -> Result<Derived, Fault> {
    let people = about.people();
    // What is beside the documents proves nothing, and is not in the folder.
    let named = |one: &EventRow| {
        let event = resolved(&one.event, None, &people);
        EventRow { event, personal: None, ..one.clone() }
    };
    let events: Vec<EventRow> = events.iter().map(named).collect();
    let chains = chains(&events);
    let delegations = delegations(&events);
    let file = |value: &Value| -> Result<String, Fault> {
        Ok(serde_json::to_string_pretty(value).context("writing evidence")? + "\n")
    };
    let listed = serde_json::to_value(&chains).context("writing evidence")?;
    let listed_delegations = serde_json::to_value(&delegations).context("writing evidence")?;
    Ok(BTreeMap::from([
        ("chains.json", file(&json!({"chains": listed}))?),
        ("delegations.json", file(&json!({"delegations": listed_delegations}))?),
        ("summary.txt", summary(about, &events, &chains, &delegations)),
        ("README.txt", readme(about)),
    ]))
}

/// Ids of the delegations that authorized events, with all ancestors.
pub fn delegation_ids<'a>(events: impl Iterator<Item = &'a EventRow>) -> BTreeSet<String> {
    let mut ids = BTreeSet::new();
    for found in events {
        let path = found.event.get("delegation_path").and_then(Value::as_array);
        ids.extend(path.into_iter().flatten().filter_map(Value::as_str).map(str::to_owned));
        ids.extend(text(&found.event, "/delegation_id").map(str::to_owned));
    }
    ids
}

/// Whether an event changes the state of this delegation.
pub fn is_lifecycle(event: &Value, id: &str) -> bool {
    let named = Action::of(event).is_some_and(|action| LIFECYCLE.contains(&action));
    named && text(event, "/delegation_id") == Some(id)
}

/// The chains, in the order of their first event. Current states are left out: they depend on the time of
/// reading.
fn chains(events: &[EventRow]) -> Vec<Chain> {
    let mut by_txn: Vec<(String, Vec<EventRow>)> = Vec::new();
    let mut places: BTreeMap<String, usize> = BTreeMap::new();
    for found in events {
        let Some(txn) = text(&found.event, "/txn") else { continue };
        let place = *places.entry(txn.to_owned()).or_insert_with(|| {
            by_txn.push((txn.to_owned(), Vec::new()));
            by_txn.len() - 1
        });
        if let Some((_, events)) = by_txn.get_mut(place) {
            events.push(found.clone());
        }
    }
    let facts = ChainFacts::default();
    let build = |(txn, found): &(String, Vec<EventRow>)| {
        let total = u64::try_from(found.len()).unwrap_or(u64::MAX);
        Chain::build(txn, found, total, &facts)
    };
    by_txn.iter().filter_map(build).collect()
}

/// A delegation as recorded in the log.
#[derive(Debug, Serialize)]
struct DelegationHistory {
    id: String,
    /// Ids of the delegation and its ancestors, root first.
    path: Value,
    /// The granted terms and the event that records them; `null` if no event does.
    terms: Option<GrantedTerms>,
    /// Events that changed the delegation.
    history: Vec<Value>,
}

#[derive(Debug, Serialize)]
struct GrantedTerms {
    seq: u64,
    granted: Box<RecordedTerms>,
    /// The expiry after the last renewal.
    expires_at: String,
}

fn delegations(events: &[EventRow]) -> Vec<DelegationHistory> {
    let ids = delegation_ids(events.iter());
    let mut list: Vec<DelegationHistory> = ids.into_iter().map(|id| recorded(id, events)).collect();
    list.sort_by_key(|one| one.history.first().and_then(|event| event.get("seq")?.as_u64()));
    list
}

fn recorded(id: String, events: &[EventRow]) -> DelegationHistory {
    let own: Vec<&EventRow> = events.iter().filter(|found| is_lifecycle(&found.event, &id)).collect();
    let member = |found: &EventRow, name: &str| found.event.get(name).cloned().unwrap_or_default();
    let mut kinds = own.iter().rev().filter_map(|found| Some((found.seq, EventKind::of(&found.event)?)));
    let renewed = kinds.clone().find_map(|(_, kind)| match kind {
        EventKind::DelegationRenewed { to, .. } => Some(to),
        _ => None,
    });
    let terms = kinds.find_map(|(seq, kind)| match kind {
        EventKind::DelegationCreated { terms, .. } | EventKind::DelegationActivated { terms, .. } => {
            Some((seq, terms))
        }
        _ => None,
    });
    let terms = terms.map(|(seq, granted)| {
        let expires_at = renewed.unwrap_or_else(|| granted.expires_at.clone());
        GrantedTerms { seq, granted, expires_at }
    });
    let history = own.iter().map(|found| {
        let members = ["seq", "at", "action", "outcome", "reason", "actor", "detail"];
        Value::Object(members.iter().map(|name| ((*name).to_owned(), member(found, name))).collect())
    });
    let path = own.first().map(|found| member(found, "delegation_path")).unwrap_or_default();
    DelegationHistory { path, terms, history: history.collect(), id }
}

fn summary(
    about: &EvidenceHeader,
    events: &[EventRow],
    chains: &[Chain],
    delegations: &[DelegationHistory],
) -> String {
    let mut out = String::new();
    let _ = writeln!(out, "{}\n", question(about));
    if let Some(SubjectName { pseudonym, .. }) = &about.named {
        let _ = writeln!(out, "In the log, the user is {pseudonym}.\n");
    }
    if let EvidenceQuestion::Period { client: Some(client), .. } = &about.question {
        let _ = writeln!(out, "Only chains in which {client} acted.\n");
    }
    let _ = writeln!(
        out,
        "{} events in {} chains under {} delegations, of a log of {} events.",
        events.len(),
        chains.len(),
        delegations.len(),
        about.size
    );
    if about.first > 0 {
        let _ = writeln!(
            out,
            "Events before number {} were archived: they were not searched, and are not here.",
            about.first
        );
    }
    for chain in chains {
        let _ = writeln!(out, "\nChain {}", chain.txn);
        for hop in &chain.hops {
            let _ = writeln!(out, "  {}", hop_in_words(hop));
        }
    }
    if !delegations.is_empty() {
        out.push_str("\nRights\n");
    }
    for one in delegations {
        out.push_str(&delegation_in_words(one));
    }
    let others = events.iter().filter(|found| {
        text(&found.event, "/txn").is_none()
            && !text(&found.event, "/delegation_id").is_some_and(|id| is_lifecycle(&found.event, id))
    });
    for (place, found) in others.enumerate() {
        if place == 0 {
            out.push_str("\nOther events\n");
        }
        let [at, action, outcome] =
            ["/at", "/action", "/outcome"].map(|name| text(&found.event, name).unwrap_or("?"));
        let _ = writeln!(out, "  {at}  {} {action} ({outcome}) [event {}]", actor(&found.event), found.seq);
    }
    out
}

fn hop_in_words(hop: &Hop) -> String {
    let word = |value: &Value| value.as_str().map_or_else(|| "?".to_owned(), one_line);
    let did = match hop.kind {
        HopKind::Issue => "got a token for itself".to_owned(),
        HopKind::Exchange => "got a token to act".to_owned(),
        HopKind::Retrieval => format!("took the credential {}", word(&hop.target)),
        HopKind::Refusal => format!("was refused: {}", word(&hop.reason)),
    };
    let mut out = format!("{}  {} {did}", word(&hop.at), word(&hop.client_id));
    if let Some(scope) = hop.scope.as_str() {
        let _ = write!(out, ", scope {scope:?}");
    }
    let audience: Vec<&str> =
        hop.audience.as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    if !audience.is_empty() {
        let _ = write!(out, ", at {}", one_line(&audience.join(" and ")));
    }
    if let Some(id) = hop.delegation_id.as_str() {
        let _ = write!(out, ", by delegation {id}");
    }
    if let Some(jkt) = hop.jkt.as_str() {
        let _ = write!(out, ", with key {jkt}");
    }
    let _ = write!(out, " [event {}]", hop.seq);
    out
}

fn delegation_in_words(one: &DelegationHistory) -> String {
    let mut out = format!("  Delegation {}\n", one.id);
    match &one.terms {
        None => out.push_str("    No event here says what it allows.\n"),
        Some(terms) => {
            let members = [
                "delegator",
                "delegate",
                "scopes",
                "audiences",
                "authorization_details",
                "capability_ceiling",
                "ceremony_required_for",
                "max_uses",
                "max_depth",
                "offline_access",
            ];
            let _ = writeln!(out, "    Granted, by event {}:", terms.seq);
            let granted = serde_json::to_value(&terms.granted).unwrap_or_default();
            for name in members {
                let value = granted.get(name).unwrap_or(&Value::Null);
                let limit = !matches!(name, "delegator" | "delegate" | "offline_access");
                match value {
                    Value::Null if limit => {
                        let _ = writeln!(out, "      {name}: not restricted");
                    }
                    Value::Null => {}
                    value => {
                        let _ = writeln!(out, "      {name}: {value}");
                    }
                }
            }
            let _ = writeln!(out, "      expires_at: {}", terms.expires_at);
        }
    }
    for event in &one.history {
        let [at, action, outcome] =
            ["/at", "/action", "/outcome"].map(|name| text(event, name).unwrap_or("?"));
        let seq = event.get("seq").and_then(Value::as_u64).unwrap_or_default();
        let _ = writeln!(out, "    {at}  {action} ({outcome}) by {} [event {seq}]", actor(event));
    }
    out
}

fn actor(event: &Value) -> String {
    Actor::of(event).map_or_else(|| "?".to_owned(), |actor| one_line(&actor.to_string()))
}

fn text<'a>(event: &'a Value, pointer: &str) -> Option<&'a str> {
    event.pointer(pointer).and_then(Value::as_str)
}
