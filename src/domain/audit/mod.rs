//! The audit log: immutable canonical documents in one Merkle tree, with a gapless `seq`.

mod action;
pub mod chain;
pub mod chain_events;
pub mod copy_reader;
mod document;
mod event;
pub mod evidence;
pub mod field;
pub mod filter;
pub mod findings;
pub mod inclusion_batch;
pub mod index;
pub mod log_watcher;
pub mod partitions;
pub mod search;
pub mod store;
pub mod tree;
pub mod verify;
pub mod witness;

pub use self::action::Action;
pub use self::document::UnsequencedEvent;
pub use self::event::{Actor, ChainLink, Event, EventOutcome, RequestOrigin};
