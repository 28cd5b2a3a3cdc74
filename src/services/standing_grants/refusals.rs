//! How often the agent of a standing grant was refused of late.

use sqlx::PgConnection;
use time::{Duration, OffsetDateTime};

use crate::domain::audit::event_count;
use crate::domain::audit::filter::Filter;
use crate::domain::audit::search::SearchRange;
use crate::domain::delegation::waiting::BoundedCount;
use crate::platform::fault::{Context, Fault};

/// The period of the refusals that are counted.
const OF_LATE: Duration = Duration::days(7);
/// Refusals are counted up to this number.
const MAX_REFUSALS: usize = 20;

/// Requests of the agent under a standing grant that were refused within a week.
pub async fn refused_of_late(
    connection: &mut PgConnection,
    range: &SearchRange,
    grant: &str,
    client_id: &str,
    now: OffsetDateTime,
) -> Result<BoundedCount, Fault> {
    let filter = Filter {
        standing_grant: Some(grant.to_owned()),
        client: Some(client_id.to_owned()),
        outcome: Some("refused".to_owned()),
        from: Some(now - OF_LATE),
        ..Filter::default()
    };
    let counted = event_count::count(connection, &filter, range, MAX_REFUSALS + 1).await?;
    let number = i64::try_from(counted.min(MAX_REFUSALS)).context("counting refusals")?;
    Ok(BoundedCount { number, at_least: counted > MAX_REFUSALS })
}
