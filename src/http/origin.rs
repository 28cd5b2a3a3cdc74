//! Where a request comes from: the client's address, the request id and the trace. Header fields are believed from
//! trusted proxies alone, because clients can send them too.

use std::net::IpAddr;

use actix_web::http::header::{HeaderMap, HeaderName, HeaderValue, USER_AGENT};

use crate::domain::audit::RequestOrigin;
use crate::platform::clock::Stopwatch;
use crate::platform::config::Networks;
use actchain_protocol::forwarded::{client_address, forwarded, x_forwarded_for};
use actchain_protocol::trace_context;

const FORWARDED: HeaderName = HeaderName::from_static("forwarded");
const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
pub(super) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const MAX_USER_AGENT: usize = 256;
/// Longest request id that is taken over.
const MAX_REQUEST_ID: usize = 128;

/// The connection of a request, and the id that the server generated for it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Received<'a> {
    pub(super) peer: Option<IpAddr>,
    pub(super) headers: &'a HeaderMap,
    pub(super) own_id: Option<&'a str>,
}

impl Received<'_> {
    pub(super) fn origin(self, trusted: &Networks) -> RequestOrigin {
        let Self { peer, headers, own_id } = self;
        let user_agent = headers.get(USER_AGENT).and_then(|value| value.to_str().ok());
        let cut = |text: &str| text.chars().take(MAX_USER_AGENT).collect();
        let is_proxied = peer.is_some_and(|peer| trusted.contains(peer));
        let from_proxy = |name| is_proxied.then(|| only(headers, name)).flatten();
        let request_id = from_proxy(REQUEST_ID).filter(|id| is_request_id(id)).or(own_id);
        RequestOrigin {
            request_id: request_id.map(str::to_owned),
            trace_id: from_proxy(TRACEPARENT).and_then(trace_context::trace_id).map(str::to_owned),
            ip: peer.map(|peer| address(peer, headers, trusted)),
            user_agent: user_agent.map(cut),
            stopwatch: Some(Stopwatch::start()),
        }
    }
}

/// The client's address. A proxy that appends to one of the two fields passes the other one on as the client sent it. If
/// both are there and differ, either can be forged, and the peer is the only certain address.
fn address(peer: IpAddr, headers: &HeaderMap, trusted: &Networks) -> IpAddr {
    let is_trusted = |one| trusted.contains(one);
    let fields = |name| headers.get_all(name).rev().map(HeaderValue::as_bytes);
    let by_standard = || client_address(peer, fields(FORWARDED).flat_map(forwarded), is_trusted);
    let by_custom = || client_address(peer, fields(X_FORWARDED_FOR).flat_map(x_forwarded_for), is_trusted);
    match (headers.contains_key(FORWARDED), headers.contains_key(X_FORWARDED_FOR)) {
        (true, false) => by_standard(),
        (false, _) => by_custom(),
        (true, true) => {
            let (one, other) = (by_standard(), by_custom());
            if one == other { one } else { peer.to_canonical() }
        }
    }
}

/// The value of a field that is there once.
fn only(headers: &HeaderMap, name: HeaderName) -> Option<&str> {
    let mut fields = headers.get_all(name);
    fields.next().filter(|_| fields.next().is_none())?.to_str().ok()
}

/// Characters that need no escaping in log lines, in JSON and in CSV, and with which no formula begins.
fn is_request_id(id: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:/".contains(&byte);
    (1..=MAX_REQUEST_ID).contains(&id.len())
        && id.bytes().all(is_plain)
        && id.starts_with(|first: char| first.is_ascii_alphanumeric())
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: &str = "own";
    const TRACE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn origin(peer: &str, fields: &[(&str, &[u8])]) -> RequestOrigin {
        let trusted = toml::from_str::<toml::Table>("n = [\"10.0.0.0/8\", \"2001:db8:aa::/48\"]").unwrap();
        let trusted: Networks = trusted["n"].clone().try_into().unwrap();
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(HeaderName::try_from(*name).unwrap(), HeaderValue::from_bytes(value).unwrap());
        }
        Received { peer: Some(peer.parse().unwrap()), headers: &headers, own_id: Some(OWN) }.origin(&trusted)
    }

    fn ip(peer: &str, fields: &[(&str, &[u8])]) -> String {
        origin(peer, fields).ip.unwrap().to_string()
    }

    #[test]
    fn fields_of_an_untrusted_peer_change_nothing() {
        for name in
            ["forwarded", "x-forwarded-for", "x-real-ip", "true-client-ip", "cf-connecting-ip", "client-ip"]
        {
            let sent: [(&str, &[u8]); 3] = [
                (name, b"for=198.51.100.1, 198.51.100.1"),
                ("x-request-id", b"forged"),
                ("traceparent", TRACE.as_bytes()),
            ];
            for peer in ["192.0.2.1", "2001:db8:ab::1", "11.0.0.1"] {
                let origin = origin(peer, &sent);
                assert_eq!(origin.ip, Some(peer.parse().unwrap()), "{name}");
                assert_eq!((origin.request_id.as_deref(), origin.trace_id), (Some(OWN), None));
            }
        }
    }

    #[test]
    fn a_trusted_proxy_names_the_client() {
        for (peer, fields, client) in [
            ("10.0.0.1", vec![("x-forwarded-for", "198.51.100.1")], "198.51.100.1"),
            ("::ffff:10.0.0.1", vec![("x-forwarded-for", "198.51.100.1")], "198.51.100.1"),
            ("2001:db8:aa::1", vec![("forwarded", "for=\"[2001:db8::7]:80\"")], "2001:db8::7"),
            ("10.0.0.1", vec![("x-forwarded-for", "6.6.6.6, 198.51.100.1, 10.0.0.2")], "198.51.100.1"),
            (
                "10.0.0.1",
                vec![("x-forwarded-for", "6.6.6.6"), ("x-forwarded-for", "198.51.100.1")],
                "198.51.100.1",
            ),
            (
                "10.0.0.1",
                vec![("forwarded", "for=6.6.6.6"), ("forwarded", "for=198.51.100.1")],
                "198.51.100.1",
            ),
            ("10.0.0.1", vec![("forwarded", "for=unknown")], "10.0.0.1"),
            ("10.0.0.1", vec![("forwarded", "for=198.51.100.1, for=_hidden, for=10.0.0.2")], "10.0.0.2"),
            ("10.0.0.1", vec![("x-real-ip", "198.51.100.1")], "10.0.0.1"),
        ] {
            let sent: Vec<_> = fields.iter().map(|(name, value)| (*name, value.as_bytes())).collect();
            assert_eq!(ip(peer, &sent), client, "{fields:?}");
        }
    }

    #[test]
    fn fields_that_contradict_each_other_leave_the_address_of_the_proxy() {
        let both = |standard: &str, custom: &str| {
            ip("10.0.0.1", &[("forwarded", standard.as_bytes()), ("x-forwarded-for", custom.as_bytes())])
        };
        assert_eq!(both("for=198.51.100.1", "198.51.100.1"), "198.51.100.1");
        assert_eq!(both("for=6.6.6.6", "198.51.100.1"), "10.0.0.1");
        assert_eq!(both("for=198.51.100.1", "6.6.6.6"), "10.0.0.1");
        assert_eq!(both("", "198.51.100.1"), "10.0.0.1");
        assert_eq!(both("for=198.51.100.1", "unknown"), "10.0.0.1");
    }

    #[test]
    fn long_and_many_fields_are_read_to_their_end() {
        let long = format!("{}198.51.100.1", "6.6.6.6, ".repeat(1_200));
        assert!(long.len() > 10_000);
        assert_eq!(ip("10.0.0.1", &[("x-forwarded-for", long.as_bytes())]), "198.51.100.1");
        let noise = vec![b'"'; 10_000];
        assert_eq!(ip("10.0.0.1", &[("forwarded", &noise)]), "10.0.0.1");
        let mut many: Vec<(&str, &[u8])> = vec![("forwarded", b"for=6.6.6.6"); 500];
        many.push(("forwarded", b"for=198.51.100.1"));
        assert_eq!(ip("10.0.0.1", &many), "198.51.100.1");
        assert_eq!(ip("10.0.0.1", &[("x-forwarded-for", b"198.51.100.1\xff")]), "10.0.0.1");
    }

    #[test]
    fn a_request_id_and_a_trace_of_a_proxy_are_taken_over_if_they_are_well_formed() {
        let ids = |fields: &[(&str, &[u8])]| {
            let origin = origin("10.0.0.1", fields);
            (origin.request_id.unwrap(), origin.trace_id)
        };
        let trace = Some("4bf92f3577b34da6a3ce929d0e0e4736".to_owned());
        let good: [(&str, &[u8]); 2] = [("x-request-id", b"a1-B_2.c:3/4"), ("traceparent", TRACE.as_bytes())];
        assert_eq!(ids(&good), ("a1-B_2.c:3/4".to_owned(), trace));
        let long = "a".repeat(MAX_REQUEST_ID + 1);
        for id in ["", "a b", "a\tb", "a\"b", "a,b", "=1", "-1", "{x}", "\\n", long.as_str()] {
            assert_eq!(ids(&[("x-request-id", id.as_bytes())]).0, OWN, "{id}");
        }
        assert_eq!(ids(&[("x-request-id", b"\x80")]).0, OWN);
        assert_eq!(ids(&[("x-request-id", b"a"), ("x-request-id", b"b")]).0, OWN);
        assert_eq!(ids(&[("traceparent", b"00-x")]).1, None);
        assert_eq!(ids(&[("traceparent", TRACE.as_bytes()), ("traceparent", TRACE.as_bytes())]).1, None);
    }
}
