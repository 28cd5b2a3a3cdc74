//! The declared rules in PostgreSQL.

use serde_json::Value;
use sqlx::{FromRow, PgConnection};

use super::declared::{DeclaredRules, ROW};
use crate::domain::row_mac::RowMac;
use crate::platform::fault::{Context as _, Fault};

#[derive(FromRow)]
struct Row {
    version: i64,
    rules: Value,
    rules_off: Vec<String>,
    mac: Option<Vec<u8>>,
}

/// The version of the declared rules.
pub async fn version(connection: &mut PgConnection) -> Result<i64, Fault> {
    let version = sqlx::query_scalar("SELECT version FROM rule_set WHERE name = $1");
    Ok(version.bind(ROW).fetch_optional(connection).await?.unwrap_or(0))
}

pub async fn load(rows: &RowMac, connection: &mut PgConnection) -> Result<DeclaredRules, Fault> {
    let row = sqlx::query_as("SELECT version, rules, rules_off, mac FROM rule_set WHERE name = $1");
    let row: Option<Row> = row.bind(ROW).fetch_optional(connection).await?;
    let Some(row) = row else { return Ok(DeclaredRules::default()) };
    let declared = DeclaredRules {
        version: row.version,
        rules: serde_json::from_value(row.rules).context("reading the declared rules")?,
        off: row.rules_off.into_iter().collect(),
    };
    rows.check(declared, row.mac.as_deref())
}

/// Stores declared rules with the next version, if nothing was stored since they were read.
///
/// # Errors
/// A fault if another transaction has changed the rules meanwhile.
pub async fn put(rows: &RowMac, connection: &mut PgConnection, declared: DeclaredRules) -> Result<(), Fault> {
    let before = declared.version;
    let declared = DeclaredRules { version: before + 1, ..declared };
    let put = sqlx::query(
        "INSERT INTO rule_set (name, version, rules, rules_off, mac) VALUES ($1, $2, $3, $4, $5)
         ON CONFLICT (name) DO UPDATE SET version = excluded.version, rules = excluded.rules,
             rules_off = excluded.rules_off, mac = excluded.mac
         WHERE rule_set.version = $6",
    );
    let put = put
        .bind(ROW)
        .bind(declared.version)
        .bind(serde_json::to_value(&declared.rules).context("writing rules")?)
        .bind(declared.off.iter().cloned().collect::<Vec<_>>())
        .bind(rows.of(&declared))
        .bind(before);
    if put.execute(connection).await?.rows_affected() == 1 {
        return Ok(());
    }
    Err(Fault::new("the declared rules were changed meanwhile"))
}
