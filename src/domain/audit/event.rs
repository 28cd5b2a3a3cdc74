//! What an audit event says.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use time::OffsetDateTime;
use uuid::Uuid;

use super::action::{Action, EventKind};
use super::outcome::EventOutcome;
use crate::domain::console::SessionReference;
use crate::domain::delegation::{Delegation, DelegationPath};
use crate::domain::finding::Finding;
use crate::domain::principal::Principal;
use crate::domain::refusal::Refusal;
use crate::platform::clock::Stopwatch;
use crate::platform::fault::Fault;

/// Who caused an event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Actor {
    /// A client of this server.
    Client {
        client_id: String,
        /// Thumbprint of the proved DPoP key.
        #[serde(skip_serializing_if = "Option::is_none")]
        jkt: Option<String>,
    },
    /// A user at the management API.
    User(Principal),
    /// A person with shell access to the machine.
    Operator,
    /// This server, by itself.
    Server,
    /// A witness of the log.
    Witness { name: String },
}

impl fmt::Display for Actor {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Client { client_id, .. } => formatter.write_str(client_id),
            Self::User(Principal { iss, sub }) => write!(formatter, "{sub} ({iss})"),
            Self::Operator => formatter.write_str("an operator"),
            Self::Server => formatter.write_str("the server"),
            Self::Witness { name } => write!(formatter, "the witness {name}"),
        }
    }
}

impl Actor {
    /// The actor of a recorded event.
    pub fn of(event: &Value) -> Option<Self> {
        Self::deserialize(event.get("actor")?).ok()
    }

    /// A client with the thumbprint of its proved key.
    pub fn client(client_id: impl Into<String>, jkt: Option<String>) -> Self {
        Self::Client { client_id: client_id.into(), jkt }
    }
}

#[derive(Debug, Clone, Serialize)]
pub struct ChainLink {
    #[serde(flatten)]
    pub who: Principal,
    /// Thumbprint of the key that the actor used.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jkt: Option<String>,
}

/// Free text in the personal data of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PersonalText {
    /// Name of the client that acts.
    ClientName,
    /// The reason that a person or an agent gave.
    Reason,
    /// What an agent said about itself in a request for a delegation.
    Agent,
    /// The task of an ephemeral agent, as the agent or its owner named it.
    TaskId,
    /// The path of a proxied request, with placeholders for ids.
    Path,
    /// What an agent gave to a tool.
    Input,
    /// What the tool answered.
    Output,
    /// Why the agent used the tool, in its words.
    Reasoning,
    /// Digest of an input that the agent did not send.
    InputSha256,
    /// Digest of an output that the agent did not send.
    OutputSha256,
    /// Digest of a reasoning that the agent did not send.
    ReasoningSha256,
}

#[derive(Debug, Clone, Default)]
pub struct RequestOrigin {
    /// The `X-Request-Id` of the response.
    pub request_id: Option<String>,
    /// The trace of which the request is a part (W3C Trace Context), if a trusted proxy named one.
    pub trace_id: Option<String>,
    /// IP address of the client: of the peer, or behind trusted proxies the one that they name.
    pub ip: Option<IpAddr>,
    /// The `User-Agent`, cut to 256 bytes.
    pub user_agent: Option<String>,
    /// Started when the request arrived.
    pub stopwatch: Option<Stopwatch>,
}

/// An event without a `seq`. Never contains tokens, secrets or key material.
#[derive(Debug, Clone)]
pub struct Event {
    pub at: OffsetDateTime,
    pub kind: EventKind,
    /// Why it was refused; of an expiry, why it expired.
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
    /// The session: `sid` in tokens.
    pub session_id: Option<String>,
    /// The standing grant that the event is about.
    pub standing_grant_id: Option<String>,
    /// The rules that matched.
    pub findings: Vec<Finding>,
    pub origin: RequestOrigin,
    /// The console session in which the actor did it.
    pub console: Option<SessionReference>,
    /// Free text of people and agents. It is kept beside the document, with the address and the user agent.
    pub texts: BTreeMap<PersonalText, Value>,
}

impl Event {
    /// An event with only the required members.
    pub fn new(at: OffsetDateTime, kind: EventKind, actor: Actor) -> Self {
        Self {
            at,
            kind,
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
            standing_grant_id: None,
            findings: Vec::new(),
            origin: RequestOrigin::default(),
            console: None,
            texts: BTreeMap::new(),
        }
    }

    /// An event about the last delegation of a path. Its chain consists of the delegates of the path, which
    /// are all clients of this server.
    pub fn of_delegation(
        at: OffsetDateTime,
        kind: EventKind,
        actor: Actor,
        path: &DelegationPath,
        own_issuer: &str,
    ) -> Self {
        let link = |one: &Delegation| ChainLink { who: Principal::new(own_issuer, &one.delegate), jkt: None };
        Self {
            subject: path.leaf().map(|one| one.root.clone()),
            act_chain: path.0.iter().map(link).collect(),
            delegation_id: path.leaf().map(|one| one.id.clone()),
            delegation_path: path.ids(),
            standing_grant_id: path.standing_grant_id(),
            ..Self::new(at, kind, actor)
        }
    }

    /// The event with more findings.
    pub fn with_findings(mut self, more: Vec<Finding>) -> Self {
        self.findings.extend(more);
        self
    }

    /// The event of an exchange, with the id of the refresh token in its answer.
    pub fn with_refresh_token(mut self, id: Uuid) -> Self {
        if let EventKind::TokenExchanged { refresh_token, .. } = &mut self.kind {
            *refresh_token = Some(id);
        }
        self
    }

    /// Adds free text that is kept beside the document.
    pub fn add_text(&mut self, name: PersonalText, text: Option<impl Into<Value>>) {
        self.texts.extend(text.map(|text| (name, text.into())));
    }

    pub fn outcome(&self) -> EventOutcome {
        self.kind.action().outcome()
    }

    /// The event of a refusal.
    pub fn refusal(at: OffsetDateTime, kind: EventKind, actor: Actor, refusal: Refusal) -> Self {
        Self { reason: Some(refusal.reason()), ..Self::new(at, kind, actor) }
    }

    /// What is recorded instead where a guard of the ledger refuses.
    ///
    /// # Errors
    /// A fault for events that the ledger cannot refuse.
    pub fn refused(self, refusal: Refusal) -> Result<Self, Fault> {
        let kind = self.kind.refused(refusal)?;
        Ok(Self { kind, reason: Some(refusal.reason()), jti: None, ..self })
    }
}

impl Action {
    /// The action of a recorded event; `None` if this version does not know it.
    pub fn of(event: &Value) -> Option<Self> {
        event.get("action")?.as_str()?.parse().ok()
    }

    /// Whether a client got a token to act for another: by a subject token, or by a refresh token.
    pub fn is_exchange(self) -> bool {
        matches!(self, Self::TokenExchanged | Self::TokenRefreshed)
    }
}

impl EventKind {
    /// Action and details of a recorded event; `None` if this version does not know them.
    pub fn of(event: &Value) -> Option<Self> {
        Self::deserialize(event).ok()
    }
}
