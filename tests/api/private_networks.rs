//! Servers in private networks whose certificates an authority of the organization has signed.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use actchain::platform::outbound::{PostRequest, UpstreamError, UpstreamRequest, WebhookRequest};
use actchain_testkit::authority::Authority;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tempfile::NamedTempFile;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::{ServerConfig, crypto};
use zeroize::Zeroizing;

use crate::support::Server;
use crate::support::agent::JWT;
use crate::support::world::{IDP, World};

/// A server over TLS that answers every request with one JSON document.
struct TlsServer {
    address: SocketAddr,
    /// The certificate of the authority that signed the server's.
    ca_file: NamedTempFile,
}

impl TlsServer {
    async fn answering(document: String) -> Self {
        let authority = Authority::new();
        let certificate = authority.issue(&["localhost", "127.0.0.1"]);
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
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (acceptor, document) = (acceptor.clone(), document.clone());
                tokio::spawn(async move {
                    // A client that does not trust the certificate ends the handshake.
                    let Ok(mut stream) = acceptor.accept(stream).await else { return };
                    let (mut request, mut piece) = (Vec::new(), [0; 4096]);
                    while !request.windows(4).any(|end| end == b"\r\n\r\n") {
                        let read = stream.read(&mut piece).await.unwrap_or(0);
                        if read == 0 {
                            return;
                        }
                        request.extend_from_slice(&piece[..read]);
                    }
                    let length = document.len();
                    let head = format!(
                        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n"
                    );
                    let _ = stream.write_all(format!("{head}{document}").as_bytes()).await;
                    let _ = stream.shutdown().await;
                });
            }
        });
        Self { address, ca_file }
    }

    fn url(&self, host: &str) -> String {
        format!("https://{host}:{}/x", self.address.port())
    }

    fn ca_file(&self) -> String {
        format!("ca_file = {:?}\n", self.ca_file.path())
    }
}

fn keys(world: &World) -> String {
    format!("{{\"keys\": [{}]}}", world.idp.public_jwk())
}

/// Declares that the keys of Alice's issuer are at a URL.
async fn declare(server: &Server, jwks_uri: &str) -> Result<(), String> {
    let members = "audiences: [actchain], algorithms: [ES256], may_act: authorize";
    server.apply(&format!("issuers:\n  - {{iss: {IDP}, jwks_uri: \"{jwks_uri}\", {members}}}")).await
}

async fn exchange(world: &World, server: &Server) -> u16 {
    world.user_proxy.exchange(server, &world.user_token(), JWT).send().await.status
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_under_an_own_authority_are_fetched_only_with_its_certificate() {
    let world = World::new().await;
    let published = TlsServer::answering(keys(&world)).await;
    declare(&world.server, &published.url("localhost")).await.unwrap();
    assert_eq!(exchange(&world, &world.server).await, 503, "the system does not know the authority");
    let other = TlsServer::answering(String::new()).await;
    let twin = world.server.twin_configured(&format!("[outbound]\n{}", other.ca_file())).await;
    assert_eq!(exchange(&world, &twin).await, 503, "another authority");
    let twin = world.server.twin_configured(&format!("[outbound]\n{}", published.ca_file())).await;
    assert_eq!(exchange(&world, &twin).await, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_that_verify_use_the_configured_authorities() {
    let world = World::new().await;
    let published = TlsServer::answering(keys(&world)).await;
    let token = world.first_hop().await.token().to_owned();
    let receipt = format!("seq=0, leaf=:{}:", "A".repeat(43) + "=");
    let server = published.url("localhost").replace("/x", "");
    let run = async |arguments: &[&str], ca_file: Option<&str>| {
        let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_actchain"));
        command.env_clear().args(arguments);
        command.envs(ca_file.map(|path| ("ACTCHAIN_OUTBOUND_CA_FILE", path)));
        let output = command.output().await.unwrap();
        let text = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        (output.status.code().unwrap(), text)
    };
    let authority = published.ca_file.path().display().to_string();
    let jwks = published.url("localhost");
    let verify = ["token", "verify", &token, "--jwks", &jwks];
    let (code, text) = run(&verify, None).await;
    assert_eq!(code, 2, "the keys cannot be fetched: {text}");
    let (code, text) = run(&verify, Some(&authority)).await;
    assert_eq!(code, 1, "{text}");
    assert!(text.contains("no key of the issuer has signed it"), "the keys of another issuer: {text}");
    let verify = ["audit", "verify-receipt", "--receipt", &receipt, "--server", &server];
    let (_, unknown) = run(&verify, None).await;
    let (_, known) = run(&verify, Some(&authority)).await;
    assert!(unknown.contains("certificate") && !known.contains("certificate"), "{unknown}\n{known}");
}

#[tokio::test(flavor = "multi_thread")]
async fn addresses_that_are_not_public_are_reached_only_where_outbound_allow_names_them() {
    let world = World::configured("issuer = \"https://as.example.com\"").await;
    let published = TlsServer::answering(keys(&world)).await;
    let refused = declare(&world.server, &published.url("127.0.0.1")).await.unwrap_err();
    assert!(refused.contains("jwks_uri"), "{refused}");
    let configured = async |allow: &str| {
        let ca_file = published.ca_file();
        world.server.twin_configured(&format!("[outbound]\nallow = [{allow}]\n{ca_file}")).await
    };
    let closed = configured("\"10.0.0.0/8\", \"*.corp.example\"").await;
    declare(&closed, &published.url("127.0.0.1")).await.unwrap_err();
    let open = configured("\"127.0.0.0/8\", \"::1\"").await;
    for host in ["localhost", "127.0.0.1"] {
        declare(&open, &published.url(host)).await.unwrap();
        assert_eq!(exchange(&world, &open).await, 200, "{host}");
        closed.app.refresh_registry().await.unwrap();
        assert_eq!(exchange(&world, &closed).await, 503, "{host}");
    }
    declare(&open, &published.url("127.0.0.1").replace("https", "http")).await.unwrap_err();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_network_of_outbound_allow_applies_to_requests_of_the_server_and_not_to_proxied_ones() {
    let world = World::configured("issuer = \"https://as.example.com\"").await;
    let tls = TlsServer::answering("{}".to_owned()).await;
    let config = format!("[outbound]\nallow = [\"127.0.0.1\"]\n{}", tls.ca_file());
    let server = world.server.twin_configured(&config).await;
    let (outbound, url) = (&server.app.vault.outbound, tls.url("127.0.0.1"));
    assert_eq!(outbound.get_json(&url).await.unwrap(), b"{}");
    let post =
        PostRequest { content_type: "text/plain", accept: "text/plain", authorization: None, body: "" };
    assert_eq!(outbound.post(&url, post).await.unwrap().status, 200);
    let event = WebhookRequest { content_type: "application/json", fields: Vec::new(), body: "" };
    assert_eq!(outbound.deliver(&url, event).await.unwrap().status, 200);
    for host in ["127.0.0.1", "localhost"] {
        let request = UpstreamRequest {
            method: "GET",
            url: tls.url(host).parse().unwrap(),
            fields: Vec::new(),
            secret: ("authorization", Zeroizing::new("Bearer x".to_owned())),
            body: None,
            patience: Duration::from_secs(60),
        };
        let failed = outbound.forward(request).await.err();
        assert!(matches!(failed, Some(UpstreamError::Failed(_))), "{host}: {failed:?}");
    }
}
