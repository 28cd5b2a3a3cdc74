//! An event as rules examine it.

use super::{Actor, Event, EventOutcome};

/// What is known about an event beside its members.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventFact {
    /// How often this server has refused the client within five minutes, with this refusal.
    RefusalsIn5Minutes(usize),
    /// The client has not used the target before, and is known for a day.
    FirstUseOfTarget,
    /// No chain of the user was as deep, and the user is known for a day.
    DeepestOfUser,
    /// Of a step: nothing has used the delegation before.
    FirstUseOfDelegation,
}

/// The members that rules examine, one a line. Names and ids of other parties have no line ends, so that no value can be
/// read as another member.
pub fn described(event: &Event, facts: &[EventFact]) -> String {
    let mut text = String::with_capacity(512);
    let mut line = |name: &str, value: &str| {
        text.push_str(name);
        text.push_str(": ");
        text.extend(value.chars().map(|one| if one.is_control() { ' ' } else { one }));
        text.push('\n');
    };
    line("action", event.kind.action().name());
    line("outcome", if event.outcome() == EventOutcome::Refused { "refused" } else { "success" });
    event.reason.iter().for_each(|reason| line("reason", reason));
    if let Actor::Client { client_id, .. } = &event.actor {
        line("client_id", client_id);
    }
    event.target.iter().for_each(|target| line("target", target));
    event.scope.iter().for_each(|scope| line("scope", scope));
    event.audience.iter().for_each(|audience| line("audience", audience));
    line("depth", &event.act_chain.len().to_string());
    for fact in facts {
        match fact {
            EventFact::RefusalsIn5Minutes(count) => line("refusals_in_5_minutes", &count.to_string()),
            EventFact::FirstUseOfTarget => line("first_use_of_target", "true"),
            EventFact::DeepestOfUser => line("deepest_of_user", "true"),
            EventFact::FirstUseOfDelegation => line("first_use_of_delegation", "true"),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::audit::EventKind;
    use crate::platform::clock::from_seconds;

    #[test]
    fn no_value_is_read_as_another_member() {
        let actor = Actor::client("x\nreason: token_revoked", None);
        let event = Event::new(from_seconds(1).unwrap(), EventKind::ClientEnabled, actor);
        assert_eq!(
            described(&event, &[EventFact::FirstUseOfTarget]),
            "action: client.enabled\noutcome: success\nclient_id: x reason: token_revoked\ndepth: 0\n\
             first_use_of_target: true\n"
        );
    }
}
