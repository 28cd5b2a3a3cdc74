//! Reads the files in `vectors/`, which implementations in other languages are tested with too.

use serde_json::Value;

/// The cases of a file. Panics if the file is not in the form that `vectors/README.md` describes.
pub(crate) fn cases(text: &str) -> Vec<Value> {
    let file: Value = serde_json::from_str(text).unwrap();
    let cases = file["cases"].as_array().filter(|cases| !cases.is_empty()).unwrap();
    assert!(file["description"].is_string() && file["source"].is_string(), "{text}");
    cases.clone()
}

/// The text of a member.
pub(crate) fn text<'a>(case: &'a Value, name: &str) -> &'a str {
    case[name].as_str().unwrap_or_else(|| panic!("{name} in {case}"))
}

/// The bytes of a member in hexadecimal.
pub(crate) fn bytes(value: &Value) -> Vec<u8> {
    let text = value.as_str().unwrap();
    (0..text.len() / 2).map(|at| u8::from_str_radix(&text[2 * at..2 * at + 2], 16).unwrap()).collect()
}
