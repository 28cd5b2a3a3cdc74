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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn te_05_relative_and_fragment_uris_are_refused() {
        for text in ["https://a/#x", "https://a/#", "/rel", "", "a b", "https://a/\u{0}"] {
            assert!(!is_resource_uri(text), "{text:?}");
        }
        assert!(is_resource_uri("https://a.example/x?y=1") && is_resource_uri("urn:example:mail"));
    }
}
