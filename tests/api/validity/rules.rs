//! The rules about what is active, stated plainly, without SQL and without the program's types.

use super::facts::{Delegation, Facts, RevokeAll, Token};

/// What the facts of a run have to contain.
pub const KINDS: [&str; 13] = [
    "token_revoked",
    "principal_revoked",
    "agent_deactivated",
    "key_removed",
    "actor_disabled",
    "delegation: revoked",
    "delegation: principal_revoked",
    "delegation: expired",
    "delegation: exhausted",
    "delegation: used_up",
    "delegation: requested",
    "an ancestor alone",
    "a token of the lineage alone",
];

/// The entry of a token in its status list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Listed {
    Valid,
    Invalid,
    Suspended,
}

fn covers(all: RevokeAll, epoch: i64) -> bool {
    all.is_some_and(|(revoked, _)| revoked >= epoch)
}

/// The reason of the refusal of an exchange that relies on a delegation.
pub fn delegation_reason(problem: &str) -> &str {
    match problem {
        "revoked" => "delegation_revoked",
        "expired" => "delegation_expired",
        "exhausted" | "used_up" => "command_limit",
        "requested" => "delegation_requested",
        other => other,
    }
}

impl Facts {
    fn waits(one: &Delegation) -> bool {
        let grant = one.grant.as_ref().is_some_and(|grant| grant.suspended);
        !one.activated || one.key_rotating || one.suspended || grant
    }

    /// Whether the delegation, or its standing grant before its end, was revoked.
    fn is_revoked(one: &Delegation) -> bool {
        let by_grant = one.grant.as_ref().and_then(|grant| grant.revoked);
        one.revoked.is_some() || by_grant.is_some_and(|at| at < one.expires)
    }

    /// The problem of a delegation by itself.
    pub fn delegation_problem(&self, number: usize) -> Option<&'static str> {
        let one = &self.delegations[number];
        let delegator = match one.parent {
            None => self.users[one.user],
            Some(parent) => self.agents[self.delegations[parent].delegate].revoked,
        };
        if Self::is_revoked(one) {
            Some("revoked")
        } else if covers(delegator, one.epoch) || covers(self.agents[one.delegate].revoked, one.epoch) {
            Some("principal_revoked")
        } else if one.expires <= self.now {
            Some("expired")
        } else if one.exhausted.is_some() {
            Some("exhausted")
        } else if one.max_uses.is_some_and(|most| one.uses >= most) {
            Some("used_up")
        } else {
            Self::waits(one).then_some("requested")
        }
    }

    /// The first problem on the path, from the root on.
    pub fn path_problem(&self, number: usize) -> Option<&'static str> {
        self.path(number).into_iter().find_map(|one| self.delegation_problem(one))
    }

    /// The first problem on the path that ends tokens.
    fn path_problem_of_tokens(&self, number: usize) -> Option<&'static str> {
        self.path(number).into_iter().find_map(|one| match self.delegation_problem(one) {
            Some("used_up") => Self::waits(&self.delegations[one]).then_some("requested"),
            problem => problem,
        })
    }

    /// Whether a backup was restored since the token was recorded.
    fn is_of_before(&self, one: &Token) -> bool {
        self.restored.is_some_and(|restored| restored >= one.epoch)
    }

    fn key_is_removed(&self, one: &Token) -> bool {
        // A key that was removed several times counts as removed the last time.
        let removed = |key: usize| {
            let of_key =
                self.removed.iter().rev().find(|(agent, removed, _)| (*agent, *removed) == (one.client, key));
            of_key.is_some_and(|(_, _, epoch)| *epoch >= one.epoch)
        };
        removed(one.key) || one.auth_key.is_some_and(removed)
    }

    /// The numbers of delegations and tokens that a revocation of this delegation affects, whether it has happened or not.
    /// Requests count, and delegations without a use left, which may have tokens.
    pub fn impact(&self, revoked: usize) -> (i64, i64) {
        let mut before = self.clone();
        before.delegations[revoked].revoked = None;
        before.delegations[revoked].grant = None;
        let ends = |one: usize| {
            before.path(one).contains(&revoked)
                && before
                    .path(one)
                    .into_iter()
                    .all(|one| matches!(before.delegation_problem(one), None | Some("used_up" | "requested")))
        };
        let is_lasting = |one: &Token| !one.revoked && !self.is_of_before(one) && !self.key_is_removed(one);
        let token_ends = |number: usize| {
            self.tokens[number].delegation.is_some_and(ends)
                && self.lineage(number).into_iter().all(|one| is_lasting(&self.tokens[one]))
        };
        let count = |number: usize| i64::try_from(number).unwrap();
        (
            count((0..self.delegations.len()).filter(|one| ends(*one)).count()),
            count((0..self.tokens.len()).filter(|one| token_ends(*one)).count()),
        )
    }

    /// The problem of a token by itself.
    fn own_problem(&self, number: usize) -> Option<&'static str> {
        let one = &self.tokens[number];
        let client = &self.agents[one.client];
        if one.revoked || self.is_of_before(one) {
            Some("token_revoked")
        } else if covers(self.users[one.subject], one.epoch) || covers(client.revoked, one.epoch) {
            Some("principal_revoked")
        } else if client.deactivated {
            Some("agent_deactivated")
        } else if self.key_is_removed(one) {
            Some("key_removed")
        } else {
            client.disabled.then_some("actor_disabled")
        }
    }

    /// The problem of a token or of its lineage: a final one first, then that of the oldest token.
    pub fn lineage_problem(&self, number: usize) -> Option<&'static str> {
        let problems: Vec<_> =
            self.lineage(number).into_iter().filter_map(|one| self.own_problem(one)).collect();
        let lasting = problems.iter().find(|problem| **problem != "actor_disabled");
        lasting.or(problems.first()).copied()
    }

    /// Why introspection answers that a token is not active.
    pub fn inactive(&self, number: usize) -> Option<&'static str> {
        let of_delegation = || self.path_problem_of_tokens(self.tokens[number].delegation?);
        self.lineage_problem(number).or_else(of_delegation)
    }

    /// The entry of the status list; `None` where the list has no rule, as such tokens are expired or were never issued.
    pub fn listed(&self, number: usize) -> Option<Listed> {
        let path = self.tokens[number].delegation.map(|own| self.path(own)).unwrap_or_default();
        let path_of = || path.iter().map(|one| &self.delegations[*one]);
        if path_of().any(|one| one.expires <= self.now || !one.activated) {
            return None;
        }
        let on_path = path.iter().filter_map(|one| match self.delegation_problem(*one) {
            Some("used_up") => Self::waits(&self.delegations[*one]).then_some("requested"),
            problem => problem,
        });
        let in_lineage = self.lineage(number).into_iter().filter_map(|one| self.own_problem(one));
        let all: Vec<_> = on_path.chain(in_lineage).collect();
        let passing = |problem: &&str| ["actor_disabled", "requested"].contains(problem);
        Some(match all.iter().all(passing) {
            _ if all.is_empty() => Listed::Valid,
            true => Listed::Suspended,
            false => Listed::Invalid,
        })
    }

    /// The kinds of facts of this case.
    pub fn kinds(&self) -> Vec<&'static str> {
        let mut kinds = Vec::new();
        for number in 0..self.tokens.len() {
            kinds.extend(self.own_problem(number));
            if self.own_problem(number).is_none() && self.lineage_problem(number).is_some() {
                kinds.push("a token of the lineage alone");
            }
        }
        for number in 0..self.delegations.len() {
            match self.delegation_problem(number) {
                Some(own) => kinds.extend(
                    KINDS
                        .iter()
                        .filter(|kind| kind.strip_prefix("delegation: ").is_some_and(|kind| kind == own)),
                ),
                None if self.path_problem(number).is_some() => kinds.push("an ancestor alone"),
                None => {}
            }
        }
        kinds
    }
}
