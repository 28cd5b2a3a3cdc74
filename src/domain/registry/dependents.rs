//! Objects that depend on a registered issuer or resource and so prevent its removal.

use sqlx::PgConnection;
use time::OffsetDateTime;

use crate::platform::fault::Fault;

/// Ids of active clients that list a resource among their `audiences`, in order.
pub async fn clients_of_resource(connection: &mut PgConnection, id: &str) -> Result<Vec<String>, Fault> {
    let ids = sqlx::query_scalar(
        "SELECT client_id FROM client WHERE $1 = ANY (audiences) AND deactivated_at IS NULL ORDER BY client_id",
    );
    Ok(ids.bind(id).fetch_all(connection).await?)
}

/// Ids of delegations that are requested or active and list a resource among their `audiences`, in order.
pub async fn delegations_of_resource(
    connection: &mut PgConnection,
    id: &str,
    now: OffsetDateTime,
) -> Result<Vec<String>, Fault> {
    let ids = sqlx::query_scalar(
        "SELECT id FROM delegation
         WHERE $1 = ANY (audiences) AND revoked_at IS NULL AND expires_at > $2
           AND delegation_state(path, $2) IN ('requested', 'active') ORDER BY id",
    );
    Ok(ids.bind(id).bind(now).fetch_all(connection).await?)
}

/// Ids of active clients that name an issuer in `actor_subjects`, in order.
pub async fn clients_of_issuer(connection: &mut PgConnection, iss: &str) -> Result<Vec<String>, Fault> {
    let ids = sqlx::query_scalar(
        "SELECT client_id FROM client
         WHERE actor_subjects @> jsonb_build_array(jsonb_build_object('iss', $1::text)) AND deactivated_at IS NULL
         ORDER BY client_id",
    );
    Ok(ids.bind(iss).fetch_all(connection).await?)
}

/// Ids of the root delegations of an issuer's users that have neither expired nor been revoked, in order.
pub async fn delegations_of_issuer(
    connection: &mut PgConnection,
    iss: &str,
    now: OffsetDateTime,
) -> Result<Vec<String>, Fault> {
    let ids = sqlx::query_scalar(
        "SELECT id FROM delegation
         WHERE root_iss = $1 AND parent IS NULL AND revoked_at IS NULL AND expires_at > $2 ORDER BY id",
    );
    Ok(ids.bind(iss).bind(now).fetch_all(connection).await?)
}

/// The number of connections of an issuer's users in the vault.
pub async fn connections_of_issuer(connection: &mut PgConnection, iss: &str) -> Result<i64, Fault> {
    let count = sqlx::query_scalar(
        "SELECT count(*) FROM connection WHERE owner_iss = $1 AND disconnected_at IS NULL",
    );
    Ok(count.bind(iss).fetch_one(connection).await?)
}
