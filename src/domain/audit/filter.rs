//! Filter of audit events. Absent members do not restrict. The index can return false positives; the document
//! decides.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::action::Action;
use super::field::{Field, term};
use super::personal::ip_of;
use crate::domain::name::is_made_here;
use crate::domain::principal::Principal;
use crate::domain::refusal::{Refusal, catalogue};
use crate::platform::clock;
use crate::platform::clock::rfc3339;
use actchain_protocol::base64url;
use actchain_protocol::digest::{prefix, sha256};
use actchain_protocol::pseudonym::is_pseudonym;

/// Maximum length of a filter value, in bytes; no name in the log is longer.
const MAX_VALUE_BYTES: usize = 1_024;

/// All set members must match.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    pub id: Option<String>,
    /// Stable name of the action.
    pub action: Option<String>,
    /// `success` or `refused`.
    pub outcome: Option<String>,
    pub reason: Option<String>,
    /// The client that made the request.
    pub client: Option<String>,
    pub subject_iss: Option<String>,
    pub subject_sub: Option<String>,
    /// The client or user that made the request, or any actor in the chain.
    pub actor: Option<String>,
    /// `client`, `user`, `operator`, `server` or `witness`.
    pub actor_type: Option<String>,
    /// This delegation or any descendant.
    pub delegation: Option<String>,
    pub txn: Option<String>,
    /// The issued token or the subject token.
    pub jti: Option<String>,
    /// The object of an administrative event.
    pub target: Option<String>,
    /// A connection of the vault: the target of a vault's event.
    pub connection: Option<String>,
    /// Session id of the subject.
    pub session: Option<String>,
    /// The standing grant that the event is about.
    pub standing_grant: Option<String>,
    /// The `X-Request-Id` of the response.
    pub request_id: Option<String>,
    /// The id of a rule that matched.
    pub rule: Option<String>,
    /// `true`: any finding.
    pub has_findings: Option<String>,
    /// IP address of the peer.
    pub ip: Option<String>,
    /// Start of the period, inclusive.
    pub from: Option<OffsetDateTime>,
    /// End of the period, exclusive.
    pub to: Option<OffsetDateTime>,
    /// Names of `subject_sub` in the log, of which one must match; empty until they are resolved.
    pub subject_names: Vec<String>,
    /// Names of `actor` in the log.
    pub actor_names: Vec<String>,
}

/// The names that stand for a value in the log; the value itself until they are resolved.
fn names<'a>(value: Option<&'a String>, resolved: &'a [String]) -> &'a [String] {
    match value {
        None => &[],
        Some(_) if !resolved.is_empty() => resolved,
        Some(value) => std::slice::from_ref(value),
    }
}

impl Filter {
    /// Sets one parameter; returns `false` if the filter has no such parameter.
    ///
    /// # Errors
    /// [`Refusal::Malformed`] for a value that cannot occur in the log.
    pub fn set(&mut self, name: &str, value: &str) -> Result<bool, Refusal> {
        if matches!(name, "from" | "to") {
            let at = clock::instant(value)
                .ok_or(Refusal::Malformed("from and to are RFC 3339, or dates such as 2026-01-31"))?;
            *(if name == "from" { &mut self.from } else { &mut self.to }) = Some(at);
            return Ok(true);
        }
        let Some((_, place)) = self.texts_mut().into_iter().find(|(known, _)| *known == name) else {
            return Ok(false);
        };
        if value.is_empty() || value.len() > MAX_VALUE_BYTES || value.chars().any(char::is_control) {
            return Err(Refusal::Malformed("A filter value is empty, too long, or has control characters"));
        }
        if name == "has_findings" && value != "true" {
            return Err(Refusal::Malformed("has_findings is true, or absent"));
        }
        if name == "outcome" && !matches!(value, "success" | "refused") {
            return Err(Refusal::Malformed("outcome is success or refused"));
        }
        *place = Some(value.to_owned());
        Ok(true)
    }

    fn texts_mut(&mut self) -> [(&'static str, &mut Option<String>); 20] {
        [
            ("id", &mut self.id),
            ("action", &mut self.action),
            ("outcome", &mut self.outcome),
            ("reason", &mut self.reason),
            ("client_id", &mut self.client),
            ("subject_iss", &mut self.subject_iss),
            ("subject_sub", &mut self.subject_sub),
            ("actor", &mut self.actor),
            ("actor_type", &mut self.actor_type),
            ("delegation_id", &mut self.delegation),
            ("txn", &mut self.txn),
            ("jti", &mut self.jti),
            ("target", &mut self.target),
            ("connection", &mut self.connection),
            ("session_id", &mut self.session),
            ("standing_grant_id", &mut self.standing_grant),
            ("request_id", &mut self.request_id),
            ("rule", &mut self.rule),
            ("has_findings", &mut self.has_findings),
            ("ip", &mut self.ip),
        ]
    }

    /// Names and values of the set members.
    pub fn parameters(&self) -> Vec<(&'static str, String)> {
        let mut copy = self.clone();
        let texts = copy.texts_mut().map(|(name, value)| (name, value.take()));
        let times = [("from", self.from.map(rfc3339)), ("to", self.to.map(rfc3339))];
        texts.into_iter().chain(times).filter_map(|(name, value)| Some((name, value?))).collect()
    }

    /// Whether the filter has users by name.
    pub fn names_persons(&self) -> bool {
        self.subject_sub.is_some() || self.actor.is_some()
    }

    /// The set members as they may be kept for ever: persons by their names in the log, times, words of this server, and
    /// ids that it makes. Any other value may have been typed by mistake, and is null.
    pub fn recorded(&self) -> BTreeMap<String, Option<String>> {
        let keep = |(name, value): (&'static str, String)| {
            let of_person = |names: &[String]| (!names.is_empty()).then(|| names.join(" "));
            let is_harmless = match name {
                "subject_sub" => return (name.to_owned(), of_person(&self.subject_names)),
                "actor" => return (name.to_owned(), of_person(&self.actor_names)),
                "from" | "to" | "outcome" | "has_findings" => true,
                "action" => Action::ALL.iter().any(|one| one.name() == value),
                "reason" => catalogue::find(&value).is_some(),
                _ => is_made_here(&value),
            };
            (name.to_owned(), is_harmless.then_some(value))
        };
        self.parameters().into_iter().map(keep).collect()
    }

    /// Refuses contradictory members.
    pub fn check(&self) -> Result<(), Refusal> {
        match (self.from, self.to) {
            (Some(from), Some(to)) if from >= to => Err(Refusal::Malformed("from is not before to")),
            _ => Ok(()),
        }
    }

    /// Restricts the filter to one subject. Returns `None` if the filter names another subject.
    pub fn about(mut self, who: &Principal) -> Option<Self> {
        let other = |requested: &Option<String>, own: &str| {
            requested.as_ref().is_some_and(|requested| requested != own)
        };
        // A user whose own name is a pseudonym would be shown the events of another.
        let borrowed = is_pseudonym(&who.sub);
        if borrowed || other(&self.subject_iss, &who.iss) || other(&self.subject_sub, &who.sub) {
            return None;
        }
        (self.subject_iss, self.subject_sub) = (Some(who.iss.clone()), Some(who.sub.clone()));
        Some(self)
    }

    /// Hash of the filter and its use; a cursor is only valid with the same fingerprint. The beginning of the period is left
    /// out: that of a window before now moves on between two pages, and no place in the log depends on it.
    pub fn fingerprint(&self, used: &str) -> String {
        let lasting = Self { from: None, ..self.clone() };
        let parameters = format!("{used} {:?}", lasting.parameters());
        let digest = sha256(&[parameters.as_bytes()]);
        base64url::encode(prefix::<9>(&digest))
    }

    /// Index terms that every matching event has, most selective field first.
    pub fn terms(&self) -> Vec<i64> {
        let target = self.target.as_ref().or(self.connection.as_ref());
        // Events have one of several names: the index finds events that have all terms.
        let only = |value, resolved| match names(value, resolved) {
            [one] => Some(one),
            _ => None,
        };
        let fields = [
            (Field::Id, self.id.as_ref()),
            (Field::Request, self.request_id.as_ref()),
            (Field::Token, self.jti.as_ref()),
            (Field::Chain, self.txn.as_ref()),
            (Field::Session, self.session.as_ref()),
            (Field::StandingGrant, self.standing_grant.as_ref()),
            (Field::Rule, self.rule.as_ref()),
            (Field::Target, target),
            (Field::Delegation, self.delegation.as_ref()),
            (Field::Subject, only(self.subject_sub.as_ref(), &self.subject_names)),
            (Field::Actor, only(self.actor.as_ref(), &self.actor_names)),
            (Field::Client, self.client.as_ref()),
            (Field::ActorType, self.actor_type.as_ref()),
            (Field::Reason, self.reason.as_ref()),
            (Field::Action, self.action.as_ref()),
            (Field::Flagged, self.has_findings.as_ref()),
            (Field::Outcome, self.outcome.as_ref()),
        ];
        fields.into_iter().filter_map(|(field, value)| Some(term(field, value?))).collect()
    }

    /// Whether the document may match, checked without building its tree: every filter value must occur in the text.
    /// Skips values with characters that JSON escapes.
    pub fn may_match(&self, document: &str) -> bool {
        let texts = [
            &self.id,
            &self.action,
            &self.outcome,
            &self.reason,
            &self.client,
            &self.subject_iss,
            &self.actor_type,
            &self.delegation,
            &self.txn,
            &self.jti,
            &self.target,
            &self.connection,
            &self.session,
            &self.standing_grant,
            &self.request_id,
            &self.rule,
        ];
        let occurs = |text: &String| {
            text.contains(['"', '\\']) || memchr::memmem::find(document.as_bytes(), text.as_bytes()).is_some()
        };
        let alternatives = [
            names(self.subject_sub.as_ref(), &self.subject_names),
            names(self.actor.as_ref(), &self.actor_names),
        ];
        self.may_be_in_time(document)
            && texts.into_iter().flatten().all(occurs)
            && alternatives.iter().all(|names| names.is_empty() || names.iter().any(occurs))
    }

    /// Whether the event with its personal data matches. Persons are compared by their names in the log.
    pub fn matches(&self, event: &Value, personal: Option<&str>) -> bool {
        let text = |pointer: &str| event.pointer(pointer).and_then(Value::as_str);
        let is = |wanted: &Option<String>, pointer: &str| {
            wanted.as_deref().is_none_or(|wanted| text(pointer) == Some(wanted))
        };
        let plain = [
            (&self.id, "/id"),
            (&self.action, "/action"),
            (&self.outcome, "/outcome"),
            (&self.reason, "/reason"),
            (&self.client, "/actor/client_id"),
            (&self.actor_type, "/actor/type"),
            (&self.subject_iss, "/subject/iss"),
            (&self.txn, "/txn"),
            (&self.target, "/target"),
            (&self.session, "/session_id"),
            (&self.standing_grant, "/standing_grant_id"),
            (&self.request_id, "/request_id"),
        ];
        plain.into_iter().all(|(wanted, pointer)| is(wanted, pointer))
            && self.connection.as_deref().is_none_or(|id| is_connection(event, id))
            && self
                .rule
                .as_deref()
                .is_none_or(|id| findings(event).any(|one| one.get("rule").is_some_and(|rule| rule == id)))
            && (self.has_findings.is_none() || findings(event).next().is_some())
            && self.subject_sub.as_ref().is_none_or(|sub| {
                let subject = text("/subject/sub");
                names(Some(sub), &self.subject_names).iter().any(|name| subject == Some(name))
            })
            && self.actor.as_ref().is_none_or(|actor| {
                names(Some(actor), &self.actor_names).iter().any(|name| acts(event, name))
            })
            && self.delegation.as_deref().is_none_or(|id| is_below(event, id))
            && self.jti.as_deref().is_none_or(|jti| {
                [text("/jti"), text("/parent_jti"), text("/detail/refresh_token")].contains(&Some(jti))
            })
            && self.is_in_time(text("/at"))
            && self.matches_personal(personal)
    }

    /// Whether the personal data beside the document matches.
    pub fn matches_personal(&self, personal: Option<&str>) -> bool {
        self.ip.as_deref().is_none_or(|ip| personal.and_then(ip_of).as_deref() == Some(ip))
    }

    fn may_be_in_time(&self, document: &str) -> bool {
        if self.from.is_none() && self.to.is_none() {
            return true;
        }
        let recorded: Option<RecordedAt<'_>> = serde_json::from_str(document).ok();
        recorded.and_then(|recorded| recorded.at).is_none_or(|at| self.is_in_time(Some(&at)))
    }

    fn is_in_time(&self, at: Option<&str>) -> bool {
        // Instants in the log have a fixed format, so text order is time order.
        let at = at.unwrap_or_default();
        self.from.is_none_or(|from| at >= rfc3339(from).as_str())
            && self.to.is_none_or(|to| at < rfc3339(to).as_str())
    }
}

/// The time of an event; its other members are skipped.
#[derive(Deserialize)]
struct RecordedAt<'a> {
    #[serde(borrow)]
    at: Option<Cow<'a, str>>,
}

fn is_connection(event: &Value, id: &str) -> bool {
    let member = |name: &str| event.get(name).and_then(Value::as_str).unwrap_or_default();
    // The target of `vault.key_rotated` is a data key.
    let action = member("action");
    let is_of_connection = action.starts_with("vault.") && action != Action::VaultKeyRotated.name();
    is_of_connection && member("target") == id
}

fn findings(event: &Value) -> impl Iterator<Item = &Value> {
    event.get("findings").and_then(Value::as_array).into_iter().flatten()
}

fn acts(event: &Value, sub: &str) -> bool {
    let chain = event.get("act_chain").and_then(Value::as_array).into_iter().flatten();
    let own = ["/actor/client_id", "/actor/sub"].into_iter().filter_map(|pointer| event.pointer(pointer));
    let mut actors = chain.filter_map(|link| link.get("sub")).chain(own);
    actors.any(|actor| actor.as_str() == Some(sub))
}

fn is_below(event: &Value, id: &str) -> bool {
    let path = event.get("delegation_path").and_then(Value::as_array).into_iter().flatten();
    path.chain(event.get("delegation_id")).any(|one| one.as_str() == Some(id))
}

/// The `at` of an event; the Unix epoch if the event has none.
pub fn instant(event: &Value) -> OffsetDateTime {
    let at = event.get("at").and_then(Value::as_str);
    at.and_then(|at| OffsetDateTime::parse(at, &Rfc3339).ok()).unwrap_or(clock::from_micros(0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const PERSONAL: Option<&str> = Some(r#"{"ip":"::1","salt":"s"}"#);

    fn event() -> Value {
        json!({"id": "i", "at": "2026-01-01T00:00:00.000000Z", "action": "vault.token.retrieved", "outcome": "success",
               "actor": {"type": "client", "client_id": "a", "jkt": "k"}, "subject": {"iss": "x", "sub": "alice"}, "txn": "t", "jti": "j",
               "parent_jti": "p", "target": "c", "findings": [{"rule": "CE-001"}], "session_id": "s", "request_id": "r",
               "act_chain": [{"sub": "b", "iss": "x"}], "delegation_id": "E", "delegation_path": ["D", "E"]})
    }

    fn filter(name: &str, value: &str) -> Filter {
        let mut filter = Filter::default();
        assert_eq!(filter.set(name, value), Ok(true), "{name}");
        filter
    }

    #[test]
    fn each_parameter_finds_what_it_names_and_nothing_else() {
        let cases = [
            ("id", "i"),
            ("action", "vault.token.retrieved"),
            ("outcome", "success"),
            ("client_id", "a"),
            ("subject_iss", "x"),
            ("subject_sub", "alice"),
            ("actor", "a"),
            ("actor", "b"),
            ("actor_type", "client"),
            ("delegation_id", "D"),
            ("delegation_id", "E"),
            ("txn", "t"),
            ("jti", "j"),
            ("jti", "p"),
            ("target", "c"),
            ("connection", "c"),
            ("session_id", "s"),
            ("request_id", "r"),
            ("rule", "CE-001"),
            ("has_findings", "true"),
            ("ip", "::1"),
            ("from", "2026-01-01T01:00:00+01:00"),
            ("to", "2026-01-01T00:00:00.000001Z"),
        ];
        let have = super::super::index::terms(&event());
        for (name, value) in cases {
            let wanted = filter(name, value);
            assert!(wanted.matches(&event(), PERSONAL), "{name}");
            let document = actchain_protocol::canonical_json::to_string(&event()).unwrap();
            assert!(wanted.may_match(&document), "{name}");
            assert!(wanted.terms().iter().all(|term| have.contains(term)), "{name} is not in the index");
        }
        for (name, value) in [
            ("outcome", "refused"),
            ("actor", "alice"),
            ("actor_type", "server"),
            ("delegation_id", "F"),
            ("jti", "t"),
            ("rule", "CE-002"),
        ] {
            assert!(!filter(name, value).matches(&event(), PERSONAL), "{name}");
        }
        let document = actchain_protocol::canonical_json::to_string(&event()).unwrap();
        for (name, value) in [("to", "2026-01-01T00:00:00Z"), ("from", "2026-01-01T00:00:00.000001Z")] {
            let outside = filter(name, value);
            assert!(!outside.matches(&event(), PERSONAL), "{name} at its limit");
            assert!(!outside.may_match(&document), "{name} at its limit");
        }
    }

    #[test]
    fn what_is_written_otherwise_in_a_document_is_found_all_the_same() {
        let mut event = event();
        for odd in ["a\"b", "a\\b", "ü/ß", "\u{1f980}"] {
            event["target"] = json!(odd);
            let document = actchain_protocol::canonical_json::to_string(&event).unwrap();
            let filter = filter("target", odd);
            assert!(filter.may_match(&document) && filter.matches(&event, PERSONAL), "{odd}");
        }
        assert!(!filter("target", "another").may_match("{\"target\":\"c\"}"));
    }

    #[test]
    fn what_nothing_can_have_is_refused() {
        let long = "x".repeat(1_025);
        for (name, value) in [
            ("ip", ""),
            ("txn", "a\0"),
            ("outcome", "maybe"),
            ("has_findings", "no"),
            ("from", "yesterday"),
            ("jti", &long),
        ] {
            assert!(Filter::default().set(name, value).is_err(), "{name}={value}");
        }
        assert_eq!(Filter::default().set("colour", "red"), Ok(false));
        let mut reversed = filter("from", "2026-01-02T00:00:00Z");
        reversed.set("to", "2026-01-01T00:00:00Z").unwrap();
        assert!(reversed.check().is_err());
    }

    #[test]
    fn a_caller_limited_to_its_own_events_gets_no_others() {
        let alice = Principal::new("x", "alice");
        assert!(Filter::default().about(&alice).unwrap().matches(&event(), PERSONAL));
        assert!(
            Filter::default()
                .about(&Principal::new("y", "alice"))
                .is_some_and(|own| !own.matches(&event(), PERSONAL))
        );
        assert_eq!(filter("subject_sub", "bob").about(&alice), None);
    }

    #[test]
    fn a_user_whose_name_is_a_pseudonym_is_shown_no_events() {
        let pseudonym = actchain_protocol::pseudonym::pseudonym(&[7; 32], "https://i", "alice");
        let shown = |sub: &str| Filter::default().about(&Principal::new("https://i", sub)).is_some();
        assert!(shown("alice") && !shown(&pseudonym));
    }
}
