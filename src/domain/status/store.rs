//! What status lists say, from PostgreSQL.

use sqlx::{Connection as _, PgConnection};

use crate::domain::gate;
use crate::platform::fault::{During, Fault};
use crate::protocol::status_list::SIZE;

/// Sets a block of places aside, which nobody else gets. Places of a server that stops are left empty.
pub async fn next_block(connection: &mut PgConnection) -> Result<u64, Fault> {
    let number: i64 = sqlx::query_scalar("SELECT nextval('status_block')").fetch_one(connection).await?;
    u64::try_from(number).during("numbering a block of places")
}

/// How many lists there are, up to the one that holds the last block set aside; and the present epoch.
pub async fn lists(connection: &mut PgConnection) -> Result<(u64, i64), Fault> {
    let (blocks, epoch): (i64, i64) = sqlx::query_as(
        "SELECT CASE WHEN is_called THEN last_value + 1 ELSE 0 END, number FROM status_block, epoch",
    )
    .fetch_one(connection)
    .await?;
    let places = u64::try_from(blocks).during("counting blocks of places")? * super::BLOCK;
    Ok((places.div_ceil(SIZE), epoch))
}

/// The lists that tokens still point into. Looks at all tokens.
pub async fn live_lists(connection: &mut PgConnection) -> Result<Vec<u64>, Fault> {
    let (last, _) = lists(connection).await?;
    let oldest: Option<i64> =
        sqlx::query_scalar("SELECT min(status_place) FROM issued_token").fetch_one(connection).await?;
    let first = oldest
        .and_then(|place| u64::try_from(place).ok())
        .map_or(last.saturating_sub(1), |place| place / SIZE);
    Ok((first..last).collect())
}

/// Indices of one list whose tokens are not valid.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Ended {
    /// For good.
    pub invalid: Vec<i64>,
    /// As long as a client is disabled, or a new key is not confirmed.
    pub suspended: Vec<i64>,
    /// As of when nothing had been ended since.
    pub epoch: i64,
}

/// Dead are the tokens that something is wrong with, those made from such a one, and those whose delegation, or one above
/// it, was ended. A delegation that has come to its time has no tokens any more; one whose last use was an exchange has
/// paid for those it has.
const ENDED: &str = "
    WITH bad AS MATERIALIZED (
        SELECT jti, problem FROM token_now WHERE problem IS NOT NULL
    ), ended AS MATERIALIZED (
        SELECT d.id, d.revoked_at IS NULL AND NOT d.cut_off AND d.exhausted_at IS NULL AS passing FROM delegation_now d
        WHERE d.revoked_at IS NOT NULL OR d.cut_off OR d.rebinding IS NOT NULL OR d.exhausted_at IS NOT NULL
    ), below AS MATERIALIZED (
        SELECT d.id, bool_and(ended.passing) AS passing
        FROM delegation d, unnest(d.path) AS above (id) JOIN ended ON ended.id = above.id GROUP BY d.id
    ), dead AS (
        SELECT t.status_place, b.problem = 'actor_disabled' AS passing
        FROM bad b JOIN issued_token t ON t.jti = b.jti
        UNION ALL
        SELECT t.status_place, b.problem = 'actor_disabled'
        FROM issued_token t, unnest(t.lineage) AS made_from (jti) JOIN bad b ON b.jti = made_from.jti
        UNION ALL
        SELECT t.status_place, below.passing FROM issued_token t JOIN below ON below.id = t.delegation_id
    )
    SELECT coalesce(array_agg(status_place - $1) FILTER (WHERE NOT passing), '{}'),
           coalesce(array_agg(status_place - $1) FILTER (WHERE passing), '{}')
    FROM dead WHERE status_place >= $1 AND status_place < $2";

/// Reads what one list has to say, and how far it goes.
pub async fn ended(connection: &mut PgConnection, list: u64) -> Result<Ended, Fault> {
    let first = i64::try_from(list * SIZE).during("numbering a status list")?;
    let beyond = first.saturating_add(i64::try_from(SIZE).unwrap_or(i64::MAX));
    // The epoch is read first: what ends in between shows in the list, and the next reader makes another.
    let mut transaction = connection.begin().await.during("reading a status list")?;
    let epoch = gate::epoch(&mut transaction).await?;
    // All of a list is read at once, which goes by scans; and it takes longer than requests may.
    sqlx::query(
        "SELECT set_config('enable_seqscan', 'on', true), set_config('statement_timeout', '30s', true)",
    )
    .execute(&mut *transaction)
    .await?;
    let (invalid, suspended) =
        sqlx::query_as(ENDED).bind(first).bind(beyond).fetch_one(&mut *transaction).await?;
    transaction.commit().await.during("reading a status list")?;
    Ok(Ended { invalid, suspended, epoch })
}
