//! Operations on delegations, and the form of refusals at the management API.

use actchain::platform::clock::{from_seconds, rfc3339};
use serde_json::{Value, json};

use super::agent::{Agent, Auth, JWT, Request};
use super::management::Api;
use super::world::{CALENDAR, IDP, MAIL, World};
use super::{Answer, Server};

impl Answer {
    /// A problem (RFC 9457) with its stable members, and with challenges if a token would help.
    #[track_caller]
    pub fn assert_problem(&self, status: u16, reason: &str) -> &Self {
        assert_eq!((self.status, self.reason()), (status, reason), "{}", self.text);
        assert_eq!(self.header("content-type"), Some("application/problem+json"));
        assert_eq!(self.header("cache-control"), Some("no-store"));
        assert_eq!(self.json["type"], format!("urn:actchain:problem:{reason}"));
        assert_eq!(self.json["status"], status);
        assert!(!self.json["title"].as_str().unwrap().is_empty());
        let challenges: Vec<_> =
            self.headers.get_all("www-authenticate").iter().map(|value| value.to_str().unwrap()).collect();
        if matches!(status, 401 | 403) {
            let of = |scheme: &str| challenges.iter().filter(|text| text.starts_with(scheme)).count();
            assert_eq!((of("DPoP "), of("Bearer"), challenges.len()), (1, 1, 2), "{challenges:?}");
            assert!(challenges.iter().any(|text| text.contains("algs=\"") && text.contains("ES256")));
        } else {
            assert!(challenges.is_empty(), "{challenges:?}");
        }
        self
    }

    /// The current state forbids the operation.
    #[track_caller]
    pub fn assert_conflict(&self, reason: &str, state: &str) {
        self.assert_problem(409, reason);
        assert_eq!(self.json["state"], state, "{}", self.text);
    }

    /// The limit exceeds the parent's, in the member that the response points to.
    #[track_caller]
    pub fn assert_too_wide(&self, member: &str) {
        self.assert_problem(400, "exceeds_parent");
        let errors = self.json["errors"].as_array().unwrap();
        assert_eq!(errors.len(), 1, "{}", self.text);
        assert_eq!(errors[0]["pointer"], format!("#/{member}"), "{}", self.text);
        assert!(errors[0]["detail"].is_string());
    }

    /// A name that no resource declares, at the place that the response points to.
    #[track_caller]
    pub fn assert_undeclared(&self, reason: &str, pointer: &str) {
        self.assert_problem(400, reason);
        assert_eq!(self.json["errors"][0]["pointer"], pointer, "{}", self.text);
    }

    /// The lifetime exceeded the maximum and was shortened to this end.
    #[track_caller]
    pub fn assert_shortened(&self, until: i64) {
        assert!(matches!(self.status, 200 | 201), "{}", self.text);
        let due = (&json!(instant(until)), &json!(true));
        assert_eq!((&self.json["expires_at"], &self.json["shortened"]), due, "{}", self.text);
    }

    /// Checks the status of the response.
    #[track_caller]
    pub fn with_status(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{}", self.text);
        self
    }

    /// The id of the created object.
    #[track_caller]
    pub fn id(&self) -> String {
        self.json["id"].as_str().unwrap_or_else(|| panic!("no id in {}", self.text)).to_owned()
    }
}

/// One object with the members of both.
pub fn with(mut one: Value, more: Value) -> Value {
    one.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    one
}

/// An instant in the format of responses.
pub fn instant(seconds: i64) -> String {
    rfc3339(from_seconds(seconds).unwrap())
}

impl World {
    /// Registers another agent with a key and all rights of agents in this world.
    pub async fn agent(&self, id: &str) -> Agent {
        let agent = Agent::new(id, Auth::Assertion);
        let yaml = format!(
            "clients:\n  - {{id: {id}, kind: agent, auth: private_key_jwt, jwks: {{keys: [{key}]}}, \
             scopes: [mail.read, mail.send, calendar.read, both], audiences: [\"{MAIL}\", \"{CALENDAR}\"], \
             authorization_details_types: [mailbox], grant_types: [client_credentials, token-exchange]}}",
            key = agent.key.public_jwk()
        );
        self.server.apply(&yaml).await.unwrap();
        agent
    }

    /// A user creates a delegation to `user-proxy`.
    pub async fn given(&self, sub: &str, terms: Value) -> Answer {
        self.as_user(sub, "POST", "/delegate", with(json!({"delegate": "user-proxy"}), terms)).await
    }

    /// `user-proxy` requests a delegation from a user; returns its id.
    pub async fn asked(&self, sub: &str, terms: Value) -> String {
        let body = with(json!({"delegator": {"iss": IDP, "sub": sub}}), terms);
        self.as_agent(&self.user_proxy, "POST", "/delegate", body).await.with_status(202).id()
    }

    /// An agent delegates its own delegation further.
    pub async fn passed_on(&self, from: &Agent, (parent, to): (&str, &str), terms: Value) -> Answer {
        let body = with(json!({"parent": parent, "delegate": to}), terms);
        self.as_agent(from, "POST", "/delegate", body).await
    }

    /// A user's operation on a delegation.
    pub async fn moves(&self, sub: &str, id: &str, name: &str, body: Value) -> Answer {
        self.as_user(sub, "POST", &format!("/delegate/{id}/{name}"), body).await
    }

    /// A delegation as an administrator sees it.
    pub async fn shown(&self, id: &str) -> Value {
        self.as_admin("GET", &format!("/delegate/{id}"), json!({})).await.with_status(200).json
    }

    pub async fn state(&self, id: &str) -> String {
        self.shown(id).await["state"].as_str().unwrap().to_owned()
    }

    /// `user-proxy` exchanges a user's token for a token for the mail server.
    pub fn first_hop_of(&self, sub: &str) -> Request<'_> {
        self.user_proxy.exchange(&self.server, &self.token_of(sub), JWT).param("audience", MAIL)
    }

    /// The events about one delegation, oldest first.
    pub async fn events_about(&self, id: &str) -> Vec<Value> {
        let mut events = self.server.events().await;
        events.retain(|event| event["delegation_id"] == *id);
        events
    }

    /// The actions of the successful events, without those of tokens.
    pub async fn moves_of(&self, id: &str) -> Vec<String> {
        let events = self.events_about(id).await;
        let moves = events.iter().filter(|event| event["outcome"] == "success");
        let names = moves.map(|event| event["action"].as_str().unwrap().to_owned());
        names.filter(|name| name.starts_with("delegation.")).collect()
    }
}

/// A POST to one of several servers.
pub fn post<'a>(server: &'a Server, id: &str, name: &str, body: Value) -> Api<'a> {
    Api::post(server, &format!("/delegate/{id}/{name}"), body)
}
