//! Plays a story on the real server and in the model, and compares the server's responses with the model's, move by
//! move.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use actchain::platform::clock::{from_seconds, rfc3339};
use serde_json::{Value, json};

use super::moves::{Ask, By, To, Want, Which};
use super::rules::*;
use crate::support::Answer;
use crate::support::agent::{ACCESS_TOKEN, Agent as Client, Auth, JWT};
use crate::support::management::Api;
use crate::support::world::{IDP, World};

/// A result; the error describes a disagreement in words.
pub type Agreed<T = ()> = Result<T, String>;

/// How often each kind of move was accepted, and how often it was refused for each reason.
#[derive(Debug, Default)]
pub struct Tally(pub BTreeMap<&'static str, BTreeMap<String, u32>>);

impl Tally {
    pub fn note(&mut self, kind: &'static str, how: &str) {
        *self.0.entry(kind).or_default().entry(how.to_owned()).or_default() += 1;
    }

    pub fn accepted(&self, kind: &str) -> u32 {
        self.0.get(kind).and_then(|ends| ends.get(ACCEPTED)).copied().unwrap_or_default()
    }

    pub fn refused(&self, kind: &str) -> u32 {
        self.0.get(kind).map_or(0, |ends| ends.values().sum::<u32>() - self.accepted(kind))
    }
}

pub const ACCEPTED: &str = "accepted";

/// The world that all stories share.
pub struct Theatre {
    pub world: World,
    /// A resource server that introspects all tokens.
    pub reader: Client,
    stories: u32,
    pub tally: Tally,
}

/// A timeout long enough for a busy machine.
const CONFIG: &str = "
[ledger]
timeout = 60
[tokens]
max_ttl = 700
max_depth = 4
[delegations]
default_ttl = 900
max_ttl = 3600
request_ttl = 300
[agents]
max_ttl = 600
max_per_task = 3
";

impl Theatre {
    pub async fn new() -> Self {
        let world = World::configured(CONFIG).await;
        let reader = Client::new("reader", Auth::Basic("reader-secret-0123456789".into()));
        let yaml = format!(
            "clients:\n  - {{id: reader, kind: resource_server, auth: client_secret_basic, \
             secret: reader-secret-0123456789, audiences: [\"{MAIL}\", \"{CALENDAR}\"]}}"
        );
        world.server.apply(&yaml).await.unwrap();
        // The server may close a pooled connection just when it is reused.
        Self { world, reader, stories: 0, tally: Tally::default() }
    }
}

/// One story: its own users, agents and tasks on the shared server.
pub struct Stage<'a> {
    pub theatre: &'a mut Theatre,
    pub model: Model,
    story: u32,
    began_at: i64,
    pub clients: Vec<Client>,
    /// Ids of delegations, in the order of the model.
    pub ids: Vec<String>,
    /// Tokens, in the order of the model.
    pub jwts: Vec<String>,
    /// A reusable token of each user, and when it was issued.
    user_tokens: Vec<Option<(String, i64)>>,
    /// Each agent's token for the management API, and its index in the model.
    passes: Vec<Option<(String, usize)>>,
    admin_pass: Option<(String, i64)>,
    /// Tokens that have been observed to be expired.
    expired: BTreeSet<usize>,
    /// The reason in the last response.
    pub reason: RefCell<String>,
    /// The polls so far, as agent and delegation: a repeated poll may be answered with `slow_down`.
    pub asked: BTreeSet<(usize, usize)>,
}

/// The result of authentication at the management API.
enum Admission {
    Accepted(Answer),
    /// Refused, as in the model.
    Rejected,
}

impl<'a> Stage<'a> {
    pub async fn new(theatre: &'a mut Theatre) -> Self {
        theatre.stories += 1;
        let story = theatre.stories;
        let everything = (SCOPES.to_vec(), AUDIENCES.to_vec(), None);
        let casts = [
            everything.clone(),
            everything.clone(),
            everything,
            (vec!["mail.read", "mail.send", "both"], vec![MAIL], None),
            (vec!["mail.read", "calendar.read", "both"], AUDIENCES.to_vec(), Some(200)),
        ];
        let mut model = Model { now: theatre.world.server.now(), users: vec![None; 2], ..Model::default() };
        let mut clients = Vec::new();
        let mut yaml = "clients:\n".to_owned();
        for (n, (scopes, audiences, max_token_ttl)) in casts.into_iter().enumerate() {
            let auth = if n % 2 == 0 { Auth::None } else { Auth::Assertion };
            let client = Client::new(&format!("s{story}-a{n}"), auth);
            let proved = match client.auth {
                Auth::None => format!("auth: none, dpop_keys: [{}]", client.jkt()),
                _ => format!("auth: private_key_jwt, jwks: {{keys: [{}]}}", client.key.public_jwk()),
            };
            let ttl = max_token_ttl.map_or(String::new(), |ttl| format!(", max_token_ttl: {ttl}"));
            yaml += &format!(
                "  - {{id: {}, kind: agent, {proved}, scopes: {scopes:?}, audiences: {audiences:?}, \
                 grant_types: [client_credentials, token-exchange]{ttl}}}\n",
                client.id
            );
            clients.push(client);
            model.agents.push(Agent {
                scopes: scopes.into_iter().collect(),
                audiences: audiences.into_iter().collect(),
                max_token_ttl,
                disabled: false,
                revoke_all: None,
                made_for: None,
            });
        }
        theatre.world.server.apply(&yaml).await.unwrap();
        Self {
            began_at: model.now,
            passes: vec![None; clients.len()],
            user_tokens: vec![None; model.users.len()],
            theatre,
            model,
            story,
            clients,
            ids: Vec::new(),
            jwts: Vec::new(),
            admin_pass: None,
            expired: BTreeSet::new(),
            reason: RefCell::default(),
            asked: BTreeSet::new(),
        }
    }

    pub fn world(&self) -> &World {
        &self.theatre.world
    }

    pub fn issuer(&self) -> &str {
        &self.world().server.app.issuer
    }

    pub fn sub(&self, user: usize) -> String {
        format!("s{}-u{user}", self.story)
    }

    pub fn task(&self, task: usize) -> String {
        format!("s{}-t{task}", self.story)
    }

    pub fn parties(&self) -> Vec<Who> {
        let users = (0..self.model.users.len()).map(Who::User);
        users.chain((0..self.model.agents.len()).map(Who::Agent)).chain([Who::Admin]).collect()
    }

    pub fn who(&self, by: By, entitled: &[Who]) -> Who {
        match by {
            By::Entitled(n) if !entitled.is_empty() => entitled[n % entitled.len()],
            By::Any(n) => self.parties()[n % self.parties().len()],
            _ => Who::Admin,
        }
    }

    /// Selects one of `of` objects.
    pub fn choose(&self, which: Which, of: usize, suitable: impl Fn(usize) -> bool) -> Option<usize> {
        let suited: Vec<usize> = (0..of).filter(|one| suitable(*one)).collect();
        match which {
            Which::Suitable(n) => (!suited.is_empty()).then(|| suited[n % suited.len()]),
            Which::Any(n) => (of > 0).then(|| n % of),
        }
    }

    pub fn choose_delegation(&self, which: Which, suitable: impl Fn(usize) -> bool) -> Option<usize> {
        self.choose(which, self.model.delegations.len(), suitable)
    }

    /// Limits of a request; if `fitting` is set, reduced to what these parents allow.
    pub fn limits(&self, ask: &Ask, above: &[usize]) -> Limits {
        let mut limits = Limits {
            scopes: ask.scopes.map(scopes_of),
            audiences: ask.audiences.map(audiences_of),
            ceiling: ask.ceiling,
            max_uses: ask.max_uses,
            max_depth: ask.max_depth,
        };
        for above in above.iter().filter(|_| ask.fitting) {
            let outer = &self.model.delegations[*above].limits;
            limits.scopes = cut(limits.scopes, &outer.scopes);
            limits.audiences = cut(limits.audiences, &outer.audiences);
            limits.max_uses = limits.max_uses.map(|inner| inner.min(outer.max_uses.unwrap_or(inner)));
            limits.ceiling = limits.ceiling.map(|inner| inner.min(outer.ceiling.unwrap_or(inner)));
            limits.max_depth = limits.max_depth.map(|inner| inner.min(outer.max_depth.unwrap_or(inner)));
        }
        limits
    }

    pub fn delegate(&self, to: To) -> Delegate {
        match to {
            To::Agent(n) => Delegate::Agent(n % self.model.agents.len()),
            To::Unknown => Delegate::Unknown,
            To::New(task) => Delegate::New(task),
        }
    }

    /// Requested access; if `fitting` is set, reduced to what the agent, the token and the delegation allow.
    pub fn wanted(
        &self,
        want: &Want,
        agent: usize,
        (token, delegation): (Option<usize>, Option<usize>),
    ) -> Wanted {
        let mut wanted = Wanted {
            scopes: want.scopes.map(scopes_of),
            audiences: want.audiences.map(audiences_of),
            ceiling: want.ceiling,
        };
        if want.fitting {
            let client = &self.model.agents[agent];
            wanted.scopes = cut(wanted.scopes, &Some(client.scopes.clone()));
            wanted.audiences = cut(wanted.audiences, &Some(client.audiences.clone()));
            if let Some(token) = token.map(|token| &self.model.tokens[token]) {
                wanted.scopes = cut(wanted.scopes, &Some(token.scopes.clone()));
                wanted.audiences = cut(wanted.audiences, &Some(token.audiences.clone()));
                wanted.ceiling = wanted.ceiling.map(|inner| inner.min(token.ceiling.unwrap_or(inner)));
            }
            for above in delegation.map_or_else(Vec::new, |delegation| self.model.path(delegation)) {
                let limits = &self.model.delegations[above].limits;
                wanted.scopes = cut(wanted.scopes, &limits.scopes);
                wanted.audiences = cut(wanted.audiences, &limits.audiences);
                wanted.ceiling = wanted.ceiling.map(|inner| inner.min(limits.ceiling.unwrap_or(inner)));
            }
            for target in wanted.audiences.iter().flatten() {
                wanted.scopes = cut(wanted.scopes, &Some(known_at(target)));
            }
        }
        wanted.scopes = wanted.scopes.filter(|scopes| !scopes.is_empty());
        wanted.audiences = wanted.audiences.filter(|audiences| !audiences.is_empty());
        wanted
    }

    pub fn principal(&self, who: Who) -> Value {
        match who {
            Who::User(user) => json!({"iss": IDP, "sub": self.sub(user)}),
            Who::Agent(agent) => json!({"iss": self.issuer(), "sub": self.clients[agent].id}),
            Who::Admin => json!({"iss": self.issuer(), "sub": "admin"}),
        }
    }

    /// A token of a user; reuses an earlier token unless `fresh` is set.
    pub fn user_token(&mut self, user: usize, fresh: bool) -> (String, i64) {
        let now = self.model.now;
        if let (false, Some(kept)) = (fresh, &self.user_tokens[user]) {
            return kept.clone();
        }
        let sub = self.sub(user);
        let made = (self.world().user_token_with(|claims| claims["sub"] = json!(sub)), now);
        self.user_tokens[user].get_or_insert_with(|| made.clone());
        made
    }

    pub async fn form(&self, agent: &Client, path: &'static str, params: &[(&str, &str)]) -> Answer {
        let mut request = agent.at(&self.world().server, path);
        for (name, value) in params {
            request = request.param(name, value);
        }
        let body = request.body().into_bytes();
        let answer = request.send_raw(body).await;
        self.reason.replace(format!("{} {}", answer.status, answer.reason()));
        answer
    }

    async fn ask_for_pass(&self, client: &Client) -> Answer {
        let params = [("grant_type", "client_credentials"), ("audience", self.issuer())];
        self.form(client, "/oauth/token", &params).await
    }

    /// Calls the management API, and checks authentication against the model.
    pub async fn call(
        &mut self,
        who: Who,
        (method, path): (&str, &str),
        body: Option<Value>,
    ) -> Agreed<Option<Answer>> {
        let admission = match who {
            Who::User(user) => self.call_as_user(user, (method, path), body).await?,
            Who::Agent(agent) => self.call_as_agent(agent, (method, path), body).await?,
            Who::Admin => Admission::Accepted(self.call_as_admin((method, path), body).await),
        };
        match admission {
            Admission::Accepted(answer) => {
                self.reason.replace(format!("{} {}", answer.status, answer.reason()));
                Ok(Some(answer))
            }
            Admission::Rejected => {
                self.reason.replace("turned away".to_owned());
                Ok(None)
            }
        }
    }

    fn api(&self, (method, path): (&str, &str), body: Option<Value>) -> Api<'_> {
        let api = Api::new(&self.theatre.world.server, method, path);
        body.iter().fold(api, |api, body| api.json(body))
    }

    pub async fn call_as_admin(&mut self, at: (&str, &str), body: Option<Value>) -> Answer {
        let now = self.model.now;
        let pass = match &self.admin_pass {
            Some((pass, until)) if now < *until => pass.clone(),
            _ => {
                let pass = self.ask_for_pass(&self.world().admin).await.token().to_owned();
                self.admin_pass = Some((pass.clone(), now + TOKEN_TTL));
                pass
            }
        };
        self.api(at, body).client(&self.world().admin, &pass).send().await
    }

    async fn call_as_user(
        &mut self,
        user: usize,
        at: (&str, &str),
        body: Option<Value>,
    ) -> Agreed<Admission> {
        let now = self.model.now;
        if self.user_tokens[user].as_ref().is_some_and(|(_, since)| now >= since + 1_000) {
            self.user_tokens[user] = None;
        }
        let (token, since) = self.user_token(user, false);
        let answer = self.api(at, body).user(&token).send().await;
        if self.model.user_token_is_accepted(user, since) {
            return Ok(Admission::Accepted(answer));
        }
        self.user_tokens[user] = None;
        rejected(&answer)
    }

    async fn call_as_agent(
        &mut self,
        agent: usize,
        at: (&str, &str),
        body: Option<Value>,
    ) -> Agreed<Admission> {
        let now = self.model.now;
        let client = self.clients[agent].clone();
        let kept = self.passes[agent].clone().filter(|(_, id)| now < self.model.passes[*id].expires_at);
        let (pass, id) = match kept {
            Some(kept) => kept,
            None => {
                let answer = self.ask_for_pass(&client).await;
                let turned_away = self.model.turned_away(agent);
                if !turned_away.is_empty() {
                    return agree(&answer, &Err::<(), _>(turned_away)).map(|()| Admission::Rejected);
                }
                let ttl = self.model.pass_ttl(agent);
                if answer.json["expires_in"] != json!(ttl) {
                    return Err(format!("a pass for {ttl} s was due: {}", answer.text));
                }
                (answer.token().to_owned(), self.model.admit(agent))
            }
        };
        self.passes[agent] = Some((pass.clone(), id));
        let answer = self.api(at, body).client(&client, &pass).send().await;
        if self.model.pass_is_accepted(&self.model.passes[id]) {
            return Ok(Admission::Accepted(answer));
        }
        if !self.model.agents[agent].disabled {
            self.passes[agent] = None;
        }
        rejected(&answer)
    }

    /// Registers a new ephemeral agent with its key.
    pub fn admit(&mut self, id: &str, key: Client) {
        self.clients.push(Client { id: id.to_owned(), ..key });
        self.passes.push(None);
    }

    pub async fn exchange(&self, agent: usize, (token, kind): (&str, &str), wanted: &Wanted) -> Answer {
        let mut params = vec![
            ("grant_type", crate::support::agent::EXCHANGE),
            ("subject_token", token),
            ("subject_token_type", kind),
        ];
        let scope = wanted.scopes.as_ref().map(join);
        params.extend(scope.iter().map(|scope| ("scope", scope.as_str())));
        params.extend(wanted.audiences.iter().flatten().map(|name| ("audience", *name)));
        params.extend(wanted.ceiling.map(|place| ("capability_ceiling", LEVELS[place])));
        self.form(&self.clients[agent], "/oauth/token", &params).await
    }

    /// Compares the result of an exchange, and stores the token. Returns whether a token was issued.
    pub fn agree_on_exchange(
        &mut self,
        agent: usize,
        answer: &Answer,
        said: Result<Vec<Token>, Refusals>,
    ) -> Agreed<bool> {
        agree(answer, &said)?;
        let Ok(tokens) = said else { return Ok(false) };
        let claims = answer.claims();
        if answer.json["delegation_id"] != claims["dlg"] {
            return Err(format!("the answer names another delegation than the token: {}", answer.text));
        }
        let under = |token: &&Token| claims["dlg"] == json!(self.ids[token.delegation]);
        let token = tokens
            .iter()
            .find(under)
            .ok_or_else(|| format!("under a delegation that does not give it: {claims}"))?;
        let act = token.actors.iter().fold(Value::Null, |inner, actor| {
            let client = &self.clients[*actor];
            let mut act = json!({"iss": self.issuer(), "sub": client.id, "cnf": {"jkt": client.jkt()}});
            if inner != Value::Null {
                act["act"] = inner;
            }
            act
        });
        let aud: Vec<&str> = token.audiences.iter().copied().collect();
        let aud = if let [one] = aud[..] { json!(one) } else { json!(aud) };
        let scope: BTreeSet<&str> = claims["scope"].as_str().unwrap_or_default().split(' ').collect();
        let due = json!({
            "iss": self.issuer(), "idp": IDP, "sub": self.sub(token.user), "client_id": self.clients[agent].id,
            "aud": aud, "scope": join(&token.scopes), "iat": token.issued_at, "exp": token.expires_at, "act": act,
            "cnf": {"jkt": self.clients[agent].jkt()}, "capability_ceiling": token.ceiling.map(|place| LEVELS[place]),
        });
        let said = json!({
            "iss": claims["iss"], "idp": claims["idp"], "sub": claims["sub"], "client_id": claims["client_id"],
            "aud": claims["aud"], "scope": join(&scope), "iat": claims["iat"], "exp": claims["exp"], "act": claims["act"],
            "cnf": claims["cnf"], "capability_ceiling": claims["capability_ceiling"],
        });
        if due != said {
            return Err(format!("the token says\n  {said}\nand should say\n  {due}"));
        }
        self.model.issue(token.clone());
        self.jwts.push(answer.token().to_owned());
        Ok(true)
    }

    /// The expected JSON of a delegation.
    pub fn view(&self, delegation: usize) -> Value {
        let one = &self.model.delegations[delegation];
        let (state, ended_by) = self.model.state(delegation);
        let path: Vec<&String> =
            self.model.path(delegation).into_iter().map(|above| &self.ids[above]).collect();
        json!({
            "id": self.ids[delegation],
            "state": state.name(),
            "delegator": self.principal(one.delegator),
            "delegate": self.clients[one.delegate].id,
            "parent": one.parent.map(|parent| &self.ids[parent]),
            "path": path,
            "root": self.principal(Who::User(one.root)),
            "origin": if one.asked_for { "requested" } else { "granted" },
            "scopes": one.limits.scopes,
            "audiences": one.limits.audiences,
            "authorization_details": null,
            "capability_ceiling": one.limits.ceiling.map(|place| LEVELS[place]),
            "ceremony_required_for": [],
            "max_uses": one.limits.max_uses,
            "uses": one.uses,
            "uses_left": self.model.uses_left(delegation),
            "max_depth": one.limits.max_depth,
            "requested_by": self.principal(one.requested_by),
            "requested_at": instant(Some(one.requested_at)),
            "activated_at": instant(one.activated_at),
            "expires_at": instant(Some(one.expires_at)),
            "revoked_at": instant(one.revoked_at),
            "ended_by": ended_by.map(|above| &self.ids[above]),
        })
    }

    pub fn agree_on_view(&self, delegation: usize, said: &Value) -> Agreed {
        let due = self.view(delegation);
        let members = due.as_object().into_iter().flatten();
        let differ: Vec<String> = members
            .filter(|(name, value)| said[name.as_str()] != **value)
            .map(|(name, value)| format!("{name} is {} and should be {value}", said[name.as_str()]))
            .collect();
        if differ.is_empty() {
            Ok(())
        } else {
            Err(format!("delegation {delegation}: {}", differ.join(", ")))
        }
    }

    /// Reads all pages of a list.
    pub async fn list(&mut self, who: Who, query: &str) -> Agreed<Option<Vec<Value>>> {
        let mut items: Vec<Value> = Vec::new();
        let mut cursor = String::new();
        loop {
            let path = format!("{query}{cursor}");
            let Some(answer) = self.call(who, ("GET", &path), None).await? else { return Ok(None) };
            let page = answer.json["items"].as_array().ok_or_else(|| format!("{path}: {}", answer.text))?;
            items.extend(page.iter().cloned());
            if items.len() > 500 {
                return Err(format!("{query}: pages without end"));
            }
            match answer.json["next"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => return Ok(Some(items)),
            }
        }
    }

    /// Compares the states of all delegations, and all tokens.
    pub async fn agree_on_everything(&mut self) -> Agreed {
        let since = instant(Some(self.began_at));
        let query = format!("/delegate?limit=100&from={}", since.as_str().unwrap_or_default());
        let items = self.list(Who::Admin, &query).await?.unwrap_or_default();
        for (n, id) in self.ids.iter().enumerate() {
            let found: Vec<&Value> = items.iter().filter(|item| item["id"] == json!(id)).collect();
            let [item] = found[..] else {
                return Err(format!("delegation {n} is {} times in the list", found.len()));
            };
            self.agree_on_view(n, item)?;
        }
        self.agree_on_tokens().await
    }

    async fn agree_on_tokens(&mut self) -> Agreed {
        let checked: Vec<usize> =
            (0..self.jwts.len()).filter(|token| !self.expired.contains(token)).collect();
        if checked.is_empty() {
            return Ok(());
        }
        let answers = futures_util::future::join_all(checked.iter().map(|token| {
            let request =
                self.theatre.reader.at(&self.theatre.world.server, "/oauth/introspect").without("dpop");
            let request = request.param("token", &self.jwts[*token]);
            let body = request.body().into_bytes();
            request.send_raw(body)
        }))
        .await;
        let list = self.status_list().await;
        for (token, answer) in checked.into_iter().zip(answers) {
            let live = self.model.is_live(token);
            let about = format!("token {token} under delegation {}", self.model.tokens[token].delegation);
            if answer.json["active"] != json!(live) {
                return Err(format!("{about} should have active {live}: {}", answer.text));
            }
            let one = &self.model.tokens[token];
            if live {
                let state = self.model.state(one.delegation).0.name();
                if answer.json["delegation"]["state"] != state || answer.json["scope"] != join(&one.scopes) {
                    return Err(format!(
                        "{about} should be {one:?}, its delegation {state}: {}",
                        answer.text
                    ));
                }
            }
            if self.model.now >= one.expires_at {
                self.expired.insert(token);
                continue;
            }
            let claims = crate::support::claims_of(&self.jwts[token]);
            let place = claims["status"]["status_list"]["idx"].as_u64().unwrap_or(u64::MAX);
            let (said, due) = (list.get(place).map(|status| status as u8), self.model.status(token));
            if said != Some(due as u8) {
                return Err(format!("{about} should be {due:?} in the status list, which says {said:?}"));
            }
        }
        Ok(())
    }

    async fn status_list(&self) -> actchain_protocol::status_list::StatusList {
        let answer = Api::get(&self.world().server, "/oauth/status-lists/0").send().await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        let claims = crate::support::claims_of(&answer.text);
        let list = claims["status_list"]["lst"].as_str().unwrap();
        actchain_protocol::status_list::StatusList::read(list).unwrap()
    }
}

/// Checks that a rejected caller gets `access_token_invalid`.
fn rejected(answer: &Answer) -> Agreed<Admission> {
    agree(answer, &Err::<(), _>(vec![refusal(401, "access_token_invalid")])).map(|()| Admission::Rejected)
}

/// Compares a response with the model's result.
pub fn agree<T>(answer: &Answer, said: &Result<T, Refusals>) -> Agreed {
    let accepted = (200..300).contains(&answer.status);
    match said {
        Ok(_) if accepted => Ok(()),
        Ok(_) => Err(format!("should have been accepted: {} {}", answer.status, answer.text)),
        Err(refusals) => {
            let fits = |refusal: &&Refusal| {
                (refusal.status, refusal.reason) == (answer.status, answer.reason())
                    && refusal.state.is_none_or(|state| answer.json["state"] == state.name())
            };
            let found = refusals.iter().any(|refusal| fits(&refusal));
            if found {
                Ok(())
            } else {
                Err(format!("should have been refused for {refusals:?}: {} {}", answer.status, answer.text))
            }
        }
    }
}

fn cut(inner: Option<Names>, outer: &Option<Names>) -> Option<Names> {
    let inner = inner?;
    Some(outer.as_ref().map_or_else(|| inner.clone(), |outer| &inner & outer))
}

fn scopes_of(bits: u8) -> Names {
    SCOPES.into_iter().enumerate().filter(|(n, _)| bits >> n & 1 == 1).map(|(_, name)| name).collect()
}

fn audiences_of(bits: u8) -> Names {
    AUDIENCES.into_iter().enumerate().filter(|(n, _)| bits >> n & 1 == 1).map(|(_, name)| name).collect()
}

pub fn join<T: AsRef<str> + Ord>(names: &BTreeSet<T>) -> String {
    names.iter().map(AsRef::as_ref).collect::<Vec<_>>().join(" ")
}

fn instant(at: Option<i64>) -> Value {
    json!(at.and_then(from_seconds).map(rfc3339))
}

/// The token types of a user's token and of this server's token.
pub const KINDS: (&str, &str) = (JWT, ACCESS_TOKEN);
