//! Mail servers that send too much, nothing, or what a client must not read.

use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::{declaration, declare, last_error, plain, run};
use crate::support::smtp::{SmtpServer, Tls};
use crate::support::world::World;

#[tokio::test(flavor = "multi_thread")]
async fn a_hostile_server_costs_a_limited_number_of_bytes_and_no_more_than_an_attempt() {
    let world = World::new().await;
    // Text with a NUL, a line without an end, replies without an end, and none at all.
    let endless = "x".repeat(64 << 20);
    let many = "220-go on\r\n".repeat(1 << 16);
    for (greeting, expected) in [
        ("500 \0\x1b[2J\r\n".to_owned(), "connecting: "),
        (format!("220 {endless}"), "connecting: "),
        (many, "connecting: "),
        ("\u{fffd}\r\n".to_owned(), "connecting: "),
        (String::new(), "connecting: "),
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("smtp://127.0.0.1:{}", listener.local_addr().unwrap().port());
        declare(&world, &declaration(&url, json!({"encryption": "none"}), json!({}))).await.unwrap();
        world.asked("bob", json!({})).await;
        let text = greeting.clone();
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.write_all(text.as_bytes()).await.is_ok()
        });
        run(&world).await;
        let is_sent = server.await.unwrap();
        assert!(!is_sent || greeting.len() < 1 << 20, "the client hangs up before it has read all");
        let error = last_error(&world).await;
        assert!(error.starts_with(expected) && error.len() <= 200, "{error:?}");
        assert!(!error.contains(['\0', '\x1b']), "{error:?}");
        world.server.pass(3_600);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_says_nothing_is_left_after_ten_seconds() {
    let world = World::new().await;
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("smtp://{}", silent.local_addr().unwrap());
    declare(&world, &declaration(&url, json!({"encryption": "none"}), json!({}))).await.unwrap();
    world.asked("bob", json!({})).await;
    run(&world).await;
    assert_eq!(last_error(&world).await, "no answer in time");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mail_that_was_accepted_is_sent_once_though_the_server_never_ends_the_session() {
    let (world, server) = (World::new().await, SmtpServer::start(Tls::None).await);
    declare(&world, &declaration(&plain(&server), json!({"encryption": "none"}), json!({}))).await.unwrap();
    server.ignores_quit(true);
    world.asked("bob", json!({})).await;
    for _ in 0..2 {
        run(&world).await;
        world.server.pass(60);
    }
    assert_eq!((server.mails().len(), last_error(&world).await), (1, String::new()));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_comes_in_plain_text_behind_the_reply_to_starttls_is_not_read() {
    let world = World::new().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("smtp://127.0.0.1:{}", listener.local_addr().unwrap().port());
    declare(&world, &declaration(&url, json!({}), json!({}))).await.unwrap();
    world.asked("bob", json!({})).await;
    let server = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut command = [0; 512];
        for reply in
            ["220 localhost\r\n", "250-localhost\r\n250 STARTTLS\r\n", "220 go on\r\n250 AUTH PLAIN\r\n"]
        {
            stream.write_all(reply.as_bytes()).await.unwrap();
            assert!(stream.read(&mut command).await.unwrap() > 0);
        }
    });
    run(&world).await;
    server.await.unwrap();
    let error = last_error(&world).await;
    assert!(error.starts_with("STARTTLS: ") && error.contains("more than a reply"), "{error}");
}
