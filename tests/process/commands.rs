//! The command line: output, refusals, and exit codes.

use serde_json::{Value, json};
use wiremock::matchers::any;
use wiremock::{Mock, MockServer, ResponseTemplate};

use crate::stage::{MAIL, Stage};

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn apply_is_idempotent_shows_its_plan_and_changes_nothing_on_a_dry_run() {
    let stage = Stage::new();
    let path = stage.path("a.yaml");
    let yaml = format!(
        "resources:\n  - {{id: \"{MAIL}\", scopes: [mail.read]}}\nclients:\n  - {{id: bot, kind: agent, auth: client_secret_basic, scopes: [mail.read], audiences: [\"{MAIL}\"]}}"
    );
    std::fs::write(&path, yaml).unwrap();
    let apply =
        |more: &[&str]| stage.json(&[&["apply", "--json", "-f", path.to_str().unwrap()], more].concat());
    let changes = |answer: &Value| {
        answer["plan"].as_array().unwrap().iter().map(|line| line["change"].clone()).collect::<Vec<_>>()
    };
    assert_eq!(changes(&apply(&["--dry-run"])), ["create", "create"]);
    let first = apply(&[]);
    assert_eq!(changes(&first), ["create", "create"]);
    assert_eq!(first["secrets"][0]["secret"].as_str().unwrap().len(), 43, "made, and shown this once");
    let again = apply(&[]);
    assert_eq!(
        (changes(&again), &again["secrets"]),
        (vec![json!("unchanged"), json!("unchanged")], &json!([]))
    );
    std::fs::write(&path, format!("resources:\n  - {{id: \"{MAIL}\", scopes: [mail.read, mail.send]}}"))
        .unwrap();
    assert_eq!(changes(&apply(&[])), ["update"]);
}

#[test]
fn apply_is_all_or_nothing_and_says_what_is_wrong() {
    let stage = Stage::new();
    let refused = |yaml: &str| {
        let path = stage.path("bad.yaml");
        std::fs::write(&path, yaml).unwrap();
        let output = stage.run(&["apply", "-f", path.to_str().unwrap()]);
        assert_eq!(output.status.code(), Some(2), "{yaml}");
        text(&output.stderr)
    };
    let agent = "clients:\n  - {id: a, kind: agent, auth: client_secret_basic, secret: 0123456789abcdef";
    let cases = [
        ("clientz: []", "clientz"),
        ("clients:\n  - {id: a, kind: agent, auth: none, colour: red}", "colour"),
        ("clients:\n  - {id: a, kind: robot, auth: none}", "kind"),
        ("clients:\n  - {id: a, kind: agent, auth: none}", "dpop_keys"),
        ("clients:\n  - {id: a, kind: agent, auth: private_key_jwt}", "jwks"),
        ("clients:\n  - {id: \"a b\", kind: agent, auth: client_secret_basic}", "id"),
        ("clients:\n  - {id: a, kind: agent, auth: client_secret_basic, secret: short}", "16 bytes"),
        (&format!("{agent}, audiences: [\"https://nowhere.example\"]}}"), "nowhere"),
        (&format!("{agent}, scopes: [actchain.admin]}}"), "admin"),
        (&format!("{agent}, max_token_ttl: 0}}"), "max_token_ttl"),
        (&format!("{agent}}}\n  - {{id: a, kind: agent, auth: client_secret_basic}}"), "twice"),
        (&format!("{agent}}}\nresources:\n  - {{id: a, scopes: []}}"), "name"),
        (&format!("{agent}}}\ndelegations:\n  - {{id: D, delegate: a, expires_in: 1}}"), "delegator"),
        (
            &format!(
                "{agent}}}\ndelegations:\n  - {{id: D, delegator: {{iss: x, sub: y}}, delegate: a, expires_in: 1}}"
            ),
            "issuer",
        ),
        (&format!("{agent}}}\ndelegations:\n  - {{id: D, parent: nothing, delegate: a}}"), "nothing"),
        (": [", "bad.yaml"),
    ];
    for (yaml, part) in cases {
        let complaint = refused(yaml);
        assert!(complaint.contains(part), "{yaml}\n{complaint}");
    }
    assert_eq!(stage.json(&["client", "list", "--json"])["items"], json!([]), "nothing of it is there");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delegation_is_never_wider_than_its_parent() {
    let stage = Stage::new();
    stage.declare();
    let child = |more: &str| {
        let path = stage.path("child.yaml");
        let agents =
            "clients:\n  - {id: b, kind: agent, auth: client_secret_basic, secret: 0123456789abcdef}\n";
        let parent = "  - {id: P, parent: D, delegate: b, scopes: [mail.read], expires_in: 600, max_uses: 5, max_depth: 3}\n";
        let agents = format!(
            "{agents}  - {{id: c, kind: agent, auth: client_secret_basic, secret: 0123456789abcdef}}\n"
        );
        std::fs::write(
            &path,
            format!("{agents}delegations:\n{parent}  - {{id: C, parent: P, delegate: c{more}}}"),
        )
        .unwrap();
        let output = stage.run(&["apply", "--dry-run", "-f", path.to_str().unwrap()]);
        (output.status.code().unwrap(), text(&output.stderr))
    };
    assert_eq!(child("").0, 0);
    for (more, part) in [
        (", scopes: [mail.read, actchain.delegate]", "in scopes"),
        (", max_uses: 6", "in max_uses"),
        (", max_depth: 4", "in max_depth"),
    ] {
        let (code, complaint) = child(more);
        assert!(code == 2 && complaint.contains(part), "{more}: {complaint}");
    }
}

#[test]
fn verification_says_valid_broken_or_could_not_check_by_its_exit_code() {
    let stage = Stage::new();
    stage.declare();
    // The first server creates the keys that checkpoints need.
    drop(stage.serve());
    let export = stage.path("log.jsonl");
    let path = export.to_str().unwrap();
    assert!(stage.run(&["audit", "export", "--out", path]).status.success());
    let verify = |arguments: &[&str]| {
        let output = stage.run(&[&["audit", "verify-chain", "--json"], arguments].concat());
        (output.status.code().unwrap(), serde_json::from_slice::<Value>(&output.stdout).unwrap_or_default())
    };
    assert_eq!(verify(&[]).0, 0);
    assert_eq!(verify(&["--file", path]).0, 0);
    let changed = std::fs::read_to_string(&export).unwrap().replacen("operator", "operatox", 1);
    std::fs::write(&export, changed).unwrap();
    let (code, report) = verify(&["--file", path]);
    assert_eq!((code, &report["valid"]), (1, &json!(false)));
    assert_eq!(verify(&["--file", "/nowhere"]).0, 2);
}

#[test]
fn doctor_finds_nothing_wrong_with_a_fresh_installation_and_names_a_bad_setting() {
    let stage = Stage::new();
    let report = stage.json(&["doctor", "--json"]);
    assert_eq!(report["ok"], true, "{report}");
    let output = stage.command().args(["doctor"]).env("ACTCHAIN_DPOP_NONCE", "maybe").output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stdout).contains("ACTCHAIN_DPOP_NONCE"), "{}", text(&output.stdout));
}

#[tokio::test(flavor = "multi_thread")]
async fn doctor_warns_of_an_issuer_whose_metadata_has_changed() {
    let stage = Stage::new();
    let provider = MockServer::start().await;
    let publish = async |keys: &str| {
        provider.reset().await;
        let key = json!({"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"});
        let document = json!({
            "issuer": provider.uri(), "jwks_uri": format!("{}/{keys}", provider.uri()), "keys": [key],
        });
        let answer = ResponseTemplate::new(200).set_body_json(document);
        Mock::given(any()).respond_with(answer).mount(&provider).await;
    };
    publish("first").await;
    let path = stage.path("found.yaml");
    let iss = provider.uri();
    std::fs::write(&path, format!("issuers: [{{iss: \"{iss}\", discover: true, audiences: [actchain]}}]"))
        .unwrap();
    let run = |args: &[&str]| tokio::task::block_in_place(|| stage.run(args));
    let applied = run(&["apply", "-f", path.to_str().unwrap()]);
    assert!(applied.status.success(), "{}", text(&applied.stderr));
    let before = run(&["doctor"]);
    let out = text(&before.stdout);
    assert!(out.contains(&format!("ok    issuer {iss}: metadata\n")) && !out.contains("warn"), "{out}");
    publish("second").await;
    let after = run(&["doctor"]);
    let out = text(&after.stdout);
    assert!(after.status.success(), "a warning only: {out}");
    let line = format!("warn  issuer {iss}: metadata: its metadata names the jwks_uri \"{iss}/second\"");
    assert!(out.contains(&line) && out.contains(&format!("issuer {iss}: {iss}/first\n")), "{out}");
}

#[test]
fn doctor_names_each_key_of_an_issuer_that_cannot_be_used_by_issuer_and_kid() {
    // RFC 7517 §5: unusable keys are ignored.
    let stage = Stage::new();
    let declare = |algorithms: &str| {
        let small = "A".repeat(170) + "E";
        let yaml = format!(
            r#"issuers:
  - iss: https://keys.example
    audiences: [actchain]
    algorithms: [{algorithms}]
    jwks: {{keys: [
      {{kty: OKP, crv: Ed25519, x: 11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo}},
      {{kty: EC, kid: other-alg, crv: P-256, x: l8tFrhx-34tV3hRICRDY9zCkDlpBhF42UQUfWVAWBFs, y: 9VE4jf_Ok_o64zbTTlcuNJajHmt6v9TDVrU0CdvGRDA}},
      {{kty: EC, kid: wide, crv: P-521, x: AQ, y: AQ}},
      {{kty: RSA, kid: small, n: g{small}, e: AQAB}},
      {{kty: RSA, kid: for-encryption, use: enc, n: AQ, e: AQAB}}]}}
"#
        );
        let path = stage.path("keys.yaml");
        std::fs::write(&path, yaml).unwrap();
        let applied = stage.run(&["apply", "-f", path.to_str().unwrap()]);
        assert!(applied.status.success(), "{}", text(&applied.stderr));
    };
    declare("EdDSA");
    let said = stage.run(&["doctor"]);
    let out = text(&said.stdout);
    assert!(said.status.success(), "a key verifies: {out}");
    for line in [
        "ok    issuer https://keys.example: declared keys\n",
        "warn  issuer https://keys.example: declared keys: key without kid: it has no kid although the set has several keys",
        "warn  issuer https://keys.example: declared keys: key \"other-alg\": the algorithms of this issuer",
        "warn  issuer https://keys.example: declared keys: key \"wide\": its curve is not supported: use P-256 or P-384",
        "warn  issuer https://keys.example: declared keys: key \"small\": it is an RSA key of 1032 bits: use 2048 to 4096",
    ] {
        assert!(out.contains(line), "{line}: {out}");
    }
    assert!(!out.contains("for-encryption"), "{out}");
    declare("RS256");
    let said = stage.run(&["doctor"]);
    let out = text(&said.stdout);
    assert_eq!(said.status.code(), Some(1), "{out}");
    assert!(
        out.contains("WRONG issuer https://keys.example: declared keys: no key verifies a token"),
        "{out}"
    );
}

#[test]
fn clients_keys_and_delegations_have_their_moves() {
    let stage = Stage::new();
    stage.declare();
    drop(stage.serve());
    assert_eq!(stage.json(&["client", "disable", "agent", "--json"])["changed"], true);
    assert_eq!(stage.json(&["client", "disable", "agent", "--json"])["changed"], false);
    assert!(stage.json(&["client", "show", "agent", "--json"])["disabled_at"].is_string());
    assert_eq!(stage.json(&["client", "enable", "agent", "--json"])["changed"], true);
    assert_eq!(stage.run(&["client", "show", "unknown"]).status.code(), Some(1));
    assert_eq!(stage.run(&["client", "rotate-secret", "agent"]).status.code(), Some(1), "it has no secret");
    let keys = stage.json(&["key", "list", "--json"]);
    assert_eq!(keys["items"].as_array().unwrap().len(), 3);
    assert_eq!(
        stage.run(&["key", "rotate"]).status.code(),
        Some(2),
        "the next key was published a moment ago"
    );
    assert!(stage.json(&["key", "rotate", "--force", "--json"])["active"].is_string());
    assert_eq!(stage.json(&["delegation", "show", "D", "--json"])["state"], "active");
    assert_eq!(stage.json(&["delegation", "revoke", "D", "--json"])["state"], "revoked");
    let again = stage.run(&["apply", "-f", stage.path("world.yaml").to_str().unwrap()]);
    assert!(text(&again.stdout).contains("revoked, and stays so"), "{}", text(&again.stdout));
}

#[test]
fn doctor_and_client_show_list_the_exceptions_of_clients() {
    let stage = Stage::new();
    let yaml = "clients:
  - {id: behind-a-gateway, kind: agent, auth: client_secret_basic, secret: gateway-secret-0123456789, token_type: bearer}
  - {id: ordinary, kind: agent, auth: client_secret_basic, secret: ordinary-secret-0123456789}\n";
    let file = stage.path("exceptions.yaml");
    std::fs::write(&file, yaml).unwrap();
    let applied = stage.run(&["apply", "-f", &file.display().to_string()]);
    assert!(applied.status.success(), "{}", text(&applied.stderr));
    let said = stage.run(&["doctor"]);
    let out = text(&said.stdout);
    assert!(said.status.success() && out.contains("behind-a-gateway has token_type: bearer"), "{out}");
    assert!(!out.contains("ordinary has"), "{out}");
    let shown = stage.json(&["client", "show", "behind-a-gateway", "--json"]);
    assert_eq!((&shown["token_type"], &shown["assertion_audience"]), (&json!("bearer"), &json!("issuer")));
}
