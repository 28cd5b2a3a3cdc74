//! Applies a manifest: computes a plan and carries it out in one transaction. A declared entry becomes as declared,
//! an absent member gets its default, and an undeclared entry stays unchanged.

mod change;
mod client;
mod declared;
mod delegation;
pub(super) mod view;

use std::collections::BTreeSet;

use secrecy::SecretString;
use serde_json::json;
use sqlx::PgConnection;

pub use self::change::{Change, Line, MemberChange, SecretChange, differences};
pub use self::declared::DeclarationResult;
pub use self::view::{Members, provider as provider_members};
use super::manifest::{DelegationDeclaration, IssuerDeclaration, Manifest, ResourceDeclaration};
pub use super::manifest::{read_all, schema};
use super::request_context::RequestContext;
use super::sinks;
use super::transaction::{AuditedTransaction, Authorized};
use super::vault::{ResolvedProvider, prepare_all, put_provider};
use crate::domain::audit::{Action, Actor, Event};
use crate::domain::registry::{self, Registry, SubjectFormClash};
use crate::domain::vault::credential_cache::CredentialCache;
use crate::domain::{client as clients, delegation as delegations};
use crate::platform::fault::Fault;
use crate::platform::outbound::{AddressPolicy, Outbound};
use crate::platform::yaml::Place;

/// Result of a plan, carried out or not.
#[derive(Debug, Default)]
pub struct Outcome {
    pub lines: Vec<Line>,
    /// Secrets generated for clients and sinks without a declared secret; they cannot be read again.
    pub secrets: Vec<(String, SecretString)>,
}

/// Whether the plan is carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    Apply,
    /// It is only shown.
    DryRun,
}

/// A manifest to apply, with options.
#[derive(Debug)]
pub struct Request {
    /// The manifest.
    pub manifest: Manifest,
    /// Whether the plan is carried out.
    pub mode: Mode,
    /// Ids of clients that may lose their kind or their credentials.
    pub replace: BTreeSet<String>,
}

impl Request {
    /// Applies a manifest as it is.
    pub fn apply_all(manifest: Manifest) -> Self {
        Self { manifest, mode: Mode::Apply, replace: BTreeSet::new() }
    }
}

/// Applies a manifest as an operator.
///
/// # Errors
/// A fault with the place and the reason of the first error; nothing is changed then.
pub async fn apply(
    ctx: &RequestContext<'_>,
    vault: Option<&CredentialCache>,
    request: Request,
) -> Result<Outcome, Fault> {
    let Request { manifest, mode, replace } = request;
    let declared: BTreeSet<&String> = manifest.clients.iter().map(|client| &client.id).collect();
    if let Some(id) = replace.iter().find(|id| !declared.contains(id)) {
        return Err(Fault::new(format!("--replace {id}: no client of this id is declared")));
    }
    let providers = prepare_all(ctx.pool, vault, manifest.providers, ctx.now).await?;
    sinks::prepare(ctx.pool, vault, &manifest.sinks, ctx.now).await?;
    let mut work = AuditedTransaction::begin_serialized(ctx.pool).await?;
    let registry = registry::store::load(ctx.rows, work.connection(), ctx.issuer).await?;
    let mut plan = Plan {
        ctx,
        outbound: Outbound::new(AddressPolicy::of_issuer(ctx.issuer))?,
        replace,
        registry,
        known_clients: clients::store::lasting(work.connection()).await?.into_iter().collect(),
        events: Vec::new(),
        outcome: Outcome::default(),
    };
    plan.known_clients.extend(manifest.clients.iter().map(|client| client.id.clone()));
    // Clients first, delegations next, the registry last: the order in which everything locks.
    let changed = plan.note_registry(manifest.issuers, manifest.resources)?;
    // Everything slow, such as hashing, comes before the first row is locked: exchanges wait for those.
    let mut changed_clients = Vec::new();
    for declared in manifest.clients {
        changed_clients.extend(plan.client(work.connection(), declared).await?);
    }
    let changed_clients = client::in_order(changed_clients);
    // Delegations add authority below others: what is read of those has to stay so until the commit.
    let adds = !manifest.delegations.is_empty();
    if !changed_clients.is_empty() || !changed.is_empty() || !providers.is_empty() || adds {
        work.upgrade(Authorized::without_request()).await?;
    }
    for (id, one) in &changed_clients {
        clients::changes::put(ctx.rows, work.connection(), &one.client, ctx.now).await?;
        clients::changes::put_removed_keys(ctx.rows, work.connection(), id, &one.removed, ctx.now).await?;
    }
    for (vault, one) in vault.iter().flat_map(|vault| providers.iter().map(move |one| (vault, one))) {
        plan.provider(work.connection(), vault, one).await?;
    }
    for (vault, one) in vault.iter().flat_map(|vault| manifest.sinks.iter().map(move |one| (vault, one))) {
        plan.sink(work.connection(), vault, one).await?;
    }
    for declared in &manifest.delegations {
        plan.delegation(work.connection(), declared).await?;
    }
    plan.write_registry(work.connection(), &changed).await?;
    if !changed.is_empty() || !changed_clients.is_empty() {
        registry::store::raise_version(work.connection()).await?;
    }
    if mode == Mode::Apply && !plan.events.is_empty() {
        work.commit(&plan.events).await?;
    }
    Ok(plan.outcome)
}

struct Plan<'a> {
    ctx: &'a RequestContext<'a>,
    outbound: Outbound,
    replace: BTreeSet<String>,
    registry: Registry,
    known_clients: BTreeSet<String>,
    events: Vec<Event>,
    outcome: Outcome,
}

/// Registry entries to be written.
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

/// The change of a JWK Set that has the same keys with other members, such as another `kid`.
fn rewritten(member: &str, keys: usize) -> MemberChange {
    let to = json!(format!("{keys} same keys, other members"));
    MemberChange::Value { member: member.to_owned(), from: json!(format!("{keys} keys")), to }
}

/// The error at the last declared issuer of the conflict, with the place of the other issuer.
fn at_both_places(clash: &SubjectFormClash, places: &[(String, Place)]) -> Fault {
    let mut declared = places.iter().filter(|(iss, _)| clash.issuers.contains(iss)).rev();
    let Some((last, place)) = declared.next() else { return Fault::new(clash.to_string()) };
    let other = clash.issuers.iter().find(|iss| *iss != last).map_or("", String::as_str);
    let there = declared.next().map(|(_, place)| format!("is declared at {place}"));
    let there = there.unwrap_or_else(|| "was registered before".to_owned());
    place.fault(clash.member(), format!("{clash}; {other} {there}"))
}

impl Plan<'_> {
    /// Adds a line. Returns whether the entry has to be written.
    fn line(&mut self, line: Line, action: Action) -> bool {
        let (change, id) = (line.change, line.id.clone());
        self.outcome.lines.push(line);
        if change != Change::Unchanged {
            self.event(action, &id, change);
        }
        change != Change::Unchanged
    }

    fn event(&mut self, action: Action, target: &str, change: Change) {
        let mut event = Event::of_operator(self.ctx.now, action, target);
        event.detail = Some(json!({"change": change}));
        self.events.push(event);
    }

    fn note_registry(
        &mut self,
        issuers: Vec<IssuerDeclaration>,
        resources: Vec<ResourceDeclaration>,
    ) -> Result<RegistryChanges, Fault> {
        let mut changes = RegistryChanges::default();
        let mut places = Vec::new();
        for declared in issuers {
            let place = declared.place.clone();
            places.push((declared.iss.clone(), place.clone()));
            let issuer = declared.read(self.ctx.issuer, &self.outbound)?;
            if self.known_clients.contains(&issuer.iss) || self.registry.resources.contains_key(&issuer.iss) {
                return Err(place.fault("iss", "a client or a resource has this name"));
            }
            let old = self.registry.issuers.get(&issuer.iss);
            let issuer = issuer.instead_of(old, self.ctx.now);
            let members = old.map(|old| {
                let (before, after) = (view::issuer(old), view::issuer(&issuer));
                let mut members = differences(&before, &after);
                if before.get("jwks") == after.get("jwks") && old.jwks != issuer.jwks {
                    members.push(rewritten("jwks", issuer.keys.len()));
                }
                members
            });
            if self.line(Line::of("issuer", &issuer.iss, members), Action::IssuerChanged) {
                changes.issuers.push(issuer.iss.clone());
            }
            self.registry.issuers.insert(issuer.iss.clone(), issuer);
        }
        self.registry.check_subject_forms().map_err(|clash| at_both_places(&clash, &places))?;
        for declared in resources {
            let place = declared.place.clone();
            let resource = declared.read(self.ctx.issuer)?;
            // `audience` and `sub` must not share names: each names another kind of thing.
            if self.known_clients.contains(&resource.id) || self.registry.issuers.contains_key(&resource.id) {
                return Err(place.fault("id", "a client or an issuer has this name"));
            }
            let old = self.registry.resources.get(&resource.id);
            let members = old.map(|old| differences(&view::resource(old), &view::resource(&resource)));
            if self.line(Line::of("resource", &resource.id, members), Action::ResourceChanged) {
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
            registry::store::put_issuer(self.ctx.rows, connection, issuer).await?;
        }
        for resource in changes.resources.iter().filter_map(|id| self.registry.resources.get(id)) {
            registry::store::put_resource(self.ctx.rows, connection, resource).await?;
        }
        Ok(())
    }

    async fn provider(
        &mut self,
        at: &mut PgConnection,
        vault: &CredentialCache,
        one: &ResolvedProvider,
    ) -> Result<(), Fault> {
        let members = put_provider(at, &vault.keys, one, self.ctx.now).await?;
        self.line(Line::of("provider", &one.id, members), Action::ProviderChanged);
        Ok(())
    }

    async fn sink(
        &mut self,
        connection: &mut PgConnection,
        vault: &CredentialCache,
        one: &sinks::SinkDeclaration,
    ) -> Result<(), Fault> {
        let put = sinks::put(connection, vault, one, self.ctx.now).await;
        let put = put.map_err(|why| one.place.whole(why.fault()))?;
        let line = Line { note: put.note, ..Line::of("sink", &one.id, put.members) };
        self.line(line, Action::SinkChanged);
        self.outcome.secrets.extend(put.made.map(|secret| (one.id.clone(), secret)));
        Ok(())
    }

    async fn delegation(
        &mut self,
        connection: &mut PgConnection,
        declared: &DelegationDeclaration,
    ) -> Result<(), Fault> {
        let known =
            delegation::Known { ctx: self.ctx, registry: &self.registry, clients: &self.known_clients };
        let read = delegation::read(connection, &known, declared).await?;
        let line = Line::new(Change::Unchanged, "delegation", &declared.id);
        if let Some(old) = &read.old {
            self.outcome.lines.push(Line { warning: delegation::warning(old, self.ctx.now), ..line });
            return Ok(());
        }
        if !delegations::transitions::insert(self.ctx.rows, connection, &read.wanted).await? {
            return Err(declared.place.whole("a delegation of this id appeared meanwhile; apply again"));
        }
        self.outcome.lines.push(Line { change: Change::Create, note: read.note, ..line });
        let path = delegations::store::path(self.ctx.rows, connection, &declared.id).await?;
        let path = path.ok_or_else(|| declared.place.whole("the new delegation cannot be read again"))?;
        self.events.push(Event {
            detail: Some(read.wanted.recorded_terms().into()),
            target: Some(read.wanted.id),
            ..Event::of_delegation(
                self.ctx.now,
                Action::DelegationCreated,
                Actor::operator(),
                &path,
                self.ctx.issuer,
            )
        });
        Ok(())
    }
}
