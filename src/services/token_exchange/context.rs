//! The state of a token request, and its conversion to a ledger entry, an event and a response.

use std::sync::Arc;

use time::OffsetDateTime;
use uuid::Uuid;

use super::links::ProvenKeys;
use super::prepared::{Answering, PreparedToken, describe, earlier_actors};
use crate::app::App;
use crate::domain::audit::detail::{SignedToken, TokenRefusal};
use crate::domain::audit::{Actor, Event, EventKind, RequestOrigin};
use crate::domain::authority::{self, ExchangeDecision};
use crate::domain::ceremony::Asking;
use crate::domain::client::{Client, ClientException};
use crate::domain::delegation::candidates::{DelegationSearch, Memory};
use crate::domain::key::Keyring;
use crate::domain::ledger::{Choice, Entry, Freshness, Guards, OfflineUse, SingleUseId, TokenInsert, Write};
use crate::domain::principal::Principal;
use crate::domain::refusal::{Error, Refusal};
use crate::domain::registry::Registry;
use crate::domain::session::{SessionOwner, SessionRequest};
use crate::domain::standing_grant::suspension::ProvenClientKey;
use crate::domain::status;
use crate::domain::subject::{TokenSource, VerifiedSubject};
use crate::domain::token::TokenRecord;
use crate::platform::clock::rfc3339;
use crate::platform::fault::{Context, Fault};
use crate::services::client_authentication::VerifiedClient;
use crate::services::issue::seconds;
use crate::services::status_lists::uri as status_list;
use actchain_protocol::access_token::{Audience, AuthenticationContext, Claims, Confirmation};
use actchain_protocol::jose::MAX_TOKEN_BYTES;
use actchain_protocol::random;
use actchain_protocol::status_list::{Reference, StatusClaim};
use actchain_protocol::token_exchange::RequestedAccess;
use actchain_protocol::token_problem::TokenProblem;
use actchain_protocol::{resource, scope};

/// Maximum size of claims, in bytes, so that the token (base64url, header, signature) stays within `MAX_TOKEN_BYTES`.
const MOST_CLAIMS: usize = MAX_TOKEN_BYTES * 3 / 4 - 1_024;

/// State of a request, for its ledger entry.
pub(super) struct ExchangeContext {
    pub(super) now: OffsetDateTime,
    pub(super) client: Arc<Client>,
    pub(super) registry: Arc<Registry>,
    pub(super) keyring: Arc<Keyring>,
    pub(super) single_use_ids: Vec<SingleUseId>,
    /// The event without its action, details and reason.
    pub(super) event: Event,
    /// The details of a refusal.
    refusal: TokenRefusal,
    pub(super) jkt: Option<String>,
    pub(super) proven: ProvenKeys,
    pub(super) subject: Option<Arc<VerifiedSubject>>,
    pub(super) actor: Option<Arc<VerifiedSubject>>,
    pub(super) freshness: Freshness,
    pub(super) search: Option<DelegationSearch>,
    /// The candidates among which a remembered decision chose.
    pub(super) choice: Option<Choice>,
    pub(super) memory: Memory,
    /// The path of the decision. A later refusal also rests on this path.
    pub(super) path: Vec<String>,
    /// Confirmations that the token uses up.
    pub(super) ceremonies: Vec<Uuid>,
    /// What the token has to do with a refresh token.
    pub(super) offline: OfflineUse,
    /// Ids of tokens of this server that the request rests on.
    tokens: Vec<Uuid>,
    /// Principals of trusted issuers that the request rests on, with the issue time of their tokens.
    subjects: Vec<(Principal, OffsetDateTime)>,
    /// Thumbprint of the key that signed the client assertion.
    auth_key: Option<String>,
    /// The exception that the client used to authenticate.
    assertion_exception: Option<ClientException>,
    /// The session that this first exchange of a chain asks for.
    session: Option<SessionRequest>,
}

impl ExchangeContext {
    pub(super) fn new(
        app: &App,
        origin: &RequestOrigin,
        authenticated: VerifiedClient,
        now: OffsetDateTime,
    ) -> Self {
        let VerifiedClient { client, asserted } = authenticated;
        let actor = Actor::client(&client.client_id, None);
        let mut event = Event::new(now, EventKind::TokenRefused(TokenRefusal::default()), actor);
        event.origin = origin.clone();
        Self {
            now,
            proven: ProvenClientKey::all(&client.client_id, asserted.iter().map(|asserted| &asserted.key)),
            client,
            registry: app.registry(),
            keyring: app.keyring(),
            auth_key: asserted.as_ref().map(|asserted| asserted.key.clone()),
            assertion_exception: asserted.as_ref().and_then(|asserted| asserted.exception),
            single_use_ids: asserted.map(|asserted| asserted.single_use_id).into_iter().collect(),
            event,
            refusal: TokenRefusal::default(),
            jkt: None,
            subject: None,
            actor: None,
            freshness: Freshness::Fresh,
            search: None,
            choice: None,
            memory: Memory::Usable,
            path: Vec::new(),
            ceremonies: Vec::new(),
            offline: OfflineUse::None,
            tokens: Vec::new(),
            subjects: Vec::new(),
            session: None,
        }
    }

    /// Keeps the session of the subject token, or asks for one.
    pub(super) fn asks_for_session(
        &mut self,
        subject: &VerifiedSubject,
        name: Option<&str>,
    ) -> Result<(), Fault> {
        self.event.session_id.clone_from(&subject.sid);
        if subject.sid.is_none() {
            let owner =
                SessionOwner { client_id: self.client.client_id.clone(), subject: subject.subject.clone() };
            let proposed = random::id(self.now)?;
            self.session = Some(SessionRequest { owner, name: name.map(str::to_owned), proposed });
        }
        Ok(())
    }

    /// Adds a guard: the ledger checks that the subject token is still active when the exchange is recorded.
    pub(super) fn guard_token(&mut self, subject: &VerifiedSubject) -> Result<(), Refusal> {
        match &subject.source {
            TokenSource::Local { jti, .. } => {
                self.tokens.push(
                    Uuid::parse_str(jti).map_err(|_| Refusal::SubjectTokenInvalid(TokenProblem::Claims))?,
                );
            }
            // A token without `iat` counts as issued at the Unix epoch.
            TokenSource::TrustedIssuer { .. } => {
                let since = subject.validity.issued_at.unwrap_or(OffsetDateTime::UNIX_EPOCH);
                self.subjects.push((subject.subject.clone(), since));
            }
        }
        Ok(())
    }

    /// Logs and records a registered resource that differs only in spelling from a requested one.
    pub(super) fn name_near_target(&mut self, wanted: &RequestedAccess) {
        let unknown = |name: &&String| !self.registry.resources.contains_key(*name);
        let near = wanted.audiences.iter().flatten().filter(unknown).find_map(|asked| {
            let registered = self.registry.resources.keys().find(|id| resource::is_near(asked, id))?;
            Some((asked, registered))
        });
        if let Some((asked, registered)) = near {
            tracing::warn!(
                client_id = self.client.client_id,
                asked,
                registered,
                "a target is not registered as it was asked for; targets are compared character by character"
            );
            self.refusal.registered_target = Some(registered.clone());
        }
    }

    /// Sets the delegation that needs a confirmation, or whose delegator denied it, and its path.
    pub(super) fn is_about(&mut self, delegation_id: &str, path: &[String]) {
        let length = path.iter().position(|id| id == delegation_id).map_or(0, |place| place + 1);
        self.event.delegation_id = Some(delegation_id.to_owned());
        self.event.delegation_path = path.iter().take(length).cloned().collect();
    }

    /// The entry of a request that needs a confirmation first. The guards apply, so no confirmation is requested for
    /// an inactive delegation.
    pub(super) fn entry_asking(&mut self, asking: Box<Asking>, path: Vec<String>) -> Result<Entry, Fault> {
        let ceremony = &asking.ceremony;
        self.is_about(&ceremony.delegation_id, &path);
        self.event.scope = Some(scope::join(&ceremony.scopes));
        self.event.audience = ceremony.audiences.iter().cloned().collect();
        self.refusal.ceremony = Some(ceremony.id);
        self.refusal.expires_at = Some(rfc3339(ceremony.expires_at));
        let mut entry = self.entry(None, Some(Refusal::CeremonyRequired(ceremony.id)))?;
        entry.guards.choice.clone_from(&self.choice);
        entry.guards.path = path;
        entry.guards.tokens = std::mem::take(&mut self.tokens);
        entry.guards.subjects = std::mem::take(&mut self.subjects);
        Ok(Entry { write: Write::Ceremony(asking), ..entry })
    }

    pub(super) fn entry(
        &mut self,
        plan: Option<&PreparedToken>,
        refusal: Option<Refusal>,
    ) -> Result<Entry, Fault> {
        let mut event = self.event.clone();
        let mut guards = Guards {
            client: Some((self.client.client_id.clone(), self.client.version)),
            registry: Some(self.registry.version),
            freshness: self.freshness,
            path: self.path.clone(),
            ephemeral_delegation: self.home().into_iter().collect(),
            proved_keys: self.proven.clone(),
            ..Guards::default()
        };
        if let Some(plan) = plan {
            guards.tokens = std::mem::take(&mut self.tokens);
            guards.subjects = std::mem::take(&mut self.subjects);
            guards.path.clone_from(&plan.decision.path);
            guards.choice.clone_from(&self.choice);
            guards.earlier_actors = earlier_actors(plan, &self.client.client_id);
            describe(&mut event, plan, &self.client);
            event.kind = self.kind(plan);
        }
        if let Some(refusal) = refusal {
            event.kind = EventKind::TokenRefused(self.refusal.clone().because_of(refusal));
            event.reason = Some(refusal.reason());
        }
        Ok(Entry {
            now: self.now,
            single_use_ids: std::mem::take(&mut self.single_use_ids),
            guards,
            write: match plan {
                None => Write::Nothing,
                Some(plan) => Write::Token(Box::new(TokenInsert {
                    token: self.issued(plan)?,
                    create: plan.decision.create.clone(),
                    ceremonies: self.ceremonies.clone(),
                    offline: self.offline.clone(),
                })),
            },
            event: Some(event),
            session: self.session.clone(),
        })
    }

    /// What happened, if the token of the plan is issued.
    fn kind(&self, plan: &PreparedToken) -> EventKind {
        let of_token = self.client.exception_of_token(self.jkt.as_deref());
        let exceptions: Vec<_> = self.assertion_exception.into_iter().chain(of_token).collect();
        let (exp, kid) = (plan.claims.exp, plan.keyring.active.kid().to_owned());
        match plan.answering {
            Answering::Client => EventKind::TokenIssued(SignedToken { exp, kid, exceptions }),
            Answering::Refresh => EventKind::TokenRefreshed(SignedToken { exp, kid, exceptions }),
            Answering::Exchange => {
                let is_introspected = self.subject.as_ref().is_some_and(|subject| subject.is_introspected());
                let introspected = is_introspected.then_some(true);
                EventKind::TokenExchanged { exp, kid, introspected, refresh_token: None, exceptions }
            }
        }
    }

    fn proposed_session(&self) -> Option<String> {
        self.session.as_ref().map(|session| session.proposed.to_string())
    }

    fn home(&self) -> Option<String> {
        self.client.ephemeral.as_ref().map(|agent| agent.delegation_id.clone())
    }

    fn issued(&self, plan: &PreparedToken) -> Result<TokenRecord, Fault> {
        let subject = self.event.subject.clone();
        let own = |token: &Option<Arc<VerifiedSubject>>| match token.as_ref().map(|token| &token.source) {
            Some(TokenSource::Local { jti, .. }) => {
                Uuid::parse_str(jti).map(Some).context("the id of a token of this server")
            }
            Some(TokenSource::TrustedIssuer { .. }) | None => Ok(None),
        };
        Ok(TokenRecord {
            jti: plan.jti,
            parent: own(&self.subject)?,
            actor: own(&self.actor)?,
            txn: plan.txn,
            client_id: self.client.client_id.clone(),
            subject: subject.unwrap_or_else(|| authority::principal_of(&self.client, &plan.claims.iss)),
            // A token for an ephemeral agent itself ends with the delegation that the agent was created for.
            delegation_id: plan.claims.dlg.clone().or_else(|| self.home()),
            jkt: self.jkt.clone(),
            auth_key: self.auth_key.clone(),
            status_index: plan.status_index,
            kid: plan.keyring.active.kid().to_owned(),
            scope: plan.claims.scope.clone(),
            audience: plan.claims.aud.values().to_vec(),
            issued_at: self.now,
            expires_at: plan.decision.expires_at,
        })
    }
}

pub(super) async fn plan(
    app: &App,
    context: &ExchangeContext,
    decision: ExchangeDecision,
    txn: Uuid,
    answering: Answering,
) -> Result<PreparedToken, Error> {
    let place = app.next_status_index().await?;
    let subject = context.event.subject.clone();
    let subject = subject.unwrap_or_else(|| authority::principal_of(&context.client, &app.issuer));
    let jti = random::id(context.now)?;
    let login =
        context.subject.as_ref().map_or_else(AuthenticationContext::default, |subject| subject.login.clone());
    let sub = context.registry.subject_claim(&subject, &app.issuer).ok_or(Refusal::SubjectAmbiguous)?;
    let claims = Claims {
        iss: app.issuer.clone(),
        idp: (subject.iss != app.issuer).then_some(subject.iss),
        sub,
        aud: Audience::from_list(decision.audiences.iter().cloned().collect()),
        client_id: context.client.client_id.clone(),
        scope: scope::join(&decision.scopes),
        iat: seconds(context.now),
        exp: seconds(decision.expires_at),
        jti: jti.to_string(),
        cnf: context.jkt.clone().map(|jkt| Confirmation { jkt }),
        act: decision.act.clone(),
        dlg: decision.path.last().cloned(),
        txn: txn.to_string(),
        // The ledger decides the session; this one has the same size.
        sid: context.event.session_id.clone().or_else(|| context.proposed_session()),
        authorization_details: decision.details.clone(),
        capability_ceiling: decision.capability.clone(),
        status: Some(StatusClaim {
            status_list: Reference { idx: place.idx, uri: status_list(app, place.list) },
        }),
        login,
    };
    let size = serde_json::to_vec(&claims).context("writing claims")?.len();
    if size > MOST_CLAIMS {
        return Err(Refusal::TokenTooLarge.into());
    }
    let status_index = status::stored(place)?;
    Ok(PreparedToken {
        decision,
        claims,
        jti,
        txn,
        keyring: Arc::clone(&context.keyring),
        status_index,
        answering,
    })
}
