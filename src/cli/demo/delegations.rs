//! The second part of the demo: an agent requests a delegation; Bob approves less, confirms one use and revokes
//! everything. The output and the checks use only responses of the server and of commands.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::fixtures::{Cast, FILES, IDP, MAIL};
use super::process::{Agent, Answer, Caller, now};
use super::{ACCESS_TOKEN, JWT, Story, claims_of, print_indented, text};
use crate::platform::fault::Fault;
use crate::platform::jose::Jws;
use crate::protocol::status_list::{self, Status, StatusList};

/// The access to Bob's mail that an agent may use without a confirmation.
const READ: [(&str, &str); 2] = [("audience", MAIL), ("scope", "mail.read")];
/// The access that needs a confirmation (ceremony) for each use.
const SEND: [(&str, &str); 2] = [("audience", MAIL), ("scope", "mail.read mail.send")];

/// Bob's delegation and everything derived from it.
struct Given {
    bob: String,
    /// The delegation ids; Bob's own delegation is the first.
    ids: Vec<String>,
    /// The ephemeral agent of the last delegation.
    helper: Agent,
    /// The tokens issued under the delegations, hop by hop.
    tokens: Vec<String>,
}

impl Given {
    fn first(&self) -> &str {
        self.ids.first().map_or("", String::as_str)
    }

    fn newest(&self) -> &str {
        self.tokens.last().map_or("", String::as_str)
    }
}

impl Story {
    /// The life cycle of delegations, from an agent's request to the last subdelegated token.
    pub(super) async fn delegations(&mut self, cast: &Cast) -> Result<(), Fault> {
        let claims = json!({"iss": IDP, "sub": "bob", "aud": "actchain", "iat": now(), "exp": now() + 3600});
        let bob = cast.idp.sign("JWT", &claims)?;
        let proxy = self.own_token(&cast.user_proxy).await?;
        let first = self.ask(cast, (&bob, &proxy)).await?;
        self.approve(cast, (&bob, &proxy), &first).await?;
        let mut given = Given { bob, ids: vec![first], helper: Agent::with_key("")?, tokens: Vec::new() };
        self.pass_on(cast, &proxy, &mut given).await?;
        self.use_all(cast, &mut given).await?;
        self.stands(cast, &given).await?;
        self.ceremony(cast, &mut given).await?;
        self.take_back(cast, &given).await?;
        self.log_of(&given).await
    }

    /// The access token with which an agent calls the management API.
    pub(super) async fn own_token(&self, agent: &Agent) -> Result<String, Fault> {
        let for_us = [("grant_type", "client_credentials"), ("audience", self.process.issuer.as_str())];
        let answer = self.process.form("/oauth/token", (agent, Some(&agent.key)), &for_us).await?;
        Ok(said(&answer.body, "/access_token").to_owned())
    }

    async fn ask(&mut self, cast: &Cast, (bob, proxy): (&str, &str)) -> Result<String, Fault> {
        self.step("user-proxy asks Bob for a delegation, and says what for (POST /delegate).");
        let proxy = Caller::Agent(&cast.user_proxy, proxy);
        let wanted = json!({
            "delegator": {"iss": IDP, "sub": "bob"}, "scopes": ["files.read", "mail.read", "mail.send"],
            "audiences": [FILES, MAIL], "expires_in": 3600, "reason": "to answer Bob's mail while he is away",
        });
        let asked = self.process.call(&proxy, ("POST", "/delegate"), Some(&wanted)).await?;
        sketch(&asked);
        self.check("it waits for Bob", asked.status == 202 && said(&asked.body, "/state") == "requested");
        let id = said(&asked.body, "/id").to_owned();
        let early = self.exchange(&cast.user_proxy, &cast.user_proxy.key, (bob, JWT), &READ).await?;
        self.refused(
            "nothing works before he has said yes",
            &early,
            ("invalid_request", "delegation_requested"),
        );
        let at = format!("/delegate/{id}/approve");
        let own = self.process.call(&proxy, ("POST", &at), None).await?;
        self.refused("user-proxy cannot say it for him", &own, ("", "insufficient_scope"));
        Ok(id)
    }

    async fn approve(&mut self, cast: &Cast, (bob, proxy): (&str, &str), id: &str) -> Result<(), Fault> {
        self.step("Bob gives less; user-proxy has been waiting for his answer (GET /delegate/{id}?wait=30).");
        let narrower = json!({
            "scopes": ["mail.read", "mail.send"], "audiences": [MAIL], "expires_in": 1800, "max_uses": 20,
            "ceremony_required_for": ["mail.send"],
        });
        let (waits, approves) = (format!("/delegate/{id}?wait=30"), format!("/delegate/{id}/approve"));
        let (proxy, bob) = (Caller::Agent(&cast.user_proxy, proxy), Caller::User(bob));
        let (heard, approved) = tokio::try_join!(
            self.process.call(&proxy, ("GET", &waits), None),
            self.process.call(&bob, ("POST", &approves), Some(&narrower)),
        )?;
        sketch(&heard);
        self.check("Bob's approval was accepted", approved.status == 200);
        self.check("user-proxy hears of it", heard.status == 200 && said(&heard.body, "/state") == "active");
        self.check(
            "mail only, and no files",
            list(&heard.body, "/audiences") == [MAIL]
                && list(&heard.body, "/scopes") == ["mail.read", "mail.send"],
        );
        self.check(
            "for half as long, for twenty uses, and asking Bob before each mail that is sent",
            lifetime(&heard.body) == Some(1800)
                && heard.body.get("uses_left") == Some(&json!(20))
                && list(&heard.body, "/ceremony_required_for") == ["mail.send"],
        );
        Ok(())
    }

    async fn pass_on(&mut self, cast: &Cast, proxy: &str, given: &mut Given) -> Result<(), Fault> {
        self.step("Each passes on less than it holds; the last, to an agent that is made for this alone.");
        let email = self.own_token(&cast.email_svc).await?;
        let followup = self.own_token(&cast.followup_svc).await?;
        let jwk = given.helper.key.public_jwk();
        let steps = [
            (
                Caller::Agent(&cast.user_proxy, proxy),
                json!({"delegate": "email-svc", "scopes": ["mail.read", "mail.send"], "expires_in": 1200}),
            ),
            (
                Caller::Agent(&cast.email_svc, &email),
                json!({"delegate": "followup-svc", "scopes": ["mail.read"], "expires_in": 600}),
            ),
            (
                Caller::Agent(&cast.followup_svc, &followup),
                json!({"ephemeral": {"jwk": jwk, "task_id": "bobs-mail"}, "expires_in": 300}),
            ),
        ];
        let mut last = Value::Null;
        for (holder, mut wanted) in steps {
            let parent = given.ids.last().cloned().unwrap_or_default();
            if let Value::Object(members) = &mut wanted {
                members.insert("parent".into(), json!(parent));
            }
            let passed = self.process.call(&holder, ("POST", "/delegate"), Some(&wanted)).await?;
            sketch(&passed);
            self.check(
                "at once, below the one before",
                passed.status == 201
                    && said(&passed.body, "/state") == "active"
                    && said(&passed.body, "/parent") == parent,
            );
            given.ids.push(said(&passed.body, "/id").to_owned());
            last = passed.body;
        }
        let made_for_its_key = said(&last, "/ephemeral/jkt") == given.helper.key.kid();
        self.check("the agent that was made is known by its own key", made_for_its_key);
        given.helper.id = said(&last, "/delegate").to_owned();
        let wider = json!({
            "parent": given.ids.get(2), "delegate": "thief", "scopes": ["mail.read", "mail.send"],
        });
        let holder = Caller::Agent(&cast.followup_svc, &followup);
        let wider = self.process.call(&holder, ("POST", "/delegate"), Some(&wider)).await?;
        self.refused("passing on more than one holds", &wider, ("", "exceeds_parent"));
        self.tree("active", given).await
    }

    /// Draws Bob's delegations, and checks that all of them are in one state.
    async fn tree(&mut self, state: &str, given: &Given) -> Result<(), Fault> {
        let drawn = self.process.run(&["delegation", "tree", "--delegator", "bob"]).await?;
        print_indented(&drawn.text);
        let found = |id: &String| drawn.text.lines().any(|line| line.contains(id) && line.contains(state));
        let holds = drawn.code == 0 && given.ids.len() == 4 && given.ids.iter().all(found);
        self.check(&format!("actchain delegation tree draws all four as {state}"), holds);
        Ok(())
    }

    async fn use_all(&mut self, cast: &Cast, given: &mut Given) -> Result<(), Fault> {
        self.step("Three hops below user-proxy, the agent that was made for it reads Bob's mail.");
        let mut token = (given.bob.clone(), JWT);
        for agent in [&cast.user_proxy, &cast.email_svc, &cast.followup_svc] {
            let answer = self.exchange(agent, &agent.key, (&token.0, token.1), &READ).await?;
            self.check(&format!("{} gets its token", agent.id), answer.status == 200);
            token = (said(&answer.body, "/access_token").to_owned(), ACCESS_TOKEN);
            given.tokens.push(token.0.clone());
        }
        let last = self.hop(&given.helper, (&token.0, token.1), &READ).await?;
        let actors = actors_of(&last);
        let expected = ["user-proxy", "email-svc", "followup-svc", given.helper.id.as_str()];
        self.check("it names everybody who acted before", actors == expected);
        given.tokens.push(last);
        Ok(())
    }

    async fn stands(&mut self, cast: &Cast, given: &Given) -> Result<(), Fault> {
        self.step("Does that token stand? The mail server asks (POST /oauth/introspect), and reads the status list.");
        let answer = self.introspect(&cast.mail_server, given.newest()).await?;
        println!("  {} {}", answer.status, answer.body);
        self.check(
            "active, under Bob's delegation",
            answer.body.get("active") == Some(&json!(true))
                && said(&answer.body, "/sub") == "bob"
                && list(&answer.body, "/delegation/path") == given.ids,
        );
        let others = self.introspect(&cast.email_svc, given.newest()).await?;
        self.check("nobody whom it was not meant for is told", others.body == json!({"active": false}));
        self.status("the status list has nothing against it", given.newest(), Status::Valid).await
    }

    async fn introspect(&self, by: &Agent, token: &str) -> Result<Answer, Fault> {
        let key = by.secret.is_none().then_some(&by.key);
        self.process.form("/oauth/introspect", (by, key), &[("token", token)]).await
    }

    /// Checks the status of a token in the status list to which the token refers.
    async fn status(&mut self, what: &str, token: &str, expected: Status) -> Result<(), Fault> {
        let claims = Value::Object(claims_of(token));
        let uri = said(&claims, "/status/status_list/uri");
        let index = claims.pointer("/status/status_list/idx").and_then(Value::as_u64);
        let token = self.process.text(uri).await?;
        let jws = Jws::parse(&token).ok_or_else(|| Fault::new("the status list is no JWT"))?;
        let ours = self.signed_by_us(&jws).await?;
        self.check(
            "the list is signed by us, and is the one that the token names",
            ours && jws.header.is_typed(status_list::TYP) && text(&jws.claims, "sub") == uri,
        );
        let lst = jws.claims.get("status_list").and_then(|list| list.get("lst")).and_then(Value::as_str);
        let list = lst.and_then(StatusList::read);
        let status = list.zip(index).and_then(|(list, index)| list.get(index));
        let value = status.map(|status| status as u8);
        println!("  entry {} of {uri}: {}", json!(index), json!(value));
        self.check(what, status == Some(expected));
        Ok(())
    }

    async fn ceremony(&mut self, cast: &Cast, given: &mut Given) -> Result<(), Fault> {
        self.step("To send a mail, user-proxy needs Bob's word for this one time.");
        let need = ("insufficient_user_authentication", "ceremony_required");
        let (proxy, bob, first) = (&cast.user_proxy, given.bob.as_str(), given.first().to_owned());
        let asked = self.exchange(proxy, &proxy.key, (bob, JWT), &SEND).await?;
        self.refused("Bob has not been asked yet", &asked, need);
        self.check("the answer says where he is to be asked", said(&asked.body, "/delegation_id") == first);
        let ceremony = said(&asked.body, "/ceremony");
        let open = self
            .process
            .call(&Caller::User(bob), ("GET", &format!("/delegate/{first}/ceremonies")), None)
            .await?;
        let item = open.body.pointer("/items/0").cloned().unwrap_or_default();
        println!(
            "  Bob reads: {} asks for {} at {}, {}",
            said(&item, "/client_id"),
            list(&item, "/scopes").join(" "),
            list(&item, "/audiences").join(" "),
            said(&item, "/state")
        );
        self.check(
            "he finds the very one that was asked for",
            !ceremony.is_empty() && said(&item, "/id") == ceremony && said(&item, "/state") == "pending",
        );
        let at = format!("/delegate/{first}/ceremonies/{ceremony}/approve");
        let word = self.process.call(&Caller::User(bob), ("POST", &at), None).await?;
        self.check("he confirms it", word.status == 200 && said(&word.body, "/state") == "approved");
        let passes = self.exchange(proxy, &proxy.key, (bob, JWT), &SEND).await?;
        let token = said(&passes.body, "/access_token").to_owned();
        let sends = text(&claims_of(&token), "scope") == "mail.read mail.send";
        self.check("the same exchange passes now", passes.status == 200 && sends);
        let again = self.exchange(proxy, &proxy.key, (bob, JWT), &SEND).await?;
        self.refused("and only once", &again, need);
        self.check("the next time, Bob is asked anew", said(&again.body, "/ceremony") != ceremony);
        given.tokens.push(token);
        let at = format!("/delegate/{first}");
        let counted = self.process.call(&Caller::User(bob), ("GET", &at), None).await?;
        let uses = counted.body.get("uses");
        self.check(
            "every token so far was one use of what Bob gave",
            uses == Some(&json!(given.tokens.len())),
        );
        Ok(())
    }

    async fn take_back(&mut self, cast: &Cast, given: &Given) -> Result<(), Fault> {
        self.step("Bob takes back what he gave user-proxy (POST /delegate/{id}/revoke).");
        let at = format!("/delegate/{}/revoke", given.first());
        let why = json!({"reason": "I am back"});
        let revoked = self.process.call(&Caller::User(&given.bob), ("POST", &at), Some(&why)).await?;
        println!("  {} {}", revoked.status, revoked.body);
        let reached =
            json!({"delegations": given.ids.len(), "tokens": given.tokens.len(), "at_least": false});
        self.check(
            "it reached all that came of it",
            revoked.status == 200 && revoked.body.get("affected") == Some(&reached),
        );
        self.tree("revoked", given).await?;
        self.step("The token three hops below is dead, wherever one looks.");
        // The token that user-proxy obtained for sending is later.
        let third = given.tokens.get(3).ok_or_else(|| Fault::new("the third hop has no token"))?;
        let asked = self.introspect(&cast.mail_server, third).await?;
        println!("  {} {}", asked.status, asked.body);
        self.check("at the introspection endpoint", asked.body == json!({"active": false}));
        self.status("in its status list", third, Status::Invalid).await?;
        let helper = &given.helper;
        let own = self.exchange(helper, &helper.key, (third, ACCESS_TOKEN), &READ).await?;
        self.refused(
            "for exchange; its agent has ended with it",
            &own,
            ("invalid_request", "agent_deactivated"),
        );
        let (above, second) = (&cast.followup_svc, given.tokens.get(2).map_or("", String::as_str));
        let own = self.exchange(above, &above.key, (second, ACCESS_TOKEN), &READ).await?;
        self.refused("and so is the one that it came from", &own, ("invalid_request", "delegation_revoked"));
        let mut active = BTreeSet::new();
        for token in &given.tokens {
            let answer = self.introspect(&cast.mail_server, token).await?;
            active.insert(answer.body.get("active").and_then(Value::as_bool));
        }
        self.check("nor does any other token of the chain stand", active == BTreeSet::from([Some(false)]));
        Ok(())
    }

    async fn log_of(&mut self, given: &Given) -> Result<(), Fault> {
        self.step("Bob's delegation stands in the log, from the request to the end.");
        let tail = self.process.run(&["audit", "tail", "-n", "100"]).await?;
        let events: Vec<Value> =
            tail.text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        let of_first = |event: &&Value| said(event, "/delegation_id") == given.first();
        let actions: Vec<&str> = events.iter().filter(of_first).map(|event| said(event, "/action")).collect();
        println!("  {}", actions.join(", "));
        let story = [
            "delegation.created",
            "delegation.activated",
            "oauth.token.exchanged",
            "oauth.token.refused",
            "delegation.ceremony_approved",
            "oauth.token.exchanged",
            "oauth.token.refused",
            "delegation.revoked",
        ];
        let mut told = actions.iter();
        self.check("in this order", story.iter().all(|action| told.any(|one| one == action)));
        let verified = self.process.run(&["audit", "verify"]).await?;
        print_indented(&verified.text);
        self.check("the log verifies", verified.code == 0);
        Ok(())
    }
}

/// Prints the members of a delegation from a response.
fn sketch(answer: &Answer) {
    let one = &answer.body;
    let may = list(one, "/scopes");
    println!(
        "  {} {:<9} {} -> {}: {}, until {}",
        answer.status,
        said(one, "/state"),
        said(one, "/delegator/sub"),
        said(one, "/delegate"),
        if may.is_empty() { "as above".to_owned() } else { may.join(" ") },
        said(one, "/expires_at")
    );
}

/// The approved lifetime of a delegation, in seconds.
fn lifetime(one: &Value) -> Option<i64> {
    let at = |pointer| OffsetDateTime::parse(said(one, pointer), &Rfc3339).ok();
    Some((at("/expires_at")? - at("/activated_at")?).whole_seconds())
}

/// The actors of a token; the first actor comes first.
fn actors_of(token: &str) -> Vec<String> {
    let claims = Value::Object(claims_of(token));
    let mut actors = Vec::new();
    let mut act = claims.get("act");
    while let Some(one) = act {
        actors.push(said(one, "/sub").to_owned());
        act = one.get("act");
    }
    actors.reverse();
    actors
}

pub(super) fn said<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

fn list<'a>(value: &'a Value, pointer: &str) -> Vec<&'a str> {
    let items = value.pointer(pointer).and_then(Value::as_array);
    items.into_iter().flatten().filter_map(Value::as_str).collect()
}
