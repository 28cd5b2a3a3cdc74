//! Fills the database in bulk with the rows that a server would have written in weeks.

use sqlx::{Connection as _, PgConnection};

use actchain_testkit::endpoint::Endpoint as _;

use crate::stage::{IDP, MAIL, Stage};

/// A root with delegations and tokens below it. The tokens are in a status list of their own.
#[derive(Clone, Copy)]
pub struct Tree {
    /// The number of the tree, and of its status list.
    pub number: i64,
    /// The number of delegations below the root.
    pub below: i64,
    /// The number of children of the root; the other delegations are spread evenly below them.
    pub children: i64,
    /// Active tokens of the delegations below, spread evenly.
    pub tokens: i64,
}

impl Tree {
    pub fn root(&self) -> String {
        format!("root-{}", self.number)
    }

    /// The delegator of the root.
    pub fn owner(&self) -> String {
        format!("owner-{}", self.number)
    }
}

/// The number of agents that hold seeded delegations.
pub const AGENTS: i64 = 1_000;

/// The size of a status list, and the number of blocks that servers reserve one by one.
const PLACES: i64 = 1 << 20;
const BLOCKS: i64 = PLACES / 512;

pub async fn agents(stage: &Stage) {
    let mut sql = stage.sql().await;
    sqlx::query(
        "INSERT INTO client (client_id, kind, name, auth, secrets, scopes, audiences, detail_types, grant_types, dpop,
                             dpop_keys, actor_subjects, created_at, updated_at)
         SELECT 'agent-' || n, kind, 'agent-' || n, 'none', '[]', scopes, audiences, detail_types, grant_types, 'required',
                '{}', actor_subjects, created_at, updated_at
         FROM client, generate_series(0, $1 - 1) n WHERE client_id = 'proxy'",
    )
    .bind(AGENTS)
    .execute(&mut sql)
    .await
    .unwrap();
    stage.seal_rows().await;
}

/// Delegations from other users to agents, numbered from `from` to `to`.
pub async fn delegations(stage: &Stage, (from, to): (i64, i64)) {
    let mut sql = stage.sql().await;
    sqlx::query("SET synchronous_commit = off").execute(&mut sql).await.unwrap();
    sqlx::query(
        "WITH made AS (
             INSERT INTO delegation (id, path, root_iss, root_sub, delegator_iss, delegator_sub, delegate, origin,
                                     requested_at, activated_at, expires_at)
             SELECT 'x-' || n, ARRAY['x-' || n], $1, 'user-' || n, $1, 'user-' || n, 'agent-' || n % $3, 'granted',
                    now() - interval '2 hours', now() - interval '2 hours', now() + interval '1 day'
             FROM generate_series($2, $4) n RETURNING id
         )
         INSERT INTO delegation_usage (delegation_id, uses) SELECT id, 0 FROM made",
    )
    .bind(IDP)
    .bind(from)
    .bind(AGENTS)
    .bind(to)
    .execute(&mut sql)
    .await
    .unwrap();
    stage.seal_rows().await;
    settle(&mut sql).await;
}

/// The root is delegated to the proxy, and the first delegation below it to the client of the second hop. All others
/// are delegated to agents. Tokens of the root's children derive from the root's only token, deeper tokens from a
/// parent's token.
pub async fn tree(stage: &Stage, tree: Tree) {
    let mut sql = stage.sql().await;
    sqlx::query("SET synchronous_commit = off").execute(&mut sql).await.unwrap();
    sqlx::query(DELEGATIONS)
        .bind(tree.root())
        .bind(tree.owner())
        .bind(tree.below)
        .bind(tree.children)
        .bind(IDP)
        .bind(stage.issuer())
        .bind(AGENTS)
        .execute(&mut sql)
        .await
        .unwrap();
    // Agents exchange under these delegations, and each use is counted.
    sqlx::query(
        "INSERT INTO delegation_usage (delegation_id, uses)
         SELECT id, 0 FROM delegation WHERE id = $1 OR id LIKE $1 || '.%'",
    )
    .bind(tree.root())
    .execute(&mut sql)
    .await
    .unwrap();
    stage.seal_rows().await;
    // Ids like the server's: ordered by time, one every three milliseconds up to now.
    sqlx::query(
        "CREATE FUNCTION pg_temp.jti(root text, n bigint) RETURNS uuid LANGUAGE sql STABLE AS $$
             SELECT (lpad(to_hex((extract(epoch FROM now()) * 1000)::bigint - 3600000 + n * 3), 12, '0')
                     || '7' || substr(d, 1, 3) || '8' || substr(d, 4, 15))::uuid FROM md5(root || n) d $$",
    )
    .execute(&mut sql)
    .await
    .unwrap();
    sqlx::query(TOKENS)
        .bind(tree.root())
        .bind(tree.owner())
        .bind(tree.below)
        .bind(tree.children)
        .bind(IDP)
        .bind(tree.tokens)
        .bind(AGENTS)
        .bind(tree.number * PLACES)
        .bind(MAIL)
        .execute(&mut sql)
        .await
        .unwrap();
    // The server continues after the lists that are in use.
    sqlx::query("SELECT setval('status_block', greatest((SELECT last_value FROM status_block), $1))")
        .bind((tree.number + 1) * BLOCKS - 1)
        .execute(&mut sql)
        .await
        .unwrap();
}

const DELEGATIONS: &str = "
    INSERT INTO delegation (id, path, parent, root_iss, root_sub, delegator_iss, delegator_sub, delegate, origin,
                            requested_at, activated_at, expires_at)
    SELECT CASE n WHEN 0 THEN $1 ELSE $1 || '.' || n END,
           CASE WHEN n = 0 THEN ARRAY[$1] WHEN n <= $4 THEN ARRAY[$1, $1 || '.' || n]
                ELSE ARRAY[$1, $1 || '.' || above, $1 || '.' || n] END,
           CASE WHEN n = 0 THEN NULL WHEN n <= $4 THEN $1 ELSE $1 || '.' || above END,
           $5, $2, CASE n WHEN 0 THEN $5 ELSE $6 END,
           CASE WHEN n = 0 THEN $2 WHEN n <= $4 THEN 'proxy' WHEN above = 1 THEN 'by-secret' ELSE 'agent-' || above % $7 END,
           CASE n WHEN 0 THEN 'proxy' WHEN 1 THEN 'by-secret' ELSE 'agent-' || n % $7 END,
           'granted', now() - interval '2 hours', now() - interval '2 hours', now() + interval '1 day'
    FROM (SELECT n, 1 + (n - 1) % $4 AS above FROM generate_series(0, $3) n) x";

const TOKENS: &str = "
    INSERT INTO issued_token (jti, parent, lineage, txn, client_id, subject_iss, subject_sub, delegation_id, jkt, kid, scope,
                              audience, issued_at, expires_at, status_index)
    SELECT pg_temp.jti($1, t),
           CASE WHEN t = 0 THEN NULL WHEN n <= $4 THEN pg_temp.jti($1, 0) ELSE pg_temp.jti($1, above) END,
           CASE WHEN t = 0 THEN '{}' WHEN n <= $4 THEN ARRAY[pg_temp.jti($1, 0)]
                ELSE ARRAY[pg_temp.jti($1, 0), pg_temp.jti($1, above)] END,
           pg_temp.jti($1, 0),
           CASE WHEN t = 0 THEN 'proxy' WHEN n = 1 THEN 'by-secret' ELSE 'agent-' || n % $7 END,
           $5, $2, CASE WHEN t = 0 THEN $1 ELSE $1 || '.' || n END, left(md5(n::text) || md5($1), 43), repeat('s', 43),
           'mail.read', ARRAY[$9], now() - interval '1 hour' + t * interval '3 milliseconds', now() + interval '1 day',
           -- Odd, so that each place is taken once.
           $8 + (t * 618033) % 1048576
    FROM (SELECT t, n, 1 + (n - 1) % $4 AS above
          FROM (SELECT t, 1 + (t + $3 - 1) % $3 AS n FROM generate_series(0, $6) t) y) x";

/// Does the work of autovacuum in advance, so that it does not run during a measurement.
pub async fn settle(sql: &mut PgConnection) {
    for statement in ["VACUUM (ANALYZE)", "CHECKPOINT"] {
        sqlx::query(statement).execute(&mut *sql).await.unwrap();
    }
}

pub async fn settle_all(stages: &[&Stage]) {
    for stage in stages {
        let mut sql = stage.sql().await;
        settle(&mut sql).await;
        sql.close().await.unwrap();
    }
}
