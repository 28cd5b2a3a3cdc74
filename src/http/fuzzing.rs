//! Parsers of this folder for the targets in `fuzz/`; compiled only for those.

use std::collections::BTreeMap;

use crate::http::params::Params;

/// A form: parameter names and their values.
pub type Form = BTreeMap<String, Vec<String>>;

pub fn form(body: &[u8]) -> Option<Form> {
    Params::read(body).ok().map(Params::into_values)
}

/// Serializes a form that was read.
pub fn write_form(form: &Form) -> Vec<u8> {
    let mut body = url::form_urlencoded::Serializer::new(String::new());
    for (name, values) in form {
        // The parser also accepts a name without a value.
        if values.is_empty() {
            body.append_pair(name, "");
        }
        body.extend_pairs(values.iter().map(|value| (name, value)));
    }
    body.finish().into_bytes()
}
