//! Clients of HTTP/1.0, such as reverse proxies with default settings: HTTP/1.0 has no transfer codings (RFC 9112
//! §6.1).

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::support::management::Api;
use crate::support::vault_proxy_world::Vaulted;
use crate::support::world::World;

async fn open(world: &World, text: &str) -> TcpStream {
    let mut stream = TcpStream::connect(world.server.app.config.listen).await.unwrap();
    stream.write_all(text.as_bytes()).await.unwrap();
    stream
}

/// The complete response, up to the end of the connection: head and body.
async fn all(mut stream: TcpStream) -> (String, String) {
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    (head.to_ascii_lowercase(), body.to_owned())
}

#[track_caller]
fn assert_ends_with_the_connection(head: &str) {
    assert!(head.starts_with("http/1.0 200 ok"), "{head}");
    for name in ["transfer-encoding", "content-length", "keep-alive"] {
        assert!(!head.contains(name), "{name}: {head}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_for_http_1_0_has_no_transfer_coding() {
    let world = World::new().await;
    world.third_hop().await;
    let token = world.management_token(&world.admin).await;
    let export = |version: &str, more: &str| {
        let api = Api::get(&world.server, "/api/v1/audit-logs/export").client(&world.admin, &token);
        api.text(version, more)
    };
    let (head, body) = all(open(&world, &export("HTTP/1.0", "")).await).await;
    assert_ends_with_the_connection(&head);
    assert!(body.ends_with('\n') && body.lines().all(|line| line.starts_with('{')), "{body}");
    let (head, _) = all(open(&world, &export("HTTP/1.0", "Connection: keep-alive\r\n")).await).await;
    assert_ends_with_the_connection(&head);
    let (head, _) = all(open(&world, &export("HTTP/1.1", "Connection: close\r\n")).await).await;
    assert!(head.contains("transfer-encoding: chunked"), "{head}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_for_http_1_0_has_no_transfer_coding() {
    let world = World::new().await;
    let token = world.management_token(&world.admin).await;
    let api = Api::get(&world.server, "/api/v1/audit-logs/stream?from_seq=0").client(&world.admin, &token);
    let mut stream = open(&world, &api.text("HTTP/1.0", "")).await;
    let mut text = Vec::new();
    while !String::from_utf8_lossy(&text).contains("data: ") {
        assert_ne!(stream.read_buf(&mut text).await.unwrap(), 0, "{}", String::from_utf8_lossy(&text));
    }
    let text = String::from_utf8(text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    assert_ends_with_the_connection(&head.to_ascii_lowercase());
    assert!(body.starts_with("retry: "), "{body}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_through_the_proxy_for_http_1_0_has_no_transfer_coding() {
    let vault = Vaulted::new().await;
    let connection = vault.by_key().await;
    let token = vault.token(&connection).await;
    let path = vault.path(&connection, "/v1/stream");
    vault.upstream.go_on.add_permits(1);
    let fields = vault.fields(&vault.courier, &token, ("GET", &path));
    let fields: String = fields.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let answer = vault.raw(&format!("GET {path} HTTP/1.0\r\nHost: x\r\n{fields}\r\n")).await;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert_ends_with_the_connection(&head.to_ascii_lowercase());
    assert_eq!(body, "firstsecond");
}
