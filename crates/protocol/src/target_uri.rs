//! Compares a proof's `htu` with the target of the request (RFC 9449 §4.3 step 9, RFC 3986 §6.2.2 and §6.2.3).

use url::Url;

/// The normal form of a target URI: scheme and host in lower case, no default port, dot segments resolved, no query
/// and fragment. Unreserved characters are unescaped, other escapes are in upper case. `None` if the text is not an
/// http(s) URL or contains a user name.
pub fn normalise(uri: &str) -> Option<String> {
    if uri.chars().any(|c| c.is_control() || c == ' ') {
        return None;
    }
    let mut url = Url::parse(uri).ok()?;
    if !matches!(url.scheme(), "http" | "https") || !url.username().is_empty() || url.password().is_some() {
        return None;
    }
    url.set_query(None);
    url.set_fragment(None);
    let path = unescape_unreserved(url.path())?;
    url.set_path(&path);
    Some(url.into())
}

/// `None` for a percent sign that begins no escape: its meaning is ambiguous.
fn unescape_unreserved(path: &str) -> Option<String> {
    let mut out = String::with_capacity(path.len());
    let mut rest = path;
    while let Some((before, after)) = rest.split_once('%') {
        out.push_str(before);
        let (hex, tail) = after.split_at_checked(2)?;
        let byte = u8::from_str_radix(hex, 16).ok()?;
        let unreserved = byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
        if unreserved {
            out.push(char::from(byte))
        } else {
            out.push_str(&format!("%{byte:02X}"))
        }
        rest = tail;
    }
    out.push_str(rest);
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vectors;
    use proptest::prelude::*;

    #[test]
    fn equivalent_target_uris_compare_equal_and_others_do_not() {
        for case in vectors::cases(include_str!("../vectors/dpop-target-uris.json")) {
            let [uri, other] = ["uri", "other"].map(|name| normalise(vectors::text(&case, name)));
            assert!(uri.is_some());
            assert_eq!(uri == other, case["same"], "{case}");
        }
    }

    proptest! {
        #[test]
        fn normalising_twice_changes_nothing(path in "[a-zA-Z0-9%/._~-]{0,30}") {
            if let Some(once) = normalise(&format!("https://a.example/{path}")) {
                prop_assert_eq!(normalise(&once), Some(once));
            }
        }
    }
}
