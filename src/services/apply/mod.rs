//! Applies a manifest: computes a plan and carries it out in one transaction. A declared entry becomes as declared,
//! an absent member gets its default, and an undeclared entry stays unchanged.

mod change;
mod client;
mod declared;
mod delegation;
mod plan;
mod registry;
pub(super) mod view;

use std::collections::BTreeSet;

use sqlx::PgConnection;

pub use self::change::{Change, Line, MemberChange, SecretChange, differences};
pub use self::declared::DeclarationResult;
pub use self::plan::ApplyOutcome;
use self::plan::Plan;
pub use self::view::{Members, provider as provider_members};
use super::manifest::DelegationDeclaration;
pub use super::manifest::{Manifest, read_all};
use super::request_context::RequestContext;
use super::sinks;
use super::transaction::{AuditedTransaction, Authorized};
use super::vault::{ResolvedProvider, prepare_all, put_provider};
use crate::domain::audit::{Event, EventKind};
use crate::domain::registry::store as registry_store;
use crate::domain::vault::credential_cache::CredentialCache;
use crate::domain::{client as clients, delegation as delegations};
use crate::platform::fault::Fault;
use crate::platform::outbound::Outbound;

/// Whether the plan is carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    Apply,
    DryRun,
}

/// A manifest to apply, with options.
#[derive(Debug)]
pub struct ApplyRequest {
    pub manifest: Manifest,
    /// Whether the plan is carried out.
    pub mode: Mode,
    /// Ids of clients that may lose their kind or their credentials.
    pub replace: BTreeSet<String>,
}

impl ApplyRequest {
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
    request: ApplyRequest,
) -> Result<ApplyOutcome, Fault> {
    let ApplyRequest { manifest, mode, replace } = request;
    let declared: BTreeSet<&String> = manifest.clients.iter().map(|client| &client.id).collect();
    if let Some(id) = replace.iter().find(|id| !declared.contains(id)) {
        return Err(Fault::new(format!("--replace {id}: no client of this id is declared")));
    }
    let providers = prepare_all(ctx.pool, vault, manifest.providers, ctx.now).await?;
    sinks::prepare(ctx.pool, vault, &manifest.sinks, ctx.now).await?;
    let mut work = AuditedTransaction::begin_serialized(ctx.pool).await?;
    let registry = registry_store::load(ctx.rows, work.connection(), ctx.issuer).await?;
    let mut plan = Plan {
        ctx,
        outbound: Outbound::configured(ctx.config, ctx.now)?,
        replace,
        registry,
        known_clients: clients::store::lasting(work.connection()).await?.into_iter().collect(),
        events: Vec::new(),
        outcome: ApplyOutcome::default(),
    };
    plan.known_clients.extend(manifest.clients.iter().map(|client| client.id.clone()));
    // Clients, delegations, registry: every transaction locks rows in this order.
    let changed = plan.note_registry(manifest.issuers, manifest.resources)?;
    // Slow work, such as hashing, precedes the first lock of a row: exchanges wait for these locks.
    let mut changed_clients = Vec::new();
    for declared in manifest.clients {
        changed_clients.extend(plan.client(work.connection(), declared).await?);
    }
    let changed_clients = client::in_order(changed_clients);
    // A new delegation rests on the delegations above it, which must not change until the commit.
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
        registry_store::raise_version(work.connection()).await?;
    }
    if mode == Mode::Apply && !plan.events.is_empty() {
        work.commit(&plan.events).await?;
    }
    Ok(plan.outcome)
}

impl Plan<'_> {
    async fn provider(
        &mut self,
        at: &mut PgConnection,
        vault: &CredentialCache,
        one: &ResolvedProvider,
    ) -> Result<(), Fault> {
        let members = put_provider(at, &vault.keys, one, self.ctx.now).await?;
        self.line(Line::of("provider", &one.id, members), |change| EventKind::ProviderChanged { change });
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
        let line = Line { note: put.note.clone(), ..Line::of("sink", &one.id, put.members.clone()) };
        self.line(line, |change| put.event(change));
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
        let terms = read.wanted.recorded_terms();
        self.events.push(Event {
            target: Some(read.wanted.id),
            ..Event::of_delegation(
                self.ctx.now,
                EventKind::DelegationCreated { terms, expires_in: None, reason: None, agent: None },
                self.ctx.caller.actor(),
                &path,
                self.ctx.issuer,
            )
        });
        Ok(())
    }
}
