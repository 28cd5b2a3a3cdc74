//! Counts what waits for a decision: requests, new keys, reviews, and confirmations of single uses. Reads only.

use serde::Serialize;
use sqlx::{PgConnection, Postgres, QueryBuilder};
use time::OffsetDateTime;

use super::list::{DelegationFilter, VisibilityScope};
use super::{DelegationState, list};
use crate::domain::principal::Principal;
use crate::platform::fault::Fault;

/// The highest number that is counted exactly.
pub const COUNTED: i64 = 1_000;

/// A number that is exact up to [`COUNTED`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct BoundedCount {
    pub number: i64,
    /// Whether there are more.
    pub at_least: bool,
}

impl BoundedCount {
    /// From a count that stopped one above [`COUNTED`].
    fn of(counted: i64) -> Self {
        Self { number: counted.min(COUNTED), at_least: counted > COUNTED }
    }
}

/// A condition on a delegation `d`: below an ancestor that waits, there is nothing to decide. As a `CASE`, it is evaluated for
/// the rows that are read, and is no join with all of them.
pub const NO_ANCESTOR_WAITS: &str = " AND CASE WHEN EXISTS (
    SELECT FROM delegation_status a WHERE a.id = ANY (d.path) AND a.id <> d.id AND a.waiting) THEN false ELSE true END";

/// Decisions that a delegator can make now; of all delegators for `None`.
pub async fn count(
    connection: &mut PgConnection,
    delegator: Option<&Principal>,
    now: OffsetDateTime,
) -> Result<BoundedCount, Fault> {
    let mut query = QueryBuilder::<Postgres>::new("SELECT count(*) FROM ((SELECT FROM delegation d WHERE ");
    of_delegator(&mut query, delegator);
    query.push(
        "d.revoked_at IS NULL AND (d.activated_at IS NULL OR d.pending_jwk IS NOT NULL OR d.suspended_at IS NOT NULL)
         AND d.expires_at > ",
    );
    query.push_bind(now).push(" AND delegation_state(d.path, ").push_bind(now);
    query.push(") = 'requested'").push(NO_ANCESTOR_WAITS).push(" LIMIT ").push_bind(COUNTED + 1);
    query.push(") UNION ALL (SELECT FROM ceremony c JOIN delegation d ON d.id = c.delegation_id WHERE ");
    of_delegator(&mut query, delegator);
    query.push("c.approved_at IS NULL AND c.denied_at IS NULL AND c.expires_at > ").push_bind(now);
    query.push(" AND delegation_state(d.path, ").push_bind(now);
    query.push(") = 'active' LIMIT ").push_bind(COUNTED + 1).push(")) waiting");
    let counted: i64 = query.build_query_scalar().fetch_one(connection).await?;
    Ok(BoundedCount::of(counted))
}

fn of_delegator(query: &mut QueryBuilder<Postgres>, delegator: Option<&Principal>) {
    if let Some(who) = delegator {
        query.push("d.delegator_sub = ").push_bind(who.sub.clone());
        query.push(" AND d.delegator_iss = ").push_bind(who.iss.clone()).push(" AND ");
    }
}

/// Rows of a list that are newer than a row that is shown, counted up to [`COUNTED`].
pub async fn count_newer(
    connection: &mut PgConnection,
    list: NewerRows<'_>,
    now: OffsetDateTime,
) -> Result<BoundedCount, Fault> {
    let NewerRows { visible, filter, newest } = list;
    let query = list::DelegationQuery { visible, filter, after: None, limit: COUNTED + 1, now };
    Ok(BoundedCount::of(list::count_newer(connection, query, newest).await?))
}

/// A list whose newest row is shown; `None` where it has no row.
#[derive(Debug, Clone, Copy)]
pub struct NewerRows<'a> {
    pub visible: &'a VisibilityScope,
    pub filter: &'a DelegationFilter,
    pub newest: Option<&'a list::Cursor>,
}

/// Ids of delegations with their states.
pub async fn states(
    connection: &mut PgConnection,
    ids: &[String],
    now: OffsetDateTime,
) -> Result<Vec<(String, DelegationState)>, Fault> {
    let rows: Vec<(String, String)> = sqlx::query_as(
        "SELECT d.id, delegation_state(d.path, $2) FROM delegation d WHERE d.id = ANY ($1) ORDER BY d.id",
    )
    .bind(ids)
    .bind(now)
    .fetch_all(connection)
    .await?;
    rows.into_iter()
        .map(|(id, state)| match state.parse() {
            Ok(state) => Ok((id, state)),
            Err(_) => Err(Fault::new(format!("{state} is no state of a delegation"))),
        })
        .collect()
}
