//! Declared issuers and resources: what changes in the registry.

use secrecy::ExposeSecret as _;
use sqlx::PgConnection;

use super::change::{EntryKind, Line, MemberChange, SecretChange, differences, rewritten};
use super::discovery::{CompletedIssuer, FoundMetadata};
use super::error::ApplyError;
use super::plan::Plan;
use super::view;
use crate::domain::audit::EventKind;
use crate::domain::introspection::Introspection;
use crate::domain::issuer::Issuer;
use crate::domain::provider;
use crate::domain::registry::{self, IssuerClash};
use crate::platform::fault::Fault;
use crate::platform::yaml::{InvalidDeclaration, Place};
use crate::services::manifest::{
    DeclaredIntrospection, DeclaredIssuer, IssuerDeclaration, ResourceDeclaration,
};
use crate::services::vault::{OWN_AUDIENCE, ResolvedProvider};

/// Registry entries to be written.
#[derive(Default)]
pub(super) struct RegistryChanges {
    issuers: Vec<String>,
    resources: Vec<String>,
}

impl RegistryChanges {
    pub(super) fn with(self, resources: Vec<String>) -> Self {
        Self { resources, ..self }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.issuers.is_empty() && self.resources.is_empty()
    }
}

/// The error at the last declared issuer of the conflict, with the place of the other issuer.
fn at_both_places(clash: &IssuerClash, places: &[(String, Place)]) -> InvalidDeclaration {
    let mut declared = places.iter().filter(|(iss, _)| clash.issuers.contains(iss)).rev();
    let Some((last, place)) = declared.next() else { return InvalidDeclaration::new(clash.to_string()) };
    let other = clash.issuers.iter().find(|iss| *iss != last).map_or("", String::as_str);
    let there = declared.next().map(|(_, place)| format!("is declared at {place}"));
    let there = there.unwrap_or_else(|| "was registered before".to_owned());
    place.fault(clash.member(), format!("{clash}; {other} {there}"))
}

/// What users of an issuer lose by its new declaration.
fn losses(old: &Issuer, new: &Issuer) -> Vec<String> {
    let mut losses = Vec::new();
    if !new.names_users_like(old) {
        losses.push(format!(
            "changed in who its users are: {} names them, no longer {}; their delegations, connections and revocations \
             stay with the former names",
            new.claims.names.subject(),
            old.claims.names.subject()
        ));
    }
    let kept = new.identifiers();
    let dropped: Vec<String> = old.identifiers().into_iter().filter(|name| !kept.contains(name)).collect();
    if !dropped.is_empty() {
        losses.push(format!(
            "no longer trusted as {}: delegations of these users stay, but cannot be used; tokens under them are active \
             until they expire",
            dropped.join(", ")
        ));
    }
    losses
}

/// An introspection as it will be stored.
struct SealedIntrospection {
    introspection: Option<Introspection>,
    secret: Option<SecretChange>,
}

impl Plan<'_> {
    /// Seals the secret of an introspection. Without a declared secret the stored one stays, as long as no setting changes:
    /// a secret must not go to an address that was declared without it.
    fn introspection(
        &self,
        place: &Place,
        iss: &str,
        declared: Option<DeclaredIntrospection>,
        stored: Option<&Introspection>,
    ) -> Result<SealedIntrospection, ApplyError> {
        let had_secret = stored.is_some_and(|stored| stored.sealed.is_some());
        let removed = had_secret.then_some(SecretChange::Removed);
        let Some(DeclaredIntrospection { settings, secret }) = declared else {
            return Ok(SealedIntrospection { introspection: None, secret: removed });
        };
        if !settings.auth.uses_secret() {
            let introspection = Some(Introspection { settings, sealed: None });
            return Ok(SealedIntrospection { introspection, secret: removed });
        }
        let same = stored.filter(|stored| stored.settings == settings && stored.sealed.is_some());
        let Some(secret) = secret else {
            let why =
                "introspection needs a client_secret; a stored one stays only while no other member changes";
            let kept = same.ok_or_else(|| place.fault("introspection", why))?;
            return Ok(SealedIntrospection { introspection: Some(kept.clone()), secret: None });
        };
        let key = self.seal.as_ref().ok_or_else(|| Fault::new("introspection needs the master key"))?;
        if let Some(same) = same
            && same.secret(iss, key)?.expose_secret() == secret.expose_secret()
        {
            return Ok(SealedIntrospection { introspection: Some(same.clone()), secret: None });
        }
        let introspection = Some(Introspection::sealing(iss, settings, &secret, key)?);
        let change = if had_secret { SecretChange::Replaced } else { SecretChange::Set };
        Ok(SealedIntrospection { introspection, secret: Some(change) })
    }

    pub(super) fn note_issuers(
        &mut self,
        issuers: Vec<IssuerDeclaration>,
        mut found: FoundMetadata,
    ) -> Result<RegistryChanges, ApplyError> {
        let mut changes = RegistryChanges::default();
        let mut places = Vec::new();
        for declared in issuers {
            let place = declared.place.clone();
            places.push((declared.iss.clone(), place.clone()));
            let discovers = declared.discover;
            let DeclaredIssuer { issuer, introspection } = declared.read(self.ctx.issuer, &self.outbound)?;
            let mut names = issuer.identifiers();
            names.push(issuer.iss.clone());
            let mut names = names.iter();
            if names
                .any(|name| self.known_clients.contains(name) || self.registry.resources.contains_key(name))
            {
                return Err(place.fault("iss", "a client or a resource has this name").into());
            }
            let old = self.registry.issuers.get(&issuer.iss);
            let stored = old.and_then(|old| old.introspection.as_ref());
            let sealed = self.introspection(&place, &issuer.iss, introspection, stored)?;
            let SealedIntrospection { introspection, secret } = sealed;
            let completed = match discovers {
                true => found.complete(issuer, old).map_err(|why| place.fault("discover", why))?,
                false => CompletedIssuer { issuer, warning: None },
            };
            let CompletedIssuer { issuer, warning } = completed;
            let issuer = Issuer { introspection, ..issuer.instead_of(old, self.ctx.now) };
            let warnings: Vec<String> =
                old.into_iter().flat_map(|old| losses(old, &issuer)).chain(warning).collect();
            let warning = (!warnings.is_empty()).then(|| warnings.join("; "));
            let members = old.map(|old| {
                let (before, after) = (view::issuer(old), view::issuer(&issuer));
                let mut members = differences(&before, &after);
                if before.get("jwks") == after.get("jwks") && old.jwks != issuer.jwks {
                    members.push(rewritten("jwks", issuer.keys.len()));
                }
                members
                    .extend(secret.map(|change| MemberChange::secret("introspection.client_secret", change)));
                members
            });
            let line = Line { warning, ..Line::of(EntryKind::Issuer, &issuer.iss, members) };
            if self.line(line, |change| EventKind::IssuerChanged { change }) {
                self.require_operator(
                    &place,
                    "an issuer is registered or changed, which decides who users are",
                )?;
                changes.issuers.push(issuer.iss.clone());
            }
            self.registry.issuers.insert(issuer.iss.clone(), issuer);
        }
        self.registry.check_issuers().map_err(|clash| at_both_places(&clash, &places))?;
        Ok(changes)
    }

    /// Refuses resources whose name is the audience of tokens that are sent to a stored provider. `redeclared` providers are
    /// checked themselves.
    pub(super) async fn check_audiences(
        &self,
        connection: &mut PgConnection,
        resources: &[ResourceDeclaration],
        redeclared: &[ResolvedProvider],
    ) -> Result<(), ApplyError> {
        if resources.is_empty() {
            return Ok(());
        }
        for stored in provider::store::list(connection).await? {
            let audience = stored.settings.subject_token_audience();
            let named = resources.iter().find(|one| Some(one.id.as_str()) == audience);
            if let Some(resource) = named.filter(|_| redeclared.iter().all(|one| one.id != stored.id)) {
                let why = format!("provider {} has this name: {OWN_AUDIENCE}", stored.id);
                return Err(resource.place.fault("id", why).into());
            }
        }
        Ok(())
    }

    pub(super) fn note_resources(
        &mut self,
        resources: Vec<ResourceDeclaration>,
    ) -> Result<Vec<String>, ApplyError> {
        let mut changed = Vec::new();
        for declared in resources {
            let place = declared.place.clone();
            let resource = declared.read(self.ctx.issuer)?;
            // `audience` and `sub` must not share names: each names another kind of thing.
            if self.known_clients.contains(&resource.id)
                || self.registry.issuers.contains_key(&resource.id)
                || self.registry.issuer(&resource.id).is_some()
            {
                return Err(place.fault("id", "a client or an issuer has this name").into());
            }
            let old = self.registry.resources.get(&resource.id);
            let members = old.map(|old| differences(&view::resource(old), &view::resource(&resource)));
            let line = Line::of(EntryKind::Resource, &resource.id, members);
            if self.line(line, |change| EventKind::ResourceChanged { change }) {
                changed.push(resource.id.clone());
            }
            self.registry.resources.insert(resource.id.clone(), resource);
        }
        Ok(changed)
    }

    pub(super) async fn write_registry(
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
}
