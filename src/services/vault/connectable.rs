//! What an owner can connect: the providers, and the authorizations that are under way.

use std::collections::BTreeSet;

use crate::domain::pending_authorization::store::{self as pending, OpenAuthorization};
use crate::domain::provider::{self, ProviderKind};
use crate::domain::refusal::Error;
use crate::services::request_context::RequestContext;

/// A provider at which an account can be connected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnectableProvider {
    pub id: String,
    pub name: String,
    pub kind: ProviderKind,
    /// Scopes of which the owner chooses; empty where the provider decides.
    pub scopes: BTreeSet<String>,
    /// Scopes that are always requested.
    pub always_scopes: BTreeSet<String>,
}

/// The providers at which an owner can connect an account in a browser.
pub async fn connectable(ctx: &RequestContext<'_>) -> Result<Vec<ConnectableProvider>, Error> {
    let mut connection = ctx.pool.acquire().await?;
    let found = provider::store::list(&mut connection).await?.into_iter();
    let shown = found.filter_map(|one| {
        let (scopes, always_scopes) = match (one.settings.kind, one.settings.oauth) {
            (ProviderKind::ApiKey | ProviderKind::Basic, _) => Default::default(),
            (ProviderKind::Oauth2, Some(oauth)) if oauth.authorization_endpoint.is_some() => {
                (oauth.scopes, oauth.always_scopes)
            }
            (ProviderKind::Oauth2 | ProviderKind::TokenExchange, _) => return None,
        };
        let (name, kind) = (one.settings.name, one.settings.kind);
        Some(ConnectableProvider { id: one.id, name, kind, scopes, always_scopes })
    });
    Ok(shown.collect())
}

/// The authorizations of the caller that are under way, newest first.
pub async fn open_authorizations(ctx: &RequestContext<'_>) -> Result<Vec<OpenAuthorization>, Error> {
    let Some((owner, _)) = ctx.caller.account_owner(ctx.issuer, ctx.now) else { return Ok(Vec::new()) };
    let mut connection = ctx.pool.acquire().await?;
    Ok(pending::of_owner(&mut connection, &owner, ctx.now).await?)
}
