//! The recipes of `docs/how-to/behind-a-proxy.md`, in the proxies that they are for. `scripts/install-deps proxies` installs
//! the proxies; without a proxy, its test says so and is skipped.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use actchain_testkit::authority::Authority;
use serde_json::Value;

use crate::stage::{Server, Stage, until};

const PAGE: &str = include_str!("../../docs/how-to/behind-a-proxy.md");
const HOST: &str = "as.example.com";
/// The address of the client; the proxies call the server from 127.0.0.1.
const CLIENT: [u8; 4] = [127, 0, 0, 2];

/// A proxy in a process of its own, before a server.
struct Proxied {
    stage: Stage,
    _server: Server,
    proxy: Child,
    address: SocketAddr,
    authority: Authority,
}

impl Drop for Proxied {
    fn drop(&mut self) {
        let _ = self.proxy.kill();
        let _ = self.proxy.wait();
    }
}

/// The blocks of code in a language below the heading of a proxy.
fn recipes<const N: usize>(proxy: &str, language: &str) -> [String; N] {
    let (_, section) = PAGE.split_once(&format!("\n## {proxy}\n")).unwrap();
    let section = section.split("\n## ").next().unwrap();
    let begin = format!("```{language}\n");
    let blocks = section.split(&begin).skip(1);
    let texts: Vec<_> = blocks.map(|rest| rest.split_once("```").unwrap().0.to_owned()).collect();
    texts.try_into().unwrap()
}

/// A block of YAML as an entry of a list.
fn entry(yaml: &str, indent: usize) -> String {
    let mut lines = yaml.lines();
    let first = format!("{}- {}\n", " ".repeat(indent), lines.next().unwrap());
    first + &lines.map(|line| format!("{}{line}\n", " ".repeat(indent + 2))).collect::<String>()
}

fn replaced(text: &str, replacements: &[(&str, &str)]) -> String {
    replacements.iter().fold(text.to_owned(), |text, (from, to)| {
        assert!(text.contains(from), "the recipe has no {from}");
        text.replace(from, to)
    })
}

/// A program in `PATH`, in `/usr/sbin`, or where `scripts/install-deps` builds tools.
fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let tools = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/tools");
    let folders = std::env::split_paths(&path).chain([PathBuf::from("/usr/sbin"), tools]);
    let found = folders.map(|folder| folder.join(program)).find(|file| file.is_file());
    if found.is_none() {
        eprintln!("{program} is not installed: its recipe is not tested");
    }
    found
}

impl Proxied {
    /// Starts a server, and before it the proxy that `start` makes of the folder, its own address and the server's.
    fn start(start: impl FnOnce(&Stage, SocketAddr, &str) -> Command) -> Self {
        let stage = Stage::new();
        stage.declare();
        let server = stage.serve_with(&[("ACTCHAIN_HTTP_TRUSTED_PROXIES", "127.0.0.1".to_owned())]).unwrap();
        let authority = Authority::new();
        let certificate = authority.issue(&[HOST]);
        std::fs::write(stage.path("certificate.pem"), certificate.certificate).unwrap();
        std::fs::write(stage.path("key.pem"), certificate.key).unwrap();
        let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap();
        let upstream = server.base.strip_prefix("http://").unwrap().to_owned();
        let mut command = start(&stage, address, &upstream);
        let log = std::fs::File::create(stage.path("proxy.log")).unwrap();
        let mut proxy = command.stdout(Stdio::null()).stderr(log).spawn().unwrap();
        until("the proxy listens", || {
            assert!(
                proxy.try_wait().unwrap().is_none(),
                "{}",
                std::fs::read_to_string(stage.path("proxy.log")).unwrap_or_default()
            );
            TcpStream::connect(address).is_ok()
        });
        Self { stage, _server: server, proxy, address, authority }
    }

    fn client(&self) -> reqwest::Client {
        let authority = reqwest::Certificate::from_pem(self.authority.pem.as_bytes()).unwrap();
        reqwest::Client::builder()
            .tls_certs_only([authority])
            .resolve(HOST, self.address)
            .local_address(Some(CLIENT.into()))
            .build()
            .unwrap()
    }

    /// Waits until the proxy forwards: some listen before they have read their whole configuration.
    async fn forwards(&self) {
        let (client, url) = (self.client(), self.url("/.well-known/oauth-authorization-server"));
        while !client.get(&url).send().await.is_ok_and(|answer| answer.status().is_success()) {}
    }

    fn url(&self, path: &str) -> String {
        format!("https://{HOST}:{}{path}", self.address.port())
    }

    /// The line of the server's log about a request.
    fn logged(&self, request_id: &str) -> Value {
        let line = || {
            let log = std::fs::read_to_string(self.stage.path("server.log")).unwrap();
            let lines =
                log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()).collect::<Vec<_>>();
            lines.into_iter().find(|line| line["request_id"] == request_id && line.get("route").is_some())
        };
        until("the request is in the log", || line().is_some());
        line().unwrap()
    }

    /// An exchange with forged header fields has the address of the client and an id of the proxy.
    async fn passes_on_what_it_knows(&self) {
        const FORGED: [(&str, &str); 6] = [
            ("x-forwarded-for", "192.0.2.66"),
            ("forwarded", "for=192.0.2.66;host=evil.example"),
            ("x-forwarded-host", "evil.example"),
            ("x-forwarded-proto", "http"),
            ("x-request-id", "forged"),
            ("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
        ];
        self.forwards().await;
        let exchange = self.stage.exchange();
        let mut request = self.client().post(self.url("/oauth/token")).body(exchange.body());
        request = request.header("content-type", "application/x-www-form-urlencoded");
        for (name, value) in &exchange.headers {
            request = request.header(name, value);
        }
        for (name, value) in FORGED {
            request = request.header(name, value);
        }
        // Long tokens and proofs: more than the usual limits of proxies, and less than the server's.
        let response = request.header("x-long", "a".repeat(20_000)).send().await.unwrap();
        let id = response.headers()["x-request-id"].to_str().unwrap().to_owned();
        let status = response.status().as_u16();
        assert_eq!(status, 200, "{}", response.text().await.unwrap());
        assert_ne!(id, "forged");
        let line = self.logged(&id);
        assert_eq!((&line["ip"], &line["route"]), (&"127.0.0.2".into(), &"/oauth/token".into()), "{line}");
        assert_eq!(line["span"].get("trace_id"), None, "{line}");
        let metadata =
            self.client().get(self.url("/.well-known/oauth-authorization-server")).send().await.unwrap();
        let metadata: Value = serde_json::from_str(&metadata.text().await.unwrap()).unwrap();
        assert_eq!(metadata["issuer"], "http://127.0.0.1:1");
        for path in ["/health", "/ready", "/metrics"] {
            let answer = self.client().get(self.url(path)).send().await.unwrap();
            assert_eq!(answer.status().as_u16(), 404, "{path} is not for clients");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_recipe_for_nginx_passes_on_the_address_of_the_client_and_an_id_of_its_own() {
    let Some(nginx) = find("nginx") else { return };
    let proxied = Proxied::start(|stage, address, upstream| {
        let folder = stage.path("nginx");
        std::fs::create_dir(&folder).unwrap();
        let (certificate, key) = (stage.path("certificate.pem"), stage.path("key.pem"));
        let [servers] = recipes("nginx", "nginx");
        let servers = replaced(
            &servers,
            &[
                ("server 127.0.0.1:8080;", &format!("server {upstream};")),
                ("listen 443 ssl;", &format!("listen {address} ssl;")),
                ("/etc/nginx/as.example.com.pem", certificate.to_str().unwrap()),
                ("/etc/nginx/as.example.com.key", key.to_str().unwrap()),
            ],
        );
        let temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|kind| format!("{kind}_temp_path {};", folder.join(kind).display()));
        let user = if nix::unistd::geteuid().is_root() { "user root;" } else { "" };
        let text = format!(
            "daemon off;\nmaster_process off;\n{user}\nerror_log stderr;\npid {}/pid;\nevents {{}}\nhttp {{\naccess_log off;\n{}\n{servers}}}\n",
            folder.display(),
            temporary.join("\n"),
        );
        std::fs::write(folder.join("nginx.conf"), text).unwrap();
        let mut command = Command::new(nginx);
        command.arg("-p").arg(&folder).arg("-e").arg("stderr").arg("-c").arg(folder.join("nginx.conf"));
        command
    });
    proxied.passes_on_what_it_knows().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_recipe_for_caddy_passes_on_the_address_of_the_client_and_an_id_of_its_own() {
    let Some(caddy) = find("caddy") else { return };
    let proxied = Proxied::start(|stage, address, upstream| {
        let (certificate, key) = (stage.path("certificate.pem"), stage.path("key.pem"));
        let site = format!(
            "https://as.example.com:{} {{\n    bind {}\n    tls {} {}\n",
            address.port(),
            address.ip(),
            certificate.display(),
            key.display()
        );
        let [sites] = recipes("Caddy", "caddyfile");
        let sites = replaced(&sites, &[("as.example.com {\n", &site), ("127.0.0.1:8080", upstream)]);
        let text = format!("{{\n    admin off\n    auto_https disable_redirects\n}}\n{sites}");
        std::fs::write(stage.path("Caddyfile"), text).unwrap();
        let mut command = Command::new(caddy);
        command.args(["run", "--adapter", "caddyfile", "--config"]).arg(stage.path("Caddyfile"));
        command.env("HOME", stage.path("caddy")).env("XDG_DATA_HOME", stage.path("caddy"));
        command.env("XDG_CONFIG_HOME", stage.path("caddy"));
        command
    });
    proxied.passes_on_what_it_knows().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_recipe_for_traefik_passes_on_the_address_of_the_client_and_an_id_of_the_server() {
    let Some(traefik) = find("traefik") else { return };
    let proxied = Proxied::start(|stage, address, upstream| {
        let (certificate, key) = (stage.path("certificate.pem"), stage.path("key.pem"));
        let [routes] = recipes("Traefik", "yaml");
        let routes = replaced(&routes, &[("127.0.0.1:8080", upstream)]);
        let tls = format!(
            "tls:\n  certificates: [{{certFile: {}, keyFile: {}}}]\n",
            certificate.display(),
            key.display()
        );
        std::fs::write(stage.path("routes.yaml"), routes + &tls).unwrap();
        let mut command = Command::new(traefik);
        command.arg(format!("--entryPoints.websecure.address={address}"));
        command.arg(format!("--providers.file.filename={}", stage.path("routes.yaml").display()));
        command.args(["--global.checkNewVersion=false", "--global.sendAnonymousUsage=false"]);
        command
    });
    proxied.passes_on_what_it_knows().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_recipe_for_envoy_passes_on_the_address_of_the_client_and_an_id_of_its_own() {
    let Some(envoy) = find("envoy") else { return };
    let proxied = Proxied::start(|stage, address, upstream| {
        let (certificate, key) = (stage.path("certificate.pem"), stage.path("key.pem"));
        let [filter, cluster] = recipes("Envoy", "yaml");
        // Envoy compares the port of `Host`, too.
        let host = format!("domains: [\"{HOST}:{}\"]", address.port());
        let filter = replaced(&filter, &[("domains: [as.example.com]", &host)]);
        let port = upstream.rsplit_once(':').unwrap().1;
        let cluster = replaced(&cluster, &[("port_value: 8080", &format!("port_value: {port}"))]);
        let text = format!(
            r#"
static_resources:
  listeners:
    - name: websecure
      address: {{socket_address: {{address: {ip}, port_value: {port}}}}}
      filter_chains:
        - transport_socket:
            name: envoy.transport_sockets.tls
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext
              common_tls_context:
                tls_certificates: [{{certificate_chain: {{filename: {certificate}}}, private_key: {{filename: {key}}}}}]
          filters:
{filter}  clusters:
{cluster}"#,
            ip = address.ip(),
            port = address.port(),
            certificate = certificate.display(),
            key = key.display(),
            filter = entry(&filter, 12),
            cluster = entry(&cluster, 4),
        );
        std::fs::write(stage.path("envoy.yaml"), text).unwrap();
        let mut command = Command::new(envoy);
        command.args(["--concurrency", "1", "--use-dynamic-base-id", "--log-level", "error", "-c"]);
        command.arg(stage.path("envoy.yaml"));
        command
    });
    proxied.passes_on_what_it_knows().await;
}
