//! What a server remembers. Entries can be outdated: the ledger checks decisions that rest on them.

use std::sync::Arc;
use std::time::Duration;

use moka::sync::Cache;
use time::OffsetDateTime;

use crate::domain::client::Client;
use crate::domain::delegation::candidates::{CandidatePaths, DelegationSearch};
use crate::domain::introspection::IntrospectionCache;
use crate::domain::jwks_cache::JwksCache;
use crate::domain::secret_cache::SecretCache;
use crate::domain::session::names::SessionNames;
use crate::domain::subject::VerifiedSubject;
use crate::domain::token::VerifiedOwnToken;
use crate::platform::fault::Fault;
use crate::platform::outbound::Outbound;

/// Maximum number of cached delegations; a delegation counts once for each cached path that contains it.
const MAX_DELEGATIONS: u64 = 50_000;
const LIFETIME: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub struct Caches {
    /// Clients by their client id.
    pub clients: Cache<String, Arc<Client>>,
    /// Names that no client has, by registry version. A new client raises the version.
    pub names_of_no_client: Cache<(i64, String), ()>,
    /// Paths of delegations, by the query that found them.
    pub paths: Cache<DelegationSearch, Arc<CandidatePaths>>,
    /// Verified subject tokens by digest, for one minute: the longest time that a withdrawn key is still accepted.
    pub subjects: Cache<[u8; 32], Arc<VerifiedSubject>>,
    /// Verified tokens of this server by digest, for introspection. A token counts while its key is in use.
    pub own_tokens: Cache<[u8; 32], Arc<VerifiedOwnToken>>,
    /// What issuers said about access tokens, for a minute at most.
    pub introspections: IntrospectionCache,
    /// Client secrets that were verified recently.
    pub secrets: SecretCache,
    /// What names of sessions mean, for reports of steps.
    pub session_names: SessionNames,
    /// JWK Sets fetched from URLs of issuers and clients.
    pub jwk_sets: JwksCache,
    /// When the keys of a client were fetched that were compared with those of before, by client id.
    pub compared_keys: Cache<String, OffsetDateTime>,
}

impl Caches {
    pub(super) fn new(outbound: Outbound) -> Result<Self, Fault> {
        Ok(Self {
            clients: Cache::builder().max_capacity(10_000).time_to_live(LIFETIME).build(),
            names_of_no_client: Cache::builder().max_capacity(10_000).time_to_live(LIFETIME).build(),
            paths: Cache::builder()
                .weigher(|_, found: &Arc<CandidatePaths>| found.weight())
                .max_capacity(MAX_DELEGATIONS)
                .time_to_live(LIFETIME)
                .build(),
            subjects: Cache::builder().max_capacity(5_000).time_to_live(LIFETIME).build(),
            own_tokens: Cache::builder().max_capacity(5_000).time_to_live(LIFETIME).build(),
            introspections: IntrospectionCache::default(),
            secrets: SecretCache::new()?,
            session_names: SessionNames::default(),
            jwk_sets: JwksCache::new(outbound),
            compared_keys: Cache::new(10_000),
        })
    }
}
