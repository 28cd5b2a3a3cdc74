//! Chapter 1: Alice's agents exchange tokens, each for a narrower one; stolen and stretched tokens are refused.

use std::sync::Arc;

use actchain_client::{Presented, Token};
use serde_json::{Value, json};

use super::client::{Agent, claims_of, issued, text};
use super::fixtures::{ARCHIVE, Cast, FILES, MAIL};
use super::narrator::ExpectedRefusal;
use super::{Story, actors, audiences, lifetime};
use crate::platform::fault::Fault;
use actchain_protocol::jose::Jws;

/// The tokens of Alice's chain, hop by hop.
struct ChainTokens {
    user_proxy: Arc<Token>,
    email_svc: Arc<Token>,
    followup_svc: Arc<Token>,
}

impl Story {
    pub(super) async fn chain(&mut self, cast: &Cast) -> Result<(), Fault> {
        self.narrator.chapter("Alice lets agents act for her. Each token is narrower than the one before.");
        self.declare(cast).await?;
        let tokens = self.hops(cast).await?;
        self.relying_party(&tokens.followup_svc, &cast.followup_svc).await?;
        self.stolen_token(cast, &tokens.followup_svc).await?;
        self.more_than_granted(cast, &tokens).await?;
        self.disable_the_middle(cast, &tokens.followup_svc).await
    }

    async fn declare(&mut self, cast: &Cast) -> Result<(), Fault> {
        self.narrator.step(
            "The operator declares Alice's identity provider, the resource servers, the agents and their delegations \
             (actchain apply).",
        );
        let path = self.process.write("world.yaml", cast.world(&self.http.issuer).as_bytes())?;
        self.command("the manifest is applied", &["apply", "-f", &path]).await?;
        let again = self.process.run(&["apply", "-f", &path]).await?;
        self.narrator.check("the same manifest changes nothing", again.last_line(), "0 changes made");
        self.narrator
            .proved("The server trusts what the manifest names. The same manifest again changes nothing.");
        Ok(())
    }

    async fn hops(&mut self, cast: &Cast) -> Result<ChainTokens, Fault> {
        self.narrator.step(
            "user-proxy exchanges Alice's token of her identity provider for a token of its own (RFC 8693).",
        );
        let alice = cast.user_token("alice")?;
        let request = cast.user_proxy.exchange(Presented::jwt(&alice)).audience(MAIL).audience(ARCHIVE);
        let user_proxy = self.hop(&cast.user_proxy, request.scope("mail.read mail.send")).await?;
        self.show_token(&user_proxy);
        self.narrator
            .proved("The token is Alice's, names user-proxy as the actor, and needs user-proxy's key.");

        self.narrator.step("email-svc exchanges user-proxy's token for a token of its own.");
        let email_svc = self.hop(&cast.email_svc, cast.email_svc.exchange(issued(&user_proxy))).await?;
        self.show_token(&email_svc);
        self.narrator.proved(
            "The chain grows by one agent: the token names email-svc as the newest actor, and needs its key.",
        );

        self.narrator.step("followup-svc exchanges email-svc's token, and requests read access only.");
        let request = cast.followup_svc.exchange(issued(&email_svc)).scope("mail.read");
        let followup_svc = self.hop(&cast.followup_svc, request).await?;
        self.show_token(&followup_svc);
        let tokens = ChainTokens { user_proxy, email_svc, followup_svc };
        self.compare(&tokens);
        self.narrator.proved(
            "Scope, audience and lifetime only shrink. Alice stays the subject, and the chain keeps its id.",
        );
        Ok(tokens)
    }

    fn compare(&mut self, tokens: &ChainTokens) {
        let claims = [&tokens.user_proxy, &tokens.email_svc, &tokens.followup_svc]
            .map(|token| Value::Object(claims_of(token.secret())));
        let [first, second, third] = &claims;
        let lifetimes = claims.each_ref().map(lifetime);
        let mut sorted = lifetimes;
        sorted.sort_by(|one, other| other.cmp(one));
        let narrator = &mut self.narrator;
        narrator.check("no token is valid for longer than the one before", lifetimes, sorted);
        narrator.check("the first token has two audiences", audiences(first), [ARCHIVE, MAIL]);
        narrator.check("the second token has one audience", audiences(second), [MAIL]);
        narrator.check("the last token may only read", text(third, "/scope"), "mail.read");
        let subjects = claims.each_ref().map(|claims| text(claims, "/sub"));
        narrator.check("Alice is the subject of all", subjects, ["alice"; 3]);
        let named = ["user-proxy", "email-svc", "followup-svc"];
        narrator.check("the last token names every agent", actors(third), named);
        let chain = text(first, "/txn");
        let chains = [second, third].map(|claims| text(claims, "/txn"));
        narrator.check("all have the same chain id", chains, [chain; 2]);
    }

    async fn relying_party(&mut self, token: &Token, holder: &Agent) -> Result<(), Fault> {
        self.narrator.step("The mail server checks the last token with the server's public keys (JWKS).");
        let jws = Jws::parse(token.secret()).ok_or_else(|| Fault::new("the token is no JWT"))?;
        let verified = self.verified_key_id(&jws).await?;
        let claims = Value::Object(jws.claims.clone());
        let narrator = &mut self.narrator;
        let named = jws.header.kid.as_deref().unwrap_or_default();
        narrator.check("a key of the JWKS signed it", verified.as_deref(), Some(named));
        narrator.check("its type is at+jwt", jws.header.typ.as_deref(), Some("at+jwt"));
        narrator.check("its issuer is the server", text(&claims, "/iss"), self.http.issuer.as_str());
        narrator.check("its audience is the mail server", text(&claims, "/aud"), MAIL);
        let confirmation = json!({"jkt": holder.key().thumbprint()});
        narrator.check("it needs the key of followup-svc", claims.get("cnf"), Some(&confirmation));
        let verify = ["token", "verify", token.secret(), "--audience", MAIL];
        self.command("actchain token verify accepts it", &verify).await?;
        self.narrator
            .proved("Signature, type, issuer, audience and key are right. The command token verify agrees.");
        Ok(())
    }

    async fn stolen_token(&mut self, cast: &Cast, token: &Token) -> Result<(), Fault> {
        self.narrator.step(
            "A thief has followup-svc's token, and exchanges it: first as itself, then posing as followup-svc.",
        );
        let as_itself = self.http.token(&cast.thief, cast.thief.exchange(issued(token))).await?;
        let expected = ExpectedRefusal::oauth("invalid_request", "delegation_required");
        self.narrator.check_refused("another registered agent is refused", &as_itself, &expected);
        let posing = Agent::with_key(&self.http.issuer, &cast.followup_svc.id, cast.thief.key().clone())?;
        let posing = self.http.token(&posing, posing.exchange(issued(token))).await?;
        let expected = ExpectedRefusal { status: 401, error: "invalid_client", reason: "" };
        self.narrator.check_refused("followup-svc without its key is refused", &posing, &expected);
        self.narrator.proved(
            "Both are refused (delegation_required, invalid_client): a stolen token is of no use to others.",
        );
        Ok(())
    }

    async fn more_than_granted(&mut self, cast: &Cast, tokens: &ChainTokens) -> Result<(), Fault> {
        self.narrator.step(
            "followup-svc requests mail.send, then another resource server. user-proxy tries to join the chain again.",
        );
        let holder = &cast.followup_svc;
        let wider = holder.exchange(issued(&tokens.email_svc)).scope("mail.read mail.send");
        let wider = self.http.token(holder, wider).await?;
        let expected = ExpectedRefusal::oauth("invalid_scope", "scope_exceeds_grant");
        self.narrator.check_refused("a scope that was not granted is refused", &wider, &expected);
        let elsewhere = holder.exchange(issued(&tokens.email_svc)).audience(FILES);
        let elsewhere = self.http.token(holder, elsewhere).await?;
        let expected = ExpectedRefusal::oauth("invalid_target", "resource_refused");
        self.narrator.check_refused("another resource server is refused", &elsewhere, &expected);
        let cycle =
            self.http.token(&cast.user_proxy, cast.user_proxy.exchange(issued(&tokens.followup_svc))).await?;
        let expected = ExpectedRefusal::oauth("invalid_request", "actor_cycle");
        self.narrator.check_refused("an actor of the chain is refused", &cycle, &expected);
        self.narrator.proved(
            "All are refused (scope_exceeds_grant, resource_refused, actor_cycle): a chain never gains authority.",
        );
        Ok(())
    }

    async fn disable_the_middle(&mut self, cast: &Cast, token: &Token) -> Result<(), Fault> {
        self.narrator.step(
            "The operator disables email-svc, in the middle of the chain, and enables it again (client disable, enable).",
        );
        self.command("email-svc is disabled", &["client", "disable", "email-svc"]).await?;
        let disabled = self.http.token(&cast.followup_svc, cast.followup_svc.exchange(issued(token))).await?;
        let expected = ExpectedRefusal::oauth("invalid_request", "actor_disabled");
        self.narrator.check_refused("followup-svc cannot use its token", &disabled, &expected);
        self.command("email-svc is enabled", &["client", "enable", "email-svc"]).await?;
        let enabled = self.http.token(&cast.followup_svc, cast.followup_svc.exchange(issued(token))).await?;
        self.narrator.check_status("followup-svc can use its token again", &enabled, 200);
        self.narrator.proved(
            "Meanwhile followup-svc's token is refused (actor_disabled): a chain needs each of its agents.",
        );
        Ok(())
    }
}
