//! Declared rules: their bounds, and the ids that are reserved for built-in rules.

use schemars::JsonSchema;
use serde::Deserialize;

use crate::domain::finding::Rule;
use crate::platform::yaml::{InvalidDeclaration, Place};

/// A rule with its place in the manifest.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(from = "Rule")]
#[schemars(with = "Rule")]
pub struct RuleDeclaration {
    pub rule: Rule,
    pub(in crate::services) place: Place,
}

impl From<Rule> for RuleDeclaration {
    fn from(rule: Rule) -> Self {
        Self { rule, place: Place::default() }
    }
}

impl RuleDeclaration {
    /// Checks the bounds of the rule. Compiling its expressions takes time, so that the manifest is read on a thread of its
    /// own.
    pub(super) fn check(&self) -> Result<(), InvalidDeclaration> {
        let Rule { id, .. } = &self.rule;
        if self.rule.has_reserved_id() {
            let why = format!(
                "{id}: AC, CE and IAP are the built-in rules; choose other letters, such as ACME-001"
            );
            return Err(self.place.fault("id", why));
        }
        self.rule
            .check()
            .map_err(|invalid| self.place.fault(&invalid.member, format!("{id}: {}", invalid.why)))
    }
}
