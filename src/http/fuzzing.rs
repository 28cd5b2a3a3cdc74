//! The readers of this folder, for the targets in `fuzz/`; compiled for those alone.

use std::collections::BTreeMap;

use crate::http::params::Params;

/// A form: names and their values.
pub type Form = BTreeMap<String, Vec<String>>;

/// Reads a body.
pub fn form(body: &[u8]) -> Option<Form> {
    Params::read(body).ok().map(Params::into_values)
}

/// Writes a form that was read.
pub fn write_form(form: &Form) -> Vec<u8> {
    let mut body = url::form_urlencoded::Serializer::new(String::new());
    for (name, values) in form {
        // A name without a value was read, too.
        if values.is_empty() {
            body.append_pair(name, "");
        }
        body.extend_pairs(values.iter().map(|value| (name, value)));
    }
    body.finish().into_bytes()
}
