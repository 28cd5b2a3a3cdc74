//! The target of a request through the proxy, and whether it is allowed. An ambiguous path is refused, never
//! normalized.

use std::fmt::Write as _;

use unicode_normalization::UnicodeNormalization as _;
use url::Url;
use uuid::Uuid;

use crate::domain::provider::{CredentialPlacement, origin};
use actchain_protocol::authorization_details::Detail;

/// Maximum number of path segments in the log.
const MOST_SEGMENTS: usize = 32;
/// A longer segment is not logged as a name.
const LONGEST_NAME: usize = 24;
/// How often intermediaries may unescape a path.
const DEPTH: usize = 4;

/// The request line of a request below `/vault/proxy/{connection}/`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProxyTarget<'a> {
    pub method: &'a str,
    /// Host, with the port if it is not the default.
    pub host: &'a str,
    /// Path at the host, still escaped.
    pub path: &'a str,
    /// Query, still escaped.
    pub query: Option<&'a str>,
}

impl<'a> ProxyTarget<'a> {
    /// Splits the path after the connection: the first segment is the host.
    pub fn read(method: &'a str, rest: &'a str, query: Option<&'a str>) -> Self {
        let at = rest.find('/');
        let (host, path) = at.and_then(|at| rest.split_at_checked(at)).unwrap_or((rest, "/"));
        Self { method, host, path, query }
    }

    /// The URL, if the provider's settings allow it.
    pub fn url(&self, placement: &CredentialPlacement) -> Option<Url> {
        let named = |origin: &String| {
            let authority = origin.split_once("://").map(|(_, authority)| authority);
            authority.is_some_and(|authority| authority.eq_ignore_ascii_case(self.host))
        };
        // Of two origins that differ only in the scheme, https is used.
        let origin = placement.hosts.iter().filter_map(|host| origin(host)).filter(named).max()?;
        let method = placement.methods.is_empty() || placement.methods.contains(self.method);
        let path = placement.paths.is_empty()
            || placement.paths.iter().any(|beginning| lies_under(self.path, beginning));
        if !method || !path || !is_plain(self.path) {
            return None;
        }
        let query = self.query.map(|query| format!("?{query}")).unwrap_or_default();
        let url = Url::parse(&format!("{origin}{}{query}", self.path)).ok()?;
        // The request has to go exactly to the checked URL.
        let same = url.path() == self.path && url.origin().ascii_serialization() == origin;
        same.then_some(url)
    }

    /// Whether an object of authorization details allows the request by its `actions` and `locations`, where present.
    pub fn is_allowed_by(&self, url: &Url, detail: &Detail) -> bool {
        let action = detail.lists.get("actions").is_none_or(|actions| {
            actions.contains("proxy") || actions.contains(&format!("proxy:{}", self.method))
        });
        let location = detail
            .lists
            .get("locations")
            .is_none_or(|locations| locations.iter().any(|location| covers(location, url)));
        action && location
    }

    /// The host for the log, if it has only characters of a host; otherwise a placeholder.
    pub fn host_name(&self) -> &'a str {
        let is_name = self.host.len() <= 255
            && self.host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-:[]".contains(&byte));
        if is_name { self.host } else { "{}" }
    }

    /// The path for the log, with placeholders for ids and for other segments that may identify an object or a
    /// person.
    pub fn template(&self) -> String {
        let mut template = String::new();
        let mut segments = self.path.split('/').skip(1);
        for segment in segments.by_ref().take(MOST_SEGMENTS) {
            let shown = if is_name(segment) { segment } else { "{}" };
            // Writing to a string does not fail.
            let _ = write!(template, "/{shown}");
        }
        if segments.next().is_some() {
            template.push_str("/...");
        }
        template
    }
}

/// Whether a segment is a fixed name of the API, not the id of an object.
fn is_name(segment: &str) -> bool {
    let plain = segment.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._~:".contains(&byte));
    let number = !segment.is_empty() && segment.bytes().all(|byte| byte.is_ascii_digit());
    let digest = segment.len() >= 8
        && segment.bytes().all(|byte| byte.is_ascii_hexdigit())
        && segment.bytes().any(|byte| byte.is_ascii_digit());
    plain && segment.len() <= LONGEST_NAME && !number && !digest && Uuid::try_parse(segment).is_err()
}

/// Whether a path begins with `beginning`, in whole segments.
fn lies_under(path: &str, beginning: &str) -> bool {
    path.strip_prefix(beginning)
        .is_some_and(|rest| rest.is_empty() || beginning.ends_with('/') || rest.starts_with('/'))
}

/// Whether a location (RFC 9396 §2.2), an origin with a path prefix, covers a URL. A location that is not a
/// normalized URL covers nothing.
fn covers(location: &str, url: &Url) -> bool {
    let Ok(parsed) = Url::parse(location) else { return false };
    let normal = parsed.as_str() == location || parsed.as_str().strip_suffix('/') == Some(location);
    normal
        && parsed.query().is_none()
        && parsed.fragment().is_none()
        && parsed.username().is_empty()
        && parsed.password().is_none()
        && parsed.origin() == url.origin()
        && lies_under(url.path(), parsed.path())
}

/// Whether all servers read a path alike: no dot segments and no alternative slashes, in any encoding.
fn is_plain(path: &str) -> bool {
    let Some(path) = path.strip_prefix('/') else { return false };
    // A trailing slash is allowed: many servers distinguish it.
    let path = path.strip_suffix('/').unwrap_or(path);
    let bare = path.is_empty();
    bare || path.split('/').all(is_plain_segment)
}

fn is_plain_segment(segment: &str) -> bool {
    // RFC 3986 §3.3.
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@%".contains(&byte);
    if !segment.bytes().all(allowed) || !has_whole_escapes(segment) {
        return false;
    }
    let mut text = segment.to_owned();
    for _ in 0..DEPTH {
        // Some servers remove path parameters before they resolve dot segments.
        let stem = text.split(';').next().unwrap_or_default();
        if matches!(stem.trim(), "" | "." | "..") {
            return false;
        }
        match unescaped(&text).filter(|text| !text.chars().any(is_syntax)) {
            None => return false,
            Some(next) if next == text => return true,
            Some(next) => text = next,
        }
    }
    false
}

/// Whether some servers may read a non-ASCII character as path syntax. They may do so by compatibility (NFKC, Unicode
/// Standard Annex #15), such as the full-width full stop, or by appearance.
fn is_syntax(letter: char) -> bool {
    // Fraction slash, division slash, big solidus; set minus, big reverse solidus: Windows code pages map them to
    // slashes.
    const LOOKALIKES: [char; 6] = ['\u{2044}', '\u{2215}', '\u{29f8}', '\u{2216}', '\u{29f5}', '\u{29f9}'];
    !letter.is_ascii()
        && (LOOKALIKES.contains(&letter)
            || std::iter::once(letter).nfkc().any(|plain| {
                "./\\;%?#".contains(plain)
                    || plain.is_control()
                    || (plain.is_whitespace() && plain != '\u{20}')
            }))
}

fn has_whole_escapes(segment: &str) -> bool {
    segment
        .split('%')
        .skip(1)
        .all(|after| after.get(..2).is_some_and(|hex| hex.bytes().all(|byte| byte.is_ascii_hexdigit())))
}

/// Unescapes once; `None` if the result has path syntax or is not UTF-8.
fn unescaped(text: &str) -> Option<String> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('%') {
        out.extend_from_slice(before.as_bytes());
        let hex = after.get(..2).filter(|hex| hex.bytes().all(|byte| byte.is_ascii_hexdigit()));
        match hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) if byte.is_ascii_control() || b"./\\;".contains(&byte) => return None,
            Some(byte) => {
                out.push(byte);
                rest = after.get(2..)?;
            }
            None => {
                out.push(b'%');
                rest = after;
            }
        }
    }
    out.extend_from_slice(rest.as_bytes());
    String::from_utf8(out).ok()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;
    use actchain_protocol::authorization_details::Details;

    fn set(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    fn placement(hosts: &[&str], methods: &[&str], paths: &[&str]) -> CredentialPlacement {
        CredentialPlacement {
            header: "authorization".into(),
            scheme: "Bearer".into(),
            request_headers: BTreeSet::new(),
            hosts: set(hosts),
            methods: set(methods),
            paths: set(paths),
        }
    }

    fn url(placement: &CredentialPlacement, rest: &str) -> Option<String> {
        ProxyTarget::read("GET", rest, None).url(placement).map(String::from)
    }

    #[test]
    fn the_first_segment_names_one_of_the_hosts() {
        let hosts =
            placement(&["api.example.com", "http://127.0.0.1:8081", "https://b.example.com:8443"], &[], &[]);
        for (rest, expected) in [
            ("api.example.com/v1/x", "https://api.example.com/v1/x"),
            ("API.example.com/v1/", "https://api.example.com/v1/"),
            ("api.example.com", "https://api.example.com/"),
            ("api.example.com/", "https://api.example.com/"),
            ("127.0.0.1:8081/x", "http://127.0.0.1:8081/x"),
            ("b.example.com:8443/x", "https://b.example.com:8443/x"),
        ] {
            assert_eq!(url(&hosts, rest).as_deref(), Some(expected), "{rest}");
        }
        for rest in [
            "",
            "/",
            "/v1",
            "evil.example.com/",
            "api.example.com:443/",
            "api.example.com:8443/",
            "api.example.com./",
            "u@api.example.com/",
            "api.example.com@evil.example.com/",
            "api.example.com%2fx/",
            "https://api.example.com/",
            "127.0.0.1/x",
            "2130706433:8081/",
        ] {
            assert_eq!(url(&hosts, rest), None, "{rest}");
        }
        assert_eq!(url(&placement(&[], &[], &[]), "api.example.com/"), None, "no hosts allow nothing");
    }

    #[test]
    fn paths_that_can_be_read_in_two_ways_are_refused() {
        let below = placement(&["a.example"], &[], &["/v1/"]);
        for path in [
            "v1/../admin",
            "v1/..",
            "v1/.",
            "v1/./x",
            "v1/%2e%2e/admin",
            "v1/%2E%2E/admin",
            "v1/.%2e/admin",
            "v1/%252e%252e/admin",
            "v1/%25252e/admin",
            "v1/%25%32%65/admin",
            "v1/a%2fb",
            "v1/a%2Fb",
            "v1/a%5cb",
            "v1/a%255cb",
            "v1/a\\b",
            "v1/..\\admin",
            "v1//admin",
            "v1/a//",
            "v1/..;/admin",
            "v1/..;x=y/admin",
            "v1/..%3b/admin",
            "v1/;/admin",
            "v1/.%20/admin",
            "v1/%00",
            "v1/a%0d%0ab",
            "v1/%c0%ae%c0%ae/admin",
            "v1/%u002e",
            // Full-width full stops and a full-width slash; a full-width percent sign; leaders and ellipsis;
            // lookalikes.
            "v1/%EF%BC%8E%EF%BC%8E%EF%BC%8Fadmin",
            "v1/%EF%BC%8E%EF%BC%8E/admin",
            "v1/%25EF%25BC%258E%25EF%25BC%258E/admin",
            "v1/%EF%BC%852e%EF%BC%852e/admin",
            "v1/%E2%80%A5/admin",
            "v1/a%E2%80%A6",
            "v1/a%EF%BC%BCb",
            "v1/a%EF%B9%A8b",
            "v1/a%E2%88%95b",
            "v1/a%E2%81%84b",
            "v1/a%EF%BC%9Bb",
            "v1/%",
            "v1/%2",
            "v1/a b",
            "v1/\u{e9}",
            "v1/{x}",
            "v1/a#b",
            "v1/file%2etxt",
            "V1/x",
            "%76%31/x",
            "v10/x",
            "v1",
            "admin",
            "/v1/x",
        ] {
            assert_eq!(url(&below, &format!("a.example/{path}")), None, "{path}");
        }
        for path in [
            "v1/",
            "v1/x",
            "v1/x/",
            "v1/a%20b",
            "v1/100%25",
            "v1/%C3%A9",
            "v1/%E6%97%A5%E6%9C%AC",
            "v1/%EF%BC%A1",
            "v1/a.b..c",
            "v1/x;y=1",
            "v1/a:b@c",
        ] {
            assert_eq!(url(&below, &format!("a.example/{path}")), Some(format!("https://a.example/{path}")));
        }
    }

    #[test]
    fn prefixes_are_of_whole_segments_and_methods_are_exact() {
        let some = placement(&["a.example"], &["GET"], &["/v1/me", "/v2/"]);
        for (rest, may) in
            [("v1/me", true), ("v1/me/x", true), ("v1/men", false), ("v1/me;x", false), ("v2/x", true)]
        {
            assert_eq!(url(&some, &format!("a.example/{rest}")).is_some(), may, "{rest}");
        }
        assert_eq!(ProxyTarget::read("POST", "a.example/v1/me", None).url(&some), None);
        assert_eq!(ProxyTarget::read("HEAD", "a.example/v1/me", None).url(&some), None);
        let with_query =
            ProxyTarget::read("GET", "a.example/v1/me", Some("q=../x&y=%2e")).url(&some).unwrap();
        assert_eq!(with_query.as_str(), "https://a.example/v1/me?q=../x&y=%2e");
    }

    #[test]
    fn details_allow_by_action_and_location() {
        let target = ProxyTarget::read("GET", "a.example/v1/x", None);
        let url = Url::parse("https://a.example/v1/x").unwrap();
        let allows = |lists: &str| {
            let details = Details::parse(&format!(r#"[{{"type":"vault_connection"{lists}}}]"#)).unwrap();
            target.is_allowed_by(&url, &details.0[0])
        };
        for lists in [
            "",
            r#","actions":["proxy"]"#,
            r#","actions":["proxy:GET","retrieve"]"#,
            r#","locations":["https://a.example"]"#,
            r#","locations":["https://a.example/"]"#,
            r#","locations":["https://a.example/v1/"]"#,
            r#","locations":["https://b.example/","https://a.example/v1/x"]"#,
        ] {
            assert!(allows(lists), "{lists}");
        }
        for lists in [
            r#","actions":["retrieve"]"#,
            r#","actions":["proxy:POST"]"#,
            r#","actions":["proxy:get"]"#,
            r#","actions":[]"#,
            r#","locations":[]"#,
            r#","locations":["https://a.example/v2/"]"#,
            r#","locations":["https://a.example/v"]"#,
            r#","locations":["https://a.example.evil/"]"#,
            r#","locations":["http://a.example/"]"#,
            r#","locations":["https://a.example/v2/../v1/"]"#,
            r#","locations":["https://a.example/v1/?x"]"#,
            r#","locations":["a.example"]"#,
            r#","actions":["proxy"],"locations":["https://a.example/v2/"]"#,
        ] {
            assert!(!allows(lists), "{lists}");
        }
    }

    #[test]
    fn a_template_has_no_ids() {
        for (path, template) in [
            ("/v1/users/me/messages", "/v1/users/me/messages"),
            ("/v1/users/alice@example.com/messages/18c2f3a4b5d6e7f8/", "/v1/users/{}/messages/{}/"),
            ("/repos/42/0189d2c0-0000-7000-8000-000000000000", "/repos/{}/{}"),
            ("/a%20b/abcdefghijklmnopqrstuvwxyz", "/{}/{}"),
            ("/v1/x;secret", "/v1/{}"),
        ] {
            let target = ProxyTarget { method: "GET", host: "a", path, query: Some("secret=1") };
            assert_eq!(target.template(), template);
        }
        let long = "/a".repeat(100);
        let target = ProxyTarget { method: "GET", host: "a\nb", path: &long, query: None };
        assert_eq!(target.template(), format!("{}/...", "/a".repeat(32)));
        assert_eq!(target.host_name(), "{}");
    }

    proptest! {
        #[test]
        fn what_is_sent_lies_where_it_may(path in "[a-z/.%25efFcC;\\\\]{0,24}") {
            let below = placement(&["a.example"], &[], &["/v1/"]);
            let rest = format!("a.example/v1/{path}");
            if let Some(url) = ProxyTarget::read("GET", &rest, None).url(&below) {
                prop_assert!(url.path().starts_with("/v1/") && url.host_str() == Some("a.example"));
                let mut text = url.path().to_owned();
                for _ in 0..4 {
                    prop_assert!(!text.contains("..") || !text.split('/').any(|one| one == ".."), "{}", text);
                    text = text.replace("%25", "%").replace("%2e", ".").replace("%2E", ".").replace("%2f", "/").replace("%2F", "/");
                }
            }
        }

        #[test]
        fn no_text_makes_it_panic(rest in "\\PC{0,60}") {
            let target = ProxyTarget::read("GET", &rest, None);
            let _ = target.url(&placement(&["a.example"], &[], &[]));
            prop_assert!(target.template().len() <= 33 * 25 + 4);
        }
    }
}
