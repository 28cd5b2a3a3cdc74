//! The addresses that requests may go to.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use url::{Host, Url};

use crate::platform::address_ranges::{is_never_reached, is_public};
use crate::platform::config::AllowList;

const NO_ADDRESS: &str = "the host has no public address, and none that outbound.allow names";

/// The addresses that requests may go to without `outbound.allow`.
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
}

/// An address policy with what `outbound.allow` adds.
#[derive(Debug, Clone)]
pub(super) struct AllowedAddresses {
    pub(super) policy: AddressPolicy,
    pub(super) added: Arc<AllowList>,
}

impl AllowedAddresses {
    /// Whether a connection to a host may go to this address.
    fn allows(&self, host: &str, address: IpAddr) -> bool {
        let address = address.to_canonical();
        if is_never_reached(address) {
            return false;
        }
        let own = address.is_loopback() && self.policy == AddressPolicy::PublicAndLoopback;
        own || is_public(address) || self.added.allows(host, address)
    }

    /// Whether a host may be connected to, as far as this can be decided without resolving it.
    pub(super) fn allows_host(&self, host: &Host<String>) -> bool {
        match host {
            Host::Ipv4(address) => self.allows(&host.to_string(), IpAddr::V4(*address)),
            Host::Ipv6(address) => self.allows(&host.to_string(), IpAddr::V6(*address)),
            Host::Domain(_) => true,
        }
    }

    /// The addresses of a host that may be connected to, with a port. The connection uses exactly these.
    ///
    /// # Errors
    /// If the host cannot be resolved, or has no such address.
    pub(super) async fn resolve(
        &self,
        host: &Host<String>,
        port: u16,
        lookup: impl Lookup,
    ) -> std::io::Result<Vec<SocketAddr>> {
        let (name, found) = match host {
            Host::Ipv4(address) => (host.to_string(), vec![SocketAddr::from((*address, port))]),
            Host::Ipv6(address) => (host.to_string(), vec![SocketAddr::from((*address, port))]),
            Host::Domain(name) => (name.clone(), lookup.lookup(name.clone()).await?),
        };
        let allowed = found.into_iter().filter(|address| self.allows(&name, address.ip()));
        let allowed: Vec<SocketAddr> = allowed.map(|address| SocketAddr::new(address.ip(), port)).collect();
        if allowed.is_empty() {
            return Err(std::io::Error::other(NO_ADDRESS));
        }
        Ok(allowed)
    }

    /// Whether a URL may be fetched, as far as this can be decided without resolving its host.
    pub(super) fn allows_url(&self, url: &Url) -> bool {
        let address = match url.host() {
            Some(Host::Ipv4(address)) => Some(IpAddr::V4(address)),
            Some(Host::Ipv6(address)) => Some(IpAddr::V6(address)),
            Some(Host::Domain(_)) => None,
            None => return false,
        };
        let host = url.host_str().unwrap_or_default();
        let scheme = match url.scheme() {
            "https" => true,
            "http" => {
                self.policy == AddressPolicy::PublicAndLoopback
                    && (address.is_some_and(|address| address.is_loopback()) || host == "localhost")
            }
            _ => false,
        };
        scheme && url.username().is_empty() && address.is_none_or(|address| self.allows(host, address))
    }
}

/// The source of addresses, so that tests can change what a name resolves to.
pub(super) trait Lookup: Copy + Send + Sync + 'static {
    fn lookup(self, host: String) -> impl Future<Output = std::io::Result<Vec<SocketAddr>>> + Send;
}

/// The resolver of the machine.
#[derive(Debug, Clone, Copy)]
pub(super) struct SystemLookup;

impl Lookup for SystemLookup {
    async fn lookup(self, host: String) -> std::io::Result<Vec<SocketAddr>> {
        Ok(tokio::net::lookup_host((host, 0)).await?.collect())
    }
}

/// Resolves names to the addresses that are allowed.
pub(super) struct GuardedResolver<L> {
    pub(super) allowed: AllowedAddresses,
    pub(super) lookup: L,
}

impl<L: Lookup> Resolve for GuardedResolver<L> {
    fn resolve(&self, name: Name) -> Resolving {
        let (allowed, lookup) = (self.allowed.clone(), self.lookup);
        Box::pin(async move {
            let host = name.as_str();
            let found = lookup.lookup(host.to_owned()).await?.into_iter();
            let allowed: Vec<SocketAddr> =
                found.filter(|address| allowed.allows(host, address.ip())).collect();
            if allowed.is_empty() {
                return Err(NO_ADDRESS.into());
            }
            // The connection uses exactly these addresses, so that a second DNS answer cannot replace them.
            Ok(Box::new(allowed.into_iter()) as Addrs)
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    fn allowed(policy: AddressPolicy, entries: &[&str]) -> AllowedAddresses {
        let entries = entries.iter().map(|entry| toml::Value::String((*entry).to_owned())).collect();
        AllowedAddresses { policy, added: Arc::new(toml::Value::Array(entries).try_into().unwrap()) }
    }

    fn allows(allowed: &AllowedAddresses, host: &str, address: &str) -> bool {
        allowed.allows(host, address.parse().unwrap())
    }

    #[test]
    fn special_use_addresses_are_not_reachable() {
        let public = allowed(AddressPolicy::Public, &[]);
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
            assert!(!allows(&public, "idp.example.com", address), "{address}");
        }
        for address in ["93.184.216.34", "2606:2800:220:1::1"] {
            assert!(allows(&public, "idp.example.com", address), "{address}");
        }
        let local = allowed(AddressPolicy::PublicAndLoopback, &[]);
        assert!(allows(&local, "localhost", "127.0.0.1") && allows(&local, "localhost", "::1"));
        assert!(!allows(&local, "localhost", "10.0.0.1"));
    }

    #[test]
    fn no_entry_makes_metadata_services_and_link_local_addresses_reachable() {
        let entries =
            ["10.0.0.0/8", "100.64.0.0/10", "fc00::/7", "168.0.0.0/8", "idp.corp.example", "*.corp.example"];
        let wide = allowed(AddressPolicy::PublicAndLoopback, &entries);
        assert!(
            allows(&wide, "x", "10.0.0.1")
                && allows(&wide, "x", "fd00:ec3::254")
                && allows(&wide, "x", "100.64.0.1")
        );
        for address in [
            "169.254.169.254",
            "fd00:ec2::254",
            "100.100.100.200",
            "168.63.129.16",
            "fe80::1",
            "64:ff9b::a00:1",
        ] {
            for host in ["idp.corp.example", "a.corp.example", "x"] {
                assert!(!allows(&wide, host, address), "{host} {address}");
            }
        }
    }

    #[test]
    fn urls_with_an_address_are_checked_in_every_spelling() {
        let url = |allowed: &AllowedAddresses, url: &str| allowed.allows_url(&Url::parse(url).unwrap());
        let listed = allowed(AddressPolicy::Public, &["10.0.0.0/8", "127.0.0.1", "idp.corp.example"]);
        for good in
            ["https://10.1.2.3/", "https://012.0.0.1/", "https://[::ffff:10.0.0.1]/", "https://127.0.0.1/"]
        {
            assert!(url(&listed, good), "{good}");
            assert!(!url(&allowed(AddressPolicy::Public, &[]), good), "{good}");
        }
        for bad in [
            "http://10.1.2.3/",
            "http://127.0.0.1/",
            "http://idp.corp.example/",
            "https://192.168.0.1/",
            "https://0300.0250.0.1/",
            "https://3232235521/",
            "https://0xa9fea9fe/",
            "https://[64:ff9b::a00:1]/",
            "https://[::a00:1]/",
            "https://[::1]/",
        ] {
            assert!(!url(&listed, bad), "{bad}");
        }
    }

    /// Answers with each of these addresses once, in turn.
    #[derive(Clone, Copy)]
    struct Changing(&'static Mutex<Vec<&'static [&'static str]>>);

    impl Lookup for Changing {
        async fn lookup(self, _: String) -> std::io::Result<Vec<SocketAddr>> {
            let answer =
                self.0.lock().unwrap().pop().expect("each name is resolved once for each connection");
            Ok(answer.iter().map(|address| SocketAddr::new(address.parse().unwrap(), 0)).collect())
        }
    }

    /// A client of one connection for each request, with these answers of DNS from the last to the first.
    fn client(
        allowed: AllowedAddresses,
        answers: &'static Mutex<Vec<&'static [&'static str]>>,
    ) -> reqwest::Client {
        let resolver = GuardedResolver { allowed, lookup: Changing(answers) };
        let builder = reqwest::Client::builder().no_proxy().pool_max_idle_per_host(0);
        builder.dns_resolver(resolver).build().unwrap()
    }

    #[tokio::test]
    async fn a_connection_goes_to_an_address_that_was_checked_whatever_the_name_resolves_to_later() {
        static ANSWERS: Mutex<Vec<&[&str]>> = Mutex::new(Vec::new());
        let server = wiremock::MockServer::start().await;
        wiremock::Mock::given(wiremock::matchers::any())
            .respond_with(wiremock::ResponseTemplate::new(200))
            .mount(&server)
            .await;
        let allowed = allowed(AddressPolicy::PublicAndLoopback, &["idp.corp.example"]);
        let client = client(allowed, &ANSWERS);
        let fetch =
            async || client.get(format!("http://idp.corp.example:{}/", server.address().port())).send().await;
        // A second answer of DNS would be the forbidden address: it is never asked for.
        *ANSWERS.lock().unwrap() = vec![&["169.254.169.254"], &["169.254.169.254", "127.0.0.1"]];
        assert_eq!(fetch().await.unwrap().status(), 200);
        assert_eq!((server.received_requests().await.unwrap().len(), ANSWERS.lock().unwrap().len()), (1, 1));
        // The name resolves elsewhere later.
        let refused = fetch().await.unwrap_err();
        assert!(format!("{refused:?}").contains("no public address"), "{refused:?}");
        *ANSWERS.lock().unwrap() = vec![&["fd00:ec2::254", "100.100.100.200", "::ffff:169.254.169.254"]];
        assert!(fetch().await.is_err());
        *ANSWERS.lock().unwrap() = vec![&["127.0.0.1"]];
        assert_eq!(fetch().await.unwrap().status(), 200);
        assert_eq!(server.received_requests().await.unwrap().len(), 2);
    }

    #[tokio::test]
    async fn a_name_that_nothing_allows_is_not_reached_at_a_private_address_that_it_resolves_to_later() {
        static ANSWERS: Mutex<Vec<&[&str]>> = Mutex::new(Vec::new());
        let server = wiremock::MockServer::start().await;
        let client = client(allowed(AddressPolicy::Public, &["10.0.0.0/8", "idp.corp.example"]), &ANSWERS);
        for private in [&["127.0.0.1"][..], &["192.168.0.1", "127.0.0.1"], &["::1"], &["::ffff:127.0.0.1"]] {
            *ANSWERS.lock().unwrap() = vec![private];
            let url = format!("http://elsewhere.example:{}/", server.address().port());
            let refused = client.get(url).send().await.unwrap_err();
            assert!(format!("{refused:?}").contains("no public address"), "{private:?}: {refused:?}");
        }
        assert!(server.received_requests().await.unwrap().is_empty());
    }
}
