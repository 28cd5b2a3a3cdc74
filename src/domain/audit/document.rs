//! The canonical document of an event, the place of its `seq`, and the personal data that is kept beside it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use serde::Serialize;
use serde_json::{Map, Value};
use uuid::Uuid;

use super::action::EventKind;
use super::event::{Actor, ChainLink, Event, PersonalText, RequestOrigin};
use super::outcome::EventOutcome;
use crate::domain::console::SessionReference;
use crate::domain::finding::Finding;
use crate::domain::person::LogNames;
use crate::domain::principal::Principal;
use crate::platform::clock::{Stopwatch, rfc3339};
use crate::platform::fault::{Context as _, Fault};
use actchain_protocol::pseudonym::personal_sha256;
use actchain_protocol::{base64url, canonical_json, random};

impl Event {
    /// Adds the principals that the event names.
    pub fn collect_principals(&self, into: &mut BTreeSet<Principal>) -> Result<(), Fault> {
        if let Actor::User(who) = &self.actor {
            into.insert(who.clone());
        }
        into.extend(self.subject.clone());
        into.extend(self.act_chain.iter().map(|link| link.who.clone()));
        collect_from(&serde_json::to_value(&self.kind).context("writing an event")?, into);
        Ok(())
    }

    /// The canonical document without its `seq`, and the personal data beside it.
    ///
    /// # Errors
    /// A fault if the names lack a principal of the event.
    pub fn unsequenced(&self, names: &LogNames) -> Result<UnsequencedEvent, Fault> {
        let personal = self.personal()?;
        let document = Document {
            id: random::id(self.at)?,
            at: rfc3339(self.at),
            kind: &self.kind,
            outcome: self.outcome(),
            reason: self.reason,
            code: self.kind.action().code(),
            actor: &self.actor,
            subject: self.subject.as_ref(),
            act_chain: &self.act_chain,
            txn: self.txn.as_deref(),
            delegation_id: self.delegation_id.as_deref(),
            delegation_path: &self.delegation_path,
            jti: self.jti.as_deref(),
            parent_jti: self.parent_jti.as_deref(),
            target: self.target.as_deref(),
            scope: self.scope.as_deref(),
            audience: &self.audience,
            session_id: self.session_id.as_deref(),
            findings: &self.findings,
            request_id: self.origin.request_id.as_deref(),
            trace_id: self.origin.trace_id.as_deref(),
            console: self.console,
            personal_sha256: personal.as_deref().map(personal_sha256),
            took_us: self.origin.stopwatch.map(Stopwatch::micros),
        };
        let mut document = serde_json::to_value(document).context("writing an event")?;
        name_principals(&mut document, names)?;
        Ok(UnsequencedEvent { personal, ..UnsequencedEvent::of(document)? })
    }

    /// The personal data of the event as text; `None` if it has none. The salt makes a guess impossible to test.
    fn personal(&self) -> Result<Option<String>, Fault> {
        let RequestOrigin { ip, user_agent, .. } = &self.origin;
        if ip.is_none() && user_agent.is_none() && self.texts.is_empty() {
            return Ok(None);
        }
        let salt = base64url::encode(random::bytes::<16>()?);
        let personal = Personal { ip: *ip, user_agent: user_agent.as_deref(), texts: &self.texts, salt };
        Ok(Some(canonical_json::to_string(&personal)?))
    }
}

/// An object with `iss` and `sub` names a principal.
fn as_principal(value: &Value) -> Option<Principal> {
    let text = |name: &str| value.get(name).and_then(Value::as_str);
    Some(Principal::new(text("iss")?, text("sub")?))
}

fn collect_from(value: &Value, into: &mut BTreeSet<Principal>) {
    into.extend(as_principal(value));
    match value {
        Value::Object(members) => members.values().for_each(|one| collect_from(one, into)),
        Value::Array(list) => list.iter().for_each(|one| collect_from(one, into)),
        _ => {}
    }
}

/// Gives principals their names in the log, wherever they are in a document.
fn name_principals(value: &mut Value, names: &LogNames) -> Result<(), Fault> {
    if let Some(who) = as_principal(value)
        && let Some(sub) = value.get_mut("sub")
    {
        *sub = names.sub_of(&who)?.into();
    }
    match value {
        Value::Object(members) => members.values_mut().try_for_each(|one| name_principals(one, names)),
        Value::Array(list) => list.iter_mut().try_for_each(|one| name_principals(one, names)),
        _ => Ok(()),
    }
}

#[derive(Serialize)]
struct Personal<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    ip: Option<IpAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user_agent: Option<&'a str>,
    #[serde(flatten)]
    texts: &'a BTreeMap<PersonalText, Value>,
    salt: String,
}

#[derive(Serialize)]
struct Document<'a> {
    id: Uuid,
    at: String,
    /// `action` and `detail`.
    #[serde(flatten)]
    kind: &'a EventKind,
    outcome: EventOutcome,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<&'a str>,
    actor: &'a Actor,
    #[serde(skip_serializing_if = "Option::is_none")]
    subject: Option<&'a Principal>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    act_chain: &'a [ChainLink],
    #[serde(skip_serializing_if = "Option::is_none")]
    txn: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    delegation_id: Option<&'a str>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    delegation_path: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    jti: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    parent_jti: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    target: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    scope: Option<&'a str>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    audience: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    session_id: Option<&'a str>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    findings: &'a [Finding],
    #[serde(skip_serializing_if = "Option::is_none")]
    request_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    trace_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    console: Option<SessionReference>,
    #[serde(skip_serializing_if = "Option::is_none")]
    personal_sha256: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    took_us: Option<u64>,
}

/// A canonical document without the value of `seq`, which is only known under the lock of the head.
#[derive(Debug, Clone)]
pub struct UnsequencedEvent {
    before: String,
    after: String,
    personal: Option<String>,
}

const SEQ: &str = "seq";

impl UnsequencedEvent {
    /// Canonical JSON sorts the members by name: those before `seq` and those after it are written as an object each.
    fn of(document: Value) -> Result<Self, Fault> {
        let Value::Object(members) = document else {
            return Err(Fault::new("an event that is no object"));
        };
        let (before, after): (Map<_, _>, Map<_, _>) =
            members.into_iter().partition(|(name, _)| name.as_str() < SEQ);
        Ok(Self { before: inner(&before)?, after: inner(&after)?, personal: None })
    }

    pub fn with_seq(&self, seq: u64) -> String {
        let seq = format!("\"{SEQ}\":{seq}");
        let parts = [self.before.as_str(), &seq, &self.after].into_iter().filter(|part| !part.is_empty());
        format!("{{{}}}", parts.collect::<Vec<_>>().join(","))
    }

    /// The text of the personal data, whose digest the document has.
    pub fn personal(&self) -> Option<&str> {
        self.personal.as_deref()
    }
}

/// The members of an object as canonical JSON, without the braces.
fn inner(members: &Map<String, Value>) -> Result<String, Fault> {
    let text = canonical_json::to_string(members)?;
    let inner = text.strip_prefix('{').and_then(|text| text.strip_suffix('}'));
    Ok(inner.unwrap_or_default().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::platform::clock::from_seconds;
    use proptest::prelude::*;
    use serde_json::json;

    #[test]
    fn an_event_is_a_canonical_document_with_any_seq() {
        let at = from_seconds(1_700_000_000).unwrap();
        let mut event = Event::new(at, EventKind::ClientEnabled, Actor::Operator);
        event.target = Some("a,\"seq\":0,b".to_owned());
        let text = event.unsequenced(&LogNames::default()).unwrap().with_seq(4_294_967_296);
        let value: Value = serde_json::from_str(&text).unwrap();
        assert_eq!((&value["seq"], &value["action"]), (&json!(4_294_967_296_u64), &json!("client.enabled")));
        assert_eq!(value["at"], "2023-11-14T22:13:20.000000Z");
        assert_eq!(canonical_json::to_string(&value).unwrap(), text);
    }

    proptest! {
        #[test]
        fn members_of_any_name_and_value_leave_the_place_of_seq(
            names in proptest::collection::btree_set("[a-z_]{1,4}|se|ser|seqa|sep", 0..6),
            text in ".*",
        ) {
            let nested = json!({"seq": 0, "text": text, "z": [",\"seq\":0,"]});
            let members: Map<String, Value> =
                names.into_iter().filter(|name| name != SEQ).map(|name| (name, nested.clone())).collect();
            let text = UnsequencedEvent::of(members.clone().into()).unwrap().with_seq(7);
            let mut expected = members;
            expected.insert(SEQ.to_owned(), json!(7));
            prop_assert_eq!(text, canonical_json::to_string(&expected).unwrap());
        }
    }
}
