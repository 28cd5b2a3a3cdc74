//! `actchain principal erase`: what it needs, what it leaves, and exit codes.

use serde_json::{Value, json};

use crate::stage::{Stage, complaints};

const IDP: &str = "https://idp.example.com";

/// Exit code, standard output and standard error of `actchain principal erase`.
fn erase(stage: &Stage, who: [&str; 2], more: &[&str]) -> (i32, String, String) {
    let output = stage.run(&[&["principal", "erase"], &who[..], more].concat());
    let code = output.status.code().unwrap();
    (code, String::from_utf8(output.stdout).unwrap(), complaints(&output.stderr))
}

/// The same with `--json`.
fn erase_json(stage: &Stage, who: [&str; 2]) -> (i32, Value) {
    let (code, out, err) = erase(stage, who, &["--yes", "--json"]);
    (code, serde_json::from_str(&out).unwrap_or_else(|_| panic!("{out}{err}")))
}

/// The export of the whole log.
fn exported(stage: &Stage, name: &str) -> String {
    let file = stage.path(name);
    let output = stage.run(&["audit", "export", "--out", file.to_str().unwrap()]);
    assert!(output.status.success(), "{}", complaints(&output.stderr));
    std::fs::read_to_string(&file).unwrap()
}

#[test]
fn an_erased_user_is_in_no_export_of_the_log_that_still_verifies() {
    let stage = Stage::new();
    let _server = stage.serve();
    stage.declare();
    let bob = [IDP, "bob-of-the-erasure"];
    let asked = stage.json(&[
        "delegation",
        "request",
        "--delegate",
        "agent",
        "--delegator-iss",
        IDP,
        "--delegator",
        bob[1],
        "--scope",
        "mail.read",
        "--expires-in",
        "600",
        "--reason",
        "Bob is on holiday",
        "--json",
    ]);
    let before = exported(&stage, "before.jsonl");

    let (code, in_use) = erase_json(&stage, bob);
    assert_eq!((code, &in_use["state"], &in_use["active"]["delegations"]), (1, &json!("in_use"), &json!(1)));
    stage.json(&["delegation", "revoke", asked["id"].as_str().unwrap(), "--json"]);

    let (code, _, usage) = erase(&stage, bob, &[]);
    assert_eq!(code, 2, "{usage}");
    assert!(usage.contains("--yes"), "{usage}");
    let (code, out, err) = erase(&stage, ["https://idp.example.org", bob[1]], &["--yes"]);
    assert_eq!((code, out.as_str()), (1, ""), "a mistyped issuer is not an erased user");
    assert!(err.starts_with("actchain: delegator_unknown: "), "{err}");

    let (code, erased) = erase_json(&stage, bob);
    assert_eq!((code, &erased["state"]), (0, &json!("erased")), "{erased}");
    let pseudonym = erased["pseudonym"].as_str().unwrap();
    let after = exported(&stage, "after.jsonl");
    for export in [&before, &after] {
        assert!(export.contains(pseudonym) && !export.contains(bob[1]) && !export.contains("holiday"));
    }
    assert!(after.contains("principal.erased"));
    let verified = stage.json(&["audit", "verify", "--json"]);
    assert_eq!(verified["valid"], true, "{verified}");
    let (code, again) = erase_json(&stage, bob);
    assert_eq!((code, again), (0, json!({"state": "not_in_log"})));
}
