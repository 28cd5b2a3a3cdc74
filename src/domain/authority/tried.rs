//! Another holder's token: delegations are tried, narrowest first, and a claim of the token after them.

use super::{
    Decision, Grounds, acts_already, add_actor, by_may_act, check_depth, gives_authority, grant, own_token,
};
use crate::domain::delegation::{Origin, Path};
use crate::domain::refusal::Refusal;
use crate::domain::subject::Source;
use crate::protocol::access_token::Act;

/// What came of the delegations that were tried so far. They may come in pages, narrowest first.
#[derive(Debug, Default)]
pub struct Tried {
    /// The first that grants the request once its delegator has confirmed this use.
    reserved: Option<Decision>,
    /// Why the first one does not grant it.
    refusal: Option<Refusal>,
}

impl Tried {
    /// Tries one more page. The first delegation that grants the request as it is decides it.
    ///
    /// # Errors
    /// A refusal that no delegation changes.
    pub fn page(&mut self, grounds: &Grounds<'_>) -> Result<Option<Decision>, Refusal> {
        grounds.subject.validity.check(grounds.now).map_err(Refusal::SubjectTokenInvalid)?;
        if grounds.subject.is_held_by(&grounds.client.client_id, grounds.issuer) {
            return own_token(grounds).map(Some);
        }
        check_hop(grounds)?;
        let act = add_actor(grounds);
        let given = |path: &&Path| path.leaf().is_some_and(|leaf| leaf.origin != Origin::MayAct);
        for path in grounds.paths.iter().filter(given).filter(|path| gives_authority(grounds, path)) {
            match by_delegation(grounds, path, &act) {
                Ok(decision) if decision.ceremonies.is_empty() => return Ok(Some(decision)),
                Ok(decision) => drop(self.reserved.get_or_insert(decision)),
                Err(refusal) => drop(self.refusal.get_or_insert(refusal)),
            }
        }
        Ok(None)
    }

    /// Decides when there is no delegation left to try: a confirmation is asked for, or a `may_act` claim gives the
    /// authority, or nothing does.
    ///
    /// # Errors
    /// The refusal of the narrowest delegation.
    pub fn conclude(mut self, grounds: &Grounds<'_>) -> Result<Decision, Refusal> {
        if let Some(decision) = self.reserved {
            return Ok(decision);
        }
        let act = add_actor(grounds);
        let claimed = grounds
            .paths
            .iter()
            .filter(|path| path.leaf().is_some_and(|leaf| leaf.origin == Origin::MayAct))
            .find(|path| gives_authority(grounds, path));
        match claimed.map(|path| by_delegation(grounds, path, &act)) {
            Some(Ok(decision)) => return Ok(decision),
            Some(Err(refusal)) => drop(self.refusal.get_or_insert(refusal)),
            None => {}
        }
        match by_may_act(grounds, &act) {
            Some(decided) => decided,
            None => Err(self.refusal.unwrap_or(Refusal::NoDelegation)),
        }
    }
}

/// Rule 2: another holder's token. Whether the client may become an actor of it at all.
fn check_hop(grounds: &Grounds<'_>) -> Result<(), Refusal> {
    if matches!(grounds.subject.source, Source::Foreign { .. }) && grounds.subject.act.is_some() {
        return Err(Refusal::ForeignActor);
    }
    check_key_of_foreign(grounds)?;
    if acts_already(grounds) {
        return Err(Refusal::ActorCycle);
    }
    check_may_act(grounds)
}

fn by_delegation(grounds: &Grounds<'_>, path: &Path, act: &Act) -> Result<Decision, Refusal> {
    path.check(grounds.now)?;
    check_depth(grounds, act.depth(), Some(path))?;
    grant(grounds, Some(path), Some(act.clone()))
}

/// A token of another issuer that is bound to a key is of use to the holder of that key alone (RFC 9449 §6.1). A
/// delegation lets a bound token of ours pass from one holder to the next; of other issuers' tokens it says nothing.
fn check_key_of_foreign(grounds: &Grounds<'_>) -> Result<(), Refusal> {
    match (&grounds.subject.source, &grounds.subject.jkt, grounds.jkt) {
        (Source::Own { .. }, ..) | (_, None, _) => Ok(()),
        (Source::Foreign { .. }, Some(_), None) => Err(Refusal::ProofMissing),
        (Source::Foreign { .. }, Some(bound), Some(jkt)) if bound == jkt => Ok(()),
        (Source::Foreign { .. }, Some(_), Some(_)) => Err(Refusal::SubjectKeyMismatch),
    }
}

/// RFC 8693 §4.4: whom `may_act` does not name may not act, whatever delegations there are.
fn check_may_act(grounds: &Grounds<'_>) -> Result<(), Refusal> {
    match &grounds.subject.source {
        Source::Foreign { may_act: Some(claim), .. }
            if !claim.party.names(&grounds.client.client_id, grounds.issuer) =>
        {
            Err(Refusal::MayActMismatch)
        }
        _ => Ok(()),
    }
}
