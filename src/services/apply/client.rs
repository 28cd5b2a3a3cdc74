//! A declared client: its new state, the changes, and the check that the client loses its kind or credentials only
//! with `--replace`.

use std::collections::{BTreeMap, BTreeSet};

use secrecy::{ExposeSecret, SecretString};
use sqlx::PgConnection;

use super::change::{EntryKind, Line, MemberChange, SecretChange, differences, rewritten};
use super::error::ApplyError;
use super::plan::{GeneratedSecret, Plan};
use super::view;
use crate::domain::audit::EventKind;
use crate::domain::client::store::{RemovedKey, find_removed_elsewhere};
use crate::domain::client::{AuthMethod, Client, StoredSecret, usable_keys};
use crate::platform::yaml::{InvalidDeclaration, Place};
use crate::platform::{password, secret};
use crate::services::clients::hash_blocking;
use crate::services::declared_client::{check_removed_keys, removed_keys, unpinned_keys};
use crate::services::manifest::ClientDeclaration;
use actchain_protocol::random;

/// Minimum length of a secret, in bytes.
const MIN_SECRET: usize = 16;

pub(super) struct Changed {
    pub(super) client: Client,
    /// Thumbprints of the keys that the client loses.
    pub(super) removed: Vec<String>,
    /// Thumbprints of the keys that the client gets.
    added: BTreeSet<String>,
    place: Place,
}

/// The new secrets of a client.
#[derive(Default)]
struct ClientSecrets {
    stored: Vec<StoredSecret>,
    declared: Option<String>,
    change: Option<SecretChange>,
    note: Option<String>,
}

impl Plan<'_> {
    /// The client to write, or `None` if nothing changes.
    pub(super) async fn client(
        &mut self,
        declared: ClientDeclaration,
    ) -> Result<Option<Changed>, ApplyError> {
        declared.check(&self.outbound)?;
        self.check_names(&declared)?;
        let old = self.stored_clients.remove(&declared.id);
        if old.as_ref().is_some_and(|old| old.ephemeral.is_some()) {
            return Err(declared.place.whole(format!(
                "client {}: an agent that was made for one delegation is not declared, and never comes back",
                declared.id
            ))
            .into());
        }
        let administers =
            declared.kind.administers() || old.as_ref().is_some_and(|old| old.kind.administers());
        // A declared secret that is compared with the stored secret would be a guess.
        if administers && (declared.secret.is_some() || declared.secret_file.is_some()) {
            self.require_operator(&declared.place, "the secret of an administrator or auditor is declared")?;
        }
        let secrets = self.secrets(&declared, old.as_ref()).await?;
        let (place, note, secret) = (declared.place.clone(), secrets.note.clone(), secrets.change);
        let wanted = put_together(declared, secrets, old.as_ref());
        let id = wanted.client_id.clone();
        if let Some(old) = &old {
            check_removed_keys(old, &wanted).map_err(|fault| place.whole(fault))?;
        }
        if let Some(old) = old.as_ref().filter(|_| !self.replace.contains(&id)) {
            let lost = losses(old, &wanted);
            if !lost.is_empty() {
                return Err(place.whole(format!(
                    "client {id} would lose {}. What is left out of a declaration is set to its default. If that is meant, \
                     apply with --replace {id}",
                    lost.join(" and ")
                ))
                .into());
            }
        }
        let members = old.as_ref().map(|old| changes(old, &wanted, secret));
        let removed: Vec<String> = old.as_ref().map(|old| removed_keys(old, &wanted)).unwrap_or_default();
        let unpinned_keys = old.as_ref().map(|old| unpinned_keys(old, &wanted)).unwrap_or_default();
        let line = Line {
            note,
            removed_keys: removed.clone(),
            unpinned_keys,
            ..Line::of(EntryKind::Client, &id, members)
        };
        let members = line.members.iter().map(|one| one.member().to_owned()).collect();
        let removed_keys = removed.clone();
        let kind = |change| EventKind::ClientChanged { change, members, removed_keys };
        if !self.line(line, kind) {
            return Ok(None);
        }
        if administers {
            self.require_operator(&place, "an administrator or auditor is registered or changed")?;
        }
        let excepted = old.as_ref().map(Client::exceptions).unwrap_or_default();
        if let Some(one) = wanted.exceptions().difference(&excepted).next() {
            self.require_operator(&place, &format!("{}, an exception, is declared", one.declaration()))?;
        }
        let before = old.as_ref().map(Client::declared_keys).unwrap_or_default();
        let added = wanted.declared_keys().difference(&before).cloned().collect();
        Ok(Some(Changed { client: wanted, removed, added, place }))
    }

    /// Refuses undeclared names, and an id that an issuer or resource has.
    fn check_names(&self, declared: &ClientDeclaration) -> Result<(), InvalidDeclaration> {
        let (place, registry) = (&declared.place, &self.registry);
        if let Some(name) = declared.audiences.iter().find(|name| !registry.resources.contains_key(*name)) {
            return Err(place.fault("audiences", format!("there is no resource {name}")));
        }
        if let Some(name) = declared.scopes.iter().find(|name| !registry.has_scope(name)) {
            return Err(place.fault("scopes", format!("no resource declares the scope {name}")));
        }
        let types = &declared.authorization_details_types;
        if let Some(name) = types.iter().find(|name| !registry.has_detail_type(name)) {
            let why = format!("no resource declares the type {name}");
            return Err(place.fault("authorization_details_types", why));
        }
        let trusted = |iss: &String| registry.issuer(iss).is_some();
        if let Some(one) = declared.actor_subjects.iter().find(|one| !trusted(&one.iss)) {
            return Err(place.fault("actor_subjects", format!("{} is no trusted issuer", one.iss)));
        }
        if registry.resources.contains_key(&declared.id)
            || registry.issuers.contains_key(&declared.id)
            || trusted(&declared.id)
        {
            return Err(place.fault("id", "a resource or an issuer has this name"));
        }
        Ok(())
    }

    /// The new secrets. An unchanged declared secret keeps the stored secrets; a changed one replaces them. Without a
    /// declared and a stored secret, a secret is generated and shown once.
    async fn secrets(
        &mut self,
        declared: &ClientDeclaration,
        old: Option<&Client>,
    ) -> Result<ClientSecrets, ApplyError> {
        let present = old.map(|old| old.secrets.clone()).unwrap_or_default();
        if !declared.auth.uses_secret() {
            let change = (!present.is_empty()).then_some(SecretChange::Removed);
            return Ok(ClientSecrets { change, ..ClientSecrets::default() });
        }
        let before = old.and_then(|old| old.declared_secret.clone());
        let change = Some(if present.is_empty() { SecretChange::Set } else { SecretChange::Replaced });
        let Some(secret) = declared_secret(declared)? else {
            if !present.is_empty() {
                return Ok(ClientSecrets { stored: present, declared: before, ..ClientSecrets::default() });
            }
            let made = SecretString::from(random::token()?);
            let (kind, id) = (EntryKind::Client, declared.id.clone());
            self.outcome.secrets.push(GeneratedSecret { kind, id, secret: made.clone() });
            let stored = vec![StoredSecret { hash: hash_blocking(made).await?, expires_at: None }];
            return Ok(ClientSecrets { stored, change, ..ClientSecrets::default() });
        };
        if secret.expose_secret().len() < MIN_SECRET {
            let why = format!("the secret is shorter than {MIN_SECRET} bytes");
            return Err(declared.place.whole(why).into());
        }
        let is = async |hashes: Vec<String>| match hashes.is_empty() {
            true => Ok(false),
            false => password::verify_blocking(secret.clone(), hashes).await,
        };
        let unchanged = is(before.iter().cloned().collect()).await?;
        let live = is(old.map(|old| old.live_secret_hashes(self.ctx.now)).unwrap_or_default()).await?;
        if !present.is_empty() && (unchanged || live) {
            let note = (unchanged && !live).then(|| {
                "the secret was rotated since it was declared, and stays; declare the new one, or none"
                    .to_owned()
            });
            if unchanged {
                return Ok(ClientSecrets { stored: present, declared: before, change: None, note });
            }
            let declared = Some(hash_blocking(secret).await?);
            return Ok(ClientSecrets {
                stored: present,
                declared,
                change: Some(SecretChange::Recorded),
                note,
            });
        }
        let hash = hash_blocking(secret).await?;
        let stored = vec![StoredSecret { hash: hash.clone(), expires_at: None }];
        Ok(ClientSecrets { stored, declared: Some(hash), change, note: None })
    }
}

/// The declared secret, inline or from its file.
fn declared_secret(declared: &ClientDeclaration) -> Result<Option<SecretString>, InvalidDeclaration> {
    match (&declared.secret, &declared.secret_file) {
        (Some(secret), _) => Ok(Some(secret.clone())),
        (None, Some(path)) => {
            secret::read_file(path).map(Some).map_err(|fault| declared.place.fault("secret_file", fault))
        }
        (None, None) => Ok(None),
    }
}

fn put_together(declared: ClientDeclaration, secrets: ClientSecrets, old: Option<&Client>) -> Client {
    Client {
        version: old.map_or(0, |old| old.version),
        kind: declared.kind,
        name: declared.name.unwrap_or_else(|| declared.id.clone()),
        auth: declared.auth,
        secrets: secrets.stored,
        declared_secret: secrets.declared,
        keys: declared.jwks.as_ref().and_then(usable_keys).unwrap_or_default(),
        jwks: declared.jwks,
        jwks_uri: declared.jwks_uri,
        scopes: declared.scopes,
        audiences: declared.audiences,
        detail_types: declared.authorization_details_types,
        grant_types: declared.grant_types,
        dpop: declared.dpop,
        token_type: declared.token_type,
        assertion_audience: declared.assertion_audience,
        dpop_restricted: declared.dpop_keys.is_some(),
        dpop_keys: declared.dpop_keys.unwrap_or_default(),
        removed_keys: BTreeSet::new(),
        actor_subjects: declared.actor_subjects,
        max_token_ttl: declared.max_token_ttl,
        disabled_at: old.and_then(|old| old.disabled_at),
        ephemeral: None,
        client_id: declared.id,
    }
}

fn changes(old: &Client, wanted: &Client, secret: Option<SecretChange>) -> Vec<MemberChange> {
    let (before, after) = (view::client(old), view::client(wanted));
    let mut changes = differences(&before, &after);
    // The same keys with other members, such as another `kid`.
    let same_keys = before.get("jwks") == after.get("jwks");
    if same_keys && old.jwks != wanted.jwks {
        changes.push(rewritten("jwks", wanted.keys.len()));
    }
    changes.extend(secret.map(|change| MemberChange::secret("secret", change)));
    changes
}

/// The client's means of authentication, in words.
fn proof(auth: AuthMethod) -> &'static str {
    match auth {
        AuthMethod::ClientSecretBasic | AuthMethod::ClientSecretPost => "its secret",
        AuthMethod::PrivateKeyJwt => "its keys",
        AuthMethod::None => "its way to authenticate (DPoP keys alone)",
    }
}

/// Losses that need `--replace`.
fn losses(old: &Client, wanted: &Client) -> Vec<String> {
    let mut lost = Vec::new();
    if old.kind != wanted.kind {
        let names = [old.kind, wanted.kind].map(|kind| serde_json::to_value(kind).unwrap_or_default());
        let [from, to] = names.map(|name| name.as_str().unwrap_or_default().to_owned());
        lost.push(format!("its kind ({from} → {to})"));
    }
    if proof(old.auth) != proof(wanted.auth) {
        lost.push(proof(old.auth).to_owned());
    }
    if old.dpop_restricted && !wanted.dpop_restricted {
        lost.push("its dpop_keys, so that any key would do".to_owned());
    }
    lost
}

/// Refuses a key that a client gets although it was removed from another client: a compromised key is of no use under
/// another name either.
pub(super) async fn check_burnt_keys(
    connection: &mut PgConnection,
    changed: &BTreeMap<String, Changed>,
) -> Result<(), ApplyError> {
    let added =
        changed.iter().flat_map(|(id, one)| one.added.iter().map(move |jkt| (id.clone(), jkt.clone())));
    let Some(burnt) = find_removed_elsewhere(connection, added.collect()).await? else { return Ok(()) };
    let RemovedKey { client_id, jkt, removed_from } = burnt;
    let why = format!(
        "client {client_id}: the key {jkt} was removed from the client {removed_from}, and no other client gets it. Declare \
         another key; or, if this one is not compromised, restore it first: actchain client key restore {removed_from} {jkt}"
    );
    Err(changed
        .get(&client_id)
        .map_or_else(|| InvalidDeclaration::new(&why), |one| one.place.whole(&why))
        .into())
}

/// Clients by id, in lock order.
pub(super) fn in_order(clients: Vec<Changed>) -> BTreeMap<String, Changed> {
    clients.into_iter().map(|one| (one.client.client_id.clone(), one)).collect()
}
