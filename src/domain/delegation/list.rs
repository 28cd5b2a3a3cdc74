//! Searches delegations, newest first. Pages neither lose nor repeat a row: a cursor is a time and an id, so that
//! rows of the same time keep their order.

use serde_json::json;
use sqlx::types::Json;
use sqlx::{PgConnection, Postgres, QueryBuilder};
use time::OffsetDateTime;

use super::DelegationState;
use crate::domain::principal::Principal;
use crate::domain::registry::VAULT_DETAIL;
use crate::platform::clock;
use crate::platform::fault::Fault;
use crate::platform::locks::KeyedLock;

/// The delegations that a caller may see in a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VisibilityScope {
    Everything,
    /// Everything rooted at this user.
    RootedAt(Principal),
    /// Delegations whose delegate or delegator is this principal.
    Of(Principal),
}

/// Search criteria; an absent member does not restrict.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DelegationFilter {
    /// The state, with the ancestors taken into account.
    pub state: Option<DelegationState>,
    pub delegator_iss: Option<String>,
    pub delegator_sub: Option<String>,
    pub delegate: Option<String>,
    pub parent: Option<String>,
    /// Delegations without a parent.
    pub is_root: bool,
    /// The task of the ephemeral agent that is the delegate.
    pub task_id: Option<String>,
    /// A connection of the vault that the authorization details name.
    pub connection: Option<String>,
    /// Requested at or after this time.
    pub from: Option<OffsetDateTime>,
    /// Requested before this time.
    pub to: Option<OffsetDateTime>,
}

/// The last row of a page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cursor {
    pub requested_at: OffsetDateTime,
    pub id: String,
}

impl Cursor {
    /// The text form that clients pass back. It has no information that the client has not seen.
    pub fn to_text(&self) -> String {
        format!("{}.{}", clock::micros(self.requested_at), self.id)
    }

    pub fn parse(text: &str) -> Option<Self> {
        let (micros, id) = text.split_once('.')?;
        let micros: i64 = micros.parse().ok()?;
        super::is_id(id).then(|| Self { requested_at: clock::from_micros(micros), id: id.to_owned() })
    }
}

/// Rows whose states a page by state derives; the next page goes on after them.
pub const MAX_DERIVED: i64 = 2_000;

/// A query for one page.
#[derive(Debug, Clone, Copy)]
pub struct DelegationQuery<'a> {
    pub visible: &'a VisibilityScope,
    pub filter: &'a DelegationFilter,
    pub after: Option<&'a Cursor>,
    /// Maximum number of rows.
    pub limit: i64,
    /// The time at which states are derived.
    pub now: OffsetDateTime,
}

/// The ids of declared delegations that have neither expired nor been revoked.
pub async fn declared(connection: &mut PgConnection, now: OffsetDateTime) -> Result<Vec<String>, Fault> {
    let ids = sqlx::query_scalar(
        "SELECT id FROM delegation WHERE origin = 'declared' AND revoked_at IS NULL AND expires_at > $1",
    );
    Ok(ids.bind(now).fetch_all(connection).await?)
}

/// One page, newest first. A filter by state derives the states of a bounded number of rows: see [`reached`].
pub async fn page(connection: &mut PgConnection, wanted: DelegationQuery<'_>) -> Result<Vec<Cursor>, Fault> {
    let mut query = QueryBuilder::new("SELECT requested_at, id FROM (");
    branches(&mut query, wanted, Rows::Page);
    query.push(") found ORDER BY requested_at DESC, id DESC LIMIT ").push_bind(wanted.limit);
    let rows: Vec<(OffsetDateTime, String)> = query.build_query_as().fetch_all(connection).await?;
    Ok(rows.into_iter().map(|(requested_at, id)| Cursor { requested_at, id }).collect())
}

/// The last row whose state a page derived, if there are more.
pub async fn reached(
    connection: &mut PgConnection,
    wanted: DelegationQuery<'_>,
) -> Result<Option<Cursor>, Fault> {
    if wanted.filter.state.is_none() {
        return Ok(None);
    }
    let mut query = QueryBuilder::new("SELECT requested_at, id FROM (");
    branches(&mut query, wanted, Rows::LastDerived);
    // Of two branches, the one that read fewer rows counts.
    query.push(") derived ORDER BY requested_at DESC, id DESC LIMIT 1");
    let row: Option<(OffsetDateTime, String)> = query.build_query_as().fetch_optional(connection).await?;
    Ok(row.map(|(requested_at, id)| Cursor { requested_at, id }))
}

/// What a branch of a query selects.
#[derive(Clone, Copy)]
enum Rows {
    Page,
    /// The last of the rows whose states are derived, if there are so many.
    LastDerived,
}

fn branches(query: &mut QueryBuilder<Postgres>, wanted: DelegationQuery<'_>, rows: Rows) {
    match wanted.visible {
        VisibilityScope::Everything => branch(query, wanted, rows, |query| {
            query.push("true");
        }),
        VisibilityScope::RootedAt(who) => branch(query, wanted, rows, |query| {
            query.push("d.root_iss = ").push_bind(who.iss.clone());
            query.push(" AND d.root_sub = ").push_bind(who.sub.clone());
        }),
        // Each branch uses an index of its own; a joint condition would use none.
        VisibilityScope::Of(who) => {
            branch(query, wanted, rows, |query| {
                query.push("d.delegate = ").push_bind(who.sub.clone());
            });
            query.push(" UNION ");
            branch(query, wanted, rows, |query| {
                query.push("d.delegator_iss = ").push_bind(who.iss.clone());
                query.push(" AND d.delegator_sub = ").push_bind(who.sub.clone());
            });
        }
    }
}

fn branch(
    query: &mut QueryBuilder<Postgres>,
    wanted: DelegationQuery<'_>,
    rows: Rows,
    visible: impl FnOnce(&mut QueryBuilder<Postgres>),
) {
    query.push(
        "(SELECT s.requested_at, s.id FROM (SELECT d.requested_at, d.id, d.path FROM delegation d WHERE ",
    );
    visible(query);
    let filter = wanted.filter;
    let texts = [
        (" AND d.delegator_iss = ", &filter.delegator_iss),
        (" AND d.delegator_sub = ", &filter.delegator_sub),
        (" AND d.delegate = ", &filter.delegate),
        (" AND d.parent = ", &filter.parent),
    ];
    for (condition, value) in texts {
        if let Some(value) = value {
            query.push(condition).push_bind(value.clone());
        }
    }
    if filter.is_root {
        query.push(" AND d.parent IS NULL");
    }
    if let Some(task) = &filter.task_id {
        query
            .push(" AND d.delegate IN (SELECT client_id FROM client WHERE task_id = ")
            .push_bind(task.clone());
        query.push(")");
    }
    if let Some(connection) = &filter.connection {
        let named = json!([{"type": VAULT_DETAIL, "identifier": connection}]);
        query.push(" AND d.authorization_details @> ").push_bind(Json(named));
    }
    if let Some(from) = filter.from {
        query.push(" AND d.requested_at >= ").push_bind(from);
    }
    if let Some(to) = filter.to {
        query.push(" AND d.requested_at < ").push_bind(to);
    }
    if let Some(after) = wanted.after {
        query.push(" AND (d.requested_at, d.id) < (").push_bind(after.requested_at);
        query.push(", ").push_bind(after.id.clone()).push(")");
    }
    query.push(" ORDER BY d.requested_at DESC, d.id DESC");
    match (rows, filter.state) {
        (Rows::LastDerived, _) => {
            query.push(" OFFSET ").push_bind(MAX_DERIVED - 1).push(" LIMIT 1) s)");
        }
        (Rows::Page, None) => {
            query.push(" LIMIT ").push_bind(wanted.limit).push(") s)");
        }
        (Rows::Page, Some(state)) => {
            query.push(" LIMIT ").push_bind(MAX_DERIVED).push(") s WHERE delegation_state(s.path, ");
            query.push_bind(wanted.now).push(") = ").push_bind(state.name());
            query.push(" ORDER BY s.requested_at DESC, s.id DESC LIMIT ").push_bind(wanted.limit).push(")");
        }
    }
}

/// Rows that are newer than `newest`, of everything or of one root; counted up to `wanted.limit`.
pub async fn count_newer(
    connection: &mut PgConnection,
    wanted: DelegationQuery<'_>,
    newest: Option<&Cursor>,
) -> Result<i64, Fault> {
    let root = match wanted.visible {
        VisibilityScope::Everything => None,
        VisibilityScope::RootedAt(who) => Some(who),
        VisibilityScope::Of(_) => return Err(Fault::new("agents count no delegations")),
    };
    let mut query = QueryBuilder::new("SELECT count(*) FROM ");
    branch(&mut query, wanted, Rows::Page, |query| {
        query.push("true");
        if let Some(who) = root {
            query.push(" AND d.root_iss = ").push_bind(who.iss.clone());
            query.push(" AND d.root_sub = ").push_bind(who.sub.clone());
        }
        if let Some(newest) = newest {
            query.push(" AND (d.requested_at, d.id) > (").push_bind(newest.requested_at);
            query.push(", ").push_bind(newest.id.clone()).push(")");
        }
    });
    query.push(" newer");
    Ok(query.build_query_scalar().fetch_one(connection).await?)
}

/// Active delegations without a parent that end within a day and under which a token was issued within a day: of all
/// roots, or of one. The next end first.
pub async fn ending_soon(
    connection: &mut PgConnection,
    root: Option<&Principal>,
    limit: i64,
    now: OffsetDateTime,
) -> Result<Vec<String>, Fault> {
    let ids = sqlx::query_scalar(
        "SELECT d.id FROM delegation d
         WHERE NOT d.expiry_logged AND d.expires_at > $1 AND d.expires_at <= $2 AND d.parent IS NULL
           AND d.revoked_at IS NULL AND d.origin <> 'may_act'
           AND ($3::text IS NULL OR (d.root_iss = $3 AND d.root_sub = $4))
           AND EXISTS (SELECT FROM issued_token t WHERE t.delegation_id = d.id AND t.issued_at > $5)
           AND delegation_state(d.path, $1) = 'active'
         ORDER BY d.expires_at, d.id LIMIT $6",
    );
    ids.bind(now)
        .bind(now + time::Duration::days(1))
        .bind(root.map(|root| &root.iss))
        .bind(root.map(|root| &root.sub))
        .bind(now - time::Duration::days(1))
        .bind(limit)
        .fetch_all(connection)
        .await
        .map_err(Fault::from)
}

/// Ids of children with their parents, newest first, at most `limit` of each parent.
pub async fn children(
    connection: &mut PgConnection,
    parents: &[String],
    limit: i64,
) -> Result<Vec<(String, Cursor)>, Fault> {
    let rows: Vec<(String, OffsetDateTime, String)> = sqlx::query_as(
        "SELECT p.id, c.requested_at, c.id FROM unnest($1::text[]) AS p (id) CROSS JOIN LATERAL (
             SELECT d.requested_at, d.id FROM delegation d WHERE d.parent = p.id
             ORDER BY d.requested_at DESC, d.id DESC LIMIT $2) c
         ORDER BY p.id, c.requested_at DESC, c.id DESC",
    )
    .bind(parents)
    .bind(limit)
    .fetch_all(connection)
    .await?;
    let child = |(parent, requested_at, id)| (parent, Cursor { requested_at, id });
    Ok(rows.into_iter().map(child).collect())
}

/// Requests that wait for one delegator.
#[derive(Debug, Clone, Copy, PartialEq, Eq, sqlx::FromRow)]
pub struct PendingRequests {
    /// Requests of all requesters, counted up to the bound.
    #[sqlx(rename = "all_of_them")]
    pub all: i64,
    /// Requests of the present requester.
    pub of_asker: i64,
}

/// Waits for its turn to send a request to a delegator, then counts the pending requests, up to `most`. Requests that
/// a revoke-all covers do not count. The turn lasts until the transaction ends, so that concurrent requests cannot
/// exceed the limit.
pub async fn waiting(
    connection: &mut PgConnection,
    delegator: &Principal,
    asker: Option<&Principal>,
    most: i64,
    now: OffsetDateTime,
) -> Result<PendingRequests, Fault> {
    sqlx::query("SELECT pg_advisory_xact_lock($3, hashtext($1 || E'\\n' || $2))")
        .bind(&delegator.iss)
        .bind(&delegator.sub)
        .bind(KeyedLock::PendingRequests.number())
        .execute(&mut *connection)
        .await?;
    let count = sqlx::query_as(
        "SELECT count(*) AS all_of_them,
                count(*) FILTER (WHERE requested_by_iss = $5 AND requested_by_sub = $6) AS of_asker FROM (
             SELECT requested_by_iss, requested_by_sub FROM delegation_status
             WHERE delegator_iss = $1 AND delegator_sub = $2 AND activated_at IS NULL
               AND delegation_problem($3, expires_at, revoked_at, principal_revoked) IS NULL LIMIT $4) waiting",
    )
    .bind(&delegator.iss)
    .bind(&delegator.sub)
    .bind(now)
    .bind(most)
    .bind(asker.map(|who| &who.iss))
    .bind(asker.map(|who| &who.sub))
    .fetch_one(connection)
    .await?;
    Ok(count)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::platform::clock::from_micros;

    #[test]
    fn a_position_comes_back_as_it_went() {
        let position = Cursor { requested_at: from_micros(1_767_225_600_000_001), id: "a.b-C~1".into() };
        assert_eq!(Cursor::parse(&position.to_text()), Some(position));
        for text in ["", "1", "x.a", "1.", "1.a b", "1.a\0"] {
            assert_eq!(Cursor::parse(text), None, "{text:?}");
        }
    }
}
