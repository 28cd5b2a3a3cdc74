//! What a person was shown before a decision. The transaction that decides compares it with what is there.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::domain::ceremony::view::CeremonyView;
use crate::domain::delegation::Delegation;
use crate::domain::delegation::view::View;
use crate::platform::fault::{Context as _, Fault};
use actchain_protocol::base64url;
use actchain_protocol::digest::sha256;

/// Maximum number of characters of a value that is kept whole. Of a longer value, the digest is kept.
const MAX_KEPT: usize = 1_000;
/// Characters of a longer value that are kept for reading.
const READABLE: usize = 200;

/// The members of a request by their names, each as text. Uses change what is left, not what is requested, and are left out.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ShownRequest(BTreeMap<String, String>);

/// A member that is no longer as it was shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShownDifference {
    pub name: String,
    pub shown: Option<String>,
    pub present: Option<String>,
}

impl ShownRequest {
    pub fn of_delegation(one: &View) -> Result<Self, Fault> {
        let agent = one.ephemeral.as_ref();
        Self::of([
            ("delegation", json!(one.id)),
            ("agent", json!(one.delegate)),
            ("for", json!(one.delegator)),
            ("below", json!(one.parent)),
            ("path", json!(one.path)),
            ("scopes", json!(one.scopes)),
            ("targets", json!(one.audiences)),
            ("authorization details", json!(one.authorization_details)),
            ("highest capability", json!(one.capability_ceiling)),
            ("asks each time for", json!(one.ceremony_required_for)),
            ("uses", json!(one.max_uses)),
            ("agents in a row", json!(one.max_depth)),
            ("works while you are away", json!(one.offline_access.then_some("yes"))),
            ("seconds", json!(one.expires_in)),
            ("reason", json!(one.reason)),
            ("what the agent says of itself", json!(one.agent)),
            ("task", json!(agent.map(|agent| &agent.task_id))),
            ("present key", json!(agent.and_then(|agent| agent.jkt.as_ref()))),
            ("new key", json!(agent.and_then(|agent| agent.pending_jkt.as_ref()))),
            ("suspended since", json!(one.suspended_at)),
        ])
    }

    pub fn of_use(one: &CeremonyView) -> Result<Self, Fault> {
        Self::of([
            ("confirmation", json!(one.id)),
            ("delegation", json!(one.delegation_id)),
            ("agent", json!(one.client_id)),
            ("scopes", json!(one.scopes)),
            ("targets", json!(one.audiences)),
            ("authorization details", json!(one.authorization_details)),
            ("capability", json!(one.capability)),
            ("waits until", json!(one.expires_at)),
        ])
    }

    /// The limits of a delegation, with its lifetime in seconds.
    pub(super) fn of_limits(one: &Delegation, seconds: Option<u32>) -> Result<Self, Fault> {
        Self::of([
            ("scopes", json!(one.terms.scopes.to_stored())),
            ("targets", json!(one.terms.audiences.to_stored())),
            ("authorization details", json!(one.terms.details)),
            ("highest capability", json!(one.terms.ceiling)),
            ("asks each time for", json!(one.terms.ceremonies)),
            ("uses", json!(one.facts.max_uses)),
            ("agents in a row", json!(one.terms.max_depth)),
            ("works while you are away", json!(one.terms.offline_access.then_some("yes"))),
            ("seconds", json!(seconds)),
        ])
    }

    fn of<const N: usize>(members: [(&str, Value); N]) -> Result<Self, Fault> {
        let there = members.into_iter().filter(|(_, value)| !value.is_null());
        let texts = there.map(|(name, value)| {
            let whole = match value {
                Value::String(text) => text,
                other => serde_json::to_string(&other).context("writing what is shown")?,
            };
            Ok((name.to_owned(), kept(whole)))
        });
        Ok(Self(texts.collect::<Result<_, Fault>>()?))
    }

    /// Reads what a form brings back; `None` if the text is malformed.
    pub fn parse(text: &str) -> Option<Self> {
        serde_json::from_slice(&base64url::decode(text)?).ok()
    }

    /// In letters that no page and no form has to escape.
    pub fn to_text(&self) -> Result<String, Fault> {
        Ok(base64url::encode(serde_json::to_vec(self).context("writing what is shown")?))
    }

    /// The members that differ, by their names.
    pub fn differences(&self, present: &Self) -> Vec<ShownDifference> {
        let names: BTreeSet<&String> = self.0.keys().chain(present.0.keys()).collect();
        let differing = names.into_iter().filter(|name| self.0.get(*name) != present.0.get(*name));
        let difference = |name: &String| ShownDifference {
            name: name.clone(),
            shown: self.0.get(name).cloned(),
            present: present.0.get(name).cloned(),
        };
        differing.map(difference).collect()
    }
}

/// A text, or its beginning with the digest of all of it.
fn kept(whole: String) -> String {
    if whole.chars().nth(MAX_KEPT).is_none() {
        return whole;
    }
    let beginning: String = whole.chars().take(READABLE).collect();
    format!("{beginning} … (SHA-256 {})", base64url::encode(sha256(&[whole.as_bytes()])))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_names_what_was_shown_and_what_is_there() {
        let shown =
            ShownRequest::of([("uses", json!(5)), ("reason", Value::Null), ("agent", json!("a"))]).unwrap();
        let present =
            ShownRequest::of([("uses", json!(4)), ("reason", json!("b")), ("agent", json!("a"))]).unwrap();
        let read = ShownRequest::parse(&shown.to_text().unwrap()).unwrap();
        assert_eq!(read, shown);
        let found = read.differences(&present);
        let found: Vec<_> =
            found.iter().map(|one| (&*one.name, one.shown.as_deref(), one.present.as_deref())).collect();
        assert_eq!(found, [("reason", None, Some("b")), ("uses", Some("5"), Some("4"))]);
        assert!(shown.differences(&shown).is_empty());
    }

    #[test]
    fn long_values_that_differ_at_their_end_differ() {
        let of = |end: &str| ShownRequest::of([("reason", json!("é".repeat(2_000) + end))]).unwrap();
        assert_ne!(of("a"), of("b"));
        assert!(of("a").to_text().unwrap().len() < 1_000);
    }
}
