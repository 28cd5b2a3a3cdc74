//! Issued tokens in PostgreSQL.

use sqlx::postgres::PgArguments;
use sqlx::query::Query;
use sqlx::{FromRow, PgConnection, Postgres};
use time::OffsetDateTime;
use uuid::Uuid;

use super::{InactiveToken, TokenRecord, TokenStatus};
use crate::domain::delegation;
use crate::domain::row_mac::RowMac;
use crate::platform::fault::Fault;

/// Inserts tokens, with the values of [`bind`]. The audiences of one token are passed as one string, separated by line
/// feeds, which no audience has: PostgreSQL has no arrays of arrays of different lengths. `LATERAL` with `OFFSET 0` makes
/// PostgreSQL find each token of a lineage by its index. The plan is kept, and a join planned for few rows would read the
/// whole index of a large table.
pub const INSERT: &str =
    "INSERT INTO issued_token (jti, parent, lineage, txn, client_id, subject_iss, subject_sub, delegation_id, jkt,
                               kid, scope, audience, issued_at, expires_at, auth_key, status_index, created_epoch)
     SELECT t.jti, t.parent,
            CASE WHEN p.jti IS NULL THEN '{}' ELSE p.lineage || p.jti END
            || CASE WHEN a.jti IS NULL THEN '{}' ELSE a.lineage || a.jti END,
            t.txn, t.client_id, t.subject_iss, t.subject_sub, t.delegation_id, t.jkt, t.kid, t.scope,
            string_to_array(t.audience, E'\\n'), t.issued_at, t.expires_at, t.auth_key, t.status_index,
            (SELECT number FROM revocation_epoch)
     FROM unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[],
                 $9::text[], $10::text[], $11::text[], $12::timestamptz[], $13::timestamptz[], $14::text[],
                 $15::bigint[], $16::uuid[])
          AS t (jti, parent, txn, client_id, subject_iss, subject_sub, delegation_id, jkt, kid, scope, audience,
                issued_at, expires_at, auth_key, status_index, actor)
     LEFT JOIN LATERAL (SELECT jti, lineage FROM issued_token WHERE jti = t.parent OFFSET 0) p ON true
     LEFT JOIN LATERAL (SELECT jti, lineage FROM issued_token WHERE jti = t.actor OFFSET 0) a ON true";

/// A statement of PostgreSQL with its values.
pub type BoundQuery = Query<'static, Postgres, PgArguments>;

/// Binds the values of [`INSERT`], the first sixteen of a statement.
pub fn bind(query: BoundQuery, tokens: &[&TokenRecord]) -> BoundQuery {
    let column =
        |pick: fn(&TokenRecord) -> String| tokens.iter().map(|token| pick(token)).collect::<Vec<_>>();
    query
        .bind(tokens.iter().map(|token| token.jti).collect::<Vec<_>>())
        .bind(tokens.iter().map(|token| token.parent).collect::<Vec<_>>())
        .bind(tokens.iter().map(|token| token.txn).collect::<Vec<_>>())
        .bind(column(|token| token.client_id.clone()))
        .bind(column(|token| token.subject.iss.clone()))
        .bind(column(|token| token.subject.sub.clone()))
        .bind(tokens.iter().map(|token| token.delegation_id.clone()).collect::<Vec<_>>())
        .bind(tokens.iter().map(|token| token.jkt.clone()).collect::<Vec<_>>())
        .bind(column(|token| token.kid.clone()))
        .bind(column(|token| token.scope.clone()))
        .bind(column(|token| token.audience.join("\n")))
        .bind(tokens.iter().map(|token| token.issued_at).collect::<Vec<_>>())
        .bind(tokens.iter().map(|token| token.expires_at).collect::<Vec<_>>())
        .bind(tokens.iter().map(|token| token.auth_key.clone()).collect::<Vec<_>>())
        .bind(tokens.iter().map(|token| token.status_index).collect::<Vec<_>>())
        .bind(tokens.iter().map(|token| token.actor).collect::<Vec<_>>())
}

#[derive(FromRow)]
struct StandingRow {
    delegation_id: Option<String>,
    problem: Option<InactiveToken>,
}

/// Status of a token by its `jti`; `None` if it is not recorded: it is expired and purged, or was never issued.
pub async fn standing(
    rows: &RowMac,
    connection: &mut PgConnection,
    jti: Uuid,
) -> Result<Option<TokenStatus>, Fault> {
    let row: Option<StandingRow> =
        sqlx::query_as("SELECT delegation_id, problem FROM token_status WHERE jti = $1")
            .bind(jti)
            .fetch_optional(&mut *connection)
            .await?;
    let Some(row) = row else { return Ok(None) };
    let path = match &row.delegation_id {
        None => None,
        Some(id) => match delegation::store::path(rows, connection, id).await? {
            Some(path) => Some(path),
            // A token whose delegation is deleted is not valid.
            None => return Ok(None),
        },
    };
    Ok(Some(TokenStatus { problem: row.problem, path }))
}

/// The tokens of a client that were obtained with a key or are bound to it.
#[derive(Debug, Clone, Copy)]
pub struct TokensOfKey<'a> {
    pub client_id: &'a str,
    pub jkt: &'a str,
    /// Where counting stops.
    pub most: i64,
    pub now: OffsetDateTime,
}

/// Counts the tokens of a key that have neither expired nor been revoked.
pub async fn count_of_key(connection: &mut PgConnection, used: TokensOfKey<'_>) -> Result<i64, Fault> {
    let TokensOfKey { client_id, jkt, most, now } = used;
    let count = sqlx::query_scalar(
        "SELECT count(*) FROM (
             SELECT FROM (
                 SELECT t.jti, t.delegation_id FROM issued_token t
                 WHERE t.client_id = $1 AND t.delegation_id IS NULL AND t.expires_at > $3 AND t.status_index >= 0 AND $2 IN (t.jkt, t.auth_key)
                 UNION ALL
                 SELECT t.jti, t.delegation_id FROM delegation d JOIN issued_token t ON t.delegation_id = d.id
                 WHERE d.delegate = $1 AND d.expires_at > $3 AND d.revoked_at IS NULL
                   AND t.client_id = $1 AND t.expires_at > $3 AND t.status_index >= 0 AND $2 IN (t.jkt, t.auth_key)
             ) used JOIN token_status s ON s.jti = used.jti
             WHERE s.problem IS NULL LIMIT $4) counted",
    )
    .bind(client_id)
    .bind(jkt)
    .bind(now)
    .bind(most)
    .fetch_one(connection)
    .await?;
    Ok(count)
}

/// Revokes an access token or a refresh token (RFC 7009), and with it all tokens that were made from it; `false` if it is
/// revoked already or not recorded. Refresh tokens that came from it have rows of their own, which outlast its row.
pub async fn mark_revoked(
    connection: &mut PgConnection,
    jti: Uuid,
    now: OffsetDateTime,
) -> Result<bool, Fault> {
    let done = sqlx::query("UPDATE issued_token SET revoked_at = $2 WHERE jti = $1 AND revoked_at IS NULL")
        .bind(jti)
        .bind(now)
        .execute(&mut *connection)
        .await?;
    if done.rows_affected() == 0 {
        return Ok(false);
    }
    sqlx::query(
        "UPDATE issued_token SET revoked_at = $2
         WHERE status_index < 0 AND lineage @> ARRAY[$1] AND revoked_at IS NULL",
    )
    .bind(jti)
    .bind(now)
    .execute(connection)
    .await?;
    Ok(true)
}
