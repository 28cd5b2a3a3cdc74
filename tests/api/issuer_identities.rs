//! Who a token of an issuer is about: tenants, mapped claims, and what stays when the form of names changes.

use actchain::services::apply::{ApplyReport, ApplyRequest, apply, read_all};
use actchain_protocol::jose::{SigningAlg, SigningKey};
use serde_json::{Value, json};
use wiremock::matchers::path;
use wiremock::{Mock, MockServer, ResponseTemplate};

use crate::support::Answer;
use crate::support::agent::{ACCESS_TOKEN, JWT};
use crate::support::management::Api;
use crate::support::vault::{VaultWorld, names};
use crate::support::world::{IDP, MAIL, World};

const ONE: &str = "11111111-aaaa-4bbb-8ccc-000000000001";
const TWO: &str = "22222222-aaaa-4bbb-8ccc-000000000002";
const TEMPLATE: &str = "https://login.example.com/{tenantid}/v2.0";

fn issuer_of(tenant: &str) -> String {
    TEMPLATE.replace("{tenantid}", tenant)
}

async fn exchange(world: &World, claims: &Value) -> Answer {
    let token = world.idp.sign("JWT", claims).unwrap();
    world.user_proxy.exchange(&world.server, &token, JWT).param("audience", MAIL).send().await
}

async fn refused(world: &World, claims: &Value, cause: &str) {
    exchange(world, claims).await.assert_refused(400, "invalid_request", "subject_token_invalid");
    assert_eq!(world.server.last_event().await["detail"]["cause"], cause, "{claims}");
}

/// The warnings of an `apply` by an operator.
async fn warnings(world: &World, yaml: &str) -> Vec<String> {
    let manifest = read_all(&[("test.yaml".to_owned(), yaml.to_owned())]).unwrap();
    let vault = Some(&world.server.app.vault);
    let done = apply(&world.server.operator(), vault, ApplyRequest::apply_all(manifest)).await.unwrap();
    world.server.app.refresh_registry().await.unwrap();
    ApplyReport::from(done.value).warnings
}

fn tenants(world: &World, ids: &[&str], members: &str) -> String {
    format!(
        "issuers:\n  - {{iss: \"{TEMPLATE}\", tenants: [{}], jwks: {{keys: [{}]}}, audiences: [actchain], algorithms: [ES256]{members}}}\n",
        ids.iter().map(|id| format!("\"{id}\"")).collect::<Vec<_>>().join(", "),
        world.idp.public_jwk()
    )
}

/// A world that trusts two tenants, each with a user Alice.
async fn world_of_tenants() -> World {
    let world = World::new().await;
    let mut yaml = tenants(&world, &[ONE, TWO], ", alias: entra");
    yaml.push_str("delegations:\n");
    for tenant in [ONE, TWO] {
        yaml.push_str(&format!(
            "  - {{id: OF-{tenant}, delegator: {{iss: \"{}\", sub: alice}}, delegate: user-proxy, expires_in: 3600}}\n",
            issuer_of(tenant)
        ));
    }
    world.server.apply(&yaml).await.unwrap();
    world
}

fn of_tenant(world: &World, tenant: &str) -> Value {
    let mut claims = world.user_claims();
    (claims["iss"], claims["tid"]) = (json!(issuer_of(tenant)), json!(tenant));
    claims
}

// RFC 9068 §5
#[tokio::test(flavor = "multi_thread")]
async fn users_of_two_tenants_with_one_name_are_two_users() {
    let world = world_of_tenants().await;
    for tenant in [ONE, TWO] {
        let first = exchange(&world, &of_tenant(&world, tenant)).await.with_status(200);
        let claims = first.claims();
        assert_eq!(claims["sub"], json!(format!("entra:{tenant}:alice")));
        assert_eq!(
            (&claims["idp"], &claims["dlg"]),
            (&json!(issuer_of(tenant)), &json!(format!("OF-{tenant}")))
        );
        let yaml = format!(
            "delegations:\n  - {{id: BELOW-{tenant}, parent: OF-{tenant}, delegate: email-svc, expires_in: 600}}"
        );
        world.server.apply(&yaml).await.unwrap();
        let next = world
            .email_svc
            .exchange(&world.server, first.token(), ACCESS_TOKEN)
            .send()
            .await
            .with_status(200);
        assert_eq!((&next.claims()["sub"], &next.claims()["idp"]), (&claims["sub"], &claims["idp"]));
        let event = world.server.last_event().await;
        assert_eq!(event["subject"], json!({"iss": issuer_of(tenant), "sub": "alice"}));
    }
    let cut = json!({"iss": issuer_of(ONE), "sub": "alice", "reason": "left"});
    world.as_admin("POST", "/api/v1/principals/revoke-all", cut).await.with_status(200);
    assert_eq!(exchange(&world, &of_tenant(&world, ONE)).await.status, 400);
    exchange(&world, &of_tenant(&world, TWO)).await.with_status(200);
    // A user whose name begins like those of the tenants gets no token.
    let mut claims = world.user_claims();
    claims["sub"] = json!("entra:33333333:alice");
    exchange(&world, &claims).await.assert_refused(400, "invalid_request", "subject_ambiguous");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_of_one_tenant_signs_for_no_other() {
    let world = world_of_tenants().await;
    let (own, _) = SigningKey::generate(SigningAlg::ES256).unwrap();
    let declare = async |issuer: Value| {
        let mut jwk = own.public_jwk();
        jwk["issuer"] = issuer;
        let yaml =
            tenants(&world, &[ONE, TWO], ", alias: entra").replace("keys: [", &format!("keys: [{jwk}, "));
        world.server.apply(&yaml).await.unwrap();
    };
    let signed = async |tenant: &str| {
        let token = own.sign("JWT", &of_tenant(&world, tenant)).unwrap();
        world.user_proxy.exchange(&world.server, &token, JWT).param("audience", MAIL).send().await
    };
    declare(json!(TEMPLATE)).await;
    for tenant in [ONE, TWO] {
        signed(tenant).await.with_status(200);
    }
    declare(json!(issuer_of(TWO))).await;
    signed(TWO).await.with_status(200);
    signed(ONE).await.assert_refused(400, "invalid_request", "subject_token_invalid");
    assert_eq!(world.server.last_event().await["detail"]["cause"], "tenant");
    // The other key of the set signs for both.
    exchange(&world, &of_tenant(&world, ONE)).await.with_status(200);
    for other in [json!("https://login.example.com/common/v2.0"), json!([issuer_of(ONE)]), json!({})] {
        declare(other).await;
        for tenant in [ONE, TWO] {
            signed(tenant).await.assert_refused(400, "invalid_request", "subject_token_invalid");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_of_the_tenant_that_both_its_claims_name() {
    let world = world_of_tenants().await;
    for tid in
        [json!(TWO), json!(ONE.to_uppercase()), json!(""), json!(null), json!([ONE]), json!("{tenantid}")]
    {
        let mut claims = of_tenant(&world, ONE);
        claims["tid"] = tid;
        refused(&world, &claims, "tenant").await;
    }
    let mut claims = of_tenant(&world, ONE);
    claims.as_object_mut().unwrap().remove("tid");
    refused(&world, &claims, "tenant").await;
    for unknown in
        ["33333333-aaaa-4bbb-8ccc-000000000003", "{tenantid}", "", "organizations", &format!("{ONE}/x")]
    {
        refused(&world, &of_tenant(&world, unknown), "issuer_unknown").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tenants_are_declared_without_contradiction() {
    let world = world_of_tenants().await;
    let key = world.idp.public_jwk();
    let declared = |members: &str| {
        format!("issuers:\n  - {{jwks: {{keys: [{key}]}}, audiences: [actchain], {members}}}")
    };
    for (members, part) in [
        (format!("iss: \"{}\", alias: x", issuer_of(TWO)), "both cover tokens"),
        (
            format!(
                "iss: \"https://login.example.com/{TWO}/{{tenantid}}\", tenants: [v2], alias: x, claims: {{}}"
            ),
            "",
        ),
        ("iss: \"https://x.example/{tenantid}\", alias: x".to_owned(), "issuers[0].iss"),
        ("iss: \"https://x.example/{tenantid}\", tenants: [a]".to_owned(), "needs an alias"),
        ("iss: \"https://x.example/{tenantid}\", tenants: [a], subject: raw".to_owned(), "needs an alias"),
        ("iss: \"https://x.example/{tenantid}\", tenants: [], alias: x".to_owned(), "issuers[0].tenants"),
        (
            "iss: \"https://x.example/{tenantid}\", tenants: [\"a:b\"], alias: x".to_owned(),
            "issuers[0].tenants",
        ),
        ("iss: \"https://{tenantid}.example/\", tenants: [a], alias: x".to_owned(), "issuers[0].iss"),
        ("iss: \"https://x.example/\", tenants: [a], alias: x".to_owned(), "issuers[0].iss"),
        (
            "iss: \"https://x.example/\", discovery_tenant: a, alias: x".to_owned(),
            "issuers[0].discovery_tenant",
        ),
        ("iss: \"https://x.example/{tenantid}\", tenants: [a], alias: entra".to_owned(), "same alias"),
        ("iss: \"https://x.example/\", alias: x, accepted_clients: [a]".to_owned(), "claims: {client: azp}"),
        (
            "iss: \"https://x.example/\", alias: x, claims: {client: azp}, accepted_clients: []".to_owned(),
            "accepted_clients",
        ),
        ("iss: \"https://x.example/\", alias: x, claims: {subject: ''}".to_owned(), "issuers[0].claims"),
        ("iss: \"https://x.example/\", alias: x, claims: {user: a}".to_owned(), "claims"),
    ] {
        let done = world.server.apply(&declared(&members)).await;
        match part {
            "" => done.unwrap(),
            part => {
                let refused = done.unwrap_err();
                assert!(refused.contains(part), "{members}: {refused}");
            }
        }
    }
    let resource = format!("resources:\n  - {{id: \"{}\", scopes: []}}", issuer_of(ONE));
    assert!(world.server.apply(&resource).await.unwrap_err().contains("has this name"));
    let actor = format!(
        "clients:\n  - {{id: worker, kind: agent, auth: none, dpop_keys: [{}], grant_types: [token-exchange],\n     \
         actor_subjects: [{{iss: \"{}\", sub: worker}}]}}",
        world.followup_svc.jkt(),
        issuer_of(TWO)
    );
    world.server.apply(&actor).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_that_is_dropped_is_not_trusted_any_more() {
    let world = world_of_tenants().await;
    let first = exchange(&world, &of_tenant(&world, ONE)).await.with_status(200);
    let managing = world.idp.sign("JWT", &of_tenant(&world, ONE)).unwrap();
    let list = async || Api::get(&world.server, "/api/v1/connections").user(&managing).send().await.status;
    assert_eq!(list().await, 200);
    let warned = warnings(&world, &tenants(&world, &[TWO], ", alias: entra")).await;
    assert_eq!(warned.len(), 1, "{warned:?}");
    assert!(warned[0].contains(&issuer_of(ONE)) && !warned[0].contains(TWO), "{warned:?}");
    refused(&world, &of_tenant(&world, ONE), "issuer_unknown").await;
    assert_eq!(list().await, 401);
    let next = world.user_proxy.exchange(&world.server, first.token(), ACCESS_TOKEN).send().await;
    next.assert_refused(400, "invalid_request", "subject_token_invalid");
    exchange(&world, &of_tenant(&world, TWO)).await.with_status(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn all_tenants_are_discovered_by_one_document_with_the_placeholder() {
    let world = World::new().await;
    let provider = MockServer::start().await;
    let iss = format!("{}/{{tenantid}}/v2.0", provider.uri());
    let own = iss.replace("{tenantid}", ONE);
    Mock::given(path("/keys"))
        .respond_with(ResponseTemplate::new(200).set_body_json(json!({"keys": [world.idp.public_jwk()]})))
        .mount(&provider)
        .await;
    for (name, issuer) in
        [("organizations", iss.clone()), ("common", iss.replace("{tenantid}", TWO)), (ONE, own.clone())]
    {
        let document = json!({"issuer": issuer, "jwks_uri": format!("{}/keys", provider.uri())});
        Mock::given(path(format!("/{name}/v2.0/.well-known/openid-configuration")))
            .respond_with(ResponseTemplate::new(200).set_body_json(document))
            .mount(&provider)
            .await;
    }
    let yaml = |more: &str| {
        format!(
            "issuers:\n  - {{iss: \"{iss}\", tenants: [\"{ONE}\"], discover: true, audiences: [actchain], alias: entra{more}}}\n\
             delegations:\n  - {{id: FOUND, delegator: {{iss: \"{own}\", sub: alice}}, delegate: user-proxy, expires_in: 3600}}"
        )
    };
    assert!(world.server.apply(&yaml("")).await.unwrap_err().contains("discovery_tenant: organizations"));
    let lying = world.server.apply(&yaml(", discovery_tenant: common")).await.unwrap_err();
    assert!(lying.contains("another issuer"), "{lying}");
    for name in ["organizations", ONE] {
        world.server.apply(&yaml(&format!(", discovery_tenant: {name}"))).await.unwrap();
        let mut claims = world.user_claims();
        (claims["iss"], claims["tid"]) = (json!(own), json!(ONE));
        exchange(&world, &claims).await.with_status(200);
    }
    let exported = world.as_admin("GET", "/api/v1/manifest", Value::Null).await.with_status(200);
    let again = world.as_admin("POST", "/api/v1/apply", exported.json["issuers"].clone()).await;
    assert_eq!(again.status, 400, "a list is no manifest");
    let again = json!({"issuers": exported.json["issuers"]});
    let again = world.as_admin("POST", "/api/v1/apply", again).await.with_status(200);
    let plan = again.json["plan"].as_array().unwrap();
    assert!(plan.iter().all(|line| line["change"] == "unchanged"), "{}", again.text);
}

#[tokio::test(flavor = "multi_thread")]
async fn declared_claims_name_the_user_the_client_and_the_session() {
    let world = World::new().await;
    let declare = |members: &str| {
        format!(
            "issuers:\n  - {{iss: {IDP}, jwks: {{keys: [{}]}}, audiences: [actchain], algorithms: [ES256]{members}}}",
            world.idp.public_jwk()
        )
    };
    let mut claims = world.user_claims();
    claims["sub"] = json!("pairwise-1");
    (claims["oid"], claims["azp"], claims["ssn"]) = (json!("alice"), json!("web-app"), json!("session-9"));
    let mapped = ", claims: {subject: oid, client: azp, session: ssn}, accepted_clients: [web-app, cli]";
    world.server.apply(&declare(mapped)).await.unwrap();
    let token = exchange(&world, &claims).await.with_status(200).claims();
    assert_eq!((&token["sub"], &token["sid"]), (&json!("alice"), &json!("session-9")));
    for (name, value, cause) in [
        ("oid", None, "claims"),
        ("oid", Some(json!(7)), "claims"),
        ("oid", Some(json!("")), "claims"),
        ("azp", None, "claims"),
        ("azp", Some(json!(["web-app"])), "claims"),
        ("azp", Some(json!("other-app")), "client_not_accepted"),
        ("ssn", None, "claims"),
        ("ssn", Some(json!(null)), "claims"),
    ] {
        let mut wrong = claims.clone();
        wrong.as_object_mut().unwrap().remove(name);
        if let Some(value) = value {
            wrong[name] = value;
        }
        refused(&world, &wrong, cause).await;
    }
    // `sub` is not read, so it need not be there.
    claims.as_object_mut().unwrap().remove("sub");
    exchange(&world, &claims).await.with_status(200);
    let exported = world.as_admin("GET", "/api/v1/manifest", Value::Null).await.with_status(200);
    let issuer = &exported.json["issuers"][0];
    assert_eq!(issuer["claims"], json!({"subject": "oid", "client": "azp", "session": "ssn"}));
    assert_eq!(issuer["accepted_clients"], json!(["cli", "web-app"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn another_claim_for_the_user_is_a_warning_and_ends_the_tokens_of_before() {
    let world = World::new().await;
    let declare = |members: &str| {
        format!(
            "issuers:\n  - {{iss: {IDP}, jwks: {{keys: [{}]}}, audiences: [actchain], algorithms: [ES256]{members}}}",
            world.idp.public_jwk()
        )
    };
    assert_eq!(warnings(&world, &declare("")).await, Vec::<String>::new());
    let before = exchange(&world, &world.user_claims()).await.with_status(200);
    let warned = warnings(&world, &declare(", claims: {subject: oid}")).await;
    assert!(warned.len() == 1 && warned[0].contains("oid names them, no longer sub"), "{warned:?}");
    let again = world.user_proxy.exchange(&world.server, before.token(), ACCESS_TOKEN).send().await;
    again.assert_refused(400, "invalid_request", "subject_token_invalid");
    assert_eq!(world.server.last_event().await["detail"]["cause"], "issuer_changed");
    // `sub` is the default: to write it out changes nothing.
    world.server.apply(&declare("")).await.unwrap();
    assert_eq!(warnings(&world, &declare(", claims: {subject: sub}")).await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn delegations_revocations_and_connections_hold_when_the_form_of_names_changes() {
    let story = VaultWorld::new().await;
    let world = &story.world;
    let connection = story.api_key().await;
    let details = names(&connection);
    let (_, [_, before]) = story.granted(&connection).await;
    story.fetch(&before, &connection).await.with_status(200);
    let give = format!(
        "delegations:\n  - {{id: BOB, delegator: {{iss: {IDP}, sub: bob}}, delegate: user-proxy, expires_in: 3600}}"
    );
    world.server.apply(&give).await.unwrap();
    let bob = world.token_of("bob");
    let cut = json!({"iss": IDP, "sub": "bob", "reason": "left"});
    world.as_admin("POST", "/api/v1/principals/revoke-all", cut).await.with_status(200);
    let prefixed = format!(
        "issuers:\n  - {{iss: {IDP}, jwks: {{keys: [{}]}}, audiences: [actchain], algorithms: [ES256], may_act: authorize,\n     \
         subject: prefixed, alias: corp}}",
        world.idp.public_jwk()
    );
    assert_eq!(warnings(world, &prefixed).await, Vec::<String>::new());
    world.server.pass(11);

    let [first, second] = story.chain(&details).await;
    for token in [&first, &second] {
        assert_eq!(crate::support::claims_of(token)["sub"], "corp:alice");
    }
    story.fetch(&second, &connection).await.with_status(200);
    let listed = world.as_alice("GET", "/api/v1/connections", Value::Null).await.with_status(200);
    assert_eq!(listed.json["items"][0]["id"], json!(connection));
    let asked = world.user_proxy.exchange(&world.server, &bob, JWT).param("audience", MAIL).send().await;
    assert_eq!((asked.status, asked.reason()), (400, "principal_revoked"), "{}", asked.text);
}
