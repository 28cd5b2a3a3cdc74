//! Sessions and links in PostgreSQL.

use sqlx::{FromRow, PgConnection};
use time::OffsetDateTime;
use uuid::Uuid;

use super::mac::Keyed;
use super::{AuthTime, ConsoleLink, ConsoleRole, ConsoleSession, KEPT, LOGOUT_KEPT};
use crate::domain::principal::Principal;
use crate::domain::row_mac::RowMac;
use crate::platform::fault::{Context as _, Fault};
use actchain_protocol::logout_token::LogoutToken;

/// The most sessions that one statement ends.
const PIECE: i64 = 1_000;

/// Sessions of one person that a list shows.
const MAX_LISTED: i64 = 100;

#[derive(FromRow)]
struct Row {
    id: String,
    secret_sha256: Vec<u8>,
    role: String,
    role_by: Option<String>,
    iss: Option<String>,
    sub: Option<String>,
    issuer_subject: Option<String>,
    issuer_session: Option<String>,
    label: Option<String>,
    signed_in_at: OffsetDateTime,
    authenticated_at: OffsetDateTime,
    auth_time_known: bool,
    expires_at: OffsetDateTime,
    last_seen_at: OffsetDateTime,
    ended_at: Option<OffsetDateTime>,
    ip: Option<String>,
    user_agent: Option<String>,
    mac: Vec<u8>,
}

impl Row {
    fn check(self, rows: &RowMac) -> Result<ConsoleSession, Fault> {
        let unreadable = || Fault::new(format!("console session {} cannot be read", self.id));
        let session = ConsoleSession {
            id: Uuid::parse_str(&self.id).context("reading a console session")?,
            secret_sha256: digest(&self.secret_sha256)?,
            role: self.role.parse().map_err(|_| unreadable())?,
            role_by: self.role_by,
            who: match (self.iss, self.sub) {
                (Some(iss), Some(sub)) => Some(Principal::new(iss, sub)),
                _ => None,
            },
            issuer_subject: self.issuer_subject,
            issuer_session: self.issuer_session,
            label: self.label,
            signed_in_at: self.signed_in_at,
            authenticated_at: self.authenticated_at,
            auth_time: if self.auth_time_known { AuthTime::Known } else { AuthTime::Unknown },
            expires_at: self.expires_at,
            last_seen_at: self.last_seen_at,
            ended_at: self.ended_at,
            ip: self.ip,
            user_agent: self.user_agent,
        };
        rows.check(Keyed { id: self.id, row: &session }, Some(&self.mac))?;
        // Only an operator has no person.
        match session.who.is_none() == (session.role == ConsoleRole::Operator) {
            true => Ok(session),
            false => Err(Fault::new(format!("console session {} has no person", session.id))),
        }
    }
}

pub(super) fn digest(bytes: &[u8]) -> Result<[u8; 32], Fault> {
    <[u8; 32]>::try_from(bytes).context("reading the digest of a secret")
}

pub async fn insert_session(
    rows: &RowMac,
    connection: &mut PgConnection,
    one: &ConsoleSession,
) -> Result<(), Fault> {
    sqlx::query(
        "INSERT INTO console_session (id, secret_sha256, role, iss, sub, issuer_subject, issuer_session, label, signed_in_at,
                                      authenticated_at, auth_time_known, expires_at, last_seen_at, ended_at, ip,
                                      user_agent, role_by, mac)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18)",
    )
    .bind(one.id.to_string())
    .bind(one.secret_sha256.as_slice())
    .bind(one.role.as_ref())
    .bind(one.who.as_ref().map(|who| &who.iss))
    .bind(one.who.as_ref().map(|who| &who.sub))
    .bind(&one.issuer_subject)
    .bind(&one.issuer_session)
    .bind(&one.label)
    .bind(one.signed_in_at)
    .bind(one.authenticated_at)
    .bind(one.auth_time == AuthTime::Known)
    .bind(one.expires_at)
    .bind(one.last_seen_at)
    .bind(one.ended_at)
    .bind(&one.ip)
    .bind(&one.user_agent)
    .bind(&one.role_by)
    .bind(rows.of(&Keyed { id: one.id.to_string(), row: one }))
    .execute(connection)
    .await?;
    Ok(())
}

/// The sessions with these secrets, in any state.
pub async fn find_sessions(
    rows: &RowMac,
    connection: &mut PgConnection,
    secrets_sha256: &[[u8; 32]],
) -> Result<Vec<ConsoleSession>, Fault> {
    let secrets: Vec<&[u8]> = secrets_sha256.iter().map(<[u8; 32]>::as_slice).collect();
    let found: Vec<Row> = sqlx::query_as("SELECT * FROM console_session WHERE secret_sha256 = ANY($1)")
        .bind(secrets)
        .fetch_all(connection)
        .await?;
    found.into_iter().map(|row| row.check(rows)).collect()
}

/// A session by its id, in any state.
pub async fn find_session_by_id(
    rows: &RowMac,
    connection: &mut PgConnection,
    id: Uuid,
) -> Result<Option<ConsoleSession>, Fault> {
    let row: Option<Row> = sqlx::query_as("SELECT * FROM console_session WHERE id = $1")
        .bind(id.to_string())
        .fetch_optional(connection)
        .await?;
    row.map(|row| row.check(rows)).transpose()
}

/// The sessions of a person, newest first.
pub async fn sessions_of(
    rows: &RowMac,
    connection: &mut PgConnection,
    who: &Principal,
) -> Result<Vec<ConsoleSession>, Fault> {
    let found: Vec<Row> = sqlx::query_as(
        "SELECT * FROM console_session WHERE sub = $1 AND iss = $2 ORDER BY signed_in_at DESC LIMIT $3",
    )
    .bind(&who.sub)
    .bind(&who.iss)
    .bind(MAX_LISTED)
    .fetch_all(connection)
    .await?;
    found.into_iter().map(|row| row.check(rows)).collect()
}

/// When a person of an issuer signed in last, of the sessions that are kept.
pub async fn last_sign_in(connection: &mut PgConnection, iss: &str) -> Result<Option<OffsetDateTime>, Fault> {
    let last = sqlx::query_scalar("SELECT max(signed_in_at) FROM console_session WHERE iss = $1");
    Ok(last.bind(iss).fetch_one(connection).await?)
}

/// Notes a use of the session.
pub async fn mark_seen(connection: &mut PgConnection, id: Uuid, now: OffsetDateTime) -> Result<(), Fault> {
    sqlx::query("UPDATE console_session SET last_seen_at = $2 WHERE id = $1 AND last_seen_at < $2")
        .bind(id.to_string())
        .bind(now)
        .execute(connection)
        .await?;
    Ok(())
}

/// Ends a session. Returns `false` if it had ended before.
pub async fn mark_session_ended(
    connection: &mut PgConnection,
    id: Uuid,
    now: OffsetDateTime,
) -> Result<bool, Fault> {
    let ended = sqlx::query("UPDATE console_session SET ended_at = $2 WHERE id = $1 AND ended_at IS NULL")
        .bind(id.to_string())
        .bind(now)
        .execute(connection)
        .await?;
    Ok(ended.rows_affected() == 1)
}

/// A session that has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndedSession {
    pub id: Uuid,
    /// `None` for an operator.
    pub who: Option<Principal>,
}

/// Columns of [`EndedSession`].
type EndedRow = (String, Option<String>, Option<String>);

fn ended(rows: Vec<EndedRow>) -> Result<Vec<EndedSession>, Fault> {
    let read = |(id, iss, sub): EndedRow| {
        let who = iss.zip(sub).map(|(iss, sub)| Principal { iss, sub });
        Ok(EndedSession { id: Uuid::parse_str(&id).context("reading a console session")?, who })
    };
    rows.into_iter().map(read).collect()
}

/// Ends all sessions of a person. Returns them.
pub async fn mark_all_ended(
    connection: &mut PgConnection,
    who: &Principal,
    now: OffsetDateTime,
) -> Result<Vec<EndedSession>, Fault> {
    let rows = sqlx::query_as(
        "UPDATE console_session SET ended_at = $3 WHERE sub = $1 AND iss = $2 AND ended_at IS NULL AND expires_at > $3
         RETURNING id, iss, sub",
    );
    ended(rows.bind(&who.sub).bind(&who.iss).bind(now).fetch_all(connection).await?)
}

/// A session that ended by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OverSession {
    pub session: EndedSession,
    /// Whether it was as old as it may be; else it was not used for long.
    pub is_expired: bool,
}

/// Ends sessions that were not used since `idle`, or are older than they may be. Returns them.
pub async fn mark_over(
    connection: &mut PgConnection,
    idle: OffsetDateTime,
    now: OffsetDateTime,
) -> Result<Vec<OverSession>, Fault> {
    // Of two servers, one ends a session.
    let rows: Vec<(String, Option<String>, Option<String>, bool)> = sqlx::query_as(
        "UPDATE console_session SET ended_at = $2 WHERE id = ANY (ARRAY(
             SELECT id FROM console_session WHERE ended_at IS NULL AND (last_seen_at <= $1 OR expires_at <= $2)
             LIMIT $3 FOR UPDATE SKIP LOCKED))
         RETURNING id, iss, sub, expires_at <= $2",
    )
    .bind(idle)
    .bind(now)
    .bind(PIECE)
    .fetch_all(connection)
    .await?;
    let expired: Vec<bool> = rows.iter().map(|(.., expired)| *expired).collect();
    let rows = rows.into_iter().map(|(id, iss, sub, _)| (id, iss, sub)).collect();
    let over = ended(rows)?.into_iter().zip(expired);
    Ok(over.map(|(session, is_expired)| OverSession { session, is_expired }).collect())
}

/// Ends the sessions that an issuer has ended: one of them, or all of a person. Returns them.
pub async fn mark_logged_out(
    rows: &RowMac,
    connection: &mut PgConnection,
    logout: &LogoutToken,
    now: OffsetDateTime,
) -> Result<Vec<ConsoleSession>, Fault> {
    let ended: Vec<Row> = sqlx::query_as(
        "UPDATE console_session SET ended_at = $4
         WHERE iss = $1 AND ended_at IS NULL AND expires_at > $4
             AND ($2::text IS NULL OR issuer_subject = $2)
             AND ($3::text IS NULL OR issuer_session = $3 OR ($2 IS NOT NULL AND issuer_session IS NULL))
         RETURNING *",
    )
    .bind(&logout.iss)
    .bind(&logout.sub)
    .bind(&logout.sid)
    .bind(now)
    .fetch_all(connection)
    .await?;
    ended.into_iter().map(|row| row.check(rows)).collect()
}

/// Deletes the sessions of a person, with what they say about it. Returns the ids of those that had not ended.
pub async fn forget_person(connection: &mut PgConnection, who: &Principal) -> Result<Vec<Uuid>, Fault> {
    let rows: Vec<(String, bool)> = sqlx::query_as(
        "DELETE FROM console_session WHERE sub = $1 AND iss = $2 RETURNING id, ended_at IS NULL",
    )
    .bind(&who.sub)
    .bind(&who.iss)
    .fetch_all(connection)
    .await?;
    let open = rows.iter().filter(|(_, open)| *open);
    open.map(|(id, _)| Uuid::parse_str(id).context("reading a console session")).collect()
}

/// Ends the sessions of all people of issuers with these names. Returns them.
pub async fn end_of_issuers(
    connection: &mut PgConnection,
    names: &[String],
    now: OffsetDateTime,
) -> Result<Vec<EndedSession>, Fault> {
    let rows = sqlx::query_as(
        "UPDATE console_session SET ended_at = $2 WHERE iss = ANY($1) AND ended_at IS NULL AND expires_at > $2
         RETURNING id, iss, sub",
    );
    ended(rows.bind(names).bind(now).fetch_all(connection).await?)
}

/// Ends all sessions, links and sign-ins: a restored backup does not know which of them had ended. Returns the sessions.
pub async fn end_all(connection: &mut PgConnection, now: OffsetDateTime) -> Result<Vec<EndedSession>, Fault> {
    let rows = sqlx::query_as(
        "UPDATE console_session SET ended_at = $1 WHERE ended_at IS NULL RETURNING id, iss, sub",
    );
    let sessions = ended(rows.bind(now).fetch_all(&mut *connection).await?)?;
    for table in ["DELETE FROM console_link", "DELETE FROM console_sign_in"] {
        sqlx::query(table).execute(&mut *connection).await?;
    }
    Ok(sessions)
}

/// Deletes what ended long ago. Returns the number of deleted rows.
pub async fn delete_old(connection: &mut PgConnection, now: OffsetDateTime) -> Result<u64, Fault> {
    let mut deleted = 0;
    for (delete, before) in [
        ("DELETE FROM console_session WHERE expires_at < $1 AND ended_at IS NOT NULL", now - KEPT),
        ("DELETE FROM console_link WHERE expires_at < $1", now),
        ("DELETE FROM console_sign_in WHERE expires_at < $1", now),
        ("DELETE FROM console_logout WHERE received_at < $1", now - LOGOUT_KEPT),
    ] {
        deleted += sqlx::query(delete).bind(before).execute(&mut *connection).await?.rows_affected();
    }
    Ok(deleted)
}

pub async fn insert_link(
    rows: &RowMac,
    connection: &mut PgConnection,
    one: &ConsoleLink,
) -> Result<(), Fault> {
    sqlx::query("INSERT INTO console_link (id, secret_sha256, expires_at, mac) VALUES ($1, $2, $3, $4)")
        .bind(one.id.to_string())
        .bind(one.secret_sha256.as_slice())
        .bind(one.expires_at)
        .bind(rows.of(&Keyed { id: one.id.to_string(), row: one }))
        .execute(connection)
        .await?;
    Ok(())
}

/// Uses up a link; `None` if there is none, or if it has expired.
pub async fn take_link(
    rows: &RowMac,
    connection: &mut PgConnection,
    secret_sha256: &[u8; 32],
    now: OffsetDateTime,
) -> Result<Option<ConsoleLink>, Fault> {
    let row: Option<(String, Vec<u8>, OffsetDateTime, Vec<u8>)> = sqlx::query_as(
        "DELETE FROM console_link WHERE secret_sha256 = $1 RETURNING id, secret_sha256, expires_at, mac",
    )
    .bind(secret_sha256.as_slice())
    .fetch_optional(connection)
    .await?;
    let Some((id, secret_sha256, expires_at, mac)) = row else { return Ok(None) };
    let link = ConsoleLink {
        id: Uuid::parse_str(&id).context("reading a link to the console")?,
        secret_sha256: digest(&secret_sha256)?,
        expires_at,
    };
    rows.check(Keyed { id, row: &link }, Some(&mac))?;
    Ok(Some(link).filter(|link| now < link.expires_at))
}
