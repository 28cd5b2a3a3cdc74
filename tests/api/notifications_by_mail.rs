//! Notifications by mail: to declared addresses only, over TLS unless declared otherwise, and limited in time and size.

mod hostile;

use std::sync::Arc;

use actchain::domain::refusal::Error;
use actchain::jobs;
use actchain::services::sinks::{self, InvalidSink, SinkDeclaration};
use actchain_testkit::authority::Authority;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::{Value, json};
use tempfile::NamedTempFile;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::{ServerConfig, crypto};

use crate::support::life::with;
use crate::support::smtp::{SmtpServer, Tls};
use crate::support::world::{IDP, World};

const SINK: &str = "mail";
const CANARY: &str = "canary-of-the-agent";
const PASSWORD: &str = "password-of-the-mail-server";

fn addresses() -> Value {
    json!([
        {"iss": IDP, "sub": "bob", "mail": "bob@example.com"},
        {"iss": IDP, "sub": "carol", "mail": "carol@example.com"},
        {"iss": "https://other.example.com", "sub": "dave", "mail": "dave@example.com"},
    ])
}

fn declaration(url: &str, mail: Value, more: Value) -> SinkDeclaration {
    let mail = with(json!({"from": "actchain <actchain@as.example.com>", "recipients": addresses()}), mail);
    let declared = json!({"id": SINK, "url": url, "notification": {"wait": 0, "mail": mail}});
    serde_json::from_value(with(declared, more)).unwrap()
}

/// An operator declares the sink; the problem of a declaration that is refused.
async fn declare(world: &World, declared: &SinkDeclaration) -> Result<(), String> {
    let server = &world.server;
    let mut connection = server.sql().await;
    actchain::services::keys::ensure_data_key(
        &server.app.pool,
        server.app.vault.keys.master(),
        server.clock.now(),
    )
    .await
    .unwrap();
    match sinks::put(&mut connection, &server.app.vault, declared, server.clock.now()).await {
        Ok(_) => Ok(()),
        Err(InvalidSink::Declaration(why)) => Err(why),
        Err(InvalidSink::Failed(Error::Failed(fault))) => panic!("{fault}"),
        Err(InvalidSink::Failed(Error::Refused(refusal))) => panic!("{}", refusal.sentence()),
    }
}

async fn run(world: &World) -> usize {
    jobs::sinks::run_once(&world.server.app, world.server.clock.now()).await.unwrap()
}

async fn last_error(world: &World) -> String {
    let shown = json!(sinks::show(&world.server.operator(), SINK).await.unwrap());
    shown["last_error"].as_str().unwrap_or_default().to_owned()
}

fn plain(server: &SmtpServer) -> String {
    format!("smtp://127.0.0.1:{}", server.port)
}

/// An acceptor of TLS with the file of its authority.
fn tls() -> (TlsAcceptor, NamedTempFile) {
    let authority = Authority::new();
    let certificate = authority.issue(&["localhost"]);
    let ca_file = NamedTempFile::new().unwrap();
    std::fs::write(ca_file.path(), &authority.pem).unwrap();
    let chain = CertificateDer::from_pem_slice(certificate.certificate.as_bytes()).unwrap();
    let key = PrivateKeyDer::from_pem_slice(certificate.key.as_bytes()).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![chain], key)
        .unwrap();
    (TlsAcceptor::from(Arc::new(config)), ca_file)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mail_to_a_declared_address_has_links_and_no_words_of_the_agent() {
    let (world, server) = (World::new().await, SmtpServer::start(Tls::None).await);
    let mail = json!({"encryption": "none", "to": ["security@example.com", "second@example.com"]});
    declare(&world, &declaration(&plain(&server), mail, json!({}))).await.unwrap();
    let terms = json!({"reason": CANARY, "agent": {"type": CANARY, "model": CANARY}});
    let id = world.asked("bob", terms).await;
    // Without an address, only administrators hear of it.
    let other = world.asked("dave", json!({})).await;
    run(&world).await;
    let mut mails = server.mails();
    mails.sort_by_key(|mail| mail.to.clone());
    let to: Vec<&[String]> = mails.iter().map(|mail| mail.to.as_slice()).collect();
    assert_eq!(to, [["bob@example.com"], ["second@example.com"], ["security@example.com"]]);
    let link = |id: &str| format!("{}/console/approvals/{id}\n", world.server.app.issuer);
    let (bobs, admins) = (&mails[0], &mails[1]);
    assert_eq!(mails[2].body(), admins.body());
    assert_eq!((bobs.from.as_str(), bobs.encrypted), ("actchain@as.example.com", false));
    assert_eq!(bobs.field("From"), "actchain <actchain@as.example.com>");
    assert_eq!(bobs.field("Subject"), "A request waits for your decision");
    assert_eq!(bobs.field("Auto-Submitted"), "auto-generated");
    assert_eq!(bobs.field("Date"), "Thu, 01 Jan 2026 00:00:00 +0000");
    assert!(
        bobs.body().starts_with("The agent user-proxy asks for a delegation. It waits until 2026-"),
        "{}",
        bobs.text
    );
    assert!(bobs.body().contains(&link(&id)) && !bobs.body().contains(&link(&other)), "{}", bobs.text);
    assert_eq!(admins.field("Subject"), "2 requests wait for a decision");
    assert!(admins.body().contains(&link(&id)) && admins.body().contains(&link(&other)), "{}", admins.text);
    assert!(admins.body().contains(&format!("user-proxy asks for a delegation (dave at {IDP}).")));
    for mail in &mails {
        assert!(!mail.text.contains(CANARY), "{}", mail.text);
    }
    let ids: Vec<String> = mails.iter().map(|mail| mail.field("Message-ID")).collect();
    assert!(
        ids[0] != ids[1] && ids[1] != ids[2] && ids.iter().all(|id| id.ends_with("@as.example.com>")),
        "{ids:?}"
    );
    assert_eq!(run(&world).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn more_requests_than_a_mail_names_are_counted_in_it() {
    let config = "[delegations]\nmax_pending_requests = 100\nmax_pending_requests_per_client = 100";
    let (world, server) = (World::configured(config).await, SmtpServer::start(Tls::None).await);
    declare(&world, &declaration(&plain(&server), json!({"encryption": "none"}), json!({}))).await.unwrap();
    for _ in 0..47 {
        world.asked("bob", json!({})).await;
    }
    run(&world).await;
    let mails = server.mails();
    assert_eq!((mails.len(), mails[0].field("Subject").as_str()), (1, "47 requests wait for your decision"));
    let all = format!("And 37 more:\n{}/console/approvals\n", world.server.app.issuer);
    assert!(mails[0].body().contains(&all), "{}", mails[0].text);
}

#[tokio::test(flavor = "multi_thread")]
async fn mail_goes_over_tls_with_a_login_and_not_at_all_without_a_trusted_certificate() {
    let (acceptor, ca_file) = tls();
    let config = format!("[outbound]\nca_file = {:?}", ca_file.path());
    let world = World::configured(&config).await;
    let login = json!({"username": "actchain"});
    let secret_file = NamedTempFile::new().unwrap();
    std::fs::write(secret_file.path(), format!("{PASSWORD}\n")).unwrap();
    for (scheme, offered) in
        [("smtp", Tls::Offered(acceptor.clone())), ("smtps", Tls::FromTheFirstByte(acceptor.clone()))]
    {
        let server = SmtpServer::start(offered).await;
        let url = format!("{scheme}://localhost:{}", server.port);
        let password = json!({"secret_file": secret_file.path()});
        declare(&world, &declaration(&url, login.clone(), password)).await.unwrap();
        world.asked("bob", json!({})).await;
        run(&world).await;
        let mails = server.mails();
        assert_eq!(mails.len(), 1, "{scheme}: {}", last_error(&world).await);
        assert!(mails[0].encrypted);
        assert_eq!(mails[0].login, Some(("actchain".to_owned(), PASSWORD.to_owned())), "{scheme}");
        // The certificate is for `localhost`, and not for its address.
        let url = format!("{scheme}://127.0.0.1:{}", server.port);
        declare(&world, &declaration(&url, login.clone(), json!({}))).await.unwrap();
        world.asked("bob", json!({})).await;
        run(&world).await;
        let error = last_error(&world).await;
        assert!(server.mails().len() == 1 && error.contains("certificate"), "{scheme}: {error}");
        world.server.pass(3_600);
    }
    // Whatever is stored or shown has no password.
    let dump = world.server.dump().await;
    let shown = world.as_admin("GET", "/api/v1/audit-sinks", json!({})).await.text;
    assert!(!dump.contains(PASSWORD) && !shown.contains(PASSWORD));
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_sent_to_a_server_without_tls_unless_that_is_declared() {
    let (world, server) = (World::new().await, SmtpServer::start(Tls::None).await);
    declare(&world, &declaration(&plain(&server), json!({}), json!({}))).await.unwrap();
    world.asked("bob", json!({})).await;
    run(&world).await;
    let error = last_error(&world).await;
    assert!(server.mails().is_empty() && error.starts_with("STARTTLS: "), "{error}");
    declare(&world, &declaration(&plain(&server), json!({"encryption": "none"}), json!({}))).await.unwrap();
    world.server.pass(60);
    run(&world).await;
    assert_eq!(server.mails().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mailbox_that_is_refused_delays_no_other_and_a_wrong_login_delays_all() {
    let config = "[audit]\nsink_attempts = 3";
    let (world, server) = (World::configured(config).await, SmtpServer::start(Tls::None).await);
    declare(&world, &declaration(&plain(&server), json!({"encryption": "none"}), json!({}))).await.unwrap();
    server.replies("bob@example.com", "550-5.1.1 no such user\r\n550 canary");
    world.asked("bob", json!({})).await;
    let seq = world.server.events().await.len() - 1;
    world.asked("carol", json!({})).await;
    for _ in 0..3 {
        run(&world).await;
        world.server.pass(60);
    }
    let to: Vec<String> = server.mails().into_iter().flat_map(|mail| mail.to).collect();
    assert_eq!(to, ["carol@example.com"]);
    assert_eq!(last_error(&world).await, "sending: reply 550", "without the text of the server");
    let event = world.server.last_event().await;
    assert_eq!(event["action"], "admin.sink_dead_letter");
    assert_eq!(event["detail"], json!({"seq": seq, "attempts": 3, "status": 550}));

    let login = json!({"encryption": "none", "username": "actchain"});
    let declared = declaration(&plain(&server), login.clone(), json!({"secret": "wrong-password"}));
    declare(&world, &declared).await.unwrap();
    world.asked("carol", json!({})).await;
    run(&world).await;
    assert_eq!(last_error(&world).await, "authentication: reply 535");
    assert_eq!(run(&world).await, 0, "not before its time");
    declare(&world, &declaration(&plain(&server), login, json!({"secret": PASSWORD}))).await.unwrap();
    world.server.pass(60);
    run(&world).await;
    assert_eq!(server.mails().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_of_administrators_that_is_refused_delays_no_other_and_repeats_none() {
    let config = "[audit]\nsink_attempts = 2";
    let (world, server) = (World::configured(config).await, SmtpServer::start(Tls::None).await);
    let (first, second) = ("first@example.com", "second@example.com");
    // An address that is declared twice gets one mail.
    let mail = json!({"encryption": "none", "to": [first, second, second], "recipients": []});
    declare(&world, &declaration(&plain(&server), mail, json!({}))).await.unwrap();
    server.replies(first, "550 no such user");
    world.asked("bob", json!({})).await;
    let seq = world.server.events().await.len() - 1;
    for _ in 0..3 {
        run(&world).await;
        world.server.pass(60);
    }
    let to = || server.mails().into_iter().flat_map(|mail| mail.to).collect::<Vec<_>>();
    assert_eq!(to(), [second]);
    let event = world.server.last_event().await;
    assert_eq!(event["action"], "admin.sink_dead_letter");
    assert_eq!(event["detail"], json!({"seq": seq, "attempts": 2, "status": 550}));
    // The address is repaired: both hear of the next request.
    server.replies(first, "");
    world.asked("bob", json!({})).await;
    run(&world).await;
    let mut all = to();
    all.sort_unstable();
    assert_eq!(all, [first, second, second]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mail_without_a_reply_is_repeated_with_the_same_id() {
    let (world, server) = (World::new().await, SmtpServer::start(Tls::None).await);
    declare(&world, &declaration(&plain(&server), json!({"encryption": "none"}), json!({}))).await.unwrap();
    world.asked("bob", json!({})).await;
    server.hangs_up(true);
    run(&world).await;
    assert_eq!(last_error(&world).await, "sending: an answer that is not SMTP");
    server.hangs_up(false);
    world.server.pass(60);
    run(&world).await;
    world.server.pass(60);
    run(&world).await;
    let ids: Vec<String> = server.mails().iter().map(|mail| mail.field("Message-ID")).collect();
    assert_eq!((ids.len(), ids[0] == ids[1]), (2, true));
    assert_eq!(last_error(&world).await, "");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_mail_cannot_be_sent_with_is_refused() {
    let world = World::new().await;
    let (smtp, none) = ("smtp://127.0.0.1:2525", json!({"encryption": "none"}));
    for (url, mail, more, why) in [
        ("https://hooks.example.com", json!({}), json!({}), "smtps://host"),
        ("smtps://mail.example.com", none.clone(), json!({}), "smtps://host"),
        ("smtp://10.0.0.1", json!({}), json!({}), "public address"),
        ("smtp://169.254.169.254", json!({}), json!({}), "public address"),
        ("smtp://2852039166", json!({}), json!({}), "public address"),
        ("smtp://user:pw@mail.example.com", json!({}), json!({}), "smtps://host"),
        (smtp, json!({"from": "actchain"}), json!({}), "from is no address"),
        (smtp, json!({"from": "a@example.com\r\nBcc: eve@example.com"}), json!({}), "from is no address"),
        (smtp, json!({"to": ["eve@example.com\r\nDATA"]}), json!({}), "is no address"),
        (smtp, json!({"to": vec!["a@example.com"; 11]}), json!({}), "10 addresses"),
        (smtp, json!({"recipients": [addresses()[0], addresses()[0]]}), json!({}), "twice"),
        (smtp, json!({"username": "actchain"}), json!({}), "needs a secret"),
        (smtp, json!({}), json!({"secret": PASSWORD}), "password of"),
        (smtp, json!({"username": "a\0b"}), json!({"secret": PASSWORD}), "username is no name"),
        (smtp, json!({"username": "a"}), json!({"secret": "a", "secret_file": "b"}), "exclude each other"),
        (
            "smtp://mail.example.com",
            json!({"encryption": "none", "username": "actchain"}),
            json!({"secret": PASSWORD}),
            "without encryption",
        ),
    ] {
        let refused = declare(&world, &declaration(url, mail.clone(), more)).await.unwrap_err();
        assert!(refused.contains(why) && !refused.contains(PASSWORD), "{url} {mail}: {refused}");
    }
    declare(&world, &declaration(smtp, none, json!({}))).await.unwrap();
    let webhook = json!({"id": SINK, "url": "http://127.0.0.1:9/", "notification": {}});
    let webhook: SinkDeclaration = serde_json::from_value(webhook).unwrap();
    assert!(declare(&world, &webhook).await.unwrap_err().contains("remove it first"));
    let rotated = sinks::rotate(&world.server.operator(), &world.server.app.vault, SINK).await;
    assert!(matches!(rotated, Err(Error::Refused(_))));
}

#[tokio::test(flavor = "multi_thread")]
async fn administrators_let_mail_go_to_no_new_address_and_name_no_file() {
    let world = World::new().await;
    let mail =
        json!({"from": "actchain@as.example.com", "encryption": "none", "to": ["security@example.com"]});
    let declared = |mail: &Value, wait: u32| json!({"url": "smtp://127.0.0.1:2525", "notification": {"wait": wait, "mail": mail}});
    let path = format!("/api/v1/audit-sinks/{SINK}");
    let put = async |body: Value| {
        let answer = world.as_admin("PUT", &path, body).await;
        (answer.status, answer.reason().to_owned())
    };
    let left = (403, "operator_only".to_owned());
    assert_eq!(put(declared(&mail, 0)).await, left);
    let manifest = json!({"sinks": [with(declared(&mail, 0), json!({"id": SINK}))]});
    world.server.apply(&manifest.to_string()).await.unwrap();
    assert_eq!(put(declared(&with(mail.clone(), json!({"to": ["eve@example.com"]})), 0)).await, left);
    assert_eq!(put(declared(&with(mail.clone(), json!({"recipients": addresses()})), 0)).await, left);
    let slower = world.as_admin("PUT", &path, declared(&mail, 60)).await.with_status(200).json;
    assert_eq!(
        (&slower["notification"]["wait"], &slower["notification"]["mail"]["to"]),
        (&json!(60), &mail["to"])
    );
    let file = with(declared(&mail, 60), json!({"secret_file": "/etc/passwd"}));
    assert_eq!(put(file).await.0, 400);
    // What is exported can be applied, and changes nothing.
    let exported = world.as_admin("GET", "/api/v1/manifest", Value::Null).await.json;
    assert_eq!(exported["sinks"][0]["notification"], slower["notification"]);
}
