//! What a retrieval orders at a provider that issues tokens by exchange.

use std::collections::BTreeSet;
use std::sync::Arc;

use time::{Duration, OffsetDateTime};
use uuid::Uuid;

use crate::app::App;
use crate::domain::audit::Event;
use crate::domain::delegation::candidates::Memory;
use crate::domain::ledger::Guards;
use crate::domain::provider::{ExchangeSettings, OpenedProvider};
use crate::domain::refusal::{Error, Refusal};
use crate::domain::subject::{TokenSource, VerifiedSubject};
use crate::domain::vault::credential_cache::OpenedConnection;
use crate::domain::vault::exchanged::Purpose;
use crate::platform::fault::Fault;

/// A retrieval of a token that a provider issues by exchange.
#[derive(Debug, Clone)]
pub(super) struct ExchangeOrder {
    /// The agent's token, which names the provider.
    pub(super) token: Arc<VerifiedSubject>,
    pub(super) client_id: String,
    /// When the delegation or one of its ancestors expires.
    pub(super) ends_at: OffsetDateTime,
    /// The event of the retrieval without its action.
    pub(super) event: Event,
    /// What the retrieval relies on, apart from the connection.
    pub(super) guards: Guards,
    pub(super) provider: Arc<OpenedProvider>,
    /// The scopes to request.
    pub(super) scopes: BTreeSet<String>,
    /// SHA-256 of an access token that the provider's API has refused.
    pub(super) rejected: Option<[u8; 32]>,
    pub(super) memory: Memory,
    pub(super) now: OffsetDateTime,
}

/// What identifies the connection of an order.
pub(super) struct OrderKey {
    pub(super) connection: String,
    pub(super) delegation: String,
    pub(super) jti: Uuid,
    pub(super) exchange: ExchangeSettings,
}

impl ExchangeOrder {
    pub(super) fn key(&self) -> Result<OrderKey, Error> {
        let (TokenSource::Local { jti, dlg: Some(delegation), .. }, Some(act)) =
            (&self.token.source, &self.token.act)
        else {
            return Err(Refusal::InsufficientScope.into());
        };
        let provider = &self.provider.provider;
        let exchange = provider.settings.oauth.as_ref().and_then(|oauth| oauth.exchange.clone());
        let purpose = Purpose { provider, delegation_id: delegation, act, scopes: &self.scopes };
        Ok(OrderKey {
            connection: purpose.connection_id()?,
            delegation: delegation.clone(),
            jti: Uuid::parse_str(jti).map_err(|_| Refusal::AccessTokenInvalid)?,
            exchange: exchange.ok_or_else(|| Fault::new("a provider without its exchange"))?,
        })
    }

    /// Whether the token expires soon, or is refused by the provider's API.
    pub(super) fn wants_another(&self, app: &App, opened: &OpenedConnection) -> bool {
        let leeway = Duration::seconds(app.config.vault.refresh_leeway.into());
        opened.connection.is_due(self.now, leeway)
    }

    /// Whether the provider's API has refused the access token.
    pub(super) fn rejects(&self, opened: &OpenedConnection) -> bool {
        self.rejected.is_some_and(|digest| opened.credential.has_access_token(&digest))
    }
}
