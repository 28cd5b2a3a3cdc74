//! What evidence says of itself: its question, the user that it is about, and the events that were searched.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::personal::{People, PersonView};
use super::search::EventRow;
use crate::domain::principal::Principal;
use actchain_protocol::base64url;
use actchain_protocol::pseudonym::{is_pseudonym, pseudonym as pseudonym_of};

/// Version of the file format.
pub const FORMAT: u32 = 1;

/// The header of evidence, in the first line of its events.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EvidenceHeader {
    pub format: u32,
    /// Version of actchain that wrote the evidence.
    pub actchain: String,
    pub question: EvidenceQuestion,
    /// The subject on whose behalf clients acted; absent if the events name none, or an erased user.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subject: Option<Principal>,
    /// How the log names the subject; absent for a client of the server.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub named: Option<SubjectName>,
    /// `seq` of the first event in the database; earlier events are archived.
    pub first: u64,
    pub size: u64,
}

/// What the evidence is about.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum EvidenceQuestion {
    /// All actions for the subject in a period.
    Period {
        /// If set, only chains in which this client acted.
        #[serde(skip_serializing_if = "Option::is_none")]
        client: Option<String>,
        /// Start of the period, inclusive (RFC 3339).
        from: String,
        /// End of the period, exclusive.
        to: String,
    },
    Chain {
        txn: String,
    },
    Event {
        seq: u64,
    },
}

/// A pseudonym with the salt under which it is the subject's.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SubjectName {
    pub pseudonym: String,
    /// 32 bytes in base64url.
    pub salt: String,
}

impl EvidenceHeader {
    /// The subject, who is shown by its own name.
    pub(super) fn people(&self) -> People {
        let (Some(Principal { iss, sub }), Some(named)) = (&self.subject, &self.named) else {
            return People::new();
        };
        let known = PersonView::Known { iss: iss.clone(), sub: sub.clone() };
        People::from([(named.pseudonym.clone(), known)])
    }

    /// The subject as text.
    pub(super) fn subject_text(&self) -> String {
        self.subject.as_ref().map_or_else(
            || "a subject without a known name".to_owned(),
            |subject| one_line(&format!("{} ({})", subject.sub, subject.iss)),
        )
    }

    /// Whether the pseudonym is that of the subject.
    pub fn is_proven(&self) -> bool {
        let Some(SubjectName { pseudonym, salt }) = &self.named else { return true };
        let salt: Option<[u8; 32]> = base64url::decode(salt).and_then(|salt| salt.try_into().ok());
        let named = salt.zip(self.subject.as_ref());
        named.is_some_and(|(salt, subject)| *pseudonym == pseudonym_of(&salt, &subject.iss, &subject.sub))
    }

    /// Whether the events record the subject that the header names. A header without a subject claims nothing.
    pub fn names_subject_of(&self, events: &[EventRow]) -> bool {
        let Some(Principal { iss, sub }) = &self.subject else { return self.named.is_none() };
        let recorded_sub = self.named.as_ref().map_or(sub, |named| &named.pseudonym);
        // A pseudonym alone is no name: it would pass for that of another user.
        if self.named.is_none() && is_pseudonym(sub) {
            return false;
        }
        let text =
            |one: &EventRow, at: &str| one.event.pointer(at).and_then(Value::as_str).map(str::to_owned);
        let mut recorded =
            events.iter().filter_map(|one| text(one, "/subject/iss").zip(text(one, "/subject/sub")));
        let is_it = |(of, name): (String, String)| of == *iss && name == *recorded_sub;
        match &self.question {
            // Events of a period can be none, and are of one subject among others.
            EvidenceQuestion::Period { .. } => recorded.next().is_none_or(is_it) || recorded.any(is_it),
            EvidenceQuestion::Chain { .. } | EvidenceQuestion::Event { .. } => {
                recorded.next().is_some_and(is_it)
            }
        }
    }

    /// Whether the events contain what the evidence is about.
    pub fn is_answered_by(&self, events: &[EventRow]) -> bool {
        match &self.question {
            EvidenceQuestion::Period { .. } => true,
            EvidenceQuestion::Chain { txn } => {
                events.iter().any(|one| one.event.get("txn").and_then(Value::as_str) == Some(txn))
            }
            EvidenceQuestion::Event { seq } => events.iter().any(|one| one.seq == *seq),
        }
    }
}

/// Replaces control characters: text from clients cannot imitate another line.
pub(super) fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c }).collect()
}
