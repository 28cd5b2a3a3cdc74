//! What the ledger records, and what comes of it.

use std::collections::BTreeSet;

use time::OffsetDateTime;
use uuid::Uuid;

use crate::domain::audit::Event;
use crate::domain::audit::store::LeafRef;
use crate::domain::ceremony::Asking;
use crate::domain::delegation::Delegation;
use crate::domain::delegation::candidates::Between;
use crate::domain::principal::Principal;
use crate::domain::refresh_token::store::RefreshTokenInsert;
use crate::domain::refusal::Refusal;
use crate::domain::session::SessionRequest;
use crate::domain::session::report::ReportedName;
use crate::domain::standing_grant::suspension::ProvenClientKey;
use crate::domain::step::known::IdentifiedStep;
use crate::domain::token::TokenRecord;

/// An id that is accepted once: a `jti` of a DPoP proof or assertion.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SingleUseId {
    /// Replay-cache key: truncated SHA-256 of kind, client or key, target and `jti`.
    pub id: [u8; 16],
    /// From this time on, no verifier accepts the proof or assertion.
    pub expires_at: OffsetDateTime,
    /// The refusal of an id that was used before.
    pub on_replay: Refusal,
    /// The refusal where the id may have been used and purged: the clock is behind the last purge.
    pub if_forgotten: Refusal,
}

/// What an entry relies on. The ledger checks it again, under locks, before the entry takes effect.
#[derive(Debug, Clone, Default)]
pub struct Guards {
    /// The requesting client, as of the version on which its authentication was decided.
    pub client: Option<(String, i64)>,
    /// Earlier actors, which must not be disabled.
    pub earlier_actors: Vec<String>,
    /// Delegations that must be active; a use is counted on each.
    pub path: Vec<String>,
    /// Delegations that must be active too: those that ephemeral agents were created for. No use is counted on them.
    pub ephemeral_delegation: Vec<String>,
    /// Tokens of this server that must be valid, with all tokens of their lineage.
    pub tokens: Vec<Uuid>,
    /// Tokens of trusted issuers: subject, and time of issue by the clock of the issuer.
    pub subjects: Vec<(Principal, OffsetDateTime)>,
    /// A connection of the vault, with the versions of the connection and of its provider on which the response is
    /// based.
    pub connection: Option<(String, (i64, i64))>,
    /// The version of the registry on which the decision is based.
    pub registry: Option<i64>,
    /// Whether the decision read the path for this request or took it from a cache.
    pub freshness: Freshness,
    /// The candidates among which a decision from the cache chose.
    pub choice: Option<Choice>,
    /// Keys that the client has proven. A standing grant of the client that does not pin one of them returns the entry for
    /// another decision: the grant has to be suspended first.
    pub proved_keys: BTreeSet<ProvenClientKey>,
}

/// The candidates of an exchange, as of one version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    pub between: Between,
    /// The number of changes among the candidates; `None` if none was ever recorded.
    pub version: Option<i64>,
}

/// Where the data comes from that a guard compares with the stored rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Freshness {
    /// Read for this request: a delegation of the path that is not active rejects the entry.
    #[default]
    Fresh,
    /// Read for an earlier request, with the expiry that the path had at that time. A delegation that is not active, or
    /// a changed expiry, returns the entry for another decision: another delegation may grant the request.
    Cached(OffsetDateTime),
}

#[derive(Debug, Clone)]
pub enum Write {
    /// Nothing but the ids that the entry uses.
    Nothing,
    Token(Box<TokenInsert>),
    /// A confirmation that the delegator has to decide.
    Ceremony(Box<Asking>),
    /// A credential leaves the vault, or the proxy uses it: only the use is counted.
    Retrieval,
    /// What an agent reported: each new step is a use.
    Steps(Box<StepsInsert>),
}

/// Reported steps, in the session for which the entry asks.
#[derive(Debug, Clone)]
pub struct StepsInsert {
    pub steps: Vec<StepInsert>,
    /// The name of the session, if the report has one.
    pub session: Option<ReportedName>,
}

/// A step with its event.
#[derive(Debug, Clone)]
pub struct StepInsert {
    /// `None` for a step without an id, which is always new.
    pub identified: Option<IdentifiedStep>,
    pub event: Event,
}

#[derive(Debug, Clone)]
pub struct TokenInsert {
    pub token: TokenRecord,
    /// The delegation that a `may_act` claim leads to, where the ledger does not have it yet.
    pub create: Option<Delegation>,
    /// The confirmations that the token uses.
    pub ceremonies: Vec<Uuid>,
    pub offline: OfflineUse,
}

/// What a token has to do with a refresh token.
#[derive(Debug, Clone)]
pub enum OfflineUse {
    None,
    /// The answer has a refresh token, too.
    Issue(Box<RefreshTokenInsert>),
    /// The token was requested with this refresh token.
    Use(Uuid),
}

/// One use: recorded as a whole, or not at all.
#[derive(Debug, Clone)]
pub struct Entry {
    /// When the request was received.
    pub now: OffsetDateTime,
    /// Ids that are recorded as used, whatever the outcome of the entry.
    pub single_use_ids: Vec<SingleUseId>,
    pub guards: Guards,
    pub write: Write,
    /// The event of the audit log; `None` for an entry that only uses ids.
    pub event: Option<Event>,
    /// The first exchange of a chain asks for a session. The event is in it, whatever the outcome.
    pub session: Option<SessionRequest>,
}

impl Entry {
    /// An entry that records nothing yet.
    pub fn at(now: OffsetDateTime) -> Self {
        Self {
            now,
            single_use_ids: Vec::new(),
            guards: Guards::default(),
            write: Write::Nothing,
            event: None,
            session: None,
        }
    }

    pub(super) fn issue(&self) -> Option<&TokenInsert> {
        match &self.write {
            Write::Token(issue) => Some(issue),
            Write::Nothing | Write::Ceremony(_) | Write::Retrieval | Write::Steps(_) => None,
        }
    }

    /// The refresh token continues the session of the exchange, which was assigned meanwhile.
    pub(super) fn keep_session_offline(&mut self) {
        let session = self.event.as_ref().and_then(|event| event.session_id.as_ref());
        if let Write::Token(issue) = &mut self.write
            && let OfflineUse::Issue(insert) = &mut issue.offline
        {
            insert.token.session_id = session.cloned();
        }
    }

    pub(super) fn steps(&self) -> Option<&StepsInsert> {
        match &self.write {
            Write::Steps(steps) => Some(steps),
            Write::Nothing | Write::Token(_) | Write::Ceremony(_) | Write::Retrieval => None,
        }
    }

    /// Whether the entry counts as one use of its delegation and of every ancestor.
    pub(super) fn is_use(&self) -> bool {
        matches!(self.write, Write::Token(_) | Write::Retrieval)
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CommitOutcome {
    /// The entry took effect, or is the record of a refusal.
    Committed(Committed),
    /// A guard failed; the event records this refusal.
    Rejected(Refusal),
    /// The data of the decision has changed since. Only the used ids were recorded; the caller decides again.
    Retry,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Committed {
    /// The position of the event, if the entry has one.
    pub place: Option<LeafRef>,
    /// The session, if the entry asked for one.
    pub session: Option<String>,
    /// The id of the issued refresh token, if the entry asked for one.
    pub refresh_token: Option<Uuid>,
    /// What became of the steps, if the entry has some.
    pub steps: Option<CommittedSteps>,
}

/// A delegation after steps were recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CommittedSteps {
    /// Number of steps that have an event.
    pub recorded: usize,
    pub uses: i64,
    /// Uses left on the path; `None` without a limit.
    pub uses_left: Option<i64>,
}
