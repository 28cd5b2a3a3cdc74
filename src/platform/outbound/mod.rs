//! The only HTTP client for outgoing requests: no redirects, no proxies, bounded in time and size. Never connects to
//! an address that is not public (RFC 6890), unless this server's issuer is on loopback.

mod deliver;
mod post;
mod proxy;

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::LazyLock;
use std::time::Duration;

use futures_util::StreamExt as _;
use ipnet::IpNet;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::header::{ACCEPT_ENCODING, HeaderMap, HeaderValue};
use url::{Host, Url};
use zeroize::Zeroizing;

pub use self::deliver::{WebhookRequest, WebhookResponse};
pub use self::post::{PostRequest, PostResponse};
use self::post::{content_coding, decoded};
pub use self::proxy::{Bytes, Chunks, Field, ProxyRequest, ProxyResponse, UpstreamError};
use super::fault::{Context, Fault};

/// Largest document that is fetched, in bytes.
const MAX_BYTES: usize = 256 * 1024;
const TIMEOUT: Duration = Duration::from_secs(3);
/// Time limit for connecting to the receiver of a proxied request.
const PATIENCE_TO_CONNECT: Duration = Duration::from_secs(10);
const MOST_IDLE: Duration = Duration::from_secs(20);
const TIMEOUT_OF_POSTS: Duration = Duration::from_secs(10);

/// The addresses that requests may go to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AddressPolicy {
    Public,
    /// Also loopback, and over http too: for a server whose own issuer is on loopback.
    PublicAndLoopback,
}

impl AddressPolicy {
    /// The policy of a server with this issuer.
    pub fn of_issuer(issuer: &str) -> Self {
        let on_loopback = Url::parse(issuer).is_ok_and(|url| match url.host() {
            Some(Host::Ipv4(address)) => address.is_loopback(),
            Some(Host::Ipv6(address)) => address.is_loopback(),
            Some(Host::Domain(name)) => name == "localhost",
            None => false,
        });
        if on_loopback { Self::PublicAndLoopback } else { Self::Public }
    }

    fn allows(self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        if address.is_loopback() {
            return self == Self::PublicAndLoopback;
        }
        !SPECIAL.iter().any(|net| net.contains(&address)) && !wraps_ipv4(address)
    }

    /// Whether a URL may be fetched, as far as this can be decided without resolving its host.
    fn allows_url(self, url: &Url) -> bool {
        let address = match url.host() {
            Some(Host::Ipv4(address)) => Some(IpAddr::V4(address)),
            Some(Host::Ipv6(address)) => Some(IpAddr::V6(address)),
            Some(Host::Domain(_)) => None,
            None => return false,
        };
        let scheme = match url.scheme() {
            "https" => true,
            "http" => {
                self == Self::PublicAndLoopback
                    && (address.is_some_and(|address| address.is_loopback())
                        || url.host_str() == Some("localhost"))
            }
            _ => false,
        };
        scheme && url.username().is_empty() && address.is_none_or(|address| self.allows(address))
    }
}

/// Ranges of the special-purpose registries of RFC 6890 that are not globally reachable, and multicast.
static SPECIAL: LazyLock<Vec<IpNet>> = LazyLock::new(|| {
    [
        "0.0.0.0/8",
        "10.0.0.0/8",
        "100.64.0.0/10",
        "127.0.0.0/8",
        "169.254.0.0/16",
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.0.2.0/24",
        "192.88.99.0/24",
        "192.168.0.0/16",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/4",
        "240.0.0.0/4",
        "::/128",
        "::1/128",
        "100::/64",
        "2001::/23",
        "2001:db8::/32",
        "3fff::/20",
        "5f00::/16",
        "fc00::/7",
        "fe80::/10",
        "fec0::/10",
        "ff00::/8",
    ]
    .iter()
    .filter_map(|net| net.parse().ok())
    .collect()
});

/// Translated and tunnelled forms (NAT64, 6to4) reach an IPv4 address that the list above would not match.
fn wraps_ipv4(address: IpAddr) -> bool {
    let IpAddr::V6(address) = address else { return false };
    let segments: [u16; 8] = Ipv6Addr::segments(&address);
    matches!(segments, [0x0064, 0xff9b, ..] | [0x2002, ..] | [0, 0, 0, 0, 0 | 0xffff, 0, ..])
}

struct GuardedResolver(AddressPolicy);

impl Resolve for GuardedResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let reach = self.0;
        Box::pin(async move {
            let found = tokio::net::lookup_host((name.as_str(), 0)).await?;
            let allowed: Vec<SocketAddr> = found.filter(|address| reach.allows(address.ip())).collect();
            if allowed.is_empty() {
                return Err("the host has no address that may be talked to".into());
            }
            // The connection uses exactly these addresses, so that a second DNS answer cannot replace them.
            Ok(Box::new(allowed.into_iter()) as Addrs)
        })
    }
}

/// The client for outgoing requests.
#[derive(Debug, Clone)]
pub struct Outbound {
    client: reqwest::Client,
    /// The same client without connection reuse.
    fresh: reqwest::Client,
    /// For proxied requests: each sets its own time limit.
    passing: reqwest::Client,
    reach: AddressPolicy,
}

impl Outbound {
    /// A client with this address policy.
    pub fn new(reach: AddressPolicy) -> Result<Self, Fault> {
        let guarded = || {
            reqwest::Client::builder()
                .redirect(reqwest::redirect::Policy::none())
                .no_proxy()
                .dns_resolver(GuardedResolver(reach))
        };
        let fetching = || {
            guarded()
                .timeout(TIMEOUT)
                .connect_timeout(TIMEOUT)
                .default_headers(HeaderMap::from_iter([(
                    ACCEPT_ENCODING,
                    HeaderValue::from_static("identity"),
                )]))
                .user_agent(concat!("actchain/", env!("CARGO_PKG_VERSION")))
        };
        // Shorter than most servers keep idle connections: reusing a connection that is just closing would lose a
        // request.
        let passing = guarded().connect_timeout(PATIENCE_TO_CONNECT).pool_idle_timeout(MOST_IDLE);
        let what = "building the HTTP client";
        Ok(Self {
            client: fetching().build().context(what)?,
            fresh: fetching().pool_max_idle_per_host(0).build().context(what)?,
            passing: passing.build().context(what)?,
            reach,
        })
    }

    /// Whether a URL may be fetched. Checked when the URL is registered and again when it is fetched.
    pub fn may_fetch(&self, url: &str) -> bool {
        Url::parse(url).is_ok_and(|url| self.reach.allows_url(&url))
    }

    /// Fetches a JSON document of at most 256 KiB within three seconds, whatever its media type. A leading byte order
    /// mark is removed (RFC 8259 §8.1).
    ///
    /// # Errors
    /// A fault for any status but 200, a redirect, a body that is not JSON, a forbidden address, or an exceeded limit.
    pub async fn get_json(&self, url: &str) -> Result<Vec<u8>, Fault> {
        let (kind, body) = self.get(url, "application/json, application/jwk-set+json").await?;
        let body = body.strip_prefix(b"\xef\xbb\xbf").map_or_else(|| body.clone(), <[u8]>::to_vec);
        if serde_json::from_slice::<serde::de::IgnoredAny>(&body).is_ok() {
            return Ok(body);
        }
        let kind = kind.map_or_else(|| "without a media type".to_owned(), |kind| format!("of type {kind:?}"));
        Err(Fault::new(format!("fetching {url}: the body, {kind}, is not JSON")))
    }

    /// Fetches a text of one media type under the same limits.
    ///
    /// # Errors
    /// As [`Outbound::get_json`], and for another media type.
    pub async fn get_text(&self, url: &str, media_type: &str) -> Result<String, Fault> {
        let (kind, body) = self.get(url, media_type).await?;
        if kind.as_deref().is_some_and(|kind| kind.starts_with(media_type)) {
            String::from_utf8(body).context(&format!("fetching {url}"))
        } else {
            Err(Fault::new(format!("fetching {url}: the answer is not {media_type}")))
        }
    }

    /// Sends a GET, and repeats it once on a fresh connection if the first one ended without a complete response. A
    /// server may close an idle connection just as it is reused (RFC 9110 §9.2.2).
    async fn get(&self, url: &str, accept: &str) -> Result<(Option<String>, Vec<u8>), Fault> {
        let what = format!("fetching {url}");
        let parsed = Url::parse(url).context(&what)?;
        if !self.reach.allows_url(&parsed) {
            return Err(Fault::new(format!("{what}: this address may not be talked to")));
        }
        let request = |client: &reqwest::Client| client.get(parsed.clone()).header("accept", accept);
        let both = async {
            match get_once(request(&self.client)).await {
                Err(Unfetched::Transport(error)) if !error.is_timeout() && !error.is_connect() => {
                    get_once(request(&self.fresh)).await
                }
                first => first,
            }
        };
        match tokio::time::timeout(TIMEOUT, both).await.context(&what)? {
            Ok(fetched) => Ok(fetched),
            Err(Unfetched::Transport(error)) => Err(error).context(&what),
            Err(Unfetched::Answer(problem)) => Err(Fault::new(format!("{what}: {problem}"))),
        }
    }
}

/// The reason that nothing was fetched.
enum Unfetched {
    /// There is no complete response.
    Transport(reqwest::Error),
    /// The response cannot be used.
    Answer(String),
}

async fn get_once(request: reqwest::RequestBuilder) -> Result<(Option<String>, Vec<u8>), Unfetched> {
    let response = request.send().await.map_err(Unfetched::Transport)?;
    if response.status() != reqwest::StatusCode::OK {
        return Err(Unfetched::Answer(format!("status {}", response.status().as_u16())));
    }
    let kind = response.headers().get("content-type").and_then(|value| value.to_str().ok());
    let kind = kind.map(str::to_owned);
    let coding = content_coding(response.headers());
    let mut body = Vec::new();
    let mut chunks = response.bytes_stream();
    while let Some(chunk) = chunks.next().await {
        body.extend_from_slice(&chunk.map_err(Unfetched::Transport)?);
        if body.len() > MAX_BYTES {
            return Err(Unfetched::Answer(format!("larger than {MAX_BYTES} bytes")));
        }
    }
    match decoded(Zeroizing::new(body), coding.as_deref()) {
        (body, None) => Ok((kind, body.to_vec())),
        (_, Some(problem)) => Err(Unfetched::Answer(problem)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn special_use_addresses_are_not_reachable() {
        for address in [
            "10.0.0.1",
            "127.0.0.1",
            "169.254.169.254",
            "172.16.0.1",
            "192.168.1.1",
            "100.64.0.1",
            "0.0.0.0",
            "::1",
            "::",
            "fc00::1",
            "fe80::1",
            "::ffff:10.0.0.1",
            "::ffff:127.0.0.1",
            "64:ff9b::a00:1",
            "2002:a00:1::",
            "::a00:1",
            "255.255.255.255",
            "224.0.0.1",
        ] {
            assert!(!AddressPolicy::Public.allows(address.parse().unwrap()), "{address}");
        }
        for address in ["93.184.216.34", "2606:2800:220:1::1"] {
            assert!(AddressPolicy::Public.allows(address.parse().unwrap()), "{address}");
        }
        assert!(AddressPolicy::PublicAndLoopback.allows("127.0.0.1".parse().unwrap()));
        assert!(!AddressPolicy::PublicAndLoopback.allows("10.0.0.1".parse().unwrap()));
    }

    #[test]
    fn urls_are_https_unless_on_our_own_loopback() {
        let public = Outbound::new(AddressPolicy::Public).unwrap();
        assert!(public.may_fetch("https://idp.example.com/jwks"));
        for url in
            ["http://idp.example.com/", "https://127.0.0.1/", "file:///etc/passwd", "https://u@h.example/"]
        {
            assert!(!public.may_fetch(url), "{url}");
        }
        let local = Outbound::new(AddressPolicy::of_issuer("http://127.0.0.1:1")).unwrap();
        assert!(local.may_fetch("http://127.0.0.1:5/jwks"));
        assert!(!local.may_fetch("http://10.0.0.1/jwks"));
    }
}
