//! Changes of clients in PostgreSQL. Each change reads the row, checks its MAC, and writes the row with a new MAC. So
//! no change makes a forged row authentic.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};
use sqlx::PgConnection;
use sqlx::types::Json;
use time::OffsetDateTime;

use super::store::{find_all_for_change, find_for_change, find_unended};
use super::{Client, Ephemeral};
use crate::domain::limit::stored_number;
use crate::domain::row_mac::RowMac;
use crate::platform::clock::rfc3339;
use crate::platform::fault::Fault;
use actchain_protocol::digest::hex;

/// Most clients of one statement.
const CHUNK: usize = 1_000;

/// Inserts a client, or replaces all of it except its disablement, its removed keys and its ephemeral data, and
/// raises its version.
pub async fn put(
    rows: &RowMac,
    connection: &mut PgConnection,
    client: &Client,
    now: OffsetDateTime,
) -> Result<(), Fault> {
    put_all(rows, connection, &[client], now).await
}

/// Whether the stored clients have the versions of these clients; a client of version 0 must not exist.
pub async fn are_as_read(connection: &mut PgConnection, clients: &[&Client]) -> Result<bool, Fault> {
    let changed: bool = sqlx::query_scalar(
        "SELECT EXISTS (SELECT FROM unnest($1::text[], $2::bigint[]) AS read (client_id, version)
                        LEFT JOIN client c ON c.client_id = read.client_id
                        WHERE coalesce(c.version, 0) <> read.version)",
    )
    .bind(clients.iter().map(|client| client.client_id.as_str()).collect::<Vec<_>>())
    .bind(clients.iter().map(|client| client.version).collect::<Vec<_>>())
    .fetch_one(connection)
    .await?;
    Ok(!changed)
}

/// Puts several clients, in two statements for each thousand.
pub async fn put_all(
    rows: &RowMac,
    connection: &mut PgConnection,
    clients: &[&Client],
    now: OffsetDateTime,
) -> Result<(), Fault> {
    for chunk in clients.chunks(CHUNK) {
        let ids: Vec<String> = chunk.iter().map(|client| client.client_id.clone()).collect();
        let found = find_all_for_change(rows, connection, &ids).await?;
        let mut found: BTreeMap<String, Client> =
            found.into_iter().map(|client| (client.client_id.clone(), client)).collect();
        let written = chunk.iter().map(|client| match found.remove(&client.client_id) {
            None => Client { version: 1, removed_keys: BTreeSet::new(), ..(*client).clone() },
            Some(old) => Client {
                version: old.version + 1,
                removed_keys: old.removed_keys,
                disabled_at: old.disabled_at,
                ephemeral: old.ephemeral,
                ..(*client).clone()
            },
        });
        write_all(rows, connection, &written.collect::<Vec<_>>(), now).await?;
    }
    Ok(())
}

async fn write(
    rows: &RowMac,
    connection: &mut PgConnection,
    client: &Client,
    now: OffsetDateTime,
) -> Result<(), Fault> {
    write_all(rows, connection, std::slice::from_ref(client), now).await
}

/// The columns of a client as members of an object, the MAC in hexadecimal digits.
fn columns(rows: &RowMac, client: &Client, now: OffsetDateTime) -> Value {
    let grants: Vec<&str> = client.grant_types.iter().map(|grant| grant.name()).collect();
    let made_for = client.ephemeral.as_ref();
    let mac = hex(&rows.of(client));
    json!({
        "client_id": client.client_id, "kind": client.kind, "name": client.name, "auth": client.auth,
        "secrets": client.secrets, "jwks": client.jwks, "jwks_uri": client.jwks_uri, "scopes": client.scopes,
        "audiences": client.audiences, "detail_types": client.detail_types, "grant_types": grants,
        "dpop": client.dpop, "dpop_keys": client.dpop_keys, "actor_subjects": client.actor_subjects,
        "max_token_ttl": client.max_token_ttl.map(stored_number), "created_at": rfc3339(now), "updated_at": rfc3339(now),
        "dpop_restricted": client.dpop_restricted, "version": client.version,
        "disabled_at": client.disabled_at.map(rfc3339),
        "ephemeral_delegation_id": made_for.map(|agent| &agent.delegation_id),
        "task_id": made_for.map(|agent| &agent.task_id),
        "owner_iss": made_for.map(|agent| &agent.owner.iss), "owner_sub": made_for.map(|agent| &agent.owner.sub),
        "deactivated_at": made_for.and_then(|agent| agent.deactivated_at).map(rfc3339), "mac": mac,
        "declared_secret": client.declared_secret, "token_type": client.token_type,
        "assertion_audience": client.assertion_audience,
    })
}

/// Writes all columns of clients.
async fn write_all(
    rows: &RowMac,
    connection: &mut PgConnection,
    clients: &[Client],
    now: OffsetDateTime,
) -> Result<(), Fault> {
    let input: Vec<Value> = clients.iter().map(|client| columns(rows, client, now)).collect();
    sqlx::query(
        "INSERT INTO client (client_id, kind, name, auth, secrets, jwks, jwks_uri, scopes, audiences, detail_types,
                             grant_types, dpop, dpop_keys, actor_subjects, max_token_ttl, created_at, updated_at,
                             dpop_restricted, version, disabled_at, ephemeral_delegation_id, task_id, owner_iss, owner_sub,
                             deactivated_at, mac, declared_secret, token_type, assertion_audience)
         SELECT client_id, kind, name, auth, secrets, jwks, jwks_uri, scopes, audiences, detail_types,
                grant_types, dpop, dpop_keys, actor_subjects, max_token_ttl, created_at, updated_at,
                dpop_restricted, version, disabled_at, ephemeral_delegation_id, task_id, owner_iss, owner_sub,
                deactivated_at, decode(mac, 'hex'), declared_secret, token_type, assertion_audience
         FROM jsonb_to_recordset($1) AS input (
             client_id text, kind text, name text, auth text, secrets jsonb, jwks jsonb, jwks_uri text, scopes text[],
             audiences text[], detail_types text[], grant_types text[], dpop text, dpop_keys text[], actor_subjects jsonb,
             max_token_ttl integer, created_at timestamptz, updated_at timestamptz, dpop_restricted boolean, version bigint,
             disabled_at timestamptz, ephemeral_delegation_id text, task_id text, owner_iss text, owner_sub text,
             deactivated_at timestamptz, mac text, declared_secret text, token_type text, assertion_audience text)
         ON CONFLICT (client_id) DO UPDATE SET
             version = excluded.version, kind = excluded.kind, name = excluded.name, auth = excluded.auth,
             secrets = excluded.secrets, jwks = excluded.jwks, jwks_uri = excluded.jwks_uri,
             scopes = excluded.scopes, audiences = excluded.audiences, detail_types = excluded.detail_types,
             grant_types = excluded.grant_types, dpop = excluded.dpop, dpop_keys = excluded.dpop_keys,
             dpop_restricted = excluded.dpop_restricted,
             actor_subjects = excluded.actor_subjects, max_token_ttl = excluded.max_token_ttl,
             updated_at = excluded.updated_at, disabled_at = excluded.disabled_at, deactivated_at = excluded.deactivated_at,
             mac = excluded.mac, declared_secret = excluded.declared_secret, token_type = excluded.token_type,
             assertion_audience = excluded.assertion_audience",
    )
    .bind(Json(input))
    .execute(connection)
    .await?;
    Ok(())
}

/// Disables an enabled client; `false` if the client is disabled already, or does not exist.
pub async fn mark_disabled(
    rows: &RowMac,
    connection: &mut PgConnection,
    client_id: &str,
    now: OffsetDateTime,
) -> Result<bool, Fault> {
    let found = find_for_change(rows, connection, client_id).await?;
    let Some(client) = found.filter(|client| client.disabled_at.is_none()) else { return Ok(false) };
    let changed = Client { disabled_at: Some(now), version: client.version + 1, ..client };
    write(rows, connection, &changed, now).await?;
    Ok(true)
}

/// Enables a disabled client; `false` if the client is enabled already, or does not exist.
pub async fn mark_enabled(
    rows: &RowMac,
    connection: &mut PgConnection,
    client_id: &str,
    now: OffsetDateTime,
) -> Result<bool, Fault> {
    let found = find_for_change(rows, connection, client_id).await?;
    let Some(client) = found.filter(|client| client.disabled_at.is_some()) else { return Ok(false) };
    let changed = Client { disabled_at: None, version: client.version + 1, ..client };
    write(rows, connection, &changed, now).await?;
    Ok(true)
}

/// Deactivates ephemeral agents for good and deletes their keys; returns those that were active. Two statements,
/// whatever their number.
pub async fn mark_ended(
    rows: &RowMac,
    connection: &mut PgConnection,
    ids: &[String],
    now: OffsetDateTime,
) -> Result<Vec<String>, Fault> {
    let unended = find_unended(rows, connection, ids).await?;
    let (ended, macs): (Vec<String>, Vec<Vec<u8>>) = unended
        .into_iter()
        .map(|client| {
            let ephemeral = client.ephemeral.clone();
            let changed = Client {
                ephemeral: ephemeral.map(|agent| Ephemeral { deactivated_at: Some(now), ..agent }),
                version: client.version + 1,
                jwks: None,
                dpop_keys: BTreeSet::new(),
                ..client
            };
            let mac = rows.of(&changed);
            (changed.client_id, mac)
        })
        .unzip();
    sqlx::query(
        "UPDATE client c SET deactivated_at = $3, updated_at = $3, version = c.version + 1, jwks = NULL, dpop_keys = '{}',
                             mac = input.mac
         FROM unnest($1::text[], $2::bytea[]) AS input (id, mac) WHERE c.client_id = input.id",
    )
    .bind(&ended)
    .bind(macs)
    .bind(now)
    .execute(connection)
    .await?;
    Ok(ended)
}

/// The keys by which a client authenticates and proves possession.
#[derive(Debug, Clone, Copy, Default)]
pub struct ClientKeys<'a> {
    pub jwks: Option<&'a Value>,
    /// Thumbprints of the only keys for DPoP proofs, if there are any.
    pub dpop_keys: &'a [String],
}

pub async fn put_keys(
    rows: &RowMac,
    connection: &mut PgConnection,
    client_id: &str,
    keys: ClientKeys<'_>,
    now: OffsetDateTime,
) -> Result<(), Fault> {
    let client = get_for_change(rows, connection, client_id).await?;
    let changed = Client {
        jwks: keys.jwks.cloned(),
        dpop_keys: keys.dpop_keys.iter().cloned().collect(),
        version: client.version + 1,
        ..client
    };
    write(rows, connection, &changed, now).await
}

async fn get_for_change(
    rows: &RowMac,
    connection: &mut PgConnection,
    client_id: &str,
) -> Result<Client, Fault> {
    let found = find_for_change(rows, connection, client_id).await?;
    found.ok_or_else(|| Fault::new(format!("there is no client {client_id}")))
}

/// Stores keys that a client may no longer use. Tokens that are bound to these keys, or were obtained with them, are
/// revoked up to the present epoch.
pub async fn put_removed_keys(
    rows: &RowMac,
    connection: &mut PgConnection,
    client_id: &str,
    jkts: &[String],
    now: OffsetDateTime,
) -> Result<(), Fault> {
    if jkts.is_empty() {
        return Ok(());
    }
    let client = get_for_change(rows, connection, client_id).await?;
    sqlx::query(
        "INSERT INTO removed_key (client_id, jkt, removed_at, removed_epoch)
         SELECT $1, jkt, $3, number FROM unnest($2::text[]) AS input (jkt), revocation_epoch
         ON CONFLICT (client_id, jkt) DO UPDATE SET removed_at = excluded.removed_at, removed_epoch = excluded.removed_epoch,
             restored_at = NULL",
    )
    .bind(client_id)
    .bind(jkts)
    .bind(now)
    .execute(&mut *connection)
    .await?;
    let removed_keys = client.removed_keys.iter().chain(jkts).cloned().collect();
    write(rows, connection, &Client { removed_keys, version: client.version + 1, ..client }, now).await
}

/// Restores a removed key and raises the client's version; `false` if the key is not removed. Tokens issued before the
/// removal stay revoked: the removal's epoch remains.
pub async fn mark_key_restored(
    rows: &RowMac,
    connection: &mut PgConnection,
    client_id: &str,
    jkt: &str,
    now: OffsetDateTime,
) -> Result<bool, Fault> {
    let client = get_for_change(rows, connection, client_id).await?;
    let mut removed_keys = client.removed_keys.clone();
    if !removed_keys.remove(jkt) {
        return Ok(false);
    }
    sqlx::query("UPDATE removed_key SET restored_at = $3 WHERE client_id = $1 AND jkt = $2")
        .bind(client_id)
        .bind(jkt)
        .bind(now)
        .execute(&mut *connection)
        .await?;
    write(rows, connection, &Client { removed_keys, version: client.version + 1, ..client }, now).await?;
    Ok(true)
}
