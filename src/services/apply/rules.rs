//! Declared rules: what changes about them.

use std::collections::BTreeSet;

use serde_json::Value;
use sqlx::PgConnection;

use super::change::{Change, EntryKind, Line, MemberChange, differences};
use super::error::ApplyError;
use super::plan::Plan;
use super::view;
use crate::domain::audit::EventKind;
use crate::domain::audit::detail::ChangedRules;
use crate::domain::finding::{MAX_RULES, Rule, built_in, store};
use crate::platform::fault::{Context as _, Fault};
use crate::platform::yaml::Place;
use crate::services::manifest::RuleDeclaration;

/// The member of the manifest that switches rules off.
const OFF: &str = "rules_off";

/// The ids of rules that are to be off, with their place in the manifest.
pub(super) struct DeclaredOff {
    pub(super) ids: BTreeSet<String>,
    pub(super) place: Place,
}

pub(super) fn members(rule: &Rule) -> Result<view::Members, Fault> {
    let mut members = view::object(serde_json::to_value(rule).context("writing a rule")?);
    members.remove("id");
    Ok(members)
}

/// Adds a switched rule to the line of the rule.
fn switch(lines: &mut Vec<Line>, id: &str, change: MemberChange) {
    match lines.iter_mut().find(|line| line.id == id) {
        Some(line) if line.change == Change::Create => line.members.push(change),
        Some(line) => {
            line.change = Change::Update;
            line.members.push(change);
        }
        None => lines.push(Line::of(EntryKind::Rule, id, Some(vec![change]))),
    }
}

impl Plan<'_> {
    /// Writes the declared rules, and switches rules off and on where the manifest says which are off.
    pub(super) async fn rules(
        &mut self,
        connection: &mut PgConnection,
        declared: Vec<RuleDeclaration>,
        off: Option<DeclaredOff>,
    ) -> Result<(), ApplyError> {
        if declared.is_empty() && off.is_none() {
            return Ok(());
        }
        let stored = store::load(self.ctx.rows, connection).await?;
        let mut wanted = stored.clone();
        let mut changed = ChangedRules::default();
        let mut lines = Vec::new();
        for RuleDeclaration { rule, place } in declared {
            let before = stored.rules.get(&rule.id);
            let members = before.map(|old| Ok::<_, Fault>(differences(&members(old)?, &members(&rule)?)));
            let mut line = Line::of(EntryKind::Rule, &rule.id, members.transpose()?);
            // Lists are compared as sets; an order that differs is a change of the rule, too.
            if line.change == Change::Unchanged && before != Some(&rule) {
                line.change = Change::Update;
            }
            match line.change {
                Change::Create => changed.added.push(rule.id.clone()),
                Change::Update => changed.changed.push(rule.id.clone()),
                Change::Unchanged => {}
            }
            lines.push(line);
            wanted.rules.insert(rule.id.clone(), rule);
            if wanted.rules.len() > MAX_RULES {
                let why = format!(
                    "at most {MAX_RULES} rules can be declared; remove some by `actchain rules remove`"
                );
                return Err(place.whole(why).into());
            }
        }
        if let Some(off) = off {
            let built_in = built_in()?;
            let known = |id: &str| wanted.rules.contains_key(id) || built_in.iter().any(|rule| rule.id == id);
            if let Some(id) = off.ids.iter().find(|id| !known(id)) {
                return Err(off
                    .place
                    .whole(format!("there is no rule {id}; `actchain rules list` shows all"))
                    .into());
            }
            changed.switched_off = off.ids.difference(&stored.off).cloned().collect();
            changed.switched_on = stored.off.difference(&off.ids).cloned().collect();
            wanted.off = off.ids;
        }
        for id in &changed.switched_off {
            let (added, removed) = (vec![Value::from(id.as_str())], Vec::new());
            switch(&mut lines, id, MemberChange::List { member: OFF.to_owned(), added, removed });
        }
        for id in &changed.switched_on {
            let (added, removed) = (Vec::new(), vec![Value::from(id.as_str())]);
            switch(&mut lines, id, MemberChange::List { member: OFF.to_owned(), added, removed });
        }
        self.outcome.lines.extend(lines);
        if changed != ChangedRules::default() {
            self.events.push(self.ctx.event(EventKind::RulesChanged(changed)));
            store::put(self.ctx.rows, connection, wanted).await?;
        }
        Ok(())
    }
}
