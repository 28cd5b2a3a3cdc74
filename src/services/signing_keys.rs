//! The signing keys of this server, as listed. Their public parts are in the JWKS.

use serde::Serialize;

use super::page::{Page, PageRequest, page_of};
use super::request_context::RequestContext;
use crate::domain::key::{self, KeyPurpose, KeyState, StoredKey};
use crate::domain::refusal::Error;
use crate::platform::clock::rfc3339;

/// A signing key without its private part.
#[derive(Debug, Clone, Serialize)]
pub struct SigningKeyView {
    pub kid: String,
    pub purpose: KeyPurpose,
    pub alg: &'static str,
    pub stage: KeyState,
    pub created_at: String,
    pub activated_at: Option<String>,
    pub retired_at: Option<String>,
}

impl From<&StoredKey> for SigningKeyView {
    fn from(key: &StoredKey) -> Self {
        Self {
            kid: key.kid.clone(),
            purpose: key.purpose,
            alg: key.alg.name(),
            stage: key.state(),
            created_at: rfc3339(key.created_at),
            activated_at: key.activated_at.map(rfc3339),
            retired_at: key.retired_at.map(rfc3339),
        }
    }
}

/// A page of the keys that were not removed, by `kid`; of one purpose if it is named.
pub async fn list(
    ctx: &RequestContext<'_>,
    purpose: Option<KeyPurpose>,
    page: &PageRequest,
) -> Result<Page<SigningKeyView>, Error> {
    ctx.caller.require_administrator()?;
    let keys = key::store::list(&mut *ctx.pool.acquire().await?).await?;
    let listed = keys.iter().filter(|key| key.removed_at.is_none());
    let listed = listed.filter(|key| purpose.is_none_or(|purpose| key.purpose == purpose));
    Ok(page_of(listed.map(|key| (key.kid.clone(), key.into())).collect(), None, page)?)
}
