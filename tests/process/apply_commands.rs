//! `actchain apply` and the commands for registrations: what a plan shows, what it never shows, and exit codes.

use serde_json::{Value, json};

use crate::stage::{MAIL, Stage};

const IDP: &str = "https://idp.example.com";

struct Said {
    code: i32,
    out: String,
    err: String,
}

fn say(stage: &Stage, arguments: &[&str]) -> Said {
    let output = stage.run(arguments);
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Said { code: output.status.code().unwrap(), out: text(output.stdout), err: text(output.stderr) }
}

fn apply(stage: &Stage, yaml: &str, more: &[&str]) -> Said {
    let path = stage.path("m.yaml");
    std::fs::write(&path, yaml).unwrap();
    say(stage, &[&["apply", "-f", path.to_str().unwrap()], more].concat())
}

#[test]
fn three_members_over_an_agent_take_neither_its_kind_nor_its_keys_unsaid() {
    let stage = Stage::new();
    stage.declare();
    let before = stage.json(&["client", "show", "agent", "--json"]);
    let three = "clients:\n  - {id: agent, kind: service, auth: client_secret_basic}";
    let refused = apply(&stage, three, &[]);
    assert_eq!((refused.code, refused.out.as_str()), (2, ""));
    for part in ["m.yaml:2:5", "its kind (agent → service)", "DPoP keys", "--replace agent"] {
        assert!(refused.err.contains(part), "{part}: {}", refused.err);
    }
    assert_eq!(stage.json(&["client", "show", "agent", "--json"]), before, "nothing was changed");
    assert_eq!(apply(&stage, three, &["--replace", "another"]).code, 2, "only by name");
    let plan = apply(&stage, three, &["--replace", "agent", "--dry-run"]);
    assert_eq!(plan.code, 0, "{}", plan.err);
    for line in [
        "~ client agent\n",
        "    audiences: - https://mail.example.com\n",
        "    auth: none → client_secret_basic\n",
        "    grant_types: - token-exchange\n",
        "    kind: agent → service\n",
        "    scopes: - mail.read\n",
        "    secret: secret set\n",
        "1 change to make; nothing was changed\n",
    ] {
        assert!(plan.out.contains(line), "{line}: {}", plan.out);
    }
    assert_eq!(stage.json(&["client", "show", "agent", "--json"]), before, "a dry run");
    // The same manifest with fewer members: the plan shows a missing member as a loss.
    let jkt = before["dpop_keys"][0].as_str().unwrap();
    let less = format!("clients:\n  - {{id: agent, kind: agent, auth: none, dpop_keys: [{jkt}], name: Bot}}");
    let less = apply(&stage, &less, &["--json"]);
    let plan: Value = serde_json::from_str(&less.out).unwrap();
    assert_eq!(
        plan["plan"][0],
        json!({"change": "update", "kind": "client", "id": "agent", "members": [
            {"member": "audiences", "added": [], "removed": [MAIL]},
            {"member": "grant_types", "added": [], "removed": ["token-exchange"]},
            {"member": "name", "from": "agent", "to": "Bot"},
            {"member": "scopes", "added": [], "removed": ["mail.read"]},
        ]})
    );
}

#[test]
fn a_plan_names_what_changes_of_each_kind_and_shows_no_secret() {
    const OLD: &str = "whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
    const NEW: &str = "whsec_BBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBB";
    let world = |scopes: &str, aud: &str, host: &str, (secret, webhook): (&str, &str), path: &str| {
        format!(
            "issuers:\n  - {{iss: \"{IDP}\", audiences: [{aud}], jwks: {{keys: [{{kty: OKP, crv: Ed25519,
     x: 11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo}}]}}}}
resources:\n  - {{id: \"{MAIL}\", scopes: [{scopes}], token_ttl: 60}}
providers:\n  - {{id: p, client_id: c, token_endpoint: \"https://p.example.com/t\", client_secret: {secret}, hosts: [{host}]}}
sinks:\n  - {{id: s, url: \"https://s.example.com/{path}\", secret: {webhook}, enabled: false}}\n"
        )
    };
    let stage = Stage::new();
    let first = world("mail.read", "one", "a.example.com", ("old-provider-secret", OLD), "old-path");
    let made = apply(&stage, &first, &[]);
    assert!(made.code == 0 && made.out.ends_with("4 changes made\n"), "{}{}", made.out, made.err);
    assert!(apply(&stage, &first, &[]).out.ends_with("0 changes made\n"));
    let second =
        world("mail.read, mail.send", "two", "b.example.com", ("new-provider-secret", NEW), "new-path");
    let changed = apply(&stage, &second, &[]);
    for line in [
        "    audiences: - one  + two\n",
        "    scopes: + mail.send\n",
        "    hosts: - a.example.com  + b.example.com\n",
        "    client_secret: secret changed\n",
        "    url: secret changed\n",
        "    secret: secret changed\n",
        "4 changes made\n",
    ] {
        assert!(changed.out.contains(line), "{line}: {}{}", changed.out, changed.err);
    }
    for hidden in ["provider-secret", "whsec_", "-path"] {
        assert!(!changed.out.contains(hidden), "{hidden}: {}", changed.out);
    }
    // The sink's secret was rotated: the old file does not restore the old secret.
    stage.json(&["sink", "rotate-secret", "s", "--json"]);
    let again = apply(&stage, &second, &[]);
    assert!(again.out.contains("= sink s  (the secret was rotated"), "{}", again.out);
}

#[test]
fn a_mistake_is_named_with_its_place_and_an_example_and_nothing_of_the_file_is_shown() {
    let stage = Stage::new();
    let agent = "id: a, kind: agent, auth: client_secret_basic";
    let canary = "canary-7f3a-passw0rd";
    let cases = [
        (
            format!("clients:\n  - {{{agent}, secret: {canary}, scopes: mail.read}}"),
            "m.yaml:2:91: clients[0].scopes: scopes is a list: write `scopes: [mail.read]`",
        ),
        (
            format!("clients:\n  - {{{agent}, secret: {canary}}}\n  - {{{agent}}}"),
            "m.yaml:3:5: clients[1]: a is declared twice: first at",
        ),
        (
            format!("clients:\n  - {{{agent}, secret: {canary}, id: b}}"),
            "the key `id` is there twice: first in line 2, column 6",
        ),
        (format!("clients:\n  - {{{agent}, secret: \"{canary}}}"), "m.yaml:"),
        (
            format!("clients:\n  - {{{agent}, secret: {canary}, colour: red}}"),
            "there is no member `colour`; there are: id, kind",
        ),
        (
            format!("clients:\n  - {{id: a, kind: robot, secret: {canary}}}"),
            "clients[0].kind: this value is not known; there are: agent, service",
        ),
    ];
    for (yaml, expected) in cases {
        let said = apply(&stage, &yaml, &[]);
        assert_eq!((said.code, said.out.as_str()), (2, ""));
        assert!(said.err.contains(expected), "{yaml}\n{}", said.err);
        assert!(!said.err.contains("canary"), "{}", said.err);
        assert_eq!(said.err.lines().count(), 1, "{}", said.err);
    }
}

#[test]
fn a_declared_delegation_that_is_not_active_is_a_warning_that_says_what_to_do() {
    let stage = Stage::new();
    stage.declare();
    stage.json(&["delegation", "revoke", "D", "--json"]);
    let path = stage.path("world.yaml");
    let again = say(&stage, &["apply", "-f", path.to_str().unwrap()]);
    assert_eq!(again.code, 0);
    assert!(again.out.contains("= delegation D  (revoked, and stays so; "), "{}", again.out);
    assert!(
        again.err.contains("warning: delegation D is revoked") && again.err.contains("another id"),
        "{}",
        again.err
    );
    let json = stage.json(&["apply", "--json", "-f", path.to_str().unwrap()]);
    assert!(json["warnings"][0].as_str().unwrap().starts_with("delegation D is revoked"), "{json}");
}

#[test]
fn the_schema_is_printed_without_a_database() {
    let stage = Stage::new();
    let schema = stage.json(&["apply", "--schema"]);
    assert_eq!(schema["additionalProperties"], false);
    assert!(schema["properties"]["clients"].is_object());
    assert!(!stage.data_dir().exists(), "no data directory is made");
    assert_eq!(say(&stage, &["apply"]).code, 2, "a file is needed otherwise");
}

#[test]
fn issuers_and_resources_are_listed_shown_and_removed() {
    let stage = Stage::new();
    stage.declare();
    let issuers = stage.json(&["issuer", "list", "--json"]);
    assert_eq!(issuers["items"][0]["iss"], IDP);
    assert!(say(&stage, &["issuer", "list"]).out.contains(IDP));
    assert_eq!(stage.json(&["issuer", "show", IDP, "--json"])["audiences"], json!(["actchain"]));
    assert_eq!(say(&stage, &["issuer", "show", "https://nowhere.example"]).code, 1);
    let resources = stage.json(&["resource", "list", "--json"]);
    assert!(resources["items"].as_array().unwrap().iter().any(|one| one["id"] == MAIL));
    assert_eq!(stage.json(&["resource", "show", MAIL, "--json"])["scopes"], json!(["mail.read"]));
    let kept = say(&stage, &["resource", "remove", MAIL]);
    assert_eq!((kept.code, kept.out.as_str()), (1, ""));
    assert!(kept.err.contains("is not removed: it is an audience of the clients agent"), "{}", kept.err);
    let kept = say(&stage, &["issuer", "remove", IDP, "--json"]);
    assert_eq!(kept.code, 1);
    let said: Value = serde_json::from_str(&kept.out).unwrap();
    assert!(said["removed"] == false && said["in_use"][0].as_str().unwrap().contains("--revoke-delegations"));
    let removed = stage.json(&["issuer", "remove", IDP, "--revoke-delegations", "--json"]);
    assert_eq!((&removed["iss"], &removed["revoked"]), (&json!(IDP), &json!(1)));
    assert_eq!(stage.json(&["delegation", "show", "D", "--json"])["state"], "revoked");
    assert_eq!(stage.json(&["issuer", "list", "--json"])["items"], json!([]));
    assert_eq!(say(&stage, &["issuer", "remove", IDP]).code, 1, "it is not registered any more");
}

#[test]
fn the_export_of_a_database_applies_without_a_change() {
    let stage = Stage::new();
    stage.declare();
    let exported = say(&stage, &["manifest", "export"]);
    assert_eq!(exported.code, 0, "{}", exported.err);
    assert!(exported.out.contains("- id: agent\n"), "{}", exported.out);
    let again = apply(&stage, &exported.out, &[]);
    assert!(again.code == 0 && again.out.ends_with("0 changes made\n"), "{}{}", again.out, again.err);
    let json = stage.json(&["manifest", "export", "--json"]);
    assert_eq!(json["clients"][0]["id"], "agent");
}

#[test]
fn an_issuer_that_introspects_its_tokens_is_applied_with_a_secret_that_is_not_shown() {
    const SECRET: &str = "a-secret-at-the-issuer";
    let stage = Stage::new();
    let issuer = |members: &str| {
        format!(
            "issuers:\n  - {{iss: \"{IDP}\", audiences: [one], introspection: {{endpoint: \"{IDP}/introspect\", {members}}}}}\n"
        )
    };
    let refused = apply(&stage, &issuer("client_id: us"), &[]);
    assert!(
        refused.code == 2 && refused.err.contains("introspection needs a client_secret"),
        "{}",
        refused.err
    );
    let made = apply(&stage, &issuer(&format!("client_id: us, client_secret: {SECRET}")), &[]);
    assert!(made.code == 0 && made.out.ends_with("1 change made\n"), "{}{}", made.out, made.err);
    assert!(apply(&stage, &issuer("client_id: us"), &[]).out.ends_with("0 changes made\n"));
    let file = stage.path("secret");
    std::fs::write(&file, "another-secret-at-the-issuer\n").unwrap();
    let from_file = format!("client_id: us, client_secret_file: {:?}", file.to_str().unwrap());
    let changed = apply(&stage, &issuer(&from_file), &[]);
    assert!(changed.out.contains("    introspection.client_secret: secret changed\n"), "{}", changed.out);
    let shown = say(&stage, &["issuer", "show", IDP, "--json"]);
    assert!(shown.out.contains("/introspect") && shown.out.contains("\"us\""), "{}", shown.out);
    let doctor = say(&stage, &["doctor"]);
    let line = format!("WRONG issuer {IDP}: introspection at {IDP}/introspect: ");
    assert!(doctor.code == 1 && doctor.out.contains(&line), "{}", doctor.out);
    let exported = say(&stage, &["manifest", "export"]);
    assert!(
        exported.out.contains("# not exported: the client_secret of the introspection"),
        "{}",
        exported.out
    );
    for said in [made, changed, shown, doctor, exported] {
        assert!(!said.out.contains("secret-at-the-issuer") && !said.err.contains("secret-at-the-issuer"));
    }
}
