//! Authenticated rows. Rows that decide identity or authority have an HMAC-SHA-256 under a key that the master key
//! seals. Write access to the database alone cannot produce such a row. A MAC does not cover facts that change with
//! each use or end authority (`revoked_at`, counts of uses, revoke-all). It does not detect an older row that is
//! restored with its MAC.

use std::collections::BTreeMap;

use serde_json::{Number, Value, json};
use sqlx::{AssertSqlSafe, PgConnection};

use super::key::{self, ROW_MAC};
use crate::platform::fault::Fault;
use crate::platform::seal::SealingKey;
use actchain_protocol::digest::MacKey;

pub trait MacRow {
    const TABLE: &'static str;
    const KEY: &'static str;

    fn row_id(&self) -> &str;

    /// The content that the MAC covers. Implementations destructure exhaustively, so that no new field is omitted.
    fn content(&self) -> Value;
}

#[derive(Debug, Clone)]
pub struct RowMac(MacKey);

impl RowMac {
    /// A MAC key from 32 secret bytes.
    pub fn new(secret: &[u8; 32]) -> Self {
        Self(MacKey::new(secret))
    }

    /// Opens the stored MAC key.
    ///
    /// # Errors
    /// A fault if the key is missing or was sealed under another master key.
    pub async fn open(connection: &mut PgConnection, seal: &SealingKey) -> Result<Self, Fault> {
        let secret = key::shared_secret(connection, seal, ROW_MAC).await?;
        Ok(Self::new(&secret))
    }

    /// The MAC of a row to be written.
    pub fn of<R: MacRow>(&self, row: &R) -> Vec<u8> {
        let mut input = Vec::with_capacity(1024);
        encode(&json!(["actchain row", R::TABLE, row.row_id(), row.content()]), &mut input);
        self.0.mac(&input).to_vec()
    }

    /// Returns the row if its MAC is right.
    ///
    /// # Errors
    /// A fault that names table and row, counted and logged: a writer without the master key wrote the row.
    pub fn check<R: MacRow>(&self, row: R, mac: Option<&[u8]>) -> Result<R, Fault> {
        // No constant-time comparison: a caller that can measure it has write access, and reads all MACs.
        if mac == Some(self.of(&row).as_slice()) {
            return Ok(row);
        }
        metrics::counter!("actchain_row_mac_failures_total", "table" => R::TABLE).increment(1);
        let (table, id) = (R::TABLE, row.row_id());
        tracing::error!(table, id, missing = mac.is_none(), "a row is not authentic");
        Err(Fault::new(format!(
            "{table} {id}: the row is not authentic: its MAC is {}. It was not written by actchain under this master key; \
             see docs/how-to/operating.md, Rows that are not authentic",
            if mac.is_none() { "missing" } else { "wrong" }
        )))
    }
}

/// Whether tables with row MACs have any rows.
pub async fn has_rows(connection: &mut PgConnection) -> Result<bool, Fault> {
    let found = sqlx::query_scalar(
        "SELECT EXISTS (SELECT FROM issuer) OR EXISTS (SELECT FROM resource) OR EXISTS (SELECT FROM client)
             OR EXISTS (SELECT FROM delegation) OR EXISTS (SELECT FROM standing_grant)",
    );
    Ok(found.fetch_one(connection).await?)
}

/// Writes the MACs of rows without a MAC.
pub async fn put_macs<R: MacRow>(
    connection: &mut PgConnection,
    ids: &[&str],
    macs: &[Vec<u8>],
) -> Result<(), Fault> {
    let (table, key) = (R::TABLE, R::KEY);
    let update = format!(
        "UPDATE {table} t SET mac = input.mac FROM unnest($1::text[], $2::bytea[]) AS input (id, mac)
         WHERE t.{key} = input.id AND t.mac IS NULL"
    );
    sqlx::query(AssertSqlSafe(update)).bind(ids).bind(macs).execute(connection).await?;
    Ok(())
}

/// Encodes a value so that different values have different bytes, and a value has the same bytes before and after
/// storage. Types and lengths come first, members are sorted, numbers are decimal fractions. RFC 8785 would round
/// integers above 2^53.
fn encode(value: &Value, out: &mut Vec<u8>) {
    match value {
        Value::Null => out.push(b'n'),
        Value::Bool(true) => out.push(b't'),
        Value::Bool(false) => out.push(b'f'),
        Value::Number(number) => {
            out.push(b'#');
            encode_bytes(decimal(number).as_bytes(), out);
        }
        Value::String(text) => {
            out.push(b's');
            encode_bytes(text.as_bytes(), out);
        }
        Value::Array(items) => {
            out.push(b'[');
            encode_length(items.len(), out);
            items.iter().for_each(|item| encode(item, out));
        }
        Value::Object(members) => {
            out.push(b'{');
            encode_length(members.len(), out);
            for (name, member) in members.iter().collect::<BTreeMap<_, _>>() {
                encode_bytes(name.as_bytes(), out);
                encode(member, out);
            }
        }
    }
}

/// PostgreSQL stores JSON numbers as decimal fractions: 1e2 becomes 100, and -0.0 loses its sign.
fn decimal(number: &Number) -> String {
    match (number.as_i64(), number.as_u64(), number.as_f64()) {
        (Some(integer), ..) => integer.to_string(),
        (_, Some(integer), _) => integer.to_string(),
        (_, _, Some(fraction)) => (fraction + 0.0).to_string(),
        // With the enabled features a number is one of these; otherwise its own text serves.
        (None, None, None) => number.to_string(),
    }
}

fn encode_bytes(bytes: &[u8], out: &mut Vec<u8>) {
    encode_length(bytes.len(), out);
    out.extend_from_slice(bytes);
}

fn encode_length(length: usize, out: &mut Vec<u8>) {
    out.extend_from_slice(&(length as u64).to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    struct Pair(&'static str, Value);

    impl MacRow for Pair {
        const TABLE: &'static str = "pair";
        const KEY: &'static str = "id";

        fn row_id(&self) -> &str {
            self.0
        }

        fn content(&self) -> Value {
            self.1.clone()
        }
    }

    #[test]
    fn a_mac_fits_its_row_alone() {
        let rows = RowMac::new(&[7; 32]);
        let mac = rows.of(&Pair("a", json!({"x": "b"})));
        assert!(rows.check(Pair("a", json!({"x": "b"})), Some(&mac)).is_ok());
        for (other, mac) in [
            (Pair("b", json!({"x": "b"})), Some(mac.as_slice())),
            (Pair("a", json!({"x": "c"})), Some(&mac)),
            (Pair("a", json!({"x": ["b"]})), Some(&mac)),
            (Pair("a", json!({"x": "b", "y": null})), Some(&mac)),
            (Pair("a", json!({"x": "b"})), None),
            (Pair("a", json!({"x": "b"})), Some(&[])),
        ] {
            assert!(rows.check(other, mac).is_err());
        }
        assert!(RowMac::new(&[8; 32]).check(Pair("a", json!({"x": "b"})), Some(&mac)).is_err());
    }

    #[test]
    fn one_document_spelled_in_two_ways_has_one_mac() {
        // PostgreSQL stores JSON with its own order of members, and numbers as decimal fractions.
        let rows = RowMac::new(&[7; 32]);
        let pair = |text: &str| rows.of(&Pair("a", serde_json::from_str(text).unwrap()));
        let written =
            pair(r#"{"b": 1e2, "a": 1.50, "d": -0.0, "e": 1e-7, "f": 1e16, "c": 12345678901234567890123}"#);
        let stored = r#"{"a": 1.50, "b": 100, "c": 12345678901234568000000, "d": 0.0, "e": 0.0000001,
                         "f": 10000000000000000}"#;
        assert_eq!(written, pair(stored));
    }

    proptest! {
        #[test]
        fn different_values_have_different_bytes(one in any_value(), other in any_value()) {
            let bytes = |value: &Value| {
                let mut out = Vec::new();
                encode(value, &mut out);
                out
            };
            prop_assert_eq!(one == other, bytes(&one) == bytes(&other));
        }
    }

    fn any_value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            (0..3_u64).prop_map(|near| Value::from((1_u64 << 53) + near)),
            "[ab]{0,2}".prop_map(Value::from),
        ];
        leaf.prop_recursive(3, 8, 3, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
                proptest::collection::btree_map("[ab]{0,1}", inner, 0..3)
                    .prop_map(|members| Value::Object(members.into_iter().collect())),
            ]
        })
    }
}
