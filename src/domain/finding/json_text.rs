//! The names and values of a JSON document as text. Tools get their input as JSON, in which an escaped line end would
//! otherwise be part of the next word.

use std::fmt::{Formatter, Write as _};

use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};

/// The text of a JSON object, list or string: `name: value` of each member, with a line end after it, and the items of
/// lists with spaces between them. `None` for other texts. A member that is there twice is written twice.
pub(super) fn decoded(text: &str) -> Option<String> {
    if !text.trim_start().starts_with(['{', '[', '"']) {
        return None;
    }
    let mut out = String::with_capacity(text.len());
    let mut reader = serde_json::Deserializer::from_str(text);
    Collect(&mut out).deserialize(&mut reader).ok()?;
    reader.end().ok()?;
    Some(out)
}

struct Collect<'a>(&'a mut String);

impl<'de> DeserializeSeed<'de> for Collect<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<(), D::Error> {
        from.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Collect<'_> {
    type Value = ();

    fn expecting(&self, formatter: &mut Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_bool<E: serde::de::Error>(self, value: bool) -> Result<(), E> {
        write!(self.0, "{value}").map_err(E::custom)
    }

    fn visit_i64<E: serde::de::Error>(self, value: i64) -> Result<(), E> {
        write!(self.0, "{value}").map_err(E::custom)
    }

    fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<(), E> {
        write!(self.0, "{value}").map_err(E::custom)
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<(), E> {
        write!(self.0, "{value}").map_err(E::custom)
    }

    fn visit_str<E>(self, value: &str) -> Result<(), E> {
        self.0.push_str(value);
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        while items.next_element_seed(Collect(self.0))?.is_some() {
            self.0.push(' ');
        }
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<(), A::Error> {
        while let Some(name) = members.next_key::<String>()? {
            write!(self.0, "{name}: ").map_err(A::Error::custom)?;
            members.next_value_seed(Collect(self.0))?;
            self.0.push('\n');
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_is_examined_without_its_quotes_and_escapes() {
        let text =
            r#"{"command": "cd /\nnsenter -t 1", "argv": ["docker", "run"], "n": 1, "on": true, "no": null}"#;
        let shown = "command: cd /\nnsenter -t 1\nargv: docker run \nn: 1\non: true\nno: \n";
        assert_eq!(decoded(text).as_deref(), Some(shown));
        assert_eq!(decoded(r#"{"a": "x", "a": "y"}"#).as_deref(), Some("a: x\na: y\n"));
        assert_eq!(decoded(r#""do\u0063ker""#).as_deref(), Some("docker"));
        let deep = format!("{}{}", "[".repeat(2000), "]".repeat(2000));
        for other in ["docker run", r#"{"a": "b"} and more"#, r#"{"a": "#, "", "12", &deep] {
            assert_eq!(decoded(other), None, "{other:.40}");
        }
    }
}
