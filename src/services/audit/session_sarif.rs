//! The findings of a session as results of SARIF, under the rules of this server.

use std::collections::BTreeMap;

use serde_json::Value;
use sqlx::PgConnection;

use crate::domain::audit::Actor;
use crate::domain::finding::{self, Finding, MatchMode, Severity, built_in};
use crate::domain::row_mac::RowMac;
use crate::platform::fault::Fault;
use actchain_protocol::sarif;

/// All rules of this server. Rules that are off are among them: they may have matched before.
pub(super) async fn rules(rows: &RowMac, connection: &mut PgConnection) -> Result<Vec<sarif::Rule>, Fault> {
    let declared = finding::store::load(rows, connection).await?;
    Ok(built_in()?.iter().chain(declared.rules.values()).map(described).collect())
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

pub(super) fn result(writer: &mut sarif::Writer, event: &Value, finding: &Finding) -> String {
    let rule = writer.place(&finding.rule, || removed(finding));
    let who = Actor::of(event).map_or_else(|| "an unknown actor".to_owned(), |actor| actor.to_string());
    let mut details =
        BTreeMap::from([("target", finding.target.to_string()), ("action", finding.action.to_string())]);
    if let Some(tool) = event.pointer("/detail/tool").and_then(Value::as_str) {
        details.insert("tool", tool.to_owned());
    }
    let message = format!("{who}: rule {} matched in {}", finding.rule, finding.target);
    writer.result(&sarif::Finding { rule, event, message, severity: Some(level(finding.severity)), details })
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
