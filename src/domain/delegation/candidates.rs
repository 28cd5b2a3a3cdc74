//! The delegations that may give a client the authority for one exchange: filtered by the request, narrowest first.

use std::collections::{BTreeSet, HashMap};
use std::ops::Deref;

use sqlx::{FromRow, PgConnection};
use time::OffsetDateTime;

use super::store::{DelegationRow, all_paths, with_ancestors};
use super::{Delegation, DelegationPath};
use crate::domain::principal::Principal;
use crate::domain::row_mac::RowMac;
use crate::platform::fault::Fault;

/// Whether cached rows may be used. A request that the ledger returned for another decision reads the database: the
/// cache may still have rows from before the change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Memory {
    #[default]
    Usable,
    Outdated,
}

/// Delegations of one page. The next page is read only where no delegation of this page grants the request.
const PAGE: usize = 16;

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum DelegationSearch {
    Exactly(String),
    Candidates(Box<Candidates>),
}

/// Active delegations from one delegator to one delegate that do not exclude the requested limits.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Candidates {
    pub between: Between,
    pub asked: ComparedLimits,
    /// The delegation of a `may_act` claim, in any state. It comes last.
    pub claimed: Option<String>,
}

/// The two sides of a delegation.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Between {
    pub giver: DelegatorSide,
    pub delegate: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum DelegatorSide {
    /// A root delegation of this principal.
    Root(Principal),
    /// A child of this delegation.
    Parent(String),
}

/// The limits that an exchange requests, as far as PostgreSQL can compare them with the limits of a delegation.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct ComparedLimits {
    /// The delegation has to allow all of these scopes.
    pub scopes: Option<BTreeSet<String>>,
    /// The delegation has to allow all of these audiences.
    pub audiences: Option<BTreeSet<String>>,
    /// The requested capability and all higher ones, lowest first.
    pub capabilities: Option<Vec<String>>,
    /// All configured capabilities, lowest first.
    pub capability_levels: Vec<String>,
    /// Actors of the token that the exchange would issue.
    pub depth: u32,
}

/// Delegations found, narrowest first.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct CandidatePaths {
    /// Each delegation with its ancestors.
    pub paths: Vec<DelegationPath>,
    /// Whether the page is the last one.
    pub extent: Extent,
    /// The number of changes among the candidates at the time of the read.
    pub version: Option<i64>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Extent {
    #[default]
    Whole,
    /// At least one more delegation follows.
    Page,
}

impl CandidatePaths {
    /// The number of delegations with their ancestors, at least one: the weight of a cache entry.
    pub fn weight(&self) -> u32 {
        let delegations: usize = self.paths.iter().map(|path| path.0.len()).sum();
        u32::try_from(delegations.max(1)).unwrap_or(u32::MAX)
    }
}

impl Deref for CandidatePaths {
    type Target = [DelegationPath];

    fn deref(&self) -> &[DelegationPath] {
        &self.paths
    }
}

impl Between {
    /// The key of `candidate_version`: parent, issuer and subject of the delegator.
    pub(in crate::domain) fn key(&self) -> (&str, &str, &str) {
        match &self.giver {
            DelegatorSide::Root(who) => ("", &who.iss, &who.sub),
            DelegatorSide::Parent(id) => (id, "", ""),
        }
    }
}

#[derive(FromRow)]
struct Placed {
    #[sqlx(flatten)]
    row: DelegationRow,
    place: Option<i64>,
    version: Option<i64>,
}

/// $1 to $4 are the two sides: parent, issuer and subject of the delegator, delegate. A part that a side does not
/// have is the empty string, so that every statement has all four parameters.
macro_rules! statements {
    ($between:literal) => {
        Statements {
            page: concat!(
                "WITH leaf AS MATERIALIZED (
                     SELECT c.id, c.path, row_number() OVER (
                         ORDER BY c.claimed, cardinality(c.scopes), cardinality(c.audiences),
                                  jsonb_array_length(c.authorization_details),
                                  array_position($6::text[], c.capability_ceiling), c.max_depth, c.max_uses,
                                  c.expires_at, c.id) AS place
                     FROM (
                         SELECT d.*, false AS claimed FROM delegation d
                         WHERE ",
                $between,
                "          AND d.revoked_at IS NULL AND d.expires_at > $5 AND d.id <> ALL ($7)
                           AND (d.scopes IS NULL OR $8::text[] IS NULL OR d.scopes @> $8)
                           AND (d.audiences IS NULL OR $9::text[] IS NULL OR d.audiences @> $9)
                           AND (d.capability_ceiling IS NULL OR $10::text[] IS NULL OR d.capability_ceiling = ANY ($10))
                           AND (d.max_depth IS NULL OR d.max_depth >= $11)
                           AND delegation_state(d.path, $5) = 'active'
                         UNION ALL
                         SELECT d.*, true FROM delegation d WHERE d.id = $12
                     ) c
                     ORDER BY place LIMIT $13
                 )
                 SELECT d.*, m.mac, leaf.place,
                        (SELECT v.version FROM candidate_version v
                         WHERE v.delegate = $4 AND v.parent = $1 AND v.delegator_iss = $2 AND v.delegator_sub = $3
                        ) AS version
                 FROM delegation_status d JOIN delegation m ON m.id = d.id LEFT JOIN leaf ON leaf.id = d.id
                 WHERE d.id = ANY (ARRAY(SELECT unnest(path) FROM leaf))"
            ),
            ended: concat!(
                "SELECT d.id FROM delegation d WHERE ",
                $between,
                " ORDER BY d.revoked_at IS NULL AND d.activated_at IS NOT NULL DESC, d.expires_at DESC, d.id LIMIT $5"
            ),
        }
    };
}

struct Statements {
    /// Candidates with their ancestors. A candidate without a limit comes after the candidates that have this limit.
    page: &'static str,
    /// Delegations between the two sides, in any state.
    ended: &'static str,
}

const AT_ROOT: Statements = statements!(
    "d.parent IS NULL AND d.origin <> 'may_act' AND d.delegator_iss = $2 AND d.delegator_sub = $3 AND d.delegate = $4
     AND $1 = ''"
);
const BELOW: Statements = statements!("d.parent = $1 AND d.delegate = $4 AND $2 = '' AND $3 = ''");

impl DelegatorSide {
    fn statements(&self) -> Statements {
        match self {
            Self::Root(_) => AT_ROOT,
            Self::Parent(_) => BELOW,
        }
    }
}

/// Reads the next page of candidates, without those in `seen`, narrowest first.
pub async fn find(
    rows: &RowMac,
    connection: &mut PgConnection,
    search: &DelegationSearch,
    seen: &[String],
    now: OffsetDateTime,
) -> Result<CandidatePaths, Fault> {
    let wanted = match search {
        DelegationSearch::Exactly(id) if super::is_id(id) => {
            let paths = all_paths(rows, connection, std::slice::from_ref(id)).await?;
            return Ok(CandidatePaths { paths, ..CandidatePaths::default() });
        }
        DelegationSearch::Exactly(_) => return Ok(CandidatePaths::default()),
        DelegationSearch::Candidates(wanted) => wanted,
    };
    let Candidates { between, asked, claimed } = wanted.as_ref();
    let (parent, iss, sub) = between.key();
    let names = |set: &Option<BTreeSet<String>>| set.as_ref().map(|names| Vec::from_iter(names.clone()));
    // One row more than a page shows whether another page follows.
    let most = PAGE + 1;
    let read: Vec<Placed> = sqlx::query_as(between.giver.statements().page)
        .bind(parent)
        .bind(iss)
        .bind(sub)
        .bind(&between.delegate)
        .bind(now)
        .bind(&asked.capability_levels)
        .bind(seen)
        .bind(names(&asked.scopes))
        .bind(names(&asked.audiences))
        .bind(&asked.capabilities)
        .bind(i32::try_from(asked.depth).unwrap_or(i32::MAX))
        .bind(claimed)
        .bind(i64::try_from(most).unwrap_or(i64::MAX))
        .fetch_all(connection)
        .await?;
    let version = read.first().and_then(|placed| placed.version);
    let mut places: Vec<(i64, String)> = Vec::new();
    let mut found = Vec::with_capacity(read.len());
    for Placed { row, place, .. } in read {
        let one = row.check(rows)?;
        places.extend(place.map(|place| (place, one.id.clone())));
        found.push(one);
    }
    places.sort_unstable();
    let extent = if places.len() > PAGE { Extent::Page } else { Extent::Whole };
    let by_id: HashMap<&str, &Delegation> = found.iter().map(|one| (one.id.as_str(), one)).collect();
    let leaves = places.iter().take(PAGE).filter_map(|(_, id)| by_id.get(id.as_str()));
    let paths = leaves.map(|leaf| with_ancestors(leaf, &by_id)).collect::<Result<_, _>>()?;
    Ok(CandidatePaths { paths, extent, version })
}

/// Some of the delegations between two sides, in any state: they explain a refusal. Those that were activated and not
/// revoked come first, and among them the one with the latest expiry.
pub async fn explaining(
    rows: &RowMac,
    connection: &mut PgConnection,
    between: &Between,
) -> Result<Vec<DelegationPath>, Fault> {
    let (parent, iss, sub) = between.key();
    let ids: Vec<String> = sqlx::query_scalar(between.giver.statements().ended)
        .bind(parent)
        .bind(iss)
        .bind(sub)
        .bind(&between.delegate)
        .bind(i64::try_from(PAGE).unwrap_or(i64::MAX))
        .fetch_all(&mut *connection)
        .await?;
    all_paths(rows, connection, &ids).await
}
