//! What waits for the decision of a user: found by the event that asked for it, and by the present state.

use std::collections::HashMap;

use serde::Serialize;
use serde_json::Value;
use sqlx::PgConnection;
use time::OffsetDateTime;
use uuid::Uuid;

use crate::app::App;
use crate::domain::audit::EventKind;
use crate::domain::audit::store::StoredEvent;
use crate::domain::ceremony::{self, CeremonyState};
use crate::domain::delegation::{self, DelegationPath, DelegationState};
use crate::domain::principal::Principal;
use crate::domain::sink::WaitingKind;
use crate::platform::clock::rfc3339;
use crate::platform::fault::Fault;
use actchain_protocol::metadata;

/// An event that asks a user for a decision.
#[derive(Debug, Clone)]
pub(super) struct Ask {
    pub(super) seq: u64,
    pub(super) event_id: String,
    pub(super) at: String,
    kind: WaitingKind,
    delegation_id: String,
    /// The confirmation of a single use.
    ceremony: Option<Uuid>,
    /// The pseudonym of the user.
    pub(super) person: String,
}

impl Ask {
    /// `None` for an event that asks no user.
    pub(super) fn of(row: &StoredEvent) -> Option<Self> {
        let event: Value = serde_json::from_str(&row.document).ok()?;
        let (kind, ceremony) = match EventKind::of(&event)? {
            EventKind::DelegationCreated { .. } => (WaitingKind::Request, None),
            EventKind::DelegationKeyRotationRequested { .. } => (WaitingKind::Key, None),
            EventKind::DelegationSuspended { .. } => (WaitingKind::Suspended, None),
            EventKind::TokenRefused(refusal) => (WaitingKind::Use, Some(refusal.ceremony?)),
            _ => return None,
        };
        let text = |pointer| event.pointer(pointer).and_then(Value::as_str).map(str::to_owned);
        Some(Self {
            seq: row.seq,
            event_id: text("/id")?,
            at: text("/at")?,
            kind,
            delegation_id: text("/delegation_id")?,
            ceremony,
            person: text("/subject/sub")?,
        })
    }
}

/// Something that waits, as a message names it: only names that this server or an administrator gave.
#[derive(Debug, Clone, Serialize)]
pub(super) struct WaitingItem {
    pub(super) kind: WaitingKind,
    pub(super) delegation_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) ceremony: Option<Uuid>,
    /// The agent that waits.
    pub(super) client_id: String,
    pub(super) requested_at: String,
    /// The time until which it can be decided.
    pub(super) expires_at: String,
    /// The page of the console on which it is decided.
    pub(super) url: String,
    /// The user who decides.
    #[serde(skip)]
    pub(super) delegator: Principal,
    #[serde(skip)]
    pub(super) ask: Ask,
}

/// What still waits, in the order of the asks.
pub(super) async fn still_waiting(
    app: &App,
    connection: &mut PgConnection,
    asks: Vec<Ask>,
    now: OffsetDateTime,
) -> Result<Vec<WaitingItem>, Fault> {
    if asks.is_empty() {
        return Ok(Vec::new());
    }
    let ids: Vec<String> = asks.iter().map(|ask| ask.delegation_id.clone()).collect();
    let paths = delegation::store::all_paths(&app.rows, connection, &ids).await?;
    let paths: HashMap<&str, &DelegationPath> =
        paths.iter().filter_map(|path| Some((path.leaf()?.id.as_str(), path))).collect();
    let mut waiting = Vec::new();
    for ask in asks {
        if let Some(path) = paths.get(ask.delegation_id.as_str()) {
            waiting.extend(item(app, connection, path, ask, now).await?);
        }
    }
    Ok(waiting)
}

/// `None` if it does not wait any more, or if an agent decides it.
async fn item(
    app: &App,
    connection: &mut PgConnection,
    path: &DelegationPath,
    ask: Ask,
    now: OffsetDateTime,
) -> Result<Option<WaitingItem>, Fault> {
    let Some(leaf) = path.leaf().filter(|leaf| leaf.delegator.iss != app.issuer) else { return Ok(None) };
    let (state, requested) = (path.state(now).0, DelegationState::Requested);
    let (waits, client_id, expires_at) = match ask.ceremony {
        None => {
            let waits = state == requested
                && leaf.facts.state(now) == requested
                && match ask.kind {
                    WaitingKind::Request => leaf.facts.activated_at.is_none(),
                    WaitingKind::Key => leaf.facts.key_rotating,
                    WaitingKind::Suspended => leaf.facts.suspended_at.is_some(),
                    WaitingKind::Use => false,
                };
            (waits, &leaf.delegate, leaf.facts.expires_at)
        }
        Some(id) => match ceremony::store::find(connection, &leaf.id, id).await? {
            Some(one) => {
                let waits = state == DelegationState::Active && one.stage(now) == CeremonyState::Pending;
                (waits, &one.client_id.clone(), one.expires_at)
            }
            None => return Ok(None),
        },
    };
    Ok(waits.then(|| WaitingItem {
        kind: ask.kind,
        delegation_id: leaf.id.clone(),
        ceremony: ask.ceremony,
        client_id: client_id.clone(),
        requested_at: ask.at.clone(),
        expires_at: rfc3339(expires_at),
        url: metadata::endpoint(&app.issuer, &format!("/console/approvals/{}", leaf.id)),
        delegator: leaf.delegator.clone(),
        ask,
    }))
}
