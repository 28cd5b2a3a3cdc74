//! What is usual for a client and for a user: the targets that the client has used, and the depth of the user's chains. Rules
//! examine what is unusual. It grants and refuses nothing.

pub mod cache;
pub mod store;

use time::Duration;

/// Until a client or user is known for so long, nothing is unusual for it.
pub const LEARNING: Duration = Duration::days(1);

/// A target that a client uses: an audience, or a provider of the vault.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UsedTarget {
    pub client_id: String,
    pub target: String,
}
