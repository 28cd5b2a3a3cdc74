//! Clients in PostgreSQL.

use serde_json::Value;
use sqlx::types::Json;
use sqlx::{AssertSqlSafe, FromRow, PgConnection};
use time::OffsetDateTime;

use super::{AuthMethod, Binding, Client, Ephemeral, Grant, Kind, StoredSecret, usable_keys};
use crate::domain::principal::Principal;
use crate::platform::fault::Fault;

/// A client with the keys that were removed from it.
const CLIENT: &str = "
    SELECT c.*, ARRAY(SELECT jkt FROM removed_key r WHERE r.client_id = c.client_id AND r.restored_at IS NULL
                      ORDER BY jkt) AS removed_keys
    FROM client c";

#[derive(FromRow)]
struct Row {
    client_id: String,
    version: i64,
    kind: Kind,
    name: String,
    auth: AuthMethod,
    secrets: Json<Vec<StoredSecret>>,
    declared_secret: Option<String>,
    jwks: Option<Value>,
    jwks_uri: Option<String>,
    scopes: Vec<String>,
    audiences: Vec<String>,
    detail_types: Vec<String>,
    grant_types: Vec<String>,
    dpop: Binding,
    dpop_keys: Vec<String>,
    actor_subjects: Json<Vec<Principal>>,
    max_token_ttl: Option<i32>,
    disabled_at: Option<OffsetDateTime>,
    home: Option<String>,
    task_id: Option<String>,
    owner_iss: Option<String>,
    owner_sub: Option<String>,
    ended_at: Option<OffsetDateTime>,
    dpop_restricted: bool,
    removed_keys: Vec<String>,
}

impl From<Row> for Client {
    fn from(row: Row) -> Self {
        let owner = row.owner_iss.zip(row.owner_sub).map(|(iss, sub)| Principal::new(iss, sub));
        let made_for = row.home.zip(row.task_id).zip(owner);
        Self {
            ephemeral: made_for.map(|((home, task_id), owner)| Ephemeral {
                home,
                task_id,
                owner,
                ended_at: row.ended_at,
            }),
            keys: row.jwks.as_ref().and_then(usable_keys).unwrap_or_default(),
            client_id: row.client_id,
            version: row.version,
            kind: row.kind,
            name: row.name,
            auth: row.auth,
            secrets: row.secrets.0,
            declared_secret: row.declared_secret,
            jwks: row.jwks,
            jwks_uri: row.jwks_uri,
            scopes: row.scopes.into_iter().collect(),
            audiences: row.audiences.into_iter().collect(),
            detail_types: row.detail_types.into_iter().collect(),
            grant_types: row.grant_types.iter().filter_map(|name| Grant::parse(name)).collect(),
            dpop: row.dpop,
            dpop_keys: row.dpop_keys.into_iter().collect(),
            dpop_restricted: row.dpop_restricted,
            removed_keys: row.removed_keys.into_iter().collect(),
            actor_subjects: row.actor_subjects.0,
            max_token_ttl: row.max_token_ttl.and_then(|ttl| u32::try_from(ttl).ok()),
            disabled_at: row.disabled_at,
        }
    }
}

/// One client.
pub async fn find(connection: &mut PgConnection, client_id: &str) -> Result<Option<Client>, Fault> {
    let row: Option<Row> = sqlx::query_as(AssertSqlSafe(format!("{CLIENT} WHERE client_id = $1")))
        .bind(client_id)
        .fetch_optional(connection)
        .await?;
    Ok(row.map(Client::from))
}

/// The version of a client as it is stored.
pub async fn version(connection: &mut PgConnection, client_id: &str) -> Result<Option<i64>, Fault> {
    let version = sqlx::query_scalar("SELECT version FROM client WHERE client_id = $1")
        .bind(client_id)
        .fetch_optional(connection)
        .await?;
    Ok(version)
}

/// One client, locked until the transaction ends.
pub async fn find_for_change(
    connection: &mut PgConnection,
    client_id: &str,
) -> Result<Option<Client>, Fault> {
    let row: Option<Row> = sqlx::query_as(AssertSqlSafe(format!("{CLIENT} WHERE client_id = $1 FOR UPDATE")))
        .bind(client_id)
        .fetch_optional(connection)
        .await?;
    Ok(row.map(Client::from))
}

/// All clients by id.
pub async fn list(connection: &mut PgConnection) -> Result<Vec<Client>, Fault> {
    let rows: Vec<Row> =
        sqlx::query_as(AssertSqlSafe(format!("{CLIENT} ORDER BY client_id"))).fetch_all(connection).await?;
    Ok(rows.into_iter().map(Client::from).collect())
}

/// The ids of all clients but those that were made for one delegation, of which there may be very many.
pub async fn lasting(connection: &mut PgConnection) -> Result<Vec<String>, Fault> {
    Ok(sqlx::query_scalar("SELECT client_id FROM client WHERE home IS NULL").fetch_all(connection).await?)
}

/// Inserts a client, or replaces everything but its disablement and raises its version.
pub async fn put(connection: &mut PgConnection, client: &Client, now: OffsetDateTime) -> Result<(), Fault> {
    let texts = |set: &std::collections::BTreeSet<String>| set.iter().cloned().collect::<Vec<_>>();
    let grants: Vec<&str> = client.grant_types.iter().map(|grant| grant.name()).collect();
    sqlx::query(
        "INSERT INTO client (client_id, kind, name, auth, secrets, jwks, jwks_uri, scopes, audiences, detail_types,
                             grant_types, dpop, dpop_keys, actor_subjects, max_token_ttl, created_at, updated_at,
                             dpop_restricted, declared_secret)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $16, $17, $18)
         ON CONFLICT (client_id) DO UPDATE SET
             version = client.version + 1, kind = excluded.kind, name = excluded.name, auth = excluded.auth,
             secrets = excluded.secrets, jwks = excluded.jwks, jwks_uri = excluded.jwks_uri,
             scopes = excluded.scopes, audiences = excluded.audiences, detail_types = excluded.detail_types,
             grant_types = excluded.grant_types, dpop = excluded.dpop, dpop_keys = excluded.dpop_keys,
             dpop_restricted = excluded.dpop_restricted, declared_secret = excluded.declared_secret,
             actor_subjects = excluded.actor_subjects, max_token_ttl = excluded.max_token_ttl, updated_at = $16",
    )
    .bind(&client.client_id)
    .bind(client.kind)
    .bind(&client.name)
    .bind(client.auth)
    .bind(Json(&client.secrets))
    .bind(&client.jwks)
    .bind(&client.jwks_uri)
    .bind(texts(&client.scopes))
    .bind(texts(&client.audiences))
    .bind(texts(&client.detail_types))
    .bind(grants)
    .bind(client.dpop)
    .bind(texts(&client.dpop_keys))
    .bind(Json(&client.actor_subjects))
    .bind(client.max_token_ttl.and_then(|ttl| i32::try_from(ttl).ok()))
    .bind(now)
    .bind(client.dpop_restricted)
    .bind(&client.declared_secret)
    .execute(connection)
    .await?;
    Ok(())
}

/// Disables an enabled client; `false` if it was disabled already.
pub async fn mark_disabled(
    connection: &mut PgConnection,
    client_id: &str,
    now: OffsetDateTime,
) -> Result<bool, Fault> {
    let done = sqlx::query(
        "UPDATE client SET disabled_at = $2, updated_at = $2, version = version + 1
         WHERE client_id = $1 AND disabled_at IS NULL",
    )
    .bind(client_id)
    .bind(now)
    .execute(connection)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Enables a disabled client; `false` if it was enabled already.
pub async fn mark_enabled(
    connection: &mut PgConnection,
    client_id: &str,
    now: OffsetDateTime,
) -> Result<bool, Fault> {
    let done = sqlx::query(
        "UPDATE client SET disabled_at = NULL, updated_at = $2, version = version + 1
         WHERE client_id = $1 AND disabled_at IS NOT NULL",
    )
    .bind(client_id)
    .bind(now)
    .execute(connection)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Makes an agent for one delegation of a client that was just inserted.
pub async fn mark_ephemeral(
    connection: &mut PgConnection,
    client_id: &str,
    agent: &Ephemeral,
) -> Result<(), Fault> {
    sqlx::query(
        "UPDATE client SET home = $2, task_id = $3, owner_iss = $4, owner_sub = $5 WHERE client_id = $1",
    )
    .bind(client_id)
    .bind(&agent.home)
    .bind(&agent.task_id)
    .bind(&agent.owner.iss)
    .bind(&agent.owner.sub)
    .execute(connection)
    .await?;
    Ok(())
}

/// Waits for its turn to add to a task, and counts the agents of it that have not ended.
pub async fn lock_task(
    connection: &mut PgConnection,
    owner: &Principal,
    task_id: &str,
) -> Result<i64, Fault> {
    sqlx::query(
        "SELECT pg_advisory_xact_lock(7223, hashtext(jsonb_build_array($1::text, $2::text, $3::text)::text))",
    )
    .bind(&owner.iss)
    .bind(&owner.sub)
    .bind(task_id)
    .execute(&mut *connection)
    .await?;
    let count = sqlx::query_scalar(
        "SELECT count(*) FROM client
         WHERE task_id = $1 AND owner_iss = $2 AND owner_sub = $3 AND ended_at IS NULL",
    )
    .bind(task_id)
    .bind(&owner.iss)
    .bind(&owner.sub)
    .fetch_one(connection)
    .await?;
    Ok(count)
}

/// The agents of a task that have not ended, with the delegations they were made for; of everybody's where no owner is
/// given.
pub async fn of_task(
    connection: &mut PgConnection,
    task_id: &str,
    owner: Option<&Principal>,
) -> Result<Vec<(String, String)>, Fault> {
    let rows = sqlx::query_as(
        "SELECT client_id, home FROM client
         WHERE task_id = $1 AND ended_at IS NULL
           AND ($2::text IS NULL OR (owner_iss = $2 AND owner_sub = $3))
         ORDER BY client_id",
    )
    .bind(task_id)
    .bind(owner.map(|owner| &owner.iss))
    .bind(owner.map(|owner| &owner.sub))
    .fetch_all(connection)
    .await?;
    Ok(rows)
}

/// Ends agents for good, and forgets their keys; gives those that had not ended yet.
pub async fn mark_ended(
    connection: &mut PgConnection,
    ids: &[String],
    now: OffsetDateTime,
) -> Result<Vec<String>, Fault> {
    let ended = sqlx::query_scalar(
        "UPDATE client SET ended_at = $2, updated_at = $2, version = version + 1, jwks = NULL, dpop_keys = '{}'
         WHERE client_id = ANY ($1) AND home IS NOT NULL AND ended_at IS NULL RETURNING client_id",
    )
    .bind(ids)
    .bind(now)
    .fetch_all(connection)
    .await?;
    Ok(ended)
}

/// Agents whose delegation has ended by itself or by what happened above, at most so many.
pub async fn orphans(
    connection: &mut PgConnection,
    now: OffsetDateTime,
    most: i64,
) -> Result<Vec<String>, Fault> {
    let ids = sqlx::query_scalar(
        "SELECT k.client_id FROM client k
         WHERE k.home IS NOT NULL AND k.ended_at IS NULL
           AND EXISTS (SELECT FROM delegation d JOIN delegation_now a ON a.id = ANY (d.path)
                       WHERE d.id = k.home AND (a.revoked_at IS NOT NULL OR a.cut_off OR a.expires_at <= $1
                                                OR a.exhausted_at IS NOT NULL))
         ORDER BY k.client_id LIMIT $2",
    )
    .bind(now)
    .bind(most)
    .fetch_all(connection)
    .await?;
    Ok(ids)
}

/// Remembers keys that a client may not use any more: what is bound to them, or was got by them, up to now is dead.
pub async fn put_removed_keys(
    connection: &mut PgConnection,
    client_id: &str,
    jkts: &[String],
    now: OffsetDateTime,
) -> Result<(), Fault> {
    sqlx::query(
        "INSERT INTO removed_key (client_id, jkt, removed_at, removed_in)
         SELECT $1, jkt, $3, number FROM unnest($2::text[]) AS given (jkt), epoch
         ON CONFLICT (client_id, jkt) DO UPDATE SET removed_at = excluded.removed_at, removed_in = excluded.removed_in,
             restored_at = NULL",
    )
    .bind(client_id)
    .bind(jkts)
    .bind(now)
    .execute(connection)
    .await?;
    Ok(())
}

/// Restores a removed key and raises the client's version; `false` if the key is not removed. Tokens issued before the
/// removal stay revoked: the removal's epoch remains.
pub async fn mark_key_restored(
    connection: &mut PgConnection,
    client_id: &str,
    jkt: &str,
    now: OffsetDateTime,
) -> Result<bool, Fault> {
    let done = sqlx::query(
        "UPDATE removed_key SET restored_at = $3 WHERE client_id = $1 AND jkt = $2 AND restored_at IS NULL",
    )
    .bind(client_id)
    .bind(jkt)
    .bind(now)
    .execute(&mut *connection)
    .await?;
    if done.rows_affected() == 0 {
        return Ok(false);
    }
    sqlx::query("UPDATE client SET updated_at = $2, version = version + 1 WHERE client_id = $1")
        .bind(client_id)
        .bind(now)
        .execute(connection)
        .await?;
    Ok(true)
}

/// Whether a key is removed from any client. An agent for one delegation gets none of these.
pub async fn is_removed_key(connection: &mut PgConnection, jkt: &str) -> Result<bool, Fault> {
    let found =
        sqlx::query_scalar("SELECT EXISTS (SELECT FROM removed_key WHERE jkt = $1 AND restored_at IS NULL)")
            .bind(jkt)
            .fetch_one(connection)
            .await?;
    Ok(found)
}

/// Those of these clients that are disabled or have ended.
pub async fn out(connection: &mut PgConnection, ids: &[String]) -> Result<Vec<String>, Fault> {
    let out = sqlx::query_scalar(
        "SELECT client_id FROM client
         WHERE client_id = ANY ($1) AND (disabled_at IS NOT NULL OR ended_at IS NOT NULL) ORDER BY client_id",
    )
    .bind(ids)
    .fetch_all(connection)
    .await?;
    Ok(out)
}

/// Several clients by id; those that are not there are left out.
pub async fn find_all(connection: &mut PgConnection, ids: &[String]) -> Result<Vec<Client>, Fault> {
    let rows: Vec<Row> =
        sqlx::query_as(AssertSqlSafe(format!("{CLIENT} WHERE client_id = ANY ($1) ORDER BY client_id")))
            .bind(ids)
            .fetch_all(connection)
            .await?;
    Ok(rows.into_iter().map(Client::from).collect())
}

/// Replaces the keys of a client.
pub async fn put_keys(
    connection: &mut PgConnection,
    client_id: &str,
    (jwks, dpop_keys): (Option<&Value>, &[String]),
    now: OffsetDateTime,
) -> Result<(), Fault> {
    sqlx::query(
        "UPDATE client SET jwks = $2, dpop_keys = $3, updated_at = $4, version = version + 1 WHERE client_id = $1",
    )
    .bind(client_id)
    .bind(jwks)
    .bind(dpop_keys)
    .bind(now)
    .execute(connection)
    .await?;
    Ok(())
}
