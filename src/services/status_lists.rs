//! Status lists (draft-ietf-oauth-status-list): computed, signed, and cached for `ttl` or until the next revocation.

use std::sync::Arc;

use time::{Duration, OffsetDateTime};

use super::issue::seconds;
use crate::app::App;
use crate::domain::refusal;
use crate::domain::status::{self, SignedList};
use crate::platform::fault::{Context, Fault};
use actchain_protocol::base64url;
use actchain_protocol::digest::{prefix, sha256};
use actchain_protocol::metadata::endpoint;
use actchain_protocol::status_list::{self, Status, StatusList};

pub fn uri(app: &App, list: u64) -> String {
    endpoint(&app.issuer, &format!("/oauth/status-lists/{list}"))
}

/// The present signed list.
///
/// # Errors
/// [`refusal::Refusal::NotFound`] for a list that does not exist.
pub async fn signed(app: &App, list: u64, now: OffsetDateTime) -> Result<Arc<SignedList>, refusal::Error> {
    let (lists, epoch) = app.read(async |connection| status::store::lists(connection).await).await?;
    if list >= lists {
        return Err(refusal::Refusal::NotFound.into());
    }
    let ttl = Duration::seconds(app.config.status.ttl.into());
    let is_current =
        |made: &Arc<SignedList>| made.epoch >= epoch && now < made.made_at + ttl && now >= made.made_at;
    if let Some(made) = app.status_lists.signed.get(&list).filter(is_current) {
        return Ok(made);
    }
    // A request that waited finds the result of the previous request in the cache.
    let _turn = app.status_lists.making.lock().await;
    if let Some(made) = app.status_lists.signed.get(&list).filter(is_current) {
        return Ok(made);
    }
    let made = Arc::new(make(app, list, now).await?);
    app.status_lists.signed.insert(list, Arc::clone(&made));
    Ok(made)
}

/// The lists that unexpired tokens refer to; read once per `ttl` of the configuration.
pub async fn live(app: &App, now: OffsetDateTime) -> Result<Vec<String>, Fault> {
    let mut known = app.status_lists.live.lock().await;
    let ttl = Duration::seconds(app.config.status.ttl.into());
    let (read_at, lists) = match known.take() {
        Some((read_at, lists)) if now < read_at + ttl => (read_at, lists),
        _ => (now, app.read(async |connection| status::store::live_lists(connection).await).await?),
    };
    let uris = lists.iter().map(|list| uri(app, *list)).collect();
    *known = Some((read_at, lists));
    Ok(uris)
}

async fn make(app: &App, list: u64, now: OffsetDateTime) -> Result<SignedList, Fault> {
    let ended = status::store::ended(&app.pool, list, now).await?;
    let epoch = ended.epoch;
    let (uri, keyring, ttl) = (uri(app, list), app.keyring(), app.config.status.ttl);
    let token = tokio::task::spawn_blocking(move || {
        let mut statuses = if ended.closed { StatusList::invalid() } else { StatusList::new() };
        // Invalid is final, so invalid overrides suspended.
        for (indices, status) in [(&ended.suspended, Status::Suspended), (&ended.invalid, Status::Invalid)] {
            for index in indices {
                let known = u64::try_from(*index).is_ok_and(|index| statuses.set(index, status));
                if !known {
                    return Err(Fault::new(format!("a token has index {index} in its status list")));
                }
            }
        }
        let claims = status_list::claims(&uri, &statuses, seconds(now), ttl)?;
        Ok(keyring.active.sign(status_list::TYP, &claims)?)
    })
    .await
    .context("making a status list")??;
    let etag = base64url::encode(prefix::<12>(&sha256(&[token.as_bytes()])));
    Ok(SignedList { token, etag, epoch, made_at: now })
}
