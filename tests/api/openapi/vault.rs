//! The responses of the vault's endpoints, checked against the description.

use serde_json::{Value, json};

use super::{Held, Who, id_of, until_throttled};
use crate::support::Answer;
use crate::support::agent::ACCESS_TOKEN;
use crate::support::contract::Contract;
use crate::support::management::Api;
use crate::support::provider::{Asked, Provider, Wrong};
use crate::support::vault::{VaultWorld, alice, names};
use crate::support::vault_broker;

const VAULT_TOKEN: &str = "urn:actchain:params:oauth:token-type:vault-token";

pub(super) async fn credentials_are_kept_and_fetched(contract: &Contract) {
    let vault = VaultWorld::new().await;
    let held = Held { world: &vault.world, contract };
    providers_are_declared(&held).await;
    owners_keep_credentials(&held).await;
    agents_fetch_them(&held, &vault).await;
    bounds(contract).await;
}

async fn providers_are_declared(held: &Held<'_>) {
    let (alice, admin) = (Who::User("alice"), Who::Client(&held.world.admin));
    let list = ("GET", "/api/v1/providers");
    let shown = held.done(alice, list, Value::Null).await;
    assert_eq!(shown.json["items"][0]["id"], "acme");
    assert!(shown.json["items"][0].get("oauth").is_none());
    let path = "/api/v1/providers/files";
    let manifest = json!({"template": "linear", "client_id": "us", "client_secret": "a-secret-of-us", "scopes": ["read"]});
    let made = held.done(admin, ("PUT", path), manifest.clone()).await;
    assert_eq!((made.status, &made.json["oauth"]["separator"]), (201, &json!("comma")), "{}", made.text);
    let once = [("idempotency-key", "declare")];
    let other =
        json!({"template": "linear", "client_id": "us", "client_secret": "a-secret-of-us", "name": "Files"});
    let changed = held.done_under(admin, ("PUT", path), other.clone(), &once).await;
    assert_eq!((changed.status, &changed.json["name"]), (200, &json!("Files")));
    let again = held.done_under(admin, ("PUT", path), other, &once).await;
    assert_eq!((again.header("idempotent-replayed"), &again.json), (Some("true"), &changed.json));
    let all = held.done(admin, list, Value::Null).await;
    assert!(
        all.json["items"][0]["oauth"].is_object() && !all.text.contains("a-secret-of-us"),
        "{}",
        all.text
    );
    held.refused(alice, ("PUT", path), manifest, (403, "insufficient_scope")).await;
    for body in [
        json!({"kind": "api_key"}),
        json!({"template": "gogle", "client_id": "us"}),
        json!({"client_id": "us"}),
        json!({"client_id": "us", "token_endpoint": "http://10.0.0.1/"}),
        json!({"kind": "basic", "client_secret_file": "/etc/passwd"}),
        json!({"id": "x", "kind": "basic"}),
        json!({"kind": "basic", "colour": "red"}),
    ] {
        let refused = held.refused(admin, ("PUT", path), body.clone(), (400, "malformed_request")).await;
        assert!(!refused.text.contains("root:"), "{body}");
    }
    let events = held.world.server.events().await;
    let refused = events.iter().filter(|event| event["action"] == "admin.provider_change_refused");
    assert_eq!(
        refused.filter(|event| event["target"] == "files").count(),
        5,
        "callers without the right, and requests that are impossible"
    );
    let declared = events.iter().filter(|event| event["action"] == "admin.provider_changed");
    assert_eq!(declared.filter(|event| event["target"] == "files").count(), 2);
}

async fn owners_keep_credentials(held: &Held<'_>) {
    let (alice_, bob, admin) = (Who::User("alice"), Who::User("bob"), Who::Client(&held.world.admin));
    let at = "/api/v1/connections";
    let bodies = [
        json!({"provider": "keys", "name": "Alice\u{2019}s key", "credential": {"key": "k-1"}}),
        json!({"provider": "logins", "name": null, "credential": {"username": "al", "password": "p w"}}),
        json!({"provider": "acme", "credential": {"access_token": "a", "token_type": "bearer", "expires_in": 60,
                                                  "refresh_token": "r", "scope": "files.read"}}),
        json!({"provider": "acme", "credential": {"refresh_token": "r"}}),
    ];
    let mut ids = Vec::new();
    for body in bodies {
        let made = held.done(alice_, ("POST", at), body).await;
        assert_eq!(made.status, 201);
        ids.push(id_of(&made));
    }
    let key = [("idempotency-key", "import")];
    let body = json!({"provider": "keys", "owner": alice(), "credential": {"key": "k-2"}});
    let first = held.done_under(admin, ("POST", at), body.clone(), &key).await;
    let again = held.done_under(admin, ("POST", at), body.clone(), &key).await;
    assert_eq!((first.json, again.header("idempotent-replayed")), (again.json.clone(), Some("true")));
    let other = json!({"provider": "keys", "owner": alice(), "credential": {"key": "k-3"}});
    let api = held.authorized(admin, "POST", at).await.json(&other).key("import");
    assert_eq!(held.send(api, "POST", at).await.status, 422);
    let schema = held.contract.schema("NewConnection");
    for body in [
        json!({"provider": "keys", "credential": {}}),
        json!({"provider": "keys", "credential": {"key": ""}}),
        json!({"provider": "keys", "credential": {"key": "a\nb"}}),
        json!({"provider": "keys", "credential": {"key": "x".repeat(10_923)}}),
        json!({"provider": "keys", "credential": ["k"]}),
        json!({"provider": "keys", "credential": {"key": "k", "username": "u"}}),
        json!({"provider": "keys", "name": "", "credential": {"key": "k"}}),
        json!({"provider": "logins", "credential": {"username": "a:b", "password": "p"}}),
        json!({"provider": "acme", "credential": {"access_token": "a", "token_type": "x y"}}),
        json!({"provider": "keys", "credential": {"key": "k"}, "colour": "red"}),
    ] {
        held.refused(alice_, ("POST", at), body.clone(), (400, "malformed_request")).await;
        assert!(!held.contract.problems(&schema, &body).is_empty(), "described: {body}");
    }
    held.refused(alice_, ("POST", at), json!({"provider": "keys"}), (400, "malformed_request")).await;
    let others = json!({"provider": "keys", "owner": alice(), "credential": {"key": "k"}});
    held.refused(bob, ("POST", at), others, (403, "insufficient_scope")).await;
    let unknown = json!({"provider": "unknown", "credential": {"key": "k"}});
    held.refused(alice_, ("POST", at), unknown, (400, "provider_unknown")).await;

    let page = held.done(alice_, ("GET", "/api/v1/connections?limit=2&state=active"), Value::Null).await;
    let next = page.json["next"].as_str().unwrap();
    held.done(alice_, ("GET", &format!("/api/v1/connections?cursor={next}&provider=keys")), Value::Null)
        .await;
    held.done(admin, ("GET", "/api/v1/connections?owner_iss=x&owner_sub=y"), Value::Null).await;
    for query in ["limit=0", "limit=101", "state=x", "owner_sub=y", "colour=red", "cursor=%00"] {
        let path = format!("/api/v1/connections?{query}");
        held.refused(alice_, ("GET", &path), Value::Null, (400, "malformed_request")).await;
    }
    let below = |name: &str| format!("/api/v1/connections/{}{name}", ids[0]);
    held.done(alice_, ("GET", &below("")), Value::Null).await;
    held.refused(bob, ("GET", &below("")), Value::Null, (404, "not_found")).await;
    let rotation = || json!({"credential": {"key": "k-4"}});
    let once = [("idempotency-key", "rotate")];
    held.done_under(alice_, ("POST", &below("/rotate")), rotation(), &once).await;
    let api = held.authorized(alice_, "POST", &below("/rotate")).await;
    let api = api.json(&json!({"credential": {"key": "k-5"}})).key("rotate");
    assert_eq!(held.send(api, "POST", &below("/rotate")).await.status, 422);
    held.refused(bob, ("POST", &below("/rotate")), rotation(), (404, "not_found")).await;
    held.refused(alice_, ("POST", &below("/rotate")), json!({}), (400, "malformed_request")).await;
    let long = json!({"reason": "x".repeat(501)});
    held.refused(alice_, ("POST", &below("/disconnect")), long, (400, "malformed_request")).await;
    held.refused(bob, ("POST", &below("/disconnect")), Value::Null, (404, "not_found")).await;
    let once = [("idempotency-key", "end")];
    held.done_under(alice_, ("POST", &below("/disconnect")), json!({"reason": "enough"}), &once).await;
    let api = held.authorized(alice_, "POST", &below("/disconnect")).await.key("end");
    assert_eq!(held.send(api, "POST", &below("/disconnect")).await.status, 422);
    let disconnected = (409, "connection_disconnected");
    held.refused(alice_, ("POST", &below("/disconnect")), Value::Null, disconnected).await;
    held.refused(alice_, ("POST", &below("/rotate")), rotation(), disconnected).await;
}

async fn agents_fetch_them(held: &Held<'_>, vault: &VaultWorld) {
    let world = held.world;
    let id = vault.api_key().await;
    let (delegations, [_, token]) = vault.granted(&id).await;
    let (path, agent) = (format!("/vault/connections/{id}/token"), &world.email_svc);
    let api = || Api::new(&world.server, "POST", &path);
    let fetch = async |api: Api<'_>, path: &str, expected: (u16, &str)| -> Answer {
        let answer = held.send(api, "POST", path).await;
        assert_eq!((answer.status, answer.reason()), expected, "{}", answer.text);
        answer
    };
    fetch(api().client(agent, &token), &path, (200, "")).await;
    let sealed = json!({"seal": true});
    held.contract.hold_request("POST", &path, Some(&sealed));
    fetch(api().json(&sealed).client(agent, &token), &path, (200, "")).await;
    fetch(api().json(&json!({"seal": "yes"})).client(agent, &token), &path, (400, "malformed_request")).await;
    let exchange = |details: &Value| {
        let request = agent.exchange(&world.server, &token, ACCESS_TOKEN);
        request
            .param("requested_token_type", VAULT_TOKEN)
            .param("authorization_details", &details.to_string())
    };
    held.oauth("/oauth/token", exchange(&names(&id)), (200, "")).await;
    held.oauth("/oauth/token", exchange(&names("x")), (400, "invalid_authorization_details")).await;
    fetch(api(), &path, (401, "not_authenticated")).await;
    fetch(api().user(&token), &path, (401, "access_token_bound")).await;
    fetch(api().user(&world.user_token()), &path, (403, "insufficient_scope")).await;
    let large = "x".repeat(64 * 1024 + 1);
    fetch(api().raw(&large).client(agent, &token), &path, (413, "request_too_large")).await;
    let text = api().raw("{}").header("content-type", "text/plain").client(agent, &token);
    fetch(text, &path, (415, "unsupported_media_type")).await;
    let other = "/vault/connections/other/token";
    fetch(Api::new(&world.server, "POST", other).client(agent, &token), other, (403, "connection_missing"))
        .await;
    let (_, [_, for_none]) = vault.granted("none").await;
    let none = "/vault/connections/none/token";
    fetch(Api::new(&world.server, "POST", none).client(agent, &for_none), none, (404, "not_found")).await;
    // The provider is unreachable, and the access token has expired.
    let ended = vault.connected("acme", json!({"refresh_token": "r"})).await;
    let (_, [_, for_ended]) = vault.granted(&ended).await;
    let path_of_ended = format!("/vault/connections/{ended}/token");
    let call = Api::new(&world.server, "POST", &path_of_ended).client(agent, &for_ended);
    let unavailable = fetch(call, &path_of_ended, (503, "provider_unavailable")).await;
    assert_eq!(unavailable.header("retry-after"), Some("1"));
    // The provider refuses to exchange a token of the chain.
    let broker = Provider::start().await;
    broker.always(Asked::Exchange, Wrong::json(400, json!({"error": "invalid_target"})));
    world.server.apply(&vault_broker::manifest(&broker, "")).await.unwrap();
    let (_, [_, for_crm]) = vault.granted("crm").await;
    let path_of_crm = "/vault/connections/crm/token";
    let call = Api::new(&world.server, "POST", path_of_crm).client(agent, &for_crm);
    fetch(call, path_of_crm, (502, "provider_refused")).await;
    let revoke = format!("/delegate/{}/revoke", delegations[0]);
    held.done(Who::User("alice"), ("POST", &revoke), Value::Null).await;
    fetch(api().client(agent, &token), &path, (409, "delegation_revoked")).await;
    let details = names(&id);
    vault.delegated(details.clone(), json!({})).await;
    let [_, token] = vault.chain(&details).await;
    held.done(Who::User("alice"), ("POST", &format!("/api/v1/connections/{id}/disconnect")), Value::Null)
        .await;
    fetch(api().client(agent, &token), &path, (409, "connection_disconnected")).await;
}

async fn bounds(contract: &Contract) {
    let vault =
        VaultWorld::configured("[limits]\nrequests_per_second_per_client = 20", "http://127.0.0.1:9/token")
            .await;
    let id = vault.api_key().await;
    let (_, [_, token]) = vault.granted(&id).await;
    let answer = until_throttled(async || vault.fetch(&token, &id).await).await;
    contract.hold("POST", &format!("/vault/connections/{id}/token"), &answer);
    assert_eq!((answer.reason(), answer.header("retry-after")), ("rate_limited", Some("1")));
}
