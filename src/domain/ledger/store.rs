//! The ledger's statements. They run under the shared authority lock, so that no authority ends meanwhile. All code
//! takes locks in one order: the authority lock, turns to request confirmations, counts of uses, confirmations, used
//! ids. The audit head comes last. Within a table, locks are taken by id.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use sqlx::{FromRow, PgConnection};
use time::OffsetDateTime;
use uuid::Uuid;

use super::batch_error::BatchError;
use super::entry::{Entry, Write};
use super::guard::Snapshot;
use crate::domain::ceremony::{self, Ceremony, Open};
use crate::domain::delegation::candidates::Between;
use crate::domain::delegation::{DelegationRecord, State};
use crate::domain::principal::Principal;
use crate::domain::token::{self, Problem, TokenRecord};
use crate::platform::fault::Fault;

/// One row of the snapshot; `kind` says which columns are set.
#[derive(FromRow)]
struct Row {
    kind: String,
    id: Option<String>,
    other: Option<String>,
    uuid: Option<Uuid>,
    number: Option<i64>,
    activated_at: Option<OffsetDateTime>,
    expires_at: Option<OffsetDateTime>,
    deactivated_at: Option<OffsetDateTime>,
    principal_revoked_at: Option<OffsetDateTime>,
    key_rotating: Option<bool>,
    problem: Option<Problem>,
}

/// Reads all rows that the entries rely on, locks the counts of uses and the confirmations, and inserts the used ids,
/// in one statement. PostgreSQL runs the branches of the union one after the other, which keeps the order of locks.
///
/// The plan is made once and kept while the tables grow. `LATERAL` with `OFFSET 0` makes PostgreSQL find each row by
/// its index. A join would scan a small table, and keep that plan when the table is large.
const SNAPSHOT_SQL: &str = "
    WITH u AS MATERIALIZED (
        SELECT delegation_id, uses FROM delegation_usage
        WHERE delegation_id = ANY ($2) ORDER BY delegation_id FOR NO KEY UPDATE
    ), c AS MATERIALIZED (
        SELECT id FROM ceremony WHERE id = ANY ($10) AND used_at IS NULL ORDER BY id FOR NO KEY UPDATE
    ), s AS (
        INSERT INTO used_jti (id, expires_at)
        SELECT id, expires_at FROM unnest($3::uuid[], $4::timestamptz[]) AS input (id, expires_at) ORDER BY id
        ON CONFLICT DO NOTHING RETURNING id
    )
    SELECT 'usage' AS kind, delegation_id AS id, NULL AS other, NULL::uuid AS uuid, uses AS number,
           NULL::timestamptz AS activated_at, NULL::timestamptz AS expires_at, NULL::timestamptz AS deactivated_at,
           NULL::timestamptz AS principal_revoked_at, NULL::bool AS key_rotating, NULL AS problem FROM u
    UNION ALL SELECT 'ceremony', NULL, NULL, id, NULL, NULL, NULL, NULL, NULL, NULL, NULL FROM c
    UNION ALL SELECT 'client', client_id, NULL, NULL, version, NULL, NULL, coalesce(deactivated_at, disabled_at), NULL, NULL, NULL
        FROM client WHERE client_id = ANY ($1)
    UNION ALL SELECT 'delegation', d.id, NULL, NULL, d.max_uses, d.activated_at, d.expires_at, d.revoked_at, d.principal_revoked_at,
                     d.pending_jwk IS NOT NULL, NULL
        FROM unnest($2::text[]) AS input (id)
        CROSS JOIN LATERAL (SELECT * FROM delegation_status WHERE id = input.id OFFSET 0) d
    UNION ALL SELECT 'token', NULL, NULL, p.jti, NULL, NULL, NULL, NULL, NULL, NULL,
                     (SELECT n.problem FROM unnest(p.lineage || p.jti) AS input (jti)
                      CROSS JOIN LATERAL (SELECT * FROM token_status WHERE jti = input.jti OFFSET 0) n
                      WHERE n.problem IS NOT NULL
                      ORDER BY n.problem = 'actor_disabled', n.issued_at LIMIT 1)
        FROM issued_token p WHERE p.jti = ANY ($5)
    UNION ALL SELECT 'home', id, delegation_state(path, $9), NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL
        FROM delegation WHERE id = ANY ($8)
    UNION ALL SELECT 'principal_revocation', c.iss, c.sub, NULL, NULL, NULL, NULL, c.at, NULL, NULL, NULL
        FROM unnest($6::text[], $7::text[]) AS input (iss, sub)
        CROSS JOIN LATERAL (SELECT * FROM principal_revocation WHERE iss = input.iss AND sub = input.sub OFFSET 0) c
    UNION ALL SELECT 'connection', c.id, p.version::text, NULL, c.version, NULL, NULL, NULL, NULL, NULL, NULL
        FROM connection c CROSS JOIN LATERAL (SELECT version FROM provider WHERE id = c.provider OFFSET 0) p
        WHERE c.id = ANY ($11) AND c.disconnected_at IS NULL AND c.needs_reconnect_at IS NULL
    UNION ALL SELECT 'choice', input.place::text, NULL, NULL, v.version, NULL, NULL, NULL, NULL, NULL, NULL
        FROM unnest($12::text[], $13::text[], $14::text[], $15::text[]) WITH ORDINALITY
             AS input (parent, delegator_iss, delegator_sub, delegate, place)
        CROSS JOIN LATERAL (
            SELECT version FROM candidate_version
            WHERE parent = input.parent AND delegator_iss = input.delegator_iss AND delegator_sub = input.delegator_sub
              AND delegate = input.delegate OFFSET 0
        ) v
    UNION ALL SELECT 'registry', NULL, NULL, NULL, version, NULL, NULL, NULL, NULL, NULL, NULL FROM registry
    UNION ALL SELECT 'horizon', NULL, NULL, NULL, NULL, NULL, purged_before, NULL, NULL, NULL, NULL FROM replay_horizon
    UNION ALL SELECT 'fresh', NULL, NULL, id, NULL, NULL, NULL, NULL, NULL, NULL, NULL FROM s";

/// Reads the open confirmations at the delegations for which entries request confirmations, and locks out other
/// requests there.
pub(super) async fn open_confirmations(
    connection: &mut PgConnection,
    entries: &[Entry],
) -> Result<Vec<Open>, BatchError> {
    let asking = entries.iter().filter_map(|entry| match &entry.write {
        Write::Ceremony(asking) => Some((asking.ceremony.delegation_id.as_str(), entry.now)),
        Write::Nothing | Write::Token(_) | Write::Retrieval => None,
    });
    let (delegations, times): (Vec<&str>, Vec<OffsetDateTime>) = asking.unzip();
    match times.into_iter().min() {
        None => Ok(Vec::new()),
        Some(now) => Ok(ceremony::store::lock_open(connection, &delegations, now).await?),
    }
}

pub(super) async fn load_snapshot(
    connection: &mut PgConnection,
    entries: &[Entry],
) -> Result<Snapshot, BatchError> {
    let mut clients = BTreeSet::new();
    let mut delegations = BTreeSet::new();
    let mut homes = BTreeSet::new();
    let mut tokens = BTreeSet::new();
    let mut subjects = BTreeSet::new();
    let mut single_use_ids = BTreeMap::new();
    let mut ceremonies = BTreeSet::new();
    let mut connections = BTreeSet::new();
    let choices: Vec<&Between> = entries
        .iter()
        .filter_map(|entry| entry.guards.choice.as_ref())
        .map(|choice| &choice.between)
        .collect();
    for entry in entries {
        ceremonies.extend(entry.issue().into_iter().flat_map(|issue| issue.ceremonies.iter().copied()));
        clients.extend(entry.guards.client.iter().map(|(id, _)| id.as_str()));
        clients.extend(entry.guards.earlier_actors.iter().map(String::as_str));
        delegations.extend(entry.guards.path.iter().map(String::as_str));
        connections.extend(entry.guards.connection.iter().map(|(id, _)| id.as_str()));
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
    let rows: Vec<Row> = sqlx::query_as(SNAPSHOT_SQL)
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
        .fetch_all(connection)
        .await?;
    Ok(from_rows(rows, &choices)?)
}

/// # Errors
/// A fault for a row of an unknown kind or without a required value: no value has a default.
fn from_rows(rows: Vec<Row>, choices: &[&Between]) -> Result<Snapshot, Fault> {
    let mut snapshot = Snapshot::default();
    let mut uses = HashMap::new();
    for row in rows {
        match (row.kind.as_str(), row.id, row.expires_at) {
            ("client", Some(id), _) => {
                snapshot.clients.insert(
                    id,
                    (present(row.number, "the version of a client")?, row.deactivated_at.is_some()),
                );
            }
            ("delegation", Some(id), Some(expires_at)) => {
                let facts = DelegationRecord {
                    activated_at: row.activated_at,
                    expires_at,
                    revoked_at: row.deactivated_at,
                    principal_revoked_at: row.principal_revoked_at,
                    key_rotating: present(row.key_rotating, "whether an agent changes its key")?,
                    max_uses: row.number,
                    uses: 0,
                    used_up_at: None,
                };
                snapshot.delegations.insert(id, facts);
            }
            ("usage", Some(id), _) => drop(uses.insert(id, present(row.number, "a count of uses")?)),
            ("principal_revocation", Some(iss), _) => {
                let who = Principal::new(iss, present(row.other, "the principal of a revoke-all")?);
                snapshot
                    .principal_revocations
                    .insert(who, present(row.deactivated_at, "the time of a revoke-all")?);
            }
            ("home", Some(id), _) => {
                snapshot.homes.extend((row.other.as_deref() == Some(State::Active.name())).then_some(id));
            }
            ("connection", Some(id), _) => {
                let provider = row.other.as_deref().and_then(|version| version.parse().ok());
                let versions = (present(row.number, "a version")?, present(provider, "a version")?);
                snapshot.connections.insert(id, versions);
            }
            ("choice", Some(place), _) => {
                let between =
                    place.parse::<usize>().ok().and_then(|place| choices.get(place.checked_sub(1)?));
                snapshot
                    .choices
                    .extend(between.zip(row.number).map(|(between, version)| ((*between).clone(), version)));
            }
            ("registry", ..) => snapshot.registry = present(row.number, "the version of the registry")?,
            ("horizon", _, forgotten) => snapshot.purged_before = forgotten,
            ("ceremony", ..) => snapshot.ceremonies.extend(row.uuid),
            ("token", ..) => snapshot.tokens.extend(row.uuid.map(|jti| (jti, row.problem))),
            ("fresh", ..) => snapshot.fresh.extend(row.uuid.map(Uuid::into_bytes)),
            (kind, ..) => {
                return Err(Fault::new(format!("the ledger read a row that it does not know: {kind}")));
            }
        }
    }
    for (id, facts) in &mut snapshot.delegations {
        facts.uses = present(uses.get(id).copied(), "the count of uses of a delegation")?;
    }
    Ok(snapshot)
}

fn present<T>(value: Option<T>, what: &str) -> Result<T, Fault> {
    value.ok_or_else(|| Fault::new(format!("the ledger misses {what}")))
}

/// What a batch changes besides the audit log.
#[derive(Debug)]
pub(super) struct Changes<'a> {
    pub(super) tokens: Vec<&'a TokenRecord>,
    pub(super) ceremonies: Vec<&'a Ceremony>,
    pub(super) used_ceremonies: Vec<Uuid>,
    pub(super) uses: &'a BTreeMap<String, i64>,
    /// Delegations without a use left, and the time of the last use.
    pub(super) exhausted: Vec<(&'a str, OffsetDateTime)>,
}

/// Writes issued tokens, new counts and ceremonies.
pub(super) async fn write(
    connection: &mut PgConnection,
    changes: &Changes<'_>,
    now: OffsetDateTime,
) -> Result<(), BatchError> {
    if !changes.tokens.is_empty() {
        token::store::insert(connection, &changes.tokens).await?;
    }
    if !changes.uses.is_empty() {
        let (ids, counts): (Vec<&str>, Vec<i64>) =
            changes.uses.iter().map(|(id, count)| (id.as_str(), *count)).unzip();
        let last = |id: &&str| changes.exhausted.iter().find(|(other, _)| other == id).map(|(_, at)| *at);
        let used_up: Vec<Option<OffsetDateTime>> = ids.iter().map(last).collect();
        // With `= input.id`, PostgreSQL plans to join with the whole index if the table is small at that moment.
        sqlx::query(
            "UPDATE delegation_usage u SET uses = input.uses, used_up_at = coalesce(u.used_up_at, input.used_up_at)
             FROM unnest($1::text[], $2::bigint[], $3::timestamptz[]) AS input (id, uses, used_up_at)
             WHERE u.delegation_id = ANY (ARRAY[input.id])",
        )
        .bind(ids)
        .bind(counts)
        .bind(used_up)
        .execute(&mut *connection)
        .await?;
    }
    if !changes.exhausted.is_empty() {
        sqlx::query("UPDATE delegation SET expiry_logged = true WHERE id = ANY ($1)")
            .bind(changes.exhausted.iter().map(|(id, _)| *id).collect::<Vec<_>>())
            .execute(&mut *connection)
            .await?;
    }
    if !changes.used_ceremonies.is_empty() {
        ceremony::store::mark_used(connection, &changes.used_ceremonies, now).await?;
    }
    for ceremony in &changes.ceremonies {
        ceremony::store::insert(connection, ceremony).await?;
    }
    Ok(())
}
