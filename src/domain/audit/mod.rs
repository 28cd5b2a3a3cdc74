//! The audit log: immutable canonical documents in one Merkle tree, with a gapless `seq`.

mod action;
mod action_list;
pub mod append;
pub mod chain;
pub mod chain_events;
pub mod copy_reader;
pub mod detail;
mod document;
mod event;
pub mod evidence;
pub mod field;
pub mod filter;
pub mod findings;
pub mod health;
pub mod inclusion_batch;
pub mod index;
pub mod index_check;
pub mod log_watcher;
mod operation;
mod outcome;
pub mod partitions;
pub mod personal;
mod posting_lists;
pub mod recent;
pub mod search;
pub mod step_texts;
pub mod store;
pub mod tree;
pub mod verify;
pub mod witness;

pub use self::action::{Action, EventKind};
pub use self::document::UnsequencedEvent;
pub use self::event::{Actor, ChainLink, Event, PersonalText, RequestOrigin};
pub use self::operation::Operation;
pub use self::outcome::EventOutcome;
