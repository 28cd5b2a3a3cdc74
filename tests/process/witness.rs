//! `actchain audit witness` as a process.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};

use actchain_protocol::base64url;
use actchain_protocol::jose::{SigningAlg, SigningKey};
use actchain_protocol::signed_note::{self, Checkpoint, SignerKind, VerifierKey};

use crate::stage::Stage;

const PROGRAM: &str = env!("CARGO_BIN_EXE_actchain");

/// A running witness; killed when dropped.
struct Witness {
    child: Child,
    key: VerifierKey,
    url: String,
}

impl Drop for Witness {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn start(folder: &std::path::Path, log: &VerifierKey) -> Witness {
    let mut child = Command::new(PROGRAM)
        .args([
            "audit",
            "witness",
            "--name",
            "w.example.com",
            "--listen",
            "127.0.0.1:0",
            "--log",
            &log.text(),
        ])
        .arg("--dir")
        .arg(folder)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let words: Vec<&str> = line.split_whitespace().collect();
    let ["witness", key, "on", url] = words[..] else { panic!("{line}") };
    Witness { child, key: VerifierKey::parse(key).unwrap(), url: url.to_owned() }
}

/// The body of a request for a first checkpoint of this size.
fn request(key: &SigningKey, log: &VerifierKey, size: u64) -> String {
    let text = Checkpoint { origin: log.name().to_owned(), size, root: [7; 32] }.text();
    let line = log.signature_line(&key.sign_raw(text.as_bytes()).unwrap());
    format!("old 0\n\n{}", signed_note::note(&text, &line))
}

async fn post(witness: &Witness, path: &str, body: String) -> (u16, String, String) {
    let answer =
        reqwest::Client::new().post(format!("{}{path}", witness.url)).body(body).send().await.unwrap();
    let kind = answer.headers().get("content-type").map(|kind| kind.to_str().unwrap().to_owned());
    (answer.status().as_u16(), kind.unwrap_or_default(), answer.text().await.unwrap())
}

#[tokio::test]
async fn a_witness_that_was_killed_still_knows_what_it_cosigned() {
    let key = SigningKey::generate(SigningAlg::Ed25519).unwrap().0;
    let x = base64url::decode(key.public_jwk()["x"].as_str().unwrap()).unwrap();
    let log = VerifierKey::new("log.example.com/audit", x.try_into().unwrap()).unwrap();
    let folder = tempfile::tempdir().unwrap();

    let mut witness = start(folder.path(), &log);
    let body = request(&key, &log, 7);
    let (status, _, line) = post(&witness, "/add-checkpoint", body.clone()).await;
    assert_eq!(status, 200, "{line}");
    let note = format!("{}{line}", body.split_once("\n\n").unwrap().1);
    let (text, signatures) = signed_note::parts(&note).unwrap();
    assert!(signatures[1].is_by(&witness.key, &text), "the printed key verifies the cosignature");
    witness.child.kill().unwrap();
    witness.child.wait().unwrap();

    let again = start(folder.path(), &log);
    assert_eq!(again.key, witness.key);
    let conflict = post(&again, "/add-checkpoint", request(&key, &log, 9)).await;
    assert_eq!(conflict, (409, "text/x.tlog.size".to_owned(), "7\n".to_owned()));
    for (path, body, status) in [
        ("/add-checkpoint", String::new(), 400),
        ("/add-checkpoint", "x".repeat(100_000), 413),
        ("/add-checkpoint", body.replace("log.example.com", "other.example.com"), 404),
        ("/add-checkpoint", body.replace("\n7\n", "\n8\n"), 403),
        ("/", String::new(), 404),
    ] {
        assert_eq!(post(&again, path, body).await.0, status, "{path}");
    }
    let get = reqwest::get(format!("{}/add-checkpoint", again.url)).await.unwrap();
    assert_eq!(get.status(), 405);

    let second = Command::new(PROGRAM)
        .args(["audit", "witness", "--listen", "127.0.0.1:0", "--log", &log.text(), "--dir"])
        .arg(folder.path())
        .output()
        .unwrap();
    let complaint = String::from_utf8(second.stderr).unwrap();
    assert_eq!(
        (second.status.code(), complaint.contains("another process uses it")),
        (Some(2), true),
        "{complaint}"
    );
}

#[test]
fn a_log_for_which_no_witness_vouches_is_valid_with_exit_2() {
    let stage = Stage::new();
    stage.declare();
    let key = VerifierKey::of_kind(SignerKind::Witness, "w.example.com", [9; 32]).unwrap().text();
    let verify = |more: &[&str]| {
        let output = stage.run(&[&["audit", "verify"], more].concat());
        let [stdout, stderr] = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap());
        (output.status.code(), stdout, stderr)
    };
    assert_eq!(verify(&[]).0, Some(0), "no witnesses are configured");
    let (code, stdout, _) = verify(&["--witness", &key]);
    assert_eq!(code, Some(2), "{stdout}");
    assert!(stdout.contains("no checkpoint has cosignatures of 1 of the witnesses"), "{stdout}");
    let (code, stdout, _) = verify(&["--witness", &key, "--json"]);
    let report: serde_json::Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(
        (code, &report["valid"], &report["witnessed"]),
        (Some(2), &true.into(), &serde_json::Value::Null)
    );
    for (more, complaint) in [
        (["--witness", "w.example.com"].as_slice(), "is no key of a witness"),
        (&["--witness", &key, "--quorum", "2"], "quorum of 2"),
        (&["--quorum", "1"], "--witness"),
    ] {
        let (code, _, stderr) = verify(more);
        assert_eq!((code, stderr.contains(complaint)), (Some(2), true), "{stderr}");
    }
}
