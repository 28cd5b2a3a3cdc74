//! Persons in PostgreSQL. A row is inserted before the first event that names the person, and deleted by an erasure.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use serde::Serialize;
use sqlx::{FromRow, PgConnection};
use time::OffsetDateTime;

use super::{LogNames, Person};
use crate::domain::principal::Principal;
use crate::platform::fault::Fault;
use actchain_protocol::pseudonym::pseudonym;
use actchain_protocol::random;

/// How often persons are read again after others have inserted or erased them.
const ATTEMPTS: u32 = 4;

#[derive(FromRow)]
struct Row {
    iss: String,
    sub: String,
    pseudonym: Option<String>,
    salt: Option<Vec<u8>>,
    own_issuer: Option<String>,
    erasures: i64,
}

/// The names of principals in the log. Inserts the persons that have none yet.
///
/// # Errors
/// A fault for a row whose pseudonym is not that of its person: something other than a server wrote it.
pub async fn put_persons(
    connection: &mut PgConnection,
    wanted: &BTreeSet<Principal>,
) -> Result<LogNames, Fault> {
    for _ in 0..ATTEMPTS {
        let rows = find(connection, wanted).await?;
        let own = |row: &Row| row.own_issuer.as_ref() == Some(&row.iss);
        let missing: Vec<&Row> = rows.iter().filter(|row| row.pseudonym.is_none() && !own(row)).collect();
        if missing.is_empty() {
            return from_rows(rows);
        }
        insert(connection, &missing).await?;
    }
    Err(Fault::new("a person was erased again and again while an event was recorded"))
}

fn from_rows(rows: Vec<Row>) -> Result<LogNames, Fault> {
    let mut names = LogNames::default();
    let mut persons = HashMap::with_capacity(rows.len());
    for row in rows {
        names.erasures = Some(row.erasures);
        names.own_issuer = row.own_issuer.map(Arc::from);
        if let (Some(pseudonym), Some(salt)) = (row.pseudonym, row.salt) {
            let person = person(pseudonym, Principal::new(row.iss, row.sub), salt)?;
            if !person.is_proven() {
                return Err(Fault::new(format!("{} does not name the person of its row", person.pseudonym)));
            }
            persons.insert(person.who, Arc::from(person.pseudonym));
        }
    }
    Ok(LogNames { persons, ..names })
}

/// One row for each principal. `LATERAL` with `OFFSET 0` finds each person by the index, also under a plan that was made
/// for an empty table.
async fn find(connection: &mut PgConnection, wanted: &BTreeSet<Principal>) -> Result<Vec<Row>, Fault> {
    let rows = sqlx::query_as(
        "SELECT input.iss, input.sub, p.pseudonym, p.salt, (SELECT issuer FROM server_info) AS own_issuer, head.erasures
         FROM unnest($1::text[], $2::text[]) AS input (iss, sub)
         CROSS JOIN audit_head head
         LEFT JOIN LATERAL (
             SELECT pseudonym, salt FROM person WHERE sub = input.sub AND iss = input.iss OFFSET 0
         ) p ON true",
    )
    .bind(wanted.iter().map(|who| who.iss.as_str()).collect::<Vec<_>>())
    .bind(wanted.iter().map(|who| who.sub.as_str()).collect::<Vec<_>>())
    .fetch_all(connection)
    .await?;
    Ok(rows)
}

/// Another server may insert the same persons at this moment: the first one wins.
async fn insert(connection: &mut PgConnection, missing: &[&Row]) -> Result<(), Fault> {
    let (mut pseudonyms, mut salts) = (Vec::new(), Vec::new());
    for row in missing {
        let salt = random::bytes::<32>()?;
        pseudonyms.push(pseudonym(&salt, &row.iss, &row.sub));
        salts.push(salt.to_vec());
    }
    sqlx::query(
        "INSERT INTO person (pseudonym, iss, sub, salt)
         SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::bytea[]) AS input (pseudonym, iss, sub, salt)
         ORDER BY input.sub, input.iss
         ON CONFLICT DO NOTHING",
    )
    .bind(pseudonyms)
    .bind(missing.iter().map(|row| row.iss.as_str()).collect::<Vec<_>>())
    .bind(missing.iter().map(|row| row.sub.as_str()).collect::<Vec<_>>())
    .bind(salts)
    .execute(connection)
    .await?;
    Ok(())
}

fn person(pseudonym: String, who: Principal, salt: Vec<u8>) -> Result<Person, Fault> {
    let salt = salt.try_into().map_err(|_| Fault::new("a person's salt has the wrong length"))?;
    Ok(Person { pseudonym, who, salt })
}

/// The persons with these pseudonyms; erased persons are absent.
pub async fn find_all(connection: &mut PgConnection, pseudonyms: &[String]) -> Result<Vec<Person>, Fault> {
    if pseudonyms.is_empty() {
        return Ok(Vec::new());
    }
    let rows: Vec<(String, String, String, Vec<u8>)> =
        sqlx::query_as("SELECT pseudonym, iss, sub, salt FROM person WHERE pseudonym = ANY ($1)")
            .bind(pseudonyms)
            .fetch_all(connection)
            .await?;
    rows.into_iter()
        .map(|(pseudonym, iss, sub, salt)| person(pseudonym, Principal::new(iss, sub), salt))
        .collect()
}

/// Maximum number of issuers of one `sub`.
const MAX_ISSUERS: i64 = 100;

/// The persons with this `sub`, of one issuer or of any.
pub async fn find_by_sub(
    connection: &mut PgConnection,
    iss: Option<&str>,
    sub: &str,
) -> Result<Vec<Person>, Fault> {
    let rows: Vec<(String, String, String, Vec<u8>)> = sqlx::query_as(
        "SELECT pseudonym, iss, sub, salt FROM person WHERE sub = $1 AND iss = coalesce($2, iss) ORDER BY iss LIMIT $3",
    )
    .bind(sub)
    .bind(iss)
    .bind(MAX_ISSUERS)
    .fetch_all(connection)
    .await?;
    rows.into_iter()
        .map(|(pseudonym, iss, sub, salt)| person(pseudonym, Principal::new(iss, sub), salt))
        .collect()
}

/// Authority whose use or end would be another event about a person.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromRow, Serialize)]
pub struct ActiveAuthority {
    /// Delegations that are requested, active, or expired without an event about it.
    pub delegations: i64,
    /// Standing grants that have not ended.
    pub standing_grants: i64,
    /// Connections with a credential.
    pub connections: i64,
}

impl ActiveAuthority {
    pub fn is_some(self) -> bool {
        self.delegations > 0 || self.standing_grants > 0 || self.connections > 0
    }
}

pub async fn active_authority(
    connection: &mut PgConnection,
    who: &Principal,
    now: OffsetDateTime,
) -> Result<ActiveAuthority, Fault> {
    let found = sqlx::query_as(
        "SELECT (SELECT count(*) FROM delegation
                 WHERE ((root_iss = $1 AND root_sub = $2) OR (delegator_iss = $1 AND delegator_sub = $2))
                   AND NOT expiry_logged AND delegation_state(path, $3) <> 'revoked') AS delegations,
                (SELECT count(*) FROM standing_grant_status
                 WHERE grantor_iss = $1 AND grantor_sub = $2
                   AND standing_grant_state($3, expires_at, revoked_at, principal_revoked_at, suspended_at)
                       IN ('active', 'suspended')) AS standing_grants,
                (SELECT count(*) FROM connection
                 WHERE owner_iss = $1 AND owner_sub = $2 AND sealed IS NOT NULL) AS connections",
    )
    .bind(&who.iss)
    .bind(&who.sub)
    .bind(now)
    .fetch_one(connection)
    .await?;
    Ok(found)
}

/// Numbers of rows outside the log that name a person.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromRow, Serialize)]
pub struct OtherRows {
    pub delegations: i64,
    pub standing_grants: i64,
    pub tokens: i64,
    pub connections: i64,
    /// Ephemeral agents of the person's tasks.
    pub agents: i64,
    /// Records of revoke-all.
    pub revocations: i64,
    /// Decisions about delegations of the person.
    pub decisions: i64,
}

pub async fn other_rows(connection: &mut PgConnection, who: &Principal) -> Result<OtherRows, Fault> {
    let found = sqlx::query_as(
        "SELECT (SELECT count(*) FROM delegation
                 WHERE (root_iss = $1 AND root_sub = $2) OR (delegator_iss = $1 AND delegator_sub = $2)) AS delegations,
                (SELECT count(*) FROM standing_grant WHERE grantor_iss = $1 AND grantor_sub = $2) AS standing_grants,
                (SELECT count(*) FROM issued_token WHERE subject_iss = $1 AND subject_sub = $2) AS tokens,
                (SELECT count(*) FROM connection WHERE owner_iss = $1 AND owner_sub = $2) AS connections,
                (SELECT count(*) FROM client WHERE owner_iss = $1 AND owner_sub = $2) AS agents,
                (SELECT count(*) FROM principal_revocation_history WHERE iss = $1 AND sub = $2) AS revocations,
                (SELECT count(*) FROM decision WHERE delegator_iss = $1 AND delegator_sub = $2) AS decisions",
    )
    .bind(&who.iss)
    .bind(&who.sub)
    .fetch_one(connection)
    .await?;
    Ok(found)
}

/// Deletes the row that says whose pseudonym it is. Returns `false` if there is none.
pub async fn mark_erased(connection: &mut PgConnection, pseudonym: &str) -> Result<bool, Fault> {
    Ok(sqlx::query_scalar("SELECT person_erase($1)").bind(pseudonym).fetch_one(connection).await?)
}
