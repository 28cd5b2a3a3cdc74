//! Declared issuers and resources: what changes in the registry.

use secrecy::{ExposeSecret as _, SecretString};
use sqlx::PgConnection;

use super::change::{EntryKind, Line, MemberChange, SecretChange, differences, rewritten};
use super::discovery::{CompletedEndpoints, CompletedIssuer, FoundMetadata};
use super::error::ApplyError;
use super::plan::Plan;
use super::view;
use crate::domain::audit::EventKind;
use crate::domain::audit::detail::SessionEnd;
use crate::domain::client::AuthMethod;
use crate::domain::introspection::{Introspection, IntrospectionSettings};
use crate::domain::issuer::Issuer;
use crate::domain::provider;
use crate::domain::registry::{self, IssuerClash};
use crate::domain::sign_in::{SignIn, logout_uri, redirect_uri, signed_out_uri};
use crate::domain::{console, issuer_secret};
use crate::platform::fault::Fault;
use crate::platform::yaml::{InvalidDeclaration, Place};
use crate::services::console_ends;
use crate::services::manifest::{
    DeclaredIntrospection, DeclaredIssuer, DeclaredSignIn, IssuerDeclaration, ResourceDeclaration,
};
use crate::services::vault::{OWN_AUDIENCE, ResolvedProvider};

/// Registry entries to be written.
#[derive(Default)]
pub(super) struct RegistryChanges {
    issuers: Vec<String>,
    resources: Vec<String>,
    /// Names of issuers whose people have to sign in to the console again.
    signed_out: Vec<String>,
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

/// What an operator registers at an issuer for sign-ins.
fn to_register(own_issuer: &str, iss: &str) -> String {
    format!(
        "register at the issuer the redirect URI {}, the back-channel logout URI {}, and the post-logout redirect URI {}",
        redirect_uri(own_issuer, iss),
        logout_uri(own_issuer, iss),
        signed_out_uri(own_issuer)
    )
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

/// A client secret of this server at an issuer, as declared and as stored.
struct IssuerSecretState<'a> {
    /// The member of the manifest.
    member: &'static str,
    auth: AuthMethod,
    declared: Option<SecretString>,
    /// What the seal has to be bound to.
    row: String,
    /// The stored secret, with what its seal is bound to.
    stored: Option<(String, &'a str)>,
}

/// A secret as it will be stored.
struct SealedIssuerSecret {
    sealed: Option<String>,
    change: Option<SecretChange>,
}

/// The place and the name of a declared issuer.
#[derive(Clone, Copy)]
struct IssuerPlace<'a> {
    place: &'a Place,
    iss: &'a str,
}

/// A part of an issuer with a secret of its own, as it will be stored.
struct ChangedPart<T> {
    part: Option<T>,
    secret: Option<SecretChange>,
    /// What could not be read.
    warning: Option<String>,
}

impl<T> ChangedPart<T> {
    fn absent(secret: Option<SecretChange>) -> Self {
        Self { part: None, secret, warning: None }
    }
}

impl Plan<'_> {
    /// Seals a secret. Without a declared secret the stored one stays, as long as it is bound to the same settings: a
    /// secret must not go to an address that was declared without it.
    fn issuer_secret(
        &self,
        place: &Place,
        state: IssuerSecretState<'_>,
    ) -> Result<SealedIssuerSecret, ApplyError> {
        let IssuerSecretState { member, auth, declared, row, stored } = state;
        if !auth.uses_secret() {
            return Ok(SealedIssuerSecret { sealed: None, change: stored.map(|_| SecretChange::Removed) });
        }
        let had_secret = stored.is_some();
        let same = stored.filter(|(bound, _)| *bound == row).map(|(_, sealed)| sealed.to_owned());
        let Some(secret) = declared else {
            let why = "needs a client_secret; a stored one stays only while client, method and address are the same";
            let kept = same.ok_or_else(|| place.fault(member, format!("{member} {why}")))?;
            return Ok(SealedIssuerSecret { sealed: Some(kept), change: None });
        };
        let key = self.seal.as_ref().ok_or_else(|| Fault::new(format!("{member} needs the master key")))?;
        if let Some(same) = same
            && issuer_secret::open(key, &row, Some(&same))?.expose_secret() == secret.expose_secret()
        {
            return Ok(SealedIssuerSecret { sealed: Some(same), change: None });
        }
        let sealed = key.seal(&row, secret.expose_secret().as_bytes())?;
        let change = if had_secret { SecretChange::Replaced } else { SecretChange::Set };
        Ok(SealedIssuerSecret { sealed: Some(sealed), change: Some(change) })
    }

    fn introspection(
        &self,
        at: IssuerPlace<'_>,
        declared: Option<DeclaredIntrospection>,
        old: Option<&Introspection>,
    ) -> Result<ChangedPart<Introspection>, ApplyError> {
        let stored = old.and_then(|old| Some((old, old.sealed.as_deref()?)));
        let Some(DeclaredIntrospection { settings, secret }) = declared else {
            return Ok(ChangedPart::absent(stored.map(|_| SecretChange::Removed)));
        };
        let row = |settings: &IntrospectionSettings| Introspection::secret_row(at.iss, settings);
        let stored = stored.map(|(old, sealed)| Ok::<_, Fault>((row(&old.settings)?, sealed)));
        let state = IssuerSecretState {
            member: "introspection",
            auth: settings.auth,
            declared: secret,
            row: row(&settings)?,
            stored: stored.transpose()?,
        };
        let SealedIssuerSecret { sealed, change } = self.issuer_secret(at.place, state)?;
        Ok(ChangedPart { part: Some(Introspection { settings, sealed }), secret: change, warning: None })
    }

    fn sign_in(
        &self,
        at: IssuerPlace<'_>,
        declared: Option<DeclaredSignIn>,
        found: &mut FoundMetadata,
        old: Option<&SignIn>,
    ) -> Result<ChangedPart<SignIn>, ApplyError> {
        let stored = old.and_then(|old| Some((old, old.sealed.as_deref()?)));
        let Some(DeclaredSignIn { settings, secret }) = declared else {
            return Ok(ChangedPart::absent(stored.map(|_| SecretChange::Removed)));
        };
        let completed = found.endpoints(at.iss, old).map_err(|why| at.place.fault("sign_in", why))?;
        let Some(CompletedEndpoints { endpoints, warning }) = completed else {
            return Err(self.only_an_operator(at.place, "people of an issuer get a sign-in"));
        };
        let row = |old: &SignIn| SignIn::secret_row(at.iss, &old.settings, &old.endpoints);
        let stored = stored.map(|(old, sealed)| Ok::<_, Fault>((row(old)?, sealed)));
        let state = IssuerSecretState {
            member: "sign_in",
            auth: settings.auth,
            declared: secret,
            row: SignIn::secret_row(at.iss, &settings, &endpoints)?,
            stored: stored.transpose()?,
        };
        let SealedIssuerSecret { sealed, change } = self.issuer_secret(at.place, state)?;
        Ok(ChangedPart { part: Some(SignIn { settings, endpoints, sealed }), secret: change, warning })
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
            let DeclaredIssuer { issuer, introspection, sign_in } =
                declared.read(self.ctx.issuer, &self.outbound)?;
            let mut names = issuer.identifiers();
            names.push(issuer.iss.clone());
            let mut names = names.iter();
            if names
                .any(|name| self.known_clients.contains(name) || self.registry.resources.contains_key(name))
            {
                return Err(place.fault("iss", "a client or a resource has this name").into());
            }
            let old = self.registry.issuers.get(&issuer.iss);
            let at = IssuerPlace { place: &place, iss: &issuer.iss };
            let stored = old.and_then(|old| old.introspection.as_ref());
            let introspection = self.introspection(at, introspection, stored)?;
            let stored = old.and_then(|old| old.sign_in.as_ref());
            let sign_in = self.sign_in(at, sign_in, &mut found, stored)?;
            let completed = match discovers {
                true => found.complete(issuer, old).map_err(|why| place.fault("discover", why))?,
                false => CompletedIssuer { issuer, warning: None },
            };
            let CompletedIssuer { issuer, warning } = completed;
            let issuer = Issuer {
                introspection: introspection.part,
                sign_in: sign_in.part,
                ..issuer.instead_of(old, self.ctx.now)
            };
            let warnings: Vec<String> = old
                .into_iter()
                .flat_map(|old| losses(old, &issuer))
                .chain(warning)
                .chain(sign_in.warning)
                .collect();
            let warning = (!warnings.is_empty()).then(|| warnings.join("; "));
            let members = old.map(|old| {
                let (before, after) = (view::issuer(old), view::issuer(&issuer));
                let mut members = differences(&before, &after);
                if before.get("jwks") == after.get("jwks") && old.jwks != issuer.jwks {
                    members.push(rewritten("jwks", issuer.keys.len()));
                }
                let secrets = [
                    ("introspection.client_secret", introspection.secret),
                    ("sign_in.client_secret", sign_in.secret),
                ];
                let changed = secrets.into_iter().filter_map(|(name, change)| Some((name, change?)));
                members.extend(changed.map(|(name, change)| MemberChange::secret(name, change)));
                members
            });
            let signs_in_like = |old: &&Issuer| old.sign_in == issuer.sign_in && issuer.names_users_like(old);
            if let Some(old) = old.filter(|old| old.sign_in.is_some() && !signs_in_like(old)) {
                changes.signed_out.extend(old.identifiers());
            }
            let note = issuer.sign_in.as_ref().map(|_| to_register(self.ctx.issuer, &issuer.iss));
            let line = Line { warning, note, ..Line::of(EntryKind::Issuer, &issuer.iss, members) };
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
        if !changes.signed_out.is_empty() {
            let ended = console::store::end_of_issuers(connection, &changes.signed_out, self.ctx.now).await?;
            self.events.extend(console_ends::ended_by(self.ctx, ended, SessionEnd::IssuerChanged));
        }
        for issuer in changes.issuers.iter().filter_map(|iss| self.registry.issuers.get(iss)) {
            registry::store::put_issuer(self.ctx.rows, connection, issuer).await?;
        }
        for resource in changes.resources.iter().filter_map(|id| self.registry.resources.get(id)) {
            registry::store::put_resource(self.ctx.rows, connection, resource).await?;
        }
        Ok(())
    }
}
