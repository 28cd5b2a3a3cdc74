//! What the entries of a batch rely on, as stored: locked and read under the shared authority lock, so that no authority
//! ends meanwhile. A value that is missing or unknown is a fault: no value has a default.
//!
//! All code takes locks in one order: the authority lock, turns to request confirmations, counts of uses, confirmations,
//! used ids, sessions, refresh tokens, reported steps, the epoch, used targets, depths. The audit head comes last. Within a table, locks
//! are taken by id.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use sqlx::postgres::PgRow;
use sqlx::{PgConnection, Row as _};
use time::OffsetDateTime;
use uuid::Uuid;

use super::batch_error::BatchError;
use super::entry::{Entry, Write};
use crate::domain::ceremony::{self, Open};
use crate::domain::delegation::candidates::Between;
use crate::domain::delegation::{DelegationRecord, DelegationState};
use crate::domain::principal::Principal;
use crate::domain::session::report::NewestExchange;
use crate::domain::standing_grant::suspension::ProvenClientKey;
use crate::domain::step;
use crate::domain::step::known::KnownSteps;
use crate::domain::token::InactiveToken;
use crate::platform::fault::Fault;

#[derive(Debug)]
pub(super) struct Snapshot {
    pub(super) clients: HashMap<String, ClientFacts>,
    /// Records of delegations, by id.
    pub(super) delegations: HashMap<String, DelegationRecord>,
    /// Ephemeral delegations that are active, with all their ancestors.
    pub(super) homes: HashSet<String>,
    /// Recorded tokens, each with the problem of the token or of its lineage, if there is one.
    pub(super) tokens: HashMap<Uuid, Option<InactiveToken>>,
    /// The number of changes among the candidates of a choice.
    pub(super) choices: HashMap<Between, i64>,
    /// Principals with a revoke-all, and its time.
    pub(super) principal_revocations: HashMap<Principal, OffsetDateTime>,
    /// Keys of clients that a standing grant of the client does not pin.
    pub(super) unpinned: HashSet<ProvenClientKey>,
    /// The version of the registry.
    pub(super) registry: i64,
    /// Used ids that expired up to this time were purged.
    pub(super) purged_before: OffsetDateTime,
    /// Versions of usable connections, and of their providers, by id.
    pub(super) connections: HashMap<String, (i64, i64)>,
    /// Confirmations that were unused before this batch.
    pub(super) ceremonies: HashSet<Uuid>,
    /// Open confirmations at the delegations for which this batch requests confirmations.
    pub(super) open: Vec<Open>,
    /// Ids that were unused before this batch.
    pub(super) fresh: HashSet<[u8; 16]>,
    /// The newest exchanges under delegations.
    pub(super) exchanges: HashMap<String, NewestExchange>,
    /// The steps of the entries that were reported before.
    pub(super) steps: KnownSteps,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ClientFacts {
    pub(super) version: i64,
    /// Disabled or deactivated.
    pub(super) inactive: bool,
}

/// The kind of a row, which says which columns are set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, sqlx::Type)]
#[sqlx(type_name = "text", rename_all = "snake_case")]
enum Kind {
    Usage,
    Ceremony,
    Client,
    Delegation,
    Token,
    Home,
    PrincipalRevocation,
    Connection,
    Choice,
    Unpinned,
    Registry,
    Horizon,
    Fresh,
}

/// Locks the counts of uses and the confirmations, inserts the used ids, and reads all rows that the entries rely on, in
/// one statement. Each `WITH` query that locks has a condition on the whole result of the query before, and so runs after
/// it: PostgreSQL promises no other order.
///
/// The plan is made once and kept while the tables grow. `LATERAL` with `OFFSET 0` makes PostgreSQL find each row by
/// its index. A join would scan a small table, and keep that plan when the table is large.
const SNAPSHOT_SQL: &str = "
    WITH u AS MATERIALIZED (
        SELECT delegation_id, uses, exhausted_at, session_id, session_at FROM delegation_usage
        WHERE delegation_id = ANY ($2) ORDER BY delegation_id FOR NO KEY UPDATE
    ), c AS MATERIALIZED (
        SELECT id FROM ceremony
        WHERE id = ANY ($10) AND used_at IS NULL AND (SELECT count(*) FROM u) >= 0 ORDER BY id FOR NO KEY UPDATE
    ), s AS (
        INSERT INTO used_jti (id, expires_at)
        SELECT id, expires_at FROM unnest($3::uuid[], $4::timestamptz[]) AS input (id, expires_at)
        WHERE (SELECT count(*) FROM c) >= 0 ORDER BY id
        ON CONFLICT DO NOTHING RETURNING id
    )
    SELECT 'usage' AS kind, delegation_id AS id, session_id AS other, NULL::uuid AS uuid, uses AS number,
           NULL::bigint AS number_2, NULL::bool AS flag, exhausted_at AS at, session_at AS at_2,
           NULL::timestamptz AS revoked_at, NULL::timestamptz AS principal_revoked_at FROM u
    UNION ALL SELECT 'ceremony', NULL, NULL, id, NULL, NULL, NULL, NULL, NULL, NULL, NULL FROM c
    UNION ALL SELECT 'client', client_id, NULL, NULL, version, NULL, is_inactive_client(disabled_at, deactivated_at), NULL,
                     NULL, NULL, NULL
        FROM client WHERE client_id = ANY ($1)
    UNION ALL SELECT 'delegation', d.id, NULL, NULL, d.max_uses, NULL, d.waiting, d.expires_at,
                     d.activated_at, d.revoked_at, d.principal_revoked_at
        FROM unnest($2::text[]) AS input (id)
        CROSS JOIN LATERAL (SELECT * FROM delegation_status WHERE id = input.id OFFSET 0) d
    UNION ALL SELECT 'token', NULL, problem, jti, NULL, NULL, NULL, NULL, NULL, NULL, NULL
        FROM token_status WHERE jti = ANY ($5)
    UNION ALL SELECT 'home', id, delegation_state(path, $9), NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL
        FROM delegation WHERE id = ANY ($8)
    UNION ALL SELECT 'principal_revocation', c.iss, c.sub, NULL, NULL, NULL, NULL, c.at, NULL, NULL, NULL
        FROM unnest($6::text[], $7::text[]) AS input (iss, sub)
        CROSS JOIN LATERAL (SELECT * FROM principal_revocation WHERE iss = input.iss AND sub = input.sub OFFSET 0) c
    UNION ALL SELECT 'connection', c.id, NULL, NULL, c.version, p.version, NULL, NULL, NULL, NULL, NULL
        FROM connection c CROSS JOIN LATERAL (SELECT version FROM provider WHERE id = c.provider OFFSET 0) p
        WHERE c.id = ANY ($11) AND c.disconnected_at IS NULL AND c.needs_reconnect_at IS NULL
    UNION ALL SELECT 'choice', NULL, NULL, NULL, v.version, input.place, NULL, NULL, NULL, NULL, NULL
        FROM unnest($12::text[], $13::text[], $14::text[], $15::text[]) WITH ORDINALITY
             AS input (parent, delegator_iss, delegator_sub, delegate, place)
        CROSS JOIN LATERAL (
            SELECT version FROM candidate_version
            WHERE parent = input.parent AND delegator_iss = input.delegator_iss AND delegator_sub = input.delegator_sub
              AND delegate = input.delegate OFFSET 0
        ) v
    UNION ALL SELECT 'unpinned', input.client_id, input.jkt, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL
        FROM unnest($16::text[], $17::text[]) AS input (client_id, jkt)
        CROSS JOIN LATERAL (
            SELECT FROM standing_grant_keys k CROSS JOIN LATERAL (
                SELECT FROM standing_grant g
                WHERE g.client_id = k.client_id AND g.keys = k.keys AND g.expires_at > $9
                  AND g.revoked_at IS NULL AND g.suspended_at IS NULL LIMIT 1
            ) active
            WHERE k.client_id = input.client_id AND input.jkt <> ALL (k.keys) LIMIT 1
        ) found
    UNION ALL SELECT 'registry', NULL, NULL, NULL, version, NULL, NULL, NULL, NULL, NULL, NULL FROM registry
    UNION ALL SELECT 'horizon', NULL, NULL, NULL, NULL, NULL, NULL, purged_before, NULL, NULL, NULL FROM replay_horizon
    UNION ALL SELECT 'fresh', NULL, NULL, id, NULL, NULL, NULL, NULL, NULL, NULL, NULL FROM s";

/// # Errors
/// Also for a row of an unknown kind or without a required value.
pub(super) async fn load(connection: &mut PgConnection, entries: &[Entry]) -> Result<Snapshot, BatchError> {
    let open = open_confirmations(connection, entries).await?;
    let choices: Vec<&Between> = entries
        .iter()
        .filter_map(|entry| entry.guards.choice.as_ref())
        .map(|choice| &choice.between)
        .collect();
    let rows = query(connection, entries, &choices).await?;
    let steps = entries.iter().filter_map(Entry::steps).flat_map(|report| &report.steps);
    let keys = steps.filter_map(|step| step.identified.as_ref()).map(|step| &step.key).collect();
    let steps = step::store::known(connection, &keys).await?;
    Ok(Snapshot { open, steps, ..from_rows(&rows, &choices)? })
}

/// Reads the open confirmations at the delegations for which entries request confirmations, and locks out other
/// requests there.
async fn open_confirmations(
    connection: &mut PgConnection,
    entries: &[Entry],
) -> Result<Vec<Open>, BatchError> {
    let asking = entries.iter().filter_map(|entry| match &entry.write {
        Write::Ceremony(asking) => Some((asking.ceremony.delegation_id.as_str(), entry.now)),
        Write::Nothing | Write::Token(_) | Write::Retrieval | Write::Steps(_) => None,
    });
    let (delegations, times): (Vec<&str>, Vec<OffsetDateTime>) = asking.unzip();
    match times.into_iter().min() {
        None => Ok(Vec::new()),
        Some(now) => Ok(ceremony::store::lock_open(connection, &delegations, now).await?),
    }
}

async fn query(
    connection: &mut PgConnection,
    entries: &[Entry],
    choices: &[&Between],
) -> Result<Vec<PgRow>, sqlx::Error> {
    let mut clients = BTreeSet::new();
    let mut delegations = BTreeSet::new();
    let mut homes = BTreeSet::new();
    let mut tokens = BTreeSet::new();
    let mut subjects = BTreeSet::new();
    let mut single_use_ids = BTreeMap::new();
    let mut ceremonies = BTreeSet::new();
    let mut connections = BTreeSet::new();
    let mut proved = BTreeSet::new();
    for entry in entries {
        ceremonies.extend(entry.issue().into_iter().flat_map(|issue| issue.ceremonies.iter().copied()));
        clients.extend(entry.guards.client.iter().map(|(id, _)| id.as_str()));
        clients.extend(entry.guards.earlier_actors.iter().map(String::as_str));
        delegations.extend(entry.guards.path.iter().map(String::as_str));
        connections.extend(entry.guards.connection.iter().map(|(id, _)| id.as_str()));
        proved.extend(entry.guards.proved_keys.iter());
        homes.extend(entry.guards.ephemeral_delegation.iter().map(String::as_str));
        tokens.extend(entry.guards.tokens.iter().copied());
        subjects.extend(entry.guards.subjects.iter().map(|(who, _)| who));
        for single_use_id in &entry.single_use_ids {
            let expires_at =
                single_use_ids.entry(Uuid::from_bytes(single_use_id.id)).or_insert(single_use_id.expires_at);
            *expires_at = single_use_id.expires_at.max(*expires_at);
        }
    }
    let (ids, forget): (Vec<Uuid>, Vec<OffsetDateTime>) = single_use_ids.into_iter().unzip();
    sqlx::query(SNAPSHOT_SQL)
        .bind(Vec::from_iter(clients))
        .bind(Vec::from_iter(delegations))
        .bind(ids)
        .bind(forget)
        .bind(Vec::from_iter(tokens))
        .bind(subjects.iter().map(|who| who.iss.as_str()).collect::<Vec<_>>())
        .bind(subjects.iter().map(|who| who.sub.as_str()).collect::<Vec<_>>())
        .bind(Vec::from_iter(homes))
        .bind(entries.iter().map(|entry| entry.now).max())
        .bind(Vec::from_iter(ceremonies))
        .bind(Vec::from_iter(connections))
        .bind(choices.iter().map(|between| between.key().0).collect::<Vec<_>>())
        .bind(choices.iter().map(|between| between.key().1).collect::<Vec<_>>())
        .bind(choices.iter().map(|between| between.key().2).collect::<Vec<_>>())
        .bind(choices.iter().map(|between| between.delegate.as_str()).collect::<Vec<_>>())
        .bind(proved.iter().map(|one| one.client_id.as_str()).collect::<Vec<_>>())
        .bind(proved.iter().map(|one| one.jkt.as_str()).collect::<Vec<_>>())
        .fetch_all(connection)
        .await
}

fn from_rows(rows: &[PgRow], choices: &[&Between]) -> Result<Snapshot, BatchError> {
    let uses = uses(rows)?;
    let (mut registry, mut purged_before) = (None, None);
    let mut clients = HashMap::new();
    let mut delegations = HashMap::new();
    let mut homes = HashSet::new();
    let mut tokens = HashMap::new();
    let mut read_choices = HashMap::new();
    let mut principal_revocations = HashMap::new();
    let mut connections = HashMap::new();
    let mut ceremonies = HashSet::new();
    let mut fresh = HashSet::new();
    let mut exchanges = HashMap::new();
    let mut unpinned = HashSet::new();
    for row in rows {
        match row.try_get("kind")? {
            Kind::Usage => {
                let session: Option<String> = row.try_get("other")?;
                if let Some((session_id, at)) = session.zip(row.try_get("at_2")?) {
                    exchanges.insert(row.try_get("id")?, NewestExchange { session_id, at });
                }
            }
            Kind::Ceremony => drop(ceremonies.insert(row.try_get("uuid")?)),
            Kind::Client => {
                let facts = ClientFacts { version: row.try_get("number")?, inactive: row.try_get("flag")? };
                clients.insert(row.try_get("id")?, facts);
            }
            Kind::Delegation => {
                let id: String = row.try_get("id")?;
                let record = delegation(row, present(uses.get(&id), "the count of uses of a delegation")?)?;
                delegations.insert(id, record);
            }
            Kind::Token => drop(tokens.insert(row.try_get("uuid")?, row.try_get("other")?)),
            Kind::Home => {
                let active = row.try_get::<DelegationState, _>("other")? == DelegationState::Active;
                homes.extend(active.then_some(row.try_get("id")?));
            }
            Kind::PrincipalRevocation => {
                let who = Principal { iss: row.try_get("id")?, sub: row.try_get("other")? };
                principal_revocations.insert(who, row.try_get("at")?);
            }
            Kind::Connection => {
                connections.insert(row.try_get("id")?, (row.try_get("number")?, row.try_get("number_2")?));
            }
            Kind::Choice => {
                let place = usize::try_from(row.try_get::<i64, _>("number_2")?).ok();
                let between = place.and_then(|place| choices.get(place.checked_sub(1)?));
                read_choices.insert((*present(between, "a choice")?).clone(), row.try_get("number")?);
            }
            Kind::Unpinned => {
                unpinned
                    .insert(ProvenClientKey { client_id: row.try_get("id")?, jkt: row.try_get("other")? });
            }
            Kind::Registry => registry = Some(row.try_get("number")?),
            Kind::Horizon => purged_before = Some(row.try_get("at")?),
            Kind::Fresh => drop(fresh.insert(row.try_get::<Uuid, _>("uuid")?.into_bytes())),
        }
    }
    Ok(Snapshot {
        clients,
        delegations,
        homes,
        tokens,
        choices: read_choices,
        principal_revocations,
        unpinned,
        registry: present(registry, "the version of the registry")?,
        purged_before: present(purged_before, "the time of the last purge")?,
        connections,
        ceremonies,
        open: Vec::new(),
        fresh,
        exchanges,
        steps: KnownSteps::default(),
    })
}

/// The count of uses of a delegation, and when a reported command took the last one.
struct Uses {
    count: i64,
    exhausted_at: Option<OffsetDateTime>,
}

fn uses(rows: &[PgRow]) -> Result<HashMap<String, Uses>, sqlx::Error> {
    let mut uses = HashMap::new();
    for row in rows {
        if row.try_get::<Kind, _>("kind")? == Kind::Usage {
            let of_one = Uses { count: row.try_get("number")?, exhausted_at: row.try_get("at")? };
            uses.insert(row.try_get("id")?, of_one);
        }
    }
    Ok(uses)
}

fn delegation(row: &PgRow, uses: &Uses) -> Result<DelegationRecord, sqlx::Error> {
    Ok(DelegationRecord {
        activated_at: row.try_get("at_2")?,
        expires_at: row.try_get("at")?,
        revoked_at: row.try_get("revoked_at")?,
        principal_revoked_at: row.try_get("principal_revoked_at")?,
        // All that makes a delegation wait.
        key_rotating: row.try_get("flag")?,
        suspended_at: None,
        standing_grant_suspended_at: None,
        max_uses: row.try_get("number")?,
        uses: uses.count,
        used_up_at: None,
        exhausted_at: uses.exhausted_at,
    })
}

fn present<T>(value: Option<T>, what: &str) -> Result<T, Fault> {
    value.ok_or_else(|| Fault::new(format!("the ledger misses {what}")))
}
