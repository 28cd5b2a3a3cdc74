//! The keys of a chain: what proofs, tokens, earlier events and registrations say about them, and whether they agree. Pure.

use std::collections::BTreeSet;

use serde::Serialize;
use serde_json::Value;

/// Whether the key of a hop is the expected key.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, strum::IntoStaticStr, strum::EnumString,
)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum KeyContinuity {
    Consistent,
    /// The client proved no key.
    NoKey,
    /// Another event or the client's registered keys require a different key.
    KeyMismatch,
}

impl KeyContinuity {
    /// Nothing is compared where no key was proved.
    pub(super) fn of(statements: &[KeyStatement]) -> Self {
        if statements.is_empty() {
            Self::NoKey
        } else if statements.iter().any(|one| one.contradicts) {
            Self::KeyMismatch
        } else {
            Self::Consistent
        }
    }

    pub fn name(self) -> &'static str {
        self.into()
    }

    /// Whether one of the sources contradicts another one.
    pub fn contradicts(self) -> bool {
        self == Self::KeyMismatch
    }
}

/// Where a key of an actor is named.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, strum::IntoStaticStr)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum KeySource {
    /// The DPoP proof of the request.
    Proof,
    /// The chain in the token.
    Token,
    /// The event that issued the subject token.
    SubjectToken,
    /// An earlier hop of the client under the same delegation.
    EarlierHop,
    /// The registered keys of the client.
    Registration,
}

impl KeySource {
    pub fn name(self) -> &'static str {
        self.into()
    }
}

/// What one source says about the key of an actor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct KeyStatement {
    pub source: KeySource,
    pub actor: String,
    /// `None` if the source names no key.
    pub jkt: Option<String>,
    /// `seq` of the event that says it; `None` for the registration.
    pub seq: Option<u64>,
    /// Whether it contradicts the key of the hop, or the chain in the token.
    pub contradicts: bool,
    /// The key of an earlier actor that the chain in the token has instead, where that contradicts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instead: Option<String>,
}

/// A key that a client proved.
pub(super) struct ProvedKey<'a> {
    pub(super) seq: u64,
    pub(super) client: &'a str,
    pub(super) jkt: &'a str,
}

/// What a proved key is compared with.
pub(super) struct KeySources<'a> {
    /// The chain in the token.
    pub(super) links: &'a [&'a Value],
    /// The key that the client proved first for the delegation, and `seq` of that event.
    pub(super) earlier: Option<&'a (String, u64)>,
    /// `None` for a client that may use any key.
    pub(super) registered: Option<&'a BTreeSet<String>>,
    /// `seq` of the event that issued the subject token, and the keys of its actors.
    pub(super) subject_token: Option<&'a (u64, Vec<Option<String>>)>,
}

impl KeySources<'_> {
    /// What the sources say about the key of the client, and what the event of the subject token says about earlier actors.
    pub(super) fn about(&self, proved: &ProvedKey<'_>) -> Vec<KeyStatement> {
        let of_client = |source, key: &str, seq: Option<u64>| KeyStatement {
            source,
            actor: proved.client.to_owned(),
            jkt: Some(key.to_owned()),
            seq,
            contradicts: key != proved.jkt,
            instead: None,
        };
        let mut statements = vec![of_client(KeySource::Proof, proved.jkt, Some(proved.seq))];
        // The chain of a refusal ends with the holder of the subject token, not with the refused client.
        let own = self.links.last().filter(|link| sub_of(link) == Some(proved.client));
        let in_token = own.and_then(|link| key_of(link));
        statements.extend(in_token.map(|key| of_client(KeySource::Token, key, Some(proved.seq))));
        statements.extend(self.earlier.map(|(key, seq)| of_client(KeySource::EarlierHop, key, Some(*seq))));
        if let Some(registered) = self.registered {
            let is_known = registered.contains(proved.jkt);
            statements.push(KeyStatement {
                jkt: is_known.then(|| proved.jkt.to_owned()),
                contradicts: !is_known,
                ..of_client(KeySource::Registration, proved.jkt, None)
            });
        }
        if let Some((seq, before)) = self.subject_token {
            for (link, before) in self.links.iter().zip(before).filter(|(_, before)| before.is_some()) {
                statements.push(KeyStatement {
                    source: KeySource::SubjectToken,
                    actor: sub_of(link).unwrap_or_default().to_owned(),
                    jkt: before.clone(),
                    seq: Some(*seq),
                    contradicts: before.as_deref() != key_of(link),
                    instead: key_of(link).filter(|key| before.as_deref() != Some(*key)).map(str::to_owned),
                });
            }
        }
        statements
    }
}

fn sub_of(link: &Value) -> Option<&str> {
    link.get("sub").and_then(Value::as_str)
}

fn key_of(link: &Value) -> Option<&str> {
    link.get("jkt").and_then(Value::as_str)
}

pub(super) fn keys_of(links: &[&Value]) -> Vec<Option<String>> {
    links.iter().map(|link| key_of(link).map(str::to_owned)).collect()
}
