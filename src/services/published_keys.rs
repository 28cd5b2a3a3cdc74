//! Keys that clients publish at their `jwks_uri`: a set that differs from the one that was fetched before is an event, and
//! suspends the standing grants of the client like any other change of how it proves itself.

use std::collections::BTreeSet;

use crate::app::App;
use crate::domain::audit::{Actor, Event, EventKind, RequestOrigin};
use crate::domain::client::published_keys::{PublishedKeys, find, mark_fetched};
use crate::domain::client::{self, Client};
use crate::domain::standing_grant::suspension::{mark_logged, mark_registration_changed};
use crate::platform::fault::Fault;
use crate::services::transaction::{AuditedTransaction, Authorized, Occasion, suspended_event};

/// Thumbprints of a set that are compared: a client can publish a long document.
const MAX_KEYS: usize = 100;

/// Compares the keys that this server knows of a client with those that a server fetched before, once for each fetch.
pub(super) async fn compare(app: &App, client: &Client) -> Result<(), Fault> {
    let Some(jwks_uri) = &client.jwks_uri else { return Ok(()) };
    let Some((fetched_at, keys)) = app.caches.jwk_sets.in_use(jwks_uri) else { return Ok(()) };
    let client_id = &client.client_id;
    if app.caches.compared_keys.get(client_id) == Some(fetched_at) {
        return Ok(());
    }
    let keys: BTreeSet<String> = keys.iter().map(|key| key.thumbprint().to_owned()).collect();
    let keys = keys.into_iter().take(MAX_KEYS).collect();
    let fetched = PublishedKeys { jwks_uri: jwks_uri.clone(), keys, fetched_at };
    let before = app.read(async |connection| find(connection, client_id).await).await?;
    if before.is_none_or(|before| before.last.is_followed_by(&fetched, app.clock.now())) {
        record(app, client_id, &fetched).await?;
    }
    app.caches.compared_keys.insert(client_id.clone(), fetched_at);
    Ok(())
}

async fn record(app: &App, client_id: &str, fetched: &PublishedKeys) -> Result<(), Fault> {
    let now = app.clock.now();
    let mut work = AuditedTransaction::begin_exclusive(&app.pool, Authorized::without_request()).await?;
    // What this server remembers of the client may be outdated.
    let client = client::store::find(&app.rows, work.connection(), client_id).await?;
    let is_current = client
        .is_some_and(|client| client.jwks_uri.as_ref() == Some(&fetched.jwks_uri) && !client.is_inactive());
    let before = find(work.connection(), client_id).await?.map(|stored| stored.last);
    let is_news = before.as_ref().is_none_or(|before| before.is_followed_by(fetched, now));
    if !is_current || !is_news {
        return work.abandon().await;
    }
    mark_fetched(work.connection(), client_id, fetched).await?;
    // A changed URL is a changed registration, and has suspended already.
    let before = before.filter(|before| before.jwks_uri == fetched.jwks_uri);
    if before.is_some() {
        mark_registration_changed(work.connection(), client_id, now).await?;
    }
    let (old, new) = (before.map(|before| before.keys).unwrap_or_default(), fetched.keys.clone());
    let kind = EventKind::ClientKeysPublished { old, new };
    let event = Event { target: Some(client_id.to_owned()), ..Event::new(now, kind, Actor::Server) };
    let origin = RequestOrigin::default();
    let occasion = Occasion { at: now, actor: &Actor::Server, origin: &origin, console: None };
    let suspended = mark_logged(work.connection()).await?;
    let suspended = suspended.into_iter().map(|grant| suspended_event(occasion, grant));
    let events: Vec<Event> = std::iter::once(event).chain(suspended).collect();
    work.commit(&events).await
}
