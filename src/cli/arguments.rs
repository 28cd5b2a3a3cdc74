//! Values of options that several commands take.

use crate::domain::delegation::DelegationState;

pub(super) fn delegation_state(text: &str) -> Result<DelegationState, String> {
    text.parse().map_err(|_| "a state is requested, active, expired or revoked".to_owned())
}
