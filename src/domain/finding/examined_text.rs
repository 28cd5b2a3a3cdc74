//! The form of a text in which patterns are searched. Hostile texts hide words by invisible characters, by other forms of
//! letters and spaces, and by line continuations.

use unicode_normalization::UnicodeNormalization as _;

use super::json_text;

/// A text after normalisation.
#[derive(Debug)]
pub(super) struct ExaminedText {
    /// In its own case, for regular expressions.
    pub(super) plain: String,
    /// In lower case, for fixed texts.
    pub(super) folded: String,
}

impl ExaminedText {
    /// The text of one target. Of a JSON document, the names and values are examined, without quotes and escapes.
    pub(super) fn of(text: &str) -> Self {
        let plain = json_text::decoded(text).map_or_else(|| normalised(text), |inner| normalised(&inner));
        Self { folded: folded(&plain), plain }
    }
}

/// Unicode form NFKC without invisible characters. Spaces and tabs become one space each run; so does a line end after a
/// backslash. Other line ends stay.
pub(super) fn normalised(text: &str) -> String {
    if is_normal(text.as_bytes()) {
        return text.to_owned();
    }
    let shown = text.chars().filter(|one| !is_invisible(*one));
    if text.is_ascii() { joined(shown) } else { joined(shown.nfkc()) }
}

/// Whether a text surely stays as it is, as nearly all texts do.
fn is_normal(text: &[u8]) -> bool {
    let is_shown = |byte: &u8| matches!(byte, b' '..=b'~' | b'\n');
    let is_joined = |pair: &[u8]| matches!(pair, [b' ', b' '] | [b'\\', b'\n']);
    text.iter().all(is_shown) && !text.windows(2).any(is_joined)
}

/// Lower case, character by character: the result for a part of a text is part of the result for the text.
pub(super) fn folded(text: &str) -> String {
    if text.is_ascii() {
        return text.to_ascii_lowercase();
    }
    text.chars().flat_map(char::to_lowercase).collect()
}

fn joined(chars: impl Iterator<Item = char>) -> String {
    let mut out = String::new();
    let mut rest = chars.peekable();
    while let Some(one) = rest.next() {
        let line_end = |next: &char| *next == '\n' || *next == '\r';
        let space = match one {
            '\\' if rest.next_if(line_end).is_some() => {
                // The second half of a line end of Windows.
                let _ = rest.next_if_eq(&'\n');
                true
            }
            '\n' => false,
            other => other.is_whitespace(),
        };
        if space {
            if !out.ends_with(' ') {
                out.push(' ');
            }
        } else {
            out.push(one);
        }
    }
    out
}

/// Characters that no reader sees: controls, marks of direction, characters without width, selectors of variants, tags.
pub fn is_invisible(one: char) -> bool {
    let shown_control = matches!(one, '\n' | '\r' | '\t' | '\u{b}' | '\u{c}' | '\u{85}');
    (one.is_control() && !shown_control)
        || matches!(
            one,
            '\u{ad}'
                | '\u{34f}'
                | '\u{61c}'
                | '\u{115f}'..='\u{1160}'
                | '\u{17b4}'..='\u{17b5}'
                | '\u{180b}'..='\u{180f}'
                | '\u{200b}'..='\u{200f}'
                | '\u{202a}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}'
                | '\u{3164}'
                | '\u{fe00}'..='\u{fe0f}'
                | '\u{feff}'
                | '\u{ffa0}'
                | '\u{fff9}'..='\u{fffb}'
                | '\u{1bca0}'..='\u{1bca3}'
                | '\u{1d173}'..='\u{1d17a}'
                | '\u{e0000}'..='\u{e0fff}'
        )
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn words_cannot_be_hidden_from_rules() {
        for hidden in [
            "docker run --privileged",
            "docker  run\t--privileged",
            "docker \\\n  run \\\r\n --privileged",
            "do\u{200b}cker run --priv\u{ad}ileged",
            "do\0cker run --privi\u{1b}leged",
            "docker\u{a0}run\u{2003}--privileged",
            "docker\u{3000}run --privileged",
            "\u{202e}docker run\u{2066} --privileged\u{feff}",
            "ｄｏｃｋｅｒ run --privileged",
            "docker\u{200b} \u{200b}run --privileged",
            "do\u{e0041}cker run --privileged",
        ] {
            assert_eq!(normalised(hidden), "docker run --privileged", "{hidden:?}");
        }
        assert_eq!(normalised("a\nb\r\nc"), "a\nb \nc");
        assert_eq!(folded("ＡÉΣ K"), "ａéσ k");
    }

    proptest! {
        #[test]
        fn what_is_normalised_stays_as_it_is(text in ".{0,60}") {
            let once = normalised(&text);
            prop_assert_eq!(normalised(&once), once);
        }

        #[test]
        fn a_part_of_a_text_is_a_part_in_lower_case(before in ".{0,9}", part in ".{0,9}", after in ".{0,9}") {
            let whole = [before, part.clone(), after].concat();
            prop_assert!(folded(&whole).contains(&folded(&part)));
        }
    }
}
