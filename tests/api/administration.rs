//! Administration over HTTP: manifests, their export, lists of what is registered, new secrets, and the check of an
//! exchange. What an administrator can do there, and what is left to operators.

use actchain::services::apply::Mode;
use actchain_client::Key;
use actchain_testkit::answer::Answer;
use secrecy::ExposeSecret as _;
use serde_json::{Value, json};
use sqlx::{Connection as _, Executor as _};

use crate::support::agent::{Agent, Auth, JWT};
use crate::support::management::Api;
use crate::support::world::{CALENDAR, IDP, MAIL, World};
use crate::support::{START, Server};

const APPLY: &str = "/api/v1/apply";
const MANIFEST: &str = "/api/v1/manifest";

/// An admin call with headers and a body that is not JSON.
struct Call<'a> {
    method: &'a str,
    path: &'a str,
    headers: &'a [(&'a str, &'a str)],
    body: &'a str,
}

impl World {
    async fn call(&self, call: Call<'_>) -> Answer {
        let token = self.management_token(&self.admin).await;
        let api = Api::new(&self.server, call.method, call.path).client(&self.admin, &token);
        let api = call.headers.iter().fold(api, |api, (name, value)| api.header(name, value));
        if call.body.is_empty() { api.send().await } else { api.raw(call.body).send().await }
    }

    async fn apply_yaml(&self, path: &str, yaml: &str) -> Answer {
        let headers = [("content-type", "application/yaml")];
        self.call(Call { method: "POST", path, headers: &headers, body: yaml }).await
    }

    async fn exported(&self, accept: &str) -> Answer {
        let headers = [("accept", accept)];
        self.call(Call { method: "GET", path: MANIFEST, headers: &headers, body: "" }).await.with_status(200)
    }

    async fn events_of(&self, action: &str) -> Vec<Value> {
        let events = self.server.events().await;
        events.into_iter().filter(|event| event["action"] == action).collect()
    }
}

/// A client that a manifest can add.
fn bot(id: &str, more: &str) -> String {
    format!("clients:\n  - {{id: {id}, kind: agent, auth: client_secret_basic{more}}}\n")
}

fn changes(answer: &Answer) -> Vec<(&str, &str)> {
    let lines = answer.json["plan"].as_array().unwrap().iter();
    lines.map(|line| (line["change"].as_str().unwrap(), line["id"].as_str().unwrap())).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_administrator_applies_a_manifest_and_sees_generated_secrets_once() {
    let world = World::new().await;
    let yaml = format!(
        "resources:\n  - {{id: \"https://crm.example.com\", scopes: [crm.read]}}\n{}",
        bot(
            "crm-bot",
            ", scopes: [crm.read], audiences: [\"https://crm.example.com\"], grant_types: [client_credentials]"
        )
    );
    let before = world.server.events().await.len();
    let plan = world.apply_yaml(&format!("{APPLY}?dry_run=true"), &yaml).await.with_status(200);
    assert_eq!(changes(&plan), [("create", "https://crm.example.com"), ("create", "crm-bot")]);
    assert_eq!((&plan.json["dry_run"], &plan.json["secrets"]), (&json!(true), &json!([])));
    let admin_path = "/api/v1/clients/crm-bot";
    assert_eq!(world.as_admin("GET", admin_path, Value::Null).await.status, 404, "a dry run changes nothing");
    assert!(world.events_of("client.changed").await.iter().all(|event| event["target"] != "crm-bot"));

    let headers = [("content-type", "application/yaml"), ("idempotency-key", "one")];
    let call = || Call { method: "POST", path: APPLY, headers: &headers, body: &yaml };
    let done = world.call(call()).await.with_status(200);
    assert_eq!(changes(&done), changes(&plan));
    assert_eq!(done.header("cache-control"), Some("no-store"));
    let made = &done.json["secrets"][0];
    assert_eq!((&made["kind"], &made["id"]), (&json!("client"), &json!("crm-bot")));
    let secret = made["secret"].as_str().unwrap().to_owned();
    let agent = Agent::new("crm-bot", Auth::Basic(secret.clone()));
    let request = agent.request(&world.server).param("grant_type", "client_credentials");
    request.param("audience", "https://crm.example.com").send().await.with_status(200);

    let again = world.call(call()).await.with_status(200);
    assert_eq!(
        (again.header("idempotent-replayed"), &again.json["plan"]),
        (Some("true"), &done.json["plan"])
    );
    assert!(!again.text.contains(&secret) && !world.server.dump().await.contains(&secret));
    let unchanged = world.apply_yaml(APPLY, &yaml).await.with_status(200);
    assert_eq!(changes(&unchanged), [("unchanged", "https://crm.example.com"), ("unchanged", "crm-bot")]);

    let events = world.server.events().await;
    let made: Vec<&Value> = events.iter().skip(before).filter(|event| event["target"] == "crm-bot").collect();
    assert_eq!(made.len(), 1, "{made:?}");
    assert_eq!((&made[0]["actor"]["client_id"], &made[0]["outcome"]), (&json!("admin"), &json!("success")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_json_manifest_is_applied_as_a_yaml_manifest_is() {
    let world = World::new().await;
    let body = json!({"clients": [{"id": "b", "kind": "agent", "auth": "client_secret_basic", "name": "Zoë / \u{1f600}"}]});
    let done = world.as_admin("POST", APPLY, body.clone()).await.with_status(200);
    assert_eq!(changes(&done), [("create", "b")]);
    let escaped = body
        .to_string()
        .replace('ë', "\\u00eb")
        .replace(" / ", " \\/ ")
        .replace('\u{1f600}', "\\ud83d\\ude00");
    let headers = [("content-type", "application/json")];
    let same = world.call(Call { method: "POST", path: APPLY, headers: &headers, body: &escaped }).await;
    assert_eq!(changes(&same.with_status(200)), [("unchanged", "b")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_manifest_is_refused_with_its_place_and_as_an_event() {
    let world = World::new().await;
    let aliases = format!("a: &a [{}]\nclients: [{}]\n", "x,".repeat(200), "*a,".repeat(2000));
    for (yaml, place) in [
        ("clients: []\ncolour: red\n".to_owned(), "manifest:2:1:"),
        (
            "clients:\n  - {id: a, kind: agent, auth: client_secret_basic, colour: red}\n".to_owned(),
            "manifest:2:",
        ),
        ("clients: []\nclients: []\n".to_owned(), "manifest:2:1:"),
        (aliases, "manifest:"),
        ("clients:\n  - {id: a, kind: ag".to_owned(), "manifest:2:"),
        (bot("b", ", scopes: [nothing.here]"), "manifest:2:"),
        (bot("b", ", secret_file: /etc/passwd"), "manifest:2:"),
        (
            "providers:\n  - {id: p, client_id: c, client_secret_file: /etc/passwd}\n".to_owned(),
            "manifest:2:",
        ),
        (bot("a/../b", ""), "manifest:2:"),
        (
            format!("clients: []\n? {}\n: [{}]\n", "n".repeat(200_000), "x,".repeat(2000)),
            "manifest:2:3: a name is longer than 256 bytes",
        ),
    ] {
        let answer = world.apply_yaml(APPLY, &yaml).await;
        assert_eq!((answer.status, answer.reason()), (400, "malformed_request"), "{yaml}: {}", answer.text);
        let detail = answer.json["detail"].as_str().unwrap();
        assert!(detail.starts_with(place), "{yaml}: {detail}");
        let event = world.server.last_event().await;
        assert_eq!((&event["outcome"], &event["reason"]), (&json!("refused"), &json!("malformed_request")));
        assert_eq!(
            (&event["actor"]["client_id"], &event["action"]),
            (&json!("admin"), &json!("admin.manifest_refused"))
        );
    }
    let json = [("content-type", "application/json")];
    for (body, place) in [
        ("{\"clients\": [", "manifest:1:13: the text ends too early"),
        ("clients: []", "manifest:1:1: this is not JSON"),
        ("{\"clients\": [], \"clients\": []}", "manifest:1:"),
        ("{\"clients\":\n [{\"id\": 7}]}", "manifest:2:"),
    ] {
        let answer = world.call(Call { method: "POST", path: APPLY, headers: &json, body }).await;
        let detail = answer.json["detail"].as_str().unwrap_or_default();
        assert!(answer.status == 400 && detail.starts_with(place), "{body}: {}", answer.text);
    }
    // All or nothing: the first client is not registered.
    let half = format!(
        "{}  - {{id: second, kind: agent, auth: client_secret_basic, scopes: [no]}}\n",
        bot("first", "")
    );
    assert_eq!(world.apply_yaml(APPLY, &half).await.status, 400);
    assert_eq!(world.as_admin("GET", "/api/v1/clients/first", Value::Null).await.status, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_is_longer_than_other_bodies_and_still_bounded() {
    let world = World::new().await;
    let padded = |bytes: usize| format!("#{}\n{}", "x".repeat(bytes), bot("padded", ""));
    world.apply_yaml(APPLY, &padded(1024 * 1024)).await.with_status(200);
    let answer = world.apply_yaml(APPLY, &padded(16 * 1024 * 1024)).await;
    assert_eq!((answer.status, answer.reason()), (413, "request_too_large"));
    let many = format!("clients: [{}]\n", "{a: b},".repeat(400_000));
    let answer = world.apply_yaml(APPLY, &many).await;
    assert_eq!(answer.status, 400, "{}", answer.text);
    assert!(answer.json["detail"].as_str().unwrap().contains("apply it in parts"), "{}", answer.text);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_administrator_cannot_apply_what_decides_who_users_and_administrators_are() {
    let world = World::new().await;
    let thief = Agent::new("thief", Auth::Assertion);
    let jwk = thief.key.public_jwk();
    let admin = |id: &str, kind: &str, scope: &str| {
        format!(
            "clients:\n  - {{id: {id}, kind: {kind}, auth: private_key_jwt, jwks: {{keys: [{jwk}]}}, scopes: [{scope}],\n     grant_types: [client_credentials]}}\n"
        )
    };
    let issuer = |iss: &str, more: &str| {
        format!("issuers:\n  - {{iss: {iss}, jwks: {{keys: [{jwk}]}}, audiences: [actchain]{more}}}\n")
    };
    let before = world.exported("application/json").await;
    for yaml in [
        admin("thief", "admin", "actchain.admin"),
        admin("thief", "auditor", "actchain.audit"),
        admin("admin", "admin", "actchain.admin"),
        bot("admin", ", secret: 0123456789abcdef"),
        issuer(IDP, ", may_act: authorize"),
        issuer("https://other.example.com", ", alias: other"),
        format!(
            "delegations:\n  - {{id: N, delegator: {{iss: {IDP}, sub: alice}}, delegate: stranger, expires_in: 60}}\n"
        ),
    ] {
        for path in [APPLY.to_owned(), format!("{APPLY}?dry_run=true"), format!("{APPLY}?replace=admin")] {
            if path.contains("replace") && !yaml.contains("id: admin") {
                continue;
            }
            let answer = world.apply_yaml(&path, &yaml).await;
            // Without `replace`, the loss of the keys of an administrator is refused even earlier.
            let reasons = ["operator_only", "malformed_request"];
            assert!(reasons.contains(&answer.reason()), "{yaml}: {}", answer.text);
            if !yaml.contains("client_secret_basic") {
                assert_eq!((answer.status, answer.reason()), (403, "operator_only"), "{yaml}");
                assert!(
                    answer.json["detail"].as_str().unwrap().starts_with("manifest:2:"),
                    "{}",
                    answer.text
                );
            }
            let event = world.server.last_event().await;
            assert_eq!((&event["outcome"], &event["reason"]), (&json!("refused"), &json!(answer.reason())));
        }
    }
    let after = world.exported("application/json").await;
    assert_eq!((before.header("etag"), &before.json), (after.header("etag"), &after.json));
    // A client of another kind does not become one of these either.
    let answer = world
        .apply_yaml(&format!("{APPLY}?replace=stranger"), &admin("stranger", "admin", "actchain.admin"))
        .await;
    assert_eq!(answer.reason(), "operator_only");
    // Neither users nor agents apply anything, nor read the manifest.
    for answer in [
        world.as_alice("POST", APPLY, json!({})).await,
        world.as_alice("GET", MANIFEST, Value::Null).await,
        world.as_alice("GET", "/api/v1/clients", Value::Null).await,
        world.as_alice("POST", "/api/v1/clients/email-svc/rotate-secret", json!({})).await,
    ] {
        assert_eq!((answer.status, answer.reason()), (403, "insufficient_scope"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn applying_the_export_changes_nothing() {
    let world = World::new().await;
    let more = "sinks:\n  - {id: siem, url: \"http://127.0.0.1:9/\", enabled: false, people: true, filter: {outcome: refused}}
providers:\n  - {id: keys, kind: api_key, hosts: [api.example.com]}
  - {id: oauth, client_id: c, client_secret: provider-secret-0123456789, token_endpoint: \"https://a.example.com/t\"}\n";
    world.server.apply(more).await.unwrap();
    for accept in ["application/json", "application/yaml", "text/html, application/yaml;q=0.9"] {
        let exported = world.exported(accept).await;
        let is_yaml = accept.contains("yaml");
        let kind = if is_yaml { "application/yaml" } else { "application/json" };
        assert_eq!(exported.header("content-type"), Some(kind));
        for secret in ["provider-secret", "email-svc-secret", "$argon2", "whsec_"] {
            assert!(!exported.text.contains(secret), "{secret}");
        }
        assert_eq!(is_yaml, exported.text.contains("# not exported: the secret of client email-svc\n"));
        let headers = [("content-type", kind), ("if-match", exported.header("etag").unwrap())];
        for path in [format!("{APPLY}?dry_run=true"), APPLY.to_owned()] {
            let body = exported.text.as_str();
            let done = world.call(Call { method: "POST", path: &path, headers: &headers, body }).await;
            let plan = changes(&done.with_status(200))
                .iter()
                .map(|(change, id)| format!("{change} {id}"))
                .collect::<Vec<_>>();
            assert_eq!(plan.len(), 1 + 2 + 6 + 2 + 1 + 3, "{plan:?}");
            assert!(plan.iter().all(|line| line.starts_with("unchanged ")), "{plan:?}");
        }
    }
    // A removed key and a revoked delegation are not declared again.
    let jkt = world.user_proxy.jkt();
    let path = format!("/api/v1/clients/user-proxy/keys/{jkt}");
    world.as_admin("DELETE", &path, Value::Null).await.with_status(200);
    world.server.revoke("D").await;
    let exported = world.exported("application/yaml").await;
    assert!(exported.text.contains("# not exported: client user-proxy: all its keys were removed\n"));
    let done = world.apply_yaml(APPLY, &exported.text).await.with_status(200);
    assert!(changes(&done).iter().all(|(change, _)| *change == "unchanged"), "{}", done.text);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_makes_an_empty_server_equal_but_for_secrets() {
    let world = World::new().await;
    let exported = world.exported("application/json").await;
    let yaml = world.exported("application/yaml").await;
    let config = format!("issuer = {:?}", world.server.app.issuer);
    let second = Server::start(&config, "{}").await;
    second.apply(&yaml.text).await.unwrap();
    let token = world.admin.request(&second).param("grant_type", "client_credentials");
    let token = token.param("audience", &second.app.issuer).send().await.with_status(200);
    let again = Api::get(&second, MANIFEST).client(&world.admin, token.token()).send().await.with_status(200);
    assert_eq!(again.json, exported.json);
    assert_ne!(again.header("etag"), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_for_another_version_is_not_applied() {
    let world = World::new().await;
    let tag = |answer: &Answer| answer.header("etag").unwrap().to_owned();
    let first = tag(&world.exported("application/json").await);
    let apply = async |tag: &str, yaml: &str| {
        let headers = [("content-type", "application/yaml"), ("if-match", tag)];
        world.call(Call { method: "POST", path: APPLY, headers: &headers, body: yaml }).await
    };
    apply(&first, &bot("a", "")).await.with_status(200);
    let refused = apply(&first, &bot("b", "")).await;
    assert_eq!((refused.status, refused.reason()), (412, "manifest_changed"));
    assert_eq!(world.as_admin("GET", "/api/v1/clients/b", Value::Null).await.status, 404);
    let mut last = tag(&world.exported("application/json").await);
    assert_eq!(apply(&format!("\"x\", {last}"), &bot("b", "")).await.status, 200);
    assert_eq!(apply("*", &bot("c", "")).await.status, 200);
    assert_eq!(apply("nothing", &bot("d", "")).await.status, 400);
    // Everything that a manifest declares has a part in the version.
    let jkt = world.user_proxy.jkt();
    let key = format!("/api/v1/clients/user-proxy/keys/{jkt}");
    let sink = json!({"url": "http://127.0.0.1:9/"});
    let other = json!({"url": "http://127.0.0.1:9/other"});
    for (method, path, body) in [
        ("PUT", "/api/v1/audit-sinks/s", sink),
        ("PUT", "/api/v1/audit-sinks/s", other),
        ("DELETE", "/api/v1/audit-sinks/s", Value::Null),
        ("PUT", "/api/v1/providers/p", json!({"kind": "api_key"})),
        ("POST", "/api/v1/clients/email-svc/rotate-secret", json!({})),
        ("DELETE", &key, Value::Null),
    ] {
        assert!(world.as_admin(method, path, body).await.status < 300, "{method} {path}");
        let now = tag(&world.exported("application/json").await);
        assert_ne!(now, last, "{method} {path}");
        last = now;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_manifests_at_once_are_applied_one_after_the_other() {
    let world = World::new().await;
    let tag = world.exported("application/json").await.header("etag").unwrap().to_owned();
    let headers = [("content-type", "application/yaml"), ("if-match", tag.as_str())];
    let (one, two) = (bot("one", ""), bot("two", ""));
    let call = |body| world.call(Call { method: "POST", path: APPLY, headers: &headers, body });
    let (one, two) = tokio::join!(call(&one), call(&two));
    let mut statuses = [one.status, two.status];
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 412], "{} {}", one.text, two.text);
    // The same request twice at once is one change.
    let body = bot("three", "");
    let headers = [("content-type", "application/yaml"), ("idempotency-key", "three")];
    let call = || world.call(Call { method: "POST", path: APPLY, headers: &headers, body: &body });
    let (one, two) = tokio::join!(call(), call());
    assert_eq!((one.status, two.status), (200, 200), "{} {}", one.text, two.text);
    assert_eq!(one.json["plan"], two.json["plan"]);
    let replays = [&one, &two].map(|answer| answer.header("idempotent-replayed").is_some());
    assert_ne!(replays[0], replays[1]);
    let made =
        world.events_of("client.changed").await.iter().filter(|event| event["target"] == "three").count();
    assert_eq!(made, 1);
}

/// Waits until this many transactions wait for the authority lock.
async fn waiting_for_the_lock(world: &World, count: i64) {
    let mut sql = world.server.sql().await;
    let waiting =
        "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = 7223459 AND NOT granted
                   AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";
    while sqlx::query_scalar::<_, i64>(waiting).fetch_one(&mut sql).await.unwrap() < count {}
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_that_is_rotated_while_a_manifest_is_applied_does_not_come_back() {
    let world = World::new().await;
    let mut manifest = world.exported("application/json").await.json;
    let clients = manifest["clients"].as_array_mut().unwrap();
    let one = clients.iter_mut().find(|one| one["id"] == "email-svc").unwrap();
    one["name"] = json!("Renamed");
    // Tokens and proofs are recorded under the lock.
    let token = world.management_token(&world.admin).await;
    let rotate = Api::post(&world.server, "/api/v1/clients/email-svc/rotate-secret", json!({}));
    let mut holding = world.server.sql().await;
    let mut transaction = holding.begin().await.unwrap();
    transaction.execute("SELECT pg_advisory_xact_lock_shared(7223459)").await.unwrap();
    let rotating = rotate.client(&world.admin, &token).send();
    let applying = async {
        waiting_for_the_lock(&world, 1).await;
        world.server.apply(&manifest.to_string()).await
    };
    let releasing = async {
        waiting_for_the_lock(&world, 2).await;
        transaction.rollback().await.unwrap();
    };
    let (rotated, applied, ()) = tokio::join!(rotating, applying, releasing);
    assert_eq!(rotated.status, 200, "{}", rotated.text);
    let refusal = applied.unwrap_err();
    assert!(refusal.contains("changed"), "it was planned with the old secret: {refusal}");
    let secret = rotated.json["client_secret"].as_str().unwrap().to_owned();
    let agent = Agent { id: "email-svc".into(), key: world.email_svc.key.clone(), auth: Auth::Basic(secret) };
    let request = agent.request(&world.server).param("grant_type", "client_credentials");
    request.param("audience", MAIL).send().await.with_status(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_are_listed_by_kind_state_and_beginning() {
    let world = World::new().await;
    let entries: String = (0..7)
        .map(|n| format!("  - {{id: Fleet-{n}, kind: service, name: Wagen {n}, auth: client_secret_basic, secret: fleet-secret-0123456789}}\n"))
        .collect();
    world.server.apply(&format!("clients:\n{entries}")).await.unwrap();
    world.server.disable("Fleet-3").await;
    let list = async |query: &str| {
        let mut ids = Vec::new();
        let mut cursor = String::new();
        loop {
            let path = format!("/api/v1/clients?limit=2&{query}{cursor}");
            let page = world.as_admin("GET", &path, Value::Null).await.with_status(200);
            let items = page.json["items"].as_array().unwrap();
            assert!(items.len() <= 2);
            ids.extend(items.iter().map(|item| item["client_id"].as_str().unwrap().to_owned()));
            let Some(next) = page.json["next"].as_str() else { return ids };
            cursor = format!("&cursor={next}");
        }
    };
    let fleet = |numbers: &[u8]| numbers.iter().map(|n| format!("Fleet-{n}")).collect::<Vec<_>>();
    let all = list("").await;
    assert_eq!(all.len(), 13);
    assert_eq!(all.first().unwrap(), "Fleet-0", "upper case comes first in the order of bytes");
    assert!(all.is_sorted());
    assert_eq!(list("prefix=Fleet-").await, fleet(&[0, 1, 2, 3, 4, 5, 6]));
    assert_eq!(list("prefix=fleet-").await, Vec::<String>::new());
    assert_eq!(list("kind=service&enabled=true").await, fleet(&[0, 1, 2, 4, 5, 6]));
    assert_eq!(list("enabled=false").await, fleet(&[3]));
    assert_eq!(list("name=Wagen%205").await, fleet(&[5]));
    assert_eq!(list("name=E-").await, ["email-svc"]);
    assert_eq!(list("kind=admin").await, ["admin"]);
    for query in ["kind=robot", "limit=0", "limit=101", "colour=red", "enabled=maybe"] {
        let path = format!("/api/v1/clients?{query}");
        assert_eq!(world.as_admin("GET", &path, Value::Null).await.status, 400, "{query}");
    }
    let one = world.as_admin("GET", "/api/v1/clients/email-svc", Value::Null).await.with_status(200);
    assert_eq!((&one.json["secrets"], &one.json["name"]), (&json!(1), &json!("E-mail")));
    assert!(!one.text.contains("argon2"));
    let names = async |path: &str, id: &str| -> Vec<String> {
        let page = world.as_admin("GET", path, Value::Null).await.with_status(200);
        page.json["items"]
            .as_array()
            .unwrap()
            .iter()
            .map(|item| item[id].as_str().unwrap().to_owned())
            .collect()
    };
    assert_eq!(names("/api/v1/issuers", "iss").await, [IDP]);
    assert_eq!(names("/api/v1/issuers?prefix=x", "iss").await, Vec::<String>::new());
    assert_eq!(names("/api/v1/resources?prefix=https:", "id").await, [CALENDAR, MAIL]);
    let first = world.as_admin("GET", "/api/v1/resources?limit=1&prefix=https:", Value::Null).await;
    assert_eq!((&first.json["items"][0]["id"], &first.json["next"]), (&json!(CALENDAR), &json!(CALENDAR)));
    let rest = format!("/api/v1/resources?prefix=https:&cursor={CALENDAR}");
    assert_eq!(names(&rest, "id").await, [MAIL]);
    assert_eq!(names("/api/v1/keys?purpose=checkpoint", "purpose").await, ["checkpoint"]);
    assert!(names("/api/v1/keys", "kid").await.len() >= 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotated_secret_is_shown_once_and_the_old_one_stays_as_long_as_asked() {
    const OLD: &str = "email-svc-secret-0123456789";
    let world = World::new().await;
    let rotate = "/api/v1/clients/email-svc/rotate-secret";
    let status = async |secret: &str| {
        let key = world.email_svc.key.clone();
        let agent = Agent { id: "email-svc".into(), key, auth: Auth::Basic(secret.to_owned()) };
        let request = agent.request(&world.server).param("grant_type", "client_credentials");
        request.param("audience", MAIL).send().await.status
    };
    let first = world.as_admin("POST", rotate, json!({"overlap": 60})).await.with_status(200);
    let secret = first.json["client_secret"].as_str().unwrap().to_owned();
    assert_eq!(first.header("cache-control"), Some("no-store"));
    assert_eq!((status(OLD).await, status(&secret).await), (200, 200));
    let event = world.events_of("client.secret_rotated").await.pop().unwrap();
    assert_eq!((&event["target"], &event["actor"]["client_id"]), (&json!("email-svc"), &json!("admin")));
    world.server.pass(60);
    assert_eq!((status(OLD).await, status(&secret).await), (401, 200));
    let headers = [("idempotency-key", "r"), ("content-type", "application/json")];
    let call = || Call { method: "POST", path: rotate, headers: &headers, body: "{}" };
    let second = world.call(call()).await.with_status(200);
    let newest = second.json["client_secret"].as_str().unwrap().to_owned();
    assert_eq!(second.json["old_expires_at"], Value::Null);
    assert_eq!((status(&secret).await, status(&newest).await), (401, 200));
    let replayed = world.call(call()).await.with_status(200);
    assert_eq!(
        (replayed.header("idempotent-replayed"), &replayed.json["client_secret"]),
        (Some("true"), &Value::Null)
    );
    assert_eq!(status(&newest).await, 200, "a repeated request does not rotate again");
    for (path, body, expected) in [
        (rotate, json!({"overlap": 2_592_001}), (400, "malformed_request")),
        (rotate, json!({"overlap": -1}), (400, "malformed_request")),
        ("/api/v1/clients/user-proxy/rotate-secret", json!({}), (400, "malformed_request")),
        ("/api/v1/clients/unknown/rotate-secret", json!({}), (404, "not_found")),
        ("/api/v1/clients/admin/rotate-secret", json!({}), (403, "operator_only")),
    ] {
        let answer = world.as_admin("POST", path, body).await;
        assert_eq!((answer.status, answer.reason()), expected, "{path}: {}", answer.text);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_check_says_what_an_exchange_would_be_answered_and_has_no_effect() {
    let world = World::new().await;
    let user = world.user_token();
    let check = async |body: Value| world.as_admin("POST", "/api/v1/check", body).await.with_status(200);
    // The token of the administrator has an event of its own.
    let token = world.management_token(&world.admin).await;
    let before = world.server.events().await.len();
    let body =
        json!({"subject_token": user, "client_id": "user-proxy", "audiences": [MAIL], "scope": "mail.read"});
    let granted = Api::post(&world.server, "/api/v1/check", body).client(&world.admin, &token).send().await;
    assert_eq!(world.server.events().await.len(), before, "a check is no event");
    assert_eq!(
        (&granted.json["granted"], &granted.json["scope"]),
        (&json!(true), &json!("mail.read")),
        "{}",
        granted.text
    );
    assert_eq!(granted.json["delegation_path"], json!(["D"]));
    let rules = |answer: &Answer| -> Vec<String> {
        let rules = answer.json["rules"].as_array().unwrap().iter();
        rules
            .map(|one| format!("{}:{}", one["rule"].as_str().unwrap(), one["outcome"].as_str().unwrap()))
            .collect()
    };
    assert!(rules(&granted).iter().all(|rule| rule.ends_with(":met")));
    // The real exchange gives the same.
    let real = world
        .user_proxy
        .exchange(&world.server, &user, JWT)
        .param("audience", MAIL)
        .param("scope", "mail.read");
    assert_eq!(real.send().await.with_status(200).json["scope"], "mail.read");
    let stranger = check(json!({"subject_token": user, "client_id": "stranger"})).await;
    assert_eq!(
        (&stranger.json["granted"], &stranger.json["reason"]),
        (&json!(false), &json!("delegation_required"))
    );
    assert_eq!(
        rules(&stranger)[..7],
        [
            "client:met",
            "grant_type:met",
            "subject_token:met",
            "subject_active:met",
            "actor:met",
            "delegation:refused",
            "delegation_active:not_reached"
        ]
    );
    let bad = check(json!({"subject_token": "x", "client_id": "user-proxy"})).await;
    assert_eq!(
        rules(&bad)[2..5],
        ["subject_token:refused", "subject_active:not_reached", "actor:not_reached"]
    );
    let unknown = check(json!({"subject_token": user, "client_id": "unknown"})).await;
    assert_eq!(
        (&unknown.json["reason"], rules(&unknown)[0].as_str()),
        (&json!("client_unknown"), "client:refused")
    );
    let server = check(json!({"subject_token": user, "client_id": "admin"})).await;
    assert_eq!(rules(&server)[1], "grant_type:refused");
    world.server.revoke("D").await;
    let revoked = check(json!({"subject_token": user, "client_id": "user-proxy", "audiences": [MAIL]})).await;
    assert_eq!(revoked.json["reason"], "delegation_revoked");
    for body in [json!({}), json!({"subject_token": "x", "client_id": "c", "scope": "a  b"})] {
        assert_eq!(world.as_admin("POST", "/api/v1/check", body).await.status, 400);
    }
    let refused = world
        .as_alice("POST", "/api/v1/check", json!({"subject_token": user, "client_id": "user-proxy"}))
        .await;
    assert_eq!((refused.status, refused.reason()), (403, "insufficient_scope"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_declared_without_its_secret_keeps_it_only_while_nothing_else_changes() {
    let world = World::new().await;
    let provider = |more: &str, endpoint: &str| {
        format!(
            "providers:\n  - {{id: oauth, client_id: c, token_endpoint: \"https://{endpoint}/t\"{more}}}\n"
        )
    };
    world
        .server
        .apply(&provider(", client_secret: provider-secret-0123456789", "a.example.com"))
        .await
        .unwrap();
    let plan = world.plan(&provider("", "a.example.com"), Mode::DryRun).await.unwrap();
    assert_eq!(json!(plan.lines[0])["change"], "unchanged");
    // At another address the secret would go to the owner of that address.
    let plan = world.plan(&provider("", "b.example.com"), Mode::DryRun).await.unwrap();
    let members = json!(plan.lines[0])["members"].clone();
    assert!(
        members.as_array().unwrap().contains(&json!({"member": "client_secret", "secret": "removed"})),
        "{members}"
    );
    let basic = provider(", token_endpoint_auth: client_secret_basic", "b.example.com");
    let refused = world.apply_yaml(APPLY, &basic).await;
    assert_eq!((refused.status, refused.reason()), (400, "malformed_request"));
    assert_eq!(world.server.now(), START);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_applies_and_exports_at_a_server_elsewhere() {
    let world = World::new().await;
    #[expect(clippy::disallowed_methods, reason = "the command uses the clock of the machine")]
    let now = time::OffsetDateTime::now_utc().unix_timestamp();
    world.server.pass(now - world.server.now());
    let key = Key::generate().unwrap();
    let jwk = key.public_jwk();
    let yaml = format!(
        "clients:\n  - {{id: remote, kind: admin, auth: private_key_jwt, jwks: {{keys: [{jwk}]}}, scopes: [actchain.admin],\n     grant_types: [client_credentials]}}\n"
    );
    world.server.apply(&yaml).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    std::fs::write(path("key.pem"), key.to_pem().expose_secret()).unwrap();
    std::fs::write(path("a.yaml"), bot("from-a", "")).unwrap();
    std::fs::write(path("b.yaml"), bot("from-b", ", name: \"y\"")).unwrap();
    std::fs::write(path("bad.yaml"), bot("bad", ", scopes: [nothing]")).unwrap();
    let run = async |arguments: &[&str]| {
        let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_actchain"));
        let as_admin =
            ["--server", &world.server.app.issuer, "--client", "remote", "--key", &path("key.pem")];
        let output = command.env_clear().args(arguments).args(as_admin).output().await.unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
    };
    let (a, b, bad) = (path("a.yaml"), path("b.yaml"), path("bad.yaml"));
    let (code, out, err) = run(&["apply", "-f", &a, "--dry-run"]).await;
    assert_eq!(
        (code, out.as_str()),
        (0, "+ client from-a\n1 change to make; nothing was changed\n"),
        "{err}"
    );
    let (code, out, err) = run(&["apply", "-f", &a, "-f", &b, "--json"]).await;
    let report: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, report["secrets"].as_array().unwrap().len()), (0, 2), "{err}");
    let (code, out, err) = run(&["apply", "-f", &bad]).await;
    assert_eq!((code, out.as_str()), (2, ""));
    assert!(err.contains("manifest:2:") && err.contains("nothing"), "{err}");
    let (code, out, err) = run(&["manifest", "export"]).await;
    assert!(code == 0 && out.contains("id: from-b") && out.contains("# not exported:"), "{out}{err}");
    assert!(out.contains("name: \"y\"") || out.contains("name: 'y'"), "a text stays a text: {out}");
    std::fs::write(path("all.yaml"), &out).unwrap();
    let (code, out, _) = run(&["apply", "-f", &path("all.yaml")]).await;
    assert!(code == 0 && out.ends_with("0 changes made\n"), "{out}");
}
