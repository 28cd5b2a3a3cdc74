//! Declaring what should be there: computes a plan, and carries it out in one transaction or not at all. What is there
//! already stays; what is not declared is left alone.

use std::collections::BTreeSet;

use secrecy::{ExposeSecret, SecretString};
use serde::Serialize;
use serde_json::json;
use sqlx::PgConnection;
use sqlx::postgres::PgPool;
use time::OffsetDateTime;

use super::clients::hash_blocking;
pub use super::declaration::read_all;
use super::declaration::{ClientDeclaration, Declaration, DelegationDeclaration};
use super::declared_client::{check_removed_keys, removed_keys, same_client};
use super::declared_delegation::{self, Known};
use super::sinks;
use super::vault::{Ready, prepare_all, put_provider};
use super::work::{Authorized, Work};
use crate::domain::audit::{Action, Event};
use crate::domain::capability::Ladder;
use crate::domain::client::{self, Client, StoredSecret, usable_keys};
use crate::domain::delegation::{self, State};
use crate::domain::registry::{self, Registry};
use crate::domain::vault::held::Vault;
use crate::platform::fault::{During, Fault};
use crate::platform::outbound::{Outbound, Reach};
use crate::platform::{password, random, secret};

/// What one line of a plan does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    /// It was not there.
    Create,
    /// It was there, but different.
    Update,
    /// It is as declared.
    Keep,
}

/// One line of a plan.
#[derive(Debug, Clone, Serialize)]
pub struct Line {
    /// What is done.
    pub change: Change,
    /// `issuer`, `resource`, `client`, `provider`, `sink` or `delegation`.
    pub kind: &'static str,
    /// Which one.
    pub id: String,
    /// More, for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// What was, or would be, done.
#[derive(Debug, Default)]
pub struct Outcome {
    /// The plan.
    pub lines: Vec<Line>,
    /// Secrets that were made for clients and sinks that came without one; nobody can read them again.
    pub secrets: Vec<(String, SecretString)>,
}

/// Whether a plan is carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// It is.
    Carry,
    /// It is only shown.
    DryRun,
}

/// Applies a declaration.
///
/// # Errors
/// A fault that names the first thing that cannot be; then nothing was changed.
pub async fn apply(
    pool: &PgPool,
    (own_issuer, ladder, vault): (&str, &Ladder, Option<&Vault>),
    (declaration, mode): (Declaration, Mode),
    now: OffsetDateTime,
) -> Result<Outcome, Fault> {
    let providers = prepare_all(pool, vault, declaration.providers, now).await?;
    sinks::prepare(pool, vault, &declaration.sinks, now).await?;
    let mut work = Work::alone(pool).await?;
    let registry = registry::store::load(work.connection(), own_issuer).await?;
    let mut plan = Plan {
        own_issuer,
        ladder,
        outbound: Outbound::new(Reach::of_issuer(own_issuer))?,
        now,
        registry,
        known_clients: BTreeSet::new(),
        events: Vec::new(),
        outcome: Outcome::default(),
    };
    plan.known_clients = client::store::lasting(work.connection()).await?.into_iter().collect();
    plan.known_clients.extend(declaration.clients.iter().map(|client| client.id.clone()));
    // Clients first, delegations next, the registry last: the order in which everybody locks.
    let (issuers, resources) = (declaration.issuers, declaration.resources);
    let changed = plan.note_registry(issuers, resources)?;
    // Everything slow, such as hashing, comes before the first row is locked: exchanges wait for those.
    let mut clients = Vec::new();
    for declared in declaration.clients {
        clients.extend(plan.client(work.connection(), declared).await?);
    }
    clients.sort_by(|(left, _): &Changed, (right, _)| left.client_id.cmp(&right.client_id));
    if !clients.is_empty() || !changed.is_empty() || !providers.is_empty() {
        work.close_gate(Authorized::without_request()).await?;
    }
    for (client, removed) in &clients {
        client::store::put(work.connection(), client, now).await?;
        client::store::put_removed_keys(work.connection(), &client.client_id, removed, now).await?;
    }
    for (vault, one) in vault.iter().flat_map(|vault| providers.iter().map(move |one| (vault, one))) {
        plan.provider(work.connection(), vault, one).await?;
    }
    for (vault, one) in vault.iter().flat_map(|vault| declaration.sinks.iter().map(move |one| (vault, one))) {
        plan.sink(work.connection(), vault, one).await?;
    }
    for declared in declaration.delegations {
        plan.delegation(work.connection(), declared).await?;
    }
    plan.write_registry(work.connection(), &changed).await?;
    if !changed.is_empty() || !clients.is_empty() {
        registry::store::raise_version(work.connection()).await?;
    }
    if mode == Mode::Carry && !plan.events.is_empty() {
        work.commit(&plan.events).await?;
    }
    Ok(plan.outcome)
}

/// A client as it will be, and the keys that it had and will not have.
type Changed = (Client, Vec<String>);

struct Plan<'a> {
    own_issuer: &'a str,
    ladder: &'a Ladder,
    outbound: Outbound,
    now: OffsetDateTime,
    /// As it will be.
    registry: Registry,
    known_clients: BTreeSet<String>,
    events: Vec<Event>,
    outcome: Outcome,
}

/// What of the registry has to be written.
#[derive(Default)]
struct RegistryChanges {
    issuers: Vec<String>,
    resources: Vec<String>,
}

impl RegistryChanges {
    fn is_empty(&self) -> bool {
        self.issuers.is_empty() && self.resources.is_empty()
    }
}

impl Plan<'_> {
    fn line(&mut self, change: Change, kind: &'static str, id: &str) {
        self.outcome.lines.push(Line { change, kind, id: id.to_owned(), note: None });
    }

    fn event(&mut self, action: Action, target: &str, change: Change) {
        let mut event = Event::of_operator(self.now, action, target);
        event.detail = Some(json!({"change": change}));
        self.events.push(event);
    }

    fn note_registry(
        &mut self,
        issuers: Vec<super::declared_issuer::IssuerDeclaration>,
        resources: Vec<super::declaration::ResourceDeclaration>,
    ) -> Result<RegistryChanges, Fault> {
        let mut changes = RegistryChanges::default();
        for declared in issuers {
            let issuer = declared.read(self.own_issuer, &self.outbound)?;
            let old = self.registry.issuers.get(&issuer.iss);
            let issuer = issuer.instead_of(old, self.now);
            let change = change_of(old.map(|old| old.says_the_same(&issuer)));
            self.line(change, "issuer", &issuer.iss);
            if change != Change::Keep {
                self.event(Action::IssuerChanged, &issuer.iss, change);
                changes.issuers.push(issuer.iss.clone());
            }
            self.registry.issuers.insert(issuer.iss.clone(), issuer);
        }
        self.registry.check_subject_forms()?;
        for declared in resources {
            let resource = declared.read(self.own_issuer)?;
            // One name, one meaning (standards TE-06).
            if self.known_clients.contains(&resource.id) || self.registry.issuers.contains_key(&resource.id) {
                return Err(Fault::new(format!(
                    "resource {}: a client or an issuer has this name",
                    resource.id
                )));
            }
            let change = change_of(self.registry.resources.get(&resource.id).map(|old| *old == resource));
            self.line(change, "resource", &resource.id);
            if change != Change::Keep {
                self.event(Action::ResourceChanged, &resource.id, change);
                changes.resources.push(resource.id.clone());
            }
            self.registry.resources.insert(resource.id.clone(), resource);
        }
        Ok(changes)
    }

    async fn write_registry(
        &mut self,
        connection: &mut PgConnection,
        changes: &RegistryChanges,
    ) -> Result<(), Fault> {
        for issuer in changes.issuers.iter().filter_map(|iss| self.registry.issuers.get(iss)) {
            registry::store::put_issuer(connection, issuer).await?;
        }
        for resource in changes.resources.iter().filter_map(|id| self.registry.resources.get(id)) {
            registry::store::put_resource(connection, resource).await?;
        }
        Ok(())
    }

    /// What has to be written of a client, if anything has.
    async fn client(
        &mut self,
        connection: &mut PgConnection,
        declared: ClientDeclaration,
    ) -> Result<Option<Changed>, Fault> {
        declared.check(&self.outbound)?;
        let known = |name: &String| self.registry.resources.contains_key(name);
        if let Some(name) = declared.audiences.iter().find(|name| !known(name)) {
            return Err(Fault::new(format!("client {}: there is no resource {name}", declared.id)));
        }
        if self.registry.resources.contains_key(&declared.id) {
            return Err(Fault::new(format!("client {}: a resource has this name", declared.id)));
        }
        let old = client::store::find(connection, &declared.id).await?;
        if old.as_ref().is_some_and(|old| old.ephemeral.is_some()) {
            return Err(Fault::new(format!(
                "client {}: an agent that was made for one delegation is not declared, and never comes back",
                declared.id
            )));
        }
        let secrets = self.secrets(&declared, old.as_ref()).await?;
        let wanted = Client {
            version: 0,
            kind: declared.kind,
            name: declared.name.unwrap_or_else(|| declared.id.clone()),
            auth: declared.auth,
            secrets,
            keys: declared.jwks.as_ref().and_then(usable_keys).unwrap_or_default(),
            jwks: declared.jwks,
            jwks_uri: declared.jwks_uri,
            scopes: declared.scopes,
            audiences: declared.audiences,
            detail_types: declared.authorization_details_types,
            grant_types: declared.grant_types,
            dpop: declared.dpop,
            dpop_restricted: !declared.dpop_keys.is_empty(),
            dpop_keys: declared.dpop_keys,
            removed_keys: BTreeSet::new(),
            actor_subjects: declared.actor_subjects,
            max_token_ttl: declared.max_token_ttl,
            disabled_at: old.as_ref().and_then(|old| old.disabled_at),
            ephemeral: None,
            client_id: declared.id,
        };
        old.as_ref().map_or(Ok(()), |old| check_removed_keys(old, &wanted))?;
        let change = change_of(old.as_ref().map(|old| same_client(old, &wanted)));
        self.line(change, "client", &wanted.client_id);
        if change == Change::Keep {
            return Ok(None);
        }
        self.event(Action::ClientChanged, &wanted.client_id, change);
        let removed: Vec<String> = old.map(|old| removed_keys(&old, &wanted)).unwrap_or_default();
        if let (false, Some(event)) = (removed.is_empty(), self.events.last_mut()) {
            event.detail = Some(json!({"change": change, "removed_keys": removed}));
        }
        Ok(Some((wanted, removed)))
    }

    /// The secrets as they will be: those there are, if the declared one is among them or none is declared; else the
    /// declared one; else a new one, which is told once.
    async fn secrets(
        &mut self,
        declared: &ClientDeclaration,
        old: Option<&Client>,
    ) -> Result<Vec<StoredSecret>, Fault> {
        if !declared.auth.uses_secret() {
            return Ok(Vec::new());
        }
        let present = old.map(|old| old.secrets.clone()).unwrap_or_default();
        let given = match (&declared.secret, &declared.secret_file) {
            (Some(secret), _) => Some(secret.clone()),
            (None, Some(path)) => Some(secret::read_file(path)?),
            (None, None) if !present.is_empty() => return Ok(present),
            (None, None) => None,
        };
        let secret = match given {
            Some(secret) if secret.expose_secret().len() < 16 => {
                return Err(Fault::new(format!(
                    "client {}: the secret is shorter than 16 bytes",
                    declared.id
                )));
            }
            Some(secret) => {
                let hashes = old.map(|old| old.live_secret_hashes(self.now)).unwrap_or_default();
                if !hashes.is_empty() && password::verify_blocking(secret.clone(), hashes).await? {
                    return Ok(present);
                }
                secret
            }
            None => {
                let made = SecretString::from(random::token()?);
                self.outcome.secrets.push((declared.id.clone(), made.clone()));
                made
            }
        };
        Ok(vec![StoredSecret { hash: hash_blocking(secret).await?, expires_at: None }])
    }

    async fn provider(&mut self, at: &mut PgConnection, vault: &Vault, one: &Ready) -> Result<(), Fault> {
        let change = put_provider(at, &vault.keys, one, self.now).await?;
        self.line(change, "provider", &one.id);
        if change != Change::Keep {
            self.event(Action::ProviderChanged, &one.id, change);
        }
        Ok(())
    }

    async fn sink(
        &mut self,
        connection: &mut PgConnection,
        vault: &Vault,
        one: &sinks::SinkDeclaration,
    ) -> Result<(), Fault> {
        let put = sinks::put(connection, vault, one, self.now).await.map_err(sinks::Unusable::fault)?;
        self.line(put.change, "sink", &one.id);
        if put.change != Change::Keep {
            self.event(Action::SinkChanged, &one.id, put.change);
        }
        self.outcome.secrets.extend(put.made.map(|secret| (one.id.clone(), secret)));
        Ok(())
    }

    async fn delegation(
        &mut self,
        connection: &mut PgConnection,
        declared: DelegationDeclaration,
    ) -> Result<(), Fault> {
        let known = Known {
            own_issuer: self.own_issuer,
            now: self.now,
            registry: &self.registry,
            clients: &self.known_clients,
            ladder: self.ladder,
        };
        let declared_delegation::Read { wanted, note } =
            declared_delegation::read(connection, &known, declared).await?;
        let what = format!("delegation {}", wanted.id);
        if let Some(old) = delegation::store::find(connection, &wanted.id).await? {
            if !old.same_terms(&wanted) {
                return Err(Fault::new(format!(
                    "{what} is there with other terms, which do not change once given: revoke it and declare another"
                )));
            }
            self.line(Change::Keep, "delegation", &wanted.id);
            let state = old.facts.state(self.now);
            if let (true, Some(line)) = (state != State::Active, self.outcome.lines.last_mut()) {
                let state = serde_json::to_value(state).during("naming a state")?;
                line.note = state.as_str().map(|state| format!("{state}, and stays so"));
            }
            return Ok(());
        }
        if !delegation::moves::insert(connection, &wanted).await? {
            return Err(Fault::new(format!("{what} appeared meanwhile; apply again")));
        }
        let id = wanted.id.clone();
        self.outcome.lines.push(Line { change: Change::Create, kind: "delegation", id, note });
        let event = declared_delegation::created(connection, &known, wanted).await?;
        self.events.push(event);
        Ok(())
    }
}

fn change_of(same: Option<bool>) -> Change {
    match same {
        None => Change::Create,
        Some(false) => Change::Update,
        Some(true) => Change::Keep,
    }
}
