//! A status list and introspection agree about every token: they read the same facts from opposite directions.

use std::collections::HashMap;

use actchain::domain::{status, token};
use actchain::services::seal_rows;
use actchain_protocol::status_list::SIZE;
use sqlx::{Executor as _, PgConnection};
use uuid::Uuid;

use crate::support::Server;

/// Random agents, trees of delegations, and chains of tokens. Delegations were recorded in epochs up to 10, tokens in
/// epochs 5 to 15; half of the tokens are in the second list, which the test does not read.
const WORLD: &str = "
    INSERT INTO client (client_id, kind, name, auth, secrets, scopes, audiences, detail_types, grant_types, dpop,
                        dpop_keys, actor_subjects, created_at, updated_at)
    SELECT 'agent-' || n, 'agent', 'agent', 'none', '[]', '{}', '{}', '{}', '{}', 'required', '{}', '[]', now_, now_
    FROM generate_series(0, 9) n, (SELECT timestamptz '2026-01-01' AS now_) w;
    DO $$
    DECLARE
        now_ timestamptz := '2026-01-01'; above record; made_from record; held text; lineage_ uuid[];
    BEGIN
        FOR n IN 1..60 LOOP
            SELECT id, path INTO above FROM delegation WHERE random() < 0.7 AND cardinality(path) < 5
            ORDER BY random() LIMIT 1;
            INSERT INTO delegation (id, path, parent, root_iss, root_sub, delegator_iss, delegator_sub, delegate, origin,
                                    max_uses, requested_at, activated_at, expires_at, created_epoch)
            VALUES ('d' || n, above.path || ('d' || n), above.id, 'idp', 'user', 'idp', 'user-' || (random() * 5)::int,
                    'agent-' || (random() * 9)::int, 'granted', 5, now_ - interval '90 seconds',
                    now_ - interval '90 seconds', now_ + interval '1 hour', (random() * 10)::int);
            INSERT INTO delegation_usage (delegation_id, uses) VALUES ('d' || n, 1);
        END LOOP;
        FOR n IN 1..200 LOOP
            SELECT * INTO made_from FROM issued_token WHERE random() < 0.7 ORDER BY random() LIMIT 1;
            lineage_ := coalesce(made_from.lineage || made_from.jti, '{}');
            held := CASE WHEN random() < 0.8 THEN 'd' || 1 + (random() * 59)::int END;
            INSERT INTO issued_token (jti, parent, lineage, txn, client_id, subject_iss, subject_sub, delegation_id, jkt,
                                      auth_key, kid, scope, audience, issued_at, expires_at, created_epoch,
                                      status_index)
            VALUES (gen_random_uuid(), made_from.jti, lineage_, gen_random_uuid(), 'agent-' || (random() * 9)::int, 'idp',
                    coalesce(made_from.subject_sub, 'user-' || (random() * 5)::int), held, 'key-' || (random() * 9)::int,
                    CASE WHEN random() < 0.5 THEN 'key-' || (random() * 9)::int END, 'kid', '', '{}',
                    now_ - interval '60 seconds', now_ + interval '10 minutes', 5 + (random() * 10)::int,
                    n + (n % 2) * 1048576);
        END LOOP;
    END $$";

/// Each kind of revocation in turn. For revoke-all and the removal of keys, newer tokens exist, too.
const ENDS: [(&str, &str); 11] = [
    ("nothing", "SELECT"),
    ("tokens", "UPDATE issued_token SET revoked_at = '2026-01-01' WHERE random() < 0.05"),
    (
        "a user, late",
        "INSERT INTO principal_revocation (iss, sub, at, revocation_epoch, reason) VALUES ('idp', 'user-2', '2026-01-01', 10, '')",
    ),
    (
        "a user, early",
        "INSERT INTO principal_revocation (iss, sub, at, revocation_epoch, reason) VALUES ('idp', 'user-3', '2026-01-01', 5, '')",
    ),
    ("clients cut off", "UPDATE client SET cutoff_epoch = 10 WHERE client_id = 'agent-2'"),
    ("agents", "UPDATE client SET deactivated_at = '2026-01-01' WHERE client_id = 'agent-3'"),
    (
        "clients disabled",
        "UPDATE client SET disabled_at = '2026-01-01' WHERE client_id IN ('agent-4', 'agent-3')",
    ),
    (
        "keys",
        "INSERT INTO removed_key (client_id, jkt, removed_at, removed_epoch)
         VALUES ('agent-5', 'key-5', '2026-01-01', 10), ('agent-6', 'key-6', '2026-01-01', 10)",
    ),
    ("delegations", "UPDATE delegation SET revoked_at = '2026-01-01' WHERE random() < 0.05"),
    ("keys of agents to be confirmed", "UPDATE delegation SET pending_jwk = '{}' WHERE random() < 0.1"),
    (
        "uses",
        "UPDATE delegation_usage SET uses = 5, exhausted_at = '2026-01-01' WHERE delegation_id IN ('d7', 'd17', 'd27')",
    ),
];

const UNDO: &str = "
    TRUNCATE principal_revocation, removed_key;
    UPDATE issued_token SET revoked_at = NULL;
    UPDATE client SET cutoff_epoch = NULL, deactivated_at = NULL, disabled_at = NULL;
    UPDATE delegation SET revoked_at = NULL, pending_jwk = NULL;
    UPDATE delegation_usage SET uses = 1, exhausted_at = NULL";

const LIFT: &str = "UPDATE client SET disabled_at = NULL; UPDATE delegation SET pending_jwk = NULL";

#[tokio::test]
async fn a_list_says_of_each_token_what_introspection_goes_by() {
    let server = Server::start("", "{}").await;
    let mut sql = server.sql().await;
    let mut ended = HashMap::new();
    for seed in ["0.1", "0.2", "0.3"] {
        sql.execute(sqlx::AssertSqlSafe(format!("SELECT setseed({seed})"))).await.unwrap();
        sql.execute("TRUNCATE client, delegation, issued_token CASCADE").await.unwrap();
        sql.execute(WORLD).await.unwrap();
        for (what, end) in ENDS {
            sql.execute(end).await.unwrap();
            *ended.entry(what).or_insert(0) +=
                agrees(&server, &mut sql, &format!("{what}, seed {seed}")).await;
            sql.execute(UNDO).await.unwrap();
        }
        for (_, end) in ENDS {
            sql.execute(end).await.unwrap();
        }
        agrees(&server, &mut sql, &format!("everything at once, seed {seed}")).await;
        sql.execute(UNDO).await.unwrap();
    }
    for (what, ended) in ended {
        assert_eq!(ended == 0, what == "nothing", "{what} ended {ended} of 300 tokens");
        assert!(ended < 300, "{what} ended all tokens");
    }
}

/// Compares the first list with introspection of each token. Suspended tokens must be those that are valid again after
/// every suspension is lifted. Returns the number of tokens that are not valid now.
async fn agrees(server: &Server, sql: &mut PgConnection, what: &str) -> usize {
    let list = status::store::ended(&server.app.pool, 0, server.clock.now()).await.unwrap();
    let said = |place: i64| match (list.invalid.contains(&place), list.suspended.contains(&place)) {
        (true, _) => "invalid",
        (false, true) => "suspended",
        (false, false) => "valid",
    };
    let now = standing(server, sql).await;
    sql.execute("BEGIN").await.unwrap();
    sql.execute(LIFT).await.unwrap();
    let then = standing(server, sql).await;
    sql.execute("ROLLBACK").await.unwrap();
    assert_eq!(now.len(), 100);
    for (place, good) in &now {
        let expected = match (good, then[place]) {
            (true, _) => "valid",
            (false, true) => "suspended",
            (false, false) => "invalid",
        };
        assert_eq!(said(*place), expected, "{what}: place {place}");
    }
    now.values().filter(|good| !**good).count()
}

/// Whether introspection accepts each token of the first list, by status index.
async fn standing(server: &Server, sql: &mut PgConnection) -> HashMap<i64, bool> {
    let tokens: Vec<(Uuid, i64)> =
        sqlx::query_as("SELECT jti, status_index FROM issued_token WHERE status_index < $1")
            .bind(i64::try_from(SIZE).unwrap())
            .fetch_all(&mut *sql)
            .await
            .unwrap();
    // Rows that SQL has changed get valid MACs, too.
    sql.execute("UPDATE delegation SET mac = NULL").await.unwrap();
    seal_rows::seal_unsealed(&server.app.rows, sql).await.unwrap();
    let mut standing = HashMap::new();
    for (jti, place) in tokens {
        let known = token::store::standing(&server.app.rows, sql, jti).await.unwrap().unwrap();
        standing.insert(place, known.check(server.clock.now()).is_ok());
    }
    standing
}
