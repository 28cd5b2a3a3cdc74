//! The delegations that may give a client the authority for one exchange: filtered by what it asks for, narrowest first.

use std::collections::{BTreeSet, HashMap};
use std::ops::Deref;

use sqlx::{FromRow, PgConnection};
use time::OffsetDateTime;

use super::store::{Row, all_paths, with_ancestors};
use super::{Delegation, DelegationPath};
use crate::domain::principal::Principal;
use crate::domain::row_mac::RowMac;
use crate::platform::fault::Fault;

/// Whether remembered rows may be used. A request that was sent back once reads them: what it would find in memory
/// may be from before the change, put there by a request that read earlier.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Memory {
    #[default]
    Usable,
    /// They may not.
    Outdated,
}

/// Rows of one page. The next page is read only where no delegation of this one grants the request.
const PAGE: usize = 16;

/// Which delegations are searched for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum DelegationQuery {
    /// The one with this id.
    Exactly(String),
    /// Those that may give the authority for an exchange.
    Candidates(Box<Candidates>),
}

/// Active delegations from one holder to one client that do not exclude what is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Candidates {
    /// From whom to whom.
    pub between: Between,
    /// What is asked for.
    pub asked: RequestedLimits,
    /// The delegation that a `may_act` claim led to, in whatever state it is. It comes last.
    pub claimed: Option<String>,
}

/// The two sides of a delegation.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Between {
    /// The side that gives.
    pub giver: DelegatorSide,
    /// The client that receives.
    pub delegate: String,
}

/// The side that gives.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum DelegatorSide {
    /// A principal, at the root.
    Root(Principal),
    /// The holder of this delegation, below it.
    Parent(String),
}

/// What an exchange asks for, as far as PostgreSQL can compare it with a delegation's own limits.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct RequestedLimits {
    /// All of these scopes.
    pub scopes: Option<BTreeSet<String>>,
    /// All of these audiences.
    pub audiences: Option<BTreeSet<String>>,
    /// One of these capabilities or more, lowest first.
    pub capabilities: Option<Vec<String>>,
    /// All capabilities in their order.
    pub capability_levels: Vec<String>,
    /// So many actors.
    pub depth: u32,
}

/// What was found, narrowest first.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct CandidatePaths {
    /// Each with its ancestors.
    pub paths: Vec<DelegationPath>,
    /// Whether these are all, or a page with more behind it.
    pub extent: Extent,
    /// The number of changes among the candidates when they were read.
    pub version: Option<i64>,
}

/// How much of what there is was read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Extent {
    #[default]
    Whole,
    /// There is more.
    Page,
}

impl CandidatePaths {
    /// How many delegations it consists of, at least one.
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
    row: Row,
    place: Option<i64>,
    version: Option<i64>,
}

/// $1 to $4 are the two sides: parent, issuer and subject of the delegator, delegate. What a giver lacks is empty, so that
/// every statement has all four.
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
    /// Candidates with their ancestors. What does not restrict comes behind what does.
    page: &'static str,
    /// Whatever there is, whether it may be used or not.
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

/// Reads the candidates behind those that were seen: a page of them, narrowest first.
pub async fn find(
    rows: &RowMac,
    connection: &mut PgConnection,
    search: &DelegationQuery,
    seen: &[String],
    now: OffsetDateTime,
) -> Result<CandidatePaths, Fault> {
    let wanted = match search {
        DelegationQuery::Exactly(id) if super::is_id(id) => {
            let paths = all_paths(rows, connection, std::slice::from_ref(id)).await?;
            return Ok(CandidatePaths { paths, ..CandidatePaths::default() });
        }
        DelegationQuery::Exactly(_) => return Ok(CandidatePaths::default()),
        DelegationQuery::Candidates(wanted) => wanted,
    };
    let Candidates { between, asked, claimed } = wanted.as_ref();
    let (parent, iss, sub) = between.key();
    let names = |set: &Option<BTreeSet<String>>| set.as_ref().map(|names| Vec::from_iter(names.clone()));
    // One more than a page tells whether there is more.
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

/// Some of the delegations between two sides, in whatever state: they explain a refusal. Those that were activated and not
/// revoked come first, and of them the one that ends last.
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
