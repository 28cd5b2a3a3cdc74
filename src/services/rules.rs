//! The rules of this installation: listed, shown and removed. `apply` declares rules and switches them off.

use serde::Serialize;

use super::request_context::RequestContext;
use super::transaction::AuditedTransaction;
use crate::domain::audit::EventKind;
use crate::domain::audit::detail::ChangedRules;
use crate::domain::finding::{DeclaredRules, Rule, built_in, store};
use crate::domain::refusal::Error;
use crate::platform::fault::Fault;

/// Where a rule comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RuleSource {
    BuiltIn,
    Declared,
}

/// A rule with its state.
#[derive(Debug, Clone, Serialize)]
pub struct RuleView {
    #[serde(flatten)]
    pub rule: Rule,
    pub source: RuleSource,
    pub enabled: bool,
}

#[derive(Debug, Serialize)]
pub struct RuleRemoval {
    pub id: String,
}

/// All rules: the built-in rules, then the declared ones.
pub async fn list(ctx: &RequestContext<'_>) -> Result<Vec<RuleView>, Error> {
    ctx.caller.require_administrator()?;
    let mut connection = ctx.pool.acquire().await?;
    let DeclaredRules { rules, off, .. } = store::load(ctx.rows, &mut connection).await?;
    let built_in = built_in().map_err(Fault::from)?.into_iter().map(|rule| (rule, RuleSource::BuiltIn));
    let all = built_in.chain(rules.into_values().map(|rule| (rule, RuleSource::Declared)));
    Ok(all.map(|(rule, source)| RuleView { enabled: !off.contains(&rule.id), rule, source }).collect())
}

/// Removes a declared rule; `None` if no rule of this id was declared. A built-in rule can only be switched off.
pub async fn remove(ctx: &RequestContext<'_>, id: &str) -> Result<Option<RuleRemoval>, Error> {
    ctx.caller.require_administrator()?;
    let mut work = AuditedTransaction::begin_serialized(ctx.pool).await?;
    let mut declared = store::load(ctx.rows, work.connection()).await?;
    if declared.rules.remove(id).is_none() {
        work.abandon().await?;
        return Ok(None);
    }
    declared.off.remove(id);
    store::put(ctx.rows, work.connection(), declared).await?;
    let change = ChangedRules { removed: vec![id.to_owned()], ..ChangedRules::default() };
    work.commit(&[ctx.event(EventKind::RulesChanged(change))]).await?;
    Ok(Some(RuleRemoval { id: id.to_owned() }))
}
