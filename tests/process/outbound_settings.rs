//! What `doctor` and `serve` say about `outbound.allow` and `outbound.ca_file`.

use std::process::Output;

use actchain_testkit::authority::Authority;

use crate::stage::Stage;

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

#[test]
fn doctor_shows_what_can_be_reached_and_serve_refuses_an_unusable_file_of_authorities() {
    let stage = Stage::new();
    let file = stage.path("ca.pem");
    std::fs::write(&file, Authority::new().pem).unwrap();
    let run = |arguments: &[&str]| -> Output {
        let mut command = stage.command();
        command.args(arguments).env("ACTCHAIN_OUTBOUND_ALLOW", "10.0.0.0/8,*.corp.example.com");
        command
            .env("ACTCHAIN_OUTBOUND_CA_FILE", &file)
            .env("ACTCHAIN_LISTEN", "127.0.0.1:0")
            .output()
            .unwrap()
    };
    let said = run(&["doctor", "--init"]);
    let line = format!(
        "ok    outbound: public addresses, 10.0.0.0/8, *.corp.example.com; authorities of the system and of {}\n",
        file.display()
    );
    assert!(said.status.success() && text(&said.stdout).contains(&line), "{}", text(&said.stdout));
    std::fs::write(&file, "not a certificate").unwrap();
    let said = run(&["doctor"]);
    assert_eq!(said.status.code(), Some(1));
    let why = format!("outbound.ca_file {} has no certificate in PEM", file.display());
    assert!(
        text(&said.stdout).contains("WRONG outbound: ") && text(&said.stdout).contains(&why),
        "{}",
        text(&said.stdout)
    );
    let refused = run(&["serve"]);
    assert!(
        refused.status.code() == Some(2) && text(&refused.stderr).contains(&why),
        "{}",
        text(&refused.stderr)
    );
}
