//! The addresses that requests may go to.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use url::{Host, Url};

use crate::platform::address_ranges::{is_never_reached, is_public};
use crate::platform::config::AllowList;

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

/// Resolves names to the addresses that are allowed.
pub(super) struct GuardedResolver(pub(super) AllowedAddresses);

impl Resolve for GuardedResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let allowed = self.0.clone();
        Box::pin(async move {
            let host = name.as_str();
            let found = tokio::net::lookup_host((host, 0)).await?;
            let allowed: Vec<SocketAddr> =
                found.filter(|address| allowed.allows(host, address.ip())).collect();
            if allowed.is_empty() {
                return Err("the host has no public address, and none that outbound.allow names".into());
            }
            // The connection uses exactly these addresses, so that a second DNS answer cannot replace them.
            Ok(Box::new(allowed.into_iter()) as Addrs)
        })
    }
}

#[cfg(test)]
mod tests {
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
}
