//! Signed status lists, and the indices of new tokens in them.

use std::ops::Range;
use std::sync::Arc;

use moka::sync::Cache;
use time::OffsetDateTime;
use tokio::sync::Mutex;

use crate::domain::status::{self, SignedList};
use crate::platform::fault::Fault;
use actchain_protocol::status_list::{IndexAllocator, StatusIndex};

#[derive(Debug)]
pub struct StatusLists {
    /// Signed lists by number.
    pub signed: Cache<u64, Arc<SignedList>>,
    /// Serializes the generation of lists.
    pub making: Mutex<()>,
    /// Numbers of the lists that unexpired tokens refer to, with the time of the read.
    pub live: Mutex<Option<(OffsetDateTime, Vec<u64>)>>,
    indices: IndexAllocator,
    block: Mutex<Range<u64>>,
}

impl StatusLists {
    /// The secret hides the order in which tokens are issued.
    pub(super) fn new(secret: &[u8; 32]) -> Self {
        Self {
            signed: Cache::builder().max_capacity(8).build(),
            making: Mutex::new(()),
            live: Mutex::new(None),
            indices: IndexAllocator::new(secret),
            block: Mutex::new(0..0),
        }
    }

    /// Leaves the rest of the present block unused: its list may be closed.
    pub(super) async fn leave_block(&self) {
        *self.block.lock().await = 0..0;
    }

    /// The next index of the present block; `reserve` gives the number of a new block.
    pub(super) async fn next_index(
        &self,
        reserve: impl AsyncFnOnce() -> Result<u64, Fault>,
    ) -> Result<StatusIndex, Fault> {
        let mut block = self.block.lock().await;
        if block.is_empty() {
            let number = reserve().await?;
            *block = number * status::BLOCK..(number + 1) * status::BLOCK;
        }
        let next = block.next().ok_or_else(|| Fault::new("a block without places"))?;
        Ok(self.indices.place(next))
    }
}
