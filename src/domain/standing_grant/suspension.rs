//! Suspension of standing grants whose agent proves itself by something that the grantor has not confirmed. Changes of the
//! registration suspend by triggers of the tables `client` and `removed_key`.

use std::collections::BTreeSet;

use sqlx::postgres::PgRow;
use sqlx::{PgConnection, Row as _};
use time::OffsetDateTime;

use super::KeySuspicion;
use crate::domain::principal::Principal;
use crate::platform::fault::Fault;

/// A key that a client has proven.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProvenClientKey {
    pub client_id: String,
    /// Thumbprint of the key of a DPoP proof or of a client assertion.
    pub jkt: String,
}

impl ProvenClientKey {
    pub fn all<'a>(client_id: &str, keys: impl Iterator<Item = &'a String>) -> BTreeSet<Self> {
        keys.map(|jkt| Self { client_id: client_id.to_owned(), jkt: jkt.clone() }).collect()
    }
}

/// Which of these keys are not pinned by an active standing grant of their client. Reads an index once for each set of
/// keys of the client, whatever the number of grants.
pub async fn unpinned(
    connection: &mut PgConnection,
    proved: &BTreeSet<ProvenClientKey>,
    now: OffsetDateTime,
) -> Result<BTreeSet<ProvenClientKey>, Fault> {
    if proved.is_empty() {
        return Ok(BTreeSet::new());
    }
    let found: Vec<(String, String)> = sqlx::query_as(
        "SELECT input.client_id, input.jkt FROM unnest($1::text[], $2::text[]) AS input (client_id, jkt)
         CROSS JOIN LATERAL (
             SELECT FROM standing_grant_keys k CROSS JOIN LATERAL (
                 SELECT FROM standing_grant g
                 WHERE g.client_id = k.client_id AND g.keys = k.keys AND g.expires_at > $3
                   AND g.revoked_at IS NULL AND g.suspended_at IS NULL LIMIT 1
             ) active
             WHERE k.client_id = input.client_id AND input.jkt <> ALL (k.keys) LIMIT 1
         ) found",
    )
    .bind(proved.iter().map(|one| one.client_id.as_str()).collect::<Vec<_>>())
    .bind(proved.iter().map(|one| one.jkt.as_str()).collect::<Vec<_>>())
    .bind(now)
    .fetch_all(connection)
    .await?;
    Ok(found.into_iter().map(|(client_id, jkt)| ProvenClientKey { client_id, jkt }).collect())
}

/// Suspends the active standing grants of a client that do not pin this key; returns their number.
pub async fn mark_unpinned(
    connection: &mut PgConnection,
    proved: &ProvenClientKey,
    now: OffsetDateTime,
) -> Result<u64, Fault> {
    let done = sqlx::query(
        "UPDATE standing_grant SET suspended_at = $3, suspension_cause = 'key_not_pinned', seen_key = $2,
                                   suspension_logged = false
         WHERE client_id = $1 AND $2 <> ALL (keys) AND revoked_at IS NULL AND suspended_at IS NULL AND expires_at > $3",
    )
    .bind(&proved.client_id)
    .bind(&proved.jkt)
    .bind(now)
    .execute(connection)
    .await?;
    Ok(done.rows_affected())
}

/// Suspends the active standing grants of a client that publishes other keys, as the trigger of the table `client` does for
/// other changes.
pub async fn mark_registration_changed(
    connection: &mut PgConnection,
    client_id: &str,
    now: OffsetDateTime,
) -> Result<u64, Fault> {
    let done = sqlx::query(
        "UPDATE standing_grant SET suspended_at = $2, suspension_cause = 'registration_changed', suspension_logged = false
         WHERE client_id = $1 AND revoked_at IS NULL AND suspended_at IS NULL AND expires_at > $2
           AND id IN (SELECT id FROM standing_grant_status WHERE client_id = $1 AND principal_revoked_at IS NULL)",
    )
    .bind(client_id)
    .bind(now)
    .execute(connection)
    .await?;
    Ok(done.rows_affected())
}

/// Suspends all active standing grants after a backup was restored.
pub async fn mark_restored(connection: &mut PgConnection, now: OffsetDateTime) -> Result<u64, Fault> {
    let done = sqlx::query(
        "UPDATE standing_grant SET suspended_at = $1, suspension_cause = 'backup_restored', suspension_logged = false
         WHERE revoked_at IS NULL AND suspended_at IS NULL AND expires_at > $1
           AND id IN (SELECT id FROM standing_grant_status WHERE principal_revoked_at IS NULL)",
    )
    .bind(now)
    .execute(connection)
    .await?;
    Ok(done.rows_affected())
}

/// A suspension that has no event yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnloggedSuspension {
    pub id: String,
    pub grantor: Principal,
    pub client_id: String,
    pub keys: Vec<String>,
    pub cause: KeySuspicion,
    pub seen_key: Option<String>,
}

/// Marks suspensions that have no event yet, and returns them for the event.
pub async fn mark_logged(connection: &mut PgConnection) -> Result<Vec<UnloggedSuspension>, Fault> {
    let rows = sqlx::query(
        "UPDATE standing_grant SET suspension_logged = true
         WHERE suspended_at IS NOT NULL AND NOT suspension_logged
         RETURNING id, grantor_iss, grantor_sub, client_id, keys, suspension_cause, seen_key",
    )
    .fetch_all(connection)
    .await?;
    let suspension = |row: &PgRow| {
        Ok::<_, sqlx::Error>(UnloggedSuspension {
            id: row.try_get("id")?,
            grantor: Principal { iss: row.try_get("grantor_iss")?, sub: row.try_get("grantor_sub")? },
            client_id: row.try_get("client_id")?,
            keys: row.try_get("keys")?,
            cause: row.try_get("suspension_cause")?,
            seen_key: row.try_get("seen_key")?,
        })
    };
    let mut found = rows.iter().map(suspension).collect::<Result<Vec<_>, _>>()?;
    found.sort_by(|one, other| one.id.cmp(&other.id));
    Ok(found)
}
