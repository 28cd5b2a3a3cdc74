//! Delegations in PostgreSQL.

use std::collections::HashMap;

use serde_json::Value;
use sqlx::{FromRow, PgConnection};
use time::OffsetDateTime;

use super::{Delegation, Facts, Origin, Path};
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
    max_depth: Option<i32>,
    max_uses: Option<i64>,
    origin: Origin,
    requested_at: OffsetDateTime,
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
            scopes: Limit::from_stored(row.scopes),
            audiences: Limit::from_stored(row.audiences),
            details,
            // A stored value that does not fit can only be negative, and allows nothing.
            max_depth: row.max_depth.map(|depth| u32::try_from(depth).unwrap_or_default()),
            origin: row.origin,
            requested_at: row.requested_at,
            facts: Facts {
                activated_at: row.activated_at,
                expires_at: row.expires_at,
                revoked_at: row.revoked_at,
                max_uses: row.max_uses,
                uses: row.uses,
            },
            revoke_reason: row.revoke_reason,
        })
    }
}

/// The most delegations that are considered for one hop; those that last longest first.
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
                "SELECT d.*, coalesce(u.uses, 0) AS uses
                 FROM delegation d LEFT JOIN delegation_usage u ON u.delegation_id = d.id
                 WHERE d.id = ANY (SELECT unnest(path) FROM delegation WHERE id = $1)",
            )
            .bind(id)
            .fetch_all(connection)
            .await?
        }
        Search::Roots { delegator, delegate, also } => {
            sqlx::query_as(
                "SELECT d.*, coalesce(u.uses, 0) AS uses
                 FROM (SELECT id FROM delegation
                       WHERE parent IS NULL AND origin = 'declared' AND delegator_iss = $1 AND delegator_sub = $2 AND delegate = $3
                       ORDER BY revoked_at IS NULL DESC, expires_at DESC, id LIMIT $5) found
                 JOIN delegation d ON d.id = found.id LEFT JOIN delegation_usage u ON u.delegation_id = d.id
                 UNION
                 SELECT d.*, coalesce(u.uses, 0) AS uses
                 FROM delegation d LEFT JOIN delegation_usage u ON u.delegation_id = d.id WHERE d.id = $4",
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
                "SELECT d.*, coalesce(u.uses, 0) AS uses
                 FROM delegation d LEFT JOIN delegation_usage u ON u.delegation_id = d.id
                 WHERE d.id = ANY (SELECT unnest(path) FROM
                     (SELECT path FROM delegation WHERE parent = $1 AND delegate = $2
                      ORDER BY revoked_at IS NULL DESC, expires_at DESC, id LIMIT $3) found)",
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
        let key =
            |one: &Delegation| (one.facts.revoked_at.is_some(), std::cmp::Reverse(one.facts.expires_at));
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
    let row: Option<Row> = sqlx::query_as(
        "SELECT d.*, coalesce(u.uses, 0) AS uses
         FROM delegation d LEFT JOIN delegation_usage u ON u.delegation_id = d.id WHERE d.id = $1",
    )
    .bind(id)
    .fetch_optional(connection)
    .await?;
    row.map(Delegation::try_from).transpose()
}

/// Inserts a delegation; `false` if one of that id is there already.
pub async fn insert(connection: &mut PgConnection, one: &Delegation) -> Result<bool, Fault> {
    let details =
        one.details.as_ref().map(serde_json::to_value).transpose().during("writing a delegation")?;
    let done = sqlx::query(
        "INSERT INTO delegation (id, path, parent, root_iss, root_sub, delegator_iss, delegator_sub, delegate, scopes,
                                 audiences, authorization_details, max_depth, max_uses, origin, requested_at,
                                 activated_at, expires_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17)
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
    .bind(one.scopes.to_stored())
    .bind(one.audiences.to_stored())
    .bind(details)
    .bind(one.max_depth.map(|depth| i32::try_from(depth).unwrap_or(i32::MAX)))
    .bind(one.facts.max_uses)
    .bind(one.origin)
    .bind(one.requested_at)
    .bind(one.facts.activated_at)
    .bind(one.facts.expires_at)
    .execute(&mut *connection)
    .await?;
    if done.rows_affected() == 0 {
        return Ok(false);
    }
    if one.facts.max_uses.is_some() {
        sqlx::query("INSERT INTO delegation_usage (delegation_id, uses) VALUES ($1, 0)")
            .bind(&one.id)
            .execute(connection)
            .await?;
    }
    Ok(true)
}

/// Takes a delegation back; `false` if that has been done already, or there is none. One row, whatever hangs below.
pub async fn mark_revoked(
    connection: &mut PgConnection,
    id: &str,
    reason: &str,
    now: OffsetDateTime,
) -> Result<bool, Fault> {
    let done = sqlx::query(
        "UPDATE delegation SET revoked_at = $3, revoke_reason = $2 WHERE id = $1 AND revoked_at IS NULL",
    )
    .bind(id)
    .bind(reason)
    .bind(now)
    .execute(connection)
    .await?;
    Ok(done.rows_affected() == 1)
}
