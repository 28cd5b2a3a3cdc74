//! Chapter 2: an agent requests a delegation; Bob approves less, and confirms one use.

use std::sync::Arc;

use actchain_client::{Presented, Token, TokenRequest};
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::client::{Agent, Call, DemoCaller, claims_of, issued, new_key, text, texts};
use super::fixtures::{Cast, FILES, IDP, MAIL};
use super::narrator::ExpectedRefusal;
use super::{Story, actors};
use crate::platform::fault::Fault;
use actchain_protocol::status_list::Status;

/// Requests the access to Bob's mail that an agent may use without a confirmation.
pub(super) fn read(request: TokenRequest<'_>) -> TokenRequest<'_> {
    request.audience(MAIL).scope("mail.read")
}

/// Requests the access that needs a confirmation (ceremony) of each use.
fn read_and_send(request: TokenRequest<'_>) -> TokenRequest<'_> {
    request.audience(MAIL).scope("mail.read mail.send")
}

const CEREMONY_REQUIRED: ExpectedRefusal<'static> =
    ExpectedRefusal::oauth("insufficient_user_authentication", "ceremony_required");

/// Bob's delegation and everything derived from it.
pub(super) struct BobsChain {
    pub(super) bob: String,
    /// The delegation ids; Bob's own delegation is the first.
    pub(super) ids: Vec<String>,
    /// The agent of the last delegation.
    pub(super) ephemeral: Agent,
    /// The tokens issued under the delegations: four hops, then the one that may send.
    pub(super) tokens: Vec<Arc<Token>>,
}

impl BobsChain {
    pub(super) fn first_id(&self) -> &str {
        self.ids.first().map_or("", String::as_str)
    }

    /// The token of a hop, counted from 0.
    pub(super) fn hop(&self, hop: usize) -> Result<&Token, Fault> {
        self.tokens.get(hop).map(Arc::as_ref).ok_or_else(|| Fault::new(format!("hop {hop} has no token")))
    }

    pub(super) fn bob(&self) -> DemoCaller<'_> {
        DemoCaller::User(&self.bob)
    }
}

impl Story {
    /// The life cycle of delegations, from an agent's request to the last token.
    pub(super) async fn delegations(&mut self, cast: &Cast) -> Result<BobsChain, Fault> {
        self.narrator.chapter("An agent requests access. Bob grants less, and confirms what matters.");
        let bob = cast.user_token("bob")?;
        let ephemeral = Agent::with_key(&self.http.issuer, "", new_key()?)?;
        let mut chain = BobsChain { bob, ids: Vec::new(), ephemeral, tokens: Vec::new() };
        self.request(cast, &mut chain).await?;
        self.approve(cast, &chain).await?;
        self.delegate_further(cast, &mut chain).await?;
        self.use_all(cast, &mut chain).await?;
        self.active(cast, &chain).await?;
        self.ceremony(cast, &mut chain).await?;
        Ok(chain)
    }

    async fn request(&mut self, cast: &Cast, chain: &mut BobsChain) -> Result<(), Fault> {
        self.narrator.step("user-proxy requests a delegation from Bob for mail and files (POST /delegate).");
        let proxy = self.http.caller(&cast.user_proxy).await?;
        let wanted = json!({
            "delegator": {"iss": IDP, "sub": "bob"}, "scopes": ["files.read", "mail.read", "mail.send"],
            "audiences": [FILES, MAIL], "expires_in": 3600, "reason": "to answer Bob's mail while he is away",
        });
        let requested = self.http.call(&proxy, Call::post("/delegate").json(wanted)).await?;
        self.narrator.check_status("the request is accepted", &requested, 202);
        self.narrator.check("it waits for Bob", requested.text("/state"), "requested");
        let id = requested.text("/id").to_owned();
        let early = self
            .http
            .token(&cast.user_proxy, read(cast.user_proxy.exchange(Presented::jwt(&chain.bob))))
            .await?;
        let expected = ExpectedRefusal::oauth("invalid_request", "delegation_requested");
        self.narrator.check_refused("an exchange before the approval is refused", &early, &expected);
        let own = self.http.call(&proxy, Call::post(format!("/delegate/{id}/approve"))).await?;
        let expected = ExpectedRefusal::problem(403, "insufficient_scope");
        self.narrator.check_refused("user-proxy cannot approve it", &own, &expected);
        chain.ids.push(id);
        self.narrator.proved(
            "The request waits for Bob. Until he decides, exchanges are refused, and user-proxy cannot approve it.",
        );
        Ok(())
    }

    async fn approve(&mut self, cast: &Cast, chain: &BobsChain) -> Result<(), Fault> {
        self.narrator.step(
            "Bob approves less: mail only, half the time, 20 uses, and his confirmation of each use of mail.send.",
        );
        let id = chain.first_id();
        let narrower = json!({
            "scopes": ["mail.read", "mail.send"], "audiences": [MAIL], "expires_in": 1800, "max_uses": 20,
            "ceremony_required_for": ["mail.send"],
        });
        let (proxy, bob) = (self.http.caller(&cast.user_proxy).await?, chain.bob());
        let (received, approved) = tokio::try_join!(
            self.http.call(&proxy, Call::get(format!("/delegate/{id}?wait=30"))),
            self.http.call(&bob, Call::post(format!("/delegate/{id}/approve")).json(narrower)),
        )?;
        let (narrator, body) = (&mut self.narrator, &received.body);
        narrator.check_status("Bob's approval is accepted", &approved, 200);
        narrator.check_status("user-proxy, which waits, gets an answer", &received, 200);
        narrator.check("the delegation is active", received.text("/state"), "active");
        narrator.check("its audience is the mail server", texts(body, "/audiences"), [MAIL]);
        narrator.check("its scope is mail", texts(body, "/scopes"), ["mail.read", "mail.send"]);
        narrator.check("it is valid for 1800 s", delegation_lifetime(body), Some(1800));
        narrator.check("it has 20 uses", body.get("uses_left"), Some(&json!(20)));
        let confirmed = texts(body, "/ceremony_required_for");
        narrator.check("mail.send needs a confirmation", confirmed, ["mail.send"]);
        narrator.proved("user-proxy waits for the decision, and receives exactly what Bob approved.");
        Ok(())
    }

    async fn delegate_further(&mut self, cast: &Cast, chain: &mut BobsChain) -> Result<(), Fault> {
        self.narrator.step(
            "Each agent delegates a part to the next; followup-svc, to an ephemeral agent that has this one task.",
        );
        let jwk = chain.ephemeral.key().public_jwk();
        let steps = [
            (
                &cast.user_proxy,
                json!({"delegate": "email-svc", "scopes": ["mail.read", "mail.send"], "expires_in": 1200}),
            ),
            (
                &cast.email_svc,
                json!({"delegate": "followup-svc", "scopes": ["mail.read"], "expires_in": 600}),
            ),
            (
                &cast.followup_svc,
                json!({"ephemeral": {"jwk": jwk, "task_id": "bobs-mail"}, "expires_in": 300}),
            ),
        ];
        let mut last = Value::Null;
        for (delegator, mut wanted) in steps {
            let parent = chain.ids.last().cloned().unwrap_or_default();
            if let Value::Object(members) = &mut wanted {
                members.insert("parent".into(), json!(parent));
            }
            let caller = self.http.caller(delegator).await?;
            let created = self.http.call(&caller, Call::post("/delegate").json(wanted)).await?;
            let narrator = &mut self.narrator;
            narrator.check_status(&format!("{} delegates", delegator.id), &created, 201);
            narrator.check("the child delegation is active at once", created.text("/state"), "active");
            narrator.check("its parent is the one before", created.text("/parent"), parent.as_str());
            chain.ids.push(created.text("/id").to_owned());
            last = created.body;
        }
        let key = chain.ephemeral.key().clone();
        let stored = text(&last, "/ephemeral/jkt");
        self.narrator.check("the ephemeral agent has its own key", stored, key.thumbprint());
        chain.ephemeral = Agent::with_key(&self.http.issuer, text(&last, "/delegate"), key)?;
        let wider = json!({
            "parent": chain.ids.get(2), "delegate": "thief", "scopes": ["mail.read", "mail.send"],
        });
        let caller = self.http.caller(&cast.followup_svc).await?;
        let wider = self.http.call(&caller, Call::post("/delegate").json(wider)).await?;
        let expected = ExpectedRefusal::problem(400, "exceeds_parent");
        self.narrator.check_refused("delegating more than one has is refused", &wider, &expected);
        self.check_tree("active", chain).await?;
        self.narrator.proved(
            "Four delegations are active, each below the one before. A wider one is refused (exceeds_parent).",
        );
        Ok(())
    }

    /// Checks that `actchain delegation tree` draws all of Bob's delegations in one state.
    pub(super) async fn check_tree(&mut self, state: &str, chain: &BobsChain) -> Result<(), Fault> {
        let tree = ["delegation", "tree", "--delegator", "bob"];
        let drawn = self.command("actchain delegation tree draws Bob's delegations", &tree).await?;
        let state_of = |id: &String| {
            let line = drawn.stdout.lines().find(|line| line.contains(&format!("[{id}]")))?;
            // The agent, its state and the rest are separated by two spaces.
            line.trim_start_matches([' ', '│', '├', '└', '─']).split("  ").nth(1)?.split(' ').next()
        };
        let states: Vec<_> = chain.ids.iter().map(state_of).collect();
        self.narrator.check(&format!("all four are {state}"), states, [Some(state); 4]);
        Ok(())
    }

    async fn use_all(&mut self, cast: &Cast, chain: &mut BobsChain) -> Result<(), Fault> {
        self.narrator
            .step("The agents exchange Bob's token, one after the other, down to the ephemeral agent.");
        let mut subject = Presented::jwt(&chain.bob);
        for agent in [&cast.user_proxy, &cast.email_svc, &cast.followup_svc] {
            let answer = self.http.token(agent, read(agent.exchange(subject))).await?;
            self.narrator.check_status(&format!("the exchange of {} is granted", agent.id), &answer, 200);
            let token = answer.token()?;
            subject = issued(&token);
            chain.tokens.push(token);
        }
        let last = self.hop(&chain.ephemeral, read(chain.ephemeral.exchange(subject))).await?;
        self.show_token(&last);
        let expected = ["user-proxy", "email-svc", "followup-svc", chain.ephemeral.id.as_str()];
        let found = actors(&Value::Object(claims_of(last.secret())));
        self.narrator.check("the last token names every actor in order", found, expected);
        chain.tokens.push(last);
        self.narrator
            .proved("The last token names all four agents in order, and needs the ephemeral agent's key.");
        Ok(())
    }

    async fn active(&mut self, cast: &Cast, chain: &BobsChain) -> Result<(), Fault> {
        self.narrator.step("The mail server introspects that token (RFC 7662), and reads its status list.");
        let token = chain.hop(3)?;
        let answer = self.http.introspect(&cast.mail_server, token).await?;
        let narrator = &mut self.narrator;
        narrator.check("the token is active", answer.body.get("active"), Some(&json!(true)));
        narrator.check("its subject is Bob", answer.text("/sub"), "bob");
        let path = texts(&answer.body, "/delegation/path");
        narrator.check("it is under Bob's delegations", path, chain.ids.iter().collect::<Vec<_>>());
        let other = self.http.introspect(&cast.email_svc, token).await?;
        self.narrator.check("email-svc learns nothing", other.body, json!({"active": false}));
        self.check_status_list(token, Status::Valid).await?;
        self.narrator.proved(
            "Both say that the token is valid. email-svc, which is not the audience, learns nothing.",
        );
        Ok(())
    }

    async fn ceremony(&mut self, cast: &Cast, chain: &mut BobsChain) -> Result<(), Fault> {
        self.narrator.step("user-proxy requests mail.send. Bob has to confirm this one use (a ceremony).");
        let (proxy, id) = (&cast.user_proxy, chain.first_id().to_owned());
        let bob = Presented::jwt(&chain.bob);
        let request = || read_and_send(proxy.exchange(bob.clone()));
        let asked = self.http.token(proxy, request()).await?;
        self.narrator.check_refused("before the confirmation it is refused", &asked, &CEREMONY_REQUIRED);
        self.narrator.check("the answer names the delegation", asked.text("/delegation_id"), id.as_str());
        let ceremony = asked.text("/ceremony");
        let missing = ceremony.is_empty().then(|| asked.presentable());
        self.narrator.check("the answer names a ceremony", missing, None);
        let at = format!("/delegate/{id}/ceremonies");
        let open = self.http.call(&chain.bob(), Call::get(at.as_str())).await?;
        let scopes = texts(&open.body, "/items/0/scopes").join(" ");
        let client = open.text("/items/0/client_id");
        self.narrator.picture(&format!("Bob reads: {client} requests {scopes}"));
        self.narrator.check("Bob finds this ceremony", open.text("/items/0/id"), ceremony);
        self.narrator.check("it is pending", open.text("/items/0/state"), "pending");
        let confirmed = self.http.call(&chain.bob(), Call::post(format!("{at}/{ceremony}/approve"))).await?;
        self.narrator.check_status("Bob confirms it", &confirmed, 200);
        self.narrator.check("the ceremony is approved", confirmed.text("/state"), "approved");
        let granted = self.http.token(proxy, request()).await?;
        self.narrator.check_status("the same exchange is granted", &granted, 200);
        let token = granted.token()?;
        let claims = Value::Object(claims_of(token.secret()));
        self.narrator.check("the token may send", text(&claims, "/scope"), "mail.read mail.send");
        let again = self.http.token(proxy, request()).await?;
        self.narrator.check_refused("the next exchange is refused", &again, &CEREMONY_REQUIRED);
        let repeated = Some(again.text("/ceremony")).filter(|next| *next == ceremony);
        self.narrator.check("it needs another ceremony", repeated, None);
        chain.tokens.push(token);
        let counted = self.http.call(&chain.bob(), Call::get(format!("/delegate/{id}"))).await?;
        let issued = json!(chain.tokens.len());
        self.narrator.check("each token was one use", counted.body.get("uses"), Some(&issued));
        self.narrator.proved(
            "It is refused (ceremony_required) until Bob confirms, and granted once. Each token is one use.",
        );
        Ok(())
    }
}

/// The approved lifetime of a delegation, in seconds.
fn delegation_lifetime(delegation: &Value) -> Option<i64> {
    let at = |pointer| OffsetDateTime::parse(text(delegation, pointer), &Rfc3339).ok();
    Some((at("/expires_at")? - at("/activated_at")?).whole_seconds())
}
