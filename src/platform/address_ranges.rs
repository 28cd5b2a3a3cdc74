//! Ranges of IP addresses, by the registries of RFC 6890.

use std::net::{IpAddr, Ipv6Addr};
use std::sync::LazyLock;

use ipnet::IpNet;

/// Whether an address is globally reachable.
pub fn is_public(address: IpAddr) -> bool {
    let address = address.to_canonical();
    !contains(&SPECIAL, address) && !is_never_reached(address)
}

/// Addresses of private networks: RFC 1918, RFC 4193, and RFC 6598, which some cluster networks use.
pub fn is_private(address: IpAddr) -> bool {
    contains(&PRIVATE, address.to_canonical()) && !is_never_reached(address)
}

/// Addresses that no setting makes reachable: link-local ones, metadata services of clouds, which give their credentials
/// to every caller on the machine, what is not the address of one host, and translated and tunnelled forms.
pub fn is_never_reached(address: IpAddr) -> bool {
    let address = address.to_canonical();
    contains(&NEVER, address) || wraps_ipv4(address)
}

/// Whether no address of a network is ever reached.
pub fn is_network_never_reached(network: IpNet) -> bool {
    NEVER.iter().any(|never| never.contains(&network)) || wraps_ipv4(network.addr())
}

fn contains(ranges: &[IpNet], address: IpAddr) -> bool {
    ranges.iter().any(|range| range.contains(&address))
}

/// Translated and tunnelled forms (NAT64, 6to4) reach an IPv4 address that the lists would not match.
fn wraps_ipv4(address: IpAddr) -> bool {
    let IpAddr::V6(address) = address else { return false };
    let segments: [u16; 8] = Ipv6Addr::segments(&address);
    let is_loopback = address.is_loopback();
    !is_loopback && matches!(segments, [0x0064, 0xff9b, ..] | [0x2002, ..] | [0, 0, 0, 0, 0 | 0xffff, 0, ..])
}

fn ranges(texts: &[&str]) -> Vec<IpNet> {
    texts.iter().filter_map(|text| text.parse().ok()).collect()
}

/// Ranges of the special-purpose registries of RFC 6890 that are not globally reachable. More are in [`NEVER`].
static SPECIAL: LazyLock<Vec<IpNet>> = LazyLock::new(|| {
    ranges(&[
        "10.0.0.0/8",
        "100.64.0.0/10",
        "127.0.0.0/8",
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.0.2.0/24",
        "192.88.99.0/24",
        "192.168.0.0/16",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "240.0.0.0/4",
        "::1/128",
        "100::/64",
        "2001::/23",
        "2001:db8::/32",
        "3fff::/20",
        "5f00::/16",
        "fc00::/7",
        "fec0::/10",
    ])
});

static PRIVATE: LazyLock<Vec<IpNet>> =
    LazyLock::new(|| ranges(&["10.0.0.0/8", "100.64.0.0/10", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7"]));

static NEVER: LazyLock<Vec<IpNet>> = LazyLock::new(|| {
    ranges(&[
        "0.0.0.0/8",
        "169.254.0.0/16",
        "224.0.0.0/4",
        "255.255.255.255/32",
        "::/128",
        "fe80::/10",
        "ff00::/8",
        // Alibaba Cloud, Azure, and Oracle Cloud; AWS, Google Cloud and Oracle Cloud over IPv6.
        "100.100.100.200/32",
        "168.63.129.16/32",
        "192.0.0.192/32",
        "fd00:ec2::/32",
        "fd20:ce::/32",
        "fd00:c1::/32",
    ])
});

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_address_has_one_kind() {
        let kind = |text: &str| {
            let address: IpAddr = text.parse().unwrap();
            (is_public(address), is_private(address), is_never_reached(address))
        };
        for public in ["93.184.216.34", "2606:2800:220:1::1", "::ffff:93.184.216.34", "168.63.129.17"] {
            assert_eq!(kind(public), (true, false, false), "{public}");
        }
        for private in [
            "10.0.0.1",
            "100.64.0.1",
            "172.31.255.255",
            "192.168.1.1",
            "fc00::1",
            "fd12::1",
            "::ffff:10.0.0.1",
        ] {
            assert_eq!(kind(private), (false, true, false), "{private}");
        }
        for special in
            ["127.0.0.1", "::1", "192.0.2.1", "2001:db8::1", "198.18.0.1", "240.0.0.1", "::ffff:127.0.0.1"]
        {
            assert_eq!(kind(special), (false, false, false), "{special}");
        }
        for never in [
            "0.0.0.0",
            "::",
            "169.254.169.254",
            "169.254.170.2",
            "::ffff:169.254.169.254",
            "fe80::1",
            "fd00:ec2::254",
            "100.100.100.200",
            "168.63.129.16",
            "255.255.255.255",
            "224.0.0.1",
            "ff02::1",
            "64:ff9b::a00:1",
            "64:ff9b:1::a9fe:a9fe",
            "2002:a00:1::",
            "::a00:1",
        ] {
            assert_eq!(kind(never), (false, false, true), "{never}");
        }
    }

    #[test]
    fn every_range_is_read() {
        assert_eq!((SPECIAL.len(), PRIVATE.len(), NEVER.len()), (20, 5, 13));
    }
}
