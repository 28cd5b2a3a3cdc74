//! Personal data beside a document: whether it is what the document names by its digest, and what it says.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use serde_json::{Map, Value};

use crate::domain::person::Person;
use actchain_protocol::pseudonym::{is_pseudonym, personal_sha256};

/// How the personal data of an event relates to its document.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PersonalState {
    /// The document has the digest of the data.
    Matches,
    /// The data is not what was recorded, or the document names none.
    DoesNotMatch,
    /// The document names data that no longer exists.
    Erased,
}

/// The personal data of an event as shown.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PersonalView {
    pub state: PersonalState,
    /// Empty unless the data matches.
    #[serde(flatten)]
    pub data: Map<String, Value>,
}

impl PersonalView {
    /// `None` if the event has no personal data, and never had.
    pub fn of(event: &Value, personal: Option<&str>) -> Option<Self> {
        let digest = event.get("personal_sha256").and_then(Value::as_str);
        let state = state(digest, personal)?;
        let data = personal.filter(|_| state == PersonalState::Matches).and_then(data).unwrap_or_default();
        Some(Self { state, data })
    }
}

fn state(digest: Option<&str>, personal: Option<&str>) -> Option<PersonalState> {
    match (digest, personal) {
        (None, None) => None,
        (Some(_), None) => Some(PersonalState::Erased),
        (Some(digest), Some(text)) if digest == personal_sha256(text) => Some(PersonalState::Matches),
        (_, Some(_)) => Some(PersonalState::DoesNotMatch),
    }
}

/// The members of the text without its salt.
fn data(personal: &str) -> Option<Map<String, Value>> {
    let mut members: Map<String, Value> = serde_json::from_str(personal).ok()?;
    members.remove("salt");
    Some(members)
}

/// The address in the text of the personal data.
pub fn ip_of(personal: &str) -> Option<String> {
    data(personal)?.get("ip")?.as_str().map(str::to_owned)
}

/// A pseudonym as shown: with its person, or why there is none.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum PersonView {
    Known {
        iss: String,
        sub: String,
    },
    /// The stored row has another pseudonym: something other than a server wrote it.
    DoesNotMatch,
    Erased,
}

/// The persons of some events, by pseudonym.
pub type People = BTreeMap<String, PersonView>;

/// The pseudonyms of a document.
pub fn collect_pseudonyms(value: &Value, into: &mut BTreeSet<String>) {
    match value {
        Value::String(text) if is_pseudonym(text) => drop(into.insert(text.clone())),
        Value::Object(members) => members.values().for_each(|one| collect_pseudonyms(one, into)),
        Value::Array(list) => list.iter().for_each(|one| collect_pseudonyms(one, into)),
        _ => {}
    }
}

/// Who these pseudonyms are, by the rows that were found.
pub fn people(pseudonyms: BTreeSet<String>, found: Vec<Person>) -> People {
    let mut people: People = pseudonyms.into_iter().map(|name| (name, PersonView::Erased)).collect();
    for person in found {
        let view = match person.is_proven() {
            true => PersonView::Known { iss: person.who.iss, sub: person.who.sub },
            false => PersonView::DoesNotMatch,
        };
        people.insert(person.pseudonym, view);
    }
    people
}

/// Whether a copy of the log for another system has the names of users and their personal data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PeopleMembers {
    /// Documents only: an erasure reaches all of them.
    #[default]
    Omitted,
    Included,
}

impl PeopleMembers {
    pub fn are_included(self) -> bool {
        self == Self::Included
    }
}

/// The event as people read it: with the names of persons, and with its personal data among its members.
pub fn resolved(event: &Value, personal: Option<&str>, people: &People) -> Value {
    let mut whole = with_people(event, people);
    let Some(view) = PersonalView::of(event, personal) else { return whole };
    if let Value::Object(members) = &mut whole {
        let mut data = view.data;
        let top = ["ip", "user_agent"].map(|name| data.remove_entry(name));
        members.extend(top.into_iter().flatten());
        if !data.is_empty() {
            members.insert("texts".to_owned(), data.into());
        }
    }
    whole
}

fn with_people(value: &Value, people: &People) -> Value {
    match value {
        Value::String(text) => match people.get(text) {
            Some(PersonView::Known { sub, .. }) => sub.as_str().into(),
            _ => text.as_str().into(),
        },
        Value::Object(members) => members
            .iter()
            .map(|(name, one)| (name.clone(), with_people(one, people)))
            .collect::<Map<_, _>>()
            .into(),
        Value::Array(list) => list.iter().map(|one| with_people(one, people)).collect(),
        plain => plain.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::principal::Principal;
    use actchain_protocol::pseudonym::pseudonym;
    use serde_json::json;

    fn alice() -> Person {
        let who = Principal::new("https://idp", "alice");
        Person { pseudonym: pseudonym(&[7; 32], &who.iss, &who.sub), who, salt: [7; 32] }
    }

    #[test]
    fn personal_data_matches_its_digest_or_is_not_shown() {
        let text = r#"{"ip":"192.0.2.1","reason":"r","salt":"s"}"#;
        let event = json!({"personal_sha256": personal_sha256(text)});
        let view = |event: &Value, text| PersonalView::of(event, text).map(|view| json!(view));
        assert_eq!(
            view(&event, Some(text)),
            Some(json!({"state": "matches", "ip": "192.0.2.1", "reason": "r"}))
        );
        assert_eq!(view(&event, Some("{}")), Some(json!({"state": "does_not_match"})));
        assert_eq!(view(&json!({}), Some(text)), Some(json!({"state": "does_not_match"})), "added later");
        assert_eq!(view(&event, None), Some(json!({"state": "erased"})));
        assert_eq!(view(&json!({}), None), None);
    }

    #[test]
    fn a_person_is_shown_only_under_the_pseudonym_that_the_row_proves() {
        let event = json!({"subject": {"iss": "https://idp", "sub": alice().pseudonym}, "detail": {"list": [alice().pseudonym]}});
        let mut names = BTreeSet::new();
        collect_pseudonyms(&event, &mut names);
        assert_eq!(names, BTreeSet::from([alice().pseudonym]));
        let shown = resolved(&event, None, &people(names.clone(), vec![alice()]));
        assert_eq!(
            (&shown["subject"]["sub"], &shown["detail"]["list"]),
            (&json!("alice"), &json!(["alice"]))
        );
        let mallory = Person { who: Principal::new("https://idp", "mallory"), ..alice() };
        let changed = people(names.clone(), vec![mallory]);
        assert_eq!(changed[&alice().pseudonym], PersonView::DoesNotMatch);
        assert_eq!(resolved(&event, None, &changed), event);
        assert_eq!(people(names, Vec::new())[&alice().pseudonym], PersonView::Erased);
    }
}
