//! The version of everything that a manifest declares, for `ETag` and `If-Match`.

use serde_json::json;
use sqlx::PgConnection;

use crate::domain::finding::store as rules;
use crate::domain::provider;
use crate::domain::registrar::store as registrars;
use crate::domain::registry::store as registry;
use crate::domain::sink::store as sinks;
use crate::platform::fault::Fault;
use actchain_protocol::base64url;
use actchain_protocol::canonical_json;
use actchain_protocol::digest::sha256;

/// Changes with every change of an issuer, resource, client, provider, sink, registrar or rule, and with every new declared
/// delegation.
/// The state of delegations does not change it: applying a manifest never changes a delegation.
pub(super) async fn version(connection: &mut PgConnection) -> Result<String, Fault> {
    let registry = registry::version(connection).await?;
    let providers = provider::store::list(connection).await?;
    let providers: Vec<_> = providers.iter().map(|one| json!([one.id, one.version])).collect();
    let sinks = sinks::list(connection).await?;
    let sinks = sinks.iter().map(|(one, _)| {
        json!([one.id, one.url, one.format, one.batch, one.filter, one.disabled.is_none(), one.sealed.text])
    });
    let registrars = registrars::list(connection).await?;
    let registrars: Vec<_> =
        registrars.iter().map(|one| json!([one.id, one.settings, one.sealed.text])).collect();
    let rules = rules::version(connection).await?;
    let all = json!([registry, providers, sinks.collect::<Vec<_>>(), registrars, rules]);
    Ok(base64url::encode(sha256(&[canonical_json::to_string(&all)?.as_bytes()])))
}
