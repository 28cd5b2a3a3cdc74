//! Another holder's token: tries delegations, narrowest first, then a `may_act` claim of the token.

use super::{
    DecisionInput, ExchangeDecision, acts_already, add_actor, by_may_act, check_depth, gives_authority,
    grant, own_token,
};
use crate::domain::delegation::{DelegationPath, Provenance};
use crate::domain::refusal::Refusal;
use crate::domain::subject::TokenSource;
use actchain_protocol::access_token::Act;

/// The results of the delegations tried so far. Delegations may come in pages, narrowest first.
#[derive(Debug, Default)]
pub struct Tried {
    /// The first decision that only needs confirmations.
    reserved: Option<ExchangeDecision>,
    /// The refusal of the narrowest delegation that was tried.
    refusal: Option<Refusal>,
}

impl Tried {
    /// Tries one more page. The first delegation that grants the request without a confirmation decides it.
    ///
    /// # Errors
    /// A refusal that no delegation can change.
    pub fn page(&mut self, input: &DecisionInput<'_>) -> Result<Option<ExchangeDecision>, Refusal> {
        input.subject.validity.check(input.now).map_err(Refusal::SubjectTokenInvalid)?;
        if input.subject.is_held_by(&input.client.client_id, input.issuer) {
            return own_token(input).map(Some);
        }
        check_hop(input)?;
        let act = add_actor(input);
        let given =
            |path: &&DelegationPath| path.leaf().is_some_and(|leaf| leaf.origin != Provenance::MayAct);
        for path in input.paths.iter().filter(given).filter(|path| gives_authority(input, path)) {
            match by_delegation(input, path, &act) {
                Ok(decision) if decision.ceremonies.is_empty() => return Ok(Some(decision)),
                Ok(decision) => drop(self.reserved.get_or_insert(decision)),
                Err(refusal) => drop(self.refusal.get_or_insert(refusal)),
            }
        }
        Ok(None)
    }

    /// Decides after the last delegation: the request needs a confirmation, or a `may_act` claim gives the authority,
    /// or the request is refused.
    ///
    /// # Errors
    /// The refusal of the narrowest delegation.
    pub fn conclude(mut self, input: &DecisionInput<'_>) -> Result<ExchangeDecision, Refusal> {
        if let Some(decision) = self.reserved {
            return Ok(decision);
        }
        let act = add_actor(input);
        let claimed = input
            .paths
            .iter()
            .filter(|path| path.leaf().is_some_and(|leaf| leaf.origin == Provenance::MayAct))
            .find(|path| gives_authority(input, path));
        match claimed.map(|path| by_delegation(input, path, &act)) {
            Some(Ok(decision)) => return Ok(decision),
            Some(Err(refusal)) => drop(self.refusal.get_or_insert(refusal)),
            None => {}
        }
        match by_may_act(input, &act) {
            Some(decided) => decided,
            None => Err(self.refusal.unwrap_or(Refusal::DelegationRequired)),
        }
    }
}

/// Rule 2: another holder's token. Checks whether the client may become an actor of it at all.
fn check_hop(input: &DecisionInput<'_>) -> Result<(), Refusal> {
    if matches!(input.subject.source, TokenSource::TrustedIssuer { .. }) && input.subject.act.is_some() {
        return Err(Refusal::ActorOfOtherIssuer);
    }
    check_key_of_trusted_issuer_token(input)?;
    if acts_already(input) {
        return Err(Refusal::ActorCycle);
    }
    check_may_act(input)
}

fn by_delegation(
    input: &DecisionInput<'_>,
    path: &DelegationPath,
    act: &Act,
) -> Result<ExchangeDecision, Refusal> {
    path.check(input.now)?;
    check_depth(input, act.depth(), Some(path))?;
    grant(input, Some(path), Some(act.clone()))
}

/// A key-bound token of a trusted issuer can be used only by the holder of the key (RFC 9449 §6.1). A delegation lets
/// the next holder use a bound token of this server, but no token of another issuer.
fn check_key_of_trusted_issuer_token(input: &DecisionInput<'_>) -> Result<(), Refusal> {
    match (&input.subject.source, &input.subject.jkt, input.jkt) {
        (TokenSource::Local { .. }, ..) | (_, None, _) => Ok(()),
        (TokenSource::TrustedIssuer { .. }, Some(_), None) => Err(Refusal::DpopProofMissing),
        (TokenSource::TrustedIssuer { .. }, Some(bound), Some(jkt)) if bound == jkt => Ok(()),
        (TokenSource::TrustedIssuer { .. }, Some(_), Some(_)) => Err(Refusal::SubjectKeyMismatch),
    }
}

/// RFC 8693 §4.4: a client that `may_act` does not name may not act, whatever delegations exist.
fn check_may_act(input: &DecisionInput<'_>) -> Result<(), Refusal> {
    match &input.subject.source {
        TokenSource::TrustedIssuer { may_act: Some(claim), .. }
            if !claim.party.names(&input.client.client_id, input.issuer) =>
        {
            Err(Refusal::MayActMismatch)
        }
        _ => Ok(()),
    }
}
