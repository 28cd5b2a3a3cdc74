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
use crate::domain::ceremony::{self, Ceremony, CeremonyState};
use crate::domain::decision::MatterKind;
use crate::domain::delegation::{self, DelegationPath, DelegationState};
use crate::domain::principal::Principal;
use crate::domain::step::StepDecision;
use crate::platform::clock::rfc3339;
use crate::platform::fault::Fault;
use actchain_protocol::metadata;

/// An event that asks a user for a decision.
#[derive(Debug, Clone)]
pub(super) struct Ask {
    pub(super) seq: u64,
    pub(super) event_id: String,
    pub(super) at: String,
    kind: MatterKind,
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
            EventKind::DelegationCreated { .. } => (MatterKind::Request, None),
            EventKind::DelegationKeyRotationRequested { .. } => (MatterKind::KeyRotation, None),
            EventKind::DelegationSuspended { .. } => (MatterKind::Review, None),
            EventKind::TokenRefused(refusal) => (MatterKind::Use, Some(refusal.ceremony?)),
            EventKind::DelegationStep(step) if step.decision == Some(StepDecision::Confirm) => {
                (MatterKind::Use, Some(step.ceremony?))
            }
            _ => return None,
        };
        // A step is confirmed at the root.
        let decided_at = match event.get("action").and_then(Value::as_str) {
            Some("delegation.step") => "/delegation_path/0",
            _ => "/delegation_id",
        };
        let text = |pointer| event.pointer(pointer).and_then(Value::as_str).map(str::to_owned);
        Some(Self {
            seq: row.seq,
            event_id: text("/id")?,
            at: text("/at")?,
            kind,
            delegation_id: text(decided_at)?,
            ceremony,
            person: text("/subject/sub")?,
        })
    }
}

/// Something that waits, as a message names it: only names that this server or an administrator gave.
#[derive(Debug, Clone, Serialize)]
pub(super) struct WaitingItem {
    pub(super) kind: MatterKind,
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
    let ceremonies: Vec<Uuid> = asks.iter().filter_map(|ask| ask.ceremony).collect();
    let ceremonies = ceremony::store::find_all(connection, &ceremonies).await?;
    let of = |ask: &Ask| ceremonies.iter().find(|one| Some(one.id) == ask.ceremony);
    let items = asks.into_iter().filter_map(|ask| {
        let path = paths.get(ask.delegation_id.as_str())?;
        let one_use = of(&ask);
        item(app, path, ask, one_use, now)
    });
    Ok(items.collect())
}

/// `None` if it does not wait any more, or if an agent decides it.
fn item(
    app: &App,
    path: &DelegationPath,
    ask: Ask,
    one_use: Option<&Ceremony>,
    now: OffsetDateTime,
) -> Option<WaitingItem> {
    let leaf = path.leaf().filter(|leaf| leaf.delegator.iss != app.issuer)?;
    let (state, requested) = (path.state(now).0, DelegationState::Requested);
    let (waits, client_id, expires_at) = match ask.ceremony {
        None => {
            let waits = state == requested
                && leaf.facts.state(now) == requested
                && match ask.kind {
                    MatterKind::Request => leaf.facts.activated_at.is_none(),
                    MatterKind::KeyRotation => leaf.facts.key_rotating,
                    MatterKind::Review => leaf.facts.suspended_at.is_some(),
                    MatterKind::Use => false,
                };
            (waits, &leaf.delegate, leaf.facts.expires_at)
        }
        Some(_) => {
            let one = one_use.filter(|one| one.delegation_id == leaf.id)?;
            let waits = state == DelegationState::Active && one.stage(now) == CeremonyState::Pending;
            (waits, &one.client_id, one.expires_at)
        }
    };
    waits.then(|| WaitingItem {
        kind: ask.kind,
        delegation_id: leaf.id.clone(),
        ceremony: ask.ceremony,
        client_id: client_id.clone(),
        requested_at: ask.at.clone(),
        expires_at: rfc3339(expires_at),
        url: metadata::endpoint(&app.issuer, &format!("/console/approvals/{}", leaf.id)),
        delegator: leaf.delegator.clone(),
        ask,
    })
}
