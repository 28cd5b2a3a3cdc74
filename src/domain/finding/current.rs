//! The rules that a server uses at present. Its parts share one handle.

use std::sync::{Arc, PoisonError, RwLock};

use super::rule_set::RuleSet;

/// A handle; cheap to clone.
#[derive(Debug, Clone)]
pub struct CurrentRules(Arc<RwLock<Loaded>>);

#[derive(Debug)]
struct Loaded {
    version: i64,
    set: RuleSet,
}

impl CurrentRules {
    /// Rules with the version of the declared rules.
    pub fn new(version: i64, set: RuleSet) -> Self {
        Self(Arc::new(RwLock::new(Loaded { version, set })))
    }

    pub fn version(&self) -> i64 {
        self.0.read().unwrap_or_else(PoisonError::into_inner).version
    }

    pub fn set(&self) -> RuleSet {
        self.0.read().unwrap_or_else(PoisonError::into_inner).set.clone()
    }

    /// Uses other rules from now on. A slow read must not replace the result of a faster read that began later.
    pub fn replace(&self, version: i64, set: RuleSet) {
        let mut present = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if version >= present.version {
            *present = Loaded { version, set };
        }
    }
}
