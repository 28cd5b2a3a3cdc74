//! The canonical document of an event, and the place of its `seq`.

use std::net::IpAddr;

use serde::Serialize;
use serde_json::Value;
use uuid::Uuid;

use super::event::{Actor, ChainLink, Event, EventOutcome};
use crate::domain::principal::Principal;
use crate::platform::clock::rfc3339;
use crate::platform::fault::Fault;
use actchain_protocol::canonical_json;
use actchain_protocol::random;

impl Event {
    /// The canonical document without its `seq`.
    pub fn unsequenced(&self) -> Result<UnsequencedEvent, Fault> {
        let document = Document {
            seq: 0,
            id: random::id(self.at)?,
            at: rfc3339(self.at),
            action: self.action.name(),
            outcome: self.outcome,
            reason: self.reason,
            code: self.action.code(),
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
            request_id: self.origin.request_id.as_deref(),
            ip: self.origin.ip,
            user_agent: self.origin.user_agent.as_deref(),
            detail: self.detail.as_ref(),
        };
        UnsequencedEvent::split(&canonical_json::to_string(&document)?)
    }
}

#[derive(Serialize)]
struct Document<'a> {
    seq: u64,
    id: Uuid,
    at: String,
    action: &'a str,
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
    #[serde(skip_serializing_if = "Option::is_none")]
    request_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ip: Option<IpAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user_agent: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<&'a Value>,
}

/// A canonical document split at the value of `seq`, which is only known under the lock of the head.
#[derive(Debug, Clone)]
pub struct UnsequencedEvent {
    before: String,
    after: String,
}

/// The last occurrence is the top-level member: quotes inside strings are escaped, and no member that sorts
/// after `seq` contains an object with a member `seq`.
const SEQ_MEMBER: &str = ",\"seq\":0,";

impl UnsequencedEvent {
    fn split(document: &str) -> Result<Self, Fault> {
        let missing = || Fault::new("an event without a place for its seq");
        // If no member sorts after `seq`, `seq` is the last member.
        if let Some(before) = document.strip_suffix(",\"seq\":0}") {
            return Ok(Self { before: format!("{before},\"seq\":"), after: "}".to_owned() });
        }
        let (before, after) = document.rsplit_once(SEQ_MEMBER).ok_or_else(missing)?;
        Ok(Self { before: format!("{before},\"seq\":"), after: format!(",{after}") })
    }

    pub fn with_seq(&self, seq: u64) -> String {
        format!("{}{seq}{}", self.before, self.after)
    }
}

#[cfg(test)]
mod tests {
    use super::super::action::Action;
    use super::*;
    use crate::platform::clock::from_seconds;
    use serde_json::json;

    #[test]
    fn a_draft_becomes_a_canonical_document_wherever_it_lands() {
        let at = from_seconds(1_700_000_000).unwrap();
        let mut event = Event::new(at, Action::ClientChanged, Actor::Operator);
        event.target = Some("a,\"seq\":0,b".to_owned());
        event.detail = Some(json!({"a": 1, "seq": 0, "z": 1}));
        for event in [event.clone(), Event { target: None, ..event }] {
            let text = event.unsequenced().unwrap().with_seq(4_294_967_296);
            let value: Value = serde_json::from_str(&text).unwrap();
            assert_eq!(value["seq"], json!(4_294_967_296_u64));
            assert_eq!(value["detail"]["seq"], json!(0));
            assert_eq!(value["at"], "2023-11-14T22:13:20.000000Z");
            assert_eq!(canonical_json::to_string(&value).unwrap(), text);
        }
    }
}
