//! Proxy mode of the vault: an agent's request is sent with a credential that the agent never sees, if provider and
//! delegation both allow it. The request is not sent without its audit event.

use base64::Engine as _;
use futures_util::{StreamExt as _, stream};
use serde_json::{Value, json};

use crate::support::agent::{ACCESS_TOKEN, basic};
use crate::support::management::Api;
use crate::support::vault_proxy_world::{ACCESS, KEY, PASSWORD, Vaulted};

/// Waits until the condition is true.
async fn until(done: impl Fn() -> bool) {
    while !done() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_kind_of_credential_goes_where_its_provider_wants_it() {
    let vault = Vaulted::new().await;
    let pair = base64::engine::general_purpose::STANDARD.encode(format!("alice:{PASSWORD}"));
    for (provider, credential, (name, value)) in [
        ("api", json!({"key": KEY}), ("x-api-key", KEY.to_owned())),
        ("schemed", json!({"key": KEY}), ("authorization", format!("Token {KEY}"))),
        (
            "named",
            json!({"username": "alice", "password": PASSWORD}),
            ("authorization", format!("Basic {pair}")),
        ),
        ("oauth", json!({"access_token": ACCESS}), ("authorization", format!("Bearer {ACCESS}"))),
    ] {
        let connection = vault.connect(provider, credential).await;
        let token = vault.token(&connection).await;
        let answer =
            vault.send(&token, ("GET", &vault.path(&connection, "/v1/me?fields=a%20b&x=../y"))).await;
        assert_eq!((answer.status, answer.text.as_str()), (200, r#"{"ok":true}"#), "{provider}");
        assert_eq!(answer.header("proxy-status"), Some("actchain; received-status=200"));
        assert_eq!(answer.header("cache-control"), Some("no-store"));
        assert_eq!(answer.header("content-type"), Some("application/json"));
        let received = vault.upstream.last();
        assert_eq!(received.line(), "GET /v1/me?fields=a%20b&x=../y HTTP/1.1");
        assert_eq!(received.all(name), [value], "{provider}");
        assert_eq!(received.all("host"), [vault.upstream.authority.as_str()]);
        assert_eq!(received.all("via"), ["1.1 actchain"]);
        assert!(received.all("transfer-encoding").is_empty() && received.all("content-length").is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_of_the_agent_itself_goes_out() {
    let vault = Vaulted::new().await;
    let connection = vault.by_key().await;
    let token = vault.token(&connection).await;
    let request = vault.request(&token, ("POST", &vault.path(&connection, "/v1/x")));
    let dropped = [
        ("cookie", "session_id=1"),
        ("x-api-key", "of-the-agent"),
        ("proxy-authorization", "Basic eDp5"),
        ("forwarded", "for=192.0.2.1"),
        ("x-forwarded-for", "192.0.2.1"),
        ("x-forwarded-host", "evil.example"),
        ("x-real-ip", "192.0.2.1"),
        ("connection", "x-hop, x-api-key"),
        ("x-hop", "1"),
        ("te", "trailers"),
        ("upgrade", "websocket"),
        ("x-http-method-override", "DELETE"),
        ("x-http_method-override", "DELETE"),
        ("x_http_method_override", "DELETE"),
        ("x-original-url", "/admin"),
        ("x-original-uri", "/admin"),
        ("x_original_uri", "/admin"),
        ("x-accel-redirect", "/admin"),
        ("x-sendfile", "/etc/passwd"),
        ("x_forwarded_for", "192.0.2.1"),
        ("true-client-ip", "192.0.2.1"),
        ("content_type", "text/html"),
        ("origin", "https://evil.example"),
        ("x-anything", "1"),
    ];
    let kept = [
        ("idempotency-key", "once"),
        ("accept", "text/plain"),
        ("accept-encoding", "br"),
        ("user-agent", "courier/1"),
        ("if-none-match", "\"1\""),
        ("x-request-id", "of-the-agent"),
    ];
    let request =
        dropped.iter().chain(&kept).fold(request, |request, (name, value)| request.header(*name, *value));
    let answer = request.body("hello").send().await.unwrap();
    assert_eq!(answer.status(), 200);
    let received = vault.upstream.last();
    assert_eq!((received.body.as_slice(), received.all("content-length")), (&b"hello"[..], vec!["5"]));
    assert_eq!(received.all("x-api-key"), [KEY]);
    assert!(!received.head.contains(&token) && !received.head.to_lowercase().contains("dpop"));
    for name in ["authorization", "dpop"].into_iter().chain(dropped.map(|(name, _)| name)) {
        assert!(name == "x-api-key" || received.all(name).is_empty(), "{name}: {}", received.head);
    }
    for (name, value) in kept {
        assert_eq!(received.all(name), [value], "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_comes_back_without_the_credential_and_without_what_is_not_the_agents() {
    let vault = Vaulted::new().await;
    let connection = vault.connect("named", json!({"username": "alice", "password": PASSWORD})).await;
    let token = vault.token(&connection).await;
    let credential = basic("alice", PASSWORD);
    vault.upstream.will_answer(
        &format!(
            "401 Unauthorized\r\nX-Echo: {credential}\r\nX-Password: is {PASSWORD}.\r\nSet-Cookie: s=1\r\n\
             WWW-Authenticate: Basic realm=x\r\nAccess-Control-Allow-Origin: *\r\nStrict-Transport-Security: max-age=9\r\n\
             Refresh: 0; url=https://evil.example/\r\nX-Accel-Redirect: /internal\r\nX-Sendfile: /etc/passwd\r\nX_Odd: 1\r\n\
             Content-Location: https://evil.example/\r\nProxy-Authenticate: Basic\r\nDPoP-Nonce: theirs\r\nConnection: X-Hop\r\nX-Hop: 1\r\nETag: \"1\"\r\n\
             Cache-Control: max-age=60\r\nContent-Encoding: x-odd\r\nX-Many: 1\r\nX-Many: 2"
        ),
        "not you",
    );
    let pair = credential.strip_prefix("Basic ").unwrap();
    assert_ne!(pair, base64::engine::general_purpose::STANDARD.encode(format!("alice:{PASSWORD}")));
    let answer = vault.send(&token, ("GET", &vault.path(&connection, "/v1/x"))).await;
    assert_eq!((answer.status, answer.text.as_str()), (401, "not you"), "it is passed on as it is");
    for name in [
        "x-password",
        "set-cookie",
        "www-authenticate",
        "access-control-allow-origin",
        "strict-transport-security",
        "proxy-authenticate",
        "dpop-nonce",
        "x-hop",
        "refresh",
        "x-accel-redirect",
        "x-sendfile",
        "x_odd",
        "content-location",
    ] {
        assert_eq!(answer.header(name), None, "{name}");
    }
    assert_eq!((answer.header("etag"), answer.header("cache-control")), (Some("\"1\""), Some("max-age=60")));
    assert_eq!(
        (answer.header("content-encoding"), answer.header("content-length")),
        (Some("x-odd"), Some("7"))
    );
    assert_eq!(answer.headers.get_all("x-many").iter().count(), 2);
    let sent = vault.upstream.last();
    let sent = sent.all("authorization")[0].to_owned();
    vault.upstream.will_answer(&format!("200 OK\r\nX-Echo: a {sent} b\r\nLocation: /?t={}", &sent[6..]), "");
    let answer = vault.send(&token, ("GET", &vault.path(&connection, "/v1/x"))).await;
    assert_eq!((answer.status, answer.header("x-echo"), answer.header("location")), (200, None, None));
    assert!(!format!("{:?}", answer.headers).contains(&sent[6..]));
    // No part of it is in the log.
    let log = json!(vault.world.server.events().await).to_string();
    assert!(!log.contains(PASSWORD) && !log.contains(&sent[6..]));
}

#[tokio::test(flavor = "multi_thread")]
async fn header_fields_that_a_provider_declares_go_out_too() {
    let vault = Vaulted::configured("", ", request_headers: [Notion-Version, X-Api-Version]").await;
    let connection = vault.by_key().await;
    let token = vault.token(&connection).await;
    let request = vault.request(&token, ("GET", &vault.path(&connection, "/v1/x")));
    let request = request.header("notion-version", "2026-03-11").header("notion_version", "1");
    let answer = request.header("x-api-version", "3").header("x-other", "1").send().await.unwrap();
    assert_eq!(answer.status(), 200);
    let received = vault.upstream.last();
    assert_eq!(
        (received.all("notion-version"), received.all("x-api-version")),
        (vec!["2026-03-11"], vec!["3"])
    );
    assert!(received.all("x-other").is_empty() && received.all("notion_version").is_empty());
}

/// RFC 9112 §6.3: two readers can interpret ambiguous framing differently.
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_whose_end_can_be_read_in_two_ways_is_none() {
    let vault = Vaulted::new().await;
    let connection = vault.by_key().await;
    let token = vault.token(&connection).await;
    let path = vault.path(&connection, "/v1/x");
    for framing in [
        "Transfer-Encoding: chunked\r\nContent-Length: 5",
        "Content-Length: 5\r\nTransfer-Encoding: chunked",
        "Content-Length: 5\r\nTransfer-Encoding: identity",
        "Content-Length: 5\r\nContent-Length: 5",
        "Content-Length: 5\r\nContent-Length: 6",
        "Transfer-Encoding: gzip, chunked",
        "Transfer-Encoding: xchunked",
    ] {
        vault.upstream.will_answer_raw(&format!("200 OK\r\n{framing}\r\n\r\n5\r\nfirst\r\n0\r\n\r\n"));
        let answer = vault.send(&token, ("GET", &path)).await;
        assert_eq!((answer.status, answer.reason()), (502, "proxy_upstream_failed"), "{framing}");
    }
    vault.upstream.will_answer_raw("200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n0\r\n\r\n");
    assert_eq!(vault.send(&token, ("GET", &path)).await.text, "first");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_path_that_is_dots_and_slashes_to_some_is_not_passed_on() {
    let vault = Vaulted::configured("", ", paths: [/v1/]").await;
    let connection = vault.by_key().await;
    let token = vault.token(&connection).await;
    let before = vault.upstream.received().len();
    for path in [
        "/v1/%EF%BC%8E%EF%BC%8E%EF%BC%8Fadmin",
        "/v1/%EF%BC%8E%EF%BC%8E/admin",
        "/v1/a%EF%BC%BC..%EF%BC%BCadmin",
        "/v1/%EF%BC%852e%EF%BC%852e/admin",
        "/v1/%E2%80%A5/admin",
    ] {
        let answer = vault.send(&token, ("GET", &vault.path(&connection, path))).await;
        assert_eq!((answer.status, answer.reason()), (403, "proxy_forbidden"), "{path}");
    }
    assert_eq!(vault.upstream.received().len(), before);
    let other = vault.path(&connection, "/v1/%E6%97%A5%E6%9C%AC");
    assert_eq!(vault.send(&token, ("GET", &other)).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn redirects_are_not_followed_and_lead_nowhere_else() {
    let vault = Vaulted::new().await;
    let connection = vault.by_key().await;
    let token = vault.token(&connection).await;
    let own = format!("http://{}/v2", vault.upstream.authority);
    for (location, kept) in [
        ("/v2", true),
        (own.as_str(), true),
        ("https://evil.example/", false),
        ("//evil.example/", false),
        ("http://127.0.0.1:1/", false),
    ] {
        let before = vault.upstream.received().len();
        vault.upstream.will_answer(&format!("302 Found\r\nLocation: {location}"), "");
        let answer = vault.send(&token, ("GET", &vault.path(&connection, "/v1/x"))).await;
        assert_eq!((answer.status, answer.header("location")), (302, kept.then_some(location)));
        assert_eq!(vault.upstream.received().len(), before + 1, "{location}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn all_methods_but_trace_and_their_bodiless_answers_pass() {
    let vault = Vaulted::new().await;
    let connection = vault.by_key().await;
    let token = vault.token(&connection).await;
    let path = vault.path(&connection, "/v1/x");
    for method in ["GET", "POST", "PUT", "PATCH", "DELETE"] {
        let answer = vault.send(&token, (method, &path)).await;
        assert_eq!((answer.status, answer.text.as_str()), (200, r#"{"ok":true}"#), "{method}");
        assert_eq!(vault.upstream.last().line(), format!("{method} /v1/x HTTP/1.1"));
    }
    let head = vault.send(&token, ("HEAD", &path)).await;
    assert_eq!((head.status, head.header("content-length"), head.text.as_str()), (200, Some("11"), ""));
    for (status, line) in [(204, "204 No Content"), (304, "304 Not Modified\r\nETag: \"1\"")] {
        let answer = format!("{line}\r\nX-Y: z");
        vault.upstream.will_answer(&answer, "");
        let answer = vault.send(&token, ("GET", &path)).await;
        assert_eq!((answer.status, answer.header("x-y"), answer.text.as_str()), (status, Some("z"), ""));
    }
    let before = vault.upstream.received().len();
    for method in ["TRACE", "OPTIONS", "PROPFIND"] {
        let answer = vault.send(&token, (method, &path)).await;
        assert_eq!((answer.status, answer.header("allow")), (405, Some("GET, POST, PUT, PATCH, DELETE")));
    }
    assert_eq!(vault.upstream.received().len(), before);
    assert!(
        vault
            .events_of("vault.proxy.answered", 8)
            .await
            .iter()
            .all(|event| event["detail"]["ended"] == "complete")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_are_streamed_both_ways() {
    let vault = Vaulted::new().await;
    let connection = vault.by_key().await;
    let token = vault.token(&connection).await;
    let (sender, receiver) = tokio::sync::mpsc::channel::<Vec<u8>>(1);
    let chunks = stream::unfold(receiver, async |mut receiver| {
        receiver.recv().await.map(|chunk| (Ok::<_, std::io::Error>(chunk), receiver))
    });
    let request = vault.request(&token, ("POST", &vault.path(&connection, "/v1/x")));
    let request = tokio::spawn(request.body(reqwest::Body::wrap_stream(chunks)).send());
    sender.send(vec![b'a'; 100_000]).await.unwrap();
    let arrived = || vault.upstream.received().last().map_or(0, |received| received.body.len());
    until(|| arrived() >= 100_000).await;
    sender.send(vec![b'b'; 100_000]).await.unwrap();
    drop(sender);
    assert_eq!(request.await.unwrap().unwrap().status(), 200);
    assert!(arrived() >= 200_000);

    let answer = vault.request(&token, ("GET", &vault.path(&connection, "/v1/stream"))).send().await.unwrap();
    let mut body = answer.bytes_stream();
    assert_eq!(&body.next().await.unwrap().unwrap()[..], b"first");
    vault.upstream.go_on.add_permits(1);
    assert_eq!(&body.next().await.unwrap().unwrap()[..], b"second");
    assert!(body.next().await.is_none());
    let answered = vault.events_of("vault.proxy.answered", 2).await;
    assert_eq!(
        (&answered[1]["detail"]["bytes"], &answered[1]["detail"]["ended"]),
        (&json!(11), &json!("complete"))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_have_limits() {
    let vault =
        Vaulted::configured("[vault]\nproxy_max_request_bytes = 1000\nproxy_max_response_bytes = 20000", "")
            .await;
    let connection = vault.by_key().await;
    let token = vault.token(&connection).await;
    let path = vault.path(&connection, "/v1/x");
    let exact = vault.request(&token, ("POST", &path)).body(vec![b'x'; 1000]).send().await.unwrap();
    assert_eq!(exact.status(), 200);
    let before = vault.upstream.received().len();
    let large = vault.request(&token, ("POST", &path)).body(vec![b'x'; 1001]).send().await.unwrap();
    assert_eq!((large.status().as_u16(), vault.upstream.received().len()), (413, before), "not even begun");
    let chunks = stream::iter((0..20).map(|_| Ok::<_, std::io::Error>(vec![b'x'; 100])));
    let request = vault.request(&token, ("POST", &path)).body(reqwest::Body::wrap_stream(chunks));
    let large = crate::support::Answer::read(request.send().await.unwrap()).await;
    assert_eq!((large.status, large.reason()), (413, "request_too_large"));
    until(|| vault.upstream.hung_up() == 1).await;

    let endless =
        vault.request(&token, ("GET", &vault.path(&connection, "/v1/endless"))).send().await.unwrap();
    assert_eq!(endless.status(), 200);
    assert!(endless.bytes().await.is_err(), "a truncated body does not end like a complete one");
    until(|| vault.upstream.hung_up() == 2).await;
    vault.upstream.will_answer("200 OK", &"x".repeat(20_001));
    let long = vault.send(&token, ("GET", &path)).await;
    assert_eq!((long.status, long.reason()), (502, "proxy_upstream_failed"));
    vault.upstream.will_answer("200 OK", &"x".repeat(20_000));
    assert_eq!(vault.send(&token, ("GET", &path)).await.text.len(), 20_000);
    let answered = vault.events_of_any(&["vault.proxy.answered", "vault.proxy.failed"], 5).await;
    assert!(
        answered[2]["detail"]["bytes"].as_u64().unwrap() <= 20_000,
        "cut at the limit, and not by the clock"
    );
    let logged: Vec<_> =
        answered.iter().map(|event| (event["reason"].clone(), event["detail"]["ended"].clone())).collect();
    assert_eq!(
        logged,
        [
            (Value::Null, json!("complete")),
            (json!("request_too_large"), Value::Null),
            (Value::Null, json!("cut")),
            (json!("proxy_upstream_failed"), Value::Null),
            (Value::Null, json!("complete")),
        ]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_breaks_off_is_not_passed_on_as_a_whole() {
    let vault = Vaulted::new().await;
    let connection = vault.by_key().await;
    let token = vault.token(&connection).await;
    let path = vault.path(&connection, "/v1/x");
    for (framing, part) in
        [("Content-Length: 100", "0123456789"), ("Transfer-Encoding: chunked", "a\r\n0123456789\r\n")]
    {
        let hung_up = vault.upstream.hung_up();
        let fields = vault
            .fields(&vault.courier, &token, ("POST", &path))
            .map(|(name, value)| format!("{name}: {value}"));
        let request =
            format!("POST {path} HTTP/1.1\r\nHost: x\r\n{}\r\n{framing}\r\n\r\n{part}", fields.join("\r\n"));
        let mut stream = tokio::net::TcpStream::connect(vault.world.server.app.config.listen).await.unwrap();
        tokio::io::AsyncWriteExt::write_all(&mut stream, request.as_bytes()).await.unwrap();
        until(|| {
            let received = vault.upstream.received();
            received.len() == hung_up + 1
                && received[hung_up].body.windows(10).any(|part| part == b"0123456789")
        })
        .await;
        drop(stream);
        until(|| vault.upstream.hung_up() == hung_up + 1).await;
        assert!(!vault.upstream.last().body.ends_with(b"0\r\n\r\n"), "{framing}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_that_hangs_up_closes_the_upstream_connection() {
    let vault = Vaulted::new().await;
    let connection = vault.by_key().await;
    let token = vault.token(&connection).await;
    let request = vault.request(&token, ("GET", &vault.path(&connection, "/v1/silent")));
    let waiting = tokio::spawn(request.send());
    until(|| vault.upstream.received().len() == 1).await;
    assert_eq!(vault.upstream.hung_up(), 0);
    waiting.abort();
    until(|| vault.upstream.hung_up() == 1).await;
    let answered = vault.events_of("vault.proxy.answered", 1).await;
    assert_eq!(
        (&answered[0]["detail"]["ended"], &answered[0]["detail"]["status"]),
        (&json!("cancelled"), &Value::Null)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_that_is_down_slow_or_no_http_is_said_to_be() {
    let vault = Vaulted::configured("[vault]\nproxy_timeout = 1", "").await;
    let connection = vault.by_key().await;
    let token = vault.token(&connection).await;
    for (path, status, reason) in
        [("/v1/silent", 504, "proxy_upstream_timeout"), ("/v1/garbage", 502, "proxy_upstream_failed")]
    {
        let answer = vault.send(&token, ("GET", &vault.path(&connection, path))).await;
        assert_eq!((answer.status, answer.reason()), (status, reason), "{path}");
        assert_eq!(answer.header("proxy-status"), None);
    }
    for path in ["/v1/broken", "/v1/stream"] {
        let answer = vault.request(&token, ("GET", &vault.path(&connection, path))).send().await.unwrap();
        assert_eq!(answer.status(), 200);
        assert!(answer.bytes().await.is_err(), "{path}: a truncated body does not end like a complete one");
    }
    let closed = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let yaml = format!(
        "providers:\n  - {{id: down, kind: api_key, hosts: ['http://{closed}', 'http://10.0.0.1:80']}}\n"
    );
    vault.world.server.apply(&yaml).await.unwrap();
    let connection = vault.connect("down", json!({"key": KEY})).await;
    let token = vault.token(&connection).await;
    // No connection to a private address, whatever the provider's declaration says.
    for host in [closed.to_string(), "10.0.0.1".into()] {
        let path = format!("/vault/proxy/{connection}/{host}/x");
        let answer = vault.send(&token, ("GET", &path)).await;
        assert_eq!((answer.status, answer.reason()), (502, "proxy_upstream_failed"), "{host}");
    }
    let called = vault.events_of("vault.proxy.called", 6).await;
    let answered = vault.events_of("vault.proxy.answered", 2).await;
    let failed = vault.events_of("vault.proxy.failed", 4).await;
    assert_eq!((called.len(), answered.len(), failed.len()), (6, 2, 4));
    assert!(failed.iter().all(|event| event["outcome"] == "refused"));
}

#[tokio::test(flavor = "multi_thread")]
async fn only_what_the_provider_lets_through_is_sent() {
    let vault = Vaulted::configured("", ", methods: [GET, PUT], paths: [/v1/, /v2/me]").await;
    let connection = vault.by_key().await;
    let token = vault.token(&connection).await;
    for (method, path) in [("GET", "/v1/x"), ("PUT", "/v1/x/y"), ("GET", "/v2/me"), ("GET", "/v2/me/z")] {
        assert_eq!(
            vault.send(&token, (method, &vault.path(&connection, path))).await.status,
            200,
            "{method} {path}"
        );
    }
    let before = vault.upstream.received().len();
    let refused = async |method: &str, path: &str| {
        let fields = vault
            .fields(&vault.courier, &token, (method, path))
            .map(|(name, value)| format!("{name}: {value}"));
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{}\r\n\r\n",
            fields.join("\r\n")
        );
        let answer = vault.raw(&request).await;
        (answer.contains("HTTP/1.1 403 Forbidden\r\n") && answer.contains("\"proxy_forbidden\""), answer)
    };
    for (method, path) in [
        ("POST", "/v1/x"),
        ("HEAD", "/v1/x"),
        ("GET", "/v1"),
        ("GET", "/"),
        ("GET", "/v2/men"),
        ("GET", "/V1/x"),
        ("GET", "/v1/../admin"),
        ("GET", "/v1/%2e%2e/admin"),
        ("GET", "/v1/%2E%2E%2Fadmin"),
        ("GET", "/v1/.%2e/admin"),
        ("GET", "/v1/%252e%252e/admin"),
        ("GET", "/v1/..;/admin"),
        ("GET", "/v1/..%3b/admin"),
        ("GET", "/v1//admin"),
        ("GET", "//v1/x"),
        ("GET", "/v1/\\..\\admin"),
        ("GET", "/v1/..\\admin"),
        ("GET", "/v1/%5c..%5cadmin"),
        ("GET", "/v1/%00"),
        ("GET", "/v1/x%0d%0aHost:%20evil"),
        ("GET", "/%76%31/x"),
        ("GET", "/admin?/v1/"),
    ] {
        let (forbidden, answer) = refused(method, &vault.path(&connection, path)).await;
        // A response to HEAD has no body with the reason.
        assert!(
            forbidden || method == "HEAD" && answer.starts_with("HTTP/1.1 403"),
            "{method} {path}: {answer}"
        );
    }
    for host in [
        "evil.example",
        "127.0.0.1",
        "localhost",
        "",
        "http:%2F%2Fevil.example",
        &format!("x@{}", vault.upstream.authority),
        &vault.upstream.authority.replace(':', "%3A"),
        &format!("{}@evil.example", vault.upstream.authority),
    ] {
        let (forbidden, answer) = refused("GET", &format!("/vault/proxy/{connection}/{host}/v1/x")).await;
        assert!(forbidden, "{host}: {answer}");
    }
    // With an absolute-form target, only the path counts; the authority is ignored.
    let path = vault.path(&connection, "/v1/../admin");
    let fields =
        vault.fields(&vault.courier, &token, ("GET", &path)).map(|(name, value)| format!("{name}: {value}"));
    let request = format!(
        "GET http://{}{path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n{}\r\n\r\n",
        vault.upstream.authority,
        vault.upstream.authority,
        fields.join("\r\n")
    );
    assert!(vault.raw(&request).await.starts_with("HTTP/1.1 403"));
    assert_eq!(vault.upstream.received().len(), before, "nothing of all this was sent");
    let refused = vault.events_of("vault.proxy.refused", 31).await;
    assert_eq!(refused.len(), 31);
    assert!(
        refused.iter().all(|event| event["reason"] == "proxy_forbidden" && event["delegation_id"] == "V")
    );
    assert!(!json!(refused).to_string().contains("evil:"));
}

#[tokio::test(flavor = "multi_thread")]
async fn only_what_the_delegation_lets_through_is_sent() {
    let vault = Vaulted::new().await;
    let connection = vault.by_key().await;
    let origin = format!("http://{}", vault.upstream.authority);
    let at = |path: &str| format!("{origin}{path}");
    for (more, method, path, expected) in [
        (json!({"actions": ["proxy"]}), "POST", "/v1/x", None),
        (json!({"actions": ["proxy:GET"]}), "GET", "/v1/x", None),
        (json!({"actions": ["proxy:GET"]}), "POST", "/v1/x", Some("proxy_forbidden")),
        (json!({"actions": ["retrieve"]}), "GET", "/v1/x", Some("connection_missing")),
        (json!({"locations": [at("/v1/")]}), "GET", "/v1/x", None),
        (json!({"locations": [origin]}), "GET", "/v1/x", None),
        (json!({"locations": [at("/v2/")]}), "GET", "/v1/x", Some("proxy_forbidden")),
        (json!({"locations": ["https://other.example/v1/"]}), "GET", "/v1/x", Some("proxy_forbidden")),
        (json!({"locations": [at("/v1")]}), "GET", "/v10", Some("proxy_forbidden")),
    ] {
        let token = vault.token_with(&connection, more.clone()).await;
        let before = vault.upstream.received().len();
        let answer = vault.send(&token, (method, &vault.path(&connection, path))).await;
        let reason = (answer.status != 200).then(|| answer.reason());
        assert_eq!(reason, expected, "{more} {method} {path}: {}", answer.text);
        assert_eq!(vault.upstream.received().len() - before, usize::from(expected.is_none()));
        if expected.is_some() {
            assert_eq!(answer.status, 403);
        }
    }
    // A delegation with only `proxy` does not allow retrieval.
    let token = vault.token_with(&connection, json!({"actions": ["proxy"]})).await;
    let retrieval = format!("/vault/connections/{connection}/token");
    let answer = vault.send(&token, ("POST", &retrieval)).await;
    assert_eq!((answer.status, answer.reason()), (403, "connection_missing"));
    // Two objects: each suffices alone, and they are not combined.
    let details = json!([
        {"type": "vault_connection", "identifier": connection, "actions": ["proxy:GET"], "locations": [at("/v1/")]},
        {"type": "vault_connection", "identifier": connection, "actions": ["proxy:POST"], "locations": [at("/v2/")]},
    ]);
    let exchange =
        vault.courier.exchange(&vault.world.server, &vault.world.user_token(), crate::support::agent::JWT);
    let exchange = exchange.param("audience", &vault.world.server.app.issuer);
    let token = exchange.param("authorization_details", &details.to_string()).send().await.token().to_owned();
    for (method, path, status) in
        [("GET", "/v1/x", 200), ("POST", "/v2/x", 200), ("POST", "/v1/x", 403), ("GET", "/v2/x", 403)]
    {
        let answer = vault.send(&token, (method, &vault.path(&connection, path))).await;
        assert_eq!(answer.status, status, "{method} {path}");
    }
    let other = vault.by_key().await;
    let answer = vault.send(&token, ("GET", &vault.path(&other, "/v1/x"))).await;
    assert_eq!((answer.status, answer.reason()), (403, "connection_missing"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_that_was_changed_is_asked_as_it_is_now() {
    let vault = Vaulted::configured("", ", paths: [/v1/]").await;
    let connection = vault.by_key().await;
    let token = vault.token(&connection).await;
    let (first, second) = (vault.path(&connection, "/v1/x"), vault.path(&connection, "/v2/x"));
    assert_eq!(vault.send(&token, ("GET", &first)).await.status, 200);
    assert_eq!(vault.send(&token, ("GET", &second)).await.status, 403);
    let at = &vault.upstream.authority;
    let yaml = format!(
        "providers:\n  - {{id: api, kind: api_key, header: x-new, hosts: ['http://{at}'], paths: [/v2/]}}\n"
    );
    vault.world.server.apply(&yaml).await.unwrap();
    assert_eq!(
        vault.send(&token, ("GET", &second)).await.status,
        200,
        "what is remembered is no reason for a no"
    );
    assert_eq!(vault.upstream.last().all("x-new"), [KEY]);
    assert_eq!(vault.send(&token, ("GET", &first)).await.status, 403, "nor for a yes");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_asks_is_proved_as_for_the_credential_itself() {
    let vault = Vaulted::new().await;
    let connection = vault.by_key().await;
    let token = vault.token(&connection).await;
    let other = vault.token(&connection).await;
    let path = vault.path(&connection, "/v1/x");
    let fields = |token: &str, at: (&str, &str)| vault.fields(&vault.courier, token, at);
    let [authorization, proof] = fields(&token, ("GET", &path));
    let send = async |fields: &[(&str, String)]| {
        let api = Api::get(&vault.world.server, &path);
        let api = fields.iter().fold(api, |api, (name, value)| api.header(name, value));
        let answer = api.send().await;
        (answer.status, answer.reason().to_owned())
    };
    let elsewhere = vault.path(&connection, "/v1/y");
    let proof_of = |token: &str, at: (&str, &str)| fields(token, at)[1].clone();
    let stolen = vault.fields(&vault.second, &token, ("GET", &path));
    for (fields, reason) in [
        (vec![], "not_authenticated"),
        (vec![("authorization", format!("Bearer {token}"))], "access_token_bound"),
        (vec![("authorization", format!("Bearer {token}")), proof.clone()], "access_token_bound"),
        (vec![authorization.clone()], "dpop_proof_missing"),
        (vec![authorization.clone(), proof_of(&token, ("POST", &path))], "dpop_proof_target"),
        (vec![authorization.clone(), proof_of(&token, ("GET", &elsewhere))], "dpop_proof_target"),
        (vec![authorization.clone(), proof_of(&other, ("GET", &path))], "dpop_proof_access_token"),
        (stolen.to_vec(), "access_token_bound"),
    ] {
        assert_eq!(send(&fields).await, (401, reason.to_owned()), "{reason}");
    }
    assert!(vault.upstream.received().is_empty());
    let good = [authorization, proof];
    assert_eq!(send(&good).await.0, 200);
    assert_eq!(send(&good).await, (401, "dpop_proof_replayed".to_owned()));
    assert_eq!(vault.upstream.received().len(), 1);
    // Another user's connection is not found.
    let body = json!({"provider": "api", "credential": {"key": "of-bob-0123456789"}});
    let bobs = vault.world.as_user("bob", "POST", "/api/v1/connections", body).await;
    let bobs = bobs.json["id"].as_str().unwrap().to_owned();
    let token = vault.token(&bobs).await;
    let answer = vault.send(&token, ("GET", &vault.path(&bobs, "/v1/x"))).await;
    assert_eq!((answer.status, answer.reason()), (404, "not_found"));
    assert_eq!(vault.upstream.received().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_delegation_in_the_middle_stops_the_call() {
    let vault = Vaulted::new().await;
    let connection = vault.by_key().await;
    let first = vault.token(&connection).await;
    let second = vault.passed_on(&first).await;
    let path = vault.path(&connection, "/v1/x");
    let call = async || {
        let api = Api::get(&vault.world.server, &path);
        let fields = vault.fields(&vault.second, &second, ("GET", &path));
        fields.iter().fold(api, |api, (name, value)| api.header(name, value)).send().await
    };
    assert_eq!(call().await.status, 200);
    let called = vault.events_of("vault.proxy.called", 1).await;
    let chain: Vec<_> =
        called[0]["act_chain"].as_array().unwrap().iter().map(|link| link["sub"].clone()).collect();
    assert_eq!(
        (json!(chain), &called[0]["delegation_path"]),
        (json!(["courier", "second"]), &json!(["V", "W"]))
    );
    vault.world.server.revoke("V").await;
    let refused = call().await;
    assert_eq!((refused.status, refused.reason()), (409, "delegation_revoked"), "{}", refused.text);
    assert_eq!(vault.upstream.received().len(), 1, "the upstream heard nothing of it");
    let refused = vault.events_of("vault.proxy.refused", 1).await;
    assert_eq!(
        (&refused[0]["reason"], &refused[0]["detail"]["request"]["method"]),
        (&json!("delegation_revoked"), &json!("GET"))
    );
    let over = vault.second.exchange(&vault.world.server, &first, ACCESS_TOKEN).send().await;
    assert_eq!(over.status, 400);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_call_is_a_use_and_is_in_the_log_without_what_it_was_about() {
    let vault = Vaulted::new().await;
    let terms = json!({"delegate": "courier", "max_uses": 3, "audiences": [vault.world.server.app.issuer]});
    vault.world.server.revoke("V").await;
    let created = vault.world.as_alice("POST", "/delegate", terms).await;
    assert_eq!(created.status, 201, "{}", created.text);
    let connection = vault.by_key().await;
    // The exchange is the first use.
    let token = vault.token(&connection).await;
    let path = vault.path(&connection, "/v1/users/alice@example.com/mail/42/?secret=1");
    assert_eq!(vault.send(&token, ("PUT", &path)).await.status, 200);
    vault.upstream.will_answer("404 Not Found", "nothing here");
    assert_eq!(vault.send(&token, ("GET", &path)).await.status, 404);
    let over = vault.send(&token, ("GET", &path)).await;
    assert_eq!((over.status, over.reason()), (409, "command_limit"));
    assert_eq!(vault.upstream.received().len(), 2);
    let called = vault.events_of("vault.proxy.called", 2).await;
    let answered = vault.events_of("vault.proxy.answered", 2).await;
    let template = json!("/v1/users/{}/mail/{}/");
    let request = |method: &str| json!({"method": method, "host": &vault.upstream.authority});
    assert_eq!(
        (&called[0]["texts"]["path"], &answered[0]["texts"]["path"]),
        (&template, &template),
        "beside the document"
    );
    let expected = json!({"provider": "api", "version": 1, "scopes": null, "request": request("PUT")});
    assert_eq!(
        (called.len(), &called[0]["detail"], &called[0]["target"]),
        (2, &expected, &json!(connection))
    );
    assert_eq!(called[0]["subject"]["sub"], "alice");
    assert_eq!(called[0]["actor"]["client_id"], "courier");
    let logged = json!({"request": request("GET"), "status": 404, "bytes": 12, "ended": "complete"});
    assert_eq!(answered[1]["detail"], logged);
    assert_eq!(answered[1]["request_id"], called[1]["request_id"]);
    let log = json!(vault.world.server.events().await).to_string();
    assert!(!log.contains("alice@example.com") && !log.contains("secret=1") && !log.contains(KEY));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_its_entry_in_the_log_nothing_is_sent() {
    let vault = Vaulted::configured("[ledger]\ntimeout = '6s'", "").await;
    let connection = vault.by_key().await;
    let token = vault.token(&connection).await;
    let path = vault.path(&connection, "/v1/x");
    assert_eq!(vault.send(&token, ("GET", &path)).await.status, 200);
    vault.events_of("vault.proxy.answered", 1).await;
    let mut sql = vault.world.server.sql().await;
    sqlx::query("BEGIN").execute(&mut sql).await.unwrap();
    sqlx::query("LOCK TABLE audit_event IN ACCESS EXCLUSIVE MODE").execute(&mut sql).await.unwrap();
    let failed = vault.send(&token, ("GET", &path)).await;
    assert_eq!((failed.status, failed.header("retry-after")), (503, Some("1")));
    assert_eq!(vault.upstream.received().len(), 1);
    sqlx::query("ROLLBACK").execute(&mut sql).await.unwrap();
}
