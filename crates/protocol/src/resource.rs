//! Targets: `resource` (RFC 8707 §2) is an absolute URI without a fragment, `audience` (RFC 8693 §2.1) a logical name.

use url::Url;

/// Whether the text is usable as a `resource` value.
pub fn is_resource_uri(text: &str) -> bool {
    !text.contains('#') && !text.chars().any(|c| c.is_control() || c == ' ') && Url::parse(text).is_ok()
}

/// Whether the text is usable as an `audience` value: printable ASCII, so that it can be compared byte by byte.
pub fn is_audience(text: &str) -> bool {
    (1..=512).contains(&text.len()) && text.bytes().all(|byte| (0x21..=0x7e).contains(&byte))
}

/// Whether two targets differ only in a final slash, upper case, a default port, or an escape. Used for hints only:
/// targets are compared character by character (RFC 3986 §6.2.1).
pub fn is_near(one: &str, other: &str) -> bool {
    let essence = |text: &str| {
        let text = Url::parse(text).map_or_else(|_| text.to_owned(), String::from);
        text.trim_end_matches('/').to_ascii_lowercase()
    };
    one != other && essence(one) == essence(other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_differs_in_spelling_only_is_near() {
        let mail = "https://mail.test";
        for near in ["https://mail.test/", "https://MAIL.test", "https://mail.test:443/", "HTTPS://mail.test"]
        {
            assert!(is_near(near, mail) && is_near(mail, near), "{near}");
        }
        assert!(is_near("Calendar", "calendar") && is_near("urn:a/", "urn:a"));
        for other in [mail, "http://mail.test", "https://mail.test/x", "https://mail.test:444", "mail.test"] {
            assert!(!is_near(other, mail), "{other}");
        }
    }

    #[test]
    fn relative_uris_and_fragments_are_refused() {
        for text in ["https://a/#x", "https://a/#", "/rel", "", "a b", "https://a/\u{0}"] {
            assert!(!is_resource_uri(text), "{text:?}");
        }
        assert!(is_resource_uri("https://a.example/x?y=1") && is_resource_uri("urn:example:mail"));
    }
}
