//! Chapter 3: Bob's one revocation ends every delegation and token below it.

use actchain_client::Token;
use serde_json::{Value, json};

use super::Story;
use super::client::{Call, claims_of, issued, text};
use super::delegations::{BobsChain, read};
use super::fixtures::Cast;
use super::narrator::ExpectedRefusal;
use crate::platform::fault::Fault;
use actchain_protocol::jose::Jws;
use actchain_protocol::status_list::{self, Status, StatusList};

impl Story {
    pub(super) async fn revocation(&mut self, cast: &Cast, chain: &BobsChain) -> Result<(), Fault> {
        self.narrator.chapter("One revocation stops everything below it.");
        self.revoke(chain).await?;
        self.inactive(cast, chain).await?;
        self.log_of_delegation(chain).await
    }

    async fn revoke(&mut self, chain: &BobsChain) -> Result<(), Fault> {
        self.narrator.step("Bob revokes his delegation to user-proxy (POST /delegate/{id}/revoke).");
        let call = Call::post(format!("/delegate/{}/revoke", chain.first_id()));
        let revoked = self.http.call(&chain.bob(), call.json(json!({"reason": "I am back"}))).await?;
        self.narrator.check_status("the revocation is accepted", &revoked, 200);
        let affected =
            json!({"delegations": chain.ids.len(), "tokens": chain.tokens.len(), "at_least": false});
        self.narrator.check("it affects everything", revoked.body.get("affected"), Some(&affected));
        self.check_tree("revoked", chain).await?;
        self.narrator.proved(&format!(
            "It ends {} delegations and {} tokens at once.",
            chain.ids.len(),
            chain.tokens.len()
        ));
        Ok(())
    }

    async fn inactive(&mut self, cast: &Cast, chain: &BobsChain) -> Result<(), Fault> {
        self.narrator.step("The mail server and the agents try the tokens of Bob's chain again.");
        let last = chain.hop(3)?;
        let introspected = self.http.introspect(&cast.mail_server, last).await?;
        let inactive = json!({"active": false});
        self.narrator.check("introspection says that it is inactive", &introspected.body, &inactive);
        self.check_status_list(last, Status::Invalid).await?;
        let request = read(chain.ephemeral.exchange(issued(last)));
        let own = self.http.token(&chain.ephemeral, request).await?;
        let expected = ExpectedRefusal::oauth("invalid_request", "agent_deactivated");
        self.narrator.check_refused("the ephemeral agent is deactivated", &own, &expected);
        let request = read(cast.followup_svc.exchange(issued(chain.hop(2)?)));
        let own = self.http.token(&cast.followup_svc, request).await?;
        let expected = ExpectedRefusal::oauth("invalid_request", "delegation_revoked");
        self.narrator.check_refused("the token before is refused, too", &own, &expected);
        for token in &chain.tokens {
            let answer = self.http.introspect(&cast.mail_server, token).await?;
            let active = answer.body.get("active");
            self.narrator.check("each token of the chain is inactive", active, Some(&json!(false)));
        }
        self.narrator.proved(
            "No token is active: introspection, the status list and exchanges agree (agent_deactivated, delegation_revoked).",
        );
        Ok(())
    }

    /// Checks the status of a token in the signed status list to which the token refers.
    pub(super) async fn check_status_list(&mut self, token: &Token, expected: Status) -> Result<(), Fault> {
        let claims = Value::Object(claims_of(token.secret()));
        let uri = text(&claims, "/status/status_list/uri");
        let index = claims.pointer("/status/status_list/idx").and_then(Value::as_u64);
        let list = self.http.text(uri).await?;
        let jws = Jws::parse(&list).ok_or_else(|| Fault::new("the status list is no JWT"))?;
        let verified = self.verified_key_id(&jws).await?;
        let content = Value::Object(jws.claims.clone());
        let narrator = &mut self.narrator;
        let named = jws.header.kid.as_deref().unwrap_or_default();
        narrator.check("the server signed the status list", verified.as_deref(), Some(named));
        narrator.check("its type is right", jws.header.typ.as_deref(), Some(status_list::TYP));
        narrator.check("it is the list that the token names", text(&content, "/sub"), uri);
        let list = StatusList::read(text(&content, "/status_list/lst"));
        let status = list.zip(index).and_then(|(list, index)| list.get(index));
        narrator.check(&format!("the status of the token is {expected:?}"), status, Some(expected));
        Ok(())
    }

    async fn log_of_delegation(&mut self, chain: &BobsChain) -> Result<(), Fault> {
        self.narrator
            .step("The operator reads the events of Bob's delegation (actchain audit tail, audit verify).");
        let tail = self.process.run(&["audit", "tail", "-n", "100"]).await?;
        let events: Vec<Value> =
            tail.stdout.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        let of_first = |event: &&Value| text(event, "/delegation_id") == chain.first_id();
        let actions: Vec<&str> = events.iter().filter(of_first).map(|event| text(event, "/action")).collect();
        let expected = [
            "delegation.created",
            "delegation.activated",
            "oauth.token.exchanged",
            "oauth.token.refused",
            "delegation.ceremony_approved",
            "oauth.token.exchanged",
            "oauth.token.refused",
            "delegation.revoked",
        ];
        self.narrator.check_order("the log has its events in order", &actions, &expected);
        self.command("the log is valid", &["audit", "verify"]).await?;
        self.narrator.proved(
            "Request, approval, uses, refusals, confirmation and revocation are in the log, in order. The log is valid.",
        );
        Ok(())
    }
}
