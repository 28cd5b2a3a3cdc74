//! Lifecycle of signing keys: created, published, active, retiring, removed.

use sqlx::postgres::PgPool;
use time::{Duration, OffsetDateTime};
use zeroize::Zeroizing;

use super::transaction::{AuditedTransaction, Authorized};
use crate::domain::audit::detail::SealingChange;
use crate::domain::audit::{Actor, Event, EventKind};
use crate::domain::data_key::{self, StoredDataKey};
use crate::domain::key::{
    self, KeyPurpose, KeyState, PLACES, ROW_MAC, SHARED_SECRETS, StoredKey, secret_row,
};
use crate::domain::registry;
use crate::domain::registry::store::IssuerSecret;
use crate::domain::row_mac::{self, RowMac};
use crate::platform::config;
use crate::platform::fault::Fault;
use crate::platform::seal::SealingKey;
use actchain_protocol::jose::SigningAlg;
use actchain_protocol::random;

/// Minimum time that a retiring key stays in the JWKS, for servers that have not read the retirement yet.
const LINGER: Duration = Duration::seconds(60);

/// Whether a rotation may activate a key that relying parties may not have fetched yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RotationPolicy {
    /// Rotates only if the active key has signed for long enough.
    WhenDue,
    /// Refuses a next key that was not published for long enough.
    Patient,
    /// Activates the next key; relying parties may refuse tokens until they fetch the JWKS again.
    Forced,
}

impl RotationPolicy {
    /// Only the server's own job asks whether a rotation is due.
    fn actor(self) -> Actor {
        match self {
            Self::WhenDue => Actor::Server,
            Self::Patient | Self::Forced => Actor::Operator,
        }
    }
}

/// Creates the signing keys that a server needs, if missing. Also checks that the master key is the right key.
pub async fn ensure(
    pool: &PgPool,
    seal: &SealingKey,
    settings: &config::KeyConfig,
    now: OffsetDateTime,
) -> Result<(), Fault> {
    ensure_data_key(pool, seal, now).await?;
    let mut connection = pool.acquire().await?;
    let found = key::store::list(&mut connection).await?;
    drop(connection);
    for active in found.iter().filter(|key| key.state() == KeyState::Active) {
        active.open(seal)?;
    }
    if wanted(settings).iter().all(|(purpose, stage, _)| has(&found, *purpose, *stage)) {
        return Ok(());
    }
    let mut work = AuditedTransaction::begin(pool).await?;
    key::store::lock(work.connection()).await?;
    let found = key::store::list(work.connection()).await?;
    let change = KeyEventSource { actor: Actor::Server, now };
    let mut events = Vec::new();
    for (purpose, stage, alg) in wanted(settings) {
        if has(&found, purpose, stage) {
            continue;
        }
        let activated_at = (stage == KeyState::Active).then_some(now);
        let made = StoredKey { activated_at, ..StoredKey::generate(purpose, alg, seal, now)? };
        key::store::insert(work.connection(), &made).await?;
        events.push(change.event(&made, stage));
    }
    if events.is_empty() {
        return Ok(());
    }
    work.commit(&events).await
}

/// Wraps by the master key the keys that a previous master key has wrapped; returns their number.
pub async fn rewrap(pool: &PgPool, master: &SealingKey, now: OffsetDateTime) -> Result<usize, Fault> {
    let mut work = AuditedTransaction::begin_serialized(pool).await?;
    key::store::lock(work.connection()).await?;
    let mut events = Vec::new();
    let mut note = |what: &str| {
        let kind =
            EventKind::VaultKeyRotated(SealingChange::Rewrapped { master_key: master.id().to_owned() });
        events.push(Event { target: Some(what.to_owned()), ..Event::new(now, kind, Actor::Operator) });
    };
    for one in key::store::list(work.connection()).await?.iter().filter(|one| !master.made(&one.sealed)) {
        key::store::put_sealed(work.connection(), &one.kid, &one.resealed(master)?).await?;
        note(&one.kid);
    }
    let data_keys = data_key::store::list(work.connection()).await?;
    for one in data_keys.iter().filter(|one| !master.made(&one.wrapped)) {
        data_key::store::put_wrapped(work.connection(), &one.id, &one.rewrapped(master)?).await?;
        note(&one.id);
    }
    for name in SHARED_SECRETS {
        let stored = key::store::find_secret(work.connection(), name).await?;
        let Some(sealed) = stored.filter(|sealed| !master.made(sealed)) else { continue };
        let secret = master.open(&secret_row(name), &sealed)?;
        key::store::put_secret(work.connection(), name, &master.seal(&secret_row(name), &secret)?).await?;
        note(name);
    }
    for one in registry::store::issuer_secrets(work.connection()).await? {
        if master.made(&one.sealed) {
            continue;
        }
        let secret = master.open(&one.row, &one.sealed)?;
        let sealed = master.seal(&one.row, &secret)?;
        let resealed = IssuerSecret { sealed, ..one };
        registry::store::put_issuer_secret(work.connection(), &resealed).await?;
        note(&resealed.iss);
    }
    let wrapped = events.len();
    if wrapped > 0 {
        work.commit(&events).await?;
    }
    Ok(wrapped)
}

/// Creates the vault's data key and the secrets shared by all servers, if missing. Also checks that the master key is
/// the right key.
pub async fn ensure_data_key(pool: &PgPool, master: &SealingKey, now: OffsetDateTime) -> Result<(), Fault> {
    let mut connection = pool.acquire().await?;
    let found = data_key::store::list(&mut connection).await?;
    let mut shared = Vec::new();
    for name in SHARED_SECRETS {
        shared.push(key::store::find_secret(&mut connection, name).await?);
    }
    drop(connection);
    for key in &found {
        key.open(master)?;
    }
    let active = |keys: &[StoredDataKey]| keys.iter().any(|key| key.retired_at.is_none());
    if active(&found) && shared.iter().all(Option::is_some) {
        return Ok(());
    }
    let mut work = AuditedTransaction::begin_serialized(pool).await?;
    let mut events = Vec::new();
    let created = |name: &str| Event {
        target: Some(name.to_owned()),
        ..Event::new(now, EventKind::VaultKeyRotated(SealingChange::Created), Actor::Server)
    };
    if !active(&data_key::store::list(work.connection()).await?) {
        let made = StoredDataKey::generate(master, now)?;
        data_key::store::put_active(work.connection(), &made).await?;
        events.push(created(&made.id));
    }
    if key::store::find_secret(work.connection(), PLACES).await?.is_none() {
        let secret = Zeroizing::new(random::bytes::<32>()?);
        let sealed = master.seal(&secret_row(PLACES), secret.as_slice())?;
        key::store::put_secret(work.connection(), PLACES, &sealed).await?;
        events.push(created(PLACES));
    }
    if key::store::find_secret(work.connection(), ROW_MAC).await?.is_none() {
        work.upgrade(Authorized::without_request()).await?;
        make_row_mac(&mut work, master).await?;
        events.push(created(ROW_MAC));
    }
    if events.is_empty() {
        return Ok(());
    }
    work.commit(&events).await
}

/// Creates the key of the row MACs, in a database without rows that need a MAC.
async fn make_row_mac(work: &mut AuditedTransaction, master: &SealingKey) -> Result<(), Fault> {
    // Existing rows without the key were sealed by a removed key, or are forged. No row is trusted without a valid
    // MAC.
    if row_mac::has_rows(work.connection()).await? {
        return Err(Fault::new(format!(
            "the secret {ROW_MAC} is missing, but there are rows that need it: restore the table server_secret from a backup; \
             a database of a development version from before rows had MACs is created again"
        )));
    }
    let secret = Zeroizing::new(random::bytes::<32>()?);
    let sealed = master.seal(&secret_row(ROW_MAC), secret.as_slice())?;
    key::store::put_secret(work.connection(), ROW_MAC, &sealed).await
}

/// The key of the row MACs, for a command; created if missing.
pub async fn open_row_mac(pool: &PgPool, master: &SealingKey, now: OffsetDateTime) -> Result<RowMac, Fault> {
    ensure_data_key(pool, master, now).await?;
    RowMac::open(&mut *pool.acquire().await?, master).await
}

fn wanted(settings: &config::KeyConfig) -> [(KeyPurpose, KeyState, SigningAlg); 3] {
    [
        (KeyPurpose::Token, KeyState::Active, settings.algorithm),
        (KeyPurpose::Token, KeyState::Next, settings.algorithm),
        (KeyPurpose::Checkpoint, KeyState::Active, SigningAlg::Ed25519),
    ]
}

fn has(keys: &[StoredKey], purpose: KeyPurpose, stage: KeyState) -> bool {
    keys.iter().any(|key| key.purpose == purpose && key.state() == stage)
}

/// Activates the next token key, retires the present key, and creates another next key. Returns the active `kid`, or
/// `None` if no rotation was due.
///
/// # Errors
/// A fault if the next key has not been published long enough, unless forced.
pub async fn rotate(
    pool: &PgPool,
    seal: &SealingKey,
    settings: &config::KeyConfig,
    policy: RotationPolicy,
    now: OffsetDateTime,
) -> Result<Option<String>, Fault> {
    let mut work = AuditedTransaction::begin(pool).await?;
    key::store::lock(work.connection()).await?;
    let keys = key::store::list(work.connection()).await?;
    if policy == RotationPolicy::WhenDue && !is_due(&keys, settings, now) {
        return Ok(None);
    }
    let at = |stage| keys.iter().find(|key| key.purpose == KeyPurpose::Token && key.state() == stage);
    let next = at(KeyState::Next).ok_or_else(|| Fault::new("there is no next key to rotate to"))?;
    let published = now - next.created_at;
    if policy != RotationPolicy::Forced && published < Duration::seconds(settings.prepublish.into()) {
        return Err(Fault::new(format!(
            "the next key has been published for {} s only, keys.prepublish asks for {} s (--force overrides)",
            published.whole_seconds(),
            settings.prepublish
        )));
    }
    let change = KeyEventSource { actor: policy.actor(), now };
    let mut events = Vec::new();
    if let Some(active) = at(KeyState::Active) {
        key::store::mark_retired(work.connection(), &active.kid, now).await?;
        events.push(change.event(active, KeyState::Retiring));
    }
    key::store::mark_active(work.connection(), &next.kid, now).await?;
    events.push(change.event(next, KeyState::Active));
    let another = StoredKey::generate(KeyPurpose::Token, settings.algorithm, seal, now)?;
    key::store::insert(work.connection(), &another).await?;
    events.push(change.event(&another, KeyState::Next));
    let kid = next.kid.clone();
    work.commit(&events).await?;
    Ok(Some(kid))
}

/// Activates a new checkpoint key and returns its `kid`. The previous key is kept forever, so that its checkpoints
/// still verify.
pub async fn rotate_log(pool: &PgPool, seal: &SealingKey, now: OffsetDateTime) -> Result<String, Fault> {
    let mut work = AuditedTransaction::begin(pool).await?;
    key::store::lock(work.connection()).await?;
    let keys = key::store::list(work.connection()).await?;
    let change = KeyEventSource { actor: Actor::Operator, now };
    let mut events = Vec::new();
    let active =
        keys.iter().filter(|key| key.purpose == KeyPurpose::Checkpoint && key.state() == KeyState::Active);
    for former in active {
        key::store::mark_retired(work.connection(), &former.kid, now).await?;
        events.push(change.event(former, KeyState::Retiring));
    }
    let made = StoredKey::generate(KeyPurpose::Checkpoint, SigningAlg::Ed25519, seal, now)?;
    let made = StoredKey { activated_at: Some(now), ..made };
    key::store::insert(work.connection(), &made).await?;
    events.push(change.event(&made, KeyState::Active));
    work.commit(&events).await?;
    Ok(made.kid)
}

/// Whether the active token key has signed for long enough, and the next key has been published for long enough.
pub fn is_due(keys: &[StoredKey], settings: &config::KeyConfig, now: OffsetDateTime) -> bool {
    let token = |stage| keys.iter().find(move |key| key.purpose == KeyPurpose::Token && key.state() == stage);
    let old = token(KeyState::Active)
        .and_then(|key| key.activated_at)
        .is_some_and(|at| now - at >= Duration::seconds(settings.rotate_every.into()));
    let known = token(KeyState::Next)
        .is_some_and(|key| now - key.created_at >= Duration::seconds(settings.prepublish.into()));
    old && known
}

/// Removes retiring token keys whose tokens have all expired. Returns the number of removed keys.
pub async fn remove_spent(pool: &PgPool, now: OffsetDateTime) -> Result<usize, Fault> {
    let mut connection = pool.acquire().await?;
    let keys = key::store::list(&mut connection).await?;
    drop(connection);
    let spent = |key: &&StoredKey| {
        // Checkpoints are kept forever, and so are the keys that verify them.
        key.purpose == KeyPurpose::Token
            && key.state() == KeyState::Retiring
            && key.retired_at.is_some_and(|at| now - at >= LINGER)
    };
    let change = KeyEventSource { actor: Actor::Server, now };
    let mut removed = 0;
    for key in keys.iter().filter(spent) {
        let mut work = AuditedTransaction::begin(pool).await?;
        if key::store::mark_removed(work.connection(), &key.kid, now).await? {
            work.commit(&[change.event(key, KeyState::Removed)]).await?;
            removed += 1;
        }
    }
    Ok(removed)
}

/// Who changes keys, and when.
#[derive(Clone)]
struct KeyEventSource {
    actor: Actor,
    now: OffsetDateTime,
}

impl KeyEventSource {
    fn event(&self, key: &StoredKey, stage: KeyState) -> Event {
        let (purpose, alg) = (key.purpose, key.alg.name().to_owned());
        let kind = EventKind::KeyChanged { stage, purpose, alg };
        Event { target: Some(key.kid.clone()), ..Event::new(self.now, kind, self.actor.clone()) }
    }
}
