//! The JSON Canonicalization Scheme (RFC 8785): one spelling for every document.

use serde::Serialize;

use crate::failure::{Context, Failure};
use crate::json;

/// Writes a value in canonical form.
pub fn to_string<T: Serialize>(value: &T) -> Result<String, Failure> {
    serde_json_canonicalizer::to_string(value).context("writing canonical JSON")
}

/// Facts about a document that is in canonical form.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Canonical {
    /// The top-level member `seq`, if it is a natural number.
    pub seq: Option<u64>,
}

/// Checks that a text is a JSON document in canonical form, without repeated names. One pass over the bytes decides
/// most documents; the others are parsed and written again.
pub fn check(text: &str) -> Option<Canonical> {
    if let Some(found) = Scan::document(text) {
        return Some(found);
    }
    let value = json::parse_own(text.as_bytes())?;
    let same = to_string(&value).ok().as_deref() == Some(text);
    same.then(|| Canonical { seq: value.get("seq").and_then(serde_json::Value::as_u64) })
}

/// Whether a text is a JSON document in canonical form.
pub fn is_canonical(text: &str) -> bool {
    check(text).is_some()
}

/// Deeper documents are left to the parser.
const MOST_DEPTH: u32 = 16;
/// An integer of at most this many digits is exact in a double and is written the same again.
const MOST_DIGITS: usize = 15;

/// One pass over a document. Leaves names with escapes or outside ASCII, and fractions, to the parser.
struct Scan<'a> {
    rest: &'a [u8],
    seq: Option<u64>,
}

/// Whether none of the bytes is a control character, a quote or a backslash. Each test sets the high bit of a matching
/// byte, and possibly of bytes after a match. The result is therefore zero only if no byte matches.
fn is_plain(bytes: [u8; 8]) -> bool {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGH: u64 = 0x8080_8080_8080_8080;
    let word = u64::from_le_bytes(bytes);
    let below = |most: u8, word: u64| word.wrapping_sub(ONES * u64::from(most)) & !word & HIGH;
    let equals = |byte: u8| below(1, word ^ (ONES * u64::from(byte)));
    below(0x20, word) | equals(b'"') | equals(b'\\') == 0
}

impl<'a> Scan<'a> {
    fn document(text: &'a str) -> Option<Canonical> {
        let mut scan = Self { rest: text.as_bytes(), seq: None };
        scan.value(0)?;
        scan.rest.is_empty().then_some(Canonical { seq: scan.seq })
    }

    fn next(&mut self) -> Option<u8> {
        let (first, rest) = self.rest.split_first()?;
        self.rest = rest;
        Some(*first)
    }

    fn value(&mut self, depth: u32) -> Option<()> {
        match self.rest.first()? {
            b'"' => self.string().map(drop),
            b'{' => self.object(depth),
            b'[' => self.array(depth),
            b't' => self.word(b"true"),
            b'f' => self.word(b"false"),
            b'n' => self.word(b"null"),
            _ => self.integer().map(drop),
        }
    }

    fn word(&mut self, word: &[u8]) -> Option<()> {
        self.rest = self.rest.strip_prefix(word)?;
        Some(())
    }

    /// The bytes between the quotes. Only characters that need an escape have one, in its shortest form (RFC 8785
    /// §3.2.2.2).
    fn string(&mut self) -> Option<&'a [u8]> {
        self.word(b"\"")?;
        let whole = self.rest;
        loop {
            // Eight bytes at a time while at least eight are left.
            while let Some((_, rest)) = self.rest.split_first_chunk().filter(|(eight, _)| is_plain(**eight)) {
                self.rest = rest;
            }
            let plain = |byte: &u8| *byte >= b' ' && *byte != b'"' && *byte != b'\\';
            let end = self.rest.iter().position(|byte| !plain(byte))?;
            let (_, rest) = self.rest.split_at_checked(end)?;
            self.rest = rest;
            match self.next()? {
                b'"' => return whole.get(..whole.len() - self.rest.len() - 1),
                b'\\' => self.escape()?,
                _ => return None,
            }
        }
    }

    fn escape(&mut self) -> Option<()> {
        match self.next()? {
            b'"' | b'\\' | b'b' | b'f' | b'n' | b'r' | b't' => Some(()),
            b'u' => {
                let (digits, rest) = self.rest.split_first_chunk::<4>()?;
                self.rest = rest;
                let [b'0', b'0', high @ (b'0' | b'1'), low @ (b'0'..=b'9' | b'a'..=b'f')] = digits else {
                    return None;
                };
                // U+0008, U+0009, U+000A, U+000C and U+000D have shorter escapes.
                (*high == b'1' || !b"89acd".contains(low)).then_some(())
            }
            _ => None,
        }
    }

    /// Members in the order of their names, without repeated names.
    fn object(&mut self, depth: u32) -> Option<()> {
        if depth >= MOST_DEPTH {
            return None;
        }
        self.word(b"{")?;
        if self.word(b"}").is_some() {
            return Some(());
        }
        let mut last: Option<&[u8]> = None;
        loop {
            let name = self.string()?;
            let plain = name.iter().all(|byte| byte.is_ascii() && *byte != b'\\');
            if !plain || last.is_some_and(|last| last >= name) {
                return None;
            }
            last = Some(name);
            self.word(b":")?;
            if depth == 0 && name == b"seq" && self.rest.first().is_some_and(u8::is_ascii_digit) {
                self.seq = u64::try_from(self.integer()?).ok();
            } else {
                self.value(depth + 1)?;
            }
            match self.next()? {
                b',' => {}
                b'}' => return Some(()),
                _ => return None,
            }
        }
    }

    fn array(&mut self, depth: u32) -> Option<()> {
        if depth >= MOST_DEPTH {
            return None;
        }
        self.word(b"[")?;
        if self.word(b"]").is_some() {
            return Some(());
        }
        loop {
            self.value(depth + 1)?;
            match self.next()? {
                b',' => {}
                b']' => return Some(()),
                _ => return None,
            }
        }
    }

    fn integer(&mut self) -> Option<i64> {
        let negative = self.word(b"-").is_some();
        let end = self.rest.iter().position(|byte| !byte.is_ascii_digit()).unwrap_or(self.rest.len());
        let (digits, rest) = self.rest.split_at_checked(end)?;
        // A fraction or an exponent: left to the parser.
        if rest.first().is_some_and(|next| matches!(next, b'.' | b'e' | b'E')) || digits.len() > MOST_DIGITS {
            return None;
        }
        let zero = digits == b"0" && !negative;
        if !zero && digits.first().is_none_or(|first| *first == b'0') {
            return None;
        }
        self.rest = rest;
        let value = digits.iter().fold(0, |value, digit| value * 10 + i64::from(digit - b'0'));
        Some(if negative { -value } else { value })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vectors;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    #[test]
    fn literals_numbers_and_strings_match_the_published_vector() {
        for case in vectors::cases(include_str!("../vectors/canonical-json.json")) {
            let input: Value = serde_json::from_str(vectors::text(&case, "input")).unwrap();
            let output = to_string(&input).unwrap();
            assert_eq!(output, case["output"], "{}", case["name"]);
            assert!(is_canonical(&output), "{}", case["name"]);
        }
    }

    #[test]
    fn names_sort_by_utf_16_code_units() {
        let value = json!({"\u{20ac}": "e", "\r": "a", "\u{fb33}": "g", "1": "b", "\u{1f600}": "f", "\u{80}": "c",
                           "\u{f6}": "d"});
        let order: String = to_string(&value).unwrap().split('"').filter(|part| part.len() == 1).collect();
        assert_eq!(
            order.replace(['1', ':', ','], "").replace(|c: char| !c.is_ascii_lowercase(), ""),
            "abcdefg"
        );
    }

    fn slow(text: &str) -> Option<Canonical> {
        let value = crate::json::parse_own(text.as_bytes())?;
        (to_string(&value).unwrap() == text)
            .then(|| Canonical { seq: value.get("seq").and_then(Value::as_u64) })
    }

    #[test]
    fn one_pass_knows_what_events_are_made_of() {
        for text in [
            r#"{"action":"a","at":"2026-01-01T00:00:00.000000Z","detail":{"exp":1767225600,"list":[],"seq":7},"seq":12,"user_agent":"a \"b\" \\ c"}"#,
            r#"{"seq":0}"#,
            r#"{"a":[1,-2,true,false,null,{}],"é":"ü"}"#,
            "[]",
            "7",
            r#""\u001f\u000b\b""#,
        ] {
            assert_eq!(check(text), slow(text), "{text}");
            assert!(is_canonical(text), "{text}");
        }
        let fast = Scan::document(r#"{"detail":{"seq":7},"seq":12,"user_agent":"a \"b\" \u001f"}"#);
        assert_eq!(fast, Some(Canonical { seq: Some(12) }));
        for case in vectors::cases(include_str!("../vectors/canonical-json-refused.json")) {
            let text = vectors::text(&case, "text");
            assert!(!is_canonical(text) && slow(text).is_none(), "{text}");
        }
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            (0i64..1_000).prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            ".{0,8}".prop_map(Value::from),
            "[\u{0}-\u{80}\"\\\\]{0,6}".prop_map(Value::from),
        ];
        leaf.prop_recursive(5, 40, 5, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                proptest::collection::btree_map("(seq|[a-z]{0,3}|.{0,2})", inner, 0..5)
                    .prop_map(|members| members.into_iter().collect()),
            ]
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        #[test]
        fn one_pass_and_the_reader_agree_on_documents(value in any_json()) {
            let text = to_string(&value).unwrap();
            prop_assert_eq!(check(&text), slow(&text), "{}", text);
            if let Some(fast) = Scan::document(&text) {
                prop_assert_eq!(Some(fast), slow(&text));
            }
        }

        #[test]
        fn eight_bytes_are_judged_as_each_of_them(
            bytes in any::<[u8; 8]>(),
            at in 0usize..8,
            put in prop_oneof![Just(0u8), Just(0x1f), Just(0x20), Just(b'"'), Just(b'\\'), Just(b'!'), Just(0x80), Just(0xff)],
        ) {
            let mut all = [bytes; 3];
            all[1] = bytes.map(|byte| byte % 0x60 + 0x20);
            all[2] = [b'a'; 8];
            for mut bytes in all {
                bytes[at] = put;
                let each = bytes.iter().all(|byte| *byte >= b' ' && *byte != b'"' && *byte != b'\\');
                prop_assert_eq!(is_plain(bytes), each, "{:?}", bytes);
            }
        }

        #[test]
        fn one_pass_says_yes_to_nothing_that_the_reader_refuses(
            value in any_json(),
            at in any::<proptest::sample::Index>(),
            put in prop_oneof![Just("0"), Just("-"), Just("\""), Just("\\"), Just(","), Just("}"), Just(" "), Just("e1"), Just(".5"), Just("é"), Just("")],
        ) {
            let text = to_string(&value).unwrap();
            let mut places: Vec<usize> = text.char_indices().map(|(place, _)| place).collect();
            places.push(text.len());
            let place = places[at.index(places.len())];
            let cut = text[place..].chars().next().map_or(0, char::len_utf8);
            for changed in [
                format!("{}{put}{}", &text[..place], &text[place..]),
                format!("{}{put}{}", &text[..place], &text[place + cut..]),
            ] {
                if let Some(fast) = Scan::document(&changed) {
                    prop_assert_eq!(Some(fast), slow(&changed), "{}", changed);
                }
            }
        }
    }
}
