//! One batch, one transaction: look at guards under locks, decide each entry, write all effects, append all events.
//! A fixed number of statements, whatever the number of entries.

use sqlx::{Connection as _, PgConnection};

use super::guard::{Judged, Verdict, judge};
use super::{BatchError, Entry, Recorded, store};
use crate::domain::audit::{self, Action, Draft, Event};
use crate::domain::delegation;
use crate::platform::fault::Fault;

/// Records entries in their order.
pub(super) async fn record(
    connection: &mut PgConnection,
    entries: &[Entry],
) -> Result<Vec<Recorded>, BatchError> {
    let mut transaction = connection.begin().await?;
    let seen = store::look(&mut transaction, entries).await?;
    let judged = judge(entries, seen);
    for delegation in judged.create.values() {
        if !delegation::store::insert(&mut transaction, delegation).await? {
            // Another server recorded it since we looked; by now it may even be revoked. Entries of a batch that fails
            // like this are looked at again one by one.
            return Err(Fault::new(format!("delegation {} appeared meanwhile", delegation.id)).into());
        }
    }
    let tokens: Vec<_> = entries
        .iter()
        .zip(&judged.verdicts)
        .filter_map(effective)
        .filter_map(|entry| Some(&entry.effect.as_ref()?.token))
        .collect();
    let head = store::write(&mut transaction, &tokens, &judged.uses).await?;
    let created = created(entries, &judged)?;
    let drafts = [created.clone(), drafts(entries, &judged.verdicts)?].concat();
    let first = audit::store::append_at(&mut transaction, head, &drafts).await?;
    transaction.commit().await?;
    Ok(outcomes(&judged.verdicts, first + created.len() as u64))
}

fn effective<'a>((entry, verdict): (&'a Entry, &Verdict)) -> Option<&'a Entry> {
    (*verdict == Verdict::Holds).then_some(entry)
}

/// What the log will say of delegations that come into being: before the exchanges that need them.
fn created(entries: &[Entry], judged: &Judged<'_>) -> Result<Vec<Draft>, BatchError> {
    let mut drafts = Vec::with_capacity(judged.create.len());
    for delegation in judged.create.values() {
        let cause = entries.iter().find(|entry| entry.guards.path.contains(&delegation.id));
        let Some(cause) = cause else { continue };
        let event = Event {
            subject: Some(delegation.root.clone()),
            delegation_id: Some(delegation.id.clone()),
            delegation_path: delegation.path.clone(),
            txn: cause.event.txn.clone(),
            parent_jti: cause.event.parent_jti.clone(),
            origin: cause.event.origin.clone(),
            ..Event::new(cause.now, Action::DelegationCreated, cause.event.actor.clone())
        };
        drafts.push(event.draft()?);
    }
    Ok(drafts)
}

/// What the log will say: nothing of stale entries, which come back.
fn drafts(entries: &[Entry], verdicts: &[Verdict]) -> Result<Vec<Draft>, BatchError> {
    let mut drafts = Vec::with_capacity(entries.len());
    for (entry, verdict) in entries.iter().zip(verdicts) {
        match verdict {
            Verdict::Stale => {}
            Verdict::Holds => drafts.push(entry.event.draft()?),
            Verdict::Fails(refusal) => drafts.push(entry.event.clone().refused(*refusal).draft()?),
        }
    }
    Ok(drafts)
}

fn outcomes(verdicts: &[Verdict], first: u64) -> Vec<Recorded> {
    let mut seq = first;
    verdicts
        .iter()
        .map(|verdict| {
            let outcome = match verdict {
                Verdict::Stale => return Recorded::Stale,
                Verdict::Holds => Recorded::Done { seq },
                Verdict::Fails(refusal) => Recorded::Refused(*refusal),
            };
            seq += 1;
            outcome
        })
        .collect()
}
