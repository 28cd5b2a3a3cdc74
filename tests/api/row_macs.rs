//! Write access to the database without the master key creates no valid issuer, client, resource or delegation: rows
//! have MACs, and a row that is not authentic is a fault.

use actchain::domain::client;
use actchain::domain::delegation;
use actchain::domain::registry;
use actchain::jobs::expiry;
use actchain::platform::seal::SealingKey;
use actchain::platform::secret::MasterKey;
use actchain::services::principals::{self, ClientKey};
use actchain::services::{keys, vault::rekey};
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Executor as _, PgConnection};

use crate::support::agent::{Agent, Auth, JWT};
use crate::support::ends::new_key;
use crate::support::management::Api;
use crate::support::world::{CALENDAR, IDP, MAIL, World};
use crate::support::{Answer, Server};

/// A connection with exactly the rights of a running server.
async fn as_server_role(server: &Server) -> PgConnection {
    let mut sql = server.sql().await;
    sql.execute("SET ROLE actchain_server").await.unwrap();
    sql
}

/// The response to an agent's exchange of a user's token, at a server with empty caches.
async fn hop(world: &World, agent: &Agent, token: &str) -> Answer {
    let fresh = world.server.twin().await;
    agent.exchange(&fresh, token, JWT).param("audience", MAIL).send().await
}

/// RFC 6749 §5.2 has no code for a failing server: 503, and a response without a token.
#[track_caller]
fn assert_fault(answer: &Answer, what: &str) {
    assert_eq!(answer.status, 503, "{what}: {}", answer.text);
    assert!(
        answer.json.get("access_token").is_none() && !answer.text.contains("MAC"),
        "{what}: {}",
        answer.text
    );
}

async fn failures(server: &Server, table: &str) -> u64 {
    let metrics = Api::get(server, "/metrics").send().await.text;
    let name = format!("actchain_row_mac_failures_total{{table=\"{table}\"}} ");
    metrics.lines().find_map(|line| line.strip_prefix(&name)?.trim().parse().ok()).unwrap_or(0)
}

/// A saved row that can be restored; without the columns that PostgreSQL generates.
struct Saved {
    table: &'static str,
    key: &'static str,
    row: Value,
}

impl Saved {
    async fn of(sql: &mut PgConnection, (table, key, id): (&'static str, &'static str, &str)) -> Self {
        let query = format!("SELECT to_jsonb(t) - 'subject_prefix' FROM {table} t WHERE {key} = $1");
        let row = sqlx::query_scalar(AssertSqlSafe(query)).bind(id).fetch_one(sql).await.unwrap();
        Self { table, key, row }
    }

    async fn put_back(self, sql: &mut PgConnection) {
        let Self { table, key, row } = self;
        let columns: Vec<&str> = row.as_object().unwrap().keys().map(String::as_str).collect();
        let (to, from) =
            (columns.join(", "), columns.iter().map(|name| format!("s.{name}")).collect::<Vec<_>>());
        let update = format!(
            "UPDATE {table} t SET ({to}) = (SELECT {} FROM jsonb_populate_record(NULL::{table}, $1) s)
             WHERE t.{key} = $1 ->> '{key}'",
            from.join(", ")
        );
        sqlx::query(AssertSqlSafe(update)).bind(row).execute(sql).await.unwrap();
    }
}

/// Checks that all stored rows are authentic.
async fn assert_all_authentic(server: &Server) {
    let (rows, mut sql) = (&server.app.rows, server.sql().await);
    client::store::list(rows, &mut sql).await.unwrap();
    registry::store::load(rows, &mut sql, &server.app.issuer).await.unwrap();
    let ids: Vec<String> = sqlx::query_scalar("SELECT id FROM delegation").fetch_all(&mut sql).await.unwrap();
    let paths = delegation::store::all_paths(rows, &mut sql, &ids).await.unwrap();
    assert_eq!(paths.len(), ids.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_issuer_row_that_the_servers_role_adds_is_not_trusted() {
    let world = World::new().await;
    let mut sql = as_server_role(&world.server).await;
    let forged = new_key();
    sqlx::query(
        "INSERT INTO issuer (iss, jwks, audiences, algorithms, token_types, alias)
         VALUES ('https://evil.example.com', $1, '{actchain}', '{ES256}', '{jwt}', 'evil')",
    )
    .bind(json!({"keys": [forged.public_jwk()]}))
    .execute(&mut sql)
    .await
    .unwrap();
    sql.execute("UPDATE registry SET version = version + 1").await.unwrap();
    let claims = world.user_claims();
    let token = forged.sign(
        "JWT",
        &json!({"iss": "https://evil.example.com", "sub": "alice", "aud": "actchain",
                                           "iat": claims["iat"], "exp": claims["exp"]}),
    );
    let before = failures(&world.server, "issuer").await;
    let exchange = async |token: &str| {
        world.user_proxy.exchange(&world.server, token, JWT).param("audience", MAIL).send().await
    };
    assert_fault(&exchange(&token.unwrap()).await, "the forged issuer");
    // With a registry that is not authentic, every request is refused, and the error is counted.
    assert_fault(&exchange(&world.user_token()).await, "an honest issuer beside it");
    assert!(failures(&world.server, "issuer").await > before);
    let said =
        world.server.apply("resources: [{id: https://new.example.com, scopes: [x]}]").await.unwrap_err();
    assert!(said.contains("issuer https://evil.example.com") && said.contains("not authentic"), "{said}");
    world
        .server
        .sql()
        .await
        .execute("DELETE FROM issuer WHERE iss = 'https://evil.example.com'")
        .await
        .unwrap();
    world.server.pass(1);
    assert_eq!(exchange(&world.user_token()).await.status, 200, "the forged row is out");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_issuer_or_a_resource_that_the_servers_role_changes_is_a_fault() {
    let world = World::new().await;
    let forged = new_key();
    let jwks = json!({"keys": [forged.public_jwk()]}).to_string();
    let introspection = json!({"endpoint": "https://evil.example.com", "client_id": "us", "auth": "private_key_jwt",
                               "signed": false, "audience": "optional", "cache": 60});
    for (table, key, id, change) in [
        ("issuer", "iss", IDP, format!("jwks = '{jwks}'")),
        ("issuer", "iss", IDP, "audiences = '{another}'".to_owned()),
        ("issuer", "iss", IDP, "algorithms = '{ES256,RS256}'".to_owned()),
        ("issuer", "iss", IDP, "alias = 'corp'".to_owned()),
        ("issuer", "iss", IDP, "delegation_audiences = '{actchain}'".to_owned()),
        ("issuer", "iss", IDP, "actors = 'accept'".to_owned()),
        ("issuer", "iss", IDP, format!("introspection = '{introspection}'")),
        ("issuer", "iss", IDP, "mac = NULL".to_owned()),
        ("resource", "id", MAIL, "scopes = '{everything}'".to_owned()),
        ("resource", "id", MAIL, "token_ttl = NULL".to_owned()),
        ("resource", "id", MAIL, format!("mac = (SELECT mac FROM resource WHERE id = '{CALENDAR}')")),
    ] {
        let mut sql = as_server_role(&world.server).await;
        let saved = Saved::of(&mut sql, (table, key, id)).await;
        let update = format!("UPDATE {table} SET {change} WHERE {key} = '{id}'");
        sql.execute(AssertSqlSafe(update)).await.unwrap();
        sql.execute("UPDATE registry SET version = version + 1").await.unwrap();
        let token = forged.sign("JWT", &world.user_claims()).unwrap();
        for token in [token, world.user_token()] {
            let exchange = world.user_proxy.exchange(&world.server, &token, JWT).param("audience", MAIL);
            let answer = exchange.send().await;
            assert!(answer.status >= 400, "{change}: {}", answer.text);
        }
        let answer =
            world.user_proxy.exchange(&world.server, &world.user_token(), JWT).param("audience", MAIL);
        assert_fault(&answer.send().await, &change);
        saved.put_back(&mut sql).await;
        world.server.pass(1);
        world.first_hop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_row_that_the_servers_role_adds_or_changes_is_not_accepted() {
    let world = World::new().await;
    let proxy = &world.user_proxy;
    let thief = Agent { key: new_key(), ..proxy.clone() };
    let jwks = json!({"keys": [thief.key.public_jwk(), proxy.key.public_jwk()]}).to_string();
    let removal = format!("/api/v1/clients/user-proxy/keys/{}", new_key().kid());
    assert_eq!(world.as_admin("DELETE", &removal, json!({})).await.status, 200);
    let token = world.user_token();
    assert_eq!(hop(&world, proxy, &token).await.status, 200);
    for change in [
        format!("jwks = '{jwks}'"),
        "audiences = '{https://mail.example.com,https://more.example.com}'".to_owned(),
        "scopes = scopes || '{everything}'".to_owned(),
        "grant_types = '{token-exchange}'".to_owned(),
        "dpop = 'optional'".to_owned(),
        "secrets = (SELECT secrets FROM client WHERE client_id = 'email-svc')".to_owned(),
        "auth = 'none'".to_owned(),
        "max_token_ttl = 1".to_owned(),
        "kind = 'admin'".to_owned(),
        format!("dpop_keys = '{{{}}}', dpop_restricted = true", thief.jkt()),
        format!("actor_subjects = '[{{\"iss\": \"{IDP}\", \"sub\": \"mallory\"}}]'"),
        "version = version + 1".to_owned(),
        "ephemeral_delegation_id = 'D', task_id = 't', owner_iss = 'i', owner_sub = 's'".to_owned(),
        "mac = NULL".to_owned(),
        "mac = (SELECT mac FROM client WHERE client_id = 'email-svc')".to_owned(),
    ] {
        let mut sql = as_server_role(&world.server).await;
        let saved = Saved::of(&mut sql, ("client", "client_id", "user-proxy")).await;
        let update = format!("UPDATE client SET {change} WHERE client_id = 'user-proxy'");
        sql.execute(AssertSqlSafe(update)).await.unwrap();
        let before = failures(&world.server, "client").await;
        for agent in [proxy, &thief] {
            assert_fault(&hop(&world, agent, &token).await, &change);
        }
        assert!(failures(&world.server, "client").await > before, "{change}");
        saved.put_back(&mut sql).await;
        assert_eq!(hop(&world, proxy, &token).await.status, 200, "{change}, taken back");
    }
    // The MAC covers the removal of a key, and a disablement.
    let mut sql = as_server_role(&world.server).await;
    sql.execute("UPDATE removed_key SET restored_at = now()").await.unwrap();
    assert_fault(&hop(&world, proxy, &token).await, "a removal undone");
    sql.execute("UPDATE removed_key SET restored_at = NULL").await.unwrap();
    assert_eq!(hop(&world, proxy, &token).await.status, 200);
    world.server.disable("user-proxy").await;
    sql.execute("UPDATE client SET disabled_at = NULL WHERE client_id = 'user-proxy'").await.unwrap();
    assert_fault(&hop(&world, proxy, &token).await, "a disablement undone");
    // A client that the attacker makes, and a copy of a client with a new id.
    let copy =
        "INSERT INTO client SELECT (jsonb_populate_record(c, '{\"client_id\": \"copy\"}')).* FROM client c
                WHERE client_id = 'followup-svc'";
    sql.execute(copy).await.unwrap();
    let copied = Agent { id: "copy".into(), ..world.followup_svc.clone() };
    assert_fault(&hop(&world, &copied, &token).await, "a copied client");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delegation_row_that_the_servers_role_adds_or_changes_grants_nothing() {
    let world = World::new().await;
    let token = world.user_token();
    let stranger = hop(&world, &world.stranger, &token).await;
    stranger.assert_refused(400, "invalid_request", "delegation_required");
    let mut sql = as_server_role(&world.server).await;
    let forged = "INSERT INTO delegation SELECT (jsonb_populate_record(d,
                      '{\"id\": \"forged\", \"path\": [\"forged\"], \"delegate\": \"stranger\"}')).*
                  FROM delegation d WHERE id = 'D'";
    sql.execute(forged).await.unwrap();
    assert_fault(&hop(&world, &world.stranger, &token).await, "a forged delegation");
    world.server.sql().await.execute("DELETE FROM delegation WHERE id = 'forged'").await.unwrap();
    assert_eq!(hop(&world, &world.user_proxy, &token).await.status, 200);
    for change in [
        "scopes = '{mail.read}'",
        "audiences = '{https://mail.example.com}'",
        "authorization_details = '[]'",
        "capability_ceiling = 'admin'",
        "ceremony_required_for = '{mail.send}'",
        "max_depth = NULL",
        "max_uses = 5",
        "expires_at = expires_at + interval '1 day'",
        "activated_at = activated_at - interval '1 second'",
        "requested_at = requested_at - interval '1 second'",
        "root_sub = 'bob'",
        "pending_jwk = '{}'",
        "requested_ttl = 7",
        "mac = NULL",
        "mac = (SELECT mac FROM delegation WHERE id = 'E')",
    ] {
        let saved = Saved::of(&mut sql, ("delegation", "id", "D")).await;
        let before = failures(&world.server, "delegation").await;
        sql.execute(AssertSqlSafe(format!("UPDATE delegation SET {change} WHERE id = 'D'"))).await.unwrap();
        assert_fault(&hop(&world, &world.user_proxy, &token).await, change);
        let shown = world.as_alice("GET", "/delegate/D", json!({})).await;
        assert_eq!(shown.status, 503, "{change}: {}", shown.text);
        assert!(failures(&world.server, "delegation").await > before, "{change}");
        saved.put_back(&mut sql).await;
        assert_eq!(hop(&world, &world.user_proxy, &token).await.status, 200, "{change}, taken back");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_cannot_be_approved_but_by_its_delegator() {
    let world = World::new().await;
    let asked = json!({"delegator": {"iss": IDP, "sub": "bob"}, "audiences": [MAIL], "expires_in": 600});
    let asked = world.as_agent(&world.user_proxy, "POST", "/delegate", asked).await;
    assert_eq!(asked.status, 202, "{}", asked.text);
    let mut sql = as_server_role(&world.server).await;
    sql.execute(
        "UPDATE delegation SET activated_at = requested_at, requested_ttl = NULL WHERE origin = 'requested'",
    )
    .await
    .unwrap();
    assert_fault(&hop(&world, &world.user_proxy, &world.token_of("bob")).await, "a forged approval");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_audited_change_leaves_authentic_rows() {
    let world = World::new().await;
    let app = &world.server.app;
    let details = json!([{"type": "mailbox", "identifier": "a", "actions": ["write", "read"]}]);
    let body = json!({"delegate": "user-proxy", "authorization_details": details, "max_depth": 4_000_000_000_u32,
                       "agent": {"type": "cli"}, "reason": "a\n\"b\"", "max_uses": 3});
    let created = world.as_alice("POST", "/delegate", body).await;
    assert_eq!(created.status, 201, "{}", created.text);
    let path = format!("/delegate/{}", created.json["id"].as_str().unwrap());
    let asked = json!({"delegator": {"iss": IDP, "sub": "bob"}, "expires_in": 600});
    let asked = world.as_agent(&world.user_proxy, "POST", "/delegate", asked).await;
    let approve = format!("/delegate/{}/approve", asked.json["id"].as_str().unwrap());
    let narrower = json!({"scopes": ["mail.read"], "audiences": [MAIL], "max_uses": 2, "expires_in": 300});
    let approved = world.as_user("bob", "POST", &approve, narrower).await;
    assert_eq!(approved.status, 200, "{}", approved.text);
    let renewed = world.as_alice("POST", &format!("{path}/renew"), json!({"expires_in": 80_000})).await;
    assert_eq!(renewed.status, 200, "{}", renewed.text);
    let made = world.made_by_alice("t").await;
    let swept = world.made_by_alice("u").await;
    let next = new_key();
    let rotate = format!("/delegate/{}/rotate-key", made.delegation);
    let asked = world.as_agent(&made.agent, "POST", &rotate, json!({"jwk": next.public_jwk()})).await;
    assert_eq!(asked.status, 202, "{}", asked.text);
    assert_all_authentic(&world.server).await;
    let confirmed =
        world.as_alice("POST", &format!("/delegate/{}/approve", made.delegation), json!({})).await;
    assert_eq!(confirmed.status, 200, "{}", confirmed.text);
    let key = ClientKey { client_id: "followup-svc", jkt: world.followup_svc.jkt() };
    principals::remove_key(&world.server.operator(), key).await.unwrap();
    principals::restore_key(&world.server.operator(), key).await.unwrap();
    world.server.disable("stranger").await;
    world.server.enable("stranger").await;
    world.server.disable("email-svc").await;
    world.server.rotate_secret("mail-server", 0).await;
    let again = "clients:\n  - {id: stranger, kind: agent, auth: client_secret_post, max_token_ttl: 60}";
    world.server.apply(again).await.unwrap();
    // A `may_act` claim of a token creates a delegation in the ledger.
    let may_act = world.user_token_with(|claims| claims["may_act"] = json!({"sub": "email-svc"}));
    drop(hop(&world, &world.email_svc, &may_act).await);
    world.server.revoke("E").await;
    let cut = json!({"iss": IDP, "sub": "bob", "reason": "left"});
    assert_eq!(world.as_admin("POST", "/api/v1/principals/revoke-all", cut).await.status, 200);
    assert_eq!(world.as_alice("DELETE", "/api/v1/tasks/t/agents", json!({})).await.status, 200);
    world.server.revoke(&swept.delegation).await;
    world.server.pass(30);
    expiry::run_once(app, world.server.clock.now()).await.unwrap();
    assert_all_authentic(&world.server).await;
    assert_eq!(failures(&world.server.twin().await, "none").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delegation_of_a_may_act_claim_is_authentic() {
    let world = World::new().await;
    let issuer = json!(world.server.app.issuer);
    let token = world.user_token_with(|claims| claims["may_act"] = json!({"iss": issuer, "sub": "stranger"}));
    let answer = hop(&world, &world.stranger, &token).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    assert_all_authentic(&world.server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_key_is_not_created_again_while_rows_exist() {
    let world = World::new().await;
    let (app, now) = (&world.server.app, world.server.clock.now());
    let seal = SealingKey::of(&world.server.master);
    let mut sql = world.server.sql().await;
    let ensure = async || keys::ensure(&app.pool, &seal, &app.config.keys, now).await;
    // Only the key is missing: no row with a MAC of that key may be accepted as new.
    sql.execute("DELETE FROM server_secret WHERE name = 'row_mac'").await.unwrap();
    let said = ensure().await.unwrap_err().to_string();
    assert!(said.contains("row_mac") && said.contains("backup"), "{said}");
    // Nor rows that have no MAC: the owner of the tables can remove the MACs.
    for table in ["issuer", "resource", "client", "delegation"] {
        sql.execute(AssertSqlSafe(format!("UPDATE {table} SET mac = NULL"))).await.unwrap();
    }
    let said = ensure().await.unwrap_err().to_string();
    assert!(said.contains("row_mac"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_stay_authentic_under_another_master_key() {
    let world = World::new().await;
    let app = &world.server.app;
    let master = MasterKey::generate().unwrap();
    let twin = world.server.twin_under(&master).await;
    rekey(&app.pool, &twin.app.vault.keys, world.server.clock.now(), |_, _| {}).await.unwrap();
    let seal = SealingKey::of(&master);
    let rows = keys::open_row_mac(&app.pool, &seal, world.server.clock.now()).await.unwrap();
    let found = client::store::list(&rows, &mut world.server.sql().await).await.unwrap();
    assert_eq!(found.len(), 6);
    assert_all_authentic(&world.server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_servers_role_cannot_rename_a_shared_secret_or_move_an_end() {
    let world = World::new().await;
    let mut sql = as_server_role(&world.server).await;
    for statement in [
        "UPDATE server_secret SET name = 'renamed' WHERE name = 'row_mac'",
        "DELETE FROM server_secret",
        "DELETE FROM removed_key",
        "UPDATE removed_key SET jkt = 'another'",
        "DELETE FROM principal_revocation",
        "UPDATE principal_revocation SET sub = 'another'",
        "DELETE FROM client",
    ] {
        let refused = sql.execute(statement).await.unwrap_err().to_string();
        assert!(refused.contains("permission denied"), "{statement}: {refused}");
    }
    // Another sealed secret in its place, or garbage, cannot be opened.
    let other =
        "UPDATE server_secret SET sealed = (SELECT sealed FROM server_secret WHERE name = 'status_places')
                 WHERE name = 'row_mac'";
    sql.execute(other).await.unwrap();
    let seal = SealingKey::of(&world.server.master);
    let opened = keys::open_row_mac(&world.server.app.pool, &seal, world.server.clock.now()).await;
    assert!(opened.is_err());
    assert!(matches!(world.stranger.auth, Auth::Post(_)));
}
