//! `actchain grant …`: output in JSON and for people, refusals, and exit codes.

use actchain_testkit::agent::{Agent, Auth};
use actchain_testkit::answer::Answer;
use actchain_testkit::api::Api;
use serde_json::{Value, json};

use crate::stage::{ISSUER, MAIL, Servers, Stage, complaints, until};

const IDP: &str = "https://idp.example.com";
/// The thumbprint of a key that `helper` may prove: it is registered with a secret, and proves any key.
const KEY: &str = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFG";
const OTHER: &str = "GFEDCBAzyxwvutsrqponmlkjihgfedcba9876543210";

#[track_caller]
fn refused(stage: &Stage, arguments: &[&str], complaint: &str) {
    let output = stage.run(arguments);
    let err = complaints(&output.stderr);
    assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(1), &b""[..]), "{arguments:?}: {err}");
    assert!(err.starts_with(&format!("actchain: {complaint}")), "{arguments:?}: {err}");
}

const CREATE: [&str; 16] = [
    "grant",
    "create",
    "--grantor-iss",
    IDP,
    "--grantor",
    "bob",
    "--client",
    "helper",
    "--key",
    KEY,
    "--scope",
    "mail.read",
    "--audience",
    MAIL,
    "--expires-in",
    "1d",
];

#[test]
fn an_operator_creates_shows_renews_revalidates_and_revokes_where_the_issuer_lets_it() {
    let stage = Stage::new();
    let _server = stage.serve();
    stage.declare();
    refused(&stage, &CREATE, "only_user_grants: ");
    // The issuer as it is, with the policy.
    let manifest = stage.json(&["manifest", "export", "--json"]);
    let mut issuer = manifest["issuers"][0].clone();
    issuer["standing_grants"] = json!("by_user_or_admin");
    let helper = json!({"id": "helper", "kind": "agent", "auth": "client_secret_basic", "secret": "0123456789abcdef",
                        "scopes": ["mail.read"], "audiences": [MAIL], "grant_types": ["token-exchange"]});
    let declared = json!({"issuers": [issuer], "clients": [helper]});
    std::fs::write(stage.path("issuer.json"), declared.to_string()).unwrap();
    let applied = stage.run(&["apply", "-f", stage.path("issuer.json").to_str().unwrap()]);
    assert_eq!(applied.status.code(), Some(0), "{}", complaints(&applied.stderr));

    let malformed = stage.run(&[&CREATE[..], &["--authorization-details", "{"]].concat());
    assert_eq!(malformed.status.code(), Some(2), "{}", complaints(&malformed.stderr));
    let limited = stage.run(&[&CREATE[..], &["--authorization-details", r#"[{"type":"unknown"}]"#]].concat());
    assert_eq!(limited.status.code(), Some(1), "the details are checked: {}", complaints(&limited.stderr));
    let made = stage.json(&[&CREATE[..], &["--max-ttl", "10m", "--max-uses", "3", "--json"]].concat());
    let id = made["id"].as_str().unwrap();
    assert_eq!(
        [&made["state"], &made["created_by"], &made["keys"], &made["max_ttl"], &made["max_uses"]],
        [&json!("active"), &json!("operator"), &json!([KEY]), &json!(600), &json!(3)]
    );
    refused(
        &stage,
        &[&CREATE[..8], &["--scope", "mail.raed", "--audience", MAIL]].concat(),
        "scope_unknown: ",
    );
    refused(&stage, &["grant", "show", "none"], "not_found: ");
    let shown = stage.json(&["grant", "show", id, "--json"]);
    assert_eq!(shown["recent_activity"][0]["action"], "standing_grant.created");
    let listed = stage.json(&["grant", "list", "--state", "active", "--client", "helper", "--json"]);
    assert_eq!(listed["items"][0]["id"], made["id"]);
    let text = String::from_utf8(stage.run(&["grant", "list"]).stdout).unwrap();
    assert!(text.contains(id) && text.contains("active") && text.contains("bob"), "{text}");

    refused(&stage, &["grant", "renew", id, "--expires-in", "1h"], "expiry_not_later: ");
    let renewed = stage.json(&["grant", "renew", id, "--expires-in", "5d", "--json"]);
    assert!(renewed["expires_at"].as_str() > made["expires_at"].as_str(), "{renewed}");
    let past = stage.json(&["grant", "renew", id, "--expires-in", "52w", "--json"]);
    assert_eq!(past["shortened"], json!(true), "the configured maximum: {past}");
    refused(
        &stage,
        &["grant", "revalidate", id, "--key", KEY, "--replaces", KEY],
        "invalid_state_transition: ",
    );

    // The removal of a pinned key suspends.
    let removed = stage.run(&["client", "key", "remove", "helper", KEY]);
    assert_eq!(removed.status.code(), Some(0), "{}", complaints(&removed.stderr));
    let shown = stage.json(&["grant", "show", id, "--json"]);
    assert_eq!([&shown["state"], &shown["suspension"]["seen_key"]], [&json!("suspended"), &json!(KEY)]);
    let text = String::from_utf8(stage.run(&["grant", "list"]).stdout).unwrap();
    assert!(text.contains("suspended"), "{text}");
    refused(&stage, &["grant", "revalidate", id, "--key", OTHER, "--replaces", OTHER], "request_changed: ");
    refused(&stage, &["grant", "revalidate", id, "--key", KEY, "--replaces", KEY], "malformed_request: ");
    let confirmed = stage.json(&["grant", "revalidate", id, "--key", OTHER, "--replaces", KEY, "--json"]);
    assert_eq!([&confirmed["state"], &confirmed["keys"]], [&json!("active"), &json!([OTHER])]);

    let revoked = stage.json(&["grant", "revoke", id, "--json"]);
    assert_eq!([&revoked["state"], &revoked["affected"]["delegations"]], [&json!("revoked"), &json!(0)]);
    refused(&stage, &["grant", "revoke", id], "invalid_state_transition: ");
    let actions: Vec<Value> = stage.json(&["grant", "show", id, "--json"])["recent_activity"]
        .as_array()
        .unwrap()
        .iter()
        .rev()
        .map(|one| one["action"].clone())
        .collect();
    for action in ["created", "renewed", "suspended", "revalidated", "revoked", "revocation_refused"] {
        assert!(actions.contains(&json!(format!("standing_grant.{action}"))), "{action}: {actions:?}");
    }
}

/// `helper` with a key of its own, and its requests for access to Bob's mail.
struct Helper<'a> {
    base: &'a str,
    agent: Agent,
}

impl Helper<'_> {
    async fn requested(&self, agent: &Agent) -> Answer {
        let own = agent.request(&Servers).param("grant_type", "client_credentials").param("audience", ISSUER);
        let own = own.send_to(self.base).await.unwrap().with_status(200);
        let body = json!({"delegator": {"iss": IDP, "sub": "bob"}, "scopes": ["mail.read"], "audiences": [MAIL], "expires_in": 600});
        Api::post(&Servers, "/delegate", body).client(agent, own.token()).send_to(self.base).await.unwrap()
    }

    async fn assert_waits(&self, limit: &str) {
        let waits = self.requested(&self.agent).await.with_status(202);
        assert_eq!(waits.json["standing_grant_exceeded"]["limit"], *limit);
    }
}

/// Expiry, another key and revocation decide about requests of the agent, as the commands say. Each is an event.
#[tokio::test(flavor = "multi_thread")]
async fn what_the_commands_say_about_a_grant_is_true_for_the_agent() {
    let stage = Stage::new();
    let server = stage.serve();
    stage.declare();
    let manifest = stage.json(&["manifest", "export", "--json"]);
    let mut issuer = manifest["issuers"][0].clone();
    issuer["standing_grants"] = json!("by_user_or_admin");
    let client = json!({"id": "helper", "kind": "agent", "auth": "client_secret_basic", "secret": "0123456789abcdef",
                        "scopes": ["mail.read"], "audiences": [MAIL, ISSUER],
                        "grant_types": ["token-exchange", "client_credentials"]});
    std::fs::write(stage.path("helper.json"), json!({"issuers": [issuer], "clients": [client]}).to_string())
        .unwrap();
    let applied = stage.run(&["apply", "-f", stage.path("helper.json").to_str().unwrap()]);
    assert_eq!(applied.status.code(), Some(0), "{}", complaints(&applied.stderr));
    let helper =
        Helper { base: &server.base, agent: Agent::new("helper", Auth::Basic("0123456789abcdef".into())) };
    let create = |expires_in: &'static str, more: &[&'static str]| {
        let key = helper.agent.jkt();
        let limits =
            ["--key", key, "--scope", "mail.read", "--audience", MAIL, "--expires-in", expires_in, "--json"];
        stage.json(&[&CREATE[..8], &limits, more].concat())
    };
    let state = |id: &str| stage.json(&["grant", "show", id, "--json"])["state"].clone();

    let short = create("1s", &[]);
    let short_id = short["id"].as_str().unwrap();
    assert_eq!(short["state"], "active");
    until("the grant has expired", || state(short_id) == "expired");
    helper.assert_waits("expired").await;

    let made = create("1h", &["--offline-access"]);
    let id = made["id"].as_str().unwrap();
    assert_eq!((&made["state"], &made["offline_access"]), (&json!("active"), &json!(true)));
    let active = helper.requested(&helper.agent).await.with_status(201);
    assert_eq!(active.json["standing_grant_id"], *id);

    let thief = Agent::new("helper", Auth::Basic("0123456789abcdef".into()));
    helper.requested(&thief).await.with_status(202);
    let shown = stage.json(&["grant", "show", id, "--json"]);
    assert_eq!(
        (&shown["state"], &shown["suspension"]["seen_key"]),
        (&json!("suspended"), &json!(thief.jkt()))
    );
    helper.assert_waits("suspended").await;
    let version = shown["client_version"].to_string();
    let own = helper.agent.jkt();
    let confirm =
        ["grant", "revalidate", id, "--key", own, "--replaces", own, "--client-version", &version, "--json"];
    assert_eq!(stage.json(&confirm)["state"], "active");
    helper.requested(&helper.agent).await.with_status(201);

    let revoked = stage.json(&["grant", "revoke", id, "--json"]);
    assert_eq!((&revoked["state"], &revoked["affected"]["delegations"]), (&json!("revoked"), &json!(2)));
    let delegation = stage.json(&["delegation", "show", &active.id(), "--json"]);
    assert_eq!(delegation["state"], "revoked");
    helper.assert_waits("expired").await;
    let actions = |id: &str| {
        let shown = stage.json(&["grant", "show", id, "--json"]);
        shown["recent_activity"]
            .as_array()
            .unwrap()
            .iter()
            .map(|one| one["action"].clone())
            .collect::<Vec<_>>()
    };
    let own = ["created", "used", "suspended", "rejected", "revalidated", "revoked"].map(|name| (id, name));
    for (id, name) in own.into_iter().chain([(short_id, "created"), (short_id, "rejected")]) {
        assert!(actions(id).contains(&json!(format!("standing_grant.{name}"))), "{name}: {:?}", actions(id));
    }
}
