//! The addresses that proxies add to a request: `Forwarded` (RFC 7239) and `X-Forwarded-For`.
//!
//! Each proxy appends the address that it saw. A client can send such a field itself, so only the end of a list can be
//! believed: lists are read from the right, and no byte changes the meaning of what is to its right.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A node of a forwarding list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ForwardedNode {
    /// An address, with or without a port.
    Address(IpAddr),
    /// `unknown`, an obfuscated identifier (RFC 7239 §6.2, §6.3), or a malformed value.
    Unidentified,
}

impl From<Option<IpAddr>> for ForwardedNode {
    fn from(address: Option<IpAddr>) -> Self {
        address.map_or(Self::Unidentified, Self::Address)
    }
}

/// The `for` nodes of one `Forwarded` field (RFC 7239 §4), last one first.
pub fn forwarded(field: &[u8]) -> impl Iterator<Item = ForwardedNode> {
    from_right(field, b',').map(|element| for_parameter(element).and_then(node).into())
}

/// The nodes of one `X-Forwarded-For` field, last one first. Proxies write addresses with or without a port, and IPv6
/// addresses with or without brackets.
pub fn x_forwarded_for(field: &[u8]) -> impl Iterator<Item = ForwardedNode> {
    let bare = |text: &str| text.parse::<Ipv6Addr>().ok().map(IpAddr::V6);
    from_right(field, b',').map(move |element| {
        let text = std::str::from_utf8(element).ok();
        text.and_then(|text| bare(text).or_else(|| node(text))).into()
    })
}

/// The address of the client: from the right, the first address that is not a trusted proxy's. `peer` is the address of
/// the connection. If a trusted proxy names no address, its own address is the nearest one that is known.
pub fn client_address(
    peer: IpAddr,
    mut nodes: impl Iterator<Item = ForwardedNode>,
    is_trusted: impl Fn(IpAddr) -> bool,
) -> IpAddr {
    let mut client = peer.to_canonical();
    while is_trusted(client)
        && let Some(ForwardedNode::Address(address)) = nodes.next()
    {
        client = address.to_canonical();
    }
    client
}

/// Splits at a separator outside quotation marks, from the right. Empty elements are skipped (RFC 9110 §5.6.1).
/// Quotation marks are matched from the right too, so that one that a client left open does not swallow what a proxy
/// appended.
fn from_right(text: &[u8], separator: u8) -> impl Iterator<Item = &[u8]> {
    let mut rest = Some(text);
    let pieces = std::iter::from_fn(move || {
        let text = rest?;
        let mut is_quoted = false;
        let cut = text.iter().rposition(|byte| {
            is_quoted ^= *byte == b'"';
            *byte == separator && !is_quoted
        });
        rest = cut.and_then(|cut| text.get(..cut));
        cut.map_or(Some(text), |cut| text.get(cut + 1..))
    });
    pieces.map(<[u8]>::trim_ascii).filter(|piece| !piece.is_empty())
}

/// The value of the only `for` parameter of a well-formed element (RFC 7239 §4).
fn for_parameter(element: &[u8]) -> Option<&str> {
    let mut found = None;
    for pair in from_right(element, b';') {
        let (name, value) = std::str::from_utf8(pair).ok()?.split_once('=')?;
        let quoted = value.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
        // No node has a character that would have to be escaped.
        let value = match quoted {
            Some(inner) => Some(inner).filter(|inner| !inner.contains(['"', '\\'])),
            None => Some(value).filter(|value| is_token(value)),
        }?;
        if !is_token(name) || (name.eq_ignore_ascii_case("for") && found.replace(value).is_some()) {
            return None;
        }
    }
    found
}

/// An address with an optional port (RFC 7239 §6).
fn node(text: &str) -> Option<IpAddr> {
    let (address, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (address, port) = rest.split_once(']')?;
            (IpAddr::V6(address.parse().ok()?), port)
        }
        None => {
            let (address, port) = text.split_at_checked(text.find(':').unwrap_or(text.len()))?;
            (IpAddr::V4(address.parse::<Ipv4Addr>().ok()?), port)
        }
    };
    let is_port = |port: &str| match port.strip_prefix('_') {
        Some(obfuscated) => {
            obfuscated.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
        }
        None => (1..=5).contains(&port.len()) && port.bytes().all(|byte| byte.is_ascii_digit()),
    };
    (port.is_empty() || port.strip_prefix(':').is_some_and(is_port)).then_some(address)
}

/// Whether a text is a `token` (RFC 9110 §5.6.2).
fn is_token(text: &str) -> bool {
    let is_mark = |byte: &u8| b"!#$%&'*+-.^_`|~".contains(byte);
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || is_mark(&byte))
}

#[cfg(test)]
mod tests {
    use super::ForwardedNode::{Address, Unidentified};
    use super::*;

    fn address(text: &str) -> ForwardedNode {
        Address(text.parse().unwrap())
    }

    #[test]
    fn a_forwarded_field_is_read_from_the_right() {
        for (field, nodes) in [
            ("for=192.0.2.60;proto=http;by=203.0.113.43", vec![address("192.0.2.60")]),
            ("For=\"[2001:db8:cafe::17]:4711\"", vec![address("2001:db8:cafe::17")]),
            ("for=192.0.2.43, for=198.51.100.17", vec![address("198.51.100.17"), address("192.0.2.43")]),
            (
                "for=192.0.2.43 ,\tFOR=\"[2001:db8::1]\" ; proto=https",
                vec![address("2001:db8::1"), address("192.0.2.43")],
            ),
            ("for=\"192.0.2.43:47011\"", vec![address("192.0.2.43")]),
            ("for=\"192.0.2.43:_port\",,", vec![address("192.0.2.43")]),
            ("for=_SEVKISEK, for=unknown, for=\"_a:_b\"", vec![Unidentified; 3]),
            ("", vec![]),
        ] {
            assert_eq!(forwarded(field.as_bytes()).collect::<Vec<_>>(), nodes, "{field}");
        }
    }

    #[test]
    fn malformed_elements_are_unidentified() {
        for element in [
            "192.0.2.1",
            "for",
            "for=",
            "for= 192.0.2.1",
            "for=192.0.2.1:80",
            "for=[2001:db8::1]",
            "for=\"2001:db8::1\"",
            "for=\"[fe80::1%eth0]\"",
            "for=\"[192.0.2.1]\"",
            "for=\"192.0.2.1:\"",
            "for=\"192.0.2.1:123456\"",
            "for=\"192.0.2.1:8o\"",
            "for=010.0.0.1",
            "for=0x0a.0.0.1",
            "for=167772161",
            "for=10.1",
            "for=192.0.2.1;for=192.0.2.2",
            "for=192.0.2.1;pro to=http",
            "for=192.0.2.1;host=a b",
            "for=\"192.0.2.1\\\"\"",
            "for=\"192.0.2.1",
            "for=192.0.2.1\"",
            "proto=https",
            "\u{0}",
        ] {
            assert_eq!(forwarded(element.as_bytes()).collect::<Vec<_>>(), [Unidentified], "{element}");
        }
        assert_eq!(forwarded(b"for=\xff").next(), Some(Unidentified));
    }

    #[test]
    fn what_a_client_sent_does_not_change_what_a_proxy_appended() {
        for sent in [
            "for=\"",
            "for=\"x",
            "\"",
            "\"\"\"",
            "\\",
            "for=\"\\",
            ";",
            "for=1.2.3.4;x=\"",
            "\u{e9}",
            "for=1.2.3.4;\"=",
        ] {
            for (appended, seen) in [
                ("for=203.0.113.7", "203.0.113.7"),
                ("for=\"[2001:db8::7]:443\";by=\"[2001:db8::8]\"", "2001:db8::7"),
            ] {
                let field = format!("{sent}, {appended}");
                assert_eq!(forwarded(field.as_bytes()).next(), Some(address(seen)), "{field}");
            }
        }
        assert_eq!(forwarded(b"\xff\", for=203.0.113.7").next(), Some(address("203.0.113.7")));
        assert_eq!(x_forwarded_for(b"\xff\", 203.0.113.7").next(), Some(address("203.0.113.7")));
    }

    #[test]
    fn x_forwarded_for_has_addresses_in_the_forms_that_proxies_write() {
        let field =
            "unknown, 192.0.2.1:8080,2001:db8::1 ,, [2001:db8::2], [2001:db8::3]:443, ::ffff:192.0.2.2";
        let nodes: Vec<_> = x_forwarded_for(field.as_bytes()).collect();
        assert_eq!(
            nodes,
            [
                address("::ffff:192.0.2.2"),
                address("2001:db8::3"),
                address("2001:db8::2"),
                address("2001:db8::1"),
                address("192.0.2.1"),
                Unidentified,
            ]
        );
        for element in
            ["010.0.0.1", "0x7f.1", "2130706433", "1.2.3", "[::1", "::1]:80", "fe80::1%1", "localhost", "_x"]
        {
            assert_eq!(x_forwarded_for(element.as_bytes()).collect::<Vec<_>>(), [Unidentified], "{element}");
        }
    }

    #[test]
    fn the_client_is_the_first_address_from_the_right_that_is_not_trusted() {
        let is_trusted = |address: IpAddr| address.to_string().starts_with("10.");
        let client = |peer: &str, field: &str| {
            client_address(peer.parse().unwrap(), x_forwarded_for(field.as_bytes()), is_trusted).to_string()
        };
        assert_eq!(client("192.0.2.9", "203.0.113.7"), "192.0.2.9", "the peer is no proxy");
        assert_eq!(client("10.0.0.1", ""), "10.0.0.1");
        assert_eq!(client("10.0.0.1", "203.0.113.7"), "203.0.113.7");
        assert_eq!(client("::ffff:10.0.0.1", "6.6.6.6, 203.0.113.7, ::ffff:10.0.0.2"), "203.0.113.7");
        assert_eq!(client("10.0.0.1", "6.6.6.6, nonsense, 10.0.0.2"), "10.0.0.2", "the walk ends");
        assert_eq!(client("10.0.0.1", "10.0.0.3, 10.0.0.2"), "10.0.0.3", "a request of a proxy itself");
        let long = format!("{}203.0.113.7", "6.6.6.6, ".repeat(2_000));
        assert_eq!(client("10.0.0.1", &long), "203.0.113.7");
    }
}
