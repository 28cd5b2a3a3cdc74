//! The audit log: immutable canonical documents in one Merkle tree, with a gapless `seq`.

mod action;
pub mod chain;
pub mod chain_events;
pub mod copy_reader;
pub mod evidence;
pub mod field;
pub mod filter;
pub mod findings;
pub mod inclusion_batch;
pub mod index;
pub mod log_watcher;
pub mod partitions;
pub mod search;
pub mod store;
pub mod tree;
pub mod verify;
pub mod witness;

use std::net::IpAddr;

use serde::Serialize;
use serde_json::{Value, json};
use time::OffsetDateTime;
use uuid::Uuid;

pub use self::action::Action;
use super::delegation::{Delegation, DelegationPath};
use super::principal::Principal;
use super::refusal::Refusal;
use crate::platform::clock::rfc3339;
use crate::platform::fault::Fault;
use actchain_protocol::canonical_json;
use actchain_protocol::random;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    Success,
    /// `reason` has the reason.
    Refused,
}

#[derive(Debug, Clone, Serialize)]
pub struct Actor {
    /// The client id. `operator` is a person with shell access to the machine, `user` a user in person,
    /// `server` an automatic action of this server.
    pub client_id: String,
    /// Set only for a user in person.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub user: Option<Principal>,
    /// Thumbprint of the proved DPoP key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jkt: Option<String>,
}

impl Actor {
    /// The actor of automatic actions.
    pub fn server() -> Self {
        Self::client("server", None)
    }

    /// A client with the thumbprint of its proved key.
    pub fn client(client_id: impl Into<String>, jkt: Option<String>) -> Self {
        Self { client_id: client_id.into(), user: None, jkt }
    }

    pub fn user(who: Principal) -> Self {
        Self { client_id: "user".into(), user: Some(who), jkt: None }
    }

    /// A person with shell access to the machine.
    pub fn operator() -> Self {
        Self { client_id: "operator".into(), user: None, jkt: None }
    }
}

#[derive(Debug, Clone, Serialize)]
pub struct ChainLink {
    pub sub: String,
    pub iss: String,
    /// Client name, if known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// Thumbprint of the key that the actor used.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jkt: Option<String>,
}

#[derive(Debug, Clone, Default)]
pub struct Origin {
    /// The `X-Request-Id` of the response.
    pub request_id: Option<String>,
    /// IP address of the peer.
    pub ip: Option<IpAddr>,
    /// The `User-Agent`, cut to 256 bytes.
    pub user_agent: Option<String>,
}

/// An event without a `seq`. Never contains tokens, secrets or key material.
#[derive(Debug, Clone)]
pub struct Event {
    pub at: OffsetDateTime,
    pub action: Action,
    pub outcome: Outcome,
    pub reason: Option<&'static str>,
    pub actor: Actor,
    pub subject: Option<Principal>,
    /// The chain of actors, root first.
    pub act_chain: Vec<ChainLink>,
    pub txn: Option<String>,
    pub delegation_id: Option<String>,
    /// Ids of the delegation and its ancestors, root first.
    pub delegation_path: Vec<String>,
    /// `jti` of the issued token.
    pub jti: Option<String>,
    /// `jti` of the subject token.
    pub parent_jti: Option<String>,
    /// The object of an administrative event.
    pub target: Option<String>,
    pub scope: Option<String>,
    pub audience: Vec<String>,
    /// Session id of the subject.
    pub session_id: Option<String>,
    pub origin: Origin,
    /// Additional members; they depend on the action.
    pub detail: Option<Value>,
}

impl Event {
    /// An event with only the required members.
    pub fn new(at: OffsetDateTime, action: Action, actor: Actor) -> Self {
        Self {
            at,
            action,
            outcome: Outcome::Success,
            reason: None,
            actor,
            subject: None,
            act_chain: Vec::new(),
            txn: None,
            delegation_id: None,
            delegation_path: Vec::new(),
            jti: None,
            parent_jti: None,
            target: None,
            scope: None,
            audience: Vec::new(),
            session_id: None,
            origin: Origin::default(),
            detail: None,
        }
    }

    /// An event about the last delegation of a path. Its chain consists of the delegates of the path, which
    /// are all clients of this server.
    pub fn of_delegation(
        at: OffsetDateTime,
        action: Action,
        actor: Actor,
        path: &DelegationPath,
        own_issuer: &str,
    ) -> Self {
        let link = |one: &Delegation| ChainLink {
            sub: one.delegate.clone(),
            iss: own_issuer.to_owned(),
            label: None,
            jkt: None,
        };
        Self {
            subject: path.leaf().map(|one| one.root.clone()),
            act_chain: path.0.iter().map(link).collect(),
            delegation_id: path.leaf().map(|one| one.id.clone()),
            delegation_path: path.ids(),
            ..Self::new(at, action, actor)
        }
    }

    pub fn of_operator(at: OffsetDateTime, action: Action, target: impl Into<String>) -> Self {
        let actor = Actor::operator();
        Self { target: Some(target.into()), ..Self::new(at, action, actor) }
    }

    /// The same event with the outcome refused.
    pub fn refused(self, refusal: Refusal) -> Self {
        let action = match self.action {
            Action::TokenIssued | Action::TokenExchanged | Action::TokenRevoked => Action::TokenRefused,
            Action::TokenRefused => Action::TokenRefused,
            Action::VaultTokenRetrieved | Action::VaultProxyCalled => Action::VaultTokenRefused,
            Action::ConnectionRefused | Action::ConnectionAuthorized => Action::ConnectionRefused,
            _ => Action::DelegationRefused,
        };
        let detail = match (refusal.cause(), self.detail) {
            (None, detail) => detail,
            (Some(cause), Some(Value::Object(mut members))) => {
                members.insert("cause".to_owned(), cause.into());
                Some(Value::Object(members))
            }
            (Some(cause), _) => Some(json!({"cause": cause})),
        };
        Self { action, outcome: Outcome::Refused, reason: Some(refusal.reason()), jti: None, detail, ..self }
    }

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
    outcome: Outcome,
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
    use super::*;
    use crate::platform::clock::from_seconds;
    use serde_json::json;

    #[test]
    fn a_draft_becomes_a_canonical_document_wherever_it_lands() {
        let at = from_seconds(1_700_000_000).unwrap();
        let mut event = Event::of_operator(at, Action::ClientChanged, "a,\"seq\":0,b");
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
