//! Another holder's token: tries delegations, narrowest first, then a `may_act` claim of the token.

use super::decision::{DecisionInput, ExchangeDecision};
use super::grant::{check_depth, grant_exchange};
use super::may_act::{may_act_id, unrecorded_delegation};
use super::own_token::own_token;
use crate::domain::delegation::{Delegation, DelegationPath, Provenance};
use crate::domain::refusal::Refusal;
use crate::domain::subject::TokenSource;
use actchain_protocol::access_token::{Act, Confirmation};
use actchain_protocol::trusted_issuer_jwt::ActorUse;

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
        let recorded =
            |path: &&DelegationPath| path.leaf().is_some_and(|leaf| leaf.origin != Provenance::MayAct);
        for path in input.paths.iter().filter(recorded).filter(|path| gives_authority(input, path)) {
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
        match unrecorded_delegation(input) {
            Some(delegation) => by_may_act(input, delegation, act),
            None => Err(self.refusal.unwrap_or(Refusal::DelegationRequired)),
        }
    }
}

/// Rule 2: another holder's token. Checks whether the client may become an actor of it at all.
fn check_hop(input: &DecisionInput<'_>) -> Result<(), Refusal> {
    let refuses_actors =
        matches!(input.subject.source, TokenSource::TrustedIssuer { actors: ActorUse::Refuse, .. });
    if refuses_actors && input.subject.act.is_some() {
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
    grant_exchange(input, Some(path), Some(act.clone()))
}

fn by_may_act(
    input: &DecisionInput<'_>,
    delegation: Delegation,
    act: Act,
) -> Result<ExchangeDecision, Refusal> {
    let path = DelegationPath(vec![delegation.clone()]);
    check_depth(input, act.depth(), Some(&path))?;
    let decision = grant_exchange(input, Some(&path), Some(act))?;
    Ok(ExchangeDecision { create: Some(delegation), ..decision })
}

/// Whether a delegation leads from the holder of the subject token to the client, and is the named one if the request
/// names one.
pub fn gives_authority(input: &DecisionInput<'_>, path: &DelegationPath) -> bool {
    let Some(leaf) = path.leaf() else { return false };
    if input.named.is_some_and(|named| named != leaf.id) {
        return false;
    }
    if leaf.delegate != input.client.client_id || leaf.root != input.subject.subject {
        return false;
    }
    match input.subject.dlg() {
        Some(dlg) => leaf.parent.as_deref() == Some(dlg),
        None => leaf.parent.is_none() && leaf.delegator == input.subject.subject && at_hand(input, leaf),
    }
}

/// A delegation of a `may_act` claim belongs to the token that carried the claim, and to no other.
fn at_hand(input: &DecisionInput<'_>, leaf: &Delegation) -> bool {
    leaf.origin != Provenance::MayAct
        || may_act_id(input.subject, &input.client.client_id).as_ref() == Some(&leaf.id)
}

fn acts_already(input: &DecisionInput<'_>) -> bool {
    let client = &input.client.client_id;
    let acts = input.subject.act.iter().flat_map(Act::newest_first);
    let root = &input.subject.subject;
    acts.into_iter().any(|act| act.iss == input.issuer && act.sub == *client)
        || (root.iss == input.issuer && root.sub == *client)
}

fn add_actor(input: &DecisionInput<'_>) -> Act {
    Act {
        sub: input.client.client_id.clone(),
        iss: input.issuer.to_owned(),
        cnf: input.jkt.map(|jkt| Confirmation { jkt: jkt.to_owned() }),
        act: input.subject.act.clone().map(Box::new),
    }
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
