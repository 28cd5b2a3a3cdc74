//! The content of status lists, from PostgreSQL.

use std::collections::HashSet;
use std::ops::Range;

use sqlx::postgres::PgPool;
use sqlx::{Encode, FromRow, PgConnection, Postgres, Type};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::domain::authority_lock;
use crate::platform::db;
use crate::platform::fault::{Context, Fault};
use actchain_protocol::status_list::SIZE;

/// Reserves a block of indices for this server. A server that stops leaves the rest unused.
pub async fn next_block(connection: &mut PgConnection) -> Result<u64, Fault> {
    let number: i64 = sqlx::query_scalar("SELECT nextval('status_block')").fetch_one(connection).await?;
    u64::try_from(number).context("numbering a block of places")
}

/// Closes all lists up to now and many after them: after a backup was restored, tokens that are lost have indices there.
/// Returns the first index of the next list.
pub async fn close_lists(connection: &mut PgConnection) -> Result<i64, Fault> {
    /// More lists than a server can fill between a backup and its restoration.
    const LOST: u64 = 256;
    let (lists, _) = lists(&mut *connection).await?;
    let first = (lists + LOST) * SIZE;
    let block = i64::try_from(first / super::BLOCK).context("numbering a block of places")?;
    sqlx::query("SELECT setval('status_block', $1, false)").bind(block).execute(connection).await?;
    i64::try_from(first).context("an index of a status list")
}

/// The number of lists up to the last reserved block, and the present epoch.
pub async fn lists(connection: &mut PgConnection) -> Result<(u64, i64), Fault> {
    let (blocks, epoch): (i64, i64) = sqlx::query_as(
        "SELECT CASE WHEN is_called THEN last_value + 1 ELSE last_value END, number FROM status_block, revocation_epoch",
    )
    .fetch_one(connection)
    .await?;
    let places = u64::try_from(blocks).context("counting blocks of places")? * super::BLOCK;
    Ok((places.div_ceil(SIZE), epoch))
}

/// The lists that recorded tokens refer to. Scans all recorded tokens.
pub async fn live_lists(connection: &mut PgConnection) -> Result<Vec<u64>, Fault> {
    let (last, _) = lists(connection).await?;
    let oldest: Option<i64> =
        sqlx::query_scalar("SELECT min(status_index) FROM issued_token WHERE status_index >= 0")
            .fetch_one(connection)
            .await?;
    let first = match oldest {
        None => last.saturating_sub(1),
        Some(place) => u64::try_from(place).context("an index of a status list")? / SIZE,
    };
    Ok((first..last).collect())
}

/// Indices of one list whose tokens are not valid.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct RevokedIndex {
    pub invalid: Vec<i64>,
    /// As long as a client is disabled, or a new key is not confirmed.
    pub suspended: Vec<i64>,
    /// The data is current as of this epoch.
    pub epoch: i64,
    /// Whether all indices are invalid: a backup was restored since, and tokens that are lost have some of them.
    pub closed: bool,
}

/// Results of permanent causes, and of causes that can end.
#[derive(Debug, FromRow)]
struct Split<T> {
    lasting: Vec<T>,
    passing: Vec<T>,
}

impl<T> Split<T> {
    fn is_empty(&self) -> bool {
        self.lasting.is_empty() && self.passing.is_empty()
    }
}

/// Tokens with a problem of their own, in any list.
#[derive(Debug, FromRow)]
struct Bad {
    #[sqlx(flatten)]
    tokens: Split<Uuid>,
    lasting_places: Vec<i64>,
    passing_places: Vec<i64>,
}

/// The same result as `token_status`, but starting from the problems: these are few, tokens are many, and without a
/// problem no token is read. Each branch has the facts of one table, and `token_problem` decides.
const BAD: &str = "
    WITH ended_client AS MATERIALIZED (
        SELECT client_id, cutoff_epoch, deactivated_at, disabled_at FROM client
        WHERE cutoff_epoch IS NOT NULL OR deactivated_at IS NOT NULL OR disabled_at IS NOT NULL
    ), suspect AS (
        SELECT jti, status_index, is_suspension(token_problem(created_epoch, revoked_at => revoked_at)) AS passing
        FROM issued_token WHERE revoked_at IS NOT NULL
        UNION ALL
        SELECT t.jti, t.status_index,
               is_suspension(token_problem(t.created_epoch, subject_epoch => c.revocation_epoch))
        FROM principal_revocation c JOIN issued_token t ON t.subject_sub = c.sub AND t.subject_iss = c.iss
        UNION ALL
        SELECT t.jti, t.status_index,
               is_suspension(token_problem(t.created_epoch, client_epoch => k.cutoff_epoch,
                                           deactivated_at => k.deactivated_at, disabled_at => k.disabled_at))
        FROM ended_client k JOIN issued_token t ON t.client_id = k.client_id
        UNION ALL
        SELECT t.jti, t.status_index,
               is_suspension(token_problem(
                   t.created_epoch, key_removed => revocation_covers(r.removed_epoch, t.created_epoch)))
        FROM removed_key r JOIN issued_token t ON t.client_id = r.client_id AND r.jkt IN (t.jkt, t.auth_key)
        UNION ALL
        SELECT t.jti, t.status_index,
               is_suspension(token_problem(t.created_epoch, restored_epoch => e.restored_epoch))
        FROM revocation_epoch e JOIN issued_token t ON t.status_index < e.restored_status_index
    )
    SELECT coalesce(array_agg(jti) FILTER (WHERE NOT passing), '{}') AS lasting,
           coalesce(array_agg(jti) FILTER (WHERE passing), '{}') AS passing,
           coalesce(array_agg(status_index - $1) FILTER (WHERE NOT passing AND here), '{}') AS lasting_places,
           coalesce(array_agg(status_index - $1) FILTER (WHERE passing AND here), '{}') AS passing_places
    FROM (SELECT *, status_index >= $1 AND status_index < $2 AS here FROM suspect WHERE passing IS NOT NULL) bad";

/// Tokens of the list whose lineage has such a token.
const MADE_FROM: &str = "
    SELECT coalesce(array_agg(place) FILTER (WHERE made_from = ANY ($3)), '{}') AS lasting,
           coalesce(array_agg(place) FILTER (WHERE made_from = ANY ($4)), '{}') AS passing
    FROM (SELECT status_index - $1 AS place, unnest(lineage) AS made_from FROM issued_token
          WHERE status_index >= $1 AND status_index < $2) t
    WHERE made_from = ANY ($3) OR made_from = ANY ($4)";

/// Delegations whose tokens are not valid because of the delegation itself. Each branch has the facts of one table, and
/// `delegation_problem` decides. Expired delegations are left out, as their tokens are expired. Counted uses are left
/// out: a delegation whose last use was an exchange keeps its tokens.
const ENDED: &str = "
    WITH suspect AS (
        SELECT id, delegation_problem($1, expires_at, revoked_at => revoked_at) AS problem
        FROM delegation WHERE revoked_at IS NOT NULL AND expires_at > $1
        UNION ALL
        SELECT d.id, delegation_problem($1, d.expires_at,
                                        principal_revoked => revocation_covers(c.revocation_epoch, d.created_epoch))
        FROM principal_revocation c JOIN delegation d ON d.delegator_sub = c.sub AND d.delegator_iss = c.iss
        WHERE d.expires_at > $1
        UNION ALL
        SELECT d.id, delegation_problem($1, d.expires_at,
                                        principal_revoked => revocation_covers(k.cutoff_epoch, d.created_epoch))
        FROM client k JOIN delegation d ON d.delegate = k.client_id
        WHERE k.cutoff_epoch IS NOT NULL AND d.expires_at > $1
        UNION ALL
        SELECT d.id, delegation_problem($1, d.expires_at, exhausted_at => u.exhausted_at)
        FROM delegation_usage u JOIN delegation d ON d.id = u.delegation_id
        WHERE u.exhausted_at IS NOT NULL AND d.expires_at > $1
        UNION ALL
        SELECT id, delegation_problem($1, expires_at, waiting => true)
        FROM delegation WHERE pending_jwk IS NOT NULL AND expires_at > $1
        UNION ALL
        SELECT id, delegation_problem($1, expires_at, waiting => true)
        FROM delegation WHERE suspended_at IS NOT NULL AND expires_at > $1
        UNION ALL
        SELECT d.id, delegation_problem($1, d.expires_at, revoked_at => g.revoked_at)
        FROM standing_grant g JOIN delegation d ON d.standing_grant_id = g.id
        WHERE g.revoked_at IS NOT NULL AND g.expires_at > $1 AND d.expires_at > $1
        UNION ALL
        SELECT d.id, delegation_problem($1, d.expires_at, waiting => true)
        FROM standing_grant g JOIN delegation d ON d.standing_grant_id = g.id
        WHERE g.suspended_at IS NOT NULL AND g.expires_at > $1 AND d.expires_at > $1
    )
    SELECT coalesce(array_agg(id) FILTER (WHERE NOT is_suspension(problem)), '{}') AS lasting,
           coalesce(array_agg(id) FILTER (WHERE is_suspension(problem)), '{}') AS passing
    FROM suspect WHERE problem IS NOT NULL";

const UNDER: &str = "
    SELECT coalesce(array_agg(status_index - $1) FILTER (WHERE delegation_id = ANY ($3)), '{}') AS lasting,
           coalesce(array_agg(status_index - $1) FILTER (WHERE delegation_id = ANY ($4)), '{}') AS passing
    FROM issued_token
    WHERE status_index >= $1 AND status_index < $2 AND (delegation_id = ANY ($3) OR delegation_id = ANY ($4))";

/// Reads one list. Invalid are the tokens with a problem, the tokens with such a token in their lineage, and the
/// tokens whose delegation, or an ancestor, was ended.
pub async fn ended(pool: &PgPool, list: u64, now: OffsetDateTime) -> Result<RevokedIndex, Fault> {
    let first = i64::try_from(list * SIZE).context("numbering a status list")?;
    let after = i64::try_from((list + 1) * SIZE).context("numbering a status list")?;
    let range = first..after;
    // The epoch is read first: an end in between may be in the list or not, and the changed epoch causes another
    // list.
    let mut transaction = db::begin(pool, "BEGIN").await?;
    let (epoch, restored) = authority_lock::epoch_and_restored_index(&mut transaction).await?;
    // The statements return from one token to a whole list, so the values decide between index and scan. They may
    // take longer than requests.
    sqlx::query(
        "SELECT set_config('enable_seqscan', 'on', true), set_config('plan_cache_mode', 'force_custom_plan', true),
                set_config('statement_timeout', '30s', true)",
    )
    .execute(&mut *transaction)
    .await?;
    let closed = restored.is_some_and(|restored| range.end <= restored);
    let mut ended = RevokedIndex { epoch, closed, ..RevokedIndex::default() };
    let bad: Bad = sqlx::query_as(BAD).bind(range.start).bind(range.end).fetch_one(&mut *transaction).await?;
    ended.add(Split { lasting: bad.lasting_places, passing: bad.passing_places });
    if !bad.tokens.is_empty() {
        ended.add(places(&mut transaction, MADE_FROM, &range, &bad.tokens).await?);
    }
    let own: Split<String> = sqlx::query_as(ENDED).bind(now).fetch_one(&mut *transaction).await?;
    if !own.is_empty() {
        let lasting = with_all_below(&mut transaction, own.lasting).await?;
        let passing = with_all_below(&mut transaction, own.passing).await?;
        ended.add(places(&mut transaction, UNDER, &range, &Split { lasting, passing }).await?);
    }
    transaction.commit().await.context("reading a status list")?;
    Ok(ended)
}

impl RevokedIndex {
    fn add(&mut self, places: Split<i64>) {
        self.invalid.extend(places.lasting);
        self.suspended.extend(places.passing);
    }
}

async fn places<T>(
    connection: &mut PgConnection,
    statement: &'static str,
    range: &Range<i64>,
    from: &Split<T>,
) -> Result<Split<i64>, Fault>
where
    for<'a> &'a Vec<T>: Encode<'a, Postgres> + Type<Postgres>,
    Vec<T>: Sync,
{
    let found = sqlx::query_as(statement)
        .bind(range.start)
        .bind(range.end)
        .bind(&from.lasting)
        .bind(&from.passing)
        .fetch_one(connection)
        .await?;
    Ok(found)
}

/// Reads descendants level by level, so that each step is planned for its number of rows.
async fn with_all_below(connection: &mut PgConnection, ids: Vec<String>) -> Result<Vec<String>, Fault> {
    let mut all: HashSet<String> = HashSet::with_capacity(ids.len());
    let mut layer = ids;
    while !layer.is_empty() {
        let below: Vec<String> = sqlx::query_scalar(
            "SELECT coalesce(array_agg(d.id), '{}') FROM unnest($1::text[]) AS above (id)
             JOIN delegation d ON d.parent = above.id",
        )
        .bind(&layer)
        .fetch_one(&mut *connection)
        .await?;
        all.extend(layer);
        layer = below.into_iter().filter(|id| !all.contains(id)).collect();
    }
    Ok(all.into_iter().collect())
}
