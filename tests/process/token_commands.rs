//! `actchain token …`: what is printed about a token, and which checks are made.

use std::io::ErrorKind;
use std::net::TcpListener;
use std::process::Output;

use actchain_testkit::agent::{ACCESS_TOKEN, EXCHANGE, basic};
use actchain_testkit::request::Request;
use serde_json::{Value, json};

use crate::stage::{MAIL, Server, Servers, Stage, now, send};

const EXAMPLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/first-exchange.yaml");

fn text(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// A server whose issuer is its address, with the agents of the README.
fn readme(stage: &Stage) -> Server {
    let server = stage.serve_under(&stage.data_dir(), None).unwrap();
    // The example contains the address that the README uses.
    let example = std::fs::read_to_string(EXAMPLE).unwrap().replace("http://127.0.0.1:8080", &server.base);
    std::fs::write(stage.path("example.yaml"), example).unwrap();
    let applied = stage.command().args(["apply", "-f", "example.yaml"]).output().unwrap();
    assert!(applied.status.success(), "{}", String::from_utf8_lossy(&applied.stderr));
    server
}

async fn token(server: &Server, client: &str, form: &[(&str, &str)]) -> String {
    let secret = basic(client, &format!("{client}-secret-0123456789"));
    let request = Request::to(&Servers).header("authorization", secret);
    let request = form.iter().fold(request, |request, (name, value)| request.param(name, value));
    request.send_to(&server.base).await.unwrap().token().to_owned()
}

async fn second_hop(server: &Server) -> String {
    let first = token(server, "assistant", &[("grant_type", "client_credentials")]).await;
    let form = [("grant_type", EXCHANGE), ("subject_token", &first), ("subject_token_type", ACCESS_TOKEN)];
    token(server, "mail-bot", &form).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_verified_against_the_server_and_its_status_list() {
    let stage = Stage::new();
    let server = readme(&stage);
    let token = second_hop(&server).await;
    let verify = |more: &[&str]| {
        let output = stage.command().args(["token", "verify", &token]).args(more).output().unwrap();
        (output.status.code(), text(&output))
    };
    let (code, said) = verify(&["--audience", MAIL]);
    assert_eq!((code, said.lines().last()), (Some(0), Some("valid")), "{said}");
    for what in ["checked     type", "checked     issuer", "checked     signature", "checked     times"] {
        assert!(said.contains(what), "{what}: {said}");
    }
    assert!(said.contains("checked     status: valid") && said.contains("not checked the sender"), "{said}");
    assert_eq!(verify(&["--audience", "https://other.example.com"]).0, Some(1));
    let revoked = stage.command().args(["delegation", "revoke", "assistant-to-mail-bot"]).output().unwrap();
    assert!(revoked.status.success(), "{}", String::from_utf8_lossy(&revoked.stderr));
    let (code, said) = verify(&[]);
    assert!(code == Some(1) && said.contains("it was revoked"), "{said}");
    let (code, said) = verify(&["--json"]);
    let said: Value = serde_json::from_str(&said).unwrap();
    assert_eq!((code, &said["valid"]), (Some(1), &json!(false)));
    assert!(said["checked"].as_array().is_some_and(|list| list.len() >= 4), "{said}");
    // Without the server, the token cannot be checked.
    drop(server);
    let (code, said) = verify(&[]);
    assert_eq!((code, said.as_str()), (Some(2), ""));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_of_another_issuer_is_refused_and_nothing_is_fetched_from_where_it_says() {
    let stage = Stage::new();
    let _server = readme(&stage);
    let trap = TcpListener::bind("127.0.0.1:0").unwrap();
    trap.set_nonblocking(true).unwrap();
    let elsewhere = format!("http://{}", trap.local_addr().unwrap());
    let claims = json!({
        "iss": elsewhere, "sub": "alice", "aud": MAIL, "client_id": "a", "iat": now(), "exp": now() + 600,
        "jti": "1", "txn": "1", "scope": "mail.read",
    });
    let token = stage.idp.sign("at+jwt", &claims).unwrap();
    let output = stage.command().args(["token", "verify", &token]).output().unwrap();
    let said = text(&output);
    assert!(output.status.code() == Some(1) && said.contains("--issuer"), "{said}");
    assert_eq!(trap.accept().unwrap_err().kind(), ErrorKind::WouldBlock, "nothing was fetched");
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_from_a_file_verify_offline_and_what_was_not_checked_is_said() {
    let stage = Stage::new();
    let server = stage.serve();
    stage.declare();
    let (_, answer) = send(&server.base, &stage.exchange()).await.unwrap();
    let token = answer["access_token"].as_str().unwrap();
    let jwks = stage.path("jwks.json");
    let published = reqwest::get(format!("{}/oauth/jwks", server.base)).await.unwrap();
    std::fs::write(&jwks, published.text().await.unwrap()).unwrap();
    drop(server);
    let verify = |token: &str, more: &[&str]| {
        let arguments = [&["token", "verify", token, "--jwks", jwks.to_str().unwrap()], more].concat();
        let output = stage.run(&arguments);
        (output.status.code().unwrap(), text(&output))
    };
    let (code, said) = verify(token, &["--audience", MAIL]);
    assert!(
        code == 0 && said.contains("not checked status") && said.contains("not checked issuer"),
        "{said}"
    );
    assert!(said.contains("only a DPoP proof shows it"), "{said}");
    assert_eq!(verify(token, &["--audience", "https://other.example.com"]).0, 1);
    assert_eq!(verify(token, &["--issuer", "https://other.example.com"]).0, 1);
    let (head, signature) = token.rsplit_once('.').unwrap();
    let forged = format!("{head}.{}{}", if signature.starts_with('A') { 'B' } else { 'A' }, &signature[1..]);
    assert_eq!(verify(&forged, &[]).0, 1);
    assert_eq!(verify("nonsense", &[]).0, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn inspection_draws_the_chain_and_claims_nothing_about_tokens_of_others() {
    let stage = Stage::new();
    let server = stage.serve();
    stage.declare();
    let (_, answer) = send(&server.base, &stage.exchange()).await.unwrap();
    let inspect = |token: &str| text(&stage.run(&["token", "inspect", token]));
    let shown = inspect(answer["access_token"].as_str().unwrap());
    assert!(shown.contains("alice (https://idp.example.com)") && shown.contains("└─ agent"), "{shown}");
    let shown = inspect(&stage.users_token());
    assert!(shown.contains("alice (https://idp.example.com)") && !shown.contains("client of"), "{shown}");
    let list = stage.idp.sign("statuslist+jwt", &json!({"sub": "https://as.example.com/list/1"})).unwrap();
    assert!(inspect(&list).contains("subject     https://as.example.com/list/1\n"), "{}", inspect(&list));
}

#[tokio::test(flavor = "multi_thread")]
async fn explanations_name_the_check_that_fails_and_record_nothing() {
    let stage = Stage::new();
    let server = stage.serve();
    stage.declare();
    let user = stage.users_token();
    let size = || stage.json(&["audit", "verify", "--json"])["events"].clone();
    let before = size();
    let explain = |token: &str, more: &[&str]| {
        let output = stage.run(&[&["token", "explain", token, "--client", "agent", "--json"], more].concat());
        let said: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        (output.status.code().unwrap(), said)
    };
    let (code, granted) = explain(&user, &[]);
    assert_eq!((code, &granted["granted"], &granted["scope"]), (0, &json!(true), &json!("mail.read")));
    assert_eq!((&granted["subject"]["sub"], &granted["delegation_path"]), (&json!("alice"), &json!(["D"])));
    let claims = |change: fn(&mut Value)| {
        let mut claims = json!({
            "iss": "https://idp.example.com", "sub": "alice", "aud": "actchain", "iat": now(), "exp": now() + 600,
        });
        change(&mut claims);
        stage.idp.sign("JWT", &claims).unwrap()
    };
    let (head, _) = user.rsplit_once('.').unwrap();
    let (_, others) =
        stage.users_token().rsplit_once('.').map(|(a, b)| (a.to_owned(), b.to_owned())).unwrap();
    for (token, cause) in [
        (claims(|claims| claims["iss"] = json!("https://other.example.com")), "issuer_unknown"),
        (claims(|claims| claims["aud"] = json!("somewhere")), "audience"),
        (claims(|claims| claims["exp"] = json!(now() - 3_600)), "expired"),
        (claims(|claims| claims["iat"] = json!(now() + 3_600)), "not_yet_valid"),
        (claims(|claims| claims["events"] = json!({})), "wrong_kind"),
        (format!("{head}x.{others}"), "malformed"),
    ] {
        let (code, said) = explain(&token, &["--type", "jwt"]);
        assert_eq!(
            (code, &said["reason"], &said["cause"]),
            (1, &json!("subject_token_invalid"), &json!(cause))
        );
    }
    let (code, said) = explain(&user, &["--scope", "mail.send"]);
    assert_eq!((code, said["granted"] == json!(false)), (1, true), "{said}");
    stage.json(&["delegation", "revoke", "D", "--json"]);
    assert_eq!(explain(&user, &[]).1["reason"], "delegation_revoked");
    let other = stage.run(&["token", "explain", &user, "--client", "unknown", "--json"]);
    assert_eq!(other.status.code(), Some(1));
    // One more event: the revocation.
    assert_eq!(size().as_u64(), before.as_u64().map(|events| events + 1));
    drop(server);
}
