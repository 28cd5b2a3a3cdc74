//! Delegations in PostgreSQL.

use std::collections::HashMap;

use serde_json::Value;
use sqlx::types::Json;
use sqlx::{FromRow, PgConnection};
use time::OffsetDateTime;

use super::{AgentDescription, Delegation, Facts, Origin, Path, Terms};
use crate::domain::limit::Limit;
use crate::domain::principal::Principal;
use crate::platform::fault::{During, Fault};
use crate::protocol::authorization_details::Details;

#[derive(FromRow)]
struct Row {
    id: String,
    path: Vec<String>,
    parent: Option<String>,
    root_iss: String,
    root_sub: String,
    delegator_iss: String,
    delegator_sub: String,
    delegate: String,
    scopes: Option<Vec<String>>,
    audiences: Option<Vec<String>>,
    authorization_details: Option<Value>,
    capability_ceiling: Option<String>,
    ceremony_required_for: Vec<String>,
    max_depth: Option<i32>,
    max_uses: Option<i64>,
    origin: Origin,
    requested_at: OffsetDateTime,
    requested_by_iss: Option<String>,
    requested_by_sub: Option<String>,
    lifetime: Option<i32>,
    reason: Option<String>,
    agent: Option<Json<AgentDescription>>,
    rebinding: Option<Value>,
    cut_off: bool,
    activated_at: Option<OffsetDateTime>,
    expires_at: OffsetDateTime,
    revoked_at: Option<OffsetDateTime>,
    revoke_reason: Option<String>,
    uses: i64,
}

impl TryFrom<Row> for Delegation {
    type Error = Fault;

    fn try_from(row: Row) -> Result<Self, Fault> {
        let details = match row.authorization_details {
            None => None,
            Some(value) => Some(Details::from_value(&value).ok_or_else(|| {
                Fault::new(format!("delegation {}: its authorization_details cannot be read", row.id))
            })?),
        };
        Ok(Self {
            id: row.id,
            path: row.path,
            parent: row.parent,
            root: Principal::new(row.root_iss, row.root_sub),
            delegator: Principal::new(row.delegator_iss, row.delegator_sub),
            delegate: row.delegate,
            terms: Terms {
                scopes: Limit::from_stored(row.scopes),
                audiences: Limit::from_stored(row.audiences),
                details,
                ceiling: row.capability_ceiling,
                ceremonies: row.ceremony_required_for.into_iter().collect(),
                // A stored value that does not fit can only be negative, and allows nothing.
                max_depth: row.max_depth.map(|depth| u32::try_from(depth).unwrap_or_default()),
            },
            origin: row.origin,
            requested_at: row.requested_at,
            requested_by: row
                .requested_by_iss
                .zip(row.requested_by_sub)
                .map(|(iss, sub)| Principal::new(iss, sub)),
            facts: Facts {
                activated_at: row.activated_at,
                expires_at: row.expires_at,
                revoked_at: row.revoked_at,
                cut_off: row.cut_off,
                rebinding: row.rebinding.is_some(),
                max_uses: row.max_uses,
                uses: row.uses,
            },
            lifetime: row.lifetime.and_then(|seconds| u32::try_from(seconds).ok()),
            reason: row.reason,
            agent: row.agent.map(|agent| agent.0),
            revoke_reason: row.revoke_reason,
        })
    }
}

/// The most delegations that are considered for one hop: those that were activated and not taken back come first, and of
/// them those that last longest.
const MOST_CANDIDATES: i64 = 16;

/// Which delegations might let a client take a subject's place.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Search {
    /// This one.
    Exactly(String),
    /// Those that this principal gave the client at the root, and the one by this id.
    Roots {
        /// Who gave them.
        delegator: Principal,
        /// Who holds them.
        delegate: String,
        /// One more to look at, whoever gave it: the one that a `may_act` claim led to.
        also: Option<String>,
    },
    /// Those that hang below this one and are held by the client.
    Below {
        /// The one above.
        parent: String,
        /// Who holds them.
        delegate: String,
    },
}

/// Finds the paths of the delegations searched for, in one read.
pub async fn paths(connection: &mut PgConnection, search: &Search) -> Result<Vec<Path>, Fault> {
    let rows: Vec<Row> = match search {
        Search::Exactly(id) => {
            sqlx::query_as(
                "SELECT d.* FROM delegation_now d
                 WHERE d.id = ANY (SELECT unnest(path) FROM delegation WHERE id = $1)",
            )
            .bind(id)
            .fetch_all(connection)
            .await?
        }
        Search::Roots { delegator, delegate, also } => {
            sqlx::query_as(
                "SELECT d.* FROM delegation_now d
                 WHERE d.id = $4 OR d.id = ANY (ARRAY(
                     SELECT id FROM delegation
                     WHERE parent IS NULL AND origin <> 'may_act' AND delegator_iss = $1 AND delegator_sub = $2
                       AND delegate = $3
                     ORDER BY revoked_at IS NULL AND activated_at IS NOT NULL DESC, expires_at DESC, id LIMIT $5))",
            )
            .bind(&delegator.iss)
            .bind(&delegator.sub)
            .bind(delegate)
            .bind(also)
            .bind(MOST_CANDIDATES)
            .fetch_all(connection)
            .await?
        }
        Search::Below { parent, delegate } => {
            sqlx::query_as(
                "SELECT d.* FROM delegation_now d
                 WHERE d.id = ANY (SELECT unnest(path) FROM
                     (SELECT path FROM delegation WHERE parent = $1 AND delegate = $2
                      ORDER BY revoked_at IS NULL AND activated_at IS NOT NULL DESC, expires_at DESC, id LIMIT $3) found)",
            )
            .bind(parent)
            .bind(delegate)
            .bind(MOST_CANDIDATES)
            .fetch_all(connection)
            .await?
        }
    };
    let found = rows.into_iter().map(Delegation::try_from).collect::<Result<Vec<_>, _>>()?;
    assemble(found, search)
}

/// Puts each leaf together with its ancestors.
fn assemble(found: Vec<Delegation>, search: &Search) -> Result<Vec<Path>, Fault> {
    let is_leaf = |delegation: &&Delegation| match search {
        Search::Exactly(id) => delegation.id == *id,
        Search::Roots { .. } => true,
        Search::Below { parent, delegate } => {
            delegation.parent.as_ref() == Some(parent) && delegation.delegate == *delegate
        }
    };
    let by_id: HashMap<&str, &Delegation> = found.iter().map(|one| (one.id.as_str(), one)).collect();
    let mut leaves: Vec<&Delegation> = found.iter().filter(is_leaf).collect();
    leaves.sort_by(|left, right| {
        let usable = |one: &Delegation| one.facts.revoked_at.is_none() && one.facts.activated_at.is_some();
        let key = |one: &Delegation| (!usable(one), std::cmp::Reverse(one.facts.expires_at));
        key(left).cmp(&key(right)).then_with(|| left.id.cmp(&right.id))
    });
    leaves
        .into_iter()
        .map(|leaf| {
            let path = leaf.path.iter().map(|id| by_id.get(id.as_str()).map(|one| (*one).clone()));
            path.collect::<Option<Vec<_>>>().map(Path).ok_or_else(|| {
                Fault::new(format!("delegation {} has an ancestor that is not there", leaf.id))
            })
        })
        .collect()
}

/// One delegation.
pub async fn find(connection: &mut PgConnection, id: &str) -> Result<Option<Delegation>, Fault> {
    let row: Option<Row> = sqlx::query_as("SELECT * FROM delegation_now WHERE id = $1")
        .bind(id)
        .fetch_optional(connection)
        .await?;
    row.map(Delegation::try_from).transpose()
}

/// A delegation with everything above it.
pub async fn path(connection: &mut PgConnection, id: &str) -> Result<Option<Path>, Fault> {
    if !super::is_id(id) {
        return Ok(None);
    }
    let found = paths(connection, &Search::Exactly(id.to_owned())).await?;
    Ok(found.into_iter().next())
}

/// Several delegations with everything above them, in the order asked for; those that are not there are left out.
pub async fn all_paths(connection: &mut PgConnection, ids: &[String]) -> Result<Vec<Path>, Fault> {
    let rows: Vec<Row> = sqlx::query_as(
        "SELECT d.* FROM delegation_now d
         WHERE d.id = ANY (SELECT DISTINCT unnest(path) FROM delegation WHERE id = ANY ($1))",
    )
    .bind(ids)
    .fetch_all(connection)
    .await?;
    let found = rows.into_iter().map(Delegation::try_from).collect::<Result<Vec<_>, _>>()?;
    let by_id: HashMap<&str, &Delegation> = found.iter().map(|one| (one.id.as_str(), one)).collect();
    let path_of = |id: &String| {
        let leaf = by_id.get(id.as_str())?;
        let path: Option<Vec<_>> =
            leaf.path.iter().map(|id| by_id.get(id.as_str()).map(|one| (*one).clone())).collect();
        path.map(Path)
    };
    Ok(ids.iter().filter_map(path_of).collect())
}

/// Inserts a delegation; `false` if one of that id is there already.
pub async fn insert(connection: &mut PgConnection, one: &Delegation) -> Result<bool, Fault> {
    let details = stored_details(&one.terms)?;
    let done = sqlx::query(
        "INSERT INTO delegation (id, path, parent, root_iss, root_sub, delegator_iss, delegator_sub, delegate, scopes,
                                 audiences, authorization_details, max_depth, max_uses, origin, requested_at,
                                 activated_at, expires_at, capability_ceiling, ceremony_required_for, reason, agent,
                                 requested_by_iss, requested_by_sub, lifetime)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22,
                 $23, $24)
         ON CONFLICT (id) DO NOTHING",
    )
    .bind(&one.id)
    .bind(&one.path)
    .bind(&one.parent)
    .bind(&one.root.iss)
    .bind(&one.root.sub)
    .bind(&one.delegator.iss)
    .bind(&one.delegator.sub)
    .bind(&one.delegate)
    .bind(one.terms.scopes.to_stored())
    .bind(one.terms.audiences.to_stored())
    .bind(details)
    .bind(one.terms.max_depth.map(stored_number))
    .bind(one.facts.max_uses)
    .bind(one.origin)
    .bind(one.requested_at)
    .bind(one.facts.activated_at)
    .bind(one.facts.expires_at)
    .bind(&one.terms.ceiling)
    .bind(one.terms.ceremonies.iter().cloned().collect::<Vec<_>>())
    .bind(&one.reason)
    .bind(one.agent.as_ref().map(Json))
    .bind(one.requested_by.as_ref().map(|who| &who.iss))
    .bind(one.requested_by.as_ref().map(|who| &who.sub))
    .bind(one.lifetime.map(stored_number))
    .execute(&mut *connection)
    .await?;
    if done.rows_affected() == 0 {
        return Ok(false);
    }
    limit_uses(connection, one).await?;
    Ok(true)
}

fn stored_details(terms: &Terms) -> Result<Option<Value>, Fault> {
    terms.details.as_ref().map(serde_json::to_value).transpose().during("writing a delegation")
}

fn stored_number(number: u32) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

async fn limit_uses(connection: &mut PgConnection, one: &Delegation) -> Result<(), Fault> {
    if one.facts.max_uses.is_some() {
        sqlx::query(
            "INSERT INTO delegation_usage (delegation_id, uses) VALUES ($1, 0) ON CONFLICT DO NOTHING",
        )
        .bind(&one.id)
        .execute(connection)
        .await?;
    }
    Ok(())
}

/// Takes a delegation back; `false` if that has been done already, or there is none. One row, whatever hangs below.
pub async fn mark_revoked(
    connection: &mut PgConnection,
    id: &str,
    reason: &str,
    now: OffsetDateTime,
) -> Result<bool, Fault> {
    let done = sqlx::query(
        "UPDATE delegation SET revoked_at = $3, revoke_reason = $2, end_recorded = true
         WHERE id = $1 AND revoked_at IS NULL AND expires_at > $3",
    )
    .bind(id)
    .bind(reason)
    .bind(now)
    .execute(connection)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Denies what waits for its delegator; `false` if it does not wait any more.
pub async fn mark_denied(
    connection: &mut PgConnection,
    id: &str,
    reason: &str,
    now: OffsetDateTime,
) -> Result<bool, Fault> {
    let done = sqlx::query(
        "UPDATE delegation SET revoked_at = $3, revoke_reason = $2, end_recorded = true
         WHERE id = $1 AND revoked_at IS NULL AND expires_at > $3
           AND (activated_at IS NULL OR rebinding IS NOT NULL)",
    )
    .bind(id)
    .bind(reason)
    .bind(now)
    .execute(connection)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Writes what an approval made of a request, if it still waits; `false` if it does not.
pub async fn mark_approved(connection: &mut PgConnection, one: &Delegation) -> Result<bool, Fault> {
    let done = sqlx::query(
        "UPDATE delegation SET activated_at = $2, expires_at = $3, scopes = $4, audiences = $5, authorization_details = $6,
             capability_ceiling = $7, ceremony_required_for = $8, max_depth = $9, max_uses = $10, lifetime = NULL,
             rebinding = NULL
         WHERE id = $1 AND revoked_at IS NULL AND expires_at > $2 AND (activated_at IS NULL OR rebinding IS NOT NULL)",
    )
    .bind(&one.id)
    .bind(one.facts.activated_at)
    .bind(one.facts.expires_at)
    .bind(one.terms.scopes.to_stored())
    .bind(one.terms.audiences.to_stored())
    .bind(stored_details(&one.terms)?)
    .bind(&one.terms.ceiling)
    .bind(one.terms.ceremonies.iter().cloned().collect::<Vec<_>>())
    .bind(one.terms.max_depth.map(stored_number))
    .bind(one.facts.max_uses)
    .execute(&mut *connection)
    .await?;
    if done.rows_affected() == 0 {
        return Ok(false);
    }
    limit_uses(connection, one).await?;
    Ok(true)
}

/// Moves the end of an active delegation; `false` if it is not active any more, or ends otherwise than was read.
pub async fn mark_renewed(
    connection: &mut PgConnection,
    id: &str,
    (from, to): (OffsetDateTime, OffsetDateTime),
    now: OffsetDateTime,
) -> Result<bool, Fault> {
    let done = sqlx::query(
        "UPDATE delegation SET expires_at = $3
         WHERE id = $1 AND revoked_at IS NULL AND activated_at IS NOT NULL AND expires_at = $2 AND expires_at > $4",
    )
    .bind(id)
    .bind(from)
    .bind(to)
    .bind(now)
    .execute(connection)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Makes a delegation wait for its delegator to confirm another key; `false` if it has ended.
pub async fn mark_rebinding(
    connection: &mut PgConnection,
    id: &str,
    jwk: &Value,
    now: OffsetDateTime,
) -> Result<bool, Fault> {
    let done = sqlx::query(
        "UPDATE delegation SET rebinding = $2
         WHERE id = $1 AND revoked_at IS NULL AND activated_at IS NOT NULL AND expires_at > $3",
    )
    .bind(id)
    .bind(jwk)
    .bind(now)
    .execute(connection)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// The key that waits for the delegator.
pub async fn find_rebinding(connection: &mut PgConnection, id: &str) -> Result<Option<Value>, Fault> {
    let found: Option<Option<Value>> = sqlx::query_scalar("SELECT rebinding FROM delegation WHERE id = $1")
        .bind(id)
        .fetch_optional(connection)
        .await?;
    Ok(found.flatten())
}

/// Locks and reads the counts of a path, in the order in which everybody locks them.
pub async fn lock_usage(
    connection: &mut PgConnection,
    ids: &[String],
) -> Result<HashMap<String, i64>, Fault> {
    let rows: Vec<(String, i64)> = sqlx::query_as(
        "SELECT delegation_id, uses FROM delegation_usage
         WHERE delegation_id = ANY ($1) ORDER BY delegation_id FOR NO KEY UPDATE",
    )
    .bind(ids)
    .fetch_all(connection)
    .await?;
    Ok(rows.into_iter().collect())
}

/// Adds reported commands to locked counts; those that reach their limit are exhausted from then on. Gives their ids.
pub async fn mark_used(
    connection: &mut PgConnection,
    ids: &[String],
    count: i64,
    now: OffsetDateTime,
) -> Result<Vec<String>, Fault> {
    let exhausted: Vec<(String, bool)> = sqlx::query_as(
        "UPDATE delegation_usage u
         SET uses = u.uses + $2, exhausted_at = CASE WHEN u.uses + $2 >= d.max_uses THEN $3 END
         FROM delegation d WHERE d.id = u.delegation_id AND u.delegation_id = ANY ($1)
         RETURNING u.delegation_id, u.exhausted_at IS NOT NULL",
    )
    .bind(ids)
    .bind(count)
    .bind(now)
    .fetch_all(connection)
    .await?;
    Ok(exhausted.into_iter().filter_map(|(id, exhausted)| exhausted.then_some(id)).collect())
}

/// Those that have come to their end without the log knowing it yet; they are marked as known. Oldest end first.
pub async fn mark_ends_recorded(
    connection: &mut PgConnection,
    until: OffsetDateTime,
    most: i64,
) -> Result<Vec<String>, Fault> {
    let ids = sqlx::query_scalar(
        "UPDATE delegation SET end_recorded = true
         WHERE id = ANY (ARRAY(SELECT id FROM delegation WHERE expires_at <= $1 AND NOT end_recorded
                               ORDER BY expires_at, id LIMIT $2 FOR UPDATE SKIP LOCKED))
         RETURNING id",
    )
    .bind(until)
    .bind(most)
    .fetch_all(connection)
    .await?;
    Ok(ids)
}

/// Takes several delegations back; gives those that had not ended.
pub async fn mark_all_revoked(
    connection: &mut PgConnection,
    ids: &[String],
    reason: &str,
    now: OffsetDateTime,
) -> Result<Vec<String>, Fault> {
    let revoked = sqlx::query_scalar(
        "UPDATE delegation SET revoked_at = $3, revoke_reason = $2, end_recorded = true
         WHERE id = ANY ($1) AND revoked_at IS NULL AND expires_at > $3 RETURNING id",
    )
    .bind(ids)
    .bind(reason)
    .bind(now)
    .fetch_all(connection)
    .await?;
    Ok(revoked)
}

/// Notes that the log knows of their end.
pub async fn mark_end_recorded(connection: &mut PgConnection, ids: &[String]) -> Result<(), Fault> {
    sqlx::query("UPDATE delegation SET end_recorded = true WHERE id = ANY ($1)")
        .bind(ids)
        .execute(connection)
        .await?;
    Ok(())
}
