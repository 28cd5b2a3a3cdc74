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

/// Ids of active clients that name one of these issuers in `actor_subjects`, in order.
pub async fn clients_of_issuer(
    connection: &mut PgConnection,
    names: &[String],
) -> Result<Vec<String>, Fault> {
    let ids = sqlx::query_scalar(
        "SELECT client_id FROM client
         WHERE deactivated_at IS NULL
           AND EXISTS (SELECT FROM jsonb_array_elements(actor_subjects) AS one WHERE one ->> 'iss' = ANY ($1))
         ORDER BY client_id",
    );
    Ok(ids.bind(names).fetch_all(connection).await?)
}

/// Ids of the root delegations of these issuers' users that have neither expired nor been revoked, in order.
pub async fn delegations_of_issuer(
    connection: &mut PgConnection,
    names: &[String],
    now: OffsetDateTime,
) -> Result<Vec<String>, Fault> {
    let ids = sqlx::query_scalar(
        "SELECT id FROM delegation
         WHERE root_iss = ANY ($1) AND parent IS NULL AND revoked_at IS NULL AND expires_at > $2 ORDER BY id",
    );
    Ok(ids.bind(names).bind(now).fetch_all(connection).await?)
}

/// The number of connections of these issuers' users in the vault.
pub async fn connections_of_issuer(connection: &mut PgConnection, names: &[String]) -> Result<i64, Fault> {
    let count = sqlx::query_scalar(
        "SELECT count(*) FROM connection WHERE owner_iss = ANY ($1) AND disconnected_at IS NULL",
    );
    Ok(count.bind(names).fetch_one(connection).await?)
}
