//! Status lists: what they say follows from the same facts as everything else.

pub mod store;

use time::OffsetDateTime;

use crate::protocol::status_list::{SIZE, StatusIndex};

/// Places that a server sets aside at a time.
pub const BLOCK: u64 = 512;

/// A list as it was last made and signed.
#[derive(Debug, Clone)]
pub struct SignedList {
    /// The signed list.
    pub token: String,
    /// Changes whenever the text does.
    pub etag: String,
    /// What it was made of: nothing has ended since while this is the present epoch.
    pub epoch: i64,
    /// When it was made.
    pub made_at: OffsetDateTime,
}

/// How a place is stored: lists follow one another.
pub fn stored(place: StatusIndex) -> i64 {
    i64::try_from(place.list * SIZE + place.idx).unwrap_or(i64::MAX)
}
