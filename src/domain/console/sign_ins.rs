//! Sign-ins that have begun, and logouts at issuers, in PostgreSQL.

use sqlx::{FromRow, PgConnection};
use time::OffsetDateTime;

use super::PendingSignIn;
use super::mac::Keyed;
use super::store::digest;
use crate::domain::row_mac::RowMac;
use crate::platform::fault::{Context as _, Fault};
use actchain_protocol::base64url;
use actchain_protocol::logout_token::LogoutToken;

#[derive(FromRow)]
struct Row {
    state_sha256: Vec<u8>,
    browser_sha256: Vec<u8>,
    iss: String,
    nonce: String,
    verifier: String,
    return_to: Option<String>,
    purpose: String,
    created_at: OffsetDateTime,
    expires_at: OffsetDateTime,
    mac: Vec<u8>,
}

fn keyed(one: &PendingSignIn) -> Keyed<'_, PendingSignIn> {
    Keyed { id: base64url::encode(one.state_sha256), row: one }
}

pub async fn insert(rows: &RowMac, connection: &mut PgConnection, one: &PendingSignIn) -> Result<(), Fault> {
    sqlx::query(
        "INSERT INTO console_sign_in (state_sha256, browser_sha256, iss, nonce, verifier, return_to, purpose, created_at,
                                      expires_at, mac)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
    )
    .bind(one.state_sha256.as_slice())
    .bind(one.browser_sha256.as_slice())
    .bind(&one.iss)
    .bind(&one.nonce)
    .bind(&one.verifier)
    .bind(&one.return_to)
    .bind(one.purpose.as_ref())
    .bind(one.created_at)
    .bind(one.expires_at)
    .bind(rows.of(&keyed(one)))
    .execute(connection)
    .await?;
    Ok(())
}

/// Uses up a sign-in that has begun in one of these browsers; `None` if there is none, or if it has expired. Another
/// browser does not use it up.
pub async fn take(
    rows: &RowMac,
    connection: &mut PgConnection,
    state_sha256: &[u8; 32],
    browsers_sha256: &[[u8; 32]],
    now: OffsetDateTime,
) -> Result<Option<PendingSignIn>, Fault> {
    let browsers: Vec<&[u8]> = browsers_sha256.iter().map(<[u8; 32]>::as_slice).collect();
    let row: Option<Row> = sqlx::query_as(
        "DELETE FROM console_sign_in WHERE state_sha256 = $1 AND browser_sha256 = ANY($2) RETURNING *",
    )
    .bind(state_sha256.as_slice())
    .bind(browsers)
    .fetch_optional(connection)
    .await?;
    let Some(row) = row else { return Ok(None) };
    let one = PendingSignIn {
        state_sha256: digest(&row.state_sha256)?,
        browser_sha256: digest(&row.browser_sha256)?,
        iss: row.iss,
        nonce: row.nonce,
        verifier: row.verifier,
        return_to: row.return_to,
        purpose: row.purpose.parse().context("reading a sign-in to the console")?,
        created_at: row.created_at,
        expires_at: row.expires_at,
    };
    rows.check(keyed(&one), Some(&row.mac))?;
    Ok(Some(one).filter(|one| now < one.expires_at))
}

/// Remembers a logout token. Returns `false` if it was used before.
pub async fn put_logout(
    connection: &mut PgConnection,
    logout: &LogoutToken,
    now: OffsetDateTime,
) -> Result<bool, Fault> {
    let put = sqlx::query(
        "INSERT INTO console_logout (iss, jti, sub, sid, received_at) VALUES ($1, $2, $3, $4, $5)
         ON CONFLICT (iss, jti) DO NOTHING",
    )
    .bind(&logout.iss)
    .bind(&logout.jti)
    .bind(&logout.sub)
    .bind(&logout.sid)
    .bind(now)
    .execute(connection)
    .await?;
    Ok(put.rows_affected() == 1)
}

/// Forgets a logout token that had no effect, so that the issuer can send it again.
pub async fn remove_logout(connection: &mut PgConnection, logout: &LogoutToken) -> Result<(), Fault> {
    let remove = sqlx::query("DELETE FROM console_logout WHERE iss = $1 AND jti = $2");
    remove.bind(&logout.iss).bind(&logout.jti).execute(connection).await?;
    Ok(())
}

/// A person whom an issuer has identified, as logout tokens name it.
#[derive(Debug, Clone, Copy)]
pub struct AtIssuer<'a> {
    pub iss: &'a str,
    pub sub: &'a str,
    pub sid: Option<&'a str>,
}

/// Whether the issuer has ended the person's session there since this time.
pub async fn was_logged_out(
    connection: &mut PgConnection,
    person: AtIssuer<'_>,
    since: OffsetDateTime,
) -> Result<bool, Fault> {
    let found = sqlx::query_scalar(
        "SELECT EXISTS (SELECT FROM console_logout WHERE iss = $1 AND received_at >= $4
             AND (sub IS NULL OR sub = $2) AND (sid IS NULL OR sid = $3 OR (sub IS NOT NULL AND $3::text IS NULL)))",
    );
    let found = found.bind(person.iss).bind(person.sub).bind(person.sid).bind(since);
    Ok(found.fetch_one(connection).await?)
}
