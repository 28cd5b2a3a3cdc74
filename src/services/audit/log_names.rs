//! Persons in queries of the log and in its answers: callers name users by `sub`, documents by pseudonym.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use serde_json::Value;
use sqlx::PgConnection;

use crate::domain::audit::filter::Filter;
use crate::domain::audit::personal::{self, People, PersonalView};
use crate::domain::audit::search::EventRow;
use crate::domain::person::Person;
use crate::domain::{client, person};
use crate::platform::fault::Fault;

/// Who the persons in some events are, and what is kept beside their documents.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct PersonalContext {
    /// The persons that documents name by a pseudonym.
    pub people: People,
    /// By `seq`; only events that have or had personal data.
    pub personal: BTreeMap<u64, PersonalView>,
}

/// The same filter with the names that persons have in the log. Names that are in no event stay, and match none.
pub async fn with_log_names(connection: &mut PgConnection, filter: &Filter) -> Result<Filter, Fault> {
    let mut named = filter.clone();
    if let Some(sub) = &filter.subject_sub {
        named.subject_names = log_names(connection, filter.subject_iss.as_deref(), sub).await?;
    }
    if let Some(actor) = &filter.actor {
        named.actor_names = log_names(connection, None, actor).await?;
    }
    Ok(named)
}

/// All names in the log for a `sub`: pseudonyms of users, and the id of a client.
async fn log_names(
    connection: &mut PgConnection,
    iss: Option<&str>,
    sub: &str,
) -> Result<Vec<String>, Fault> {
    let found = person::store::find_by_sub(connection, iss, sub).await?;
    let proven = found.into_iter().filter(Person::is_proven);
    let mut names: Vec<String> = proven.map(|one| one.pseudonym).collect();
    // Before the first start of a server, no issuer is known to be its own, and clients have pseudonyms, too.
    if client::store::exists(connection, sub).await? {
        names.push(sub.to_owned());
    }
    Ok(names)
}

/// Who the persons in these documents are.
pub async fn people_in<'a>(
    connection: &mut PgConnection,
    documents: impl Iterator<Item = &'a Value>,
) -> Result<People, Fault> {
    let mut pseudonyms = BTreeSet::new();
    documents.for_each(|document| personal::collect_pseudonyms(document, &mut pseudonyms));
    people_of(connection, pseudonyms).await
}

/// Who these pseudonyms are.
pub async fn people_of(connection: &mut PgConnection, pseudonyms: BTreeSet<String>) -> Result<People, Fault> {
    let wanted: Vec<String> = pseudonyms.iter().cloned().collect();
    let found = person::store::find_all(connection, &wanted).await?;
    Ok(personal::people(pseudonyms, found))
}

/// What an answer shows beside these events.
pub async fn context_of<'a>(
    connection: &mut PgConnection,
    events: impl Iterator<Item = &'a EventRow> + Clone,
) -> Result<PersonalContext, Fault> {
    let people = people_in(connection, events.clone().map(|one| &one.event)).await?;
    let view = |one: &EventRow| Some((one.seq, PersonalView::of(&one.event, one.personal.as_deref())?));
    Ok(PersonalContext { people, personal: events.filter_map(view).collect() })
}
