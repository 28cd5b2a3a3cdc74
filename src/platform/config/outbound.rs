//! The section `outbound`, with the list of addresses that are not public and may be connected to.

use std::net::IpAddr;
use std::path::PathBuf;

use ipnet::IpNet;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::networks::{Networks, network};
use crate::platform::address_ranges::{is_network_never_reached, is_private};
use crate::platform::fault::Fault;

/// Requests of this server to issuers, providers, sinks and witnesses.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct OutboundConfig {
    /// Networks and host names that are not public and may be connected to.
    pub allow: AllowList,
    /// A PEM file with certificates of authorities that are trusted in addition to those of the system.
    pub ca_file: Option<PathBuf>,
}

impl OutboundConfig {
    /// Checks that each network can have an effect, and that none opens everything.
    pub(super) fn check(&self) -> Result<(), Fault> {
        if self.allow.networks().any(|network| network.prefix_len() == 0) {
            return Err(Fault::new(
                "outbound.allow: a network of all addresses would open every private address: write the networks or \
                 hosts that are needed, as in 10.0.0.0/8 or idp.corp.example.com",
            ));
        }
        if self.allow.networks().any(is_network_never_reached) {
            return Err(Fault::new(
                "outbound.allow: link-local addresses, metadata services of clouds, multicast addresses and IPv4 \
                 addresses inside IPv6 addresses are never connected to: remove their networks",
            ));
        }
        Ok(())
    }
}

/// Networks, and names of hosts in private networks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AllowList {
    networks: Networks,
    names: Vec<HostPattern>,
    /// The entries as they are written.
    texts: Vec<String>,
}

/// A host name, or all names below one.
#[derive(Debug, Clone, PartialEq, Eq)]
enum HostPattern {
    Exact(String),
    /// The suffix with its leading dot.
    Below(String),
}

impl AllowList {
    /// Whether a host may be connected to at an address that is not public. A network allows every host that is there. A
    /// name allows private addresses of that host alone: its DNS answers cannot lead to the machine itself.
    pub fn allows(&self, host: &str, address: IpAddr) -> bool {
        self.networks.contains(address)
            || (is_private(address) && self.names.iter().any(|name| name.matches(host)))
    }

    /// The list without its networks.
    pub fn names_only(&self) -> Self {
        Self { networks: Networks::default(), ..self.clone() }
    }

    pub fn networks(&self) -> impl Iterator<Item = IpNet> {
        self.networks.iter()
    }

    /// The entries as they are written.
    pub fn texts(&self) -> &[String] {
        &self.texts
    }
}

impl Serialize for AllowList {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        self.texts.serialize(to)
    }
}

impl<'de> Deserialize<'de> for AllowList {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let texts = Vec::<String>::deserialize(from)?;
        let unusable = || serde::de::Error::custom("neither a network nor a host name");
        let (mut networks, mut names) = (Vec::new(), Vec::new());
        for text in &texts {
            match (network(text), HostPattern::read(text)) {
                (Some(network), _) => networks.push(network),
                (None, Some(name)) => names.push(name),
                (None, None) => return Err(unusable()),
            }
        }
        Ok(Self { networks: Networks::of(networks), names, texts })
    }
}

impl HostPattern {
    /// Reads `idp.example.com` or `*.example.com`. A wildcard needs two labels: `*.com` would let strangers choose.
    fn read(text: &str) -> Option<Self> {
        let (is_wildcard, name) = match text.strip_prefix("*.") {
            Some(name) => (true, name),
            None => (false, text),
        };
        let labels: Vec<&str> = name.split('.').collect();
        // A URL whose last label begins with a digit can be an IPv4 address in another form (WHATWG URL §3.5).
        let is_numeric = labels.last()?.starts_with(|first: char| first.is_ascii_digit());
        let is_local = *labels.last()? == "localhost";
        let is_name = name.len() <= 253 && labels.iter().all(|label| is_label(label));
        if !is_name || is_numeric || is_local || (is_wildcard && labels.len() < 2) {
            return None;
        }
        Some(if is_wildcard { Self::Below(format!(".{name}")) } else { Self::Exact(name.to_owned()) })
    }

    /// `host` as in a parsed URL: in lower case.
    fn matches(&self, host: &str) -> bool {
        match self {
            Self::Exact(name) => host == name,
            Self::Below(suffix) => host.strip_suffix(suffix.as_str()).is_some_and(|rest| !rest.is_empty()),
        }
    }
}

/// RFC 1123 §2.1, in lower case.
fn is_label(label: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=63).contains(&label.len())
        && label.bytes().all(is_plain)
        && !label.starts_with('-')
        && !label.ends_with('-')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(entries: &[&str]) -> Option<AllowList> {
        let entries = entries.iter().map(|entry| toml::Value::String((*entry).to_owned())).collect();
        toml::Value::Array(entries).try_into().ok()
    }

    fn allows(entries: &[&str], host: &str, address: &str) -> bool {
        list(entries).unwrap().allows(host, address.parse().unwrap())
    }

    #[test]
    fn a_name_allows_private_addresses_of_that_host_alone() {
        let names = ["idp.corp.example", "*.svc.cluster.local", "keycloak"];
        for (host, address) in [
            ("idp.corp.example", "10.0.0.1"),
            ("idp.corp.example", "fd12::1"),
            ("idp.corp.example", "::ffff:10.0.0.1"),
            ("a.svc.cluster.local", "100.64.0.1"),
            ("a.b.svc.cluster.local", "192.168.0.1"),
            ("keycloak", "172.18.0.2"),
        ] {
            assert!(allows(&names, host, address), "{host} {address}");
        }
        for host in [
            "svc.cluster.local",
            ".svc.cluster.local",
            "xsvc.cluster.local",
            "corp.example",
            "a.idp.corp.example",
        ] {
            assert!(!allows(&names, host, "10.0.0.1"), "{host}");
        }
        for address in [
            "127.0.0.1",
            "::1",
            "169.254.169.254",
            "fd00:ec2::254",
            "fe80::1",
            "0.0.0.0",
            "64:ff9b::a00:1",
            "192.0.2.1",
        ] {
            assert!(!allows(&names, "idp.corp.example", address), "{address}");
        }
    }

    #[test]
    fn a_network_allows_what_is_in_it() {
        let networks = ["10.1.0.0/16", "127.0.0.1", "fd12::/16"];
        for address in ["10.1.2.3", "127.0.0.1", "fd12::1", "::ffff:10.1.2.3"] {
            assert!(allows(&networks, "any.example", address), "{address}");
            assert!(!list(&networks).unwrap().names_only().allows("any.example", address.parse().unwrap()));
        }
        for address in ["10.2.0.1", "127.0.0.2", "fd13::1"] {
            assert!(!allows(&networks, "any.example", address), "{address}");
        }
    }

    #[test]
    fn an_entry_is_a_network_or_a_name() {
        for entry in [
            "",
            "*",
            "*.com",
            "*.*.corp.example",
            "a.*.example",
            "*corp.example",
            "https://idp.corp.example",
            "idp.corp.example:8443",
            "idp.corp.example/",
            "idp.corp.example.",
            ".corp.example",
            "-a.example",
            "IDP.corp.example",
            "b\u{fc}cher.example",
            "localhost",
            "a.localhost",
            "10.0.0.0/33",
            "10.0.0.1/8",
            "010.0.0.1",
            "0x7f.1",
            "10.1",
            "2130706433",
            "::ffff:10.0.0.1",
            "[::1]",
        ] {
            assert_eq!(list(&[entry]), None, "{entry}");
        }
    }
}
