//! How PostgreSQL executes the statements of the ledger: each is planned once for each connection, whatever the tables
//! contain at that moment, and the plan is kept while they grow. A trigger explains the plans in the ledger's own
//! session.

use serde_json::{Value, json};
use sqlx::types::Json;
use sqlx::{AssertSqlSafe, Executor, PgConnection};

use crate::support::agent::{ACCESS_TOKEN, JWT};
use crate::support::offline::{refresh_token, refreshing};
use crate::support::world::{IDP, MAIL, World};

/// How the statements of a batch begin.
const STATEMENTS: [&str; 23] = [
    "SELECT input.iss, input.sub, p.pseudonym",
    "INSERT INTO person",
    "WITH u AS MATERIALIZED",
    "SELECT input.delegation_id, input.tool_use_id, s.is_done",
    "SELECT pg_advisory_xact_lock($2, key)",
    "SELECT * FROM ceremony",
    "INSERT INTO delegation (",
    "INSERT INTO delegation_usage",
    "WITH issued AS",
    "INSERT INTO issued_token (jti, lineage",
    "UPDATE refresh_token SET ended_at",
    "INSERT INTO refresh_token AS r",
    "UPDATE refresh_token SET last_used_at",
    "UPDATE delegation SET expiry_logged",
    "UPDATE revocation_epoch SET number",
    "INSERT INTO reported_step",
    "INSERT INTO session AS s",
    "UPDATE ceremony SET used_at",
    "INSERT INTO ceremony",
    "INSERT INTO used_target",
    "INSERT INTO usual_depth",
    "SELECT size, peaks, erasures FROM audit_head FOR UPDATE",
    "INSERT INTO audit_step_text",
];

/// The statement that appends the events, and is the one that fires the trigger.
const APPEND: &str = "WITH added AS";

/// Tables that always have exactly one row.
const SINGLETONS: [&str; 5] = ["server_info", "registry", "replay_horizon", "revocation_epoch", "audit_head"];

/// The indexes that find a row by values that a batch has. The last index finds the few confirmations that have not
/// expired.
const INDEXES: [&str; 25] = [
    "person_sub_iss_key",
    "client_pkey",
    "connection_pkey",
    "provider_pkey",
    "delegation_pkey",
    "delegation_usage_pkey",
    "reported_step_pkey",
    "issued_token_pkey",
    "refresh_token_pkey",
    "refresh_token_of_grant",
    "refresh_token_of_delegation",
    "principal_revocation_pkey",
    "principal_revocation_history_pkey",
    "principal_revocation_of_client",
    "removed_key_pkey",
    "candidate_version_pkey",
    "ceremony_pkey",
    "ceremony_of_delegation",
    "ceremony_by_time",
    "ceremony_to_forget",
    "used_target_pkey",
    "usual_depth_pkey",
    "standing_grant_pkey",
    "standing_grant_keys_pkey",
    "standing_grant_of_keys",
];

const WATCH: &str = r"
    CREATE TABLE plan_seen (statement text PRIMARY KEY, plan jsonb NOT NULL, custom_plans bigint NOT NULL);
    GRANT SELECT, INSERT, UPDATE ON plan_seen TO actchain_server;
    CREATE FUNCTION explain_session() RETURNS trigger LANGUAGE plpgsql AS $$
    DECLARE
        one record;
        plan json;
    BEGIN
        FOR one IN SELECT name, statement, custom_plans,
                          CASE WHEN cardinality(parameter_types) = 0 THEN ''
                               ELSE '(' || repeat('NULL, ', cardinality(parameter_types) - 1) || 'NULL)' END AS nothing
                   FROM pg_prepared_statements LOOP
            EXECUTE format('EXPLAIN (FORMAT JSON, COSTS OFF) EXECUTE %I %s', one.name, one.nothing) INTO plan;
            INSERT INTO plan_seen VALUES (trim(E' \n' FROM one.statement), plan, one.custom_plans)
            ON CONFLICT (statement) DO UPDATE SET plan = EXCLUDED.plan, custom_plans = EXCLUDED.custom_plans;
        END LOOP;
        RETURN NULL;
    END
    $$;
    CREATE TRIGGER explain_session AFTER UPDATE ON audit_head FOR EACH STATEMENT
        WHEN (current_setting('plan_cache_mode') = 'force_generic_plan') EXECUTE FUNCTION explain_session()";

/// Rows as a server writes them, as far as the ledger's statements read them: 20,000 rows in most tables.
const ROWS: &str = "
    INSERT INTO client (client_id, kind, name, auth, secrets, scopes, audiences, detail_types, grant_types, dpop,
                        dpop_keys, actor_subjects, created_at, updated_at)
    SELECT 'agent-' || n, kind, 'agent-' || n, 'none', '[]', scopes, audiences, detail_types, grant_types, 'required', '{}',
           actor_subjects, created_at, updated_at
    FROM client, generate_series(1, 5000) n WHERE client_id = 'user-proxy';
    INSERT INTO delegation (id, path, root_iss, root_sub, delegator_iss, delegator_sub, delegate, origin, requested_at,
                            activated_at, expires_at)
    SELECT 'x-' || n, ARRAY['x-' || n], 'i', 'user-' || n, 'i', 'user-' || n, 'agent-' || 1 + n % 5000, 'granted',
           now(), now(), now() + interval '1 day'
    FROM generate_series(1, 20000) n;
    INSERT INTO delegation_usage (delegation_id, uses) SELECT id, 3 FROM delegation WHERE id LIKE 'x-%';
    INSERT INTO issued_token (jti, lineage, txn, client_id, subject_iss, subject_sub, delegation_id, kid, scope, audience,
                              issued_at, expires_at, status_index)
    SELECT gen_random_uuid(), '{}', gen_random_uuid(), 'agent-' || 1 + n % 5000, 'i', 'user-' || n, 'x-' || n, 'k', 's',
           '{a}', now(), now() + interval '1 day', n
    FROM generate_series(1, 20000) n;
    INSERT INTO refresh_token (id, digest, delegation_id, client_id, subject_iss, subject_sub, jkt, grant_hash, granted, login,
                               txn, issued_at, last_used_at, anchors, mac)
    SELECT gen_random_uuid(), sha256(n::text::bytea), 'x-' || n, 'agent-' || 1 + n % 5000, 'i', 'user-' || n, 'k', '', '{}', '{}',
           gen_random_uuid(), now(), now(), '{}', ''
    FROM generate_series(1, 20000) n;
    INSERT INTO used_jti SELECT gen_random_uuid(), now() + interval '1 day' FROM generate_series(1, 20000);
    INSERT INTO reported_step SELECT 'x-' || n, 't', true, '', now() FROM generate_series(1, 20000) n;
    INSERT INTO ceremony (id, delegation_id, client_id, fingerprint, scopes, audiences, requested_at, expires_at)
    SELECT gen_random_uuid(), 'x-' || n, 'agent-1', '', '{}', '{}', now(), now() + interval '1 day'
    FROM generate_series(1, 20000) n;
    INSERT INTO principal_revocation SELECT 'i', 'former-' || n, now(), n, 'r' FROM generate_series(1, 20000) n;
    INSERT INTO principal_revocation_history SELECT 'i', 'former-' || n, n, now(), 'agent-' || n FROM generate_series(1, 20000) n;
    INSERT INTO removed_key (client_id, jkt, removed_at, removed_epoch)
    SELECT client_id, 'k', now(), 1 FROM client WHERE client_id LIKE 'agent-%';
    INSERT INTO candidate_version (parent, delegator_iss, delegator_sub, delegate)
    SELECT '', 'i', 'user-' || n, 'other' FROM generate_series(1, 20000) n;
    INSERT INTO person SELECT 'p-' || n, 'i', 'user-' || n, decode(repeat('00', 32), 'hex') FROM generate_series(1, 20000) n;
    INSERT INTO used_target SELECT 'agent-' || n % 5000, 'target-' || n, now() FROM generate_series(1, 20000) n;
    INSERT INTO usual_depth SELECT 'i', 'user-' || n, 1, now() FROM generate_series(1, 20000) n;
    INSERT INTO data_key VALUES ('k', 'w', now(), now());
    INSERT INTO provider SELECT 'p-' || n, 1, '{}', 's', 'k', now(), now() FROM generate_series(1, 2000) n;
    INSERT INTO connection (id, provider, owner_iss, owner_sub, has_refresh_token, created_at, updated_at, obtained_at)
    SELECT 'c-' || n, 'p-' || 1 + n % 2000, 'i', 'user-' || n, false, now(), now(), now() FROM generate_series(1, 20000) n";

/// A server whose ledger has planned no statement yet, with a database that PostgreSQL does not analyse automatically.
async fn watched() -> (World, PgConnection) {
    let world = World::new().await;
    let mut sql = world.server.sql().await;
    let tables: Vec<String> = sqlx::query_scalar(
        "SELECT format('ALTER TABLE %s SET (autovacuum_enabled = false)', oid::regclass) FROM pg_class
         WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace",
    )
    .fetch_all(&mut sql)
    .await
    .unwrap();
    sql.execute(AssertSqlSafe(tables.join(";"))).await.unwrap();
    (world, sql)
}

/// Makes the ledger execute all its statements, and requires that each finds its rows by an index. The query of the
/// function `delegation_state` is not part of these plans: PostgreSQL plans it at each execution, for the current
/// tables.
async fn assert_planned_well(world: &World, sql: &mut PgConnection) {
    sql.execute(WATCH).await.unwrap();
    each_kind_of_entry(world).await;
    let seen: Vec<(String, Json<Value>, i64)> =
        sqlx::query_as("SELECT * FROM plan_seen").fetch_all(&mut *sql).await.unwrap();
    for begin in STATEMENTS.iter().chain([&APPEND]) {
        assert!(seen.iter().any(|(text, ..)| text.starts_with(begin)), "not executed by the ledger: {begin}");
    }
    for (text, Json(plan), custom_plans) in seen {
        let known = STATEMENTS.iter().chain([&APPEND]).any(|begin| text.starts_with(begin));
        assert!(known, "a statement that is not in the list of this test: {text}");
        assert_eq!(custom_plans, 0, "planned again for its parameters: {text}");
        assert_by_index(&text, &plan[0]["Plan"]);
    }
}

/// Requires of each scan in a plan that it reads one of the intended indexes, and under a condition.
fn assert_by_index(statement: &str, node: &Value) {
    let kind = node["Node Type"].as_str().unwrap();
    let table = node["Relation Name"].as_str().unwrap_or_default();
    if !SINGLETONS.contains(&table) {
        assert_ne!(kind, "Seq Scan", "of {table}, in {statement}");
        if let Some(index) = node["Index Name"].as_str() {
            assert!(INDEXES.contains(&index), "{index} is not the index for {statement}");
            assert!(node["Index Cond"].is_string(), "all of {index} is read in {statement}");
        }
    }
    for part in node["Plans"].as_array().into_iter().flatten() {
        assert_by_index(statement, part);
    }
}

/// One exchange of each kind: in the middle of a chain, with a refresh token and by it, allowed by a `may_act` claim, with the last use, and with a
/// required confirmation; and two reports, of which one has the last use.
async fn each_kind_of_entry(world: &World) {
    world.second_hop().await;
    let issuer = &world.server.app.issuer;
    let carol = world.user_token_with(|claims| {
        claims["sub"] = json!("carol");
        claims["may_act"] = json!({"client_id": "email-svc", "iss": issuer});
    });
    let allowed = world.email_svc.exchange(&world.server, &carol, JWT).param("audience", MAIL).send().await;
    allowed.with_status(200);
    let once = format!(
        "delegations:\n  - {{id: L, delegator: {{iss: {IDP}, sub: dave}}, delegate: user-proxy, expires_in: 600, max_uses: 1}}"
    );
    world.server.apply(&once).await.unwrap();
    let last = world.first_hop_of("dave").send().await.with_status(200);
    world.email_svc.exchange(&world.server, last.token(), ACCESS_TOKEN).send().await.assert_refused(
        400,
        "invalid_request",
        "delegation_required",
    );
    let id =
        world.granted("bob", json!({"ceremony_required_for": ["mail.send"]})).await.with_status(201).id();
    let confirmed = || world.first_hop_of("bob").param("scope", "mail.send");
    let asked = confirmed().send().await;
    let ceremony = asked.json["ceremony"].as_str().unwrap_or_else(|| panic!("{}", asked.text));
    let approve = format!("/delegate/{id}/ceremonies/{ceremony}/approve");
    world.as_user("bob", "POST", &approve, json!({})).await.with_status(200);
    confirmed().send().await.with_status(200);
    world.granted("olga", json!({"offline_access": true})).await.with_status(201);
    let offline = world.first_hop_of("olga").send().await.with_status(200);
    let token = refresh_token(&offline);
    refreshing(&world.user_proxy, &world.server, &token).send().await.with_status(200);
    let id = world.granted("erin", json!({"max_uses": 2})).await.id();
    for tool_use_id in ["t1", "t2"] {
        let step = json!({"tool": "Bash", "outcome": "succeeded", "input": "ls", "tool_use_id": tool_use_id});
        let path = format!("/delegate/{id}/steps");
        let report = world.as_agent(&world.user_proxy, "POST", &path, json!({"steps": [step]}));
        report.await.with_status(200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ledger_that_plans_on_tables_without_rows_uses_the_intended_indexes() {
    let (world, mut sql) = watched().await;
    assert_planned_well(&world, &mut sql).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ledger_that_plans_on_a_few_analysed_rows_uses_the_intended_indexes() {
    let (world, mut sql) = watched().await;
    // To read the only page of a table is cheaper than an index, and the ledger keeps its plan while the table grows.
    let few = ROWS.replace("20000", "3").replace("5000", "3").replace("2000", "3");
    sql.execute(AssertSqlSafe(few)).await.unwrap();
    sql.execute("ANALYZE").await.unwrap();
    assert_planned_well(&world, &mut sql).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ledger_that_plans_on_many_rows_that_were_never_analysed_uses_the_intended_indexes() {
    let (world, mut sql) = watched().await;
    sql.execute(ROWS).await.unwrap();
    assert_planned_well(&world, &mut sql).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ledger_that_plans_on_many_analysed_rows_uses_the_intended_indexes() {
    let (world, mut sql) = watched().await;
    sql.execute(ROWS).await.unwrap();
    sql.execute("ANALYZE").await.unwrap();
    assert_planned_well(&world, &mut sql).await;
}
