//! The header fields that a proxy forwards (RFC 9110 §7.6). Of a request, fields known to be harmless. Of a response,
//! all fields except those that concern one connection, authenticate, apply to the origin of another server, or
//! instruct a server in front of this one.

use std::collections::BTreeSet;

use url::Url;

/// A header field: its name in lower case, and its value.
type Field = (String, Vec<u8>);

/// RFC 9110 §7.6.1, and fields that older software treats as hop-by-hop.
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

/// Request fields that are forwarded to every host. An allow-list: servers may interpret unknown fields as the method,
/// the path, the host or the client of a request.
const ONWARD: [&str; 33] = [
    "accept",
    "accept-charset",
    "accept-encoding",
    "accept-language",
    "cache-control",
    "content-digest",
    "content-disposition",
    "content-encoding",
    "content-language",
    "content-md5",
    "content-range",
    "content-type",
    "date",
    "digest",
    "idempotency-key",
    "if-match",
    "if-modified-since",
    "if-none-match",
    "if-range",
    "if-unmodified-since",
    "link",
    "mime-version",
    "pragma",
    "prefer",
    "priority",
    "range",
    "repr-digest",
    "slug",
    "traceparent",
    "tracestate",
    "user-agent",
    "x-correlation-id",
    "x-request-id",
];

/// Request fields that a provider cannot declare for forwarding. They identify a client or user on the way to this
/// server, or would make the receiver use another method or path than the one that was authorized.
const NOT_ONWARD: [&str; 13] = [
    "host",
    "x-host",
    "authorization",
    "dpop",
    "cookie",
    "cookie2",
    "expect",
    "forwarded",
    "from",
    "origin",
    "referer",
    "via",
    "max-forwards",
];
const NOT_ONWARD_BEGINNINGS: [&str; 7] =
    ["proxy-", "sec-", "x-forwarded", "x-original", "x-rewrite", "x-accel-", "x-sendfile"];
const NOT_ONWARD_PARTS: [&str; 4] = ["method", "override", "real-ip", "client-ip"];

/// Response fields that concern only the provider and this server, or that a browser would attribute to this server:
/// cookies, challenges, and policies of an origin.
const NOT_BACK: [&str; 18] = [
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
    // Redirects a browser, as `Location` does.
    "refresh",
    // Instructions to a server in front of this one, which would obey them: to send a file or another address instead.
    "x-sendfile",
    "x-lighttpd-send-file",
    "x-lighttpd-send-tempfile",
];
const NOT_BACK_BEGINNINGS: [&str; 6] =
    ["proxy-", "access-control-", "x-accel-", "x-reproxy-", "x-sendfile", "surrogate-"];

/// Names that a `Connection` field lists, in lower case.
fn listed<'a>(fields: &'a [Field]) -> Vec<String> {
    let values = fields.iter().filter(|(name, _)| name == "connection");
    let names = values.flat_map(|(_, value): &'a Field| value.split(|byte| *byte == b','));
    names.map(|name| String::from_utf8_lossy(name).trim().to_ascii_lowercase()).collect()
}

/// Whether a credential may be sent in this field: not in a field for framing or routing.
pub fn may_carry(name: &str) -> bool {
    !HOP_BY_HOP.contains(&name) && !["host", "expect"].contains(&name)
}

/// Letters, digits and hyphens only: many servers treat `_` as `-`, or ignore other characters.
fn is_plain_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

/// Whether a provider can declare that a request field, in lower case, is forwarded to its hosts.
pub fn may_be_declared(name: &str) -> bool {
    is_plain_name(name)
        && name.len() <= 64
        && !HOP_BY_HOP.contains(&name)
        && !NOT_ONWARD.contains(&name)
        && !NOT_ONWARD_BEGINNINGS.iter().any(|beginning| name.starts_with(beginning))
        && !NOT_ONWARD_PARTS.iter().any(|part| name.contains(part))
}

/// The request fields that are forwarded: the usual fields, and those that the provider declares. `own` is the field
/// for the credential, which is left out.
pub fn onward(fields: Vec<Field>, own: &str, declared: &BTreeSet<String>) -> Vec<Field> {
    let listed = listed(&fields);
    let goes = |name: &str| {
        (ONWARD.contains(&name) || (declared.contains(name) && may_be_declared(name)))
            && !name.eq_ignore_ascii_case(own)
            && !listed.iter().any(|one| one == name)
    };
    fields.into_iter().filter(|(name, _)| goes(name)).collect()
}

/// The response fields that are returned for a request to `url`. Leaves out fields that contain one of the secrets,
/// and locations in another origin.
pub fn back(fields: Vec<Field>, url: &Url, secrets: &[&str]) -> Vec<Field> {
    let listed = listed(&fields);
    let stays = |name: &str, value: &[u8]| {
        !is_plain_name(name)
            || HOP_BY_HOP.contains(&name)
            || NOT_BACK.contains(&name)
            || NOT_BACK_BEGINNINGS.iter().any(|beginning| name.starts_with(beginning))
            || listed.iter().any(|one| one == name)
            || secrets.iter().any(|secret| contains(name.as_bytes(), secret) || contains(value, secret))
            || (["location", "content-location"].contains(&name) && !within_origin(url, value))
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
            ("connection", "close, Prefer"),
            ("connection", "x-other"),
            ("prefer", "1"),
            ("x-other", "2"),
            ("x-kept", "3"),
            ("x-api-key", "the agent's"),
            ("x-forwarded-for", "192.0.2.1"),
            ("proxy-authorization", "x"),
            ("idempotency-key", "k"),
        ]);
        let declared = ["x-kept", "x-other", "x-api-key"].map(str::to_owned).into();
        let kept = fields(&[("x-kept", "3"), ("idempotency-key", "k")]);
        assert_eq!(onward(sent, "X-Api-Key", &declared), kept);
    }

    #[test]
    fn only_known_fields_go_out_however_others_are_spelled() {
        let names = [
            "x_http_method_override",
            "x-http_method-override",
            "x-http-method-override",
            "x-http-method",
            "x-method-override",
            "x-original-uri",
            "x-original-url",
            "x_original_url",
            "x-rewrite-url",
            "x-accel-redirect",
            "x-forwarded",
            "x-forwarded-prefix",
            "x-real-ip",
            "true-client-ip",
            "x-host",
            "content_type",
            "sec-fetch-site",
            "x.y",
        ];
        let sent: Vec<Field> = names.iter().map(|name| ((*name).to_owned(), b"/admin".to_vec())).collect();
        assert_eq!(onward(sent.clone(), "authorization", &BTreeSet::new()), []);
        let declared: BTreeSet<String> = names.iter().map(|name| (*name).to_owned()).collect();
        assert_eq!(onward(sent, "authorization", &declared), []);
        for name in ["notion-version", "x-github-api-version", "consistencylevel"] {
            assert!(may_be_declared(name), "{name}");
        }
        assert!(ONWARD.iter().all(|name| may_be_declared(name)));
    }

    #[test]
    fn no_field_with_a_secret_or_a_location_elsewhere_is_returned() {
        let url = Url::parse("https://api.example.com/v1/x").unwrap();
        let kept =
            |name: &str, value: &str| !back(fields(&[(name, value)]), &url, &["s3cr3t", ""]).is_empty();
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
            ("content-location", "https://evil.example/"),
            ("refresh", "0; url=https://evil.example/"),
            ("x-accel-redirect", "/internal"),
            ("x-accel-buffering", "no"),
            ("x-sendfile", "/etc/passwd"),
            ("x-reproxy-url", "http://127.0.0.1/"),
            ("x_accel_redirect", "/internal"),
        ] {
            assert!(!kept(name, value), "{name}: {value}");
        }
    }
}
