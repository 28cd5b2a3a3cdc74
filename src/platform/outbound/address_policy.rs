//! The addresses that requests may go to, by the registries of RFC 6890.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::LazyLock;

use ipnet::IpNet;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use url::{Host, Url};

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
    pub(super) fn allows_url(self, url: &Url) -> bool {
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

/// Resolves names to the addresses that the policy allows.
pub(super) struct GuardedResolver(pub(super) AddressPolicy);

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
}
