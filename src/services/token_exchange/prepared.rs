//! A token that has been decided and not been recorded yet: what its event says, and the answer.

use std::sync::Arc;

use uuid::Uuid;

use super::links::chain;
use crate::app::App;
use crate::domain::audit::{Event, PersonalText};
use crate::domain::authority::ExchangeDecision;
use crate::domain::client::Client;
use crate::domain::key::Keyring;
use crate::domain::ledger::Committed;
use crate::platform::fault::Fault;
use crate::services::issue::{self, IssuedToken};
use actchain_protocol::access_token::{Act, Claims};

/// A decision with the claims of its token.
pub(super) struct PreparedToken {
    pub(super) decision: ExchangeDecision,
    pub(super) claims: Claims,
    pub(super) jti: Uuid,
    pub(super) txn: Uuid,
    pub(super) keyring: Arc<Keyring>,
    pub(super) status_index: i64,
    pub(super) answering: Answering,
}

/// The kind of request that a token answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answering {
    /// A client credentials request.
    Client,
    Exchange,
    Refresh,
}

impl PreparedToken {
    pub(super) fn answer(mut self, app: &App, committed: Committed) -> Result<IssuedToken, Fault> {
        if let Some(session) = committed.session {
            self.claims.sid = Some(session);
        }
        Ok(IssuedToken {
            access_token: issue::sign(&self.keyring, &self.claims)?,
            token_type: if self.claims.cnf.is_some() { "DPoP" } else { "Bearer" },
            expires_in: self.claims.exp - self.claims.iat,
            scope: self.decision.scopes,
            details: self.decision.details,
            exchanged: self.answering == Answering::Exchange,
            delegation_id: self.decision.path.last().cloned(),
            refresh_token: committed.refresh_token.map(|id| app.refresh_tokens.token(&id.to_string())),
            place: committed.place,
        })
    }
}

/// All clients of this server in the chain except the client, which is guarded by its version.
pub(super) fn earlier_actors(plan: &PreparedToken, client_id: &str) -> Vec<String> {
    let actors = plan.decision.act.iter().flat_map(Act::newest_first);
    let actors = actors.filter(|act| act.iss == plan.claims.iss);
    let mut earlier: Vec<String> = actors.map(|act| act.sub.clone()).collect();
    // The subject of a chain may also be a client of this server.
    if plan.claims.idp.is_none() {
        earlier.push(plan.claims.sub.clone());
    }
    earlier.retain(|id| id != client_id);
    earlier
}

pub(super) fn describe(event: &mut Event, plan: &PreparedToken, client: &Client) {
    event.act_chain = chain(plan.decision.act.as_ref());
    event.add_text(PersonalText::ClientName, Some(client.name.as_str()));
    event.txn = Some(plan.txn.to_string());
    event.delegation_id = plan.decision.path.last().cloned();
    event.delegation_path.clone_from(&plan.decision.path);
    event.standing_grant_id.clone_from(&plan.decision.standing_grant_id);
    event.jti = Some(plan.jti.to_string());
    event.scope = Some(plan.claims.scope.clone());
    event.audience = plan.claims.aud.values().to_vec();
}
