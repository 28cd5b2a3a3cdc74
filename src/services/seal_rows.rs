//! Seals rows written by SQL, for tests and benchmarks. No server and no command does that.

use sqlx::PgConnection;

use crate::domain::row_mac::{MacRow, RowMac, put_macs};
use crate::domain::{client, delegation, registry, standing_grant};
use crate::platform::fault::Fault;

/// Rows read at a time.
const PAGE: i64 = 1_000;

/// Adds a MAC to all rows without one, and returns their number. From then on the rows are trusted.
pub async fn seal_unsealed(rows: &RowMac, connection: &mut PgConnection) -> Result<usize, Fault> {
    let (issuers, resources) = registry::store::unsealed(connection).await?;
    let mut sealed = seal(rows, connection, &issuers).await? + seal(rows, connection, &resources).await?;
    loop {
        let clients = client::store::unsealed(connection, PAGE).await?;
        sealed += match seal(rows, connection, &clients).await? {
            0 => break,
            some => some,
        };
    }
    loop {
        let delegations = delegation::store::unsealed(connection, PAGE).await?;
        sealed += match seal(rows, connection, &delegations).await? {
            0 => break,
            some => some,
        };
    }
    loop {
        let grants = standing_grant::store::unsealed(connection, PAGE).await?;
        sealed += match seal(rows, connection, &grants).await? {
            0 => break,
            some => some,
        };
    }
    Ok(sealed)
}

async fn seal<R: MacRow>(rows: &RowMac, connection: &mut PgConnection, found: &[R]) -> Result<usize, Fault> {
    let ids: Vec<&str> = found.iter().map(MacRow::row_id).collect();
    let macs: Vec<Vec<u8>> = found.iter().map(|row| rows.of(row)).collect();
    put_macs::<R>(connection, &ids, &macs).await?;
    Ok(found.len())
}
