//! Refresh tokens in PostgreSQL. Statements of the ledger run under the locks of the counts of uses of the delegations, so
//! that two batches never write refresh tokens of one delegation at once.

use std::collections::{BTreeMap, HashMap};

use serde_json::Value;
use sqlx::{FromRow, PgConnection};
use time::{Duration, OffsetDateTime};
use uuid::Uuid;

use super::{MOST, OfflineGrant, RefreshToken, StoredRefreshToken};
use crate::domain::principal::Principal;
use crate::domain::row_mac::RowMac;
use crate::domain::token::InactiveToken;
use crate::platform::fault::{Context as _, Fault};
use actchain_protocol::access_token::AuthenticationContext;
use actchain_protocol::random;

/// A refresh token to be issued with an access token. Where the grant has a refresh token already, that one is issued.
#[derive(Debug, Clone)]
pub struct RefreshTokenInsert {
    pub token: RefreshToken,
    pub grant_hash: [u8; 32],
    /// After this time without a use, another refresh token is issued.
    pub max_idle: Duration,
    /// The access token of the same answer: the refresh token came from the same tokens.
    pub issued_with: Uuid,
    /// Ids of rows for the earlier actors.
    pub actors: Vec<RefreshTokenActor>,
}

/// The row of an earlier actor.
#[derive(Debug, Clone)]
pub struct RefreshTokenActor {
    pub id: Uuid,
    pub client_id: String,
    pub jkt: Option<String>,
}

/// One refresh token exists for each of these.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct GrantKey<'a> {
    delegation_id: &'a str,
    jkt: &'a str,
    grant_hash: [u8; 32],
}

/// The refresh tokens of grants.
#[derive(Debug, Default)]
pub struct IssuedRefreshTokens(HashMap<(String, String, Vec<u8>), Uuid>);

impl IssuedRefreshTokens {
    pub fn of(&self, insert: &RefreshTokenInsert) -> Option<Uuid> {
        let RefreshToken { delegation_id, jkt, .. } = &insert.token;
        self.0.get(&(delegation_id.clone(), jkt.clone(), insert.grant_hash.to_vec())).copied()
    }
}

impl RefreshTokenInsert {
    /// # Errors
    /// A fault of the random generator.
    pub fn new(token: RefreshToken, max_idle: Duration, issued_with: Uuid) -> Result<Self, Fault> {
        let actor =
            |(client_id, jkt)| Ok(RefreshTokenActor { id: random::id(token.issued_at)?, client_id, jkt });
        let actors = token.earlier_actors().into_iter().map(actor).collect::<Result<_, Fault>>()?;
        Ok(Self { grant_hash: token.granted.hash()?, max_idle, issued_with, actors, token })
    }

    pub fn key(&self) -> GrantKey<'_> {
        let RefreshToken { delegation_id, jkt, .. } = &self.token;
        GrantKey { delegation_id, jkt, grant_hash: self.grant_hash }
    }

    fn anchors(&self) -> String {
        let ids: Vec<String> = self.actors.iter().map(|actor| actor.id.to_string()).collect();
        ids.join(",")
    }
}

/// Issues refresh tokens, at most one for each key, and returns the id for each. [`put_anchors`] completes them. A refresh token that cannot be used any
/// more is replaced, and of too many the ones that were not used for the longest time end.
pub async fn put(
    rows: &RowMac,
    connection: &mut PgConnection,
    inserts: &BTreeMap<GrantKey<'_>, &RefreshTokenInsert>,
    now: OffsetDateTime,
) -> Result<IssuedRefreshTokens, sqlx::Error> {
    let all: Vec<&RefreshTokenInsert> = inserts.values().copied().collect();
    end_unusable(connection, &all, now).await?;
    let column = |pick: fn(&RefreshTokenInsert) -> &str| all.iter().map(|one| pick(one)).collect::<Vec<_>>();
    let digests: Vec<&[u8]> = all.iter().map(|one| one.token.digest.as_slice()).collect();
    let granted =
        all.iter().map(|one| serde_json::to_value(&one.token.granted)).collect::<Result<Vec<_>, _>>();
    let login = all.iter().map(|one| serde_json::to_value(&one.token.login)).collect::<Result<Vec<_>, _>>();
    let encoding = |error: serde_json::Error| sqlx::Error::Encode(Box::new(error));
    let issued: Vec<(Uuid, String, String, Vec<u8>)> = sqlx::query_as(
        "INSERT INTO refresh_token AS r (id, digest, delegation_id, client_id, subject_iss, subject_sub, jkt, grant_hash,
                                         granted, login, txn, session_id, issued_at, last_used_at, anchors, mac)
         SELECT id::uuid, digest, delegation_id, client_id, subject_iss, subject_sub, jkt, grant_hash, granted, login,
                txn::uuid, session_id, issued_at, issued_at, string_to_array(anchors, ',')::uuid[], mac
         FROM unnest($1::text[], $2::bytea[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::bytea[],
                     $9::jsonb[], $10::jsonb[], $11::text[], $12::text[], $13::timestamptz[], $14::text[], $15::bytea[])
              AS t (id, digest, delegation_id, client_id, subject_iss, subject_sub, jkt, grant_hash, granted, login, txn,
                    session_id, issued_at, anchors, mac)
         ON CONFLICT (delegation_id, jkt, grant_hash) WHERE ended_at IS NULL
         DO UPDATE SET last_used_at = greatest(r.last_used_at, excluded.last_used_at)
         RETURNING id, delegation_id, jkt, grant_hash",
    )
    .bind(column(|one| &one.token.id))
    .bind(digests)
    .bind(column(|one| &one.token.delegation_id))
    .bind(column(|one| &one.token.client_id))
    .bind(column(|one| &one.token.subject.iss))
    .bind(column(|one| &one.token.subject.sub))
    .bind(column(|one| &one.token.jkt))
    .bind(all.iter().map(|one| one.grant_hash.as_slice()).collect::<Vec<_>>())
    .bind(granted.map_err(encoding)?)
    .bind(login.map_err(encoding)?)
    .bind(column(|one| &one.token.txn))
    .bind(all.iter().map(|one| one.token.session_id.as_deref()).collect::<Vec<_>>())
    .bind(all.iter().map(|one| one.token.issued_at).collect::<Vec<_>>())
    .bind(all.iter().map(|one| one.anchors()).collect::<Vec<_>>())
    .bind(all.iter().map(|one| rows.of(&one.token)).collect::<Vec<_>>())
    .fetch_all(connection)
    .await?;
    let by_grant = issued.into_iter().map(|(id, delegation, jkt, hash)| ((delegation, jkt, hash), id));
    Ok(IssuedRefreshTokens(by_grant.collect()))
}

/// Ends the refresh tokens of the same grants that are revoked or idle, and surplus ones of the same delegations.
async fn end_unusable(
    connection: &mut PgConnection,
    all: &[&RefreshTokenInsert],
    now: OffsetDateTime,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "UPDATE refresh_token SET ended_at = $6 WHERE id = ANY (ARRAY(
             SELECT one.id
             FROM unnest($1::text[], $2::text[], $3::bytea[], $4::timestamptz[])
                  AS input (delegation_id, jkt, grant_hash, idle_since)
             CROSS JOIN LATERAL (
                 SELECT o.id, o.last_used_at, o.jkt = input.jkt AND o.grant_hash = input.grant_hash AS same,
                        row_number() OVER (ORDER BY o.last_used_at DESC, o.id) AS place
                 FROM refresh_token o WHERE o.delegation_id = input.delegation_id AND o.ended_at IS NULL OFFSET 0) one
             WHERE CASE WHEN one.same
                        THEN one.last_used_at <= input.idle_since
                             OR NOT EXISTS (SELECT FROM token_status s WHERE s.jti = one.id AND s.problem IS NULL OFFSET 0)
                        ELSE one.place >= $5 END))",
    )
    .bind(all.iter().map(|one| one.token.delegation_id.as_str()).collect::<Vec<_>>())
    .bind(all.iter().map(|one| one.token.jkt.as_str()).collect::<Vec<_>>())
    .bind(all.iter().map(|one| one.grant_hash.as_slice()).collect::<Vec<_>>())
    .bind(all.iter().map(|one| one.token.issued_at - one.max_idle).collect::<Vec<_>>())
    .bind(MOST)
    .bind(now)
    .execute(connection)
    .await?;
    Ok(())
}

/// Writes the rows by which new refresh tokens and their earlier actors are checked, after the tokens with which they are
/// issued. They are in the lineage of every token that is made with the refresh token.
pub async fn put_anchors(
    connection: &mut PgConnection,
    inserts: &BTreeMap<GrantKey<'_>, &RefreshTokenInsert>,
    issued: &IssuedRefreshTokens,
) -> Result<(), sqlx::Error> {
    let is_new = |one: &&&RefreshTokenInsert| issued.of(one).is_some_and(|id| id.to_string() == one.token.id);
    let fresh: Vec<&RefreshTokenInsert> = inserts.values().filter(is_new).copied().collect();
    if fresh.is_empty() {
        return Ok(());
    }
    let (mut ids, mut issued_with, mut lineages) = (Vec::new(), Vec::new(), Vec::new());
    let (mut clients, mut keys): (Vec<Option<&str>>, Vec<Option<&str>>) = (Vec::new(), Vec::new());
    for one in fresh {
        for actor in &one.actors {
            ids.push(actor.id.to_string());
            issued_with.push(one.issued_with);
            clients.push(Some(&actor.client_id));
            keys.push(actor.jkt.as_deref());
            lineages.push(None);
        }
        ids.push(one.token.id.clone());
        issued_with.push(one.issued_with);
        clients.push(None);
        keys.push(None);
        lineages.push(Some(one.anchors()));
    }
    // Without a client, it is the row of the refresh token itself, which is as its access token is.
    sqlx::query(
        "INSERT INTO issued_token (jti, lineage, txn, client_id, subject_iss, subject_sub, delegation_id, jkt, auth_key,
                                   kid, scope, audience, issued_at, expires_at, status_index, created_epoch)
         SELECT t.id::uuid, CASE WHEN t.client_id IS NULL THEN m.lineage || string_to_array(t.anchors, ',')::uuid[]
                                 ELSE '{}' END,
                m.txn, coalesce(t.client_id, m.client_id), m.subject_iss, m.subject_sub,
                CASE WHEN t.client_id IS NULL THEN m.delegation_id END,
                CASE WHEN t.client_id IS NULL THEN m.jkt ELSE t.jkt END,
                CASE WHEN t.client_id IS NULL THEN m.auth_key END,
                '', '', '{}', m.issued_at, 'infinity', -1, m.created_epoch
         FROM unnest($1::text[], $2::uuid[], $3::text[], $4::text[], $5::text[])
              AS t (id, issued_with, client_id, jkt, anchors)
         CROSS JOIN LATERAL (SELECT * FROM issued_token WHERE jti = t.issued_with OFFSET 0) m",
    )
    .bind(ids)
    .bind(issued_with)
    .bind(clients)
    .bind(keys)
    .bind(lineages)
    .execute(connection)
    .await?;
    Ok(())
}

/// Records the use of refresh tokens.
pub async fn mark_used(
    connection: &mut PgConnection,
    ids: &[Uuid],
    now: OffsetDateTime,
) -> Result<(), sqlx::Error> {
    sqlx::query("UPDATE refresh_token SET last_used_at = greatest(last_used_at, $2) WHERE id = ANY ($1)")
        .bind(ids)
        .bind(now)
        .execute(connection)
        .await?;
    Ok(())
}

#[derive(FromRow)]
struct RefreshTokenRow {
    id: Uuid,
    digest: Vec<u8>,
    delegation_id: String,
    client_id: String,
    jkt: String,
    subject_iss: String,
    subject_sub: String,
    granted: Value,
    login: Value,
    txn: Uuid,
    session_id: Option<String>,
    issued_at: OffsetDateTime,
    last_used_at: OffsetDateTime,
    ended_at: Option<OffsetDateTime>,
    mac: Vec<u8>,
    problem: Option<InactiveToken>,
    standing_grant_id: Option<String>,
}

/// A refresh token by its digest; `None` if there is none, or its row among the issued tokens is missing.
pub async fn find(
    rows: &RowMac,
    connection: &mut PgConnection,
    digest: &[u8; 32],
) -> Result<Option<StoredRefreshToken>, Fault> {
    let row: Option<RefreshTokenRow> = sqlx::query_as(
        "SELECT r.id, r.digest, r.delegation_id, r.client_id, r.jkt, r.subject_iss, r.subject_sub, r.granted, r.login,
                r.txn, r.session_id, r.issued_at, r.last_used_at, r.ended_at, r.mac, s.problem,
                (SELECT above.standing_grant_id FROM delegation d JOIN delegation above ON above.id = ANY (d.path)
                 WHERE d.id = r.delegation_id AND above.standing_grant_id IS NOT NULL
                 ORDER BY cardinality(above.path) DESC LIMIT 1) AS standing_grant_id
         FROM refresh_token r JOIN token_status s ON s.jti = r.id WHERE r.digest = $1",
    )
    .bind(digest.as_slice())
    .fetch_optional(connection)
    .await?;
    row.map(|row| read(rows, row)).transpose()
}

fn read(rows: &RowMac, row: RefreshTokenRow) -> Result<StoredRefreshToken, Fault> {
    let login =
        row.login.as_object().ok_or_else(|| Fault::new("the login of a refresh token is no object"))?;
    let token = RefreshToken {
        id: row.id.to_string(),
        digest: row.digest.as_slice().try_into().context("reading the digest of a refresh token")?,
        delegation_id: row.delegation_id,
        client_id: row.client_id,
        jkt: row.jkt,
        subject: Principal::new(row.subject_iss, row.subject_sub),
        granted: OfflineGrant::read(row.granted)?,
        login: AuthenticationContext::read(login),
        txn: row.txn.to_string(),
        session_id: row.session_id,
        issued_at: row.issued_at,
    };
    Ok(StoredRefreshToken {
        token: rows.check(token, Some(&row.mac))?,
        last_used_at: row.last_used_at,
        ended_at: row.ended_at,
        problem: row.problem,
        standing_grant_id: row.standing_grant_id,
    })
}

/// Deletes the refresh tokens of a user. None of them is active: the delegations of an erased user are not.
pub async fn forget_person(connection: &mut PgConnection, who: &Principal) -> Result<(), sqlx::Error> {
    sqlx::query(
        "WITH of_user AS (
             DELETE FROM refresh_token r USING delegation d
             WHERE d.root_sub = $1 AND d.root_iss = $2 AND r.delegation_id = d.id RETURNING r.id, r.anchors
         )
         DELETE FROM issued_token WHERE jti IN (SELECT unnest(anchors || id) FROM of_user)",
    )
    .bind(&who.sub)
    .bind(&who.iss)
    .execute(connection)
    .await?;
    Ok(())
}
