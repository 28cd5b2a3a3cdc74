//! The ledger's statements. Locks are taken in one order everywhere: clients, delegations, their usage, the registry,
//! the horizon, spent ids, and the audit head last; within a table by id.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use sqlx::{FromRow, PgConnection};
use time::OffsetDateTime;
use uuid::Uuid;

use super::guard::Seen;
use super::{Entry, uuid_of};
use crate::domain::audit;
use crate::domain::delegation::Facts;
use crate::domain::token::IssuedToken;

/// One row of the look, of one of several kinds.
#[derive(FromRow)]
struct Row {
    kind: String,
    id: Option<String>,
    spent: Option<Uuid>,
    number: Option<i64>,
    activated_at: Option<OffsetDateTime>,
    expires_at: Option<OffsetDateTime>,
    ended_at: Option<OffsetDateTime>,
}

/// Locks and reads all that the entries rely on, and spends their ids, in one statement. The branches of the union run
/// one after the other, which is what keeps the order of locks.
const LOOK: &str = "
    WITH c AS MATERIALIZED (
        SELECT client_id, version, disabled_at FROM client
        WHERE client_id = ANY ($1) ORDER BY client_id FOR SHARE
    ), d AS MATERIALIZED (
        SELECT id, max_uses, activated_at, expires_at, revoked_at FROM delegation
        WHERE id = ANY ($2) ORDER BY id FOR SHARE
    ), u AS MATERIALIZED (
        SELECT delegation_id, uses FROM delegation_usage
        WHERE delegation_id = ANY ($2) ORDER BY delegation_id FOR NO KEY UPDATE
    ), r AS MATERIALIZED (
        SELECT version FROM registry FOR SHARE
    ), h AS MATERIALIZED (
        SELECT forgotten FROM spent_horizon FOR SHARE
    ), s AS (
        INSERT INTO spent_id (id, forget_at)
        SELECT id, forget_at FROM unnest($3::uuid[], $4::timestamptz[]) AS given (id, forget_at) ORDER BY id
        ON CONFLICT DO NOTHING RETURNING id
    )
    SELECT 'client' AS kind, client_id AS id, NULL::uuid AS spent, version AS number,
           NULL::timestamptz AS activated_at, NULL::timestamptz AS expires_at, disabled_at AS ended_at FROM c
    UNION ALL SELECT 'delegation', id, NULL, max_uses, activated_at, expires_at, revoked_at FROM d
    UNION ALL SELECT 'usage', delegation_id, NULL, uses, NULL, NULL, NULL FROM u
    UNION ALL SELECT 'registry', NULL, NULL, version, NULL, NULL, NULL FROM r
    UNION ALL SELECT 'horizon', NULL, NULL, NULL, NULL, forgotten, NULL FROM h
    UNION ALL SELECT 'fresh', NULL, id, NULL, NULL, NULL, NULL FROM s";

/// Looks at everything the entries rely on, under locks.
pub(super) async fn look(connection: &mut PgConnection, entries: &[Entry]) -> Result<Seen, sqlx::Error> {
    let mut clients = BTreeSet::new();
    let mut delegations = BTreeSet::new();
    let mut spends = BTreeMap::new();
    for entry in entries {
        clients.extend(entry.guards.client.iter().map(|(id, _)| id.as_str()));
        clients.extend(entry.guards.chain.iter().map(String::as_str));
        delegations.extend(entry.guards.path.iter().map(String::as_str));
        for spend in &entry.spends {
            let forget_at = spends.entry(uuid_of(spend.id)).or_insert(spend.forget_at);
            *forget_at = spend.forget_at.max(*forget_at);
        }
    }
    let (ids, forget): (Vec<Uuid>, Vec<OffsetDateTime>) = spends.into_iter().unzip();
    let rows: Vec<Row> = sqlx::query_as(LOOK)
        .bind(Vec::from_iter(clients))
        .bind(Vec::from_iter(delegations))
        .bind(ids)
        .bind(forget)
        .fetch_all(connection)
        .await?;
    Ok(sort(rows))
}

fn sort(rows: Vec<Row>) -> Seen {
    let mut seen = Seen::default();
    let mut uses = HashMap::new();
    for row in rows {
        match (row.kind.as_str(), row.id, row.expires_at) {
            ("client", Some(id), _) => {
                seen.clients.insert(id, (row.number.unwrap_or_default(), row.ended_at.is_some()));
            }
            ("delegation", Some(id), Some(expires_at)) => {
                let facts = Facts {
                    activated_at: row.activated_at,
                    expires_at,
                    revoked_at: row.ended_at,
                    max_uses: row.number,
                    uses: 0,
                };
                seen.delegations.insert(id, facts);
            }
            ("usage", Some(id), _) => drop(uses.insert(id, row.number.unwrap_or_default())),
            ("registry", ..) => seen.registry = row.number.unwrap_or_default(),
            ("horizon", _, forgotten) => seen.forgotten = forgotten,
            _ => seen.fresh.extend(row.spent.map(Uuid::into_bytes)),
        }
    }
    for (id, facts) in &mut seen.delegations {
        facts.uses = uses.get(id).copied().unwrap_or_default();
    }
    seen
}

/// Writes issued tokens and new counts, and takes the lock of the audit head, which it gives.
pub(super) async fn write(
    connection: &mut PgConnection,
    tokens: &[&IssuedToken],
    uses: &BTreeMap<String, i64>,
) -> Result<(i64, Vec<u8>), sqlx::Error> {
    if !tokens.is_empty() {
        insert_tokens(connection, tokens).await?;
    }
    if !uses.is_empty() {
        let (ids, counts): (Vec<&str>, Vec<i64>) =
            uses.iter().map(|(id, count)| (id.as_str(), *count)).unzip();
        sqlx::query(
            "UPDATE delegation_usage u SET uses = given.uses
             FROM unnest($1::text[], $2::bigint[]) AS given (id, uses) WHERE u.delegation_id = given.id",
        )
        .bind(ids)
        .bind(counts)
        .execute(&mut *connection)
        .await?;
    }
    sqlx::query_as(audit::store::LOCK_HEAD).fetch_one(connection).await
}

/// Audiences travel as one text each, separated by line feeds, which no audience contains: PostgreSQL has no arrays of
/// arrays of different lengths.
async fn insert_tokens(connection: &mut PgConnection, tokens: &[&IssuedToken]) -> Result<(), sqlx::Error> {
    let column =
        |pick: fn(&IssuedToken) -> String| tokens.iter().map(|token| pick(token)).collect::<Vec<_>>();
    sqlx::query(
        "INSERT INTO issued_token (jti, parent, lineage, txn, client_id, subject_iss, subject_sub, delegation_id, jkt,
                                   kid, scope, audience, issued_at, expires_at)
         SELECT t.jti, t.parent, CASE WHEN p.jti IS NULL THEN '{}' ELSE p.lineage || p.jti END, t.txn, t.client_id, t.subject_iss, t.subject_sub,
                t.delegation_id, t.jkt, t.kid, t.scope, string_to_array(t.audience, E'\\n'), t.issued_at, t.expires_at
         FROM unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[],
                     $9::text[], $10::text[], $11::text[], $12::timestamptz[], $13::timestamptz[])
              AS t (jti, parent, txn, client_id, subject_iss, subject_sub, delegation_id, jkt, kid, scope, audience,
                    issued_at, expires_at)
         LEFT JOIN issued_token p ON p.jti = t.parent",
    )
    .bind(tokens.iter().map(|token| token.jti).collect::<Vec<_>>())
    .bind(tokens.iter().map(|token| token.parent).collect::<Vec<_>>())
    .bind(tokens.iter().map(|token| token.txn).collect::<Vec<_>>())
    .bind(column(|token| token.client_id.clone()))
    .bind(column(|token| token.subject.iss.clone()))
    .bind(column(|token| token.subject.sub.clone()))
    .bind(tokens.iter().map(|token| token.delegation_id.clone()).collect::<Vec<_>>())
    .bind(tokens.iter().map(|token| token.jkt.clone()).collect::<Vec<_>>())
    .bind(column(|token| token.kid.clone()))
    .bind(column(|token| token.scope.clone()))
    .bind(column(|token| token.audience.join("\n")))
    .bind(tokens.iter().map(|token| token.issued_at).collect::<Vec<_>>())
    .bind(tokens.iter().map(|token| token.expires_at).collect::<Vec<_>>())
    .execute(connection)
    .await?;
    Ok(())
}
