//! The lines of a plan: created, changed (with members) and unchanged entries. A plan never contains a secret.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::domain::audit::detail::DeclaredChange;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    Create,
    Update,
    Unchanged,
}

/// A kind of entry in the manifest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, strum::Display)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum EntryKind {
    Issuer,
    Resource,
    Client,
    Provider,
    Registrar,
    Sink,
    Delegation,
    Rule,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SecretChange {
    Set,
    /// Another secret replaces the present one.
    Replaced,
    Removed,
    /// The secret stays, and is recorded as the declared secret.
    Recorded,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum MemberChange {
    /// A single value; `null` where the member is absent.
    Value {
        /// Name in the manifest.
        member: String,
        from: Value,
        to: Value,
    },
    List {
        /// Name in the manifest.
        member: String,
        added: Vec<Value>,
        removed: Vec<Value>,
    },
    /// A secret, or a value that may contain a secret.
    Secret {
        /// Name in the manifest.
        member: String,
        secret: SecretChange,
    },
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Line {
    pub change: Change,
    pub kind: EntryKind,
    pub id: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub members: Vec<MemberChange>,
    /// Thumbprints of the keys that the client loses until an operator restores them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub removed_keys: Vec<String>,
    /// Thumbprints of keys declared in `jwks` before; from now on they are usable only while `jwks_uri` publishes
    /// them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unpinned_keys: Vec<String>,
    /// Information about the entry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// A problem to act on: the declared state is not in force.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warning: Option<String>,
}

impl Line {
    /// A line for a new or unchanged entry.
    pub fn new(change: Change, kind: EntryKind, id: &str) -> Self {
        Self {
            change,
            kind,
            id: id.to_owned(),
            members: Vec::new(),
            removed_keys: Vec::new(),
            unpinned_keys: Vec::new(),
            note: None,
            warning: None,
        }
    }

    /// A line for an entry: `None` is a new entry, an empty list an unchanged one.
    pub fn of(kind: EntryKind, id: &str, members: Option<Vec<MemberChange>>) -> Self {
        let change = match &members {
            None => Change::Create,
            Some(members) if members.is_empty() => Change::Unchanged,
            Some(_) => Change::Update,
        };
        Self { members: members.unwrap_or_default(), ..Self::new(change, kind, id) }
    }
}

impl Change {
    /// The change as an event records it; `None` if there is none.
    pub fn recorded(self) -> Option<DeclaredChange> {
        match self {
            Self::Create => Some(DeclaredChange::Create),
            Self::Update => Some(DeclaredChange::Update),
            Self::Unchanged => None,
        }
    }
}

impl MemberChange {
    pub fn secret(member: &str, secret: SecretChange) -> Self {
        Self::Secret { member: member.to_owned(), secret }
    }

    /// Name in the manifest.
    pub fn member(&self) -> &str {
        match self {
            Self::Value { member, .. } | Self::List { member, .. } | Self::Secret { member, .. } => member,
        }
    }
}

impl std::fmt::Display for MemberChange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Value { member, from, to } => write!(f, "{member}: {} → {}", text(from), text(to)),
            Self::List { member, added, removed } => {
                let removed = removed.iter().map(|one| format!("- {}", text(one)));
                let added = added.iter().map(|one| format!("+ {}", text(one)));
                write!(f, "{member}: {}", removed.chain(added).collect::<Vec<_>>().join("  "))
            }
            Self::Secret { member, secret } => f.write_str(&match secret {
                SecretChange::Set => format!("{member}: secret set"),
                SecretChange::Replaced => format!("{member}: secret changed"),
                SecretChange::Removed => format!("{member}: secret removed"),
                SecretChange::Recorded => format!("{member}: secret unchanged, recorded as the declared one"),
            }),
        }
    }
}

fn text(value: &Value) -> String {
    match value {
        Value::Null => "none".to_owned(),
        Value::String(text) if !text.is_empty() && !text.contains(char::is_control) => text.clone(),
        Value::Array(items) => format!("[{}]", items.iter().map(text).collect::<Vec<_>>().join(", ")),
        other => other.to_string(),
    }
}

/// The members that differ between two states of an entry, by name. Lists are compared as sets.
pub fn differences(old: &Map<String, Value>, new: &Map<String, Value>) -> Vec<MemberChange> {
    let names: std::collections::BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    let of = |members: &Map<String, Value>, name: &String| members.get(name).cloned().unwrap_or_default();
    let pairs = names.into_iter().map(|name| (name, of(old, name), of(new, name)));
    pairs.filter_map(|(name, from, to)| difference(name, from, to)).collect()
}

fn difference(name: &str, from: Value, to: Value) -> Option<MemberChange> {
    let member = name.to_owned();
    match (&from, &to) {
        (Value::Array(old), Value::Array(new)) => {
            let missing = |from: &[Value], of: &[Value]| -> Vec<Value> {
                of.iter().filter(|one| !from.contains(one)).cloned().collect()
            };
            let (added, removed) = (missing(old, new), missing(new, old));
            let same = added.is_empty() && removed.is_empty();
            (!same).then_some(MemberChange::List { member, added, removed })
        }
        _ if from == to => None,
        _ => Some(MemberChange::Value { member, from, to }),
    }
}

/// The change of a JWK Set that has the same keys with other members, such as another `kid`.
pub(super) fn rewritten(member: &str, keys: usize) -> MemberChange {
    let to = json!(format!("{keys} same keys, other members"));
    MemberChange::Value { member: member.to_owned(), from: json!(format!("{keys} keys")), to }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn members(value: Value) -> Map<String, Value> {
        value.as_object().unwrap().clone()
    }

    #[test]
    fn each_member_that_differs_is_one_change() {
        let old =
            members(json!({"kind": "agent", "scopes": ["a", "b"], "ttl": 5, "keys": ["k"], "same": [1, 2]}));
        let new = members(
            json!({"kind": "service", "scopes": ["b", "c"], "keys": null, "same": [2, 1], "name": "x"}),
        );
        let changes = differences(&old, &new);
        let said: Vec<String> = changes.iter().map(ToString::to_string).collect();
        let expected = [
            "keys: [k] → none",
            "kind: agent → service",
            "name: none → x",
            "scopes: - a  + c",
            "ttl: 5 → none",
        ];
        assert_eq!(said, expected);
        assert_eq!(
            serde_json::to_value(&changes[3]).unwrap(),
            json!({"member": "scopes", "added": ["c"], "removed": ["a"]})
        );
    }
}
