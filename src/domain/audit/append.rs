//! Appends events in the transaction of what they record.

use std::collections::BTreeSet;

use sqlx::PgConnection;

use super::store::{self, LeafRef};
use super::{Event, step_texts};
use crate::domain::person;
use crate::platform::fault::Fault;

/// Appends events in order; returns the `seq` and leaf of each. The caller's transaction has the authority lock, so that no
/// person is erased before its commit.
pub async fn append_events(connection: &mut PgConnection, events: &[Event]) -> Result<Vec<LeafRef>, Fault> {
    let mut principals = BTreeSet::new();
    for event in events {
        event.collect_principals(&mut principals)?;
    }
    let names = match principals.is_empty() {
        true => person::LogNames::default(),
        false => person::store::put_persons(&mut *connection, &principals).await?,
    };
    let drafts = events.iter().map(|event| event.unsequenced(&names)).collect::<Result<Vec<_>, _>>()?;
    let places = store::append(connection, &drafts).await?;
    step_texts::put(connection, events.iter().zip(places.iter().copied())).await?;
    Ok(places)
}
