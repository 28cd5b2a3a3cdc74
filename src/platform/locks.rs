//! The advisory locks of the database. Servers of different versions share the numbers: none changes, and none is used
//! twice.
//!
//! A transaction that takes several locks takes them in this order: [`Lock::Administration`], [`Lock::Authority`], one
//! [`KeyedLock`], rows, and the head of the log last. Locks of one kind are taken in the order of their keys.

/// A lock of the whole database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i64)]
pub enum Lock {
    /// Administrative changes that read much before they write: one at a time.
    Administration = 7_223_458,
    /// Shared by what adds or uses authority, exclusive for what revokes it.
    Authority = 7_223_459,
    /// The command that archives partitions of the log.
    Archive = 7_223_460,
    /// The job that indexes the log.
    AuditIndex = 7_223_461,
    /// The verification of the log in the background.
    AuditVerification = 7_223_462,
}

impl Lock {
    pub const fn number(self) -> i64 {
        self as i64
    }
}

/// Locks of one kind, each with a key beside it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i32)]
pub enum KeyedLock {
    /// Adding an agent to a task.
    Task = 7_223,
    /// Requesting a delegation from a delegator.
    PendingRequests = 7_224,
    /// Requesting a confirmation at a delegation.
    Confirmations = 7_225,
    /// Creating a standing grant between a user and an agent.
    StandingGrants = 7_226,
}

impl KeyedLock {
    pub const fn number(self) -> i32 {
        self as i32
    }
}
