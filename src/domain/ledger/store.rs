//! The statements with which the ledger writes. They run after the snapshot, which has locked the counts and the
//! confirmations that they change.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use sqlx::{AssertSqlSafe, FromRow as _, PgConnection};
use time::OffsetDateTime;
use uuid::Uuid;

use super::batch_error::BatchError;
use super::entry::Entry;
use crate::domain::audit::{self, store::StoredHead};
use crate::domain::ceremony::{self, Ceremony};
use crate::domain::refresh_token::store::{GrantKey, IssuedRefreshTokens, RefreshTokenInsert};
use crate::domain::row_mac::RowMac;
use crate::domain::step::known::KnownSteps;
use crate::domain::token::{self, TokenRecord};
use crate::domain::{authority_lock, refresh_token, step};

/// What a batch changes besides the audit log.
#[derive(Debug)]
pub(super) struct Changes<'a> {
    pub(super) tokens: Vec<&'a TokenRecord>,
    pub(super) ceremonies: Vec<&'a Ceremony>,
    pub(super) used_ceremonies: Vec<Uuid>,
    /// Refresh tokens to issue, one for each grant.
    pub(super) refresh_tokens: BTreeMap<GrantKey<'a>, &'a RefreshTokenInsert>,
    /// Refresh tokens that were used.
    pub(super) used_refresh_tokens: Vec<Uuid>,
    pub(super) uses: &'a BTreeMap<String, i64>,
    /// The sessions of the newest exchanges, by delegation.
    pub(super) sessions: BTreeMap<&'a str, &'a str>,
    /// Delegations without a use left.
    pub(super) exhausted: Vec<(&'a str, Exhaustion)>,
    pub(super) steps: &'a KnownSteps,
}

/// The last use of a delegation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Exhaustion {
    at: OffsetDateTime,
    /// When the tokens under the delegation end, too: a reported step was the last use, and no token.
    tokens_end_at: Option<OffsetDateTime>,
}

impl Exhaustion {
    pub(super) fn by(entry: &Entry) -> Self {
        Self { at: entry.now, tokens_end_at: entry.steps().map(|_| entry.now) }
    }
}

/// Writes refresh tokens, ends, steps and ceremonies. Returns the issued refresh tokens, by their grants.
pub(super) async fn write(
    rows: &RowMac,
    connection: &mut PgConnection,
    changes: &Changes<'_>,
    now: OffsetDateTime,
) -> Result<IssuedRefreshTokens, BatchError> {
    let mut issued = IssuedRefreshTokens::default();
    if !changes.refresh_tokens.is_empty() {
        issued = refresh_token::store::put(rows, connection, &changes.refresh_tokens, now).await?;
    }
    if !changes.used_refresh_tokens.is_empty() {
        refresh_token::store::mark_used(connection, &changes.used_refresh_tokens, now).await?;
    }
    if !changes.exhausted.is_empty() {
        sqlx::query("UPDATE delegation SET expiry_logged = true WHERE id = ANY ($1)")
            .bind(changes.exhausted.iter().map(|(id, _)| *id).collect::<Vec<_>>())
            .execute(&mut *connection)
            .await?;
    }
    step::store::put(connection, changes.steps).await?;
    if changes.exhausted.iter().any(|(_, last)| last.tokens_end_at.is_some()) {
        authority_lock::raise_epoch(connection).await?;
    }
    if !changes.used_ceremonies.is_empty() {
        ceremony::store::mark_used(connection, &changes.used_ceremonies, now).await?;
    }
    for ceremony in &changes.ceremonies {
        ceremony::store::insert(connection, ceremony).await?;
    }
    Ok(issued)
}

/// Writes tokens and counts, and then locks the head of the log: one statement instead of three, because nearly every
/// batch needs all of them. The condition on the results of the other queries makes PostgreSQL execute them first.
/// With `= input.id`, PostgreSQL plans to join with the whole index if the table is small at that moment.
static ISSUE_AND_COUNT: LazyLock<String> = LazyLock::new(|| {
    format!(
        "WITH issued AS ({} RETURNING jti), counted AS (
             UPDATE delegation_usage u
             SET uses = input.uses, used_up_at = coalesce(u.used_up_at, input.used_up_at),
                 exhausted_at = coalesce(u.exhausted_at, input.tokens_end_at),
                 first_used_at = coalesce(u.first_used_at, $20), last_used_at = greatest(u.last_used_at, $20),
                 session_id = coalesce(input.session_id, u.session_id),
                 session_at = CASE WHEN input.session_id IS NULL THEN u.session_at ELSE $20 END
             FROM unnest($17::text[], $18::bigint[], $19::timestamptz[], $21::text[], $22::timestamptz[])
                 AS input (id, uses, used_up_at, session_id, tokens_end_at)
             WHERE u.delegation_id = ANY (ARRAY[input.id]) RETURNING u.delegation_id
         )
         {}
         WHERE (SELECT count(*) FROM issued) + (SELECT count(*) FROM counted) >= 0 FOR UPDATE",
        token::store::INSERT,
        audit::store::HEAD
    )
});

/// Writes the tokens and counts of a batch, and locks the head of the log, after which no other lock may be taken. `None`
/// if there are no tokens and counts: then the head is not locked.
pub(super) async fn issue_and_count(
    connection: &mut PgConnection,
    changes: &Changes<'_>,
    now: OffsetDateTime,
) -> Result<Option<StoredHead>, BatchError> {
    if changes.tokens.is_empty() && changes.uses.is_empty() {
        return Ok(None);
    }
    let (ids, counts): (Vec<&str>, Vec<i64>) =
        changes.uses.iter().map(|(id, count)| (id.as_str(), *count)).unzip();
    let last = |id: &&str| changes.exhausted.iter().find(|(other, _)| other == id).map(|(_, last)| *last);
    let last: Vec<Option<Exhaustion>> = ids.iter().map(last).collect();
    let used_up: Vec<_> = last.iter().map(|last| last.map(|last| last.at)).collect();
    let tokens_end: Vec<_> = last.iter().map(|last| last.and_then(|last| last.tokens_end_at)).collect();
    let sessions: Vec<Option<&str>> = ids.iter().map(|id| changes.sessions.get(id).copied()).collect();
    let query = token::store::bind(sqlx::query(AssertSqlSafe(ISSUE_AND_COUNT.as_str())), &changes.tokens);
    let head = query.bind(ids).bind(counts).bind(used_up).bind(now).bind(sessions).bind(tokens_end);
    Ok(Some(StoredHead::from_row(&head.fetch_one(connection).await?)?))
}
