//! Values of options that several commands take.

use time::OffsetDateTime;

use crate::domain::delegation::DelegationState;
use crate::platform::clock;
use crate::platform::fault::Fault;

pub(super) fn delegation_state(text: &str) -> Result<DelegationState, String> {
    text.parse().map_err(|_| "a state is requested, active, expired or revoked".to_owned())
}

/// Reads an instant (RFC 3339), or a date, which means midnight UTC.
pub(super) fn instant(text: &str) -> Result<OffsetDateTime, Fault> {
    clock::instant(text).ok_or_else(|| {
        Fault::new(format!(
            "{text:?} is neither an RFC 3339 time nor a date, such as 2026-11-01T08:00:00Z or 2026-11-01"
        ))
    })
}
