//! The rules of an installation: those that come with the server and those that were declared, without those that are off.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::built_in::built_in;
use super::rule::Rule;
use super::rule_set::RuleSet;
use crate::domain::row_mac::MacRow;
use crate::platform::fault::Fault;

/// The name of the row.
pub(super) const ROW: &str = "declared";
/// Prefixes of the ids of built-in rules.
const RESERVED: [&str; 3] = ["AC-", "CE-", "IAP-"];

/// What was declared about rules.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DeclaredRules {
    /// Increases with every change; 0 if nothing was ever declared.
    pub version: i64,
    pub rules: BTreeMap<String, Rule>,
    /// Ids of the rules that are off.
    pub off: BTreeSet<String>,
}

impl DeclaredRules {
    /// The rules that are on.
    ///
    /// # Errors
    /// A fault that names a rule that this version cannot use.
    pub fn active(&self) -> Result<RuleSet, Fault> {
        let rules = built_in()?.into_iter().chain(self.rules.values().cloned());
        let rules: Vec<Rule> = rules.filter(|rule| !self.off.contains(&rule.id)).collect();
        let ids: Vec<String> = rules.iter().map(|rule| rule.id.clone()).collect();
        RuleSet::compile(rules).map_err(|(index, invalid)| {
            let id = ids.get(index).map_or("", String::as_str);
            Fault::new(format!("rule {id}: {invalid}"))
        })
    }
}

impl Rule {
    /// Whether the id is one of those that built-in rules have, now or in later versions.
    pub fn has_reserved_id(&self) -> bool {
        RESERVED.iter().any(|prefix| self.id.starts_with(prefix))
    }
}

impl MacRow for DeclaredRules {
    const TABLE: &'static str = "rule_set";
    const KEY: &'static str = "name";

    fn row_id(&self) -> &str {
        ROW
    }

    fn content(&self) -> Value {
        let Self { version, rules, off } = self;
        json!({"version": version, "rules": rules, "rules_off": off})
    }
}
