//! The declaration of a registrar and its storage.

use std::path::PathBuf;

use schemars::JsonSchema;
use secrecy::{ExposeSecret as _, SecretString};
use serde::Deserialize;
use serde_json::{Value, json};
use sqlx::PgConnection;
use sqlx::postgres::PgPool;
use time::OffsetDateTime;

use crate::domain::provider;
use crate::domain::registrar::{Registrar, RegistrarKind, RegistrarSettings, aad, store};
use crate::domain::vault::credential_cache::CredentialCache;
use crate::platform::fault::Fault;
use crate::platform::secret;
use crate::platform::yaml::Place;
use crate::services::apply::{MemberChange, Members, SecretChange, differences};
use crate::services::keys;

/// A registrar: an identity provider at which each new ephemeral agent is registered as a client, until the agent ends.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(transform = crate::services::manifest::schema::with_id)]
pub struct RegistrarDeclaration {
    /// Registrar id: letters, digits and `-_.`, not beginning with `-`.
    #[serde(default)]
    #[schemars(
        length(min = 1, max = 64),
        regex(pattern = "^[A-Za-z0-9_.][A-Za-z0-9_.-]*$"),
        example = &"keycloak"
    )]
    pub id: String,
    /// Protocol of the registrar.
    kind: RegistrarKind,
    /// Issuer identifier of the realm; needed for `keycloak`, from which its endpoints follow.
    #[schemars(example = &"https://sso.example.com/realms/agents")]
    issuer: Option<String>,
    /// Registration endpoint (RFC 7591); needed for `rfc7591`.
    #[schemars(example = &"https://idp.example.com/register")]
    registration_endpoint: Option<String>,
    /// Token endpoint for this server's `client_id`; for `rfc7591`, needed with a `client_id`.
    #[schemars(example = &"https://idp.example.com/token")]
    token_endpoint: Option<String>,
    /// Client id of this server there; its access tokens by client credentials authorize registrations.
    #[schemars(example = &"actchain")]
    client_id: Option<String>,
    /// Client secret of this server there. Where all secrets are absent, the stored one stays while nothing else changes.
    #[schemars(with = "Option<String>", example = &"registrar-secret-0123456789")]
    client_secret: Option<SecretString>,
    /// Initial access token that authorizes registrations, without a `client_id`; without either, registration is open.
    #[schemars(with = "Option<String>", example = &"initial-access-token-0123456789")]
    initial_access_token: Option<SecretString>,
    /// File with the client secret or the initial access token; a line break at its end is ignored.
    #[schemars(example = &"/run/secrets/registrar")]
    pub(in crate::services) secret_file: Option<PathBuf>,
    /// Whether new agents are registered. Registered agents are deleted in any case.
    #[serde(default = "enabled")]
    #[schemars(example = false)]
    enabled: bool,
    #[serde(skip)]
    pub(in crate::services) place: Place,
}

fn enabled() -> bool {
    true
}

/// The members of a registrar as declared.
pub(in crate::services) fn members(settings: &RegistrarSettings) -> Members {
    match json!(settings) {
        Value::Object(members) => members,
        _ => Members::new(),
    }
}

impl RegistrarDeclaration {
    fn settings(&self) -> Result<RegistrarSettings, &'static str> {
        let (registration_endpoint, token_endpoint) = match (self.kind, &self.issuer) {
            (RegistrarKind::Keycloak, Some(issuer)) => {
                let of = |path: &str| format!("{}/{path}", issuer.trim_end_matches('/'));
                let registration = self.registration_endpoint.clone();
                let token = self.token_endpoint.clone();
                (
                    registration.unwrap_or_else(|| of("clients-registrations/openid-connect")),
                    Some(token.unwrap_or_else(|| of("protocol/openid-connect/token"))),
                )
            }
            (RegistrarKind::Keycloak, None) => return Err("issuer is needed for kind keycloak"),
            (RegistrarKind::Rfc7591, _) => {
                let registration = self.registration_endpoint.clone();
                let registration = registration.ok_or("registration_endpoint is needed for kind rfc7591")?;
                (registration, self.token_endpoint.clone())
            }
        };
        if self.client_id.is_some() && token_endpoint.is_none() {
            return Err("token_endpoint is needed with a client_id");
        }
        Ok(RegistrarSettings {
            kind: self.kind,
            issuer: self.issuer.clone(),
            registration_endpoint,
            token_endpoint: token_endpoint.filter(|_| self.client_id.is_some()),
            client_id: self.client_id.clone(),
            enabled: self.enabled,
        })
    }

    fn secret(&self) -> Result<Option<SecretString>, String> {
        let declared = [&self.client_secret, &self.initial_access_token];
        let count = declared.into_iter().flatten().count() + usize::from(self.secret_file.is_some());
        if count > 1 {
            return Err("client_secret, initial_access_token and secret_file exclude each other".to_owned());
        }
        if self.client_secret.is_some() != self.client_id.is_some()
            && count == 1
            && self.secret_file.is_none()
        {
            return Err("client_secret belongs to a client_id, initial_access_token to none".to_owned());
        }
        match &self.secret_file {
            Some(path) => secret::read_file(path).map(Some).map_err(|fault| fault.to_string()),
            None => Ok(declared.into_iter().flatten().next().cloned()),
        }
    }
}

/// Creates what registrars in a manifest need before the transaction.
pub(in crate::services) async fn prepare(
    pool: &PgPool,
    vault: Option<&CredentialCache>,
    declared: &[RegistrarDeclaration],
    now: OffsetDateTime,
) -> Result<(), Fault> {
    if declared.is_empty() {
        return Ok(());
    }
    let vault = vault.ok_or_else(|| Fault::new("registrars need the master key"))?;
    keys::ensure_data_key(pool, vault.keys.master(), now).await
}

/// Stores a declared registrar. Returns the members that changed, `None` for a new registrar; the caller records the event.
///
/// # Errors
/// The place and the reason of a declaration that cannot be used, or a fault.
pub(in crate::services) async fn put(
    connection: &mut PgConnection,
    vault: &CredentialCache,
    declared: &RegistrarDeclaration,
    now: OffsetDateTime,
) -> Result<Option<Vec<MemberChange>>, Fault> {
    let bad = |why: &str| Fault::new(format!("registrar {}: {why}", declared.id));
    if !provider::is_id(&declared.id) {
        return Err(bad("id may have letters, digits and -_., at most 64"));
    }
    let settings = declared.settings().map_err(bad)?;
    let urls = [Some(&settings.registration_endpoint), settings.token_endpoint.as_ref()];
    if let Some(url) = urls.into_iter().flatten().find(|url| !vault.outbound.may_fetch(url)) {
        return Err(bad(&format!("{url} must be https, at a public address or one of outbound.allow")));
    }
    let secret = declared.secret().map_err(|why| bad(&why))?;
    let old = store::find(connection, &declared.id).await?;
    let (secret, changes) = match &old {
        None => (secret, None),
        Some(old) => {
            let stored = old.secret(&vault.keys, connection).await?;
            let mut changes = differences(&members(&old.settings), &members(&settings));
            // A secret does not go to an address that was declared without it.
            let secret = match secret {
                None if changes.is_empty() => stored.clone(),
                secret => secret,
            };
            let text =
                |secret: &Option<SecretString>| secret.as_ref().map(|one| one.expose_secret().to_owned());
            let change = match (text(&stored), text(&secret)) {
                (old, new) if old == new => None,
                (None, _) => Some(SecretChange::Set),
                (_, None) => Some(SecretChange::Removed),
                _ => Some(SecretChange::Replaced),
            };
            changes.extend(change.map(|change| MemberChange::secret("secret", change)));
            if changes.is_empty() {
                return Ok(Some(changes));
            }
            (secret, Some(changes))
        }
    };
    if settings.client_id.is_some() && secret.is_none() {
        return Err(bad("client_secret is needed with a client_id"));
    }
    let text = secret.as_ref().map(|secret| secret.expose_secret()).unwrap_or_default();
    let sealed = vault.keys.seal(connection, &aad(&declared.id, &settings)?, text.as_bytes()).await?;
    store::put(connection, &Registrar { id: declared.id.clone(), settings, sealed, updated_at: now }).await?;
    Ok(changes)
}
