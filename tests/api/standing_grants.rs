//! Standing grants: a user consents once within limits, and requests of the agent within one grant become active at once.

mod keys;
mod model;
mod offline;
mod races;

use actchain::domain::principal::Principal;
use actchain::jobs;
use actchain::services::erasure::ErasureOutcome;
use actchain::services::standing_grants::{self, NewStandingGrant};
use serde_json::{Value, json};

use crate::support::Answer;
use crate::support::agent::{ACCESS_TOKEN, Agent, JWT};
use crate::support::management::Api;
use crate::support::world::{CALENDAR, IDP, MAIL, World};

const GRANTS: &str = "/api/v1/standing-grants";

/// A standing grant of Bob for `user-proxy`: reading mail.
fn reading() -> Value {
    json!({"client_id": "user-proxy", "scopes": ["mail.read"], "audiences": [MAIL], "max_ttl": 600, "expires_in": 3600})
}

fn changed(mut value: Value, change: impl FnOnce(&mut Value)) -> Value {
    change(&mut value);
    value
}

impl World {
    async fn consented(&self, body: Value) -> Value {
        self.as_user("bob", "POST", GRANTS, body).await.with_status(201).json
    }

    /// What an agent requests from Bob.
    async fn requested(&self, agent: &Agent, change: impl FnOnce(&mut Value)) -> Answer {
        let body =
            json!({"delegator": {"iss": IDP, "sub": "bob"}, "scopes": ["mail.read"], "audiences": [MAIL]});
        self.as_agent(agent, "POST", "/delegate", changed(body, change)).await
    }

    async fn exchanged_for_bob(&self, agent: &Agent) -> Answer {
        let token = self.token_of("bob");
        agent
            .exchange(&self.server, &token, JWT)
            .param("audience", MAIL)
            .param("scope", "mail.read")
            .send()
            .await
    }

    async fn grant(&self, id: &Value) -> Value {
        self.as_user("bob", "GET", &format!("{GRANTS}/{}", id.as_str().unwrap()), Value::Null)
            .await
            .with_status(200)
            .json
    }

    async fn on_grant(&self, id: &Value, operation: &str, body: Value) -> Answer {
        self.as_user("bob", "POST", &format!("{GRANTS}/{}/{operation}", id.as_str().unwrap()), body).await
    }

    /// Actions and limits of the events with a standing grant, oldest first.
    async fn grant_events(&self, id: &Value) -> Vec<(String, Value)> {
        let path =
            format!("/api/v1/audit-logs?standing_grant_id={}&order=oldest&limit=1000", id.as_str().unwrap());
        let token = self.management_token(&self.admin).await;
        let page = Api::get(&self.server, &path).client(&self.admin, &token).send().await.with_status(200);
        let events = page.json["items"].as_array().unwrap().iter();
        events
            .map(|one| (one["action"].as_str().unwrap().to_owned(), one["detail"]["limit"].clone()))
            .collect()
    }
}

fn actions(events: &[(String, Value)]) -> Vec<&str> {
    events.iter().map(|(action, _)| action.as_str()).collect()
}

/// The actions on the grant itself, without those on its delegations and tokens.
fn own_actions(events: &[(String, Value)]) -> Vec<&str> {
    actions(events).into_iter().filter(|action| action.starts_with("standing_grant.")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_within_a_standing_grant_is_active_at_once_and_works() {
    let world = World::new().await;
    world.requested(&world.user_proxy, |_| {}).await.with_status(202);
    let body = changed(reading(), |body| {
        body["max_uses"] = json!(3);
        body["max_depth"] = json!(2);
    });
    let grant = world.consented(body).await;
    assert_eq!(
        (&grant["state"], &grant["keys"], &grant["created_by"]),
        (&json!("active"), &json!([world.user_proxy.jkt()]), &json!("user"))
    );
    let wide = world.requested(&world.user_proxy, |body| {
        body["expires_in"] = json!(7200);
        body["max_uses"] = json!(9);
        body["max_depth"] = json!(5);
    });
    let active = wide.await.with_status(201).json;
    assert_eq!((&active["state"], &active["standing_grant_id"]), (&json!("active"), &grant["id"]));
    assert_eq!(
        (&active["max_uses"], &active["max_depth"], &active["shortened"]),
        (&json!(3), &json!(2), &json!(true)),
        "limits of the grant are the most that each delegation gets"
    );
    let token = world.exchanged_for_bob(&world.user_proxy).await.with_status(200);
    assert!(world.is_active(token.token()).await);
    assert_eq!(token.claims()["sub"], "bob");
    let small = world.requested(&world.user_proxy, |body| {
        body["expires_in"] = json!(60);
        body["max_uses"] = json!(1);
        body["max_depth"] = json!(1);
    });
    let small = small.await.with_status(201).json;
    assert_eq!(
        (&small["max_uses"], &small["max_depth"], &small["shortened"]),
        (&json!(1), &json!(1), &Value::Null)
    );
    let events = world.grant_events(&grant["id"]).await;
    assert_eq!(
        own_actions(&events),
        ["standing_grant.created", "standing_grant.used", "standing_grant.used"]
    );
    let shown = world.grant(&grant["id"]).await;
    assert_eq!(shown["recent_activity"][0]["delegation_id"], small["id"], "{shown}");
    assert_eq!(shown["last_used_at"], small["requested_at"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_outside_waits_and_says_which_limit_it_exceeds() {
    let world = World::new().await;
    let body = changed(reading(), |body| {
        body["authorization_details"] = json!([{"type": "mailbox", "actions": ["read"]}]);
        body["capability_ceiling"] = json!("mutate");
    });
    let grant = world.consented(body).await;
    let fitting = json!([{"type": "mailbox", "actions": ["read"]}]);
    for (member, value, limit) in [
        ("scopes", json!(["mail.read", "mail.send"]), "scopes"),
        ("scopes", Value::Null, "scopes"),
        ("audiences", json!([MAIL, CALENDAR]), "audiences"),
        ("audiences", Value::Null, "audiences"),
        ("authorization_details", json!([{"type": "mailbox"}]), "authorization_details"),
        ("authorization_details", Value::Null, "authorization_details"),
        ("capability_ceiling", json!("execute"), "capability_ceiling"),
        ("capability_ceiling", Value::Null, "capability_ceiling"),
    ] {
        let request = world.requested(&world.user_proxy, |body| {
            body["authorization_details"] = fitting.clone();
            body["capability_ceiling"] = json!("observe");
            body[member] = value.clone();
            if value.is_null() {
                body.as_object_mut().unwrap().remove(member);
            }
        });
        let waits = request.await.with_status(202).json;
        let exceeded = json!({"standing_grant_id": grant["id"], "limit": limit});
        assert_eq!(waits["standing_grant_exceeded"], exceeded, "{member}: {value}");
        assert_eq!((&waits["state"], &waits["standing_grant_id"]), (&json!("requested"), &Value::Null));
    }
    let events = world.grant_events(&grant["id"]).await;
    let limits: Vec<&str> = events.iter().filter_map(|(_, limit)| limit.as_str()).collect();
    assert_eq!(limits.len(), 8);
    assert!(actions(&events)[1..].iter().all(|action| *action == "standing_grant.rejected"), "{events:?}");
    let within = world.requested(&world.user_proxy, |body| {
        body["authorization_details"] = fitting.clone();
        body["capability_ceiling"] = json!("observe");
    });
    within.await.with_status(201);
    // Another user and another agent have nothing to do with the grant.
    let other =
        json!({"delegator": {"iss": IDP, "sub": "carol"}, "scopes": ["mail.read"], "audiences": [MAIL]});
    let other = world.as_agent(&world.user_proxy, "POST", "/delegate", other).await.with_status(202);
    assert_eq!(other.json["standing_grant_exceeded"], Value::Null);
    let email = world.requested(&world.email_svc, |_| {}).await.with_status(202);
    assert_eq!(email.json["standing_grant_exceeded"], Value::Null);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_standing_grants_do_not_add_up() {
    let world = World::new().await;
    world.consented(changed(reading(), |body| body["scopes"] = json!(["both"]))).await;
    let calendar = json!({"client_id": "user-proxy", "scopes": ["calendar.read"], "audiences": [CALENDAR]});
    world.consented(calendar).await;
    let both = world.requested(&world.user_proxy, |body| {
        body["scopes"] = json!(["both"]);
        body["audiences"] = json!([CALENDAR]);
    });
    let waits = both.await.with_status(202).json;
    assert!(["scopes", "audiences"].contains(&waits["standing_grant_exceeded"]["limit"].as_str().unwrap()));
    let sum = world.requested(&world.user_proxy, |body| {
        body["scopes"] = json!(["both", "calendar.read"]);
        body["audiences"] = json!([MAIL, CALENDAR]);
    });
    sum.await.with_status(202);
    let mail = world.requested(&world.user_proxy, |body| body["scopes"] = json!(["both"]));
    mail.await.with_status(201);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revocation_ends_what_came_of_the_grant_and_nothing_else() {
    let world = World::new().await;
    let twin = world.server.twin().await;
    let grant = world.consented(reading()).await;
    let active = world.requested(&world.user_proxy, |_| {}).await.with_status(201).json;
    let token = world.exchanged_for_bob(&world.user_proxy).await.with_status(200);
    let below = world.as_agent(
        &world.user_proxy,
        "POST",
        "/delegate",
        json!({"parent": active["id"], "delegate": "email-svc"}),
    );
    let below = below.await.with_status(201).json;
    let next =
        world.email_svc.exchange(&world.server, token.token(), ACCESS_TOKEN).send().await.with_status(200);
    let alice = world.first_hop().await;
    assert_eq!(world.status_of(token.token()).await, 0);
    let revoked = world.on_grant(&grant["id"], "revoke", json!({})).await.with_status(200).json;
    assert_eq!(
        (&revoked["state"], &revoked["affected"]["delegations"], &revoked["affected"]["tokens"]),
        (&json!("revoked"), &json!(2), &json!(2))
    );
    for token in [&token, &next] {
        assert!(!world.is_active(token.token()).await);
        assert_eq!(world.status_of(token.token()).await, 1);
        let answer = twin.introspect(&world.mail_server, token.token()).await;
        assert_eq!(answer.json["active"], false, "at another server");
    }
    assert!(world.is_active(alice.token()).await);
    world.exchanged_for_bob(&world.user_proxy).await.assert_refused(
        400,
        "invalid_request",
        "delegation_revoked",
    );
    for id in [&active["id"], &below["id"]] {
        let shown =
            world.as_user("bob", "GET", &format!("/delegate/{}", id.as_str().unwrap()), Value::Null).await;
        assert_eq!(shown.json["state"], "revoked", "{}", shown.text);
    }
    let again = world.requested(&world.user_proxy, |_| {}).await.with_status(202).json;
    assert_eq!(again["standing_grant_exceeded"], Value::Null, "there is no grant any more");
    let twice = world.on_grant(&grant["id"], "revoke", json!({})).await;
    twice.assert_problem(409, "invalid_state_transition");
    assert_eq!(world.grant(&grant["id"]).await["state"], "revoked");
    let events = world.grant_events(&grant["id"]).await;
    assert!(
        own_actions(&events).ends_with(&["standing_grant.revoked", "standing_grant.revocation_refused"]),
        "{events:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoke_all_of_the_user_or_the_agent_revokes_the_grant() {
    for sub in ["bob", "user-proxy"] {
        let world = World::new().await;
        let iss = if sub == "bob" { IDP } else { world.server.app.issuer.as_str() };
        let who = json!({"iss": iss, "sub": sub, "reason": "a test"});
        let grant = world.consented(reading()).await;
        world.requested(&world.user_proxy, |_| {}).await.with_status(201);
        world.server.pass(1);
        let path = "/api/v1/principals/revoke-all";
        world.as_admin("POST", path, who.clone()).await.with_status(200);
        world.server.pass(120);
        assert_eq!(world.grant(&grant["id"]).await["state"], "revoked", "{who}");
        world.requested(&world.user_proxy, |_| {}).await.with_status(202);
        world.exchanged_for_bob(&world.user_proxy).await.with_status(400);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_grant_covers_nothing_and_is_recorded_once() {
    let world = World::new().await;
    let grant = world.consented(changed(reading(), |body| body["expires_in"] = json!(300))).await;
    let active = world.requested(&world.user_proxy, |_| {}).await.with_status(201).json;
    assert_eq!(active["expires_at"], grant["expires_at"], "a delegation ends with its grant");
    world.exchanged_for_bob(&world.user_proxy).await.with_status(200);
    // It expires between the automatic approval and the next exchange.
    world.server.pass(300);
    world.exchanged_for_bob(&world.user_proxy).await.assert_refused(
        400,
        "invalid_request",
        "delegation_expired",
    );
    let waits = world.requested(&world.user_proxy, |_| {}).await.with_status(202).json;
    assert_eq!(waits["standing_grant_exceeded"]["limit"], "expired");
    assert_eq!(world.grant(&grant["id"]).await["state"], "expired");
    for _ in 0..2 {
        jobs::expiry::run_once(&world.server.app, world.server.clock.now()).await.unwrap();
    }
    let events = world.grant_events(&grant["id"]).await;
    let expired = actions(&events).iter().filter(|action| **action == "standing_grant.expired").count();
    assert_eq!(expired, 1, "{events:?}");
    world
        .on_grant(&grant["id"], "renew", json!({"expires_in": 600}))
        .await
        .assert_problem(409, "invalid_state_transition");
    world.on_grant(&grant["id"], "revoke", json!({})).await.assert_problem(409, "invalid_state_transition");
}

/// The expiry of a grant that a revoke-all had ended is no event, and does not keep other expiries out of the log.
#[tokio::test(flavor = "multi_thread")]
async fn a_grant_that_a_revoke_all_ended_does_not_expire_again() {
    let world = World::new().await;
    let ended = world.consented(changed(reading(), |body| body["expires_in"] = json!(300))).await;
    world.server.pass(1);
    let bob = json!({"iss": IDP, "sub": "bob", "reason": "a test"});
    world.as_admin("POST", "/api/v1/principals/revoke-all", bob).await.with_status(200);
    world.server.pass(120);
    let later = world.consented(changed(reading(), |body| body["expires_in"] = json!(3600))).await;
    world.server.pass(200);
    jobs::expiry::run_once(&world.server.app, world.server.clock.now()).await.unwrap();
    let left: i64 = sqlx::query_scalar("SELECT count(*) FROM standing_grant WHERE NOT expiry_logged")
        .fetch_one(&mut world.server.sql().await)
        .await
        .unwrap();
    assert_eq!(left, 1, "the later one");
    world.server.pass(3_600);
    jobs::expiry::run_once(&world.server.app, world.server.clock.now()).await.unwrap();
    let expired = async |one: &Value| {
        actions(&world.grant_events(&one["id"]).await).contains(&"standing_grant.expired")
    };
    assert!(expired(&later).await && !expired(&ended).await);
}

/// A delegation ends with its grant, also after a renewal.
#[tokio::test(flavor = "multi_thread")]
async fn a_delegation_is_not_renewed_past_its_grant() {
    let world = World::new().await;
    let grant = world.consented(changed(reading(), |body| body["expires_in"] = json!(900))).await;
    let one = world.requested(&world.user_proxy, |_| {}).await.with_status(201).json;
    let path = format!("/delegate/{}/renew", one["id"].as_str().unwrap());
    let renewed =
        world.as_user("bob", "POST", &path, json!({"expires_in": 3600})).await.with_status(200).json;
    assert_eq!((&renewed["expires_at"], &renewed["shortened"]), (&grant["expires_at"], &json!(true)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_renewal_is_within_the_configured_maximum() {
    let world = World::configured("[standing_grants]\nmax_ttl = 7200\ndefault_ttl = 600").await;
    let long = world.consented(changed(reading(), |body| body["expires_in"] = json!(1_000_000))).await;
    assert_eq!(long["shortened"], true);
    let usual = world
        .consented(changed(reading(), |body| drop(body.as_object_mut().unwrap().remove("expires_in"))))
        .await;
    assert_eq!(usual["shortened"], Value::Null);
    world.server.pass(60);
    let past =
        world.on_grant(&long["id"], "renew", json!({"expires_in": 1_000_000})).await.with_status(200).json;
    assert_eq!(past["shortened"], true);
    let again = world.on_grant(&long["id"], "renew", json!({"expires_in": 1_000_000})).await;
    again.assert_problem(400, "expiry_not_later");
    let later =
        world.on_grant(&usual["id"], "renew", json!({"expires_in": 3600})).await.with_status(200).json;
    assert_eq!(later["shortened"], Value::Null);
    world.server.pass(700);
    world.requested(&world.user_proxy, |_| {}).await.with_status(201);
    let events = world.grant_events(&usual["id"]).await;
    assert!(
        actions(&events).starts_with(&["standing_grant.created", "standing_grant.renewed"]),
        "{events:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grant_is_never_wider_than_what_is_declared_and_what_the_user_has() {
    let world = World::new().await;
    for (change, reason) in [
        (json!({"scopes": ["unknown"]}), "scope_unknown"),
        (json!({"scopes": ["calendar.read"]}), "exceeds_grantor"),
        (json!({"audiences": ["https://unknown.example.com"]}), "resource_unknown"),
        (json!({"authorization_details": [{"type": "unknown"}]}), "authorization_details_type_unknown"),
        (json!({"capability_ceiling": "fly"}), "capability_unknown"),
        (json!({"client_id": "admin"}), "delegate_unknown"),
        (json!({"client_id": "nothing"}), "delegate_unknown"),
        (json!({"scopes": []}), "malformed_request"),
        (json!({"audiences": []}), "malformed_request"),
        (json!({"max_ttl": 0}), "malformed_request"),
        (json!({"max_uses": 0}), "malformed_request"),
        (json!({"keys": ["short"]}), "malformed_request"),
        (json!({"client_id": "email-svc"}), "malformed_request"),
        (json!({"colour": "red"}), "malformed_request"),
    ] {
        let body = changed(reading(), |body| {
            body.as_object_mut().unwrap().extend(change.as_object().unwrap().clone())
        });
        let refused = world.as_user("bob", "POST", GRANTS, body).await;
        refused.assert_problem(400, reason);
    }
    // An issuer that says in its tokens what a user may do: the user gives no more.
    let issuer = format!(
        "issuers: [{{iss: {IDP}, jwks: {{keys: [{}]}}, audiences: [actchain], algorithms: [ES256], may_act: authorize, \
         scope_claims: [permissions]}}]",
        world.idp.public_jwk()
    );
    world.server.apply(&issuer).await.unwrap();
    let with = |scopes: &[&str]| {
        world.user_token_with(|claims| {
            claims["sub"] = json!("bob");
            claims["permissions"] = json!(scopes);
        })
    };
    let post =
        async |token: &str| Api::new(&world.server, "POST", GRANTS).json(&reading()).user(token).send().await;
    let refused = post(&with(&["mail.send"])).await;
    refused.assert_problem(400, "exceeds_grantor");
    post(&with(&["mail.read"])).await.with_status(201);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_user_creates_unless_its_issuer_lets_administrators() {
    let world = World::new().await;
    let for_bob = changed(reading(), |body| body["grantor"] = json!({"iss": IDP, "sub": "bob"}));
    world.as_admin("POST", GRANTS, for_bob.clone()).await.assert_problem(403, "only_user_grants");
    world.as_user("carol", "POST", GRANTS, for_bob.clone()).await.assert_problem(403, "insufficient_scope");
    world
        .as_agent(&world.user_proxy, "POST", GRANTS, for_bob.clone())
        .await
        .assert_problem(403, "insufficient_scope");
    world.as_admin("POST", GRANTS, reading()).await.assert_problem(400, "malformed_request");
    let unknown =
        changed(reading(), |body| body["grantor"] = json!({"iss": "https://x.example.com", "sub": "bob"}));
    world.as_admin("POST", GRANTS, unknown).await.assert_problem(400, "delegator_unknown");
    let own = world.as_user("bob", "POST", GRANTS, for_bob.clone()).await.with_status(201).json;
    // What belongs to another user is as if it did not exist.
    let path = format!("{GRANTS}/{}", own["id"].as_str().unwrap());
    world.as_user("carol", "GET", &path, Value::Null).await.assert_problem(404, "not_found");
    world
        .as_user("carol", "POST", &format!("{path}/revoke"), json!({}))
        .await
        .assert_problem(404, "not_found");
    let listed = world.as_user("carol", "GET", GRANTS, Value::Null).await.with_status(200);
    assert_eq!(listed.json["items"], json!([]));
    world
        .as_admin("POST", &format!("{path}/renew"), json!({"expires_in": 7200}))
        .await
        .assert_problem(403, "only_user_grants");

    let issuer = format!(
        "issuers: [{{iss: {IDP}, jwks: {{keys: [{}]}}, audiences: [actchain], algorithms: [ES256], may_act: authorize, \
         standing_grants: by_user_or_admin}}]",
        world.idp.public_jwk()
    );
    world.server.apply(&issuer).await.unwrap();
    let by_admin = world.as_admin("POST", GRANTS, for_bob).await.with_status(201).json;
    let new = NewStandingGrant {
        grantor: Some(Principal::new(IDP, "bob")),
        client_id: "user-proxy".into(),
        scopes: vec!["mail.send".into()],
        audiences: vec![MAIL.into()],
        ..NewStandingGrant::default()
    };
    let by_operator = standing_grants::create(&world.server.operator(), &new).await.unwrap().value;
    assert_eq!(
        (&by_admin["created_by"], json!(by_operator)["created_by"].clone()),
        (&json!("admin"), json!("operator"))
    );
    let events = world.server.events().await;
    let created: Vec<&Value> =
        events.iter().filter(|one| one["action"] == "standing_grant.created").collect();
    let by: Vec<&Value> = created.iter().map(|one| &one["detail"]["created_by"]).collect();
    assert_eq!(by, [&json!("user"), &json!("admin"), &json!("operator")]);
    assert!(created.iter().all(|one| one["subject"]["iss"] == IDP && one["standing_grant_id"].is_string()));
    let list = async |query: &str| {
        let path = format!("{GRANTS}?{query}");
        let answer = world.as_user("bob", "GET", &path, Value::Null).await.with_status(200);
        (answer.json["items"].as_array().unwrap().len(), answer.json["next"].clone())
    };
    let (two, next) = list("limit=2").await;
    let (one, end) = list(&format!("limit=2&cursor={}", next.as_str().unwrap())).await;
    assert_eq!((two, one, end), (2, 1, Value::Null));
    assert_eq!(list("state=active&client_id=user-proxy").await.0, 3);
    assert_eq!((list("state=revoked").await.0, list("client_id=email-svc").await.0), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_decides_in_the_console_where_the_configuration_says_so() {
    let world = World::configured("[delegations]\ndecide_in = \"console\"").await;
    world.as_user("bob", "POST", GRANTS, reading()).await.assert_problem(403, "console_required");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standing_grant_that_the_servers_role_changes_covers_nothing() {
    let world = World::new().await;
    let grant = world.consented(reading()).await;
    world.requested(&world.user_proxy, |_| {}).await.with_status(201);
    let mut sql = world.server.sql().await;
    let saved: Value =
        sqlx::query_scalar("SELECT to_jsonb(g) FROM standing_grant g").fetch_one(&mut sql).await.unwrap();
    for change in [
        "scopes = '{mail.read,mail.send}'",
        "max_ttl = 100000",
        "grantor_sub = 'carol'",
        "keys = '{x}'",
        "mac = NULL",
    ] {
        let update = format!("UPDATE standing_grant SET {change}");
        sqlx::query(sqlx::AssertSqlSafe(update)).execute(&mut sql).await.unwrap();
        let listed = world.as_admin("GET", GRANTS, Value::Null).await;
        assert_eq!(listed.status, 503, "{change}: {}", listed.text);
        sqlx::query(
            "UPDATE standing_grant g SET (scopes, max_ttl, grantor_sub, keys, mac) =
                 (SELECT o.scopes, o.max_ttl, o.grantor_sub, o.keys, o.mac FROM jsonb_populate_record(NULL::standing_grant, $1) o)",
        )
        .bind(&saved)
        .execute(&mut sql)
        .await
        .unwrap();
    }
    let update = "UPDATE delegation SET standing_grant_id = NULL WHERE standing_grant_id = $1";
    sqlx::query(update).bind(grant["id"].as_str()).execute(&mut sql).await.unwrap();
    let exchange = world.exchanged_for_bob(&world.user_proxy).await;
    assert!(exchange.status >= 500, "a delegation cannot lose its grant: {}", exchange.text);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restored_backup_suspends_every_grant() {
    let world = World::new().await;
    let grant = world.consented(reading()).await;
    world.requested(&world.user_proxy, |_| {}).await.with_status(201);
    let scope = actchain::services::restored::ReviewScope::All;
    actchain::services::restored::review_restored(&world.server.operator(), scope, None).await.unwrap();
    world.server.pass(1);
    assert_eq!(world.grant(&grant["id"]).await["suspension"]["cause"], "backup_restored");
    let waits = world.requested(&world.user_proxy, |_| {}).await.with_status(202).json;
    assert_eq!(waits["standing_grant_exceeded"]["limit"], "suspended");
    let keys = json!({"keys": grant["keys"], "replaces": grant["keys"]});
    world.on_grant(&grant["id"], "revalidate", keys).await.with_status(200);
    world.requested(&world.user_proxy, |_| {}).await.with_status(201);
    let events = world.grant_events(&grant["id"]).await;
    assert!(actions(&events).contains(&"standing_grant.suspended"), "{events:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_covered_request_is_not_stopped_by_requests_that_wait() {
    let world = World::configured("[delegations]\nmax_pending_requests_per_client = 1").await;
    world.requested(&world.user_proxy, |_| {}).await.with_status(202);
    world.consented(reading()).await;
    world.requested(&world.user_proxy, |_| {}).await.with_status(201);
    let outside = world.requested(&world.user_proxy, |body| body["scopes"] = json!(["mail.send"]));
    outside.await.assert_problem(429, "rate_limited");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_has_at_most_a_hundred_grants_for_one_agent() {
    let world = World::new().await;
    let first = world.consented(reading()).await;
    for _ in 1..97 {
        world.consented(reading()).await;
    }
    // Some at once do not exceed it.
    let many = (0..8).map(|_| world.as_user("bob", "POST", GRANTS, reading()));
    let made = futures_util::future::join_all(many).await;
    assert_eq!(made.iter().filter(|answer| answer.status == 201).count(), 3, "{made:?}");
    world.as_user("bob", "POST", GRANTS, reading()).await.assert_problem(409, "standing_grant_limit");
    world.on_grant(&first["id"], "revoke", json!({})).await.with_status(200);
    world.consented(reading()).await;
}

/// A revoke-all ends many grants without a change of their rows. They do not hide later ones.
#[tokio::test(flavor = "multi_thread")]
async fn grants_that_a_revoke_all_has_ended_hide_no_later_one() {
    let world = World::new().await;
    for _ in 0..100 {
        world.consented(reading()).await;
    }
    world.server.pass(200);
    let bob = Principal::new(IDP, "bob");
    actchain::services::principals::revoke_all(&world.server.operator(), &bob, "test").await.unwrap();
    world.server.pass(200);
    for scope in ["mail.send", "mail.read"] {
        let shorter = changed(reading(), |body| {
            body["scopes"] = json!([scope]);
            body["expires_in"] = json!(if scope == "mail.read" { 600 } else { 1_200 });
        });
        world.consented(shorter).await;
    }
    world.requested(&world.user_proxy, |_| {}).await.with_status(201);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_erased_user_leaves_no_grant_that_covers() {
    let world = World::new().await;
    let grant = world.consented(reading()).await;
    let bob = Principal::new(IDP, "bob");
    let erase = async || actchain::services::erasure::erase(&world.server.operator(), &bob).await.unwrap();
    let outcome = erase().await;
    assert!(matches!(&outcome, ErasureOutcome::InUse(active) if active.standing_grants == 1), "{outcome:?}");
    world.on_grant(&grant["id"], "revoke", json!({})).await.with_status(200);
    let outcome = erase().await;
    assert!(
        matches!(&outcome, ErasureOutcome::Erased(done) if done.remaining.standing_grants == 1),
        "{outcome:?}"
    );
    world.requested(&world.user_proxy, |_| {}).await.with_status(202);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_covering_grant_among_ten_thousand_of_a_user_is_one_indexed_read() {
    let world = World::new().await;
    let grant = world.consented(reading()).await;
    let mut sql = world.server.sql().await;
    sqlx::query(
        "INSERT INTO standing_grant (id, grantor_iss, grantor_sub, client_id, keys, scopes, audiences, max_ttl, created_at,
                                     created_by, expires_at, created_epoch, mac)
         SELECT 'g' || n, grantor_iss, grantor_sub, CASE WHEN n % 200 = 0 THEN client_id ELSE 'email-svc' END, keys, scopes,
                audiences, max_ttl, created_at, created_by, expires_at, created_epoch, mac
         FROM standing_grant, generate_series(1, 10000) n WHERE id = $1",
    )
    .bind(grant["id"].as_str())
    .execute(&mut sql)
    .await
    .unwrap();
    sqlx::query("ANALYZE standing_grant").execute(&mut sql).await.unwrap();
    let explain = format!(
        "EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {}",
        actchain::domain::standing_grant::store::BETWEEN_SQL
    );
    let plan: Value = sqlx::query_scalar(sqlx::AssertSqlSafe(explain))
        .bind(IDP)
        .bind("bob")
        .bind("user-proxy")
        .bind(101_i64)
        .fetch_one(&mut sql)
        .await
        .unwrap();
    let text = plan.to_string();
    assert!(
        text.contains("standing_grant_between") && !text.contains("Seq Scan") && !text.contains("\"Sort\""),
        "{plan}"
    );
    let pages = plan[0]["Plan"]["Shared Hit Blocks"].as_i64().unwrap()
        + plan[0]["Plan"]["Shared Read Blocks"].as_i64().unwrap();
    assert!(pages < 80, "{plan}");
}

/// Also where several delegations came of the grant, and where the decision has named one.
#[tokio::test(flavor = "multi_thread")]
async fn refused_exchanges_under_a_grant_are_events_with_its_id() {
    let world = World::new().await;
    let grant = world.consented(reading()).await;
    for _ in 0..2 {
        world.requested(&world.user_proxy, |_| {}).await.with_status(201);
    }
    world.first_hop_of("bob").param("scope", "mail.send").send().await.with_status(400);
    let confirmed = |body: &mut Value| body["ceremony_required_for"] = json!(["mail.read"]);
    world.requested(&world.user_proxy, confirmed).await.with_status(201);
    world.on_grant(&grant["id"], "revoke", json!({})).await.with_status(200);
    world.first_hop_of("bob").send().await.with_status(400);
    let other = world.consented(reading()).await;
    world.requested(&world.user_proxy, confirmed).await.with_status(201);
    let asked = world.first_hop_of("bob").param("scope", "mail.read").send().await;
    assert!(asked.json["ceremony"].is_string(), "{asked:?}");
    let refused = async |grant: &Value| {
        let events = world.grant_events(&grant["id"]).await;
        actions(&events).iter().filter(|action| **action == "oauth.token.refused").count()
    };
    assert_eq!((refused(&grant).await, refused(&other).await), (2, 1));
}
