//! Lists of networks and host names.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// IP networks. An address without a prefix length is a network of one address.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Networks(Vec<IpNet>);

impl Networks {
    pub(super) fn of(networks: Vec<IpNet>) -> Self {
        Self(networks)
    }

    /// Whether an address is in one of the networks. An IPv4 address that is mapped into IPv6 counts as IPv4.
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.0.iter().any(|network| network.contains(&address))
    }

    /// The networks in their order.
    pub fn iter(&self) -> impl Iterator<Item = IpNet> {
        self.0.iter().copied()
    }
}

impl Serialize for Networks {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(self.0.iter().map(IpNet::to_string))
    }
}

impl<'de> Deserialize<'de> for Networks {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let texts = Vec::<String>::deserialize(from)?;
        let networks = texts.iter().map(|text| network(text)).collect::<Option<_>>();
        networks.map(Self).ok_or_else(|| serde::de::Error::custom("not a network"))
    }
}

/// Reads a network or an address. Bits after the prefix are refused, because the text then reads like one address. So
/// are IPv4 addresses mapped into IPv6: they are written as IPv4.
pub(super) fn network(text: &str) -> Option<IpNet> {
    let network = match text.split_once('/') {
        // ipnet alone would accept octal forms.
        Some((address, length)) if length.bytes().all(|byte| byte.is_ascii_digit()) => {
            IpNet::new(address.parse().ok()?, length.parse().ok()?).ok()?
        }
        Some(_) => return None,
        None => text.parse::<IpAddr>().ok()?.into(),
    };
    let is_mapped = network.addr() != network.addr().to_canonical();
    (network == network.trunc() && !is_mapped).then_some(network)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_has_one_spelling() {
        for (text, one_inside) in [
            ("10.0.0.0/8", "10.1.2.3"),
            ("192.0.2.1", "192.0.2.1"),
            ("192.0.2.1", "::ffff:192.0.2.1"),
            ("2001:db8::/32", "2001:db8::1"),
            ("::1", "::1"),
        ] {
            let networks = Networks(vec![network(text).unwrap()]);
            assert!(networks.contains(one_inside.parse().unwrap()), "{text}");
            assert!(!networks.contains("198.51.100.1".parse().unwrap()), "{text}");
        }
        for text in [
            "10.0.0.1/8",
            "10.0.0.0/33",
            "10.0.0.0/+8",
            "10.0.0.0/",
            "010.0.0.0/8",
            "10.0.0/8",
            "::ffff:10.0.0.0/104",
            "::ffff:10.0.0.1",
            "",
            "a",
            " 10.0.0.1",
        ] {
            assert_eq!(network(text), None, "{text}");
        }
    }
}
