//! The findings of a session as results of SARIF, under the rules of this server.

use std::collections::BTreeMap;

use serde_json::Value;
use sqlx::PgConnection;

use crate::domain::audit::last_keys::EarlierKey;
use crate::domain::audit::{Actor, findings};
use crate::domain::finding::{self, Finding, MatchMode, Severity, built_in};
use crate::platform::fault::Fault;
use crate::services::caller::Caller;
use crate::services::request_context::RequestContext;
use actchain_protocol::sarif;

/// The rules of this server. Rules that are off are among them: they may have matched before.
#[derive(Default)]
pub(super) struct RunRules {
    /// Those that a run describes even where they found nothing.
    pub(super) listed: Vec<sarif::Rule>,
    /// Those that it describes where they found something.
    pub(super) others: Vec<sarif::Rule>,
}

/// A user sees the declared rules that found something in its session, and no others.
pub(super) async fn rules(
    ctx: &RequestContext<'_>,
    connection: &mut PgConnection,
) -> Result<RunRules, Fault> {
    let declared = finding::store::load(ctx.rows, connection).await?;
    let mut listed: Vec<sarif::Rule> = built_in()?.iter().map(described).collect();
    let declared: Vec<sarif::Rule> = declared.rules.values().map(described).collect();
    if matches!(ctx.caller, Caller::User(_)) {
        return Ok(RunRules { listed, others: declared });
    }
    listed.extend(declared);
    Ok(RunRules { listed, others: Vec::new() })
}

fn described(rule: &finding::Rule) -> sarif::Rule {
    let targets: Vec<String> = rule.targets.iter().map(ToString::to_string).collect();
    let patterns = match rule.match_mode {
        MatchMode::Any => "one of its patterns occurs",
        MatchMode::All => "all of its patterns occur",
    };
    sarif::Rule {
        id: rule.id.clone().into(),
        sentence: rule.title.clone().into(),
        meaning: format!("{}: {patterns} in {}.", rule.title, targets.join(" or ")).into(),
        advice: "Read the event in the trace of the session. Revoke the delegation if its agent should not have done this.".into(),
        severity: level(rule.severity),
    }
}

/// A rule that was removed since it matched.
fn removed(finding: &Finding) -> sarif::Rule {
    sarif::Rule {
        id: finding.rule.clone().into(),
        sentence: "A rule that this server has no more".into(),
        meaning: "The rule matched when the event was recorded, and was removed later.".into(),
        advice: "Read the event in the trace of the session, and the event `rules.changed` of the removal."
            .into(),
        severity: level(finding.severity),
    }
}

pub(super) fn result(
    writer: &mut sarif::Writer,
    others: &[sarif::Rule],
    event: &Value,
    finding: &Finding,
) -> String {
    let rule = writer.place(&finding.rule, || {
        let known = others.iter().find(|rule| rule.id == finding.rule);
        known.cloned().unwrap_or_else(|| removed(finding))
    });
    let who = Actor::of(event).map_or_else(|| "an unknown actor".to_owned(), |actor| actor.to_string());
    let mut details =
        BTreeMap::from([("target", finding.target.to_string()), ("action", finding.action.to_string())]);
    if let Some(tool) = event.pointer("/detail/tool").and_then(Value::as_str) {
        details.insert("tool", tool.to_owned());
    }
    let message = format!("{who}: rule {} matched in {}", finding.rule, finding.target);
    writer.result(&sarif::Finding { rule, event, message, severity: Some(level(finding.severity)), details })
}

/// The result for an actor that proved another key than before.
pub(super) fn key_drift(writer: &mut sarif::Writer, event: &Value, earlier: &EarlierKey) -> String {
    let drift = findings::key_drift_rule();
    let rule = writer.place(&drift.id.clone(), || drift);
    writer.result(&findings::key_drift(rule, event, earlier))
}

fn level(severity: Severity) -> actchain_protocol::severity::Severity {
    use actchain_protocol::severity::Severity as Level;
    match severity {
        Severity::Low => Level::Low,
        Severity::Medium => Level::Medium,
        Severity::High => Level::High,
        Severity::Critical => Level::Critical,
    }
}
