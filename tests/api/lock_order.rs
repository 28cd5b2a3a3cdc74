//! All transactions take locks in one order, so that none waits for another in a circle. The statements themselves enforce
//! the order: a batch that waits for one lock has none of the later ones.

use actchain::domain::audit::append::append_events;
use actchain::domain::audit::{Actor, Event, EventKind};
use actchain::domain::principal::Principal;
use actchain::jobs;
use actchain::services::audit::{self, TrustAnchors};
use actchain::services::principals;
use futures_util::FutureExt as _;
use futures_util::future::{LocalBoxFuture, join_all};
use serde_json::json;
use sqlx::{Connection as _, PgConnection};

use crate::support::Server;
use crate::support::agent::{ACCESS_TOKEN, JWT, Request};
use crate::support::life::steps;
use crate::support::locks::waiting;
use crate::support::management::Api;
use crate::support::vault::VaultWorld;
use crate::support::world::{IDP, MAIL, World};

/// A delegation of Bob with a confirmation that the next exchange uses, and the ids of both.
async fn confirmed(world: &World) -> (String, uuid::Uuid) {
    let id =
        world.granted("bob", json!({"ceremony_required_for": ["mail.send"]})).await.with_status(201).id();
    let asked = exchange(world).send().await;
    asked.assert_refused(400, "insufficient_user_authentication", "ceremony_required");
    let ceremony = asked.json["ceremony"].as_str().unwrap();
    let approve = format!("/delegate/{id}/ceremonies/{ceremony}/approve");
    world.as_user("bob", "POST", &approve, json!({})).await.with_status(200);
    (id, ceremony.parse().unwrap())
}

fn exchange(world: &World) -> Request<'_> {
    world.first_hop_of("bob").param("scope", "mail.send")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_waits_for_a_count_of_uses_has_no_other_lock() {
    let world = World::new().await;
    let (id, _) = confirmed(&world).await;
    let mut sql = world.server.sql().await;
    let mut other = sql.begin().await.unwrap();
    sqlx::query("SELECT FROM delegation_usage WHERE delegation_id = $1 FOR UPDATE")
        .bind(&id)
        .execute(&mut *other)
        .await
        .unwrap();
    let blocked = async {
        assert!(!waiting(&mut other).await, "the batch has locked or written a row before it counts");
        other.rollback().await.unwrap();
    };
    let (answer, ()) = tokio::join!(exchange(&world).send(), blocked);
    answer.with_status(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_waits_for_a_confirmation_has_counted_and_used_no_id() {
    let world = World::new().await;
    let twin = world.server.twin().await;
    let (id, ceremony) = confirmed(&world).await;
    let mut sql = world.server.sql().await;
    let mut other = sql.begin().await.unwrap();
    sqlx::query("SELECT FROM ceremony WHERE id = $1 FOR UPDATE")
        .bind(ceremony)
        .execute(&mut *other)
        .await
        .unwrap();
    let proof = world.user_proxy.proof(&world.server);
    let blocked = async {
        waiting(&mut other).await;
        let counting: Option<String> = sqlx::query_scalar(
            "SELECT delegation_id FROM delegation_usage WHERE delegation_id = $1 FOR UPDATE SKIP LOCKED",
        )
        .bind(&id)
        .fetch_optional(&mut *other)
        .await
        .unwrap();
        assert_eq!(counting, None, "counts are locked before confirmations");
        // A used id would make this request wait.
        let first = world.user_proxy.exchange(&twin, &world.user_token(), JWT).param("audience", MAIL);
        first.set_header("dpop", proof.clone()).send().await.with_status(200);
        other.rollback().await.unwrap();
    };
    let (answer, ()) = tokio::join!(exchange(&world).set_header("dpop", proof.clone()).send(), blocked);
    answer.assert_refused(400, "invalid_dpop_proof", "dpop_proof_replayed");
    exchange(&world).send().await.with_status(200);
}

const ROUNDS: usize = 6;
/// Requests of each kind in a round.
const EACH: usize = 10;

/// What was done, its status, and the accepted statuses. A failure without an HTTP response counts as 503.
type Outcome = (&'static str, u16, &'static [u16]);

/// Agents, tokens and delegations for many requests at once, on two servers with one database.
struct Crowd {
    vault: VaultWorld,
    twin: Server,
    /// A token of `email-svc` for the vault, and its connection.
    retrieval: (String, String),
    /// Bob's token, the token of the first hop, and the delegation of `email-svc`.
    user: String,
    first: String,
    child: String,
    /// Access tokens of `email-svc` and of the administrator at the management API.
    reporter: String,
    admin: String,
    /// Delegations to be revoked.
    revocable: Vec<String>,
}

impl Crowd {
    async fn gather() -> Self {
        // Small batches, so that there are many.
        let config = "[ledger]\nbatch = 3\n[delegations]\nmax_pending_confirmations = 1000\n\
                      max_pending_confirmations_per_client = 1000";
        let vault = VaultWorld::configured(config, "http://127.0.0.1:9/token").await;
        let world = &vault.world;
        let twin = world.server.twin_configured(config).await;
        let connection = vault.api_key().await;
        let (_, [_, token]) = vault.granted(&connection).await;
        let terms = json!({"max_uses": 100_000, "ceremony_required_for": ["mail.send"]});
        let root = world.granted("bob", terms).await.with_status(201).id();
        let terms = json!({"max_uses": 50_000, "scopes": ["mail.read"]});
        let child =
            world.passed_on(&world.user_proxy, (&root, "email-svc"), terms).await.with_status(201).id();
        let mut revocable = Vec::new();
        for _ in 0..ROUNDS {
            revocable.push(world.granted("carol", json!({"max_uses": 9})).await.with_status(201).id());
        }
        let user = world.token_of("bob");
        let read = world.first_hop_of("bob").param("scope", "mail.read").send().await.with_status(200);
        let (reporter, admin) =
            (world.management_token(&world.email_svc).await, world.management_token(&world.admin).await);
        let (retrieval, first) = ((token, connection), read.token().to_owned());
        Self { vault, twin, retrieval, user, first, child, reporter, admin, revocable }
    }

    fn world(&self) -> &World {
        &self.vault.world
    }

    /// The requests of one round, each with the accepted statuses.
    fn round(&self, round: usize) -> Vec<LocalBoxFuture<'_, Outcome>> {
        let mut all = Vec::new();
        for n in 0..EACH {
            let server = if n % 2 == 0 { &self.world().server } else { &self.twin };
            all.push(self.exchange(server, "mail.read").boxed_local());
            all.push(self.exchange(server, "mail.send both").boxed_local());
            all.push(self.next_hop(server).boxed_local());
            all.push(self.retrieve(server).boxed_local());
            all.push(self.report(server).boxed_local());
        }
        let (here, there) = (&self.world().server, &self.twin);
        for (server, other) in [(here, there), (there, here)] {
            all.push(self.revoke(server, round).boxed_local());
            all.push(self.revoke_all(server, round).boxed_local());
            all.push(self.switch(other).boxed_local());
            all.push(self.apply(other, round).boxed_local());
            all.push(self.sweep(server).boxed_local());
        }
        all
    }

    async fn exchange(&self, server: &Server, scope: &str) -> Outcome {
        let request = self.world().user_proxy.exchange(server, &self.user, JWT);
        let answer = request.param("audience", MAIL).param("scope", scope).send().await;
        // An exchange to send needs a confirmation, which is requested.
        ("exchange", answer.status, if scope == "mail.read" { &[200] } else { &[400] })
    }

    async fn next_hop(&self, server: &Server) -> Outcome {
        let answer = self.world().email_svc.exchange(server, &self.first, ACCESS_TOKEN).send().await;
        ("next hop", answer.status, &[200])
    }

    async fn retrieve(&self, server: &Server) -> Outcome {
        let (token, connection) = &self.retrieval;
        let path = format!("/vault/connections/{connection}/token");
        let call = Api::post(server, &path, json!({})).client(&self.world().email_svc, token);
        ("retrieval", call.send().await.status, &[200])
    }

    async fn report(&self, server: &Server) -> Outcome {
        let path = format!("/delegate/{}/steps", self.child);
        let call = Api::post(server, &path, steps(1)).client(&self.world().email_svc, &self.reporter);
        ("report", call.send().await.status, &[200])
    }

    /// Both servers revoke the same delegation: one of them is late.
    async fn revoke(&self, server: &Server, round: usize) -> Outcome {
        let path = format!("/delegate/{}/revoke", self.revocable[round]);
        let call = Api::post(server, &path, json!({})).client(&self.world().admin, &self.admin);
        ("revocation", call.send().await.status, &[200, 409])
    }

    async fn revoke_all(&self, server: &Server, round: usize) -> Outcome {
        let who = Principal::new(IDP, format!("dave-{round}"));
        let done = principals::revoke_all(&server.operator(), &who, "left").await;
        ("revoke-all", if done.is_ok() { 200 } else { 503 }, &[200])
    }

    async fn switch(&self, server: &Server) -> Outcome {
        let disabled = principals::disable(&server.operator(), "stranger").await;
        let enabled = principals::enable(&server.operator(), "stranger").await;
        ("switch", if disabled.is_ok() && enabled.is_ok() { 200 } else { 503 }, &[200])
    }

    async fn apply(&self, server: &Server, round: usize) -> Outcome {
        let id = format!("{round}-{}", server.base.rsplit(':').next().unwrap());
        let yaml = format!(
            "delegations:\n  - {{id: A-{id}, delegator: {{iss: {IDP}, sub: erin}}, delegate: user-proxy, expires_in: 600}}\n  \
             - {{id: B-{id}, parent: A-{id}, delegate: email-svc}}\n\
             clients:\n  - {{id: extra, kind: agent, auth: none, name: \"{id}\", dpop_keys: [{key}], grant_types: [token-exchange]}}",
            key = self.world().stranger.jkt()
        );
        let applied = server.apply(&yaml).await;
        assert_eq!(applied, Ok(()));
        ("apply", 200, &[200])
    }

    async fn sweep(&self, server: &Server) -> Outcome {
        let now = server.clock.now();
        let expired = jobs::expiry::run_once(&server.app, now).await;
        let swept = jobs::sweep::run_once(&server.app, now).await;
        ("sweep", if expired.is_ok() && swept.is_ok() { 200 } else { 503 }, &[200])
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_waits_for_the_head_of_the_log_appends_after_what_came_meanwhile() {
    let world = World::new().await;
    let mut sql = world.server.sql().await;
    let mut other = sql.begin().await.unwrap();
    let event = Event::new(world.server.clock.now(), EventKind::ClientEnabled, Actor::Operator);
    append_events(&mut other, &[event]).await.unwrap();
    let release = async {
        waiting(&mut other).await;
        let waits: String = sqlx::query_scalar(
            "SELECT backend_xid::text FROM pg_stat_activity
             WHERE datname = current_database() AND pg_backend_pid() = ANY (pg_blocking_pids(pid))",
        )
        .fetch_one(&mut *other)
        .await
        .unwrap();
        other.commit().await.unwrap();
        waits
    };
    let (answer, waited) = tokio::join!(world.first_hop(), release);
    let id = answer.with_status(200).claims()["dlg"].as_str().unwrap().to_owned();
    let actions: Vec<_> =
        world.server.events().await.into_iter().map(|event| event["action"].clone()).collect();
    assert!(actions.ends_with(&[json!("client.enabled"), json!("oauth.token.exchanged")]), "{actions:?}");
    // The batch that waited is the one that was committed: it was not recorded again after a failure.
    let counted: (i64, i64, String) = sqlx::query_as(
        "SELECT uses, (SELECT count(*) FROM issued_token), (SELECT xmin::text FROM issued_token)
         FROM delegation_usage WHERE delegation_id = $1",
    )
    .bind(id)
    .fetch_one(&mut sql)
    .await
    .unwrap();
    assert_eq!(counted, (1, 1, waited));
    let report = audit::verify_database(&mut sql, &TrustAnchors::default()).await.unwrap();
    assert!(report.valid, "{report:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn hundreds_of_mixed_transactions_on_two_servers_never_wait_in_a_circle() {
    let crowd = Crowd::gather().await;
    for round in 0..ROUNDS {
        for (what, status, accepted) in join_all(crowd.round(round)).await {
            assert!(accepted.contains(&status), "{what}: {status}");
        }
    }
    assert_eq!(deadlocks(&crowd.world().server).await, 0);
}

/// The number of deadlocks in the database of a server. Sessions report them when they end, so all are ended.
async fn deadlocks(server: &Server) -> i64 {
    let name = server.database.get_database().unwrap().to_owned();
    let mut admin = PgConnection::connect_with(&server.database.clone().database("postgres")).await.unwrap();
    sqlx::query("SELECT pg_terminate_backend(pid, 60000) FROM pg_stat_activity WHERE datname = $1")
        .bind(&name)
        .execute(&mut admin)
        .await
        .unwrap();
    sqlx::query_scalar("SELECT deadlocks FROM pg_stat_database WHERE datname = $1")
        .bind(&name)
        .fetch_one(&mut admin)
        .await
        .unwrap()
}
