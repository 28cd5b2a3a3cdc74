//! Status lists, derived from the same facts as introspection.

pub mod store;

use time::OffsetDateTime;

use crate::platform::fault::{Context as _, Fault};
use actchain_protocol::status_list::{SIZE, StatusIndex};

/// Indices that a server reserves at a time.
pub const BLOCK: u64 = 512;

#[derive(Debug, Clone)]
pub struct SignedList {
    pub token: String,
    /// Changes whenever the signed list does.
    pub etag: String,
    /// The epoch of its data: the list is current while this is the present epoch.
    pub epoch: i64,
    pub made_at: OffsetDateTime,
}

/// The index as stored: the lists follow one another.
pub fn stored(place: StatusIndex) -> Result<i64, Fault> {
    i64::try_from(place.list * SIZE + place.idx).context("an index of a status list")
}
