//! What an intermediary passes on of a message's header (RFC 9110 §7.6): nothing that concerns one connection, nothing that
//! authenticates somebody to somebody else, and nothing that speaks for the origin of another server.

use url::Url;

/// RFC 9110 §7.6.1, with what older software takes for one of them.
const HOP_BY_HOP: [&str; 9] = [
    "connection",
    "keep-alive",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "http2-settings",
    "content-length",
    "via",
];

/// Who somebody is, or is said to be, on the way to us; and what would have the receiver read another method or path than
/// the ones that were judged.
const NOT_ONWARD: [&str; 14] = [
    "host",
    "authorization",
    "dpop",
    "cookie",
    "cookie2",
    "expect",
    "forwarded",
    "x-real-ip",
    "x-http-method-override",
    "x-http-method",
    "x-method-override",
    "x-original-url",
    "x-rewrite-url",
    "x-original-host",
];

/// What is between us and the receiver, or would be taken for ours: its sessions, its challenges, and what it tells
/// browsers of its origin.
const NOT_BACK: [&str; 14] = [
    "set-cookie",
    "set-cookie2",
    "www-authenticate",
    "authentication-info",
    "authentication-control",
    "dpop-nonce",
    "alt-svc",
    "strict-transport-security",
    "public-key-pins",
    "clear-site-data",
    "nel",
    "report-to",
    "reporting-endpoints",
    "service-worker-allowed",
];

/// Names that a `Connection` field lists, in lower case.
fn listed<'a>(fields: &'a [(String, Vec<u8>)]) -> Vec<String> {
    let values = fields.iter().filter(|(name, _)| name == "connection");
    let names = values.flat_map(|(_, value): &'a (String, Vec<u8>)| value.split(|byte| *byte == b','));
    names.map(|name| String::from_utf8_lossy(name).trim().to_ascii_lowercase()).collect()
}

/// Whether a field can carry a credential: not one by which messages are framed or find their way.
pub fn may_carry(name: &str) -> bool {
    !HOP_BY_HOP.contains(&name) && !["host", "expect"].contains(&name)
}

/// What of a request is passed on. `own` is the field that the credential goes into.
pub fn onward(fields: Vec<(String, Vec<u8>)>, own: &str) -> Vec<(String, Vec<u8>)> {
    let listed = listed(&fields);
    let stays = |name: &str| {
        HOP_BY_HOP.contains(&name)
            || NOT_ONWARD.contains(&name)
            || name.starts_with("proxy-")
            || name.starts_with("x-forwarded-")
            || name.eq_ignore_ascii_case(own)
            || listed.iter().any(|one| one == name)
    };
    fields.into_iter().filter(|(name, _)| !stays(name)).collect()
}

/// What of an answer to a request for a URL is passed back: nothing in which one of the secrets stands, and no way to
/// another origin.
pub fn back(fields: Vec<(String, Vec<u8>)>, (url, secrets): (&Url, &[&str])) -> Vec<(String, Vec<u8>)> {
    let listed = listed(&fields);
    let stays = |name: &str, value: &[u8]| {
        HOP_BY_HOP.contains(&name)
            || NOT_BACK.contains(&name)
            || name.starts_with("proxy-")
            || name.starts_with("access-control-")
            || listed.iter().any(|one| one == name)
            || secrets.iter().any(|secret| contains(name.as_bytes(), secret) || contains(value, secret))
            || (name == "location" && !within_origin(url, value))
    };
    fields.into_iter().filter(|(name, value)| !stays(name, value)).collect()
}

fn contains(text: &[u8], secret: &str) -> bool {
    !secret.is_empty() && text.windows(secret.len()).any(|part| part.eq_ignore_ascii_case(secret.as_bytes()))
}

/// RFC 9110 §10.2.2: `Location` may be relative.
fn within_origin(url: &Url, location: &[u8]) -> bool {
    let location = std::str::from_utf8(location).ok().and_then(|location| url.join(location).ok());
    location.is_some_and(|location| location.origin() == url.origin() && location.username().is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(names: &[(&str, &str)]) -> Vec<(String, Vec<u8>)> {
        names.iter().map(|(name, value)| ((*name).to_owned(), value.as_bytes().to_vec())).collect()
    }

    #[test]
    fn what_a_connection_field_names_goes_no_further() {
        let sent = fields(&[
            ("connection", "close, X-Hop"),
            ("connection", "x-other"),
            ("x-hop", "1"),
            ("x-other", "2"),
            ("x-kept", "3"),
            ("x-api-key", "the agent's"),
            ("x-forwarded-for", "192.0.2.1"),
            ("proxy-authorization", "x"),
            ("idempotency-key", "k"),
        ]);
        assert_eq!(onward(sent, "X-Api-Key"), fields(&[("x-kept", "3"), ("idempotency-key", "k")]));
    }

    #[test]
    fn nothing_comes_back_that_holds_a_secret_or_leads_elsewhere() {
        let url = Url::parse("https://api.example.com/v1/x").unwrap();
        let kept =
            |name: &str, value: &str| !back(fields(&[(name, value)]), (&url, &["s3cr3t", ""])).is_empty();
        for (name, value) in [
            ("location", "/v2"),
            ("location", "y?z"),
            ("location", "https://api.example.com:443/a"),
            ("etag", "\"1\""),
        ] {
            assert!(kept(name, value), "{name}: {value}");
        }
        for (name, value) in [
            ("location", "//evil.example/"),
            ("location", "https://evil.example/"),
            ("location", "http://api.example.com/"),
            ("location", "\\\\evil.example/"),
            ("location", "https://u@api.example.com/"),
            ("x-echo", "Bearer s3cr3t"),
            ("x-echo", "bearer S3CR3T;"),
            ("set-cookie", "a=b"),
            ("access-control-allow-origin", "*"),
            ("www-authenticate", "Bearer"),
        ] {
            assert!(!kept(name, value), "{name}: {value}");
        }
    }
}
