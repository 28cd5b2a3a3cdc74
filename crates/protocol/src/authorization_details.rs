//! Rich authorization requests (RFC 9396): objects with a `type` and the common members of §2.2, compared by type. A
//! member that is absent does not restrict; an empty list allows nothing.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::json;

/// Most objects in one request or grant.
const MAX_OBJECTS: usize = 32;
/// The common list members of RFC 9396 §2.2. Also `scopes`, a member of type `vault_connection`: what a credential may
/// allow at its provider.
const LISTS: [&str; 5] = ["locations", "actions", "datatypes", "privileges", "scopes"];

/// One object. Two are comparable only if their types are equal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Detail {
    /// The member `type`, which says what the other members mean.
    #[serde(rename = "type")]
    pub kind: String,
    /// A particular resource; `None` does not restrict to one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub identifier: Option<String>,
    /// `locations`, `actions`, `datatypes`, `privileges` and `scopes`, if present.
    #[serde(flatten)]
    pub lists: BTreeMap<String, BTreeSet<String>>,
}

/// Several objects; each of them may be used.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Details(pub Vec<Detail>);

impl<'de> Deserialize<'de> for Details {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = Value::deserialize(deserializer)?;
        Self::from_value(&value).ok_or_else(|| serde::de::Error::custom("not authorization details"))
    }
}

impl Details {
    /// Parses the parameter. `None` unless it is an array of at most 32 objects with `type` and only the common
    /// members in their right types (RFC 9396 §5).
    pub fn parse(text: &str) -> Option<Self> {
        Self::from_value(&json::parse(text.as_bytes())?)
    }

    /// Reads a JSON value under the rules of [`Details::parse`].
    pub fn from_value(value: &Value) -> Option<Self> {
        let objects = value.as_array()?;
        if objects.len() > MAX_OBJECTS {
            return None;
        }
        let details = objects.iter().map(detail).collect::<Option<Vec<_>>>()?;
        Some(Self(details))
    }

    /// Whether every object of `self` is covered by some object of `granted`.
    pub fn within(&self, granted: &Self) -> bool {
        self.0.iter().all(|asked| granted.0.iter().any(|grant| asked.within(grant)))
    }

    /// What both allow: the non-empty intersections of all pairs.
    pub fn intersect(&self, other: &Self) -> Self {
        let mut met: Vec<Detail> = Vec::new();
        for (left, right) in self.0.iter().flat_map(|left| other.0.iter().map(move |right| (left, right))) {
            if let Some(both) = left.intersect(right).filter(|both| !met.contains(both)) {
                met.push(both);
            }
            // More than can be parsed again; the caller checks [`Details::too_many`] and refuses.
            if met.len() > MAX_OBJECTS {
                break;
            }
        }
        Self(met)
    }

    /// Whether there are more objects than [`Details::from_value`] accepts.
    pub fn too_many(&self) -> bool {
        self.0.len() > MAX_OBJECTS
    }

    /// The types in the order of the objects, repeated where objects repeat them.
    pub fn types(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|detail| detail.kind.as_str())
    }
}

impl Detail {
    fn within(&self, grant: &Self) -> bool {
        let same_thing = grant.identifier.is_none() || grant.identifier == self.identifier;
        let lists = grant
            .lists
            .iter()
            .all(|(name, granted)| self.lists.get(name).is_some_and(|asked| asked.is_subset(granted)));
        self.kind == grant.kind && same_thing && lists
    }

    fn intersect(&self, other: &Self) -> Option<Self> {
        let clash =
            self.identifier.is_some() && other.identifier.is_some() && self.identifier != other.identifier;
        if self.kind != other.kind || clash {
            return None;
        }
        let mut lists = self.lists.clone();
        for (name, theirs) in &other.lists {
            let both = match lists.get(name) {
                None => theirs.clone(),
                Some(ours) => ours.intersection(theirs).cloned().collect(),
            };
            lists.insert(name.clone(), both);
        }
        // An object with a list that allows nothing allows nothing.
        if lists.values().any(BTreeSet::is_empty) {
            return None;
        }
        let identifier = self.identifier.clone().or_else(|| other.identifier.clone());
        Some(Self { kind: self.kind.clone(), identifier, lists })
    }
}

fn detail(value: &Value) -> Option<Detail> {
    let object = value.as_object()?;
    let mut lists = BTreeMap::new();
    for (name, value) in object {
        match name.as_str() {
            "type" | "identifier" => {}
            name if LISTS.contains(&name) => {
                let items = value.as_array()?.iter().map(text).collect::<Option<BTreeSet<_>>>()?;
                lists.insert(name.to_owned(), items);
            }
            _ => return None,
        }
    }
    let identifier = match object.get("identifier") {
        None => None,
        Some(value) => Some(text(value)?),
    };
    Some(Detail { kind: object.get("type").and_then(text)?, identifier, lists })
}

fn text(value: &Value) -> Option<String> {
    value.as_str().filter(|text| !text.is_empty()).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(text: &str) -> Details {
        Details::parse(text).unwrap()
    }

    #[test]
    fn only_well_formed_objects_are_read() {
        for text in [
            r#"{"type":"a"}"#,
            "[1]",
            "[{}]",
            r#"[{"type":1}]"#,
            r#"[{"type":"a","foo":1}]"#,
            r#"[{"type":"a","actions":"read"}]"#,
            r#"[{"type":"a","actions":[1]}]"#,
            r#"[{"type":"a","identifier":1}]"#,
            r#"[{"type":"a","type":"b"}]"#,
            r#"[{"type":""}]"#,
            "[",
            "",
        ] {
            assert_eq!(Details::parse(text), None, "{text}");
        }
        assert_eq!(read("[]").0.len(), 0);
    }

    #[test]
    fn wider_details_are_not_within_a_grant() {
        let grant = read(r#"[{"type":"mail","identifier":"inbox","actions":["read","list"]}]"#);
        assert!(read(r#"[{"type":"mail","identifier":"inbox","actions":["read"]}]"#).within(&grant));
        for wider in [
            r#"[{"type":"mail","identifier":"inbox","actions":["read","send"]}]"#,
            r#"[{"type":"mail","identifier":"inbox"}]"#,
            r#"[{"type":"mail","actions":["read"]}]"#,
            r#"[{"type":"mail","identifier":"sent","actions":["read"]}]"#,
            r#"[{"type":"calendar"}]"#,
        ] {
            assert!(!read(wider).within(&grant), "{wider}");
        }
    }

    #[test]
    fn a_disjoint_meet_allows_nothing_rather_than_everything() {
        let left = read(r#"[{"type":"mail","actions":["read"]}]"#);
        let right = read(r#"[{"type":"mail","actions":["send"]}]"#);
        assert_eq!(left.intersect(&right), Details::default());
        assert!(!left.within(&Details::default()));
    }

    fn any_details() -> impl Strategy<Value = Details> {
        let list = proptest::collection::btree_set("[a-c]", 0..3);
        let one = (
            "[xy]",
            proptest::option::of("[ij]"),
            proptest::option::of(list.clone()),
            proptest::option::of(list),
        );
        proptest::collection::vec(one, 0..3).prop_map(|objects| {
            Details(
                objects
                    .into_iter()
                    .map(|(kind, identifier, actions, locations)| {
                        let lists = [("actions", actions), ("locations", locations)];
                        let lists = lists.into_iter().filter_map(|(name, set)| Some((name.to_owned(), set?)));
                        Detail { kind, identifier, lists: lists.collect() }
                    })
                    .collect(),
            )
        })
    }

    proptest! {
        #[test]
        fn narrowing_never_widens(left in any_details(), right in any_details(), third in any_details()) {
            let both = left.intersect(&right);
            prop_assert!(both.within(&left) && both.within(&right));
            prop_assert!(both.intersect(&third).within(&both));
        }

        #[test]
        fn no_text_makes_it_panic(text in "\\PC{0,80}") {
            let _ = Details::parse(&text);
        }
    }
}
