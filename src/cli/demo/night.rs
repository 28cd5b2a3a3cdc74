//! Chapter 4: an agent works at night under a standing grant, and Dave reviews its work in the morning.

use std::sync::Arc;

use actchain_client::{Presented, Token};
use serde_json::{Value, json};

use super::Story;
use super::client::{Agent, Call, DemoCaller, claims_of, text, texts};
use super::delegations::read;
use super::fixtures::{Cast, IDP, MAIL};
use super::narrator::ExpectedRefusal;
use crate::platform::fault::Fault;
use actchain_protocol::status_list::Status;

const GRANTS: &str = "/api/v1/standing-grants";

/// Dave's standing grant, and what came of it.
struct Night {
    dave: String,
    grant: String,
    token: Arc<Token>,
}

impl Night {
    fn path(&self) -> String {
        format!("{GRANTS}/{}", self.grant)
    }
}

impl Story {
    pub(super) async fn night(&mut self, cast: &Cast) -> Result<(), Fault> {
        self.narrator.chapter("An agent works at night. Dave consented once, and reviews it in the morning.");
        let dave = cast.user_token("dave")?;
        let grant = self.consent(cast, &dave).await?;
        let token = self.work(cast, &dave, &grant).await?;
        let night = Night { dave, grant, token };
        self.intruder(cast, &night).await?;
        self.review(cast, &night).await
    }

    async fn consent(&mut self, cast: &Cast, dave: &str) -> Result<String, Fault> {
        self.narrator.step("In the evening Dave lets user-proxy read her mail without a click (POST /api/v1/standing-grants).");
        let limits = json!({
            "client_id": cast.user_proxy.id, "keys": [cast.user_proxy.key().thumbprint()], "scopes": ["mail.read"],
            "audiences": [MAIL], "offline_access": true, "max_ttl": 300, "max_uses": 3, "expires_in": 43_200,
        });
        let made = self.http.call(&DemoCaller::User(dave), Call::post(GRANTS).json(limits.clone())).await?;
        self.narrator.check_status("the standing grant is created", &made, 201);
        self.narrator.check("it is active", made.text("/state"), "active");
        let agent = self.http.caller(&cast.user_proxy).await?;
        let own = self.http.call(&agent, Call::post(GRANTS).json(limits)).await?;
        let expected = ExpectedRefusal::problem(403, "insufficient_scope");
        self.narrator.check_refused("an agent cannot create one for itself", &own, &expected);
        self.narrator
            .proved("It is valid for the night, for mail.read alone, and for the key that Dave has seen.");
        Ok(made.text("/id").to_owned())
    }

    async fn work(&mut self, cast: &Cast, dave: &str, grant: &str) -> Result<Arc<Token>, Fault> {
        self.narrator.step(
            "At night user-proxy requests access to read mail, and then to send mail (POST /delegate).",
        );
        let agent = self.http.caller(&cast.user_proxy).await?;
        let ask = |scope: &str| json!({"delegator": {"iss": IDP, "sub": "dave"}, "scopes": [scope], "audiences": [MAIL], "offline_access": true, "expires_in": 3600});
        let within = self.http.call(&agent, Call::post("/delegate").json(ask("mail.read"))).await?;
        self.narrator.check_status("the request to read is active at once", &within, 201);
        self.narrator.check("it names the standing grant", within.text("/standing_grant_id"), grant);
        self.narrator.check("it has 3 uses", within.body.get("uses_left"), Some(&json!(3)));
        let request = read(cast.user_proxy.exchange(Presented::jwt(dave)));
        let token = self.hop(&cast.user_proxy, request).await?;
        let outside = self.http.call(&agent, Call::post("/delegate").json(ask("mail.send"))).await?;
        self.narrator.check_status("the request to send waits for Dave", &outside, 202);
        let limit = outside.text("/standing_grant_exceeded/limit");
        self.narrator.check("it says which limit it exceeds", limit, "scopes");
        self.narrator
            .proved("Reading works while Dave sleeps. Sending waits, and the answer says why (scopes).");
        self.narrator
            .step("Dave's own token is over. user-proxy goes on with a refresh token (RFC 6749 §6).");
        let refresh_token =
            token.refresh_token.as_ref().ok_or_else(|| Fault::new("an answer without a refresh token"))?;
        let refreshed = self.hop(&cast.user_proxy, cast.user_proxy.refresh(refresh_token)).await?;
        let subject = Value::Object(claims_of(refreshed.secret()));
        self.narrator.check("the token is Dave's", text(&subject, "/sub"), "dave");
        self.narrator.proved(
            "The agent needs no token of Dave any more, within the same delegation and under the same key.",
        );
        Ok(token)
    }

    async fn intruder(&mut self, cast: &Cast, night: &Night) -> Result<(), Fault> {
        self.narrator
            .step("A program with the stolen secret of user-proxy, and a key of its own, requests the same.");
        let intruder = cast.user_proxy.with_another_key(&self.http.issuer)?;
        let caller = self.http.caller(&intruder).await?;
        let ask =
            json!({"delegator": {"iss": IDP, "sub": "dave"}, "scopes": ["mail.read"], "audiences": [MAIL]});
        let asked = self.http.call(&caller, Call::post("/delegate").json(ask)).await?;
        self.narrator.check_status("its request waits for Dave", &asked, 202);
        let shown = self.http.call(&DemoCaller::User(&night.dave), Call::get(night.path())).await?;
        self.narrator.check("the standing grant is suspended", shown.text("/state"), "suspended");
        let seen = shown.text("/suspension/seen_key");
        self.narrator.check("it names the key", seen, intruder.key().thumbprint());
        for agent in [&intruder, &cast.user_proxy] {
            let request = read(agent.exchange(Presented::jwt(&night.dave)));
            let refused = self.http.token(agent, request).await?;
            let expected = ExpectedRefusal::oauth("invalid_request", "delegation_requested");
            self.narrator.check_refused("nothing passes under any key", &refused, &expected);
        }
        self.check_status_list(&night.token, Status::Suspended).await?;
        self.narrator.proved("The unknown key suspends the grant at once, with all that came of it.");
        Ok(())
    }

    async fn review(&mut self, cast: &Cast, night: &Night) -> Result<(), Fault> {
        self.narrator
            .step("In the morning Dave reads what happened, confirms the old key alone, and ends the grant.");
        let shown = self.command("actchain grant show", &["grant", "show", &night.grant, "--json"]).await?;
        let shown: Value = serde_json::from_str(&shown.stdout).unwrap_or_default();
        let activity = shown.get("recent_activity").and_then(Value::as_array).cloned().unwrap_or_default();
        let actions: Vec<&str> = activity.iter().rev().map(|event| text(event, "/action")).collect();
        let expected = [
            "standing_grant.created",
            "standing_grant.used",
            "standing_grant.rejected",
            "standing_grant.suspended",
            "standing_grant.rejected",
        ];
        self.narrator.check_order("each automatic decision is an event", &actions, &expected);
        let (dave, keys) = (DemoCaller::User(&night.dave), texts(&shown, "/keys"));
        let confirmed = Call::post(format!("{}/revalidate", night.path()));
        let confirmed = confirmed
            .json(json!({"keys": keys, "replaces": keys, "client_version": shown.get("client_version")}));
        let confirmed = self.http.call(&dave, confirmed).await?;
        self.narrator.check_status("the confirmation of the old key is accepted", &confirmed, 200);
        self.check_status_list(&night.token, Status::Valid).await?;
        let revoked = self.http.call(&dave, Call::post(format!("{}/revoke", night.path()))).await?;
        self.narrator.check_status("the revocation is accepted", &revoked, 200);
        let answer = self.http.introspect(&cast.mail_server, &night.token).await?;
        self.narrator.check("the token is inactive", answer.body, json!({"active": false}));
        self.narrator.proved(
            "Every use and refusal is in the log. One revocation ends the grant and all that came of it.",
        );
        Ok(())
    }
}

impl Agent {
    /// The same client with another key.
    fn with_another_key(&self, issuer: &str) -> Result<Self, Fault> {
        Self::with_this_secret(issuer, &self.id, self.secret.clone().unwrap_or_default())
    }
}
