//! Plays the moves: each move on the server and in the model.

use serde_json::{Value, json};

use super::moves::{Ask, By, Move, To, Which};
use super::rules::*;
use super::stage::{ACCEPTED, Agreed, KINDS, Stage, agree};
use crate::support::agent::{Agent as Client, Auth};
use crate::support::life::steps;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Accepted,
    Refused,
    /// There was no suitable object for the move.
    Left,
}

fn end(accepted: bool) -> End {
    if accepted { End::Accepted } else { End::Refused }
}

/// Plays a story; the error describes the first disagreement.
pub async fn play(stage: &mut Stage<'_>, story: &[Move]) -> Agreed {
    for (n, made) in story.iter().enumerate() {
        let at_move = |what: &str, error: String| format!("move {n}, {made:?}: {what}{error}");
        let (kind, ended) = stage.make(made).await.map_err(|error| at_move("", error))?;
        match ended {
            End::Accepted => stage.theatre.tally.note(kind, ACCEPTED),
            End::Refused => stage.theatre.tally.note(kind, &stage.reason.take()),
            End::Left => {}
        }
        if ended == End::Left && !matches!(made, Move::Sweep | Move::Pass { .. }) {
            continue;
        }
        stage.agree_on_everything().await.map_err(|error| at_move("after it, ", error))?;
    }
    stage.agree_on_lists().await
}

impl Stage<'_> {
    async fn make(&mut self, made: &Move) -> Agreed<(&'static str, End)> {
        match made {
            Move::Grant { user, named, to, ask } => {
                let user = user % self.model.users.len();
                let delegator = named.map(|named| named % self.model.users.len());
                let limits = self.limits(ask, &[]);
                let wanted = NewDelegation {
                    delegator,
                    parent: None,
                    delegate: self.delegate(*to),
                    limits,
                    ttl: ask.ttl,
                };
                Ok(("grant", self.create(Who::User(user), &wanted).await?))
            }
            Move::Request { agent, user, ask } => {
                let agent = agent % self.model.agents.len();
                let delegator = Some(user % self.model.users.len());
                let (delegate, limits) = (Delegate::Agent(agent), self.limits(ask, &[]));
                let wanted = NewDelegation { delegator, parent: None, delegate, limits, ttl: ask.ttl };
                Ok(("request", self.create(Who::Agent(agent), &wanted).await?))
            }
            Move::Subdelegate { by, which, to, ask } => {
                Ok(("subdelegate", self.subdelegate((*by, *which), *to, ask).await?))
            }
            Move::Approve { by, which, ask } => Ok(("approve", self.approve((*by, *which), ask).await?)),
            Move::Deny { by, which } => {
                let waits = |stage: &Self, one| stage.model.state(one).0 == State::Requested;
                Ok((
                    "deny",
                    self.decide((*by, *which), waits, ("deny", None), |model, who, one| model.deny(who, one))
                        .await?,
                ))
            }
            Move::Renew { by, which, ttl } => {
                let active = |stage: &Self, one| stage.model.is_active(one);
                let body = Some(json!({"expires_in": ttl}));
                let renew = |model: &mut Model, who, one| model.renew(who, one, *ttl);
                Ok(("renew", self.decide((*by, *which), active, ("renew", body), renew).await?))
            }
            Move::Revoke { by, which } => Ok(("revoke", self.revoke((*by, *which)).await?)),
            Move::Commands { by, which, count } => Ok(("steps", self.commands((*by, *which), *count).await?)),
            Move::FirstHop { which, user, agent, fresh, want } => {
                let root = self.choose_delegation(*which, |one| {
                    self.model.delegations[one].parent.is_none() && self.model.is_active(one)
                });
                let (root, user, agent) = match (which, root) {
                    (Which::Suitable(_), None) => return Ok(("first hop", End::Left)),
                    (Which::Suitable(_), Some(root)) => {
                        let one = &self.model.delegations[root];
                        (Some(root), one.root, one.delegate)
                    }
                    (Which::Any(_), _) => {
                        (None, user % self.model.users.len(), agent % self.model.agents.len())
                    }
                };
                let wanted = self.wanted(want, agent, (None, root));
                let (token, since) = self.user_token(user, *fresh);
                let answer = self.exchange(agent, (&token, KINDS.0), &wanted).await;
                let said = self.model.exchange(agent, Subject::OfUser(user, since), &wanted);
                Ok(("first hop", end(self.agree_on_exchange(agent, &answer, said)?)))
            }
            Move::NextHop { which, agent, want } => {
                let Some((token, agent, delegation)) = self.hop(*which, *agent) else {
                    return Ok(("next hop", End::Left));
                };
                let wanted = self.wanted(want, agent, (Some(token), delegation));
                let answer = self.exchange(agent, (&self.jwts[token], KINDS.1), &wanted).await;
                let said = self.model.exchange(agent, Subject::OfOurs(token), &wanted);
                Ok(("next hop", end(self.agree_on_exchange(agent, &answer, said)?)))
            }
            Move::Narrow { which, want } => {
                let usable = |token: usize| {
                    self.model.is_live(token) && self.model.is_active(self.model.tokens[token].delegation)
                };
                let Some(token) = self.choose(*which, self.jwts.len(), usable) else {
                    return Ok(("narrow", End::Left));
                };
                let agent = self.model.tokens[token].holder();
                let wanted =
                    self.wanted(want, agent, (Some(token), Some(self.model.tokens[token].delegation)));
                let answer = self.exchange(agent, (&self.jwts[token], KINDS.1), &wanted).await;
                let said = self.model.exchange(agent, Subject::OfOurs(token), &wanted);
                Ok(("narrow", end(self.agree_on_exchange(agent, &answer, said)?)))
            }
            Move::RevokeToken { by, which } => Ok(("revoke token", self.revoke_token((*by, *which)).await?)),
            Move::Disable { by, agent } => {
                let agent = agent % self.model.agents.len();
                Ok(("disable", self.switch(*by, agent, true).await?))
            }
            Move::Enable { by, which } => {
                let agents = self.model.agents.len();
                let agent = self.choose(*which, agents, |agent| self.model.agents[agent].disabled);
                let Some(agent) = agent else { return Ok(("enable", End::Left)) };
                Ok(("enable", self.switch(*by, agent, false).await?))
            }
            Move::RevokeAll { by, whom } => {
                let mut all = self.parties();
                all.pop();
                let whom = all[whom % all.len()];
                Ok(("revoke all", self.revoke_all(*by, whom).await?))
            }
            Move::EndTask { by, task } => Ok(("end task", self.end_task(*by, *task).await?)),
            Move::Read { by, which } => Ok(("read", self.read((*by, *which)).await?)),
            Move::Sweep => {
                let app = &self.world().server.app;
                let now = app.clock.now();
                actchain::jobs::expiry::run_once(app, now).await.map_err(|fault| fault.to_string())?;
                actchain::jobs::sweep::run_once(app, now).await.map_err(|fault| fault.to_string())?;
                Ok(("sweep", End::Left))
            }
            Move::Pass { seconds } => {
                self.world().server.pass(*seconds);
                self.model.now += seconds;
                Ok(("pass", End::Left))
            }
        }
    }

    /// Creates a delegation, and an ephemeral agent for it if the move says so.
    async fn create(&mut self, who: Who, wanted: &NewDelegation) -> Agreed<End> {
        let mut body = limits_body(&wanted.limits, wanted.ttl);
        let key = Client::new("to be named", Auth::None);
        if let Some(user) = wanted.delegator {
            body["delegator"] = self.principal(Who::User(user));
        }
        if let Some(parent) = wanted.parent {
            body["parent"] = json!(self.ids[parent]);
        }
        match wanted.delegate {
            Delegate::Agent(agent) => body["delegate"] = json!(self.clients[agent].id),
            Delegate::Unknown => body["delegate"] = json!(self.world().mail_server.id),
            Delegate::New(task) => {
                body["ephemeral"] = json!({"jwk": key.key.public_jwk(), "task_id": self.task(task)});
            }
        }
        let Some(answer) = self.call(who, ("POST", "/delegate"), Some(body)).await? else {
            return Ok(End::Refused);
        };
        let said = self.model.create(who, wanted);
        agree(&answer, &said)?;
        let Ok(one) = said else { return Ok(End::Refused) };
        let status = if self.model.delegations[one].asked_for { 202 } else { 201 };
        if answer.status != status {
            return Err(format!("should have been answered with {status}: {}", answer.status));
        }
        self.ids.push(answer.json["id"].as_str().unwrap_or_default().to_owned());
        if matches!(wanted.delegate, Delegate::New(_)) {
            self.admit(answer.json["delegate"].as_str().unwrap_or_default(), key);
        }
        self.agree_on_view(one, &answer.json)?;
        Ok(End::Accepted)
    }

    async fn subdelegate(&mut self, (by, which): (By, Which), to: To, ask: &Ask) -> Agreed<End> {
        // Prefers deep trees to broad trees.
        let suits = |one| {
            self.model.is_active(one) && !self.model.agents[self.model.delegations[one].delegate].disabled
        };
        let Some(parent) = self.choose_delegation(which, suits) else { return Ok(End::Left) };
        let path = self.model.path(parent);
        let who = self.who(by, &[Who::Agent(self.model.delegations[parent].delegate)]);
        let mut delegate = self.delegate(to);
        let acts = |agent: usize| path.iter().any(|above| self.model.delegations[*above].delegate == agent);
        if let (true, Delegate::Agent(agent)) = (ask.fitting, delegate) {
            let agents = self.model.agents.len();
            let fits = |one: &usize| {
                !acts(*one) && self.model.agents[*one].made_for.is_none() && !self.model.agents[*one].disabled
            };
            let other = (0..agents).map(|n| (agent + n) % agents).find(fits);
            delegate = Delegate::Agent(other.unwrap_or(agent));
        }
        let limits = self.limits(ask, &path);
        let end = self.model.delegations[parent].expires_at;
        let ttl = ask.ttl.filter(|ttl| !ask.fitting || self.model.now + ttl <= end);
        let wanted = NewDelegation { delegator: None, parent: Some(parent), delegate, limits, ttl };
        self.create(who, &wanted).await
    }

    async fn approve(&mut self, (by, which): (By, Which), ask: &Ask) -> Agreed<End> {
        let waits = |one| self.model.state(one).0 == State::Requested;
        let Some(one) = self.choose_delegation(which, waits) else { return Ok(End::Left) };
        let who = self.who(by, &[self.model.delegations[one].delegator]);
        let limits = self.limits(ask, &[one]);
        let lifetime = self.model.delegations[one].lifetime.unwrap_or_default();
        let ttl = ask.ttl.filter(|ttl| !ask.fitting || *ttl <= lifetime);
        let path = format!("/delegate/{}/approve", self.ids[one]);
        let body = Some(limits_body(&limits, ttl));
        let Some(answer) = self.call(who, ("POST", &path), body).await? else { return Ok(End::Refused) };
        let said = self.model.approve(who, one, (&limits, ttl));
        self.agree_on_move(one, &answer, said.is_ok(), agree(&answer, &said))
    }

    /// A move of the delegator or of an administrator.
    async fn decide(
        &mut self,
        (by, which): (By, Which),
        suits: impl Fn(&Self, usize) -> bool,
        (name, body): (&str, Option<Value>),
        apply: impl Fn(&mut Model, Who, usize) -> Result<(), Refusals>,
    ) -> Agreed<End> {
        let Some(one) = self.choose_delegation(which, |one| suits(self, one)) else { return Ok(End::Left) };
        let who = self.who(by, &[self.model.delegations[one].delegator]);
        let path = format!("/delegate/{}/{name}", self.ids[one]);
        let Some(answer) = self.call(who, ("POST", &path), body).await? else { return Ok(End::Refused) };
        let said = apply(&mut self.model, who, one);
        self.agree_on_move(one, &answer, said.is_ok(), agree(&answer, &said))
    }

    fn agree_on_move(
        &self,
        one: usize,
        answer: &crate::support::Answer,
        accepted: bool,
        agreed: Agreed,
    ) -> Agreed<End> {
        agreed?;
        if accepted {
            self.agree_on_view(one, &answer.json)?;
        }
        Ok(end(accepted))
    }

    async fn revoke(&mut self, (by, which): (By, Which)) -> Agreed<End> {
        let Some(one) = self.choose_delegation(which, |one| self.model.is_active(one)) else {
            return Ok(End::Left);
        };
        let parties = self.parties();
        let entitled: Vec<Who> = parties.into_iter().filter(|who| self.model.may_see(*who, one)).collect();
        let who = self.who(by, &entitled);
        let path = format!("/delegate/{}/revoke", self.ids[one]);
        let Some(answer) = self.call(who, ("POST", &path), None).await? else { return Ok(End::Refused) };
        let before = self.model.clone();
        let said = self.model.revoke(who, one);
        agree(&answer, &said)?;
        if said.is_err() {
            return Ok(End::Refused);
        }
        agree_on_reach(&answer.json["affected"], reached(&before, &self.model))?;
        Ok(End::Accepted)
    }

    async fn commands(&mut self, (by, which): (By, Which), count: i64) -> Agreed<End> {
        let suits = |one| self.model.is_active(one) && self.model.uses_left(one).is_some();
        let Some(one) = self.choose_delegation(which, suits) else { return Ok(End::Left) };
        let who = self.who(by, &[Who::Agent(self.model.delegations[one].delegate)]);
        let path = format!("/delegate/{}/steps", self.ids[one]);
        let body = Some(steps(count));
        let Some(answer) = self.call(who, ("POST", &path), body).await? else { return Ok(End::Refused) };
        let said = self.model.commands(who, one, count);
        agree(&answer, &said)?;
        if said.is_err() {
            return Ok(End::Refused);
        }
        let view = self.view(one);
        for member in ["id", "state", "uses", "uses_left"] {
            if answer.json[member] != view[member] {
                return Err(format!("{member} should be {}: {}", view[member], answer.text));
            }
        }
        Ok(End::Accepted)
    }

    /// A token, the agent that exchanges it, and the delegation that allows the exchange.
    fn hop(&self, which: Which, agent: usize) -> Option<(usize, usize, Option<usize>)> {
        let model = &self.model;
        let mut suited = Vec::new();
        for (token, one) in model.tokens.iter().enumerate().filter(|(token, _)| model.is_live(*token)) {
            for (child, below) in model.delegations.iter().enumerate() {
                let leads = below.parent == Some(one.delegation) && model.is_active(child);
                if leads && !one.actors.contains(&below.delegate) {
                    suited.push((token, below.delegate, Some(child)));
                }
            }
        }
        match which {
            Which::Suitable(n) => (!suited.is_empty()).then(|| suited[n % suited.len()]),
            Which::Any(n) => {
                let tokens = model.tokens.len();
                (tokens > 0).then(|| (n % tokens, agent % model.agents.len(), None))
            }
        }
    }

    async fn revoke_token(&mut self, (by, which): (By, Which)) -> Agreed<End> {
        let live = |token| self.model.is_live(token);
        let Some(token) = self.choose(which, self.jwts.len(), live) else { return Ok(End::Left) };
        let agent = match by {
            By::Any(n) => n % self.model.agents.len(),
            By::Entitled(_) | By::Admin => self.model.tokens[token].holder(),
        };
        let params = [("token", self.jwts[token].as_str())];
        let answer = self.form(&self.clients[agent], "/oauth/revoke", &params).await;
        let mut after = self.model.clone();
        let said = after.revoke_token(agent, token);
        if self.model.turned_away(agent).iter().any(|refusal| refusal.reason == "agent_deactivated") {
            // An agent without its delegation may still revoke its tokens until the server has noticed the expiry.
            self.model.agents[agent].made_for = None;
            let said = self.model.clone().revoke_token(agent, token);
            self.model.agents[agent].made_for.clone_from(&after.agents[agent].made_for);
            if answer.status == 401 {
                return Ok(End::Refused);
            }
            agree(&answer, &said)?;
            self.model.tokens[token].revoked |=
                said.is_ok() && self.model.now < self.model.tokens[token].expires_at;
            return Ok(end(said.is_ok()));
        }
        agree(&answer, &said)?;
        self.model = after;
        Ok(end(said.is_ok()))
    }

    async fn switch(&mut self, by: By, agent: usize, disabled: bool) -> Agreed<End> {
        let who = self.who(by, &[Who::Admin]);
        let name = if disabled { "disable" } else { "enable" };
        let path = format!("/api/v1/clients/{}/{name}", self.clients[agent].id);
        let Some(answer) = self.call(who, ("POST", &path), None).await? else { return Ok(End::Refused) };
        let before = self.model.clone();
        let home = self.model.agents[agent].made_for.as_ref().map(|made_for| made_for.delegation);
        if home.is_some_and(|home| before.state(home).0.has_ended()) && answer.reason() == "agent_deactivated"
        {
            return agree(&answer, &Err::<(), _>(vec![refusal(409, "agent_deactivated")]))
                .map(|()| End::Refused);
        }
        let said = self.model.switch(who, agent, disabled);
        agree(&answer, &said)?;
        let Ok(changed) = said else { return Ok(End::Refused) };
        let state = if disabled { "disabled" } else { "enabled" };
        if (&answer.json["state"], &answer.json["changed"]) != (&json!(state), &json!(changed)) {
            return Err(format!("should be {state}, changed {changed}: {}", answer.text));
        }
        if disabled && changed {
            agree_on_reach(&answer.json["affected"], reached_through(&before, agent))?;
        }
        Ok(End::Accepted)
    }

    async fn revoke_all(&mut self, by: By, whom: Who) -> Agreed<End> {
        let who = self.who(by, &[Who::Admin]);
        let mut body = self.principal(whom);
        body["reason"] = json!("has left");
        let path = "/api/v1/principals/revoke-all";
        let Some(answer) = self.call(who, ("POST", path), Some(body)).await? else { return Ok(End::Refused) };
        let before = self.model.clone();
        let said = self.model.revoke_all(who, whom);
        agree(&answer, &said)?;
        if said.is_err() {
            return Ok(End::Refused);
        }
        agree_on_reach(&answer.json["affected"], reached(&before, &self.model))?;
        Ok(End::Accepted)
    }

    async fn end_task(&mut self, by: By, task: usize) -> Agreed<End> {
        let alive: Vec<&MadeFor> =
            self.model.agents.iter().filter_map(|agent| agent.made_for.as_ref()).collect();
        let alive = alive.into_iter().filter(|made_for| self.model.is_active(made_for.delegation));
        let (tasks, owners): (Vec<usize>, Vec<Who>) =
            alive.map(|made_for| (made_for.task, made_for.owner)).unzip();
        let task = tasks.get(task).copied().unwrap_or(task);
        let who = self.who(by, &owners);
        let path = format!("/api/v1/tasks/{}/agents", self.task(task));
        let Some(answer) = self.call(who, ("DELETE", &path), None).await? else { return Ok(End::Refused) };
        let (homes, alive) = self.model.of_task(who, task);
        if !homes.is_empty() && !alive && answer.status == 404 {
            // All of them had expired, and the server had noticed.
            return agree(&answer, &Err::<(), _>(vec![refusal(404, "not_found")])).map(|()| End::Refused);
        }
        let said = self.model.end_task(who, task);
        agree(&answer, &said)?;
        Ok(end(said.is_ok()))
    }

    async fn read(&mut self, (by, which): (By, Which)) -> Agreed<End> {
        let Some(one) = self.choose_delegation(which, |_| true) else { return Ok(End::Left) };
        let parties = self.parties();
        let entitled: Vec<Who> = parties.into_iter().filter(|who| self.model.may_see(*who, one)).collect();
        let who = self.who(by, &entitled);
        let path = format!("/delegate/{}", self.ids[one]);
        let Some(answer) = self.call(who, ("GET", &path), None).await? else { return Ok(End::Refused) };
        let said = self.model.read(who, one);
        if let (Ok(()), Who::Agent(agent), State::Requested) = (&said, who, self.model.state(one).0)
            && !self.asked.insert((agent, one))
            && answer.status == 429
        {
            return agree(&answer, &Err::<(), _>(vec![refusal(429, "slow_down")])).map(|()| End::Refused);
        }
        agree(&answer, &said)?;
        if said.is_err() {
            return Ok(End::Refused);
        }
        self.agree_on_view(one, &answer.json)?;
        Ok(End::Accepted)
    }

    /// Compares each delegation, and the lists that each caller sees, by pages and by state.
    async fn agree_on_lists(&mut self) -> Agreed {
        for one in 0..self.ids.len() {
            let path = format!("/delegate/{}", self.ids[one]);
            let answer = self.call_as_admin(("GET", &path), None).await;
            self.agree_on_view(one, &answer.json)?;
        }
        for who in self.parties() {
            if who == Who::Admin {
                continue;
            }
            let sees = |one: &usize| match who {
                Who::User(user) => self.model.delegations[*one].root == user,
                _ => {
                    let one = &self.model.delegations[*one];
                    one.delegator == who || Who::Agent(one.delegate) == who
                }
            };
            let seen: Vec<usize> = (0..self.ids.len()).filter(sees).collect();
            for state in [
                None,
                Some(State::Requested),
                Some(State::Active),
                Some(State::Expired),
                Some(State::Revoked),
            ] {
                let filter = state.map_or(String::new(), |state| format!("&state={}", state.name()));
                let query = format!("/delegate?limit=4{filter}");
                let Some(items) = self.list(who, &query).await? else { break };
                let mut listed: Vec<&str> = items.iter().filter_map(|item| item["id"].as_str()).collect();
                let fits = |one: &&usize| state.is_none_or(|state| self.model.state(**one).0 == state);
                let mut due: Vec<&str> =
                    seen.iter().filter(fits).map(|one| self.ids[*one].as_str()).collect();
                listed.sort_unstable();
                due.sort_unstable();
                if listed != due {
                    let states: Vec<_> = seen.iter().map(|one| self.view(*one)).collect();
                    return Err(format!(
                        "{who:?} should see {due:?} with {filter:?}, and sees {items:#?}; {states:#?}"
                    ));
                }
            }
        }
        Ok(())
    }
}

fn limits_body(limits: &Limits, ttl: Option<i64>) -> Value {
    let mut body = json!({});
    let mut put = |name: &str, value: Option<Value>| {
        if let Some(value) = value {
            body[name] = value;
        }
    };
    put("scopes", limits.scopes.as_ref().map(|names| json!(names)));
    put("audiences", limits.audiences.as_ref().map(|names| json!(names)));
    put("capability_ceiling", limits.ceiling.map(|place| json!(LEVELS[place])));
    put("max_uses", limits.max_uses.map(|most| json!(most)));
    put("max_depth", limits.max_depth.map(|most| json!(most)));
    put("expires_in", ttl.map(|ttl| json!(ttl)));
    body
}

fn agree_on_reach(said: &Value, (delegations, tokens): (usize, usize)) -> Agreed {
    let due = json!({"delegations": delegations, "tokens": tokens, "at_least": false});
    if *said == due { Ok(()) } else { Err(format!("should have reached {due}, and says {said}")) }
}

/// The delegations and tokens that became inactive through the move. Suspended tokens do not count.
fn reached(before: &Model, after: &Model) -> (usize, usize) {
    let delegations =
        (0..before.delegations.len()).filter(|one| !before.is_over(*one) && after.is_over(*one));
    let tokens = (0..before.tokens.len()).filter(|token| {
        before.now < before.tokens[*token].expires_at
            && before.status(*token) != Status::Invalid
            && after.status(*token) == Status::Invalid
    });
    let passes =
        (0..before.passes.len()).filter(|pass| before.pass_is_good(*pass) && !after.pass_is_good(*pass));
    (delegations.count(), tokens.count() + passes.count())
}

/// The active delegations and tokens that pass through an agent.
fn reached_through(model: &Model, agent: usize) -> (usize, usize) {
    let through_agent = |above: &usize| model.delegations[*above].delegate == agent;
    let delegations = (0..model.delegations.len())
        .filter(|one| !model.is_over(*one) && model.path(*one).iter().any(through_agent));
    let tokens = (0..model.tokens.len()).filter(|token| {
        let one = &model.tokens[*token];
        model.now < one.expires_at && model.status(*token) != Status::Invalid && one.actors.contains(&agent)
    });
    let through = |other: usize| {
        let home = model.agents[other].made_for.as_ref().map(|made_for| made_for.delegation);
        other == agent || home.is_some_and(|home| model.path(home).iter().any(through_agent))
    };
    let passes = (0..model.passes.len())
        .filter(|pass| model.pass_is_good(*pass) && through(model.passes[*pass].agent));
    (delegations.count(), tokens.count() + passes.count())
}
