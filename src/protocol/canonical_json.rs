//! The JSON Canonicalization Scheme (RFC 8785): one spelling for every document.

use serde::Serialize;

use crate::platform::fault::{During, Fault};

/// Writes a value in its canonical form.
pub fn to_string<T: Serialize>(value: &T) -> Result<String, Fault> {
    serde_json_canonicalizer::to_string(value).during("writing canonical JSON")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn kat_60_literals_numbers_and_strings() {
        let input = r#"{"numbers":[333333333.33333329,1E30,4.50,2e-3,0.000000000000000000000000001],"string":"\u20ac$\u000F\u000aA'\u0042\u0022\u005c\\\"\/","literals":[null,true,false]}"#;
        let output = to_string(&serde_json::from_str::<Value>(input).unwrap()).unwrap();
        assert_eq!(
            output,
            "{\"literals\":[null,true,false],\"numbers\":[333333333.3333333,1e+30,4.5,0.002,1e-27],\"string\":\"€$\\u000f\\nA'B\\\"\\\\\\\\\\\"/\"}"
        );
        assert_eq!(output.len(), 118);
    }

    #[test]
    fn kat_61_names_sort_by_utf_16_code_units() {
        let value = json!({"\u{20ac}": "e", "\r": "a", "\u{fb33}": "g", "1": "b", "\u{1f600}": "f", "\u{80}": "c",
                           "\u{f6}": "d"});
        let order: String = to_string(&value).unwrap().split('"').filter(|part| part.len() == 1).collect();
        assert_eq!(
            order.replace(['1', ':', ','], "").replace(|c: char| !c.is_ascii_lowercase(), ""),
            "abcdefg"
        );
    }
}
