//! Decisions about requests, new keys, suspended delegations and single uses: for lists of them. The log is the record.

use serde_json::Value;
use sqlx::types::Json;
use sqlx::{FromRow, PgConnection, Postgres, QueryBuilder};
use time::OffsetDateTime;
use uuid::Uuid;

use super::delegation::DelegationState;
use super::delegation::list::Cursor;
use super::delegation::waiting::NO_ANCESTOR_WAITS;
use super::principal::Principal;
use crate::platform::fault::{Context as _, Fault};

/// The matter of a decision.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    serde::Serialize,
    serde::Deserialize,
    strum::IntoStaticStr,
    strum::EnumString,
)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum MatterKind {
    /// A delegation that an agent requested.
    Request,
    /// A new key of an ephemeral agent.
    KeyRotation,
    /// A delegation that was suspended.
    Review,
    Use,
}

impl MatterKind {
    /// The matter of a delegation that waits, by what it waits for besides its first approval.
    pub fn of_delegation<S, K>(suspended: Option<&S>, new_key: Option<&K>) -> Self {
        match (suspended, new_key) {
            (Some(_), _) => Self::Review,
            (None, Some(_)) => Self::KeyRotation,
            (None, None) => Self::Request,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, strum::IntoStaticStr, strum::EnumString)]
#[strum(serialize_all = "snake_case")]
pub enum DecisionOutcome {
    Approved,
    Denied,
}

/// The capacity in which a decision was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, strum::IntoStaticStr, strum::EnumString)]
#[strum(serialize_all = "snake_case")]
pub enum DeciderRole {
    Delegator,
    /// An administrator, in place of the delegator.
    Administrator,
    /// An operator, in place of the delegator.
    Operator,
}

#[derive(Debug, Clone, PartialEq)]
pub struct RecordedDecision {
    pub id: Uuid,
    pub delegation_id: String,
    /// The confirmation, where one use was decided.
    pub ceremony: Option<Uuid>,
    pub kind: MatterKind,
    pub outcome: DecisionOutcome,
    pub delegator: Principal,
    pub delegate: String,
    pub decided_at: OffsetDateTime,
    /// `None` for an operator, and after an erasure.
    pub by: Option<Principal>,
    pub by_role: DeciderRole,
    /// Members that the approval narrowed.
    pub narrowed: Option<Value>,
}

#[derive(FromRow)]
struct Row {
    id: Uuid,
    delegation_id: String,
    ceremony: Option<Uuid>,
    kind: String,
    outcome: String,
    delegator_iss: String,
    delegator_sub: String,
    delegate: String,
    decided_at: OffsetDateTime,
    by_iss: Option<String>,
    by_sub: Option<String>,
    by_role: String,
    narrowed: Option<Json<Value>>,
}

impl TryFrom<Row> for RecordedDecision {
    type Error = Fault;

    fn try_from(row: Row) -> Result<Self, Fault> {
        Ok(Self {
            id: row.id,
            delegation_id: row.delegation_id,
            ceremony: row.ceremony,
            kind: row.kind.parse().context("reading a decision")?,
            outcome: row.outcome.parse().context("reading a decision")?,
            delegator: Principal::new(row.delegator_iss, row.delegator_sub),
            delegate: row.delegate,
            decided_at: row.decided_at,
            by: row.by_iss.zip(row.by_sub).map(|(iss, sub)| Principal::new(iss, sub)),
            by_role: row.by_role.parse().context("reading a decision")?,
            narrowed: row.narrowed.map(|narrowed| narrowed.0),
        })
    }
}

pub async fn insert(connection: &mut PgConnection, one: &RecordedDecision) -> Result<(), Fault> {
    sqlx::query(
        "INSERT INTO decision (id, delegation_id, ceremony, kind, outcome, delegator_iss, delegator_sub, delegate,
                               decided_at, by_iss, by_sub, by_role, narrowed)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)",
    )
    .bind(one.id)
    .bind(&one.delegation_id)
    .bind(one.ceremony)
    .bind(<&str>::from(one.kind))
    .bind(<&str>::from(one.outcome))
    .bind(&one.delegator.iss)
    .bind(&one.delegator.sub)
    .bind(&one.delegate)
    .bind(one.decided_at)
    .bind(one.by.as_ref().map(|by| &by.iss))
    .bind(one.by.as_ref().map(|by| &by.sub))
    .bind(<&str>::from(one.by_role))
    .bind(one.narrowed.as_ref().map(Json))
    .execute(connection)
    .await?;
    Ok(())
}

/// Criteria of a list of what waits, or of decisions; an absent member does not restrict.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MatterFilter {
    /// The delegator, by issuer and name.
    pub delegator: Option<Principal>,
    /// The delegator by name alone.
    pub delegator_sub: Option<String>,
    pub kind: Option<MatterKind>,
    pub delegate: Option<String>,
    /// Requested, or decided, at or after this time.
    pub since: Option<OffsetDateTime>,
}

impl MatterFilter {
    /// Appends the conditions on the delegation or decision with the alias `d`.
    fn push(&self, query: &mut QueryBuilder<Postgres>) {
        if let Some(who) = &self.delegator {
            query.push(" AND d.delegator_sub = ").push_bind(who.sub.clone());
            query.push(" AND d.delegator_iss = ").push_bind(who.iss.clone());
        }
        let texts =
            [(" AND d.delegator_sub = ", &self.delegator_sub), (" AND d.delegate = ", &self.delegate)];
        for (condition, value) in texts {
            if let Some(value) = value {
                query.push(condition).push_bind(value.clone());
            }
        }
    }
}

/// The place of a decision in the list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PastDecision {
    pub decided_at: OffsetDateTime,
    pub id: Uuid,
}

/// A page of decisions, newest first.
pub async fn page(
    connection: &mut PgConnection,
    filter: &MatterFilter,
    after: Option<PastDecision>,
    limit: i64,
) -> Result<Vec<RecordedDecision>, Fault> {
    let mut query = QueryBuilder::new("SELECT * FROM decision d WHERE true");
    filter.push(&mut query);
    if let Some(kind) = filter.kind {
        query.push(" AND d.kind = ").push_bind(<&str>::from(kind));
    }
    if let Some(since) = filter.since {
        query.push(" AND d.decided_at >= ").push_bind(since);
    }
    if let Some(after) = after {
        query.push(" AND (d.decided_at, d.id) < (").push_bind(after.decided_at);
        query.push(", ").push_bind(after.id).push(")");
    }
    query.push(" ORDER BY d.decided_at DESC, d.id DESC LIMIT ").push_bind(limit);
    let rows: Vec<Row> = query.build_query_as().fetch_all(connection).await?;
    rows.into_iter().map(RecordedDecision::try_from).collect()
}

/// The decisions about a delegation, without those about single uses, or about one use; newest first, at most `most`.
pub async fn find_about(
    connection: &mut PgConnection,
    delegation_id: &str,
    ceremony: Option<Uuid>,
    most: i64,
) -> Result<Vec<RecordedDecision>, Fault> {
    let rows: Vec<Row> = sqlx::query_as(
        "SELECT * FROM decision WHERE delegation_id = $1 AND ceremony IS NOT DISTINCT FROM $2
         ORDER BY decided_at DESC, id DESC LIMIT $3",
    )
    .bind(delegation_id)
    .bind(ceremony)
    .bind(most)
    .fetch_all(connection)
    .await?;
    rows.into_iter().map(RecordedDecision::try_from).collect()
}

/// Removes the name of a deciding person. Decisions in place of others keep what was decided.
pub async fn forget_person(connection: &mut PgConnection, who: &Principal) -> Result<(), Fault> {
    sqlx::query("UPDATE decision SET by_iss = NULL, by_sub = NULL WHERE by_sub = $1 AND by_iss = $2")
        .bind(&who.sub)
        .bind(&who.iss)
        .execute(connection)
        .await?;
    Ok(())
}

/// Something that waits for a decision.
#[derive(Debug, Clone, PartialEq, Eq, FromRow)]
pub struct WaitingMatter {
    pub requested_at: OffsetDateTime,
    pub delegation_id: String,
    /// The confirmation, if one use waits.
    pub ceremony: Option<Uuid>,
}

impl WaitingMatter {
    /// The place in the list.
    pub fn cursor(&self) -> Cursor {
        let id = self.ceremony.map_or_else(|| self.delegation_id.clone(), |id| id.to_string());
        Cursor { requested_at: self.requested_at, id }
    }
}

/// A page of what waits for a decision, newest first. What waits for an ancestor only is left out.
pub async fn waiting(
    connection: &mut PgConnection,
    filter: &MatterFilter,
    after: Option<&Cursor>,
    limit: i64,
    now: OffsetDateTime,
) -> Result<Vec<WaitingMatter>, Fault> {
    let mut query = QueryBuilder::new("SELECT requested_at, delegation_id, ceremony FROM (");
    if filter.kind != Some(MatterKind::Use) {
        query.push(
            "(SELECT d.requested_at, d.id AS delegation_id, NULL::uuid AS ceremony, d.id AS place FROM delegation d
              WHERE NOT d.expiry_logged
                AND (d.activated_at IS NULL OR d.pending_jwk IS NOT NULL OR d.suspended_at IS NOT NULL)",
        );
        query.push(match filter.kind {
            Some(MatterKind::Request) => " AND d.activated_at IS NULL AND d.suspended_at IS NULL",
            Some(MatterKind::KeyRotation) => " AND d.pending_jwk IS NOT NULL AND d.suspended_at IS NULL",
            Some(MatterKind::Review) => " AND d.suspended_at IS NOT NULL",
            Some(MatterKind::Use) | None => "",
        });
        filter.push(&mut query);
        push_place(&mut query, filter, after, Place { time: "d.requested_at", id: "d.id" });
        query.push(" AND d.expires_at > ").push_bind(now);
        push_state(&mut query, now, DelegationState::Requested);
        query.push(NO_ANCESTOR_WAITS);
        query.push(" ORDER BY d.requested_at DESC, d.id DESC LIMIT ").push_bind(limit).push(")");
    }
    if filter.kind.is_none() {
        query.push(" UNION ALL ");
    }
    if matches!(filter.kind, None | Some(MatterKind::Use)) {
        // Few confirmations wait: `OFFSET 0` makes PostgreSQL begin with them.
        query.push(
            "(SELECT c.requested_at, c.delegation_id, c.id AS ceremony, c.id::text AS place FROM ceremony c
              CROSS JOIN LATERAL (SELECT * FROM delegation WHERE id = c.delegation_id OFFSET 0) d
              WHERE c.used_at IS NULL AND c.approved_at IS NULL AND c.denied_at IS NULL",
        );
        filter.push(&mut query);
        push_place(&mut query, filter, after, Place { time: "c.requested_at", id: "c.id::text" });
        query.push(" AND c.expires_at > ").push_bind(now);
        push_state(&mut query, now, DelegationState::Active);
        query.push(" ORDER BY c.requested_at DESC, c.id DESC LIMIT ").push_bind(limit).push(")");
    }
    query.push(") waiting ORDER BY requested_at DESC, place DESC LIMIT ").push_bind(limit);
    Ok(query.build_query_as().fetch_all(connection).await?)
}

/// Appends the condition on the state. As a `CASE`, PostgreSQL expects it to be true for half of the rows, so that it reads a
/// page in the order of the index.
fn push_state(query: &mut QueryBuilder<Postgres>, now: OffsetDateTime, state: DelegationState) {
    query.push(" AND CASE delegation_state(d.path, ").push_bind(now);
    query.push(") WHEN ").push_bind(state.name()).push(" THEN true ELSE false END");
}

/// The columns of a place in the list.
#[derive(Clone, Copy)]
struct Place {
    time: &'static str,
    id: &'static str,
}

fn push_place(
    query: &mut QueryBuilder<Postgres>,
    filter: &MatterFilter,
    after: Option<&Cursor>,
    columns: Place,
) {
    if let Some(since) = filter.since {
        query.push(" AND ").push(columns.time).push(" >= ").push_bind(since);
    }
    if let Some(after) = after {
        query.push(" AND (").push(columns.time).push(", ").push(columns.id).push(") < (");
        query.push_bind(after.requested_at).push(", ").push_bind(after.id.clone()).push(")");
    }
}
