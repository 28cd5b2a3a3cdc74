//! How an issuer introspects its tokens, and what it said lately.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration as WallDuration;

use moka::sync::Cache;
use schemars::JsonSchema;
use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use time::{Duration, OffsetDateTime};
use tokio::sync::Mutex;

use super::client::AuthMethod;
use super::issuer_secret;
use super::subject::VerifiedSubject;
use crate::platform::fault::{Context, Fault};
use crate::platform::seal::SealingKey;
use actchain_protocol::token_problem::TokenProblem;

/// Maximum of `cache`, in seconds.
pub const MAX_CACHE: u32 = 60;
/// How long a refusal or a failure is remembered.
const PAUSE: Duration = Duration::seconds(5);
/// Maximum number of remembered tokens.
const MAX_TOKENS: u64 = 5_000;

/// Whether responses have to name the audiences of a token.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "IntrospectedAudience")]
pub enum AudienceRule {
    /// A token without `aud` is refused.
    #[default]
    Required,
    /// A token without `aud` is accepted: the issuer answers this server only for tokens that are meant for it.
    Optional,
}

/// The introspection endpoint of an issuer (RFC 7662), and this server's registration there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IntrospectionSettings {
    pub endpoint: String,
    pub client_id: String,
    pub auth: AuthMethod,
    /// Whether responses have to be signed (RFC 9701).
    pub signed: bool,
    pub audience: AudienceRule,
    /// How long an active token is remembered, in seconds; not after its expiry.
    pub cache: u32,
}

/// Introspection as registered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Introspection {
    pub settings: IntrospectionSettings,
    /// This server's client secret at the issuer, sealed together with the settings; absent for assertions.
    pub sealed: Option<String>,
}

impl Introspection {
    /// Opens the secret. The seal authenticates the settings: a writer with access to the database alone cannot send the
    /// secret to another address.
    ///
    /// # Errors
    /// A fault if there is no secret, or if it was sealed for another issuer or other settings.
    pub fn secret(&self, iss: &str, key: &SealingKey) -> Result<SecretString, Fault> {
        issuer_secret::open(key, &Self::secret_row(iss, &self.settings)?, self.sealed.as_deref())
    }

    /// The additional authenticated data of the secret.
    pub fn secret_row(iss: &str, settings: &IntrospectionSettings) -> Result<String, Fault> {
        let settings = serde_json::to_value(settings).context("writing the introspection of an issuer")?;
        issuer_secret::row(iss, &settings)
    }
}

/// What an issuer says about a token.
#[derive(Debug, Clone)]
pub enum Introspected {
    Active(Arc<VerifiedSubject>),
    Refused(TokenProblem),
    /// There is no response that could be believed.
    Unavailable,
}

#[derive(Debug)]
struct Remembered {
    until: OffsetDateTime,
    introspected: Introspected,
}

/// What issuers said lately, by token. Concurrent requests with one token wait for one introspection.
#[derive(Debug)]
pub struct IntrospectionCache(Cache<[u8; 32], Arc<Mutex<Option<Remembered>>>>);

impl Default for IntrospectionCache {
    fn default() -> Self {
        let idle = WallDuration::from_secs(u64::from(2 * MAX_CACHE));
        Self(Cache::builder().max_capacity(MAX_TOKENS).time_to_idle(idle).build())
    }
}

impl IntrospectionCache {
    /// What was said about a token, or what `introspect` says now; an active token is remembered for `life`.
    pub async fn get_or(
        &self,
        token: [u8; 32],
        now: OffsetDateTime,
        life: Duration,
        introspect: impl Future<Output = Introspected>,
    ) -> Introspected {
        let entry = self.0.get_with(token, Arc::default);
        let mut entry = entry.lock().await;
        // After the clock was set back, `until` can be far in the future.
        let longest = Duration::seconds(MAX_CACHE.into());
        let current = |one: &&Remembered| now < one.until && one.until - now <= longest;
        if let Some(one) = entry.as_ref().filter(current) {
            return one.introspected.clone();
        }
        let introspected = introspect.await;
        let life = match introspected {
            Introspected::Active(_) => life,
            Introspected::Refused(_) => life.min(PAUSE),
            Introspected::Unavailable => PAUSE,
        };
        *entry = Some(Remembered { until: now + life, introspected: introspected.clone() });
        introspected
    }
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret as _;

    use super::*;
    use crate::platform::secret::MasterKey;

    #[test]
    fn a_secret_opens_for_its_issuer_and_its_settings_only() {
        let key = SealingKey::of(&MasterKey::generate().unwrap());
        let settings = IntrospectionSettings {
            endpoint: "https://idp.example/introspect".into(),
            client_id: "us".into(),
            auth: AuthMethod::ClientSecretBasic,
            signed: false,
            audience: AudienceRule::Required,
            cache: 30,
        };
        let row = Introspection::secret_row("https://idp.example", &settings).unwrap();
        let sealed = Some(key.seal(&row, b"s3cret").unwrap());
        let one = Introspection { settings: settings.clone(), sealed };
        assert_eq!(one.secret("https://idp.example", &key).unwrap().expose_secret(), "s3cret");
        assert!(one.secret("https://other.example", &key).is_err());
        let endpoint = "https://evil.example/introspect".to_owned();
        let moved = Introspection { settings: IntrospectionSettings { endpoint, ..settings }, ..one.clone() };
        assert!(moved.secret("https://idp.example", &key).is_err());
        assert!(Introspection { sealed: None, ..one }.secret("https://idp.example", &key).is_err());
    }
}
