//! Access of an agent to a stored credential: a DPoP-bound token with an actor (RFC 9449 §7), its checks, and its
//! ledger entry.

use std::collections::BTreeSet;
use std::sync::Arc;

use time::OffsetDateTime;
use uuid::Uuid;

use super::delegated::{self, LedgerDecision};
use super::exchange_order::ExchangeOrder;
use super::purpose::{RecordedPurpose, RetrievalPurpose};
use super::{refresh, standing};
use crate::app::App;
use crate::domain::audit::store::LeafRef;
use crate::domain::audit::{Actor, Event, PersonalText, RequestOrigin};
use crate::domain::client::Client;
use crate::domain::delegation::DelegationPath;
use crate::domain::delegation::candidates::{CandidatePaths, DelegationSearch, Memory};
use crate::domain::ledger::{CommitOutcome, Entry, Freshness, Guards, SingleUseId, Write};
use crate::domain::name::is_made_here;
use crate::domain::refusal::{Error, Refusal};
use crate::domain::registry::VAULT_DETAIL;
use crate::domain::standing_grant::suspension::ProvenClientKey;
use crate::domain::subject::{TokenSource, VerifiedSubject};
use crate::domain::vault::credential_cache::OpenedConnection;
use crate::domain::vault::exchanged;
use crate::domain::vault::{self, ConnectionState};
use crate::platform::fault::Fault;
use crate::services::client_authentication;
use crate::services::known_path::{self, KnownPath};
use crate::services::standing_grants;
use crate::services::token_exchange::chain;
use actchain_protocol::access_token::Act;
use actchain_protocol::authorization_details::Detail;
use actchain_protocol::jose::PublicKey;

/// How often a retrieval is decided again after data it rests on has changed.
pub(super) const ATTEMPTS: u32 = 4;

/// The fault after the last attempt.
pub(super) fn too_many_attempts() -> Error {
    Fault::new("the grounds of a decision changed faster than it could be made").into()
}

/// An agent with a token that is bound to its key.
pub(super) struct AuthenticatedAgent {
    pub(super) token: Arc<VerifiedSubject>,
    /// The key of the verified DPoP proof.
    pub(super) key: PublicKey,
    pub(super) client: Arc<Client>,
    pub(super) origin: RequestOrigin,
}

/// An authenticated request of an agent for a stored credential.
pub(super) struct RetrievalContext {
    pub(super) now: OffsetDateTime,
    pub(super) client: Arc<Client>,
    pub(super) token: Arc<VerifiedSubject>,
    /// The key of the verified DPoP proof.
    pub(super) key: PublicKey,
    /// The event without its action and reason.
    pub(super) event: Event,
    pub(super) recorded: RecordedPurpose,
    /// Position of the event in the log.
    pub(super) place: Option<LeafRef>,
    jti: Uuid,
    search: DelegationSearch,
    single_use_ids: Vec<SingleUseId>,
    proved_keys: BTreeSet<ProvenClientKey>,
    /// Whether the client has authenticated itself, beside having the token.
    is_authenticated: bool,
    path: Arc<CandidatePaths>,
    freshness: Freshness,
    memory: Memory,
}

impl RetrievalContext {
    /// The context of an agent whose token has an actor and names a delegation.
    pub(super) async fn of(
        app: &App,
        agent: AuthenticatedAgent,
        memory: Memory,
        now: OffsetDateTime,
    ) -> Result<Self, Error> {
        let AuthenticatedAgent { token, key, client, origin } = agent;
        let (TokenSource::Local { jti, dlg: Some(dlg), txn }, Some(act)) = (&token.source, &token.act) else {
            return Err(Refusal::InsufficientScope.into());
        };
        let actor = Actor::client(&client.client_id, Some(key.thumbprint().to_owned()));
        let recorded = RecordedPurpose::Retrieval { sealed: false };
        let proved_keys =
            ProvenClientKey::all(&client.client_id, std::iter::once(&key.thumbprint().to_owned()));
        let mut event = Event::new(now, recorded.clone().refused(Refusal::AccessTokenInvalid), actor);
        event.origin = origin;
        event.subject = Some(token.subject.clone());
        event.act_chain = chain(Some(act));
        event.add_text(PersonalText::ClientName, Some(client.name.as_str()));
        event.txn = Some(txn.clone());
        event.parent_jti = Some(jti.clone());
        event.session_id.clone_from(&token.sid);
        event.delegation_id = Some(dlg.clone());
        let mut context = Self {
            now,
            jti: Uuid::parse_str(jti).map_err(|_| Refusal::AccessTokenInvalid)?,
            search: DelegationSearch::Exactly(dlg.clone()),
            client,
            token,
            key,
            event,
            recorded,
            single_use_ids: Vec::new(),
            proved_keys,
            is_authenticated: false,
            path: Arc::default(),
            place: None,
            freshness: Freshness::Fresh,
            memory,
        };
        context.find_path(app).await?;
        Ok(context)
    }

    /// Adds ids that the next entry uses up, whatever the decision is.
    pub(super) fn add_single_use_ids(&mut self, single_use_ids: Vec<SingleUseId>) {
        self.single_use_ids.extend(single_use_ids);
    }

    /// The client has authenticated itself, and has proven these keys beside that of its proof.
    pub(super) fn authenticated_by(&mut self, proved_keys: BTreeSet<ProvenClientKey>) {
        self.proved_keys.extend(proved_keys);
        self.is_authenticated = true;
    }

    /// Refuses before any credential is opened, and records the refusal.
    pub(super) async fn refuse(&mut self, app: &App, named: &str, refusal: Refusal) -> Error {
        self.name(named);
        for _ in 0..ATTEMPTS {
            match app.ledger.record(self.entry(Err(refusal))).await {
                Ok(CommitOutcome::Retry) => {}
                Ok(_) => return refusal.into(),
                Err(problem) => {
                    return Fault::new(format!("the ledger is not available: {problem:?}")).into();
                }
            }
            if let Err(stop) = self.suspend_unpinned(app).await {
                return stop.into();
            }
        }
        too_many_attempts()
    }

    /// Records the requested id only if it has the form of one that this server makes.
    fn name(&mut self, named: &str) {
        self.event.target = is_made_here(named).then(|| named.to_owned());
    }

    /// Opens a connection and records the retrieval, or records the refusal. Repeats a decision whose data has changed.
    pub(super) async fn retrieve(
        &mut self,
        app: &Arc<App>,
        named: &str,
        purpose: RetrievalPurpose<'_>,
    ) -> Result<Arc<OpenedConnection>, Error> {
        for _ in 0..ATTEMPTS {
            if let Some(opened) = self.attempt(app, named, purpose).await? {
                return Ok(opened);
            }
            let client = client_authentication::find_stored(app, &self.client.client_id).await?;
            self.client = client.ok_or(Refusal::AccessTokenInvalid)?;
            self.find_path(app).await?;
        }
        Err(too_many_attempts())
    }

    /// One attempt; `None` if data that the decision rests on has changed. Client and path are then outdated.
    pub(super) async fn attempt(
        &mut self,
        app: &Arc<App>,
        named: &str,
        purpose: RetrievalPurpose<'_>,
    ) -> Result<Option<Arc<OpenedConnection>>, Error> {
        self.name(named);
        let decided = match self.decide(app, named, purpose).await {
            Ok(LedgerDecision::Granted(opened)) => Ok(opened),
            Ok(LedgerDecision::Outdated) => return self.forget(app, named).await,
            Ok(LedgerDecision::Recorded(refusal)) => return Err(refusal.into()),
            Err(Error::Refused(refusal)) => Err(refusal),
            Err(failed) => return Err(failed),
        };
        // The provider request may have taken long: a token that expired meanwhile is refused.
        self.now = app.clock.now();
        let valid = self.token.validity.is_valid_at(self.now);
        let decided =
            decided.and_then(|opened| if valid { Ok(opened) } else { Err(Refusal::AccessTokenInvalid) });
        let entry = self.entry(decided.as_deref().map_err(|refusal| *refusal));
        let recorded = app.ledger.record(entry).await;
        match recorded.map_err(|problem| Fault::new(format!("the ledger is not available: {problem:?}")))? {
            CommitOutcome::Committed(committed) => {
                self.place = committed.place;
                return decided.map(Some).map_err(Error::Refused);
            }
            CommitOutcome::Rejected(refusal) => return Err(refusal.into()),
            CommitOutcome::Retry => {}
        }
        self.forget(app, named).await
    }

    /// Suspends standing grants that do not pin a proven key. Who has nothing but a revoked token is not the agent.
    async fn suspend_unpinned(&mut self, app: &App) -> Result<(), Fault> {
        if !self.is_authenticated && !standing::is_valid(app, self.jti, self.now).await? {
            self.proved_keys.clear();
        }
        standing_grants::suspend_unpinned(&app.pool, &self.event.origin, &self.proved_keys, self.now).await
    }

    /// Prepares another attempt, which reads what it rests on. Ids recorded as used stay used.
    async fn forget(&mut self, app: &App, named: &str) -> Result<Option<Arc<OpenedConnection>>, Error> {
        self.suspend_unpinned(app).await?;
        self.single_use_ids.clear();
        self.memory = Memory::Outdated;
        app.caches.clients.invalidate(&self.client.client_id);
        app.caches.paths.invalidate(&self.search);
        app.vault.opened.invalidate(named);
        Ok(None)
    }

    /// The connection to answer with.
    async fn decide(
        &mut self,
        app: &Arc<App>,
        named: &str,
        purpose: RetrievalPurpose<'_>,
    ) -> Result<LedgerDecision<Arc<OpenedConnection>>, Error> {
        // The subject follows from the cached registry, and the path from the database: they have to agree.
        let root = self.path.first().and_then(DelegationPath::leaf).map(|leaf| &leaf.root);
        if root.is_some_and(|root| *root != self.token.subject) {
            return Err(Refusal::AccessTokenInvalid.into());
        }
        let token = Arc::clone(&self.token);
        let details = purpose.details_of(&token, named);
        if details.is_empty() || !self.client.detail_types.contains(VAULT_DETAIL) {
            return Err(Refusal::ConnectionMissing.into());
        }
        if exchanged::is_provider_name(named) {
            return self.exchange(app, named, &details, purpose).await;
        }
        let opened = match app.vault.opened.get(named).filter(|_| self.memory == Memory::Usable) {
            // A cached connection is enough to grant, because the ledger checks again. A refusal needs a read.
            Some(opened)
                if opened.connection.delegation_id.is_none()
                    && purpose.authorize(&opened, &self.token.subject, &details).is_ok() =>
            {
                opened
            }
            _ => self.open(app, named).await?,
        };
        purpose.authorize(&opened, &self.token.subject, &details)?;
        let rejected = purpose.rejected().is_some_and(|digest| opened.credential.has_access_token(digest));
        let leeway = time::Duration::seconds(app.config.vault.refresh_leeway.into());
        if !rejected && !opened.connection.is_due(self.now, leeway) {
            return Ok(LedgerDecision::Granted(opened));
        }
        // No request is sent to the provider for a token that is not active. The ledger checks again.
        standing::check(app, self.jti, self.now).await?;
        let opened = if rejected {
            refresh::reject(app, &opened.connection, self.now).await?;
            self.open(app, named).await?
        } else {
            opened
        };
        let opened = refresh::fresh(app, opened, self.now).await?;
        purpose.authorize(&opened, &self.token.subject, &details)?;
        Ok(LedgerDecision::Granted(opened))
    }

    /// The connection with a token that a provider issues in exchange for one of the chain. The details name the provider.
    async fn exchange(
        &mut self,
        app: &Arc<App>,
        named: &str,
        details: &[&Detail],
        purpose: RetrievalPurpose<'_>,
    ) -> Result<LedgerDecision<Arc<OpenedConnection>>, Error> {
        let provider = delegated::find_provider(app, named).await?;
        self.event.target = Some(provider.provider.id.clone());
        let details = purpose.allowed_by(details, &provider.provider.settings.placement)?;
        let requested =
            details.iter().find_map(|detail| Some((detail, provider.provider.scopes_within(detail)?)));
        let (detail, scopes) = requested.ok_or(Refusal::ConnectionScopeExceeded)?;
        standing::check(app, self.jti, self.now).await?;
        let ends_at = self.path.iter().flat_map(|path| &path.0).map(|one| one.facts.expires_at).min();
        let order = ExchangeOrder {
            token: Arc::clone(&self.token),
            client_id: self.client.client_id.clone(),
            ends_at: ends_at.unwrap_or(self.token.validity.expires_at),
            event: self.event.clone(),
            guards: self.guards(),
            provider,
            scopes,
            rejected: purpose.rejected().copied(),
            memory: self.memory,
            now: self.now,
        };
        let obtained = delegated::obtain(app, &order, &mut self.single_use_ids).await?;
        if let LedgerDecision::Granted(opened) = &obtained {
            purpose.authorize(opened, &self.token.subject, &[detail])?;
        }
        Ok(obtained)
    }

    async fn open(&self, app: &App, named: &str) -> Result<Arc<OpenedConnection>, Error> {
        let opened = app
            .read(async |connection| match vault::store::find(connection, named).await? {
                Some(found) if found.owner == self.token.subject && found.delegation_id.is_none() => {
                    let state = found.state();
                    Ok(Some((app.vault.open_found(connection, found).await?, state)))
                }
                _ => Ok(None),
            })
            .await?;
        match opened {
            None => Err(Refusal::NotFound.into()),
            Some((Some(opened), ConnectionState::Active)) => {
                app.vault.opened.insert(named.to_owned(), Arc::clone(&opened));
                Ok(opened)
            }
            Some((_, state)) => Err(Refusal::ConnectionUnusable(state).into()),
        }
    }

    /// Finds the delegation of the token with its ancestors. A cached path is enough to grant, because the ledger
    /// checks again.
    async fn find_path(&mut self, app: &App) -> Result<(), Fault> {
        let KnownPath { found, freshness } =
            known_path::find(app, &self.search, self.memory, self.now).await?;
        (self.path, self.freshness) = (found, freshness);
        let ids = self.path.first().map(DelegationPath::ids);
        self.event.delegation_path = ids.unwrap_or_default();
        self.event.standing_grant_id = self.path.first().and_then(DelegationPath::standing_grant_id);
        Ok(())
    }

    fn entry(&mut self, decided: Result<&OpenedConnection, Refusal>) -> Entry {
        let single_use_ids = std::mem::take(&mut self.single_use_ids);
        let mut entry = Entry { single_use_ids, ..Entry::at(self.now) };
        match decided {
            Err(refusal) => {
                let kind = self.recorded.clone().refused(refusal);
                entry.event = Some(Event { kind, reason: Some(refusal.reason()), ..self.event.clone() });
                entry.guards.proved_keys.clone_from(&self.proved_keys);
            }
            Ok(opened) => {
                let one = &opened.connection;
                let kind = self.recorded.clone().granted(opened);
                entry.event = Some(Event { kind, target: Some(one.id.clone()), ..self.event.clone() });
                entry.write = Write::Retrieval;
                let versions = (one.version, opened.provider.provider.version);
                entry.guards = Guards { connection: Some((one.id.clone(), versions)), ..self.guards() };
            }
        }
        entry
    }

    /// What a retrieval relies on, apart from the connection.
    fn guards(&self) -> Guards {
        let ephemeral = self.client.ephemeral.iter();
        let mut path = self.event.delegation_path.clone();
        // A delegation that no longer exists grants nothing.
        if path.is_empty() {
            path.extend(self.event.delegation_id.clone());
        }
        Guards {
            client: Some((self.client.client_id.clone(), self.client.version)),
            earlier_actors: self.earlier_actors(),
            path,
            ephemeral_delegation: ephemeral.map(|agent| agent.delegation_id.clone()).collect(),
            tokens: vec![self.jti],
            proved_keys: self.proved_keys.clone(),
            freshness: self.freshness,
            ..Guards::default()
        }
    }

    fn earlier_actors(&self) -> Vec<String> {
        // The token is of this server, and so is its newest actor. Actors of other issuers are no clients.
        let newest = self.token.act.as_ref();
        let acts = newest.into_iter().flat_map(Act::newest_first);
        let clients = acts.filter(|act| newest.is_some_and(|newest| newest.iss == act.iss));
        clients.map(|act| act.sub.clone()).filter(|id| *id != self.client.client_id).collect()
    }
}
