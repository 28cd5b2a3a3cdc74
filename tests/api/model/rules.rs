//! The delegation rules as a small model: plain data and their consequences. It uses no code of the server. If several
//! reasons forbid a move, the server may answer with any of them.

use std::collections::BTreeSet;

pub type Names = BTreeSet<&'static str>;

pub const MAIL: &str = crate::support::world::MAIL;
pub const CALENDAR: &str = crate::support::world::CALENDAR;
pub const SCOPES: [&str; 4] = ["mail.read", "mail.send", "calendar.read", "both"];
pub const AUDIENCES: [&str; 2] = [MAIL, CALENDAR];
pub const LEVELS: [&str; 4] = ["observe", "mutate", "execute", "admin"];

// As in the test's configuration and its declared resources.
pub const MOST_ACTORS: usize = 4;
pub const TOKEN_TTL: i64 = 700;
pub const DEFAULT_TTL: i64 = 900;
pub const MAX_TTL: i64 = 3_600;
pub const REQUEST_TTL: i64 = 300;
pub const AGENT_TTL: i64 = 600;
pub const AGENTS_PER_TASK: usize = 3;
pub const USER_TOKEN_TTL: i64 = 3_600;
/// The tolerated clock skew of an issuer, in seconds.
pub const SKEW: i64 = 10;

/// The scopes that are defined at a resource.
pub fn known_at(target: &str) -> Names {
    if target == MAIL { ["mail.read", "mail.send", "both"].into() } else { ["calendar.read", "both"].into() }
}

/// The longest lifetime of a token for a resource, in seconds.
fn token_ttl(target: &str) -> i64 {
    if target == MAIL { 600 } else { TOKEN_TTL }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Who {
    User(usize),
    Agent(usize),
    Admin,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    Requested,
    Active,
    Expired,
    Revoked,
}

impl State {
    pub fn name(self) -> &'static str {
        match self {
            Self::Requested => "requested",
            Self::Active => "active",
            Self::Expired => "expired",
            Self::Revoked => "revoked",
        }
    }

    pub fn has_ended(self) -> bool {
        matches!(self, Self::Expired | Self::Revoked)
    }
}

/// The status of a token in the status list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    Valid = 0,
    Invalid = 1,
    Suspended = 2,
}

/// A possible refusal of a move.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    pub status: u16,
    pub reason: &'static str,
    /// The state in the response, if it has one.
    pub state: Option<State>,
}

pub fn refusal(status: u16, reason: &'static str) -> Refusal {
    Refusal { status, reason, state: None }
}

/// All reasons that forbid a move; the server may answer with any of them.
pub type Refusals = Vec<Refusal>;

fn refuse<T>(status: u16, reason: &'static str) -> Result<T, Refusals> {
    Err(vec![refusal(status, reason)])
}

fn unless(forbidden: Refusals) -> Result<(), Refusals> {
    if forbidden.is_empty() { Ok(()) } else { Err(forbidden) }
}

/// Limits of a delegation or of a request; an absent limit is unrestricted or unchanged.
#[derive(Debug, Clone, Default)]
pub struct Limits {
    pub scopes: Option<Names>,
    pub audiences: Option<Names>,
    /// An index into the capability levels.
    pub ceiling: Option<usize>,
    pub max_uses: Option<i64>,
    pub max_depth: Option<usize>,
}

/// Whether both values are present and `wider` is true for them.
fn both<T>(inner: &Option<T>, outer: &Option<T>, wider: impl Fn(&T, &T) -> bool) -> bool {
    inner.as_ref().zip(outer.as_ref()).is_some_and(|(inner, outer)| wider(inner, outer))
}

impl Limits {
    fn is_wider_than(&self, above: &Self) -> bool {
        both(&self.scopes, &above.scopes, |inner, outer| !inner.is_subset(outer))
            || both(&self.audiences, &above.audiences, |inner, outer| !inner.is_subset(outer))
            || both(&self.ceiling, &above.ceiling, |inner, outer| inner > outer)
            || both(&self.max_uses, &above.max_uses, |inner, outer| inner > outer)
            || both(&self.max_depth, &above.max_depth, |inner, outer| inner > outer)
    }
}

/// A revoke-all: everything earlier is revoked. Tokens of other issuers compare by time, records of this server by
/// order.
#[derive(Debug, Clone, Copy)]
pub struct RevokeAll {
    pub at: i64,
    pub order: u64,
}

#[derive(Debug, Clone)]
pub struct Agent {
    pub scopes: Names,
    pub audiences: Names,
    pub max_token_ttl: Option<i64>,
    pub disabled: bool,
    pub revoke_all: Option<RevokeAll>,
    pub made_for: Option<MadeFor>,
}

/// The delegation, task and owner of an ephemeral agent.
#[derive(Debug, Clone)]
pub struct MadeFor {
    pub delegation: usize,
    pub task: usize,
    pub owner: Who,
}

#[derive(Debug, Clone)]
pub struct Delegation {
    pub parent: Option<usize>,
    pub root: usize,
    pub delegator: Who,
    pub delegate: usize,
    pub limits: Limits,
    pub requested_by: Who,
    /// The position in the order of all records.
    pub order: u64,
    pub requested_at: i64,
    pub activated_at: Option<i64>,
    /// Seconds from the approval on, if the delegation needs one.
    pub lifetime: Option<i64>,
    pub expires_at: i64,
    pub revoked_at: Option<i64>,
    pub uses: i64,
    /// Whether a reported command was the last use: then the tokens are revoked, too.
    pub used_up_by_command: bool,
    pub used_up_at: Option<i64>,
    /// Whether an agent requested the delegation.
    pub asked_for: bool,
}

#[derive(Debug, Clone)]
pub struct Token {
    pub user: usize,
    /// Oldest first; the last actor is the holder.
    pub actors: Vec<usize>,
    pub delegation: usize,
    pub made_from: Option<usize>,
    pub scopes: Names,
    pub audiences: Names,
    pub ceiling: Option<usize>,
    pub order: u64,
    pub issued_at: i64,
    pub expires_at: i64,
    pub revoked: bool,
}

impl Token {
    pub fn holder(&self) -> usize {
        self.actors[self.actors.len() - 1]
    }
}

/// An agent's access token for the management API.
#[derive(Debug, Clone)]
pub struct Pass {
    pub agent: usize,
    pub order: u64,
    pub expires_at: i64,
}

/// The subject token of an exchange.
#[derive(Debug, Clone, Copy)]
pub enum Subject {
    /// A user's token, and when it was issued.
    OfUser(usize, i64),
    OfOurs(usize),
}

/// The access that an exchange requests; absent members request everything allowed.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    pub scopes: Option<Names>,
    pub audiences: Option<Names>,
    pub ceiling: Option<usize>,
}

/// The delegate of a new delegation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delegate {
    Agent(usize),
    /// An agent that does not exist.
    Unknown,
    /// A new ephemeral agent, in this task.
    New(usize),
}

#[derive(Debug, Clone)]
pub struct NewDelegation {
    pub delegator: Option<usize>,
    pub parent: Option<usize>,
    pub delegate: Delegate,
    pub limits: Limits,
    pub ttl: Option<i64>,
}

#[derive(Debug, Clone, Default)]
pub struct Model {
    pub now: i64,
    /// The number of records so far.
    pub order: u64,
    /// All revoke-alls so far.
    pub revoke_alls: Vec<(Who, RevokeAll)>,
    /// The last revoke-all of each user.
    pub users: Vec<Option<RevokeAll>>,
    pub agents: Vec<Agent>,
    pub delegations: Vec<Delegation>,
    pub tokens: Vec<Token>,
    pub passes: Vec<Pass>,
}

impl Model {
    /// The ancestors, root first, and the delegation itself.
    pub fn path(&self, delegation: usize) -> Vec<usize> {
        let mut path = vec![delegation];
        while let Some(parent) = self.delegations[path[0]].parent {
            path.insert(0, parent);
        }
        path
    }

    fn next(&mut self) -> u64 {
        self.order += 1;
        self.order
    }

    fn last_revoke_all(&self, who: Who) -> Option<RevokeAll> {
        match who {
            Who::User(user) => self.users[user],
            Who::Agent(agent) => self.agents[agent].revoke_all,
            Who::Admin => None,
        }
    }

    /// Whether the principal's last revoke-all is later than a record.
    fn is_revoked_by_revoke_all(&self, who: Who, order: u64) -> bool {
        self.last_revoke_all(who).is_some_and(|revoke_all| revoke_all.order > order)
    }

    fn is_revoked_through_a_principal(&self, one: &Delegation) -> bool {
        self.is_revoked_by_revoke_all(one.delegator, one.order)
            || self.is_revoked_by_revoke_all(Who::Agent(one.delegate), one.order)
    }

    /// Whether the delegation was revoked, directly or by a revoke-all of its delegator or delegate.
    fn is_taken_back(&self, delegation: usize) -> bool {
        let one = &self.delegations[delegation];
        one.revoked_at.is_some() || self.is_revoked_through_a_principal(one)
    }

    /// Every end of a delegation: its instant, and whether it is a revocation. At one instant, an expiry sorts first.
    fn ends(&self, delegation: usize) -> Vec<(i64, bool)> {
        let one = &self.delegations[delegation];
        let sides = [one.delegator, Who::Agent(one.delegate)];
        let revoke_alls = self
            .revoke_alls
            .iter()
            .filter(|(who, revoke_all)| sides.contains(who) && revoke_all.order > one.order);
        let revoked =
            revoke_alls.map(|(_, revoke_all)| revoke_all.at).chain(one.revoked_at).map(|at| (at, true));
        let lapsed = Some(one.expires_at).filter(|end| self.now >= *end);
        revoked.chain(lapsed.into_iter().chain(one.used_up_at).map(|at| (at, false))).collect()
    }

    /// The state, and the ancestor that caused it, if any: the first end decides for ever.
    pub fn state(&self, delegation: usize) -> (State, Option<usize>) {
        let named = |revoked| if revoked { State::Revoked } else { State::Expired };
        let own = self.ends(delegation).into_iter().min();
        let mut path = self.path(delegation);
        path.pop();
        let above = path.iter().flat_map(|above| self.ends(*above).into_iter().map(|end| (end, *above)));
        // The path begins at the root; if two ancestors end at once, the one nearer to the root counts.
        let first = above.reduce(|first, next| if next.0 < first.0 { next } else { first });
        let revoked = self.delegations[delegation].revoked_at.is_some();
        match (own, first) {
            (own, Some((end, above))) if own.is_none_or(|own| end < own) && (end.1 || !revoked) => {
                (named(end.1), Some(above))
            }
            (Some(own), _) => (named(own.1 || revoked), None),
            (None, _) if self.delegations[delegation].activated_at.is_none() => (State::Requested, None),
            (None, _) => (State::Active, None),
        }
    }

    /// Whether nothing is left to revoke. A delegation that exchanges have used up still has the tokens of those
    /// exchanges.
    pub fn is_over(&self, delegation: usize) -> bool {
        self.path(delegation).into_iter().any(|above| {
            let one = &self.delegations[above];
            self.is_taken_back(above) || one.used_up_by_command || self.now >= one.expires_at
        })
    }

    pub fn is_active(&self, delegation: usize) -> bool {
        self.state(delegation).0 == State::Active
    }

    /// The reasons why a delegation cannot be used.
    fn unusable(&self, delegation: usize) -> Vec<(&'static str, State)> {
        let mut reasons = Vec::new();
        for above in self.path(delegation) {
            let one = &self.delegations[above];
            let mut give =
                |applies, reason, state| reasons.extend(if applies { Some((reason, state)) } else { None });
            give(one.revoked_at.is_some(), "delegation_revoked", State::Revoked);
            give(self.is_revoked_through_a_principal(one), "principal_revoked", State::Revoked);
            give(self.now >= one.expires_at, "delegation_expired", State::Expired);
            give(one.used_up_at.is_some(), "command_limit", State::Expired);
            give(one.activated_at.is_none(), "delegation_requested", State::Requested);
        }
        reasons
    }

    pub fn uses_left(&self, delegation: usize) -> Option<i64> {
        let path = self.path(delegation).into_iter().map(|above| &self.delegations[above]);
        path.filter_map(|one| Some((one.limits.max_uses? - one.uses).max(0))).min()
    }

    fn count_uses(&mut self, delegation: usize, count: i64) -> Vec<usize> {
        let mut used_up = Vec::new();
        for above in self.path(delegation) {
            let one = &mut self.delegations[above];
            one.uses += count;
            if one.limits.max_uses.is_some_and(|most| one.uses >= most) {
                one.used_up_at = Some(self.now);
                used_up.push(above);
            }
        }
        used_up
    }

    /// Whether an ephemeral agent's delegation is not active.
    fn has_lost_its_home(&self, agent: usize) -> bool {
        self.agents[agent].made_for.as_ref().is_some_and(|made_for| !self.is_active(made_for.delegation))
    }

    /// The reasons why an agent cannot authenticate. `agent_deactivated` is only for callers that can prove the key.
    pub fn turned_away(&self, agent: usize) -> Refusals {
        let mut refusals = Vec::new();
        if self.agents[agent].disabled {
            refusals.push(refusal(401, ""));
        }
        if self.has_lost_its_home(agent) {
            refusals.extend([refusal(401, ""), refusal(400, "agent_deactivated")]);
        }
        refusals
    }

    /// Whether the management API accepts an agent's token.
    pub fn pass_is_accepted(&self, pass: &Pass) -> bool {
        self.now < pass.expires_at
            && !self.agents[pass.agent].disabled
            && !self.has_lost_its_home(pass.agent)
            && !self.is_revoked_by_revoke_all(Who::Agent(pass.agent), pass.order)
    }

    /// Issues an agent's token for the management API.
    pub fn admit(&mut self, agent: usize) -> usize {
        let (order, expires_at) = (self.next(), self.now + self.pass_ttl(agent));
        self.passes.push(Pass { agent, order, expires_at });
        self.passes.len() - 1
    }

    /// Whether an agent's token is neither expired nor finally revoked. The token of an ephemeral agent ends with its
    /// delegation.
    pub fn pass_is_good(&self, pass: usize) -> bool {
        let pass = &self.passes[pass];
        let home = self.agents[pass.agent].made_for.as_ref();
        let ended = home.is_some_and(|made_for| self.is_over(made_for.delegation));
        self.now < pass.expires_at
            && !self.is_revoked_by_revoke_all(Who::Agent(pass.agent), pass.order)
            && !ended
    }

    /// Whether a user's token is accepted by the management API and in exchanges. `since` comes from the issuer's
    /// clock.
    pub fn user_token_is_accepted(&self, user: usize, since: i64) -> bool {
        let revoke_all =
            self.last_revoke_all(Who::User(user)).is_some_and(|revoke_all| revoke_all.at + SKEW >= since);
        self.now < since + USER_TOKEN_TTL && !revoke_all
    }

    /// The lifetime of an agent's token, in seconds.
    pub fn pass_ttl(&self, agent: usize) -> i64 {
        self.agents[agent].max_token_ttl.unwrap_or(TOKEN_TTL).min(TOKEN_TTL)
    }

    pub fn may_see(&self, who: Who, delegation: usize) -> bool {
        let on_path = |above: &usize| {
            let one = &self.delegations[*above];
            one.delegator == who || Who::User(one.root) == who || Who::Agent(one.delegate) == who
        };
        who == Who::Admin || self.path(delegation).iter().any(on_path)
    }

    fn check_sees(&self, who: Who, delegation: usize) -> Result<(), Refusals> {
        if self.may_see(who, delegation) { Ok(()) } else { refuse(404, "not_found") }
    }

    fn check_decides(&self, who: Who, delegation: usize) -> Result<(), Refusals> {
        self.check_sees(who, delegation)?;
        let decides = who == Who::Admin || self.delegations[delegation].delegator == who;
        if decides { Ok(()) } else { refuse(403, "insufficient_scope") }
    }

    fn invalid_state_transition(&self, delegation: usize) -> Refusal {
        Refusal { status: 409, reason: "invalid_state_transition", state: Some(self.state(delegation).0) }
    }

    pub fn read(&self, who: Who, delegation: usize) -> Result<(), Refusals> {
        self.check_sees(who, delegation)
    }

    /// Creates a delegation. A new ephemeral agent becomes the last in the list of agents.
    pub fn create(&mut self, who: Who, wanted: &NewDelegation) -> Result<usize, Refusals> {
        let (delegator, root) = match (who, wanted.delegator, wanted.parent) {
            (Who::User(user), delegator, None) if delegator.is_none_or(|other| other == user) => (who, user),
            (Who::Agent(agent), None, Some(parent)) if self.delegations[parent].delegate == agent => {
                (who, self.delegations[parent].root)
            }
            (Who::Agent(_), None, Some(_)) => return refuse(404, "not_found"),
            (Who::Agent(agent), Some(user), None) if self.agents[agent].made_for.is_none() => {
                (Who::User(user), user)
            }
            _ => return refuse(403, "insufficient_scope"),
        };
        let above = wanted.parent.map_or_else(Vec::new, |parent| self.path(parent));
        let asked_for = delegator != who;
        let cap = if matches!(wanted.delegate, Delegate::New(_)) { AGENT_TTL } else { MAX_TTL };
        let lifetime = wanted.ttl.unwrap_or(DEFAULT_TTL).min(cap);
        let parents_end = wanted.parent.map_or(i64::MAX, |parent| self.delegations[parent].expires_at);
        let ends = match (wanted.ttl, wanted.delegate, wanted.parent) {
            (None, Delegate::New(_), _) => parents_end.min(self.now + lifetime),
            (None, _, Some(_)) => parents_end,
            _ => parents_end.min(self.now + lifetime),
        };
        let mut refusals = Vec::new();
        if let Some(parent) = wanted.parent
            && !self.is_active(parent)
        {
            let state = Some(self.state(parent).0);
            refusals.push(Refusal { status: 409, reason: "parent_not_active", state });
        }
        let path = above.iter().map(|above| &self.delegations[*above]);
        let deepest = path.clone().filter_map(|above| above.limits.max_depth).fold(MOST_ACTORS, usize::min);
        let wider = |above: &Delegation| wanted.limits.is_wider_than(&above.limits);
        if above.len() + 1 > deepest || path.clone().any(wider) {
            refusals.push(refusal(400, "exceeds_parent"));
        }
        match wanted.delegate {
            Delegate::Unknown => refusals.push(refusal(400, "delegate_unknown")),
            Delegate::Agent(agent) => {
                if path.clone().any(|above| above.delegate == agent) {
                    refusals.push(refusal(400, "delegation_cycle"));
                }
                if self.agents[agent].made_for.is_some() {
                    refusals.push(refusal(400, "delegate_unknown"));
                } else if self.agents[agent].disabled {
                    refusals.push(refusal(400, "delegate_disabled"));
                }
            }
            Delegate::New(task) => {
                let of_task = |agent: &Agent| {
                    agent.made_for.as_ref().is_some_and(|made_for| {
                        (made_for.task, made_for.owner) == (task, who)
                            && !self.state(made_for.delegation).0.has_ended()
                    })
                };
                if self.agents.iter().filter(|agent| of_task(agent)).count() >= AGENTS_PER_TASK {
                    refusals.push(refusal(409, "task_agent_limit"));
                }
            }
        }
        unless(refusals)?;
        let (id, order) = (self.delegations.len(), self.next());
        let delegate = match wanted.delegate {
            Delegate::Agent(agent) => agent,
            Delegate::New(task) => self.make_agent(who, MadeFor { delegation: id, task, owner: who }),
            Delegate::Unknown => unreachable!("an unknown delegate is refused"),
        };
        self.delegations.push(Delegation {
            parent: wanted.parent,
            root,
            delegator,
            delegate,
            limits: wanted.limits.clone(),
            requested_by: who,
            order,
            requested_at: self.now,
            activated_at: (!asked_for).then_some(self.now),
            lifetime: asked_for.then_some(lifetime),
            expires_at: if asked_for { self.now + REQUEST_TTL } else { ends },
            revoked_at: None,
            uses: 0,
            used_up_by_command: false,
            used_up_at: None,
            asked_for,
        });
        Ok(id)
    }

    /// An agent never has more rights than the agent that created it; an agent that a user created has all of them.
    fn make_agent(&mut self, by: Who, made_for: MadeFor) -> usize {
        let (scopes, audiences) = match by {
            Who::Agent(agent) => (self.agents[agent].scopes.clone(), self.agents[agent].audiences.clone()),
            _ => (SCOPES.into(), AUDIENCES.into()),
        };
        let (max_token_ttl, disabled, revoke_all, made_for) = (None, false, None, Some(made_for));
        self.agents.push(Agent { scopes, audiences, max_token_ttl, disabled, revoke_all, made_for });
        self.agents.len() - 1
    }

    pub fn approve(
        &mut self,
        who: Who,
        delegation: usize,
        (narrower, ttl): (&Limits, Option<i64>),
    ) -> Result<(), Refusals> {
        self.check_decides(who, delegation)?;
        let one = &self.delegations[delegation];
        let mut refusals = Vec::new();
        if self.state(delegation).0 != State::Requested {
            refusals.push(self.invalid_state_transition(delegation));
        }
        let lifetime = one.lifetime.unwrap_or_default();
        if narrower.is_wider_than(&one.limits) {
            refusals.push(refusal(400, "exceeds_parent"));
        }
        if self.agents[one.delegate].disabled {
            refusals.push(refusal(400, "delegate_disabled"));
        }
        unless(refusals)?;
        let now = self.now;
        let one = &mut self.delegations[delegation];
        let (new, old) = (narrower.clone(), one.limits.clone());
        one.limits = Limits {
            scopes: new.scopes.or(old.scopes),
            audiences: new.audiences.or(old.audiences),
            ceiling: new.ceiling.or(old.ceiling),
            max_uses: new.max_uses.or(old.max_uses),
            max_depth: new.max_depth.or(old.max_depth),
        };
        one.activated_at = Some(now);
        one.lifetime = None;
        one.expires_at = now + ttl.unwrap_or(lifetime).min(lifetime);
        Ok(())
    }

    pub fn deny(&mut self, who: Who, delegation: usize) -> Result<(), Refusals> {
        self.check_decides(who, delegation)?;
        if self.state(delegation).0 != State::Requested {
            return Err(vec![self.invalid_state_transition(delegation)]);
        }
        self.delegations[delegation].revoked_at = Some(self.now);
        Ok(())
    }

    /// An expired or revoked delegation cannot be revoked. A delegation that exchanges have used up can be, because the
    /// tokens of those exchanges stay valid.
    pub fn revoke(&mut self, who: Who, delegation: usize) -> Result<(), Refusals> {
        self.check_sees(who, delegation)?;
        let one = &self.delegations[delegation];
        if self.is_taken_back(delegation) || self.now >= one.expires_at {
            return Err(vec![self.invalid_state_transition(delegation)]);
        }
        self.delegations[delegation].revoked_at = Some(self.now);
        Ok(())
    }

    pub fn renew(&mut self, who: Who, delegation: usize, ttl: i64) -> Result<(), Refusals> {
        self.check_decides(who, delegation)?;
        let one = &self.delegations[delegation];
        let since = one.activated_at.unwrap_or(one.requested_at);
        let made_for_it = self.agents[one.delegate].made_for.is_some();
        let longest = if made_for_it { since + AGENT_TTL } else { self.now + MAX_TTL };
        let parents_end = one.parent.map_or(i64::MAX, |parent| self.delegations[parent].expires_at);
        let ends = (self.now + ttl).min(parents_end).min(longest);
        let mut refusals = Vec::new();
        if !self.is_active(delegation) {
            refusals.push(self.invalid_state_transition(delegation));
        }
        if ends <= one.expires_at {
            refusals.push(refusal(400, "expiry_not_later"));
        }
        unless(refusals)?;
        self.delegations[delegation].expires_at = ends;
        Ok(())
    }

    /// Reports commands of the delegate: all of them count, or none. The last use expires the delegation and its
    /// descendants.
    pub fn commands(&mut self, who: Who, delegation: usize, count: i64) -> Result<(), Refusals> {
        self.check_sees(who, delegation)?;
        if who != Who::Agent(self.delegations[delegation].delegate) {
            return refuse(403, "insufficient_scope");
        }
        let stopped = |(reason, state)| Refusal { status: 409, reason, state: Some(state) };
        let mut refusals: Refusals = self.unusable(delegation).into_iter().map(stopped).collect();
        if self.uses_left(delegation).is_some_and(|left| count > left) {
            let state = Some(self.state(delegation).0);
            refusals.push(Refusal { status: 409, reason: "command_limit", state });
        }
        let disabled = |above: usize| self.agents[self.delegations[above].delegate].disabled;
        if self.path(delegation).into_iter().any(disabled) {
            refusals.push(refusal(409, "actor_disabled"));
        }
        unless(refusals)?;
        for used_up in self.count_uses(delegation, count) {
            self.delegations[used_up].used_up_by_command = true;
        }
        Ok(())
    }

    /// The width of a delegation's own limits; an absent limit is the widest.
    fn width(&self, delegation: usize) -> [i64; 6] {
        let Delegation { limits, expires_at, .. } = &self.delegations[delegation];
        let names = |limit: &Option<Names>| limit.as_ref().map_or(i64::MAX, |names| names.len() as i64);
        let place = |limit: Option<usize>| limit.map_or(i64::MAX, |place| place as i64);
        let uses = limits.max_uses.unwrap_or(i64::MAX);
        let (scopes, audiences) = (names(&limits.scopes), names(&limits.audiences));
        [scopes, audiences, place(limits.ceiling), place(limits.max_depth), uses, *expires_at]
    }

    /// The result of an exchange: a token under the narrowest delegation that allows it. If several are equally narrow,
    /// any of them.
    pub fn exchange(&self, agent: usize, subject: Subject, wanted: &Wanted) -> Result<Vec<Token>, Refusals> {
        let mut refusals = self.turned_away(agent);
        let next_hop = |one: &Delegation| one.delegate == agent;
        let below = |parent: Option<usize>| -> Vec<usize> {
            let hops = self.delegations.iter().enumerate();
            hops.filter(|(_, one)| one.parent == parent && next_hop(one)).map(|(id, _)| id).collect()
        };
        let (user, actors, candidates, made_from) = match subject {
            Subject::OfUser(user, since) => {
                if self.now >= since + USER_TOKEN_TTL {
                    refusals.push(refusal(400, "subject_token_invalid"));
                } else if !self.user_token_is_accepted(user, since) {
                    refusals.push(refusal(400, "principal_revoked"));
                }
                let mut roots = below(None);
                roots.retain(|root| self.delegations[*root].root == user);
                (user, vec![agent], roots, None)
            }
            Subject::OfOurs(id) => {
                let token = &self.tokens[id];
                if self.now >= token.expires_at {
                    return Err([refusals, vec![refusal(400, "subject_token_invalid")]].concat());
                }
                refusals.extend(self.troubles(id).into_iter().map(|reason| refusal(400, reason)));
                if token.holder() == agent {
                    (token.user, token.actors.clone(), vec![token.delegation], Some(id))
                } else {
                    if token.actors.contains(&agent) {
                        refusals.push(refusal(400, "actor_cycle"));
                    }
                    let actors = [token.actors.clone(), vec![agent]].concat();
                    (token.user, actors, below(Some(token.delegation)), Some(id))
                }
            }
        };
        if candidates.is_empty() {
            refusals.push(refusal(400, "delegation_required"));
        }
        let mut tokens = Vec::new();
        let mut refused = Vec::new();
        for delegation in candidates {
            match self.meet((agent, subject), delegation, actors.len(), wanted) {
                Ok((scopes, audiences, ceiling, expires_at)) => tokens.push(Token {
                    user,
                    actors: actors.clone(),
                    delegation,
                    made_from,
                    scopes,
                    audiences,
                    ceiling,
                    order: 0,
                    issued_at: self.now,
                    expires_at,
                    revoked: false,
                }),
                Err(more) => refused.extend(more),
            }
        }
        if !refusals.is_empty() || tokens.is_empty() {
            return Err([refusals, refused].concat());
        }
        let narrowest = tokens.iter().map(|token| self.width(token.delegation)).min();
        tokens.retain(|token| Some(self.width(token.delegation)) == narrowest);
        Ok(tokens)
    }

    /// Intersects all limits of an exchange, and checks the requested access against the result.
    #[allow(clippy::type_complexity, reason = "scopes, audiences, ceiling and end of a token to be")]
    fn meet(
        &self,
        (agent, subject): (usize, Subject),
        delegation: usize,
        actors: usize,
        wanted: &Wanted,
    ) -> Result<(Names, Names, Option<usize>, i64), Refusals> {
        let stopped = |(reason, _)| refusal(400, reason);
        let mut refusals: Refusals = self.unusable(delegation).into_iter().map(stopped).collect();
        let client = &self.agents[agent];
        let (mut scopes, mut audiences) = (client.scopes.clone(), client.audiences.clone());
        let (mut ceiling, mut deepest) = (None, MOST_ACTORS);
        let mut ends = self.now + self.pass_ttl(agent);
        match subject {
            Subject::OfUser(_, since) => ends = ends.min(since + USER_TOKEN_TTL),
            Subject::OfOurs(id) => {
                let token = &self.tokens[id];
                scopes = &scopes & &token.scopes;
                audiences = &audiences & &token.audiences;
                ceiling = token.ceiling;
                ends = ends.min(token.expires_at);
            }
        }
        for above in self.path(delegation) {
            let Delegation { limits, expires_at, .. } = &self.delegations[above];
            scopes = limits.scopes.as_ref().map_or(scopes.clone(), |limit| &scopes & limit);
            audiences = limits.audiences.as_ref().map_or(audiences.clone(), |limit| &audiences & limit);
            ceiling = [ceiling, limits.ceiling].into_iter().flatten().min();
            deepest = limits.max_depth.map_or(deepest, |most| deepest.min(most));
            ends = ends.min(*expires_at);
        }
        if actors > deepest {
            refusals.push(refusal(400, "depth_exceeded"));
        }
        if both(&wanted.ceiling, &ceiling, |wanted, most| wanted > most) {
            refusals.push(refusal(400, "capability_too_high"));
        }
        if wanted.scopes.as_ref().is_some_and(|wanted| !wanted.is_subset(&scopes)) {
            refusals.push(refusal(400, "scope_exceeds_grant"));
        }
        if wanted.audiences.as_ref().is_some_and(|wanted| !wanted.is_subset(&audiences)) {
            refusals.push(refusal(400, "resource_refused"));
        }
        // Without a requested audience: all allowed resources that define the requested scopes.
        let fits =
            |target: &&str| wanted.scopes.as_ref().is_none_or(|wanted| wanted.is_subset(&known_at(target)));
        let targets =
            wanted.audiences.clone().unwrap_or_else(|| audiences.into_iter().filter(fits).collect());
        let known = |scope: &&str| targets.iter().all(|target| known_at(target).contains(scope));
        match &wanted.scopes {
            None if targets.is_empty() => refusals.push(refusal(400, "resource_refused")),
            None => {
                scopes.retain(|scope| known(scope));
                if scopes.is_empty() {
                    refusals.extend([refusal(400, "scope_empty"), refusal(400, "resource_ambiguous")]);
                }
            }
            Some(wanted) => {
                if targets.is_empty() || !wanted.iter().all(known) {
                    refusals.push(refusal(400, "scope_not_at_resource"));
                }
                scopes.clone_from(wanted);
            }
        }
        unless(refusals)?;
        let ends = targets.iter().map(|target| self.now + token_ttl(target)).fold(ends, i64::min);
        Ok((scopes, targets, wanted.ceiling.or(ceiling), ends))
    }

    /// Issues a token: counts a use of the delegation and of each ancestor.
    pub fn issue(&mut self, token: Token) {
        self.count_uses(token.delegation, 1);
        let order = self.next();
        self.tokens.push(Token { order, ..token });
    }

    fn lineage(&self, token: usize) -> Vec<usize> {
        let mut lineage = vec![token];
        while let Some(above) = self.tokens[lineage[lineage.len() - 1]].made_from {
            lineage.push(above);
        }
        lineage
    }

    /// The reasons why a token or one of its source tokens is inactive, regardless of delegations.
    fn troubles(&self, token: usize) -> Vec<&'static str> {
        let mut troubles = Vec::new();
        for id in self.lineage(token) {
            let token = &self.tokens[id];
            let holder = Who::Agent(token.holder());
            if token.revoked {
                troubles.push("token_revoked");
            }
            if self.is_revoked_by_revoke_all(Who::User(token.user), token.order)
                || self.is_revoked_by_revoke_all(holder, token.order)
            {
                troubles.push("principal_revoked");
            }
            if self.agents[token.holder()].disabled {
                troubles.push("actor_disabled");
            }
        }
        troubles
    }

    /// The status for relying parties. Tokens of exchanges that used up a delegation stay valid.
    pub fn status(&self, token: usize) -> Status {
        let troubles = self.troubles(token);
        if self.is_over(self.tokens[token].delegation)
            || troubles.iter().any(|trouble| *trouble != "actor_disabled")
        {
            Status::Invalid
        } else if troubles.is_empty() {
            Status::Valid
        } else {
            Status::Suspended
        }
    }

    pub fn is_live(&self, token: usize) -> bool {
        self.now < self.tokens[token].expires_at && self.status(token) == Status::Valid
    }

    /// Revokes a token by the client that it was issued to; an expired token stays unchanged.
    pub fn revoke_token(&mut self, agent: usize, token: usize) -> Result<(), Refusals> {
        unless(self.turned_away(agent))?;
        let now = self.now;
        let token = &mut self.tokens[token];
        if now < token.expires_at {
            if token.holder() != agent {
                return refuse(400, "token_of_another_client");
            }
            token.revoked = true;
        }
        Ok(())
    }

    fn check_administers(who: Who) -> Result<(), Refusals> {
        if who == Who::Admin { Ok(()) } else { refuse(403, "insufficient_scope") }
    }

    /// Disables or enables a client; returns whether the state changed.
    pub fn switch(&mut self, who: Who, agent: usize, disabled: bool) -> Result<bool, Refusals> {
        Self::check_administers(who)?;
        let before = std::mem::replace(&mut self.agents[agent].disabled, disabled);
        Ok(before != disabled)
    }

    pub fn revoke_all(&mut self, who: Who, whom: Who) -> Result<(), Refusals> {
        Self::check_administers(who)?;
        let revoke_all = RevokeAll { at: self.now, order: self.next() };
        self.revoke_alls.push((whom, revoke_all));
        let revoke_all = Some(revoke_all);
        match whom {
            Who::User(user) => self.users[user] = revoke_all,
            Who::Agent(agent) => self.agents[agent].revoke_all = revoke_all,
            Who::Admin => unreachable!("the moves do not ask for it"),
        }
        Ok(())
    }

    /// The delegations of a task's agents that the caller created, and whether any of them has not ended.
    pub fn of_task(&self, who: Who, task: usize) -> (Vec<usize>, bool) {
        let made = |agent: &Agent| {
            let made_for = agent.made_for.as_ref()?;
            let theirs = made_for.task == task && (who == Who::Admin || made_for.owner == who);
            theirs.then_some(made_for.delegation)
        };
        let homes: Vec<usize> = self.agents.iter().filter_map(made).collect();
        let alive = homes.iter().any(|home| !self.state(*home).0.has_ended());
        (homes, alive)
    }

    /// Ends a task: revokes the delegations of its ephemeral agents.
    pub fn end_task(&mut self, who: Who, task: usize) -> Result<(), Refusals> {
        let (homes, _) = self.of_task(who, task);
        if homes.is_empty() {
            return refuse(404, "not_found");
        }
        for home in homes {
            let now = self.now;
            let one = &mut self.delegations[home];
            if one.revoked_at.is_none() && now < one.expires_at {
                one.revoked_at = Some(now);
            }
        }
        Ok(())
    }
}
