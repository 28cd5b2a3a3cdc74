//! The names of persons that a server has used before. An erasure raises a number at the head of the log: names that were
//! read under another number are not used again.

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, OnceLock};

use moka::sync::Cache;
use sqlx::PgConnection;

use super::{LogNames, store};
use crate::domain::principal::Principal;
use crate::platform::fault::Fault;

const MAX_PERSONS: u64 = 100_000;

#[derive(Debug, Clone)]
struct CachedName {
    pseudonym: Arc<str>,
    erasures: i64,
}

#[derive(Debug)]
pub struct PersonCache {
    own_issuer: OnceLock<Arc<str>>,
    persons: Cache<Principal, CachedName>,
    /// The highest known number of erasures.
    erasures: AtomicI64,
}

impl Default for PersonCache {
    fn default() -> Self {
        let persons = Cache::builder().max_capacity(MAX_PERSONS).build();
        Self { own_issuer: OnceLock::new(), persons, erasures: AtomicI64::new(0) }
    }
}

impl PersonCache {
    /// The names of principals, without a statement if all of them are known. New persons are inserted, outside of any
    /// transaction, so that no other transaction waits for them.
    pub async fn assign_names(
        &self,
        connection: &mut PgConnection,
        wanted: BTreeSet<Principal>,
    ) -> Result<LogNames, Fault> {
        match self.known(&wanted) {
            Some(names) => Ok(names),
            None => {
                let names = store::put_persons(connection, &wanted).await?;
                self.learn(&names);
                Ok(names)
            }
        }
    }

    fn known(&self, wanted: &BTreeSet<Principal>) -> Option<LogNames> {
        let own_issuer = self.own_issuer.get().cloned();
        let erasures = self.erasures.load(Ordering::Acquire);
        let mut persons = HashMap::new();
        for who in wanted.iter().filter(|who| own_issuer.as_deref() != Some(&who.iss)) {
            let cached = self.persons.get(who).filter(|cached| cached.erasures == erasures)?;
            persons.insert(who.clone(), cached.pseudonym);
        }
        Some(LogNames { own_issuer, persons, erasures: Some(erasures) })
    }

    fn learn(&self, names: &LogNames) {
        if let Some(own) = &names.own_issuer {
            let _ = self.own_issuer.set(Arc::clone(own));
        }
        let Some(erasures) = names.erasures else { return };
        self.erasures.fetch_max(erasures, Ordering::AcqRel);
        for (who, pseudonym) in &names.persons {
            let cached = CachedName { pseudonym: Arc::clone(pseudonym), erasures };
            self.persons.insert(who.clone(), cached);
        }
    }

    /// Names that were read before this number of erasures are read again.
    pub fn outdate(&self, erasures: i64) {
        self.erasures.fetch_max(erasures, Ordering::AcqRel);
    }
}
