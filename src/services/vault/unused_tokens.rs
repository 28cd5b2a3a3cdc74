//! Revokes tokens of a provider that no connection has: they were not stored, or newer ones have replaced them.

use std::sync::Arc;

use super::provider_client::{self, Revoked};
use crate::app::App;
use crate::domain::provider::OpenedProvider;
use crate::domain::vault::credential_cache::OpenedConnection;
use crate::domain::vault::{Credential, ProviderTokens};
use actchain_protocol::token_answer::TokenSet;

/// The tokens of an answer as they are stored.
pub(super) fn provider_tokens(tokens: &TokenSet) -> ProviderTokens {
    ProviderTokens {
        access_token: tokens.access_token.clone().unwrap_or_default(),
        token_type: tokens.token_type.clone(),
        refresh_token: tokens.refresh_token.clone(),
    }
}

/// Revokes tokens that no connection has.
pub(super) async fn revoke_unused(app: &App, provider: &OpenedProvider, tokens: &ProviderTokens) {
    let revoked = provider_client::revoke(&app.vault.outbound, provider, tokens).await;
    if matches!(revoked, Revoked::Not(_)) {
        tracing::warn!(provider = provider.provider.id, "tokens that no connection has were not revoked");
    }
}

/// Revokes the tokens that newer ones have replaced: the end of the chain would not reach them. The agent does not wait.
pub(super) fn revoke_replaced(app: &Arc<App>, replaced: Arc<OpenedConnection>) {
    let task = app.detached.spawn({
        let app = Arc::clone(app);
        async move {
            if let Credential::Oauth2(tokens) = &replaced.credential {
                revoke_unused(&app, &replaced.provider, tokens).await;
            }
        }
    });
    drop(task);
}
