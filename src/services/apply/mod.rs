//! Applies a manifest: computes a plan and carries it out in one transaction. A declared entry becomes as declared,
//! an absent member gets its default, and an undeclared entry stays unchanged.

mod change;
mod client;
mod declared;
mod delegation;
mod discovery;
mod error;
mod export;
mod plan;
mod registry;
mod rules;
mod submitted;
mod version;
pub(super) mod view;

use std::collections::BTreeSet;

use sqlx::PgConnection;

pub use self::change::{Change, EntryKind, Line, MemberChange, SecretChange, differences};
pub use self::declared::DeclarationResult;
use self::discovery::FoundMetadata;
pub use self::error::ApplyError;
pub use self::export::{ExportedManifest, ManifestExport, export, export_entry};
use self::plan::Plan;
pub use self::plan::{ApplyOutcome, ApplyReport, GeneratedSecret, Mode, ShownSecret};
use self::rules::DeclaredOff;
pub use self::submitted::{ManifestFormat, SubmittedManifest, apply_submitted, plan_only};
pub use self::view::{Members, provider as provider_members};
use super::manifest::DelegationDeclaration;
pub use super::manifest::{Manifest, read_all};
use super::registrars;
use super::request_context::RequestContext;
use super::sinks::{self, InvalidSink};
use super::transaction::{AuditedTransaction, Authorized};
use super::transition::Reply;
use super::vault::{OWN_AUDIENCE, ResolvedProvider, prepare_all, put_provider};
use crate::domain::audit::{Event, EventKind};
use crate::domain::client::Client;
use crate::domain::refusal::{Error, Refusal};
use crate::domain::registry::store as registry_store;
use crate::domain::vault::credential_cache::CredentialCache;
use crate::domain::{client as clients, delegation as delegations};
use crate::platform::fault::Fault;
use crate::platform::outbound::Outbound;
use crate::platform::yaml::InvalidDeclaration;

/// A manifest to apply, with options.
#[derive(Debug)]
pub struct ApplyRequest {
    pub manifest: Manifest,
    /// Whether the plan is carried out.
    pub mode: Mode,
    /// Ids of clients that may lose their kind or their credentials.
    pub replace: BTreeSet<String>,
    /// The versions on which the manifest may be applied; any version where absent.
    pub expected: Option<BTreeSet<String>>,
}

impl ApplyRequest {
    /// Applies a manifest as it is.
    pub fn apply_all(manifest: Manifest) -> Self {
        Self { manifest, mode: Mode::Apply, replace: BTreeSet::new(), expected: None }
    }

    /// Refuses names in `replace` that no client of the manifest has.
    fn check(&self) -> Result<(), InvalidDeclaration> {
        let declared: BTreeSet<&String> = self.manifest.clients.iter().map(|client| &client.id).collect();
        match self.replace.iter().find(|id| !declared.contains(id)) {
            Some(id) => {
                Err(InvalidDeclaration::new(format!("--replace {id}: no client of this id is declared")))
            }
            None => Ok(()),
        }
    }
}

/// Applies a manifest for a caller who administers. One manifest is applied at a time.
///
/// # Errors
/// The place and the reason of the first error, or a fault; nothing is changed then.
pub async fn apply(
    ctx: &RequestContext<'_>,
    vault: Option<&CredentialCache>,
    request: ApplyRequest,
) -> Result<Reply<ApplyOutcome>, ApplyError> {
    request.check()?;
    let ApplyRequest { mut manifest, mode, replace, expected } = request;
    let providers = prepare_all(ctx.pool, vault, std::mem::take(&mut manifest.providers), ctx.now).await?;
    sinks::prepare(ctx.pool, vault, &manifest.sinks, ctx.now).await?;
    let found = FoundMetadata::read(ctx, &manifest.issuers).await?;
    registrars::prepare(ctx.pool, vault, &manifest.registrars, ctx.now).await?;
    let mut work = AuditedTransaction::begin_serialized(ctx.pool).await?;
    let claim = async {
        match mode {
            Mode::Apply => ctx.authorize_and_claim(work.connection()).await,
            Mode::DryRun => ctx.require_active(work.connection()).await.map(|()| None),
        }
    };
    let (authorized, replay) = Authorized::by(claim).await?;
    if let Some(replay) = replay {
        return Ok(replay);
    }
    check_version(work.connection(), expected.as_ref()).await?;
    let mut plan = Plan::new(ctx, work.connection(), &manifest, mode, replace).await?;
    plan.seal = vault.map(|vault| vault.keys.master().clone());
    plan.check_audiences(work.connection(), &manifest.resources, &providers).await?;
    // Clients, delegations, registry: every transaction locks rows in this order.
    let changed = plan.note_issuers(manifest.issuers, found)?.with(plan.note_resources(manifest.resources)?);
    // Slow work, such as hashing, precedes the first lock of a row: exchanges wait for these locks.
    let mut changed_clients = Vec::new();
    for declared in manifest.clients {
        changed_clients.extend(plan.client(declared).await?);
    }
    let changed_clients = client::in_order(changed_clients);
    // A new delegation rests on the delegations above it, which must not change until the commit.
    let adds = !manifest.delegations.is_empty();
    let raises = !changed_clients.is_empty() || !changed.is_empty();
    if raises || !providers.is_empty() || adds {
        work.upgrade(authorized).await?;
        ctx.require_active(work.connection()).await?;
        check_version(work.connection(), expected.as_ref()).await?;
    }
    let put: Vec<&Client> = changed_clients.values().map(|one| &one.client).collect();
    // What was read before the lock may have changed since: a rotated secret must not come back.
    if !clients::changes::are_as_read(work.connection(), &put).await? {
        return Err(Refusal::ManifestChanged.into());
    }
    client::check_burnt_keys(work.connection(), &changed_clients).await?;
    clients::changes::put_all(ctx.rows, work.connection(), &put, ctx.now).await?;
    for (id, one) in &changed_clients {
        clients::changes::put_removed_keys(ctx.rows, work.connection(), id, &one.removed, ctx.now).await?;
    }
    for (vault, one) in vault.iter().flat_map(|vault| providers.iter().map(move |one| (vault, one))) {
        plan.provider(work.connection(), vault, one).await?;
    }
    for (vault, one) in vault.iter().flat_map(|vault| manifest.sinks.iter().map(move |one| (vault, one))) {
        plan.sink(work.connection(), vault, one).await?;
    }
    for (vault, one) in vault.iter().flat_map(|vault| manifest.registrars.iter().map(move |one| (vault, one)))
    {
        plan.registrar(work.connection(), vault, one).await?;
    }
    let mut new_delegations = false;
    for declared in &manifest.delegations {
        new_delegations |= plan.delegation(work.connection(), declared).await? == Change::Create;
    }
    let off = manifest.rules_off.map(|ids| DeclaredOff { ids, place: manifest.rules_off_place });
    plan.rules(work.connection(), manifest.rules, off).await?;
    plan.write_registry(work.connection(), &changed).await?;
    if raises || new_delegations {
        registry_store::raise_version(work.connection()).await?;
    }
    let Plan { events, mut outcome, .. } = plan;
    if mode == Mode::Apply && !events.is_empty() {
        ctx.store_result(work.connection(), &outcome).await?;
        work.commit(&events).await?;
    } else {
        // The secrets of a dry run are not stored, so they are not shown.
        outcome.secrets.clear();
        work.abandon().await?;
    }
    Ok(outcome.into())
}

async fn check_version(
    connection: &mut PgConnection,
    expected: Option<&BTreeSet<String>>,
) -> Result<(), Error> {
    match expected {
        Some(expected) if !expected.contains(&version::version(connection).await?) => {
            Err(Refusal::ManifestChanged.into())
        }
        _ => Ok(()),
    }
}

impl<'a> Plan<'a> {
    async fn new(
        ctx: &'a RequestContext<'a>,
        connection: &mut PgConnection,
        manifest: &Manifest,
        mode: Mode,
        replace: BTreeSet<String>,
    ) -> Result<Self, Fault> {
        let declared: Vec<String> = manifest.clients.iter().map(|client| client.id.clone()).collect();
        let stored = clients::store::find_all(ctx.rows, connection, &declared).await?;
        let lasting = clients::store::lasting(connection).await?;
        Ok(Self {
            ctx,
            outbound: Outbound::configured(ctx.config, ctx.now)?,
            seal: None,
            replace,
            registry: registry_store::load(ctx.rows, connection, ctx.issuer).await?,
            known_clients: lasting.into_iter().chain(declared).collect(),
            stored_clients: stored.into_iter().map(|client| (client.client_id.clone(), client)).collect(),
            events: Vec::new(),
            outcome: ApplyOutcome { mode, lines: Vec::new(), secrets: Vec::new() },
        })
    }

    async fn provider(
        &mut self,
        at: &mut PgConnection,
        vault: &CredentialCache,
        one: &ResolvedProvider,
    ) -> Result<(), ApplyError> {
        if one.gets_own_tokens(&self.registry, self.ctx.issuer) {
            return Err(one.place.fault("exchange", OWN_AUDIENCE).into());
        }
        let put = put_provider(at, &vault.keys, one, self.ctx.now).await?;
        if put.sends_elsewhere {
            let what = "a provider gets another address, to which credentials of users would be sent";
            self.require_operator(&one.place, what)?;
        }
        let events = put.events_of_connections(self.ctx);
        let line = Line { note: put.note(), ..Line::of(EntryKind::Provider, &one.id, put.members) };
        self.line(line, |change| EventKind::ProviderChanged { change });
        self.events.extend(events);
        Ok(())
    }

    async fn sink(
        &mut self,
        connection: &mut PgConnection,
        vault: &CredentialCache,
        one: &sinks::SinkDeclaration,
    ) -> Result<(), ApplyError> {
        let put = sinks::put(connection, vault, one, self.ctx.now).await.map_err(|why| match why {
            InvalidSink::Declaration(why) => one.place.whole(why).into(),
            InvalidSink::Failed(error) => ApplyError::from(error),
        })?;
        if put.shows_people_elsewhere {
            self.require_operator(&one.place, "a sink gets the names of users at a new address")?;
        }
        let line = Line { note: put.note.clone(), ..Line::of(EntryKind::Sink, &one.id, put.members.clone()) };
        self.line(line, |change| put.event(change));
        let made =
            put.made.map(|secret| GeneratedSecret { kind: EntryKind::Sink, id: one.id.clone(), secret });
        self.outcome.secrets.extend(made);
        Ok(())
    }

    async fn registrar(
        &mut self,
        connection: &mut PgConnection,
        vault: &CredentialCache,
        one: &registrars::RegistrarDeclaration,
    ) -> Result<(), ApplyError> {
        let put = registrars::put(connection, vault, one, self.ctx.now).await;
        let changes = put.map_err(|fault| one.place.whole(fault))?;
        let line = Line::of(EntryKind::Registrar, &one.id, changes);
        if self.line(line, |change| EventKind::RegistrarChanged { change }) {
            self.require_operator(
                &one.place,
                "a registrar is registered or changed, which gets the ids and keys of agents",
            )?;
        }
        Ok(())
    }

    async fn delegation(
        &mut self,
        connection: &mut PgConnection,
        declared: &DelegationDeclaration,
    ) -> Result<Change, ApplyError> {
        let known =
            delegation::Known { ctx: self.ctx, registry: &self.registry, clients: &self.known_clients };
        let read = delegation::read(connection, &known, declared).await?;
        let line = Line::new(Change::Unchanged, EntryKind::Delegation, &declared.id);
        if let Some(old) = &read.old {
            self.outcome.lines.push(Line { warning: delegation::warning(old, self.ctx.now), ..line });
            return Ok(Change::Unchanged);
        }
        self.require_operator(&declared.place, "a new delegation is granted by its user")?;
        if !delegations::transitions::insert(self.ctx.rows, connection, &read.wanted).await? {
            return Err(declared
                .place
                .whole("a delegation of this id appeared meanwhile; apply again")
                .into());
        }
        self.outcome.lines.push(Line { change: Change::Create, note: read.note, ..line });
        let path = delegations::store::path(self.ctx.rows, connection, &declared.id).await?;
        let path = path.ok_or_else(|| declared.place.whole("the new delegation cannot be read again"))?;
        let terms = read.wanted.recorded_terms();
        self.events.push(Event {
            target: Some(read.wanted.id),
            ..Event::of_delegation(
                self.ctx.now,
                EventKind::DelegationCreated { terms, expires_in: None },
                self.ctx.caller.actor(),
                &path,
                self.ctx.issuer,
            )
        });
        Ok(Change::Create)
    }
}
