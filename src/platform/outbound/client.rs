//! The client, and how it fetches documents.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use reqwest::Certificate;
use reqwest::header::{ACCEPT_ENCODING, HeaderMap, HeaderValue};
use rustls_pki_types::CertificateDer;
use time::OffsetDateTime;
use url::Url;
use zeroize::Zeroizing;

use super::address_policy::{AddressPolicy, AllowedAddresses, GuardedResolver, SystemLookup};
use super::ca_file;
use super::content_coding::{MAX_BYTES, content_coding, decoded};
use crate::platform::config::{AllowList, Config};
use crate::platform::fault::{Context, Fault};

/// Time limit for fetching a document.
const TIMEOUT: Duration = Duration::from_secs(3);
/// Time limit for connecting to the receiver of a proxied request.
const PATIENCE_TO_CONNECT: Duration = Duration::from_secs(10);
/// The most characters of a media type that an error names.
const MOST_NAMED: usize = 64;
const MOST_IDLE: Duration = Duration::from_secs(20);

/// The client for outgoing requests.
#[derive(Debug, Clone)]
pub struct Outbound {
    pub(super) client: reqwest::Client,
    /// The same client without connection reuse.
    fresh: reqwest::Client,
    /// For proxied requests: each sets its own time limit.
    pub(super) passing: reqwest::Client,
    /// For requests of the server itself.
    pub(super) reach: AllowedAddresses,
    pub(super) proxied_reach: AllowedAddresses,
    /// Those of `outbound.ca_file`.
    pub(super) authorities: Arc<[CertificateDer<'static>]>,
}

impl Outbound {
    /// A client with this address policy alone.
    pub fn new(policy: AddressPolicy) -> Result<Self, Fault> {
        Self::build(policy, &AllowList::default(), Vec::new())
    }

    /// The client of a server with this configuration.
    ///
    /// # Errors
    /// A fault if `outbound.ca_file` cannot be used at this time.
    pub fn configured(config: &Config, now: OffsetDateTime) -> Result<Self, Fault> {
        Self::of_command(config, AddressPolicy::of_issuer(&config.issuer()), now)
    }

    /// The client of a command with this configuration, and with an address policy of its own.
    ///
    /// # Errors
    /// A fault if `outbound.ca_file` cannot be used at this time.
    pub fn of_command(config: &Config, policy: AddressPolicy, now: OffsetDateTime) -> Result<Self, Fault> {
        let authorities =
            config.outbound.ca_file.as_deref().map(|path| ca_file::read(path, now)).transpose()?;
        Self::build(policy, &config.outbound.allow, authorities.unwrap_or_default())
    }

    /// An agent chooses what is proxied, and reads the answer. So a network that is opened for the server's own requests
    /// is not open there: of a host in a private network, its name has to be allowed.
    fn build(
        policy: AddressPolicy,
        allow: &AllowList,
        authorities: Vec<CertificateDer<'static>>,
    ) -> Result<Self, Fault> {
        let reach = AllowedAddresses { policy, added: Arc::new(allow.clone()) };
        let proxied_reach = AllowedAddresses { policy, added: Arc::new(allow.names_only()) };
        let what = "building the HTTP client";
        let certificates = authorities.iter().map(|one| Certificate::from_der(one).context(what));
        let certificates = certificates.collect::<Result<Vec<_>, _>>()?;
        let guarded = |reach: &AllowedAddresses| {
            reqwest::Client::builder()
                .redirect(reqwest::redirect::Policy::none())
                .no_proxy()
                .tls_certs_merge(certificates.iter().cloned())
                .dns_resolver(GuardedResolver { allowed: reach.clone(), lookup: SystemLookup })
        };
        let fetching = || {
            guarded(&reach)
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
        let passing =
            guarded(&proxied_reach).connect_timeout(PATIENCE_TO_CONNECT).pool_idle_timeout(MOST_IDLE);
        Ok(Self {
            client: fetching().build().context(what)?,
            fresh: fetching().pool_max_idle_per_host(0).build().context(what)?,
            passing: passing.build().context(what)?,
            reach,
            proxied_reach,
            authorities: authorities.into(),
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
        // The field is text of another party, and may be as long as a header.
        let kind = kind.map(|kind| kind.chars().take(MOST_NAMED).collect::<String>());
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
