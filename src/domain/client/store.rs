//! Clients in PostgreSQL.

use serde_json::Value;
use sqlx::types::Json;
use sqlx::{AssertSqlSafe, FromRow, PgConnection, Postgres, QueryBuilder};
use time::OffsetDateTime;

use super::{
    AssertionAudience, AuthMethod, Client, ClientKind, DpopPolicy, Ephemeral, GrantType, StoredSecret,
    TokenBinding, usable_keys,
};
use crate::domain::limit::read_number;
use crate::domain::principal::Principal;
use crate::domain::row_mac::RowMac;
use crate::platform::fault::Fault;
use crate::platform::locks::KeyedLock;

/// Client columns with the thumbprints of removed keys.
const CLIENT: &str = "
    SELECT c.*, ARRAY(SELECT jkt FROM removed_key r WHERE r.client_id = c.client_id AND r.restored_at IS NULL
                      ORDER BY jkt) AS removed_keys
    FROM client c";

#[derive(FromRow)]
struct Row {
    client_id: String,
    version: i64,
    kind: ClientKind,
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
    dpop: DpopPolicy,
    token_type: TokenBinding,
    assertion_audience: AssertionAudience,
    dpop_keys: Vec<String>,
    actor_subjects: Json<Vec<Principal>>,
    max_token_ttl: Option<i32>,
    disabled_at: Option<OffsetDateTime>,
    ephemeral_delegation_id: Option<String>,
    task_id: Option<String>,
    owner_iss: Option<String>,
    owner_sub: Option<String>,
    deactivated_at: Option<OffsetDateTime>,
    dpop_restricted: bool,
    removed_keys: Vec<String>,
    mac: Option<Vec<u8>>,
}

impl Row {
    /// # Errors
    /// A fault for a row whose MAC does not fit its content.
    fn check(mut self, rows: &RowMac) -> Result<Client, Fault> {
        let mac = self.mac.take();
        rows.check(Client::try_from(self)?, mac.as_deref())
    }
}

impl TryFrom<Row> for Client {
    type Error = Fault;

    fn try_from(row: Row) -> Result<Self, Fault> {
        let ephemeral = match (row.ephemeral_delegation_id, row.task_id, row.owner_iss, row.owner_sub) {
            (None, None, None, None) => None,
            (Some(delegation_id), Some(task_id), Some(iss), Some(sub)) => {
                let owner = Principal::new(iss, sub);
                Some(Ephemeral { delegation_id, task_id, owner, deactivated_at: row.deactivated_at })
            }
            _ => {
                return Err(Fault::new(format!(
                    "client {}: part of what it was made for is missing",
                    row.client_id
                )));
            }
        };
        Ok(Self {
            ephemeral,
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
            grant_types: row.grant_types.iter().filter_map(|name| GrantType::parse(name)).collect(),
            dpop: row.dpop,
            token_type: row.token_type,
            assertion_audience: row.assertion_audience,
            dpop_keys: row.dpop_keys.into_iter().collect(),
            dpop_restricted: row.dpop_restricted,
            removed_keys: row.removed_keys.into_iter().collect(),
            actor_subjects: row.actor_subjects.0,
            max_token_ttl: row.max_token_ttl.map(read_number).transpose()?,
            disabled_at: row.disabled_at,
        })
    }
}

/// When a client was registered first.
pub async fn registered_at(
    connection: &mut PgConnection,
    client_id: &str,
) -> Result<Option<OffsetDateTime>, Fault> {
    let found = sqlx::query_scalar("SELECT created_at FROM client WHERE client_id = $1");
    Ok(found.bind(client_id).fetch_optional(connection).await?)
}

pub async fn find(
    rows: &RowMac,
    connection: &mut PgConnection,
    client_id: &str,
) -> Result<Option<Client>, Fault> {
    let row: Option<Row> = sqlx::query_as(AssertSqlSafe(format!("{CLIENT} WHERE client_id = $1")))
        .bind(client_id)
        .fetch_optional(connection)
        .await?;
    row.map(|row| row.check(rows)).transpose()
}

/// Whether a client has this id, enabled or not.
pub async fn exists(connection: &mut PgConnection, client_id: &str) -> Result<bool, Fault> {
    Ok(version(connection, client_id).await?.is_some())
}

pub async fn version(connection: &mut PgConnection, client_id: &str) -> Result<Option<i64>, Fault> {
    let version = sqlx::query_scalar("SELECT version FROM client WHERE client_id = $1")
        .bind(client_id)
        .fetch_optional(connection)
        .await?;
    Ok(version)
}

/// One client, locked until the transaction ends.
pub async fn find_for_change(
    rows: &RowMac,
    connection: &mut PgConnection,
    client_id: &str,
) -> Result<Option<Client>, Fault> {
    let row: Option<Row> = sqlx::query_as(AssertSqlSafe(format!("{CLIENT} WHERE client_id = $1 FOR UPDATE")))
        .bind(client_id)
        .fetch_optional(connection)
        .await?;
    row.map(|row| row.check(rows)).transpose()
}

pub async fn list(rows: &RowMac, connection: &mut PgConnection) -> Result<Vec<Client>, Fault> {
    let found: Vec<Row> =
        sqlx::query_as(AssertSqlSafe(format!("{CLIENT} ORDER BY client_id"))).fetch_all(connection).await?;
    found.into_iter().map(|row| row.check(rows)).collect()
}

/// The ids of all clients except ephemeral agents, of which there may be very many.
pub async fn lasting(connection: &mut PgConnection) -> Result<Vec<String>, Fault> {
    Ok(sqlx::query_scalar("SELECT client_id FROM client WHERE ephemeral_delegation_id IS NULL")
        .fetch_all(connection)
        .await?)
}

/// All clients except ephemeral agents, by id.
pub async fn lasting_clients(rows: &RowMac, connection: &mut PgConnection) -> Result<Vec<Client>, Fault> {
    let lasting = format!("{CLIENT} WHERE ephemeral_delegation_id IS NULL ORDER BY client_id");
    let found: Vec<Row> = sqlx::query_as(AssertSqlSafe(lasting)).fetch_all(connection).await?;
    found.into_iter().map(|row| row.check(rows)).collect()
}

/// Criteria of a list of clients; an absent member does not restrict.
#[derive(Debug, Clone, Default)]
pub struct ClientFilter {
    pub kind: Option<ClientKind>,
    /// Whether the client is neither disabled nor deactivated.
    pub enabled: Option<bool>,
    /// Beginning of the client id.
    pub prefix: Option<String>,
    /// Beginning of the name.
    pub name: Option<String>,
    /// The task of an ephemeral agent.
    pub task_id: Option<String>,
}

/// Clients with ids after `after`, in the order of the bytes of their ids; at most `limit`.
pub async fn page(
    rows: &RowMac,
    connection: &mut PgConnection,
    filter: &ClientFilter,
    after: &str,
    limit: i64,
) -> Result<Vec<Client>, Fault> {
    let mut query = QueryBuilder::<Postgres>::new(CLIENT);
    query.push(" WHERE c.client_id COLLATE \"C\" > ").push_bind(after);
    if let Some(kind) = filter.kind {
        query.push(" AND c.kind = ").push_bind(kind);
    }
    match filter.enabled {
        None => {}
        Some(true) => drop(query.push(" AND c.disabled_at IS NULL AND c.deactivated_at IS NULL")),
        Some(false) => drop(query.push(" AND (c.disabled_at IS NOT NULL OR c.deactivated_at IS NOT NULL)")),
    }
    if let Some(task) = &filter.task_id {
        query.push(" AND c.task_id = ").push_bind(task.clone());
    }
    for (column, beginning) in [("client_id", &filter.prefix), ("name", &filter.name)] {
        let Some(beginning) = beginning else { continue };
        query.push(format!(" AND c.{column} COLLATE \"C\" >= ")).push_bind(beginning.clone());
        // The last code point follows every text with this beginning.
        let end = format!("{beginning}{}", char::MAX);
        query.push(format!(" AND c.{column} COLLATE \"C\" < ")).push_bind(end);
    }
    query.push(" ORDER BY c.client_id COLLATE \"C\" LIMIT ").push_bind(limit);
    let found: Vec<Row> = query.build_query_as().fetch_all(connection).await?;
    found.into_iter().map(|row| row.check(rows)).collect()
}

/// Waits for its turn to add an agent to a task, and counts the active agents of the task.
pub async fn lock_task(
    connection: &mut PgConnection,
    owner: &Principal,
    task_id: &str,
) -> Result<i64, Fault> {
    sqlx::query(
        "SELECT pg_advisory_xact_lock($4, hashtext(jsonb_build_array($1::text, $2::text, $3::text)::text))",
    )
    .bind(&owner.iss)
    .bind(&owner.sub)
    .bind(task_id)
    .bind(KeyedLock::Task.number())
    .execute(&mut *connection)
    .await?;
    let count = sqlx::query_scalar(
        "SELECT count(*) FROM client
         WHERE task_id = $1 AND owner_iss = $2 AND owner_sub = $3 AND deactivated_at IS NULL",
    )
    .bind(task_id)
    .bind(&owner.iss)
    .bind(&owner.sub)
    .fetch_one(connection)
    .await?;
    Ok(count)
}

/// The active agents of a task, each with its delegation; of all owners if `owner` is `None`.
pub async fn of_task(
    connection: &mut PgConnection,
    task_id: &str,
    owner: Option<&Principal>,
) -> Result<Vec<(String, String)>, Fault> {
    let rows = sqlx::query_as(
        "SELECT client_id, ephemeral_delegation_id FROM client
         WHERE task_id = $1 AND deactivated_at IS NULL
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

/// Active ephemeral agents whose delegation, or an ancestor of it, is inactive; at most `most`.
pub async fn orphans(
    connection: &mut PgConnection,
    now: OffsetDateTime,
    most: i64,
) -> Result<Vec<String>, Fault> {
    let ids = sqlx::query_scalar(
        "SELECT k.client_id FROM client k
         WHERE k.ephemeral_delegation_id IS NOT NULL AND k.deactivated_at IS NULL
           AND EXISTS (SELECT FROM delegation d JOIN delegation_status a ON a.id = ANY (d.path)
                       WHERE d.id = k.ephemeral_delegation_id
                         AND delegation_problem($1, a.expires_at, a.revoked_at, a.principal_revoked, a.exhausted_at) IS NOT NULL)
         ORDER BY k.client_id LIMIT $2",
    )
    .bind(now)
    .bind(most)
    .fetch_all(connection)
    .await?;
    Ok(ids)
}

/// Whether a key was removed from any client. Ephemeral agents may not use such a key.
/// The client with a registered key, or from which a key was removed, by its thumbprint.
pub async fn find_by_key(connection: &mut PgConnection, jkt: &str) -> Result<Option<String>, Fault> {
    let found = sqlx::query_scalar(
        "SELECT client_id FROM client WHERE $1 = ANY (dpop_keys)
         UNION ALL SELECT client_id FROM removed_key WHERE jkt = $1 LIMIT 1",
    );
    Ok(found.bind(jkt).fetch_optional(connection).await?)
}

pub async fn is_removed_key(connection: &mut PgConnection, jkt: &str) -> Result<bool, Fault> {
    let found =
        sqlx::query_scalar("SELECT EXISTS (SELECT FROM removed_key WHERE jkt = $1 AND restored_at IS NULL)")
            .bind(jkt)
            .fetch_one(connection)
            .await?;
    Ok(found)
}

/// A key of a client that was removed from another client.
#[derive(Debug, FromRow)]
pub struct RemovedKey {
    pub client_id: String,
    pub jkt: String,
    pub removed_from: String,
}

/// The first of these keys, each as client id and thumbprint, that was removed from another client.
pub async fn find_removed_elsewhere(
    connection: &mut PgConnection,
    keys: Vec<(String, String)>,
) -> Result<Option<RemovedKey>, Fault> {
    if keys.is_empty() {
        return Ok(None);
    }
    let (clients, jkts): (Vec<String>, Vec<String>) = keys.into_iter().unzip();
    let found = sqlx::query_as(
        "SELECT input.client_id, input.jkt, r.client_id AS removed_from
         FROM unnest($1::text[], $2::text[]) AS input (client_id, jkt)
         JOIN removed_key r ON r.jkt = input.jkt AND r.client_id <> input.client_id AND r.restored_at IS NULL
         ORDER BY input.client_id, input.jkt, r.client_id LIMIT 1",
    )
    .bind(clients)
    .bind(jkts)
    .fetch_optional(connection)
    .await?;
    Ok(found)
}

/// The ids of these clients that are disabled or deactivated.
pub async fn out(connection: &mut PgConnection, ids: &[String]) -> Result<Vec<String>, Fault> {
    let out = sqlx::query_scalar(
        "SELECT client_id FROM client
         WHERE client_id = ANY ($1) AND is_inactive_client(disabled_at, deactivated_at) ORDER BY client_id",
    )
    .bind(ids)
    .fetch_all(connection)
    .await?;
    Ok(out)
}

/// Several clients by id; unknown ids are left out.
pub async fn find_all(
    rows: &RowMac,
    connection: &mut PgConnection,
    ids: &[String],
) -> Result<Vec<Client>, Fault> {
    let found: Vec<Row> =
        sqlx::query_as(AssertSqlSafe(format!("{CLIENT} WHERE client_id = ANY ($1) ORDER BY client_id")))
            .bind(ids)
            .fetch_all(connection)
            .await?;
    found.into_iter().map(|row| row.check(rows)).collect()
}

/// Several clients by id, locked until the transaction ends; unknown ids are left out.
pub(super) async fn find_all_for_change(
    rows: &RowMac,
    connection: &mut PgConnection,
    ids: &[String],
) -> Result<Vec<Client>, Fault> {
    let locked = "WHERE client_id = ANY ($1) ORDER BY client_id FOR UPDATE";
    let found: Vec<Row> =
        sqlx::query_as(AssertSqlSafe(format!("{CLIENT} {locked}"))).bind(ids).fetch_all(connection).await?;
    found.into_iter().map(|row| row.check(rows)).collect()
}

/// The active ephemeral agents among these ids, locked until the transaction ends.
pub(super) async fn find_unended(
    rows: &RowMac,
    connection: &mut PgConnection,
    ids: &[String],
) -> Result<Vec<Client>, Fault> {
    let unended = "WHERE client_id = ANY ($1) AND ephemeral_delegation_id IS NOT NULL AND deactivated_at IS NULL ORDER BY client_id FOR UPDATE";
    let found: Vec<Row> =
        sqlx::query_as(AssertSqlSafe(format!("{CLIENT} {unended}"))).bind(ids).fetch_all(connection).await?;
    found.into_iter().map(|row| row.check(rows)).collect()
}

/// Clients whose rows have no MAC, unchecked, at most `most`. Only for sealing rows for the first time.
pub async fn unsealed(connection: &mut PgConnection, most: i64) -> Result<Vec<Client>, Fault> {
    let found: Vec<Row> =
        sqlx::query_as(AssertSqlSafe(format!("{CLIENT} WHERE mac IS NULL ORDER BY client_id LIMIT $1")))
            .bind(most)
            .fetch_all(connection)
            .await?;
    found.into_iter().map(Client::try_from).collect()
}
