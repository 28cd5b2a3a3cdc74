//! RFC 8693: requests, effects, responses and actors.

use serde_json::{Value, json};

use crate::support::agent::{ACCESS_TOKEN, EXCHANGE, ID_TOKEN, JWT, Request};
use crate::support::world::{CALENDAR, IDP, MAIL, World};

#[tokio::test(flavor = "multi_thread")]
async fn three_hops_nest_their_actors_newest_outermost() {
    let world = World::new().await;
    let third = world.third_hop().await;
    let claims = third.claims();
    assert_eq!(third.json["issued_token_type"], ACCESS_TOKEN);
    assert_eq!(third.json["token_type"], "DPoP");
    assert_eq!((&claims["sub"], &claims["idp"]), (&json!("alice"), &json!(IDP)));
    assert_eq!(claims["client_id"], "followup-svc", "RFC 8693 §4.3");
    assert_eq!(claims["cnf"]["jkt"], world.followup_svc.jkt(), "RFC 9449 §6: the key of this request");
    let act = &claims["act"];
    assert_eq!((&act["sub"], &act["cnf"]["jkt"]), (&json!("followup-svc"), &json!(world.followup_svc.jkt())));
    assert_eq!(act["act"]["cnf"]["jkt"], world.email_svc.jkt());
    assert_eq!((&act["act"]["sub"], &act["act"]["act"]["sub"]), (&json!("email-svc"), &json!("user-proxy")));
    assert_eq!(act["act"]["act"]["act"], json!(null));
    assert_eq!(
        (&claims["scope"], &claims["aud"], &claims["dlg"]),
        (&json!("mail.read"), &json!(MAIL), &json!("F"))
    );
    assert_eq!(claims["sid"], "session-1");
    let login = (&claims["auth_time"], &claims["acr"], &claims["amr"]);
    assert_eq!(
        login,
        (&json!(world.server.now() - 60), &json!("high"), &json!(["pwd", "otp"])),
        "RFC 9068 §2.2.1"
    );
    let event = world.server.last_event().await;
    assert_eq!(event["action"], "oauth.token.exchanged");
    let subs: Vec<_> =
        event["act_chain"].as_array().unwrap().iter().map(|link| link["sub"].clone()).collect();
    assert_eq!(subs, ["user-proxy", "email-svc", "followup-svc"]);
    assert_eq!((&event["delegation_path"], &event["jti"]), (&json!(["D", "E", "F"]), &claims["jti"]));
    assert_eq!((&event["txn"], &event["parent_jti"].is_string()), (&claims["txn"], &true));
}

#[tokio::test(flavor = "multi_thread")]
async fn every_hop_of_a_chain_has_the_same_txn_and_the_lineage_of_a_token_is_stored() {
    let world = World::new().await;
    let first = world.first_hop().await;
    let second = world.email_svc.exchange(&world.server, first.token(), ACCESS_TOKEN).send().await;
    assert_eq!(first.claims()["txn"], second.claims()["txn"]);
    assert_ne!(world.first_hop().await.claims()["txn"], first.claims()["txn"]);
    let mut sql = world.server.sql().await;
    let lineage: Vec<uuid::Uuid> =
        sqlx::query_scalar("SELECT lineage FROM issued_token WHERE jti = $1::uuid")
            .bind(second.claims()["jti"].as_str().unwrap())
            .fetch_one(&mut sql)
            .await
            .unwrap();
    assert_eq!(json!(lineage), json!([first.claims()["jti"]]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_and_its_type_are_required_together() {
    let world = World::new().await;
    let token = world.user_token();
    let base =
        || world.user_proxy.request(&world.server).param("grant_type", EXCHANGE).param("audience", MAIL);
    let both = || base().param("subject_token", &token).param("subject_token_type", JWT);
    let cases: [(Request<'_>, &str); 6] = [
        (base(), "nothing"),
        (base().param("subject_token", &token), "no type"),
        (base().param("subject_token_type", JWT), "no token"),
        (both().param("actor_token", &token), "an actor token without a type"),
        (both().param("actor_token_type", JWT), "the type of an actor token alone"),
        (both().param("actor_token", "").param("actor_token_type", JWT), "an empty actor token with a type"),
    ];
    for (request, what) in cases {
        let answer = request.send().await;
        assert_eq!((answer.status, answer.error()), (400, "invalid_request"), "{what}");
        assert_eq!(world.server.last_event().await["reason"], "malformed_request", "{what} is recorded");
    }
    assert_eq!(both().send().await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn token_types_that_cannot_be_issued_or_read_are_refused() {
    let world = World::new().await;
    let exchange =
        || world.user_proxy.exchange(&world.server, &world.user_token(), JWT).param("audience", MAIL);
    assert_eq!(exchange().param("requested_token_type", ACCESS_TOKEN).send().await.status, 200);
    for kind in ["urn:ietf:params:oauth:token-type:refresh_token", JWT, "access_token"] {
        let answer = exchange().param("requested_token_type", kind).send().await;
        assert_eq!((answer.status, answer.error()), (400, "invalid_request"), "{kind}");
    }
    for kind in
        ["urn:ietf:params:oauth:token-type:saml2", "urn:ietf:params:oauth:token-type:refresh_token", "x"]
    {
        let answer = exchange().set("subject_token_type", kind).send().await;
        assert_eq!((answer.status, answer.error()), (400, "invalid_request"), "{kind}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_exchange_needs_client_authentication_and_a_delegation() {
    let world = World::new().await;
    let token = world.first_hop().await;
    let request = Request::to(&world.server)
        .param("grant_type", EXCHANGE)
        .param("subject_token", token.token())
        .param("subject_token_type", ACCESS_TOKEN);
    assert_eq!(request.send().await.status, 401);
    let found = world.stranger.exchange(&world.server, token.token(), ACCESS_TOKEN).send().await;
    found.assert_refused(400, "invalid_request", "delegation_required");
    let users = world.stranger.exchange(&world.server, &world.user_token(), JWT).send().await;
    users.assert_refused(400, "invalid_request", "delegation_required");
    assert_eq!(world.server.last_event().await["subject"]["sub"], "alice");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_exchange_does_not_use_up_the_subject_token() {
    let world = World::new().await;
    let token = world.user_token();
    for _ in 0..2 {
        assert_eq!(world.user_proxy.exchange(&world.server, &token, JWT).send().await.status, 200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_lifetime_is_the_minimum_of_all_limits() {
    let world = World::configured("[tokens]\nmax_ttl = 700").await;
    let life = async |token: &str, kind: &str, agent: &crate::support::agent::Agent| {
        let answer = agent.exchange(&world.server, token, kind).param("audience", MAIL).send().await;
        let claims = answer.claims();
        assert_eq!(
            answer.json["expires_in"],
            json!(claims["exp"].as_i64().unwrap() - claims["iat"].as_i64().unwrap())
        );
        (answer.json["expires_in"].as_i64().unwrap(), answer.token().to_owned())
    };
    let (first, token) = life(&world.user_token(), JWT, &world.user_proxy).await;
    assert_eq!(first, 600, "the resource's token_ttl");
    let short = world.user_token_with(|claims| claims["exp"] = json!(claims["iat"].as_i64().unwrap() + 42));
    assert_eq!(life(&short, JWT, &world.user_proxy).await.0, 42, "the subject token's");
    world.server.pass(100);
    let (second, token) = life(&token, ACCESS_TOKEN, &world.email_svc).await;
    assert_eq!(second, 500, "chaining renews nothing");
    let (third, _) = life(&token, ACCESS_TOKEN, &world.followup_svc).await;
    assert_eq!(third, 200, "the delegation F ends 300 s after it began");
    let calendar =
        world.user_proxy.exchange(&world.server, &world.user_token(), JWT).param("audience", CALENDAR);
    assert_eq!(calendar.send().await.json["expires_in"], 700, "the server's");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_invalid_subject_token_gets_the_same_answer() {
    let world = World::new().await;
    let now = world.server.now();
    let (other_key, _) = actchain_protocol::jose::SigningKey::generate(Default::default()).unwrap();
    let good = world.user_token();
    let (head, _) = good.rsplit_once('.').unwrap();
    let tokens = [
        world.user_token_with(|claims| claims["exp"] = json!(now - 1)),
        world.user_token_with(|claims| claims["nbf"] = json!(now + 60)),
        world.user_token_with(|claims| claims["iat"] = json!(now + 60)),
        world.user_token_with(|claims| claims["iss"] = json!("https://other.example.com")),
        world.user_token_with(|claims| claims["aud"] = json!("another-server")),
        world.user_token_with(|claims| drop(claims.as_object_mut().unwrap().remove("aud"))),
        world.user_token_with(|claims| drop(claims.as_object_mut().unwrap().remove("exp"))),
        world.user_token_with(|claims| drop(claims.as_object_mut().unwrap().remove("sub"))),
        world.user_token_with(|claims| claims["sub"] = json!("")),
        world.user_token_with(|claims| claims["act"] = json!("x")),
        world.user_token_with(|claims| claims["act"] = json!([])),
        world.user_token_with(|claims| {
            claims["act"] = (0..100).fold(json!({"sub": "a"}), |act, _| json!({"sub": "a", "act": act}))
        }),
        world.user_token_with(|claims| claims["exp"] = json!(i64::MAX)),
        world.user_token_with(|claims| claims["exp"] = json!(1e300)),
        world.user_token_with(|claims| claims["iat"] = json!(i64::MIN)),
        world.user_token_with(|claims| claims["sub"] = json!("nul\u{0}byte")),
        world.user_token_with(|claims| claims["may_act"] = json!("user-proxy")),
        world.user_token_with(|claims| claims["scope"] = json!([7])),
        other_key.sign("JWT", &world.user_claims()).unwrap(),
        format!("{head}."),
        "not-a-token".to_owned(),
    ];
    let mut bodies = std::collections::BTreeSet::new();
    for token in &tokens {
        let answer =
            world.user_proxy.exchange(&world.server, token, JWT).param("audience", MAIL).send().await;
        answer.assert_refused(400, "invalid_request", "subject_token_invalid");
        bodies.insert(answer.text);
    }
    assert_eq!(bodies.len(), 1, "RFC 8693 §2.2.2");
    let refused =
        world.server.events().await.iter().filter(|event| event["reason"] == "subject_token_invalid").count();
    assert_eq!(refused, tokens.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn malformed_unknown_and_refused_targets_are_invalid_targets() {
    let world = World::new().await;
    let ask = |name: &str, value: &str| {
        world.user_proxy.exchange(&world.server, &world.user_token(), JWT).param(name, value)
    };
    for uri in ["https://mail.example.com/#x", "/rel", "mail example"] {
        ask("resource", uri).send().await.assert_refused(400, "invalid_target", "resource_malformed");
    }
    for name in
        ["https://unknown.example.com", "https://mail.example.com/", "https://mail.example.com.evil.example"]
    {
        ask("resource", name).send().await.assert_refused(400, "invalid_target", "resource_refused");
        ask("audience", name).send().await.assert_refused(400, "invalid_target", "resource_refused");
    }
    let both = ask("audience", MAIL).param("resource", CALENDAR).param("scope", "both").send().await;
    assert_eq!(both.claims()["aud"], json!([CALENDAR, MAIL]), "every one of several is honoured");
    let one_bad = ask("audience", MAIL).param("audience", "https://unknown.example.com").send().await;
    one_bad.assert_refused(400, "invalid_target", "resource_refused");
    let token = world.first_hop().await;
    let foreign = world
        .email_svc
        .exchange(&world.server, token.token(), ACCESS_TOKEN)
        .param("audience", CALENDAR)
        .send()
        .await;
    foreign.assert_refused(400, "invalid_target", "resource_refused");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_scope_is_a_scope_of_every_target() {
    let world = World::new().await;
    let ask = |scope: &str| {
        world.user_proxy.exchange(&world.server, &world.user_token(), JWT).param("scope", scope)
    };
    let mixed = ask("mail.read").param("audience", MAIL).param("audience", CALENDAR).send().await;
    mixed.assert_refused(400, "invalid_scope", "scope_not_at_resource");
    assert_eq!(
        ask("calendar.read").send().await.claims()["aud"],
        CALENDAR,
        "RFC 9068 §3: inferred from the scope"
    );
    ask("mail.read calendar.read").send().await.assert_refused(400, "invalid_scope", "scope_not_at_resource");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_validated_by_its_declared_type() {
    let world = World::new().await;
    let own = world.first_hop().await;
    let judge = async |token: &str, kind: &str| {
        world.user_proxy.exchange(&world.server, token, kind).param("audience", MAIL).send().await
    };
    judge(own.token(), JWT).await.assert_refused(400, "invalid_request", "subject_token_invalid");
    judge(own.token(), ID_TOKEN).await.assert_refused(400, "invalid_request", "subject_token_invalid");
    judge(&world.user_token(), ACCESS_TOKEN).await.assert_refused(
        400,
        "invalid_request",
        "subject_token_invalid",
    );
    let foreign_access_token = world.idp.sign("at+jwt", &world.user_claims()).unwrap();
    judge(&foreign_access_token, ACCESS_TOKEN).await.assert_refused(
        400,
        "invalid_request",
        "subject_token_invalid",
    );
    judge(&foreign_access_token, ID_TOKEN).await.assert_refused(
        400,
        "invalid_request",
        "subject_token_invalid",
    );
    assert_eq!(judge(&foreign_access_token, JWT).await.status, 200);
    assert_eq!(judge(&world.user_token(), ID_TOKEN).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_kind_of_token_is_accepted_as_another_kind() {
    let world = World::new().await;
    let active = world.server.app.keyring();
    let own: Value = crate::support::claims_of(world.first_hop().await.token());
    let kinds = [
        "dpop+jwt",
        "client-authentication+jwt",
        "oauth-client-attestation+jwt",
        "oauth-client-attestation-pop+jwt",
        "token-introspection+jwt",
        "statuslist+jwt",
        "secevent+jwt",
        "txntoken+jwt",
        "oauth-id-jag+jwt",
    ];
    for typ in kinds {
        let foreign = world.idp.sign(typ, &world.user_claims()).unwrap();
        for kind in [JWT, ID_TOKEN, ACCESS_TOKEN] {
            let answer = world.user_proxy.exchange(&world.server, &foreign, kind).send().await;
            answer.assert_refused(400, "invalid_request", "subject_token_invalid");
        }
        let ours = active.active.sign(typ, &own).unwrap();
        let answer = world.user_proxy.exchange(&world.server, &ours, ACCESS_TOKEN).send().await;
        answer.assert_refused(400, "invalid_request", "subject_token_invalid");
    }
    let session = active.active.sign("JWT", &own).unwrap();
    let answer = world.user_proxy.exchange(&world.server, &session, ACCESS_TOKEN).send().await;
    answer.assert_refused(400, "invalid_request", "subject_token_invalid");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_actor_token_is_accepted_only_if_its_subject_is_the_client() {
    let world = World::new().await;
    let own = world
        .user_proxy
        .request(&world.server)
        .param("grant_type", "client_credentials")
        .param("audience", MAIL);
    let own = own.send().await;
    let with_actor = |token: &str, kind: &str| {
        let request =
            world.user_proxy.exchange(&world.server, &world.user_token(), JWT).param("audience", MAIL);
        request.param("actor_token", token).param("actor_token_type", kind)
    };
    let good = with_actor(own.token(), ACCESS_TOKEN).send().await;
    assert_eq!((good.status, &good.claims()["act"]["sub"]), (200, &json!("user-proxy")), "{}", good.text);
    assert_eq!(good.claims()["act"]["act"], json!(null));
    let others = world
        .email_svc
        .request(&world.server)
        .param("grant_type", "client_credentials")
        .param("audience", MAIL);
    let others = others.send().await;
    with_actor(others.token(), ACCESS_TOKEN).send().await.assert_refused(
        400,
        "invalid_request",
        "actor_is_not_client",
    );
    let acting = world.first_hop().await;
    with_actor(acting.token(), ACCESS_TOKEN).send().await.assert_refused(
        400,
        "invalid_request",
        "actor_token_invalid",
    );
    with_actor("garbage", ACCESS_TOKEN).send().await.assert_refused(
        400,
        "invalid_request",
        "actor_token_invalid",
    );
    with_actor(&world.user_token(), JWT).send().await.assert_refused(
        400,
        "invalid_request",
        "actor_is_not_client",
    );
    world.server.pass(500);
    let late = with_actor(own.token(), ACCESS_TOKEN).send().await;
    assert_eq!(late.json["expires_in"], 100, "the result does not outlive the actor token");
    let other_key = crate::support::agent::Agent::new("user-proxy", crate::support::agent::Auth::Assertion);
    let request = with_actor(own.token(), ACCESS_TOKEN).set_header("dpop", other_key.proof(&world.server));
    request.send().await.assert_refused(400, "invalid_request", "actor_is_not_client");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_workload_token_proves_the_client_it_is_mapped_to() {
    let world = World::new().await;
    world
        .server
        .apply(&format!(
            "clients:\n  - {{id: worker, kind: agent, auth: none, dpop_keys: [{}], scopes: [mail.read],
             audiences: [\"{MAIL}\"], grant_types: [token-exchange], actor_subjects: [{{iss: {IDP}, sub: pod-7}}]}}
delegations:\n  - {{id: W, delegator: {{iss: {IDP}, sub: alice}}, delegate: worker, expires_in: 600}}",
            world.user_proxy.jkt()
        ))
        .await
        .unwrap();
    let worker = crate::support::agent::Agent {
        id: "worker".into(),
        auth: crate::support::agent::Auth::None,
        ..world.user_proxy.clone()
    };
    let ask = async |sub: &str| {
        let workload = world.user_token_with(|claims| claims["sub"] = json!(sub));
        let request = worker.exchange(&world.server, &world.user_token(), JWT);
        request.param("actor_token", &workload).param("actor_token_type", JWT).send().await
    };
    assert_eq!(ask("pod-7").await.claims()["act"]["sub"], "worker");
    ask("pod-8").await.assert_refused(400, "invalid_request", "actor_is_not_client");
}

#[tokio::test(flavor = "multi_thread")]
async fn actor_cycles_and_chains_that_are_too_deep_are_refused() {
    let world = World::new().await;
    let second = world.second_hop().await;
    let back = world.user_proxy.exchange(&world.server, second.token(), ACCESS_TOKEN).send().await;
    back.assert_refused(400, "invalid_request", "actor_cycle");
    // The delegations were created when the server allowed more hops.
    let shallow = world.server.twin_configured("[tokens]\nmax_depth = 2").await;
    let third = world.followup_svc.exchange(&shallow, second.token(), ACCESS_TOKEN).send().await;
    third.assert_refused(400, "invalid_request", "depth_exceeded");
}

#[tokio::test(flavor = "multi_thread")]
async fn max_depth_of_every_delegation_on_the_path_applies() {
    let world = World::new().await;
    let yaml = |root: u32, child: &str| {
        format!(
            "delegations:\n  - {{id: R{root}, delegator: {{iss: {IDP}, sub: bob{root}}}, delegate: user-proxy, expires_in: 600, max_depth: {root}}}\n  - {{id: S{root}, parent: R{root}, delegate: email-svc, expires_in: 600{child}}}"
        )
    };
    // Limits that no exchange could use are refused in the manifest.
    assert!(world.server.apply(&yaml(0, "")).await.unwrap_err().contains("max_depth"));
    assert!(world.server.apply(&yaml(1, "")).await.unwrap_err().contains("deeper than R1 allows (1)"));
    assert!(world.server.apply(&yaml(2, ", max_depth: 3")).await.unwrap_err().contains("max_depth"));
    world.server.apply(&yaml(2, "")).await.unwrap();
    let token = world.user_token_with(|claims| claims["sub"] = json!("bob2"));
    let first = world.user_proxy.exchange(&world.server, &token, JWT).param("audience", MAIL).send().await;
    let second = world.email_svc.exchange(&world.server, first.token(), ACCESS_TOKEN).send().await;
    assert_eq!(second.status, 200, "{}", second.text);
}

#[tokio::test(flavor = "multi_thread")]
async fn rights_never_grow_and_are_never_narrowed_silently() {
    let world = World::new().await;
    let narrow = world
        .user_proxy
        .exchange(&world.server, &world.user_token(), JWT)
        .param("scope", "mail.read")
        .send()
        .await;
    let wider = world
        .email_svc
        .exchange(&world.server, narrow.token(), ACCESS_TOKEN)
        .param("scope", "mail.read mail.send");
    wider.send().await.assert_refused(400, "invalid_scope", "scope_exceeds_grant");
    let same = world.email_svc.exchange(&world.server, narrow.token(), ACCESS_TOKEN).send().await;
    assert_eq!(same.json["scope"], "mail.read", "RFC 8693 §2.2.1");
    let limited = world.user_token_with(|claims| claims["scope"] = json!("mail.send openid"));
    let meet = world.user_proxy.exchange(&world.server, &limited, JWT).param("audience", MAIL).send().await;
    assert_eq!(meet.json["scope"], "mail.send");
    let nothing = world.user_token_with(|claims| claims["scope"] = json!(""));
    let refused =
        world.user_proxy.exchange(&world.server, &nothing, JWT).param("audience", MAIL).send().await;
    refused.assert_refused(400, "invalid_scope", "scope_empty");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_narrows_its_own_token_keeps_the_chain() {
    let world = World::new().await;
    let second = world.second_hop().await;
    let own = world
        .email_svc
        .exchange(&world.server, second.token(), ACCESS_TOKEN)
        .param("scope", "mail.read")
        .send()
        .await;
    let (before, after) = (second.claims(), own.claims());
    assert_eq!(
        (&after["act"], &after["dlg"], &after["txn"]),
        (&before["act"], &before["dlg"], &before["txn"])
    );
    assert_eq!(own.json["scope"], "mail.read");
    assert_ne!(after["jti"], before["jti"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn may_act_lets_the_named_client_act_and_records_a_delegation_that_can_be_revoked() {
    let world = World::new().await;
    let token = |party: Value| {
        world.user_token_with(|claims| {
            claims["sub"] = json!("carol");
            claims["may_act"] = party;
        })
    };
    let issuer = world.server.app.issuer.clone();
    let carol = token(json!({"client_id": "email-svc", "iss": issuer}));
    let exchange = async |token: &str| {
        world.email_svc.exchange(&world.server, token, JWT).param("audience", MAIL).send().await
    };
    let first = exchange(&carol).await;
    assert_eq!(first.status, 200, "{}", first.text);
    let dlg = first.claims()["dlg"].as_str().unwrap().to_owned();
    assert!(dlg.starts_with("may-"));
    let created: Vec<_> = world
        .server
        .events()
        .await
        .into_iter()
        .filter(|event| event["delegation_id"] == json!(dlg))
        .collect();
    let actions: Vec<_> = created.iter().map(|event| event["action"].clone()).collect();
    assert_eq!(actions, ["delegation.created", "oauth.token.exchanged"]);
    let terms = &created[0]["detail"]["terms"];
    assert_eq!((&terms["delegate"], &terms["delegator"]["sub"]), (&json!("email-svc"), &json!("carol")));
    assert!(
        terms["expires_at"].is_string() && terms.get("scopes").is_some(),
        "its terms are in the log: {terms}"
    );
    assert_eq!(exchange(&carol).await.claims()["dlg"], json!(dlg), "recorded once");
    exchange(&token(json!({"client_id": "user-proxy", "iss": issuer}))).await.assert_refused(
        400,
        "invalid_request",
        "may_act_mismatch",
    );
    exchange(&token(json!({"sub": "email-svc", "iss": "https://other.example"}))).await.assert_refused(
        400,
        "invalid_request",
        "may_act_mismatch",
    );
    let elsewhere = world.stranger.exchange(&world.server, &carol, JWT).param("audience", MAIL).send().await;
    elsewhere.assert_refused(400, "invalid_request", "may_act_mismatch");
    world.server.revoke(&dlg).await;
    exchange(&carol).await.assert_refused(400, "invalid_request", "delegation_revoked");
    let own = world.email_svc.exchange(&world.server, first.token(), ACCESS_TOKEN).send().await;
    own.assert_refused(400, "invalid_request", "delegation_revoked");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_foreign_token_that_has_an_actor_is_refused() {
    let world = World::new().await;
    let token = world.user_token_with(|claims| claims["act"] = json!({"sub": "another"}));
    let answer = world.user_proxy.exchange(&world.server, &token, JWT).param("audience", MAIL).send().await;
    answer.assert_refused(400, "invalid_request", "actor_of_other_issuer");
}

#[tokio::test(flavor = "multi_thread")]
async fn id_tokens_made_for_another_client_are_refused() {
    let world = World::new().await;
    let id_token = |aud: &str| world.user_token_with(|claims| claims["aud"] = json!(aud));
    let ask = async |aud: &str, kind: &str| {
        world.user_proxy.exchange(&world.server, &id_token(aud), kind).param("audience", MAIL).send().await
    };
    assert_eq!(ask("user-proxy", ID_TOKEN).await.status, 200);
    ask("email-svc", ID_TOKEN).await.assert_refused(400, "invalid_request", "subject_token_invalid");
    ask("user-proxy", JWT).await.assert_refused(400, "invalid_request", "subject_token_invalid");
}

/// RFC 8707 §2, RFC 3986 §6.2.1: resources are compared character by character.
#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_is_nearly_a_registered_one_is_refused_and_the_event_names_that_one() {
    let world = World::new().await;
    let ask = async |name: &str, target: &str| {
        let exchange = world.user_proxy.exchange(&world.server, &world.user_token(), JWT);
        exchange.param(name, target).send().await
    };
    assert_eq!(ask("resource", MAIL).await.status, 200);
    for (name, near) in [
        ("resource", "https://mail.example.com/"),
        ("resource", "https://MAIL.example.com"),
        ("audience", "https://mail.example.com:443/"),
    ] {
        ask(name, near).await.assert_refused(400, "invalid_target", "resource_refused");
        let event = world.server.last_event().await;
        assert_eq!(event["detail"], json!({"registered_target": MAIL}), "{near}");
    }
    ask("resource", "https://mail.example.com/x").await.assert_refused(
        400,
        "invalid_target",
        "resource_refused",
    );
    assert_eq!(world.server.last_event().await["detail"], json!({}));
}
