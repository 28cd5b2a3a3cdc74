//! The canonical document of an event, the place of its `seq`, and the personal data that is kept beside it.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::action::EventKind;
use super::event::{Actor, ChainLink, Event, PersonalText, RequestOrigin};
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
        match &self.kind {
            // The most frequent events, whose details name no principal. If one of them did, its name would not be
            // read, and the event would be refused.
            EventKind::TokenExchanged { .. }
            | EventKind::TokenRefreshed(_)
            | EventKind::TokenRefused { .. } => {}
            other => collect_from(&serde_json::to_value(other).context("writing an event")?, into),
        }
        Ok(())
    }

    /// The canonical document without its `seq`, and the personal data beside it.
    ///
    /// # Errors
    /// A fault if the names lack a principal of the event.
    pub fn unsequenced(&self, names: &LogNames) -> Result<UnsequencedEvent, Fault> {
        let personal = self.personal()?;
        let kind = KindMembers::of(&self.kind, names)?;
        let (actor, subject) = (self.actor.named(names)?, self.subject.as_ref());
        let subject = subject.map(|who| NamedPrincipal::of(who, names)).transpose()?;
        let chain = self.act_chain.iter().map(|link| NamedLink::of(link, names));
        let chain = chain.collect::<Result<Vec<_>, _>>()?;
        // Canonical JSON sorts the members by name.
        let mut before = Members::default();
        before.put_list("act_chain", &chain)?;
        before.put("action", &kind.action)?;
        before.put("actor", &actor)?;
        before.put("at", &rfc3339(self.at))?;
        before.put_list("audience", &self.audience)?;
        before.put_some("code", self.kind.action().code())?;
        before.put_some("console", self.console)?;
        before.put_some("delegation_id", self.delegation_id.as_deref())?;
        before.put_list("delegation_path", &self.delegation_path)?;
        before.put_some("detail", kind.detail)?;
        before.put_list("findings", &self.findings)?;
        before.put("id", &random::id(self.at)?)?;
        before.put_some("jti", self.jti.as_deref())?;
        before.put("outcome", &self.outcome())?;
        before.put_some("parent_jti", self.parent_jti.as_deref())?;
        before.put_some("personal_sha256", personal.as_deref().map(personal_sha256))?;
        before.put_some("reason", self.reason)?;
        before.put_some("request_id", self.origin.request_id.as_deref())?;
        before.put_some("scope", self.scope.as_deref())?;
        let mut after = Members::default();
        after.put_some("session_id", self.session_id.as_deref())?;
        after.put_some("standing_grant_id", self.standing_grant_id.as_deref())?;
        after.put_some("subject", subject)?;
        after.put_some("target", self.target.as_deref())?;
        after.put_some("took_us", self.origin.stopwatch.map(Stopwatch::micros))?;
        after.put_some("trace_id", self.origin.trace_id.as_deref())?;
        after.put_some("txn", self.txn.as_deref())?;
        Ok(UnsequencedEvent { before: before.0, after: after.0, personal })
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

/// Action and detail of an event, with the names that principals have in the log.
#[derive(Deserialize)]
struct KindMembers {
    action: String,
    detail: Option<Value>,
}

impl KindMembers {
    fn of(kind: &EventKind, names: &LogNames) -> Result<Self, Fault> {
        let kind = serde_json::to_value(kind).context("writing an event")?;
        let mut members: Self = serde_json::from_value(kind).context("writing an event")?;
        members.detail.iter_mut().try_for_each(|detail| name_principals(detail, names))?;
        Ok(members)
    }
}

impl Actor {
    /// The actor by its name in the log.
    fn named(&self, names: &LogNames) -> Result<Cow<'_, Self>, Fault> {
        Ok(match self {
            Self::User(who) => {
                let sub = names.sub_of(who)?;
                Cow::Owned(Self::User(Principal::new(&who.iss, sub)))
            }
            Self::Client { .. } | Self::Operator | Self::Server | Self::Witness { .. } => Cow::Borrowed(self),
        })
    }
}

/// A principal by its name in the log.
#[derive(Serialize)]
struct NamedPrincipal<'a> {
    iss: &'a str,
    sub: &'a str,
}

impl<'a> NamedPrincipal<'a> {
    fn of(who: &'a Principal, names: &'a LogNames) -> Result<Self, Fault> {
        Ok(Self { iss: &who.iss, sub: names.sub_of(who)? })
    }
}

#[derive(Serialize)]
struct NamedLink<'a> {
    #[serde(flatten)]
    who: NamedPrincipal<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    jkt: Option<&'a str>,
}

impl<'a> NamedLink<'a> {
    fn of(link: &'a ChainLink, names: &'a LogNames) -> Result<Self, Fault> {
        Ok(Self { who: NamedPrincipal::of(&link.who, names)?, jkt: link.jkt.as_deref() })
    }
}

/// Members of an object as canonical JSON, without the braces. The caller writes them in the order of their names.
#[derive(Debug, Default)]
struct Members(String);

impl Members {
    fn put<T: Serialize + ?Sized>(&mut self, name: &str, value: &T) -> Result<(), Fault> {
        if !self.0.is_empty() {
            self.0.push(',');
        }
        self.0.push('"');
        self.0.push_str(name);
        self.0.push_str("\":");
        self.0.push_str(&canonical_json::to_string(&value)?);
        Ok(())
    }

    fn put_some<T: Serialize>(&mut self, name: &str, value: Option<T>) -> Result<(), Fault> {
        value.map_or(Ok(()), |value| self.put(name, &value))
    }

    fn put_list<T: Serialize>(&mut self, name: &str, list: &[T]) -> Result<(), Fault> {
        if list.is_empty() { Ok(()) } else { self.put(name, list) }
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::platform::clock::from_seconds;
    use serde_json::json;

    #[test]
    fn an_event_is_a_canonical_document_with_any_seq() {
        let at = from_seconds(1_700_000_000).unwrap();
        let session = Some("a,\"seq\":0,b".to_owned());
        let all = |text: &str| Some(text.to_owned());
        let who = Principal::new("https://as.example.com", "c");
        let finding = json!({"rule": "R-1", "severity": "low", "action": "flag", "target": "event"});
        let console = json!({"session": "018f0000-0000-7000-8000-000000000000", "role": "admin"});
        let kind = EventKind::ClientDisabled;
        // Every member that an event can have.
        let event = Event {
            subject: Some(who.clone()),
            act_chain: vec![ChainLink { who: who.clone(), jkt: all("k") }, ChainLink { who, jkt: None }],
            findings: vec![serde_json::from_value(finding).unwrap()],
            console: Some(serde_json::from_value(console).unwrap()),
            origin: RequestOrigin {
                request_id: all("r"),
                trace_id: all("t"),
                ip: Some([127, 0, 0, 1].into()),
                user_agent: all("u"),
                stopwatch: Some(Stopwatch::start()),
            },
            reason: Some("reason"),
            txn: all("t"),
            delegation_id: all("d"),
            delegation_path: vec!["d".to_owned()],
            jti: all("j"),
            parent_jti: all("p"),
            target: all("\u{1}\n\"é"),
            scope: all("s"),
            audience: vec!["a".to_owned()],
            session_id: session,
            standing_grant_id: all("g"),
            ..Event::new(at, kind, Actor::client("c", all("k")))
        };
        let text = event
            .unsequenced(&LogNames::of_issuer("https://as.example.com"))
            .unwrap()
            .with_seq(4_294_967_296);
        let value: Value = serde_json::from_str(&text).unwrap();
        assert_eq!((&value["seq"], &value["action"]), (&json!(4_294_967_296_u64), &json!("client.disabled")));
        assert_eq!(value["at"], "2023-11-14T22:13:20.000000Z");
        assert_eq!(canonical_json::to_string(&value).unwrap(), text);
        assert_eq!(value.as_object().unwrap().len(), 25, "all but code and detail: {text}");
    }
}
