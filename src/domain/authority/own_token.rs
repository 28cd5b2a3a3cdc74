//! The holder of a token exchanges it: no delegation is added.

use super::decision::{DecisionInput, ExchangeDecision};
use super::grant::{check_depth, grant_exchange};
use crate::domain::refusal::Refusal;
use actchain_protocol::access_token::Act;

/// Rule 1: the holder of the subject token narrows its scope or changes its audience. The actors stay the same.
pub(super) fn own_token(input: &DecisionInput<'_>) -> Result<ExchangeDecision, Refusal> {
    match (&input.subject.jkt, input.jkt) {
        (Some(_), None) => return Err(Refusal::DpopProofMissing),
        (Some(bound), Some(jkt)) if bound != jkt => return Err(Refusal::SubjectKeyMismatch),
        _ => {}
    }
    let path = match input.subject.dlg() {
        None => None,
        Some(dlg) => Some(input.path(dlg).ok_or(Refusal::DelegationRequired)?),
    };
    // The new token stays under the delegation of the subject token.
    if input.named.is_some_and(|named| input.subject.dlg() != Some(named)) {
        return Err(Refusal::DelegationRequired);
    }
    if let Some(path) = path {
        path.check(input.now)?;
    }
    let act = input.subject.act.clone();
    check_depth(input, act.as_ref().map_or(0, Act::depth), path)?;
    grant_exchange(input, path, act)
}
