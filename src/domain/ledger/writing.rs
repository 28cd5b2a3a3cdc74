//! What the parts of a batch share.

use super::findings::EventRules;
use crate::domain::baseline::cache::BaselineCache;
use crate::domain::person::LogNames;
use crate::domain::row_mac::RowMac;
use crate::domain::session::cache::SessionCache;

/// What the rows and events of a batch are written with.
#[derive(Debug, Clone, Copy)]
pub(super) struct Writing<'a> {
    pub(super) rows: &'a RowMac,
    pub(super) rules: &'a EventRules,
    /// Names of all principals of the entries.
    pub(super) names: &'a LogNames,
    pub(super) sessions: &'a SessionCache,
    pub(super) baselines: &'a BaselineCache,
}
