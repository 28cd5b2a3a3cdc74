//! JSON as security protocols need it: no duplicate names at any level (RFC 7515 §4), bounded depth, and no NUL
//! character, which PostgreSQL does not store. Input of other parties is parsed here first.

use std::fmt;

use serde::Deserialize;
use serde::de::{DeserializeOwned, DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

/// Maximum nesting of objects and arrays. The deepest allowed chain of `act` needs far less.
const MAX_DEPTH: usize = 32;

/// Parses one JSON value. `None` for malformed text, duplicate names, more than 32 levels of nesting, or a NUL
/// character in a string or a name.
pub fn parse(text: &[u8]) -> Option<Value> {
    read(text, Nul::Refused)
}

/// Parses a document that this server wrote, such as a stored event: as [`parse`], but NUL is allowed.
pub fn parse_own(text: &[u8]) -> Option<Value> {
    read(text, Nul::Taken)
}

fn read(text: &[u8], nul: Nul) -> Option<Value> {
    let mut reader = serde_json::Deserializer::from_slice(text);
    let value = Strict { depth: MAX_DEPTH, nul }.deserialize(&mut reader).ok()?;
    reader.end().ok()?;
    Some(value)
}

/// Parses a JSON object under the rules of [`parse`].
pub fn parse_object(text: &[u8]) -> Option<Map<String, Value>> {
    match parse(text)? {
        Value::Object(object) => Some(object),
        _ => None,
    }
}

/// Reads an optional member that is an object, for `deserialize_with`. By default serde also accepts a list, as the
/// members in their order.
pub fn object<'de, D: Deserializer<'de>, T: DeserializeOwned>(reader: D) -> Result<Option<T>, D::Error> {
    let members = Option::<Map<String, Value>>::deserialize(reader)?;
    let read = |members| serde_path_to_error::deserialize(Value::Object(members));
    members.map(read).transpose().map_err(D::Error::custom)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Nul {
    Taken,
    Refused,
}

#[derive(Clone, Copy)]
struct Strict {
    depth: usize,
    nul: Nul,
}

impl Strict {
    fn deeper<E: Error>(self) -> Result<Self, E> {
        let depth = self.depth.checked_sub(1).ok_or_else(|| E::custom("nested too deep"))?;
        Ok(Self { depth, ..self })
    }

    fn check<E: Error>(self, text: &str) -> Result<(), E> {
        if self.nul == Nul::Refused && text.contains('\0') {
            return Err(E::custom("a NUL character"));
        }
        Ok(())
    }
}

impl<'de> DeserializeSeed<'de> for Strict {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        Number::from_f64(value).map(Value::Number).ok_or_else(|| E::custom("not a finite number"))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Value, E> {
        self.check(value)?;
        Ok(Value::String(value.to_owned()))
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let inner = self.deeper()?;
        let mut array = Vec::new();
        while let Some(item) = items.next_element_seed(inner)? {
            array.push(item);
        }
        Ok(Value::Array(array))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Value, A::Error> {
        let inner = self.deeper()?;
        let mut object = Map::new();
        while let Some(name) = members.next_key::<String>()? {
            inner.check(&name)?;
            let value = members.next_value_seed(inner)?;
            if object.insert(name, value).is_some() {
                return Err(A::Error::custom("duplicate name"));
            }
        }
        Ok(Value::Object(object))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn duplicate_names_are_refused_at_every_level() {
        assert!(parse(br#"{"a":1,"a":2}"#).is_none());
        assert!(parse(br#"{"a":{"b":1,"b":1}}"#).is_none());
        assert!(parse(br#"[{"b":1,"\u0062":1}]"#).is_none());
        assert!(parse(br#"{"a":1,"b":{"a":1}}"#).is_some());
    }

    #[test]
    fn nul_is_refused_wherever_it_is() {
        for text in [r#""\u0000""#, r#"{"a":["x\u0000"]}"#, r#"{"a":{"\u0000":1}}"#] {
            assert!(parse(text.as_bytes()).is_none(), "{text}");
            assert!(parse_own(text.as_bytes()).is_some(), "{text}");
        }
        assert!(parse(br#"{"a":["\\u0000",1,null,true]}"#).is_some());
        // RFC 8259 §8.2: half of a surrogate pair is not a character.
        assert!(parse(br#""\ud800""#).is_none() && parse(b"\"\xff\"").is_none());
    }

    #[test]
    fn nesting_and_trailing_text_are_bounded() {
        let nest = |n: usize| format!("{}{}", "[".repeat(n), "]".repeat(n));
        assert!(parse(nest(32).as_bytes()).is_some());
        assert!(parse(nest(33).as_bytes()).is_none());
        assert!(parse(nest(100_000).as_bytes()).is_none());
        assert!(parse(b"{} {}").is_none());
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..256)) {
            let _ = parse(&bytes);
        }

        #[test]
        fn what_it_reads_is_what_serde_reads(text in "[\\[\\]{}:,\"a-c0-9. ]{0,40}") {
            if let Some(value) = parse(text.as_bytes()) {
                prop_assert_eq!(Some(value), serde_json::from_str(&text).ok());
            }
        }
    }
}
