//! Scope: space-separated, case-sensitive tokens whose order means nothing (RFC 6749 §3.3).

use std::collections::BTreeSet;

/// Parses a `scope` parameter or claim. `None` for double, leading or trailing spaces, or a forbidden character.
pub fn parse(text: &str) -> Option<BTreeSet<String>> {
    text.split(' ').map(|token| is_token(token).then(|| token.to_owned())).collect()
}

/// Joins scopes with spaces, in a fixed order.
pub fn join<'a>(scopes: impl IntoIterator<Item = &'a String>) -> String {
    scopes.into_iter().map(String::as_str).collect::<Vec<_>>().join(" ")
}

/// Whether the text is one scope token: %x21 / %x23-5B / %x5D-7E, at least one.
pub fn is_token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| matches!(byte, 0x21 | 0x23..=0x5b | 0x5d..=0x7e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scopes_outside_the_grammar_are_refused() {
        assert_eq!(parse("b a b").map(|scopes| join(&scopes)), Some("a b".to_owned()));
        for text in ["a  b", " a", "a ", "a\tb", "a\"b", "a\\b", "é", ""] {
            assert_eq!(parse(text), None, "{text:?}");
        }
    }
}
