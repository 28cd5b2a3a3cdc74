//! Complete chains from the log, and the graph of an agent's delegations.

use actchain::domain::audit::EventKind;
use serde_json::{Value, json};

use crate::support::agent::{ACCESS_TOKEN, Agent, Auth};
use crate::support::audit::{Dice, all_pages, auditor, cover, fill, read};
use crate::support::vault::{VaultWorld, names};
use crate::support::world::{IDP, MAIL, World};

const CHAINS: &str = "/api/v1/audit-logs/chains";

#[tokio::test(flavor = "multi_thread")]
async fn a_chain_shows_its_hops_with_their_keys_the_retrievals_and_the_state_of_its_delegation() {
    let vault = VaultWorld::new().await;
    let world = &vault.world;
    let (auditor, token) = auditor(world).await;
    let connection = vault.api_key().await;
    let ([root, child], [first, second]) = vault.granted(&connection).await;
    assert_eq!(vault.fetch(&second, &connection).await.status, 200);
    let txn = super::support::claims_of(&first)["txn"].as_str().unwrap().to_owned();
    let at = format!("{CHAINS}/{txn}");
    let chain = read(world, (&auditor, &token), &at).await.json;
    let hops = chain["hops"].as_array().unwrap();
    let of = |member: &str| hops.iter().map(|hop| hop[member].clone()).collect::<Vec<_>>();
    assert_eq!(of("kind"), ["exchange", "exchange", "retrieval"]);
    assert_eq!(of("client_id"), ["user-proxy", "email-svc", "email-svc"]);
    assert_eq!(of("jkt"), [world.user_proxy.jkt(), world.email_svc.jkt(), world.email_svc.jkt()]);
    assert_eq!(of("depth"), [1, 2, 2]);
    assert_eq!(of("parent"), [Value::Null, hops[0]["seq"].clone(), hops[1]["seq"].clone()]);
    assert_eq!(of("delegation_id"), [root.clone(), child.clone(), child.clone()]);
    assert_eq!(of("key_continuity"), ["consistent"; 3]);
    assert_eq!(hops[2]["target"], json!(connection));
    assert_eq!(
        (&chain["events"], &chain["retrievals"], &chain["refusals"], &chain["complete"], &chain["state"]),
        (&json!(3), &json!(1), &json!(0), &json!(true), &json!("active"))
    );
    assert_eq!(chain["last"]["action"], "vault.token.retrieved");
    let name = world.server.log_name(IDP, "alice").await;
    assert_eq!(chain["subject"], json!({"iss": IDP, "sub": name}));
    assert_eq!(chain["people"][&name], json!({"state": "known", "iss": IDP, "sub": "alice"}));
    assert_eq!(chain["actors"], json!(["user-proxy", "email-svc"]));
    assert_eq!(chain["items"].as_array().unwrap().len(), 3, "the events themselves");

    // The root is revoked; the attempts after the revocation are in the chain, too.
    world.server.revoke(&root).await;
    assert_eq!(vault.fetch(&second, &connection).await.status, 409);
    let again = vault.hop(&world.email_svc, (&first, ACCESS_TOKEN), &names(&connection)).await;
    assert_eq!((again.status, again.reason()), (400, "delegation_revoked"));
    let found = format!(
        "/api/v1/audit-logs?delegation_id={root}&reason=delegation_revoked&action=oauth.token.refused"
    );
    let found = read(world, (&auditor, &token), &found).await.json;
    assert_eq!(
        found["items"][0]["delegation_id"],
        json!(child),
        "refusals are found by what they were about"
    );
    let chain = read(world, (&auditor, &token), &at).await.json;
    let last = chain["hops"].as_array().unwrap().last().unwrap();
    assert_eq!((&last["kind"], &last["reason"]), (&json!("refusal"), &json!("delegation_revoked")));
    assert_eq!((&chain["state"], &chain["refusals"]), (&json!("revoked"), &json!(2)));

    // The index and the unindexed part of the log give the same result.
    fill(world, &mut Dice(1), 1_100).await;
    assert!(cover(world).await >= 1_024);
    assert_eq!(read(world, (&auditor, &token), &at).await.json, chain);
    let listed = all_pages(world, (&auditor, &token), &format!("{CHAINS}?subject_sub=alice")).await;
    let mut short = chain.clone();
    for beside in ["items", "people", "personal"] {
        short.as_object_mut().unwrap().remove(beside);
    }
    assert!(listed.contains(&short), "{listed:?}");
    assert_eq!(world.as_alice("GET", &at, Value::Null).await.json, chain, "her own");
    assert_eq!(world.as_user("mallory", "GET", &at, Value::Null).await.status, 404);
    let unknown = read(world, (&auditor, &token), &format!("{CHAINS}/no-such-chain")).await;
    assert_eq!(unknown.status, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_two_agents_go_on_from_is_a_branch() {
    let world = World::new().await;
    let (auditor, token) = auditor(&world).await;
    let first = world.first_hop().await;
    for _ in 0..2 {
        let hop = world.email_svc.exchange(&world.server, first.token(), ACCESS_TOKEN).send().await;
        assert_eq!(hop.status, 200, "{}", hop.text);
    }
    let chain = format!("{CHAINS}/{}", first.claims()["txn"].as_str().unwrap());
    let chain = read(&world, (&auditor, &token), &chain).await.json;
    let root = &chain["hops"][0];
    assert_eq!(chain["branches"], json!([root["seq"]]));
    assert_eq!(root["children"], json!([chain["hops"][1]["seq"], chain["hops"][2]["seq"]]));
    assert_eq!(chain["roots"], json!([root["seq"]]));
}

#[tokio::test(flavor = "multi_thread")]
async fn another_key_than_before_is_a_drift_and_none_is_unbound() {
    let world = World::new().await;
    let (auditor, token) = auditor(&world).await;
    let first = world.first_hop().await;
    let txn = first.claims()["txn"].as_str().unwrap().to_owned();
    let hop = async |agent: &Agent| {
        let answer = agent.exchange(&world.server, first.token(), ACCESS_TOKEN).send().await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        let chain = read(&world, (&auditor, &token), &format!("{CHAINS}/{txn}")).await.json;
        chain["hops"].as_array().unwrap().last().unwrap()["key_continuity"].clone()
    };
    assert_eq!(hop(&world.email_svc).await, "consistent");
    // The same client with its own secret, with a key that the server has not seen.
    let other = Agent::new("email-svc", Auth::Basic("email-svc-secret-0123456789".into()));
    assert_eq!(hop(&other).await, "key_mismatch");
    assert_eq!(hop(&world.email_svc).await, "consistent");
    let listed = read(&world, (&auditor, &token), &format!("{CHAINS}?txn={txn}")).await.json;
    assert_eq!(listed["items"][0]["key_continuity"], "key_mismatch", "the worst of its hops");
    for (wanted, count) in [("key_mismatch", 1), ("consistent", 0), ("no_key", 0)] {
        let query = format!("{CHAINS}?txn={txn}&key_continuity={wanted}");
        let found = read(&world, (&auditor, &token), &query).await.json;
        assert_eq!(found["items"].as_array().unwrap().len(), count, "{wanted}");
    }
    let unknown = read(&world, (&auditor, &token), &format!("{CHAINS}?key_continuity=red")).await;
    assert_eq!(unknown.status, 400);
    // Both keys, each with the event that names it.
    let hops = &listed["items"][0]["hops"];
    let (before, drifted) = (&hops[1], &hops[2]);
    let statement = |source: &str| {
        let all = drifted["key_statements"].as_array().unwrap();
        all.iter()
            .find(|one| one["source"] == source)
            .unwrap_or_else(|| panic!("{source}: {drifted}"))
            .clone()
    };
    assert_eq!(
        statement("proof"),
        json!({"source": "proof", "actor": "email-svc", "jkt": other.jkt(), "seq": drifted["seq"], "contradicts": false})
    );
    assert_eq!(
        statement("earlier_hop"),
        json!({"source": "earlier_hop", "actor": "email-svc", "jkt": world.email_svc.jkt(), "seq": before["seq"],
               "contradicts": true})
    );
    assert_eq!(statement("subject_token")["contradicts"], false, "the root is as it was");

    let token = world.user_token_with(|claims| claims["sub"] = json!("carol"));
    let created = world
        .as_user("carol", "POST", "/delegate", json!({"delegate": "stranger", "audiences": [MAIL]}))
        .await;
    assert_eq!(created.status, 201, "{}", created.text);
    let bare =
        world.stranger.exchange(&world.server, &token, crate::support::agent::JWT).param("audience", MAIL);
    let bare = bare.without("dpop").send().await;
    assert_eq!(bare.status, 200, "{}", bare.text);
    let own = world.as_user("carol", "GET", CHAINS, Value::Null).await.json;
    assert_eq!(own["items"][0]["hops"][0]["key_continuity"], "no_key");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_chain_is_in_exactly_one_place_of_the_pages() {
    let world = World::new().await;
    let (auditor, token) = auditor(&world).await;
    let mut dice = Dice(7);
    fill(&world, &mut dice, 1_600).await;
    cover(&world).await;
    let events = world.server.events().await;
    for (name, value) in [
        ("", ""),
        ("actor", "agent-2"),
        ("client_id", "agent-1"),
        ("subject_sub", "user-2"),
        ("from", "2026-01-01T00:10:00Z"),
        ("to", "2026-01-01T00:10:00Z"),
        ("action", "vault.token.retrieved"),
        ("actor", "unknown"),
    ] {
        let mut filter = actchain::domain::audit::filter::Filter::default();
        if !name.is_empty() {
            filter.set(name, value).unwrap();
        }
        let mut wanted: Vec<&str> = Vec::new();
        for event in events.iter().filter(|event| filter.matches(event, Some(&event.to_string()))) {
            if let Some(txn) = event["txn"].as_str().filter(|txn| !wanted.contains(txn)) {
                wanted.push(txn);
            }
        }
        for (order, limit) in [("oldest", 100), ("newest", 17)] {
            let query = if name.is_empty() { String::new() } else { format!("&{name}={value}") };
            let path = format!("{CHAINS}?order={order}&limit={limit}{query}");
            let items = all_pages(&world, (&auditor, &token), &path).await;
            let mut got: Vec<&str> = items.iter().map(|item| item["txn"].as_str().unwrap()).collect();
            if order == "newest" {
                got.reverse();
            }
            assert_eq!(got, wanted, "{path}");
            for item in &items {
                let of_chain = events.iter().filter(|event| event["txn"] == item["txn"]).count();
                assert_eq!(item["events"], json!(of_chain), "{path}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_very_long_chain_is_abridged_and_hides_no_other() {
    let world = World::new().await;
    let (auditor, token) = auditor(&world).await;
    world.first_hop().await;
    let mut dice = Dice(8);
    let long: Vec<_> = (0..5_000_u64)
        .map(|n| {
            let mut event = crate::support::audit::event(&world, &mut dice, n);
            event.kind = EventKind::TokenExchanged {
                exp: 0,
                kid: "k".into(),
                introspected: None,
                refresh_token: None,
                exceptions: Vec::new(),
            };
            event.reason = None;
            event.txn = Some("the-long-one".into());
            event.jti = Some(format!("narrower-{n}"));
            event.parent_jti = Some(format!("narrower-{}", n.saturating_sub(1)));
            event
        })
        .collect();
    let work =
        actchain::services::transaction::AuditedTransaction::begin(&world.server.app.pool).await.unwrap();
    work.commit(&long).await.unwrap();
    cover(&world).await;
    let items = all_pages(&world, (&auditor, &token), &format!("{CHAINS}?limit=1")).await;
    let named: Vec<_> = items.iter().map(|item| item["txn"].as_str().unwrap()).collect();
    assert_eq!(
        (named.len(), named[0]),
        (3, "the-long-one"),
        "and that of a hop, and of the auditor's own token"
    );
    assert_eq!((&items[0]["events"], &items[0]["complete"]), (&json!(5_000), &json!(false)));
    assert_eq!(items[0]["last_seq"].as_u64().unwrap() - items[0]["first_seq"].as_u64().unwrap(), 4_999);
    // However many hops the tokens have, the query succeeds.
    let whole = read(&world, (&auditor, &token), &format!("{CHAINS}/the-long-one")).await;
    assert_eq!((whole.status, whole.json["hops"].as_array().unwrap().len()), (200, 5_000));
}

#[tokio::test(flavor = "multi_thread")]
async fn chains_are_found_by_the_state_of_their_delegation_now() {
    let world = World::new().await;
    let (auditor, token) = auditor(&world).await;
    world.second_hop().await;
    world.bystander().await;
    let count = async |state: &str| {
        let found = read(&world, (&auditor, &token), &format!("{CHAINS}?state={state}")).await;
        found.json["items"].as_array().unwrap().len()
    };
    assert_eq!((count("active").await, count("revoked").await), (2, 0));
    world.server.revoke("D").await;
    assert_eq!((count("active").await, count("revoked").await), (1, 1));
    world.server.pass(4_000);
    let token = world.management_token(&auditor).await;
    for state in ["expired", "revoked"] {
        let found = read(&world, (&auditor, &token), &format!("{CHAINS}?state={state}")).await;
        let found = found.json["items"].as_array().unwrap().len();
        assert_eq!(found, 1, "{state}: what D's revocation ended has not expired since");
    }
    let bad = read(&world, (&auditor, &token), &format!("{CHAINS}?state=lost")).await;
    assert_eq!(bad.status, 400);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_graph_shows_what_an_agent_received_and_what_it_delegated() {
    let world = World::new().await;
    let (auditor, token) = auditor(&world).await;
    let at = |agent: &str| format!("/api/v1/agents/{agent}/delegations/graph");
    let graph = read(&world, (&auditor, &token), &at("email-svc")).await.json;
    let ids = |side: &Value| {
        side["items"]
            .as_array()
            .unwrap()
            .iter()
            .map(|edge| edge["id"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!((ids(&graph["inbound"]), ids(&graph["outbound"])), (vec!["E".into()], vec!["F".into()]));
    let (inbound, outbound) = (&graph["inbound"]["items"][0], &graph["outbound"]["items"][0]);
    let us = &world.server.app.issuer;
    assert_eq!(inbound["from"], json!({"iss": us, "sub": "user-proxy"}));
    assert_eq!(inbound["to"], json!({"iss": us, "sub": "email-svc"}));
    assert_eq!(outbound["to"], json!({"iss": us, "sub": "followup-svc"}));
    assert_eq!(
        (&inbound["scopes"], &inbound["state"]),
        (&json!(["mail.read", "mail.send"]), &json!("active"))
    );
    assert!(inbound["activated_at"].is_string() && inbound["expires_at"].is_string());

    let root = read(&world, (&auditor, &token), &at("user-proxy")).await.json;
    assert_eq!(root["inbound"]["items"][0]["from"], json!({"iss": IDP, "sub": "alice"}));
    let own = world.as_agent(&world.email_svc, "GET", &at("email-svc"), Value::Null).await;
    assert_eq!(own.json, graph);
    let of_other = world.as_agent(&world.user_proxy, "GET", &at("email-svc"), Value::Null).await;
    assert_eq!(of_other.status, 403);
    assert_eq!(world.as_alice("GET", &at("email-svc"), Value::Null).await.json, graph);
    let mallory = world.as_user("mallory", "GET", &at("email-svc"), Value::Null).await.json;
    assert_eq!((ids(&mallory["inbound"]), ids(&mallory["outbound"])), (vec![], vec![]));
    assert_eq!(read(&world, (&auditor, &token), &at("unknown")).await.status, 404);
    let page =
        read(&world, (&auditor, &token), &format!("{}?limit=1&state=revoked", at("email-svc"))).await.json;
    assert_eq!(ids(&page["inbound"]), Vec::<String>::new());
    for query in ["limit=0", "limit=101", "inbound_cursor=x", "state=x", "cursor=x"] {
        assert_eq!(
            read(&world, (&auditor, &token), &format!("{}?{query}", at("email-svc"))).await.status,
            400
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn chains_wait_for_an_index_that_is_far_behind_and_leave_nothing_out() {
    let world = World::new().await;
    let (auditor, token) = auditor(&world).await;
    let first = world.first_hop().await;
    let txn = first.claims()["txn"].as_str().unwrap().to_owned();
    fill(&world, &mut Dice(9), 20_100).await;
    for path in [CHAINS.to_owned(), format!("{CHAINS}/{txn}")] {
        assert_eq!(read(&world, (&auditor, &token), &path).await.status, 503, "{path}");
    }
    cover(&world).await;
    let chain = read(&world, (&auditor, &token), &format!("{CHAINS}/{txn}")).await;
    assert_eq!((chain.status, &chain.json["events"]), (200, &json!(1)));
}
