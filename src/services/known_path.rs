//! The path of one delegation, read once a minute: the ledger checks what rests on it.

use std::sync::Arc;

use time::OffsetDateTime;

use crate::app::App;
use crate::domain::delegation::candidates::{self, CandidatePaths, DelegationSearch, Memory};
use crate::domain::ledger::Freshness;
use crate::platform::fault::Fault;

/// A path as it was read, for this request or for an earlier one.
#[derive(Debug, Clone)]
pub(super) struct KnownPath {
    pub(super) found: Arc<CandidatePaths>,
    pub(super) freshness: Freshness,
}

/// Reads the path, unless it is in memory.
pub(super) async fn find(
    app: &App,
    search: &DelegationSearch,
    memory: Memory,
    now: OffsetDateTime,
) -> Result<KnownPath, Fault> {
    if let Some(found) = app.caches.paths.get(search).filter(|_| memory == Memory::Usable) {
        let ends_at = found.iter().flat_map(|path| &path.0).map(|one| one.facts.expires_at).min();
        return Ok(KnownPath { found, freshness: ends_at.map_or(Freshness::Fresh, Freshness::Cached) });
    }
    let found =
        app.read(async |connection| candidates::find(&app.rows, connection, search, &[], now).await).await?;
    let found = Arc::new(found);
    if !found.is_empty() {
        app.caches.paths.insert(search.clone(), Arc::clone(&found));
    }
    Ok(KnownPath { found, freshness: Freshness::Fresh })
}
