//! Shared by tests of revocation: the state of a token afterwards, ephemeral agents, and an exclusive authority lock
//! that the test controls.

use actchain_protocol::jose::{Alg, Jws, PublicKey, SigningAlg, SigningKey};
use serde_json::{Map, Value, json};
use sqlx::{AssertSqlSafe, Connection as _, Executor as _, PgConnection};

use super::agent::{ACCESS_TOKEN, Agent, Auth, JWT};
use super::management::Api;
use super::world::{CALENDAR, MAIL, World};
use super::{Answer, Server, claims_of};

/// The state of a token at one server: the result of an exchange, of introspection, and of the status list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fate {
    pub exchange: String,
    pub active: bool,
    pub listed: u8,
}

/// The reason of a refusal, or its error if the response has no reason.
pub fn outcome(answer: &Answer) -> String {
    match (answer.status, answer.reason(), answer.error()) {
        (200..=202, ..) => "ok".to_owned(),
        (_, "", error) => error.to_owned(),
        (_, reason, _) => reason.to_owned(),
    }
}

impl Server {
    /// Calls the management API as a client, with an existing access token.
    pub async fn call(
        &self,
        agent: &Agent,
        token: &str,
        (method, path): (&str, &str),
        body: Value,
    ) -> Answer {
        Api::new(self, method, path).json(&body).client(agent, token).send().await
    }

    /// Introspects a token.
    pub async fn introspect(&self, by: &Agent, token: &str) -> Answer {
        by.at(self, "/oauth/introspect").without("dpop").param("token", token).send().await
    }

    /// Revokes a token as its client.
    pub async fn revoke_token(&self, by: &Agent, token: &str) -> Answer {
        by.at(self, "/oauth/revoke").param("token", token).send().await
    }

    /// The status of a token in this server's status list.
    pub async fn listed(&self, token: &str) -> u8 {
        let claims = claims_of(token);
        let reference = &claims["status"]["status_list"];
        let uri = reference["uri"].as_str().unwrap();
        let path = uri.strip_prefix(&self.app.issuer).unwrap();
        let list = claims_of(&Api::get(self, path).send().await.with_status(200).text);
        assert_eq!(list["sub"], uri);
        let list =
            actchain_protocol::status_list::StatusList::read(list["status_list"]["lst"].as_str().unwrap());
        list.unwrap().get(reference["idx"].as_u64().unwrap()).unwrap() as u8
    }

    /// Verifies a JWT of this server with its published keys, as a relying party would; returns the `typ` and the
    /// claims.
    pub async fn verified(&self, jwt: &str) -> (String, Map<String, Value>) {
        let keys = Api::get(self, "/oauth/jwks").send().await;
        let jws = Jws::parse(jwt).unwrap_or_else(|| panic!("no JWS: {jwt}"));
        let kid = jws.header.kid.clone().unwrap();
        let found = keys.json["keys"].as_array().unwrap().iter().find(|key| key["kid"] == kid.as_str());
        let key = PublicKey::from_jwk(found.unwrap().as_object().unwrap()).unwrap();
        assert!(jws.verified_by(&key, &Alg::ALL), "the signature is good");
        (jws.header.typ.clone().unwrap(), jws.claims.clone())
    }
}

impl World {
    /// The state of a token at a server.
    pub async fn fate(&self, server: &Server, holder: &Agent, token: &str) -> Fate {
        let exchanged = holder.exchange(server, token, ACCESS_TOKEN).send().await;
        let introspected = server.introspect(&self.mail_server, token).await.with_status(200);
        let active = introspected.json["active"].as_bool().unwrap();
        Fate { exchange: outcome(&exchanged), active, listed: server.listed(token).await }
    }

    /// The token is active at every server.
    pub async fn assert_active(&self, servers: &[&Server], holder: &Agent, token: &str) {
        for server in servers {
            let expected = Fate { exchange: "ok".to_owned(), active: true, listed: 0 };
            assert_eq!(self.fate(server, holder, token).await, expected, "of {}", holder.id);
        }
    }

    /// The token is inactive at every server: invalid (1) or suspended (2).
    pub async fn assert_inactive(
        &self,
        servers: &[&Server],
        (holder, token): (&Agent, &str),
        exchange: &str,
        listed: u8,
    ) {
        for server in servers {
            let expected = Fate { exchange: exchange.to_owned(), active: false, listed };
            assert_eq!(self.fate(server, holder, token).await, expected, "of {}", holder.id);
        }
    }

    /// Calls the management API with an existing user token.
    pub async fn as_user_with(&self, token: &str, method: &str, path: &str, body: Value) -> Answer {
        Api::new(&self.server, method, path).json(&body).user(token).send().await
    }

    /// Exchanges a user's token as an agent.
    pub async fn hop_from_user(&self, agent: &Agent, user_token: &str) -> Answer {
        agent.exchange(&self.server, user_token, JWT).param("audience", MAIL).send().await
    }

    /// Exchanges another agent's token as an agent.
    pub async fn hop(&self, agent: &Agent, token: &str) -> Answer {
        agent.exchange(&self.server, token, ACCESS_TOKEN).send().await
    }

    /// A delegation from Bob to the stranger, unrelated to Alice's, and a token under it.
    pub async fn bystander(&self) -> (String, String) {
        let granted = self
            .as_user("bob", "POST", "/delegate", json!({"delegate": "stranger", "audiences": [MAIL]}))
            .await
            .with_status(201);
        let token = self.hop_from_user(&self.stranger, &self.token_of("bob")).await.with_status(200);
        (granted.json["id"].as_str().unwrap().to_owned(), token.token().to_owned())
    }

    /// Registers the resource server of `CALENDAR`.
    pub async fn calendar_server(&self) -> Agent {
        let secret = "calendar-server-secret-0123456789";
        let yaml = format!(
            "clients:\n  - {{id: calendar-server, kind: resource_server, auth: client_secret_basic, secret: {secret}, \
             audiences: [\"{CALENDAR}\"]}}"
        );
        self.server.apply(&yaml).await.unwrap();
        Agent::new("calendar-server", Auth::Basic(secret.into()))
    }

    /// Creates a delegation to a new ephemeral agent at the management API. `Made::of` reads the response.
    pub async fn make(&self, by: &Maker<'_>, key: &SigningKey, (task, more): (&str, Value)) -> Answer {
        let mut body = json!({"ephemeral": {"jwk": key.public_jwk(), "task_id": task}});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        match by {
            Maker::User(sub) => self.as_user(sub, "POST", "/delegate", body).await,
            Maker::Agent(agent) => self.as_agent(agent, "POST", "/delegate", body).await,
        }
    }

    /// An ephemeral agent that Alice created for a task.
    pub async fn made_by_alice(&self, task: &str) -> Made {
        let key = new_key();
        let answer = self.make(&Maker::User("alice"), &key, (task, json!({}))).await.with_status(201);
        Made::of(&answer, key)
    }

    /// An ephemeral agent that another agent created for a task, below its own delegation.
    pub async fn made_below(&self, maker: &Agent, (parent, task): (&str, &str)) -> Made {
        let key = new_key();
        let answer =
            self.make(&Maker::Agent(maker), &key, (task, json!({"parent": parent}))).await.with_status(201);
        Made::of(&answer, key)
    }
}

/// The creator of an ephemeral agent.
pub enum Maker<'a> {
    User(&'a str),
    Agent(&'a Agent),
}

/// An ephemeral agent, and the id of its delegation.
#[derive(Debug, Clone)]
pub struct Made {
    pub agent: Agent,
    pub delegation: String,
}

impl Made {
    pub fn of(answer: &Answer, key: SigningKey) -> Self {
        let ephemeral = &answer.json["ephemeral"];
        assert_eq!(ephemeral["jkt"], key.kid(), "{}", answer.text);
        let id = ephemeral["client_id"].as_str().unwrap().to_owned();
        assert_eq!(answer.json["delegate"], id.as_str());
        let delegation = answer.json["id"].as_str().unwrap().to_owned();
        Self { agent: Agent { id, key, auth: Auth::None }, delegation }
    }

    /// The same agent, authenticating with a JWT of its key.
    pub fn by_assertion(&self) -> Agent {
        Agent { auth: Auth::Assertion, ..self.agent.clone() }
    }

    /// The same agent with another key.
    pub fn under(&self, key: &SigningKey) -> Self {
        Self { agent: Agent { key: key.clone(), ..self.agent.clone() }, ..self.clone() }
    }
}

pub fn new_key() -> SigningKey {
    SigningKey::generate(SigningAlg::ES256).unwrap().0
}

/// The authority lock in exclusive mode: later requests queue in their order.
pub struct ClosedGate(PgConnection);

impl ClosedGate {
    pub async fn of(server: &Server) -> Self {
        let mut sql = server.sql().await;
        sql.execute("SELECT pg_advisory_lock(7223459)").await.unwrap();
        Self(sql)
    }

    /// Waits until this many transactions wait for the lock.
    pub async fn has_waiting(&mut self, count: i64) {
        loop {
            let waiting: i64 = sqlx::query_scalar(
                "SELECT count(*) FROM pg_locks
                 WHERE locktype = 'advisory' AND objid = 7223459 AND NOT granted
                   AND database = (SELECT oid FROM pg_database WHERE datname = current_database())",
            )
            .fetch_one(&mut self.0)
            .await
            .unwrap();
            if waiting >= count {
                return;
            }
            tokio::task::yield_now().await;
        }
    }

    pub async fn open(mut self) {
        self.0.execute("SELECT pg_advisory_unlock(7223459)").await.unwrap();
        self.0.close().await.unwrap();
    }
}

/// A database that refuses all connections.
pub struct Outage {
    admin: PgConnection,
    name: String,
}

impl Outage {
    pub async fn of(server: &Server) -> Self {
        let name = server.database.get_database().unwrap().to_owned();
        let mut admin =
            PgConnection::connect_with(&server.database.clone().database("postgres")).await.unwrap();
        admin.execute(AssertSqlSafe(format!("ALTER DATABASE {name} ALLOW_CONNECTIONS false"))).await.unwrap();
        sqlx::query("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1")
            .bind(&name)
            .execute(&mut admin)
            .await
            .unwrap();
        Self { admin, name }
    }

    pub async fn end(mut self) {
        let name = &self.name;
        self.admin
            .execute(AssertSqlSafe(format!("ALTER DATABASE {name} ALLOW_CONNECTIONS true")))
            .await
            .unwrap();
        self.admin.close().await.unwrap();
    }
}
