//! Delegations in PostgreSQL.

use std::collections::HashMap;

use serde_json::Value;
use sqlx::types::Json;
use sqlx::{FromRow, PgConnection};
use time::OffsetDateTime;

use super::{AgentDescription, Delegation, Facts, Origin, Path, Terms};
use crate::domain::limit::Limit;
use crate::domain::principal::Principal;
use crate::platform::fault::Fault;
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
            pending_jwk: row.rebinding,
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
