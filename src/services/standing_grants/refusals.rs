//! How often the agents of standing grants were refused of late.

use sqlx::PgConnection;
use time::{Duration, OffsetDateTime};

use crate::domain::audit::event_count::{self, BlocksSince};
use crate::domain::audit::filter::Filter;
use crate::domain::audit::search::{self, SearchRange};
use crate::domain::delegation::waiting::BoundedCount;
use crate::platform::fault::{Context, Fault};

/// The period of the refusals that are counted.
const OF_LATE: Duration = Duration::days(7);
/// Refusals are counted up to this number.
const MAX_REFUSALS: usize = 20;

/// Counts the refusals of a week.
#[derive(Debug)]
pub struct RecentRefusals {
    range: SearchRange,
    period: BlocksSince,
}

impl RecentRefusals {
    pub async fn begin(connection: &mut PgConnection, now: OffsetDateTime) -> Result<Self, Fault> {
        let range = search::shared_search_range(connection).await?;
        Ok(Self { range, period: BlocksSince::read(connection, now - OF_LATE).await? })
    }

    /// Refused requests of the agent under a standing grant.
    pub async fn count(
        &self,
        connection: &mut PgConnection,
        grant: &str,
        client_id: &str,
    ) -> Result<BoundedCount, Fault> {
        let filter = Filter {
            standing_grant: Some(grant.to_owned()),
            client: Some(client_id.to_owned()),
            outcome: Some("refused".to_owned()),
            ..Filter::default()
        };
        let counted =
            event_count::count(connection, &filter, &self.period, &self.range, MAX_REFUSALS + 1).await?;
        let number = i64::try_from(counted.min(MAX_REFUSALS)).context("counting refusals")?;
        Ok(BoundedCount { number, at_least: counted > MAX_REFUSALS })
    }
}
