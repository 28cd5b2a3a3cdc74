//! The registered entries as a manifest without secrets. Applying it where it comes from changes nothing.

use std::collections::BTreeSet;

use serde::{Serialize, Serializer};
use serde_json::{Value, json};
use sqlx::PgConnection;

use super::change::EntryKind;
use super::rules;
use super::version::version;
use super::view::{self, Members};
use crate::domain::client::{self, AuthMethod, Client};
use crate::domain::delegation::{self, Delegation, DelegationPath, Provenance};
use crate::domain::finding;
use crate::domain::issuer::Issuer;
use crate::domain::provider::{self, Provider};
use crate::domain::refusal::{Error, Refusal};
use crate::domain::registrar;
use crate::domain::registry::store as registry_store;
use crate::domain::resource::Resource;
use crate::domain::sink::{self, Sink};
use crate::platform::db;
use crate::platform::fault::{Context, Fault};
use crate::services::registrars;
use crate::services::request_context::RequestContext;

/// One read of everything that a manifest declares.
const BEGIN: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY";

/// An exported manifest with its version.
#[derive(Debug)]
pub struct ManifestExport {
    /// The entity tag, without quotes.
    pub version: String,
    pub manifest: ExportedManifest,
    /// What is registered and not in the manifest: secrets, and clients that no manifest can declare.
    pub left_out: Vec<String>,
}

#[derive(Debug, Default, Serialize)]
pub struct ExportedManifest {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    issuers: Vec<ExportedEntry>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    resources: Vec<ExportedEntry>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    clients: Vec<ExportedEntry>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    providers: Vec<ExportedEntry>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    sinks: Vec<ExportedEntry>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    registrars: Vec<ExportedEntry>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    delegations: Vec<ExportedEntry>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    rules: Vec<ExportedEntry>,
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    rules_off: BTreeSet<String>,
}

/// The members of an entry, the id first.
#[derive(Debug)]
struct ExportedEntry(Vec<(String, Value)>);

impl Serialize for ExportedEntry {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(name, value)| (name, value)))
    }
}

impl ExportedEntry {
    /// An entry without the members that have no value. Members that are empty are kept only where `kept` names them.
    fn new(name: &str, id: &str, members: Members, kept: &[&str]) -> Self {
        let empty = |value: &Value| match value {
            Value::Array(items) => items.is_empty(),
            Value::Object(members) => members.is_empty(),
            _ => false,
        };
        let first = (name.to_owned(), Value::from(id));
        let has_value = |(name, value): &(String, Value)| {
            !value.is_null() && (!empty(value) || kept.contains(&name.as_str()))
        };
        Self(std::iter::once(first).chain(members.into_iter().filter(has_value)).collect())
    }
}

impl ManifestExport {
    /// The manifest as YAML; comments say what is left out.
    pub fn to_yaml(&self) -> Result<String, Fault> {
        let comments: String = self.left_out.iter().map(|what| format!("# not exported: {what}\n")).collect();
        let manifest = serde_json::to_value(&self.manifest).context("writing a manifest")?;
        let empty = manifest.as_object().is_none_or(serde_json::Map::is_empty);
        let text = if empty {
            "{}\n".to_owned()
        } else {
            serde_saphyr::to_string(&self.manifest).context("writing a manifest")?
        };
        Ok(format!("{comments}{text}"))
    }
}

/// The registered issuers, resources, clients, providers, sinks, registrars and rules, and the declared delegations that are
/// active.
pub async fn export(ctx: &RequestContext<'_>) -> Result<ManifestExport, Error> {
    ctx.caller.require_administrator()?;
    let mut reading = db::begin(ctx.pool, BEGIN).await?;
    let connection: &mut PgConnection = &mut reading;
    let mut left_out = Vec::new();
    let registry = registry_store::load(ctx.rows, connection, ctx.issuer).await?;
    let resources = registry.resources.values().filter(|one| one.id != ctx.issuer);
    let mut manifest = ExportedManifest {
        issuers: registry.issuers.values().map(|one| issuer(one, &mut left_out)).collect(),
        resources: resources.map(resource).collect(),
        ..ExportedManifest::default()
    };
    for one in client::store::lasting_clients(ctx.rows, connection).await? {
        manifest.clients.extend(exported_client(&one, &mut left_out));
    }
    for one in provider::store::list(connection).await? {
        manifest.providers.push(exported_provider(&one, &mut left_out)?);
    }
    for (one, _) in sink::store::list(connection).await? {
        left_out.push(format!("the secret of sink {}", one.id));
        manifest.sinks.push(exported_sink(&one));
    }
    for one in registrar::store::list(connection).await? {
        left_out.push(format!("the secret of registrar {}, if it has one", one.id));
        manifest.registrars.push(ExportedEntry::new("id", &one.id, registrars::members(&one.settings), &[]));
    }
    let declared = delegation::list::declared(connection, ctx.now).await?;
    let mut paths = delegation::store::all_paths(ctx.rows, connection, &declared).await?;
    // A parent is declared before its children.
    paths.sort_by_key(|path| (path.0.len(), path.ids()));
    manifest.delegations = paths.iter().filter_map(|path| exported_delegation(ctx, path)).collect();
    let declared = finding::store::load(ctx.rows, connection).await?;
    for (id, rule) in &declared.rules {
        manifest.rules.push(ExportedEntry::new("id", id, rules::members(rule)?, &[]));
    }
    manifest.rules_off = declared.off;
    Ok(ManifestExport { version: version(connection).await?, manifest, left_out })
}

/// One registered entry as a manifest.
///
/// # Errors
/// A refusal of callers that do not administer; [`Refusal::NotFound`], also for entries that no manifest can declare.
pub async fn export_entry(
    ctx: &RequestContext<'_>,
    kind: EntryKind,
    id: &str,
) -> Result<ManifestExport, Error> {
    ctx.caller.require_administrator()?;
    let mut connection = ctx.pool.acquire().await?;
    let mut left_out = Vec::new();
    let mut manifest = ExportedManifest::default();
    match kind {
        EntryKind::Client => {
            let found = client::store::find(ctx.rows, &mut connection, id).await?;
            let lasting = found.filter(|client| client.ephemeral.is_none()).ok_or(Refusal::NotFound)?;
            manifest.clients.extend(exported_client(&lasting, &mut left_out));
        }
        EntryKind::Provider => {
            let found = provider::store::find(&mut connection, id).await?.ok_or(Refusal::NotFound)?;
            manifest.providers.push(exported_provider(&found, &mut left_out)?);
        }
        EntryKind::Issuer | EntryKind::Resource => {
            let registry = registry_store::load(ctx.rows, &mut connection, ctx.issuer).await?;
            if kind == EntryKind::Issuer {
                let found = registry.issuers.get(id).ok_or(Refusal::NotFound)?;
                manifest.issuers.push(issuer(found, &mut left_out));
            } else {
                let declared = registry.resources.get(id).filter(|one| one.id != ctx.issuer);
                manifest.resources.push(resource(declared.ok_or(Refusal::NotFound)?));
            }
        }
        EntryKind::Registrar | EntryKind::Sink | EntryKind::Delegation | EntryKind::Rule => {
            return Err(Refusal::NotFound.into());
        }
    }
    Ok(ManifestExport { version: version(&mut connection).await?, manifest, left_out })
}

fn issuer(one: &Issuer, left_out: &mut Vec<String>) -> ExportedEntry {
    let mut members = view::issuer(one);
    let sealed = |of: &str, sealed: Option<&String>| {
        sealed.map(|_| {
            let iss = &one.iss;
            format!(
                "the client_secret of the {of} of issuer {iss}, without which it cannot be applied elsewhere"
            )
        })
    };
    left_out.extend(sealed("introspection", one.introspection.as_ref().and_then(|one| one.sealed.as_ref())));
    left_out.extend(sealed("sign_in", one.sign_in.as_ref().and_then(|one| one.sealed.as_ref())));
    members.insert("jwks".to_owned(), json!(one.jwks));
    members.retain(|name, _| !name.starts_with("discovered_"));
    ExportedEntry::new("iss", &one.iss, members, &["delegation_audiences"])
}

fn resource(one: &Resource) -> ExportedEntry {
    ExportedEntry::new("id", &one.id, view::resource(one), &["scopes"])
}

fn exported_client(one: &Client, left_out: &mut Vec<String>) -> Option<ExportedEntry> {
    let id = &one.client_id;
    let without_keys = one.auth == AuthMethod::PrivateKeyJwt && one.jwks_uri.is_none() && one.keys.is_empty();
    if without_keys || (one.dpop_restricted && one.dpop_keys.is_empty()) {
        left_out.push(format!("client {id}: all its keys were removed"));
        return None;
    }
    if one.auth.uses_secret() {
        left_out.push(format!("the secret of client {id}"));
    }
    let mut members = view::client(one);
    members.insert("jwks".to_owned(), json!(one.jwks));
    Some(ExportedEntry::new("id", id, members, &[]))
}

fn exported_provider(one: &Provider, left_out: &mut Vec<String>) -> Result<ExportedEntry, Fault> {
    let mut members = view::provider(&one.settings)?;
    if one.settings.oauth.as_ref().is_some_and(|oauth| oauth.auth != AuthMethod::None) {
        left_out.push(format!(
            "the client_secret of provider {}, without which it cannot be applied elsewhere",
            one.id
        ));
    }
    // Known from the metadata of the provider alone, which is read where no token endpoint is declared.
    if members.remove("authorization_response_iss_parameter_supported") == Some(Value::Bool(true)) {
        members.remove("token_endpoint");
    }
    Ok(ExportedEntry::new("id", &one.id, members, &[]))
}

fn exported_sink(one: &Sink) -> ExportedEntry {
    let format = one.notification.is_none().then_some(one.format);
    let members = json!({
        "url": one.url, "format": format, "batch": one.batch, "filter": one.filter,
        "people": one.people.then_some(true), "notification": one.notification, "enabled": one.disabled.as_ref().map(|_| false),
    });
    ExportedEntry::new("id", &one.id, view::object(members), &[])
}

/// An active delegation whose ancestors are all declared; its lifetime is what is left of it.
fn exported_delegation(ctx: &RequestContext<'_>, path: &DelegationPath) -> Option<ExportedEntry> {
    let leaf = path.leaf()?;
    let declared = |one: &Delegation| one.origin == Provenance::Declared;
    if path.check(ctx.now).is_err() || !path.0.iter().all(declared) {
        return None;
    }
    let left = (leaf.facts.expires_at - ctx.now).whole_seconds().max(1);
    let delegator = leaf.parent.is_none().then_some(&leaf.delegator);
    let ceremonies: &BTreeSet<String> = &leaf.terms.ceremonies;
    let members = json!({
        "delegator": delegator, "parent": leaf.parent, "delegate": leaf.delegate,
        "scopes": leaf.terms.scopes.to_stored(), "audiences": leaf.terms.audiences.to_stored(),
        "authorization_details": leaf.terms.details, "capability_ceiling": leaf.terms.ceiling,
        "ceremony_required_for": ceremonies, "max_uses": leaf.facts.max_uses, "max_depth": leaf.terms.max_depth,
        "expires_in": left, "reason": leaf.reason, "offline_access": leaf.terms.offline_access.then_some(true),
    });
    let kept = ["scopes", "audiences", "authorization_details"];
    Some(ExportedEntry::new("id", &leaf.id, view::object(members), &kept))
}
