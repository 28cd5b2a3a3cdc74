//! Each way to revoke authority: when the response is sent, every derived token is inactive on every server, for
//! exchange, introspection and status list; all other tokens stay active.

use serde_json::{Value, json};

use actchain::domain::principal::Principal;
use actchain::platform::clock::rfc3339;
use actchain::services::principals::{self, ClientKey};
use actchain::services::request_context::RequestContext;

use crate::support::agent::{ACCESS_TOKEN, Agent, JWT};
use crate::support::contract::decoded;
use crate::support::ends::{Maker, new_key, outcome};
use crate::support::management::Api;
use crate::support::world::{CALENDAR, IDP, MAIL, World};
use crate::support::{Answer, Server};

/// Alice's three hops and Bob's one hop, with a second server beside the first. Both servers have cached all of them.
struct Chain {
    world: World,
    twin: Server,
    tokens: [String; 3],
    bystander: String,
}

impl Chain {
    async fn new() -> Self {
        let world = World::new().await;
        let twin = world.server.twin().await;
        let first = world.first_hop().await.token().to_owned();
        let second = world.hop(&world.email_svc, &first).await.token().to_owned();
        let third = world.hop(&world.followup_svc, &second).await.token().to_owned();
        let (_, bystander) = world.bystander().await;
        let chain = Self { world, twin, tokens: [first, second, third], bystander };
        chain.assert_active_above(3).await;
        chain
    }

    fn servers(&self) -> [&Server; 2] {
        [&self.world.server, &self.twin]
    }

    fn holders(&self) -> [&Agent; 3] {
        [&self.world.user_proxy, &self.world.email_svc, &self.world.followup_svc]
    }

    /// The first hops from the root on are active, and so is Bob's token.
    async fn assert_active_above(&self, hops: usize) {
        for (holder, token) in self.holders().into_iter().zip(&self.tokens).take(hops) {
            self.world.assert_active(&self.servers(), holder, token).await;
        }
        self.world.assert_active(&self.servers(), &self.world.stranger, &self.bystander).await;
    }

    /// The hops after the first `hops` are inactive, for their own holder and for the next hop.
    async fn assert_inactive_from(&self, hops: usize, reason: &str, listed: u8) {
        for (holder, token) in self.holders().into_iter().zip(&self.tokens).skip(hops) {
            self.world.assert_inactive(&self.servers(), (holder, token), reason, listed).await;
        }
        for (next, token) in self.holders().into_iter().skip(1).zip(&self.tokens).skip(hops) {
            for server in self.servers() {
                let answer = next.exchange(server, token, ACCESS_TOKEN).send().await;
                assert_eq!(outcome(&answer), reason, "by {}", next.id);
            }
        }
    }

    async fn revoke_all(&self, iss: &str, sub: &str) -> Answer {
        let body = json!({"iss": iss, "sub": sub, "reason": "left the company"});
        let answer = self.world.as_admin("POST", "/api/v1/principals/revoke-all", body).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        answer
    }

    async fn reach(&self, query: &str) -> Value {
        let answer =
            self.world.as_admin("GET", &format!("/api/v1/principals/impact?{query}"), json!({})).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        answer.json["affected"].clone()
    }
}

/// The counts of a predicted impact, as the response to the revocation gives them.
fn counts(expected: &Value) -> Value {
    json!({"delegations": expected["delegations"], "tokens": expected["tokens"], "at_least": expected["at_least"]})
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_delegation_ends_its_descendants_and_no_ancestor_or_sibling() {
    for (hops, id) in [(0, "D"), (1, "E"), (2, "F")] {
        let chain = Chain::new().await;
        let path = format!("/delegate/{id}/revoke");
        let revoked = chain.world.as_alice("POST", &path, json!({"reason": "enough"})).await;
        assert_eq!((revoked.status, &revoked.json["state"]), (200, &json!("revoked")), "{}", revoked.text);
        chain.assert_inactive_from(hops, "delegation_revoked", 1).await;
        chain.assert_active_above(hops).await;
        for (place, below) in ["D", "E", "F"].into_iter().enumerate() {
            let shown = chain.world.as_alice("GET", &format!("/delegate/{below}"), json!({})).await.json;
            let ended_by = if below == id { json!(null) } else { json!(id) };
            if place >= hops {
                assert_eq!((&shown["state"], &shown["ended_by"]), (&json!("revoked"), &ended_by), "{below}");
            } else {
                assert_eq!(
                    (&shown["state"], &shown["ended_by"]),
                    (&json!("active"), &json!(null)),
                    "{below}"
                );
            }
        }
        let again = chain.world.as_alice("POST", &path, json!({})).await;
        assert_eq!(
            (again.status, again.reason(), &again.json["state"]),
            (409, "invalid_state_transition", &json!("revoked"))
        );
        let events = chain.world.server.events().await;
        let event = events.iter().find(|event| event["action"] == "delegation.revoked").unwrap();
        assert_eq!((&event["delegation_id"], &event["code"]), (&json!(id), &json!("0x3003")));
        assert_eq!(event["delegation_path"].as_array().unwrap().last().unwrap(), id);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_party_of_the_path_may_revoke_and_no_other() {
    let world = World::new().await;
    let (bobs, _) = world.bystander().await;
    for (path, agent) in
        [("E", &world.stranger), (bobs.as_str(), &world.user_proxy), ("nothing", &world.user_proxy)]
    {
        let answer = world.as_agent(agent, "POST", &format!("/delegate/{path}/revoke"), json!({})).await;
        assert_eq!((answer.status, answer.reason()), (404, "not_found"), "{path} by {}", agent.id);
    }
    let by_bob = world.as_user("bob", "POST", "/delegate/E/revoke", json!({})).await;
    assert_eq!((by_bob.status, by_bob.reason()), (404, "not_found"));
    // The delegate of a descendant may not revoke an ancestor.
    let by_below = world.as_agent(&world.email_svc, "POST", "/delegate/D/revoke", json!({})).await;
    assert_eq!((by_below.status, by_below.reason()), (404, "not_found"));
    let revoke = async |world: &World, agent: &Agent| {
        world.as_agent(agent, "POST", "/delegate/E/revoke", json!({})).await.status
    };
    assert_eq!(revoke(&world, &world.email_svc).await, 200, "its delegate gives it up");
    let other = World::new().await;
    assert_eq!(revoke(&other, &other.user_proxy).await, 200, "its delegator");
    let other = World::new().await;
    assert_eq!(revoke(&other, &other.admin).await, 200, "an administrator");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disabled_client_suspends_all_that_passes_through_it_until_it_is_enabled() {
    let chain = Chain::new().await;
    for (hops, id) in [(0, "user-proxy"), (1, "email-svc"), (2, "followup-svc"), (0, "user-proxy")] {
        let path = format!("/api/v1/clients/{id}/disable");
        let disabled = chain.world.as_admin("POST", &path, json!({})).await;
        assert_eq!(
            (disabled.status, &disabled.json["state"]),
            (200, &json!("disabled")),
            "{}",
            disabled.text
        );
        for (holder, token) in chain.holders().into_iter().zip(&chain.tokens).skip(hops) {
            let reason = if holder.id == id { "invalid_client" } else { "actor_disabled" };
            chain.world.assert_inactive(&chain.servers(), (holder, token), reason, 2).await;
        }
        chain.assert_active_above(hops).await;
        let enabled = chain.world.as_admin("POST", &format!("/api/v1/clients/{id}/enable"), json!({})).await;
        assert_eq!((enabled.status, &enabled.json["state"]), (200, &json!("enabled")));
        chain.assert_active_above(3).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disabled_client_cannot_call_the_management_api_and_gets_no_delegation() {
    let world = World::new().await;
    let twin = world.server.twin().await;
    let token = world.management_token(&world.user_proxy).await;
    let status_of = async |server: &Server| {
        server.call(&world.user_proxy, &token, ("GET", "/delegate/D"), json!({})).await.status
    };
    assert_eq!((status_of(&world.server).await, status_of(&twin).await), (200, 200));
    world.server.disable("user-proxy").await;
    assert_eq!((status_of(&world.server).await, status_of(&twin).await), (401, 401));
    let created = world.as_alice("POST", "/delegate", json!({"delegate": "user-proxy"})).await;
    assert_eq!((created.status, created.reason()), (400, "delegate_disabled"));
    world.server.enable("user-proxy").await;
    assert_eq!(
        (status_of(&world.server).await, status_of(&twin).await),
        (200, 200),
        "it had done nothing wrong"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delegation_that_was_revoked_meanwhile_stays_revoked_after_the_client_is_enabled() {
    let chain = Chain::new().await;
    chain.world.server.disable("email-svc").await;
    chain.world.server.revoke("F").await;
    chain.world.server.enable("email-svc").await;
    chain.assert_active_above(2).await;
    chain.assert_inactive_from(2, "delegation_revoked", 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn registering_a_client_again_restores_no_revoked_authority() {
    let chain = Chain::new().await;
    let world = &chain.world;
    world.server.revoke("D").await;
    world.server.disable("email-svc").await;
    world.server.pass(11);
    let again = format!(
        "clients:
  - {{id: email-svc, kind: agent, name: Again, auth: client_secret_basic, secret: email-svc-secret-0123456789,
     scopes: [mail.read, mail.send, both], audiences: [\"{MAIL}\", \"{CALENDAR}\"],
     authorization_details_types: [mailbox], grant_types: [client_credentials, token-exchange]}}
delegations:
  - {{id: D, delegator: {{iss: {IDP}, sub: alice}}, delegate: user-proxy, expires_in: 3600, max_depth: 3}}
  - {{id: E, parent: D, delegate: email-svc, scopes: [mail.read, mail.send], audiences: [\"{MAIL}\"], expires_in: 600}}"
    );
    world.server.apply(&again).await.unwrap();
    for (holder, token) in chain.holders().into_iter().zip(&chain.tokens) {
        for server in chain.servers() {
            let fate = world.fate(server, holder, token).await;
            assert_eq!((fate.active, fate.listed), (false, 1), "of {}", holder.id);
            assert_ne!(fate.exchange, "ok");
        }
    }
    let first = world.hop_from_user(&world.user_proxy, &world.user_token()).await;
    first.assert_refused(400, "invalid_request", "delegation_revoked");
    let still = world.email_svc.request(&world.server).param("grant_type", "client_credentials");
    assert_eq!(still.param("audience", MAIL).send().await.error(), "invalid_client", "disabled is disabled");
    let shown = world.as_alice("GET", "/delegate/D", json!({})).await;
    assert_eq!(shown.json["state"], "revoked");
    world.server.enable("email-svc").await;
    chain.assert_inactive_from(0, "delegation_revoked", 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_an_administrator_removes_revokes_all_tokens_bound_to_it() {
    for (hops, id) in [(0, "user-proxy"), (1, "email-svc"), (2, "followup-svc")] {
        let chain = Chain::new().await;
        let holder = chain.holders()[hops];
        let path = format!("/api/v1/clients/{id}/keys/{}", holder.jkt());
        chain.world.server.pass(11);
        let removed = chain.world.as_admin("DELETE", &path, json!({})).await;
        assert_eq!(
            (removed.status, &removed.json["client_id"], &removed.json["jkt"]),
            (200, &json!(id), &json!(holder.jkt())),
            "{}",
            removed.text
        );
        for (below, token) in chain.holders().into_iter().zip(&chain.tokens).skip(hops + 1) {
            chain.world.assert_inactive(&chain.servers(), (below, token), "key_removed", 1).await;
        }
        for server in chain.servers() {
            let introspected = server.introspect(&chain.world.mail_server, &chain.tokens[hops]).await;
            assert_eq!(
                (&introspected.json["active"], server.listed(&chain.tokens[hops]).await),
                (&json!(false), 1)
            );
            // The key is refused, now and later.
            let answer = holder.exchange(server, &chain.tokens[hops], ACCESS_TOKEN).send().await;
            assert!(matches!(answer.status, 400 | 401), "{id}: {}", answer.text);
        }
        chain.assert_active_above(hops).await;
        // A revoked token does not count in the impact again.
        let reached = chain.reach(&format!("iss={IDP}&sub=alice")).await;
        assert_eq!(reached["tokens"].as_i64().map(|tokens| tokens > 0), Some(hops > 0), "{reached}");
        let events = chain.world.server.events().await;
        let event = events.iter().find(|event| event["action"] == "client.key_removed").unwrap();
        assert_eq!((&event["target"], &event["detail"]["jkt"]), (&json!(id), &json!(holder.jkt())));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removed_key_gets_no_new_tokens_and_another_key_of_the_client_does() {
    let chain = Chain::new().await;
    let world = &chain.world;
    let path = format!("/api/v1/clients/email-svc/keys/{}", world.email_svc.jkt());
    assert_eq!(world.as_admin("DELETE", &path, json!({})).await.status, 200);
    world.server.pass(11);
    for server in chain.servers() {
        let old = world.email_svc.exchange(server, &chain.tokens[0], ACCESS_TOKEN).send().await;
        old.assert_refused(400, "invalid_dpop_proof", "dpop_proof_key_unknown");
    }
    let other = Agent { key: new_key(), ..world.email_svc.clone() };
    let afresh = world.hop(&other, &chain.tokens[0]).await;
    assert_eq!(afresh.status, 200, "{}", afresh.text);
    world.assert_active(&chain.servers(), &other, afresh.token()).await;
    chain
        .world
        .assert_inactive(&chain.servers(), (&world.followup_svc, &chain.tokens[2]), "key_removed", 1)
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_only_registered_key_of_a_client_stays_removed() {
    let world = World::new().await;
    let bound = |jkt: &str| {
        format!(
            "clients:\n  - {{id: email-svc, kind: agent, name: E-mail, auth: client_secret_basic, \
             secret: email-svc-secret-0123456789, dpop_keys: [{jkt}], scopes: [mail.read, mail.send, both], \
             audiences: [\"{MAIL}\", \"{CALENDAR}\"], grant_types: [client_credentials, token-exchange]}}"
        )
    };
    world.server.apply(&bound(world.email_svc.jkt())).await.unwrap();
    let first = world.first_hop().await.token().to_owned();
    assert_eq!(world.hop(&world.email_svc, &first).await.status, 200);
    let path = format!("/api/v1/clients/email-svc/keys/{}", world.email_svc.jkt());
    assert_eq!(world.as_admin("DELETE", &path, json!({})).await.status, 200);
    world.server.pass(11);
    let another = Agent { key: new_key(), ..world.email_svc.clone() };
    for agent in [&world.email_svc, &another] {
        let answer = world.hop(agent, &first).await;
        answer.assert_refused(400, "invalid_dpop_proof", "dpop_proof_key_unknown");
    }
    world.server.apply(&bound(another.jkt())).await.unwrap();
    assert_eq!(world.hop(&another, &first).await.status, 200, "another key was registered");
    let old = world.hop(&world.email_svc, &first).await;
    old.assert_refused(400, "invalid_dpop_proof", "dpop_proof_key_unknown");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_was_obtained_with_a_removed_key_is_inactive_though_bound_to_another_key() {
    let chain = Chain::new().await;
    let world = &chain.world;
    let other = new_key();
    // The assertion is signed by the registered key, the proof by another key.
    let user = world.user_token();
    let proved_by = Agent { key: other.clone(), ..world.user_proxy.clone() };
    let request = world.user_proxy.exchange(&world.server, &user, JWT).param("audience", MAIL);
    let token = request.set_header("dpop", proved_by.proof(&world.server)).send().await;
    assert_eq!((token.status, &token.claims()["cnf"]["jkt"]), (200, &json!(other.kid())), "{}", token.text);
    let below = world.hop(&world.email_svc, token.token()).await;
    let path = format!("/api/v1/clients/user-proxy/keys/{}", world.user_proxy.jkt());
    assert_eq!(world.as_admin("DELETE", &path, json!({})).await.status, 200);
    for server in chain.servers() {
        let introspected = server.introspect(&world.mail_server, token.token()).await;
        assert_eq!((&introspected.json["active"], server.listed(token.token()).await), (&json!(false), 1));
    }
    world.assert_inactive(&chain.servers(), (&world.email_svc, below.token()), "key_removed", 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_apply_replaces_revokes_all_tokens_bound_to_it() {
    let chain = Chain::new().await;
    let world = &chain.world;
    let declare = async |agent: &Agent| {
        let yaml = format!(
            "clients:\n  - {{id: followup-svc, kind: agent, auth: none, dpop_keys: [{}], scopes: [mail.read], \
             audiences: [\"{MAIL}\"], grant_types: [token-exchange]}}",
            agent.jkt()
        );
        world.server.apply(&yaml).await
    };
    declare(&world.followup_svc).await.unwrap();
    chain.assert_active_above(3).await;
    let other = Agent { key: new_key(), ..world.followup_svc.clone() };
    declare(&other).await.unwrap();
    for server in chain.servers() {
        let introspected = server.introspect(&world.mail_server, &chain.tokens[2]).await;
        assert_eq!((&introspected.json["active"], server.listed(&chain.tokens[2]).await), (&json!(false), 1));
        let old = world.followup_svc.exchange(server, &chain.tokens[2], ACCESS_TOKEN).send().await;
        assert_eq!(old.error(), "invalid_client");
    }
    chain.assert_active_above(2).await;
    world.server.pass(11);
    let afresh = world.hop(&other, &chain.tokens[1]).await;
    world.assert_active(&chain.servers(), &other, afresh.token()).await;
    // Only an operator can restore the first key, and tokens bound to it before stay revoked.
    assert!(declare(&world.followup_svc).await.unwrap_err().contains(world.followup_svc.jkt()));
    let key = ClientKey { client_id: "followup-svc", jkt: world.followup_svc.jkt() };
    principals::restore_key(&world.server.operator(), key).await.unwrap();
    declare(&world.followup_svc).await.unwrap();
    world.server.pass(11);
    let again = world.hop(&world.followup_svc, &chain.tokens[1]).await;
    world.assert_active(&chain.servers(), &world.followup_svc, again.token()).await;
    let inactive = (&world.followup_svc, chain.tokens[2].as_str());
    world.assert_inactive(&chain.servers(), inactive, "key_removed", 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registered_key_that_is_replaced_takes_three_hops_with_it_and_a_second_one_takes_none() {
    let chain = Chain::new().await;
    let world = &chain.world;
    let other = Agent { key: new_key(), ..world.user_proxy.clone() };
    let declare = async |keys: &[&Agent]| {
        let keys: Vec<String> = keys.iter().map(|agent| agent.key.public_jwk().to_string()).collect();
        let yaml = format!(
            "clients:\n  - {{id: user-proxy, kind: agent, name: User proxy, auth: private_key_jwt, jwks: {{keys: [{}]}}, \
             scopes: [mail.read, mail.send, calendar.read, both], audiences: [\"{MAIL}\", \"{CALENDAR}\"], \
             authorization_details_types: [mailbox], grant_types: [client_credentials, token-exchange]}}",
            keys.join(", ")
        );
        world.server.apply(&yaml).await.unwrap();
    };
    declare(&[&world.user_proxy, &other]).await;
    chain.assert_active_above(3).await;
    world.server.pass(11);
    declare(&[&other]).await;
    chain
        .world
        .assert_inactive(&chain.servers(), (&world.email_svc, &chain.tokens[1]), "key_removed", 1)
        .await;
    chain
        .world
        .assert_inactive(&chain.servers(), (&world.followup_svc, &chain.tokens[2]), "key_removed", 1)
        .await;
    for server in chain.servers() {
        assert_eq!(server.introspect(&world.mail_server, &chain.tokens[0]).await.json["active"], false);
    }
    world.server.pass(11);
    let afresh = world.hop_from_user(&other, &world.user_token()).await;
    world.assert_active(&chain.servers(), &other, afresh.token()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_that_are_none_and_clients_that_are_not_there_are_refused() {
    let world = World::new().await;
    let jkt = world.email_svc.jkt();
    for (path, status, reason) in [
        (format!("/api/v1/clients/unknown/keys/{jkt}"), 404, "not_found"),
        ("/api/v1/clients/email-svc/keys/short".to_owned(), 400, "malformed_request"),
    ] {
        let answer = world.as_admin("DELETE", &path, json!({})).await;
        assert_eq!((answer.status, answer.reason()), (status, reason), "{path}");
    }
    let path = format!("/api/v1/clients/email-svc/keys/{jkt}");
    for answer in [
        world.as_agent(&world.user_proxy, "DELETE", &path, json!({})).await,
        world.as_alice("DELETE", &path, json!({})).await,
    ] {
        assert_eq!((answer.status, answer.reason()), (403, "insufficient_scope"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn revoke_all_of_the_root_principal_revokes_everything_up_to_now() {
    let chain = Chain::new().await;
    let world = &chain.world;
    let old_token = world.user_token();
    let wanted = chain.reach(&format!("iss={IDP}&sub=alice")).await;
    let cut = chain.revoke_all(IDP, "alice").await;
    assert_eq!((&cut.json["iss"], &cut.json["sub"]), (&json!(IDP), &json!("alice")));
    assert_eq!(cut.json["affected"], counts(&wanted), "{}", cut.text);
    chain.assert_inactive_from(0, "principal_revoked", 1).await;
    chain.assert_active_above(0).await;
    world.server.pass(11);
    for server in chain.servers() {
        let request = world.user_proxy.exchange(server, &world.user_token(), JWT).param("audience", MAIL);
        request.send().await.assert_refused(400, "invalid_request", "principal_revoked");
    }
    let old = world.as_user_with(&old_token, "POST", "/delegate", json!({"delegate": "user-proxy"})).await;
    assert_eq!(
        (old.status, old.reason()),
        (401, "access_token_invalid"),
        "a token from before is not accepted"
    );
    // A new delegation is valid, but not with a token from before.
    let afresh =
        world.as_alice("POST", "/delegate", json!({"delegate": "user-proxy", "audiences": [MAIL]})).await;
    assert_eq!(afresh.status, 201, "{}", afresh.text);
    let before = world.hop_from_user(&world.user_proxy, &old_token).await;
    before.assert_refused(400, "invalid_request", "principal_revoked");
    let undated = world.user_token_with(|claims| drop(claims.as_object_mut().unwrap().remove("iat")));
    let undated = world.hop_from_user(&world.user_proxy, &undated).await;
    assert_eq!(undated.status, 400, "one that does not say since when it is may be from before");
    let new = world.hop_from_user(&world.user_proxy, &world.user_token()).await;
    world.assert_active(&chain.servers(), &world.user_proxy, new.token()).await;
    // The next revoke-all revokes the new delegation; its impact counts only what was created after the first
    // revoke-all.
    let wanted = chain.reach(&format!("iss={IDP}&sub=alice")).await;
    assert_eq!(wanted["delegations"], 1, "{wanted}");
    let again = chain.revoke_all(IDP, "alice").await;
    assert_eq!(again.json["affected"], counts(&wanted));
    world.assert_inactive(&chain.servers(), (&world.user_proxy, new.token()), "principal_revoked", 1).await;
    chain.assert_inactive_from(0, "principal_revoked", 1).await;
    chain.assert_active_above(0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn revoke_all_of_a_client_in_the_middle_revokes_what_passes_through_it() {
    for (hops, id) in [(0, "user-proxy"), (1, "email-svc"), (2, "followup-svc")] {
        let chain = Chain::new().await;
        let world = &chain.world;
        let issuer = world.server.app.issuer.clone();
        let old_user = world.user_token();
        let wanted = chain.reach(&format!("iss={issuer}&sub={id}")).await;
        let cut = chain.revoke_all(&issuer, id).await;
        assert_eq!(cut.json["affected"], counts(&wanted), "{id}");
        chain.assert_inactive_from(hops, "principal_revoked", 1).await;
        chain.assert_active_above(hops).await;
        world.server.pass(11);
        if id == "user-proxy" {
            // Alice herself was not revoked: her older token is valid, and so are her new delegations.
            let old = world.hop_from_user(&world.user_proxy, &old_user).await;
            old.assert_refused(400, "invalid_request", "principal_revoked");
            let body = json!({"delegate": "user-proxy", "audiences": [MAIL]});
            assert_eq!(world.as_alice("POST", "/delegate", body).await.status, 201);
            let afresh = world.hop_from_user(&world.user_proxy, &old_user).await;
            world.assert_active(&chain.servers(), &world.user_proxy, afresh.token()).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn revoke_all_of_a_client_revokes_its_own_tokens_and_the_delegations_that_it_created() {
    let chain = Chain::new().await;
    let world = &chain.world;
    let issuer = world.server.app.issuer.clone();
    let yaml = format!(
        "delegations:\n  - {{id: S, delegator: {{iss: \"{issuer}\", sub: email-svc}}, delegate: followup-svc, expires_in: 600}}"
    );
    world.server.apply(&yaml).await.unwrap();
    let own = async || {
        let request = world.email_svc.request(&world.server).param("grant_type", "client_credentials");
        request.param("audience", MAIL).param("scope", "mail.read").send().await.token().to_owned()
    };
    let its_own = own().await;
    let below = world.hop(&world.followup_svc, &its_own).await;
    assert_eq!(below.claims()["sub"], "email-svc");
    let management_token = world.management_token(&world.email_svc).await;
    world.assert_active(&chain.servers(), &world.followup_svc, below.token()).await;
    // Disabling has the same impact: delegations to the client, delegations by it, their descendants, and its own
    // tokens.
    let disabling = chain.reach("client_id=email-svc").await;
    assert_eq!(disabling, chain.reach(&format!("iss={issuer}&sub=email-svc")).await);
    assert_eq!(disabling["delegations"], 3, "E, F and S: {disabling}");
    let wanted = chain.reach(&format!("iss={issuer}&sub=email-svc")).await;
    let cut = chain.revoke_all(&issuer, "email-svc").await;
    assert_eq!(cut.json["affected"], counts(&wanted));
    world.assert_inactive(&chain.servers(), (&world.email_svc, &its_own), "principal_revoked", 1).await;
    world
        .assert_inactive(&chain.servers(), (&world.followup_svc, below.token()), "principal_revoked", 1)
        .await;
    for server in chain.servers() {
        let answer =
            server.call(&world.email_svc, &management_token, ("GET", "/delegate/E"), json!({})).await;
        assert_eq!(answer.status, 401);
    }
    world.server.pass(11);
    let afresh = own().await;
    world.assert_active(&chain.servers(), &world.email_svc, &afresh).await;
    let below = world.hop(&world.followup_svc, &afresh).await;
    below.assert_refused(400, "invalid_request", "principal_revoked");
}

/// A call whose arrival time is some seconds in the past: it has waited, or the clock of its server is slow.
fn late(world: &World, seconds: i64) -> RequestContext<'_> {
    let operator = world.server.operator();
    RequestContext { now: operator.now - time::Duration::seconds(seconds), ..operator }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_recorded_before_a_revoke_all_is_inactive_whatever_the_clocks_say() {
    for sub in ["alice", "user-proxy"] {
        let chain = Chain::new().await;
        let world = &chain.world;
        let who = match sub {
            "alice" => Principal::new(IDP, sub),
            _ => Principal::new(world.server.app.issuer.clone(), sub),
        };
        world.server.pass(30);
        let created =
            world.as_alice("POST", "/delegate", json!({"delegate": "user-proxy", "audiences": [MAIL]})).await;
        assert_eq!(created.status, 201);
        let expected = chain.reach(&format!("iss={}&sub={sub}", who.iss)).await;
        let cut = principals::revoke_all(&late(world, 60), &who, "left").await.unwrap();
        assert_eq!(json!(cut.value.affected), counts(&expected), "{sub}");
        chain.assert_inactive_from(0, "principal_revoked", 1).await;
        let path = format!("/delegate/{}", created.json["id"].as_str().unwrap());
        world.server.pass(11);
        let shown = world.as_alice("GET", &path, json!({})).await;
        assert_eq!(shown.json["state"], "revoked", "{sub}: {}", shown.text);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_bound_to_a_removed_key_is_inactive_whatever_the_clocks_say() {
    let chain = Chain::new().await;
    let world = &chain.world;
    world.server.pass(30);
    let second = world.hop(&world.email_svc, &chain.tokens[0]).await;
    let third = world.hop(&world.followup_svc, second.token()).await;
    let key = ClientKey { client_id: "email-svc", jkt: world.email_svc.jkt() };
    principals::remove_key(&late(world, 60), key).await.unwrap();
    world.assert_inactive(&chain.servers(), (&world.followup_svc, third.token()), "key_removed", 1).await;
    for server in chain.servers() {
        assert_eq!(server.introspect(&world.mail_server, second.token()).await.json["active"], false);
        assert_eq!(server.listed(second.token()).await, 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delegation_created_after_a_revoke_all_is_active_whatever_the_clocks_say() {
    let chain = Chain::new().await;
    let world = &chain.world;
    let who = Principal::new(world.server.app.issuer.clone(), "user-proxy");
    // The clock of the server that revokes is a minute ahead.
    principals::revoke_all(&late(world, -60), &who, "left").await.unwrap();
    chain.assert_inactive_from(0, "principal_revoked", 1).await;
    let created =
        world.as_alice("POST", "/delegate", json!({"delegate": "user-proxy", "audiences": [MAIL]})).await;
    assert_eq!((created.status, &created.json["state"]), (201, &json!("active")), "{}", created.text);
    let afresh = world.hop_from_user(&world.user_proxy, &world.user_token()).await;
    world.assert_active(&chain.servers(), &world.user_proxy, afresh.token()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn revoke_all_ends_requests_that_wait_for_the_principal_and_its_own_requests() {
    let world = World::configured("[delegations]\nmax_pending_requests = 2").await;
    let ask = async |agent: &Agent| {
        let body = json!({"delegator": {"iss": IDP, "sub": "bob"}, "audiences": [MAIL], "expires_in": 600});
        world.as_agent(agent, "POST", "/delegate", body).await
    };
    let id = |asked: &Answer| asked.json["id"].as_str().unwrap().to_owned();
    let approve =
        async |id: &str| world.as_user("bob", "POST", &format!("/delegate/{id}/approve"), json!({})).await;
    let revoke_all = async |iss: &str, sub: &str| {
        let body = json!({"iss": iss, "sub": sub, "reason": "left"});
        assert_eq!(world.as_admin("POST", "/api/v1/principals/revoke-all", body).await.status, 200);
        world.server.pass(11);
    };
    let (first, second) = (ask(&world.user_proxy).await, ask(&world.user_proxy).await);
    assert_eq!((first.status, second.status, ask(&world.user_proxy).await.status), (202, 202, 429));
    revoke_all(IDP, "bob").await;
    for asked in [&first, &second] {
        let late = approve(&id(asked)).await;
        assert_eq!(
            (late.status, late.reason(), &late.json["state"]),
            (409, "invalid_state_transition", &json!("revoked"))
        );
        let path = format!("/delegate/{}/deny", id(asked));
        assert_eq!(world.as_user("bob", "POST", &path, json!({})).await.status, 409);
    }
    let afresh = ask(&world.user_proxy).await;
    assert_eq!(afresh.status, 202, "what was ended does not keep others waiting: {}", afresh.text);
    assert_eq!(approve(&id(&afresh)).await.status, 200);
    let by_agent = ask(&world.email_svc).await;
    revoke_all(&world.server.app.issuer, "email-svc").await;
    let late = approve(&id(&by_agent)).await;
    assert_eq!((late.status, &late.json["state"]), (409, &json!("revoked")), "{}", late.text);
    let token = world.hop_from_user(&world.user_proxy, &world.token_of("bob")).await;
    assert_eq!(token.status, 200, "what another asked for is as it was: {}", token.text);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_administrators_cut_off_and_only_whom_we_know() {
    let world = World::new().await;
    let body = |iss: &str, sub: &str| json!({"iss": iss, "sub": sub, "reason": "x"});
    let path = "/api/v1/principals/revoke-all";
    let issuer = world.server.app.issuer.clone();
    for (iss, sub, status) in
        [("https://unknown.example.com", "alice", 400), (IDP, "", 400), (issuer.as_str(), "unknown", 404)]
    {
        let answer = world.as_admin("POST", path, body(iss, sub)).await;
        assert_eq!(answer.status, status, "{iss} {sub}: {}", answer.text);
    }
    for answer in [
        world.as_alice("POST", path, body(IDP, "alice")).await,
        world.as_agent(&world.user_proxy, "POST", path, body(IDP, "alice")).await,
        world.as_alice("GET", &format!("/api/v1/principals/impact?iss={IDP}&sub=alice"), json!({})).await,
    ] {
        assert_eq!((answer.status, answer.reason()), (403, "insufficient_scope"), "{}", answer.text);
    }
    let bare = world.as_admin("POST", path, json!({"iss": IDP, "sub": "alice"})).await;
    assert_eq!(bare.status, 400, "a revoke-all needs a reason");
    assert!(world.is_active(world.first_hop().await.token()).await, "nothing of it happened");
    let refused = world.server.events().await.iter().filter(|event| event["outcome"] == "refused").count();
    assert!(refused >= 5, "refused moves are in the log: {refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_revoke_all_with_one_idempotency_key_returns_the_first_answer() {
    let chain = Chain::new().await;
    let world = &chain.world;
    let token = world.management_token(&world.admin).await;
    let body = json!({"iss": IDP, "sub": "alice", "reason": "left"});
    let send = async || {
        let call = Api::post(&world.server, "/api/v1/principals/revoke-all", body.clone());
        call.key("cut-alice").client(&world.admin, &token).send().await
    };
    let first = send().await;
    assert_eq!(first.status, 200, "{}", first.text);
    world.server.pass(11);
    let afresh =
        world.as_alice("POST", "/delegate", json!({"delegate": "user-proxy", "audiences": [MAIL]})).await;
    assert_eq!(afresh.status, 201);
    let again = send().await;
    assert_eq!((again.status, &again.json), (200, &first.json), "what it reached, too");
    assert_eq!(again.header("idempotent-replayed"), Some("true"));
    let new = world.hop_from_user(&world.user_proxy, &world.user_token()).await;
    world.assert_active(&chain.servers(), &world.user_proxy, new.token()).await;
    let revocations =
        world.server.events().await.iter().filter(|event| event["action"] == "principal.revoked").count();
    assert_eq!(revocations, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_impact_before_a_revocation_is_the_affected_count_after_it() {
    let world = World::new().await;
    let get = async |path: String| {
        let answer = world.as_admin("GET", &path, json!({})).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        answer.json["affected"].clone()
    };
    let exp = |token: &str| {
        let seconds = decoded(token)[1]["exp"].as_i64().unwrap();
        json!(rfc3339(time::OffsetDateTime::from_unix_timestamp(seconds).unwrap()))
    };
    let (all_agents, below_agents) =
        (["email-svc", "followup-svc", "user-proxy"], ["email-svc", "followup-svc"]);
    let reach = async |query: String| get(format!("/api/v1/principals/impact?{query}")).await;
    let at = async |id: &str| get(format!("/delegate/{id}/impact")).await;
    let none = json!({"delegations": 3, "agents": 3, "tokens": 0, "audiences": [], "first_agents": all_agents,
                      "last_token_exp": null, "at_least": false});
    assert_eq!(at("D").await, none);
    let first = world.first_hop().await.token().to_owned();
    let second = world.hop(&world.email_svc, &first).await.token().to_owned();
    let third = world.hop(&world.followup_svc, &second).await.token().to_owned();
    let calendar =
        world.user_proxy.exchange(&world.server, &world.user_token(), JWT).param("audience", CALENDAR);
    let calendar = calendar.send().await.with_status(200);
    let all = json!({"delegations": 3, "agents": 3, "tokens": 4, "audiences": [CALENDAR, MAIL], "first_agents": all_agents,
                     "last_token_exp": exp(calendar.token()), "at_least": false});
    assert_eq!(at("D").await, all);
    assert_eq!(reach("client_id=user-proxy".into()).await, all);
    assert_eq!(reach(format!("iss={IDP}&sub=alice")).await, all);
    let below = json!({"delegations": 2, "agents": 2, "tokens": 2, "audiences": [MAIL], "first_agents": below_agents,
                       "last_token_exp": exp(&second), "at_least": false});
    assert_eq!(at("E").await, below);
    assert_eq!(reach("client_id=email-svc".into()).await, below);
    assert_eq!(reach(format!("iss={}&sub=email-svc", world.server.app.issuer)).await, below);
    // Alice sees the impact on what is hers; other users see nothing.
    let hers = world.as_alice("GET", "/delegate/E/impact", json!({})).await;
    assert_eq!((hers.status, &hers.json["affected"]), (200, &below));
    let bobs = world.as_user("bob", "GET", "/delegate/E/impact", json!({})).await;
    assert_eq!((bobs.status, bobs.reason()), (404, "not_found"));
    // Inactive tokens and delegations do not count again: a token, the tokens derived from it, a branch.
    assert_eq!(world.server.revoke_token(&world.followup_svc, &third).await.status, 200);
    assert_eq!(at("E").await["tokens"], 1);
    let again = world.hop(&world.followup_svc, &second).await;
    assert_eq!((again.status, &at("E").await["tokens"]), (200, &json!(2)));
    assert_eq!(world.server.revoke_token(&world.email_svc, &second).await.status, 200);
    assert_eq!(at("E").await["tokens"], 0);
    let revoked = world.as_alice("POST", "/delegate/F/revoke", json!({})).await;
    assert_eq!(revoked.json["affected"], json!({"delegations": 1, "tokens": 0, "at_least": false}));
    assert_eq!(at("F").await["delegations"], 0, "nothing is left to end");
    let expected = at("D").await;
    assert_eq!((&expected["delegations"], &expected["tokens"]), (&json!(2), &json!(2)));
    let disabled = world.as_admin("POST", "/api/v1/clients/user-proxy/disable", json!({})).await;
    assert_eq!(disabled.json["affected"], counts(&expected), "{}", disabled.text);
    assert_eq!(world.as_admin("POST", "/api/v1/clients/user-proxy/enable", json!({})).await.status, 200);
    let cut = world
        .as_admin(
            "POST",
            "/api/v1/principals/revoke-all",
            json!({"iss": IDP, "sub": "alice", "reason": "left"}),
        )
        .await;
    assert_eq!(cut.json["affected"], counts(&expected), "{}", cut.text);
    let left = reach(format!("iss={IDP}&sub=alice")).await;
    assert_eq!((&left["delegations"], &left["tokens"]), (&json!(0), &json!(0)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_is_disabled_although_what_that_affects_cannot_be_counted() {
    let world = World::new().await;
    assert_eq!(world.first_hop().await.status, 200);
    let token = world.management_token(&world.admin).await;
    let disable = async || {
        let call = Api::post(&world.server, "/api/v1/clients/user-proxy/disable", json!({}));
        call.key("disable-user-proxy").client(&world.admin, &token).send().await
    };
    let mut sql = world.server.sql().await;
    let hide = "CREATE FUNCTION hide() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
                BEGIN ALTER TABLE delegation_usage RENAME TO hidden; RETURN NULL; END $$;
                CREATE TRIGGER hide AFTER UPDATE OF disabled_at ON client FOR EACH ROW EXECUTE FUNCTION hide()";
    sqlx::raw_sql(hide).execute(&mut sql).await.unwrap();
    let first = disable().await;
    assert_eq!((first.status, first.json.get("affected")), (200, Some(&Value::Null)), "{}", first.text);
    let show = "DROP TRIGGER hide ON client; ALTER TABLE hidden RENAME TO delegation_usage";
    sqlx::raw_sql(show).execute(&mut sql).await.unwrap();
    let again = disable().await;
    assert_eq!((again.status, &again.json), (200, &first.json), "the stored result has the member, too");
    assert_eq!(again.header("idempotent-replayed"), Some("true"));
    assert_eq!(world.hop_from_user(&world.user_proxy, &world.user_token()).await.status, 401);
}

#[tokio::test(flavor = "multi_thread")]
async fn requested_delegations_count_in_an_impact_and_expired_ones_do_not() {
    let world = World::new().await;
    let reach = async || {
        let path = format!("/api/v1/principals/impact?iss={IDP}&sub=bob");
        world.as_admin("GET", &path, json!({})).await.json["affected"].clone()
    };
    let give = async |expires_in: u32| {
        let body = json!({"delegate": "stranger", "audiences": [MAIL], "expires_in": expires_in});
        assert_eq!(world.as_user("bob", "POST", "/delegate", body).await.status, 201);
        let token = world.hop_from_user(&world.stranger, &world.token_of("bob")).await;
        assert_eq!(token.status, 200);
    };
    give(100).await;
    give(50).await;
    assert_eq!((&reach().await["delegations"], &reach().await["tokens"]), (&json!(2), &json!(2)));
    world.server.pass(50);
    assert_eq!(reach().await["delegations"], 1);
    let body = json!({"delegator": {"iss": IDP, "sub": "bob"}, "expires_in": 600});
    assert_eq!(world.as_agent(&world.user_proxy, "POST", "/delegate", body).await.status, 202);
    assert_eq!(
        (&reach().await["delegations"], &reach().await["agents"]),
        (&json!(2), &json!(2)),
        "requests end, too"
    );
    world.server.pass(50);
    let cut = world
        .as_admin(
            "POST",
            "/api/v1/principals/revoke-all",
            json!({"iss": IDP, "sub": "bob", "reason": "left"}),
        )
        .await;
    assert_eq!(cut.json["affected"], json!({"delegations": 1, "tokens": 0, "at_least": false}));
}

#[tokio::test(flavor = "multi_thread")]
async fn revoking_a_delegation_without_uses_left_revokes_its_tokens() {
    let world = World::new().await;
    let body = json!({"delegate": "stranger", "audiences": [MAIL], "max_uses": 1});
    let id = world.as_user("bob", "POST", "/delegate", body).await.json["id"].as_str().unwrap().to_owned();
    let token = world.hop_from_user(&world.stranger, &world.token_of("bob")).await.token().to_owned();
    assert!(world.is_active(&token).await);
    let expected =
        world.as_admin("GET", &format!("/delegate/{id}/impact"), json!({})).await.json["affected"].clone();
    assert_eq!((&expected["tokens"], &expected["audiences"]), (&json!(1), &json!([MAIL])), "{expected}");
    let revoked = world.as_user("bob", "POST", &format!("/delegate/{id}/revoke"), json!({})).await;
    assert_eq!((revoked.status, &revoked.json["affected"]), (200, &counts(&expected)), "{}", revoked.text);
    assert!(!world.is_active(&token).await);
    assert_eq!(world.status_of(&token).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn past_its_bound_a_count_says_at_least() {
    let world = World::new().await;
    let mut sql = world.server.sql().await;
    sqlx::query(
        "WITH made AS (
             INSERT INTO delegation (id, path, parent, root_iss, root_sub, delegator_iss, delegator_sub, delegate, origin,
                                     requested_at, activated_at, expires_at)
             SELECT 'many-' || n, ARRAY['D', 'many-' || n], 'D', root_iss, root_sub, $1, 'user-proxy', 'stranger', 'granted',
                    requested_at, activated_at, expires_at
             FROM delegation, generate_series(1, 1200) n WHERE id = 'D' RETURNING id
         )
         INSERT INTO delegation_usage (delegation_id, uses) SELECT id, 0 FROM made",
    )
    .bind(&world.server.app.issuer)
    .execute(&mut sql)
    .await
    .unwrap();
    world.server.seal_rows().await;
    let path = "/delegate/D/impact";
    let expected = world.as_admin("GET", path, json!({})).await.json["affected"].clone();
    assert_eq!((&expected["delegations"], &expected["at_least"]), (&json!(1000), &json!(true)), "{expected}");
    let revoked = world.as_alice("POST", "/delegate/D/revoke", json!({})).await;
    assert_eq!(revoked.json["affected"], counts(&expected), "{}", revoked.text);
    let one = world.as_alice("GET", "/delegate/many-1200", json!({})).await.json;
    assert_eq!(
        (&one["state"], &one["ended_by"]),
        (&json!("revoked"), &json!("D")),
        "all of them are inactive"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_query_of_impact_names_one_principal_or_client() {
    let world = World::new().await;
    for (query, status) in [
        ("", 400),
        ("iss=x", 400),
        ("sub=x", 400),
        ("client_id=user-proxy&delegation_id=D", 400),
        ("client_id=user-proxy&unknown=1", 400),
        ("client_id=unknown", 404),
        ("delegation_id=D", 400),
        ("client_id=%00", 400),
        ("iss=https://unknown.example.com&sub=alice", 400),
    ] {
        let answer = world.as_admin("GET", &format!("/api/v1/principals/impact?{query}"), json!({})).await;
        assert_eq!(answer.status, status, "{query}: {}", answer.text);
        assert_eq!(answer.header("content-type"), Some("application/problem+json"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delegation_that_a_claim_led_to_is_ended_like_any_other() {
    let world = World::new().await;
    let twin = world.server.twin().await;
    let issuer = world.server.app.issuer.clone();
    let token = world.user_token_with(|claims| {
        claims["sub"] = json!("carol");
        claims["may_act"] = json!({"sub": "stranger", "iss": issuer});
    });
    let first = world.hop_from_user(&world.stranger, &token).await;
    assert_eq!(first.status, 200, "{}", first.text);
    let id = first.claims()["dlg"].as_str().unwrap().to_owned();
    let carol = world.token_of("carol");
    let listed = world.as_user_with(&carol, "GET", "/delegate", json!({})).await;
    assert_eq!(listed.json["items"][0]["id"], id.as_str(), "{}", listed.text);
    world.assert_active(&[&world.server, &twin], &world.stranger, first.token()).await;
    let revoked = world.as_user_with(&carol, "POST", &format!("/delegate/{id}/revoke"), json!({})).await;
    assert_eq!(revoked.status, 200, "{}", revoked.text);
    world
        .assert_inactive(&[&world.server, &twin], (&world.stranger, first.token()), "delegation_revoked", 1)
        .await;
    for server in [&world.server, &twin] {
        let again = world.stranger.exchange(server, &token, JWT).param("audience", MAIL).send().await;
        again.assert_refused(400, "invalid_request", "delegation_revoked");
    }
    // After the revoke-all, the same user's next token is accepted with its claim, because it is newer.
    let cut = json!({"iss": IDP, "sub": "carol", "reason": "left"});
    assert_eq!(world.as_admin("POST", "/api/v1/principals/revoke-all", cut).await.status, 200);
    world.server.pass(11);
    let next = world.user_token_with(|claims| {
        claims["sub"] = json!("carol");
        claims["may_act"] = json!({"sub": "stranger", "iss": issuer});
    });
    assert_eq!(world.hop_from_user(&world.stranger, &next).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_was_made_below_ends_with_whatever_ends_above_it() {
    for end in ["delegation", "client", "principal", "token", "key"] {
        let chain = Chain::new().await;
        let world = &chain.world;
        let made = world.made_below(&world.user_proxy, ("D", "task-1")).await;
        let token = made.agent.exchange(&world.server, &chain.tokens[0], ACCESS_TOKEN).send().await;
        assert_eq!(token.status, 200, "{}", token.text);
        world.assert_active(&chain.servers(), &made.agent, token.token()).await;
        let (reason, listed) = match end {
            "delegation" => {
                world.server.revoke("D").await;
                // The ephemeral agent is deactivated with the delegation.
                (vec!["delegation_revoked", "agent_deactivated"], 1)
            }
            "client" => {
                world.server.disable("user-proxy").await;
                (vec!["actor_disabled"], 2)
            }
            "principal" => {
                chain.revoke_all(IDP, "alice").await;
                (vec!["principal_revoked", "agent_deactivated"], 1)
            }
            "token" => {
                let revoked = world.server.revoke_token(&world.user_proxy, &chain.tokens[0]).await;
                assert_eq!(revoked.status, 200);
                (vec!["token_revoked"], 1)
            }
            _ => {
                let path = format!("/api/v1/clients/user-proxy/keys/{}", world.user_proxy.jkt());
                assert_eq!(world.as_admin("DELETE", &path, json!({})).await.status, 200);
                (vec!["key_removed"], 1)
            }
        };
        for server in chain.servers() {
            let fate = world.fate(server, &made.agent, token.token()).await;
            assert_eq!((fate.active, fate.listed), (false, listed), "{end}");
            assert!(reason.contains(&fate.exchange.as_str()), "{end}: {}", fate.exchange);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_was_made_for_one_delegation_is_not_declared() {
    let world = World::new().await;
    let key = new_key();
    let made = world.make(&Maker::User("alice"), &key, ("t", json!({}))).await;
    let id = made.json["ephemeral"]["client_id"].as_str().unwrap().to_owned();
    let yaml = format!("clients:\n  - {{id: {id}, kind: agent, auth: none, dpop_keys: [{}]}}", key.kid());
    let refused = world.server.apply(&yaml).await.unwrap_err();
    assert!(refused.contains(&id), "{refused}");
    let yaml = format!(
        "delegations:\n  - {{id: X, delegator: {{iss: {IDP}, sub: alice}}, delegate: {id}, expires_in: 600}}"
    );
    let refused = world.server.apply(&yaml).await.unwrap_err();
    assert!(refused.contains("delegations[0].delegate"), "one agent, one delegation: {refused}");
}
