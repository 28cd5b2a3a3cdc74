//! Steps that agents report: once, in their session, with texts beside the log that end.

use actchain::domain::principal::Principal;
use actchain::jobs::sweep;
use actchain::services::audit::{self, TrustAnchors};
use actchain::services::principals;
use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::support::Answer;
use crate::support::agent::ACCESS_TOKEN;
use crate::support::life::{steps, with};
use crate::support::management::Api;
use crate::support::world::World;

const CANARY: &str = "cat /home/alice/letter-to-the-doctor.txt";

async fn report(world: &World, id: &str, body: Value) -> Answer {
    world.as_agent(&world.user_proxy, "POST", &format!("/delegate/{id}/steps"), body).await
}

fn step(more: Value) -> Value {
    with(json!({"tool": "Bash", "outcome": "succeeded"}), more)
}

async fn recorded(world: &World) -> Vec<Value> {
    let mut events = world.server.events().await;
    events.retain(|event| event["action"] == "delegation.step");
    events
}

/// The number of events about steps, with those of refused reports.
async fn about_steps(world: &World) -> usize {
    let events = world.server.events().await;
    events.iter().filter(|event| event["action"].as_str().unwrap().starts_with("delegation.step")).count()
}

async fn verify_log(world: &World) {
    let mut sql = world.server.sql().await;
    let report = audit::verify_database(&mut sql, &TrustAnchors::default()).await.unwrap();
    assert!(report.valid, "{report:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_is_an_event_whose_texts_are_beside_the_log() {
    let world = World::new().await;
    let id = world.granted("bob", json!({})).await.id();
    let texts = json!({"input": {"command": CANARY}, "output": "Dear doctor", "reasoning": "The user asked.",
        "took_ms": 12, "plan_step": 2, "plan_total": 5, "tool_use_id": "toolu_01"});
    let answer = report(&world, &id, json!({"steps": [step(texts)]})).await.with_status(200).json;
    assert_eq!((&answer["recorded"], &answer["uses"]), (&json!(1), &json!(1)));
    let events = recorded(&world).await;
    assert_eq!(events.len(), 1);
    let event = &events[0];
    assert_eq!(
        event["detail"],
        json!({"tool": "Bash", "outcome": "succeeded", "took_ms": 12, "plan_step": 2, "plan_total": 5,
               "tool_use_id": "toolu_01"})
    );
    assert_eq!((&event["session_id"], &event["delegation_id"]), (&answer["session_id"], &json!(id)));
    assert_eq!(event["actor"]["client_id"], "user-proxy");
    assert_eq!(event["texts"]["input"], format!(r#"{{"command":"{CANARY}"}}"#));
    assert_eq!(
        (&event["texts"]["output"], &event["texts"]["reasoning"]),
        (&json!("Dear doctor"), &json!("The user asked."))
    );
    let documents = world.server.documents().await;
    let documents = json!(documents).to_string();
    assert!(
        !documents.contains("letter-to-the-doctor") && !documents.contains("Dear doctor"),
        "never in the log"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_with_an_id_counts_once_before_and_after_it_is_done() {
    let world = World::new().await;
    let id = world.granted("bob", json!({"max_uses": 4})).await.id();
    let one = |outcome: &str| json!({"steps": [{"tool": "Bash", "outcome": outcome, "tool_use_id": "t1"}]});
    let mut said = Vec::new();
    for outcome in ["proposed", "proposed", "succeeded", "succeeded", "proposed", "failed"] {
        let answer = report(&world, &id, one(outcome)).await.with_status(200).json;
        said.push((answer["recorded"].as_i64().unwrap(), answer["uses"].as_i64().unwrap()));
    }
    assert_eq!(said, [(1, 1), (0, 1), (1, 1), (0, 1), (0, 1), (0, 1)]);
    let outcomes: Vec<Value> =
        recorded(&world).await.iter().map(|event| event["detail"]["outcome"].clone()).collect();
    assert_eq!(outcomes, ["proposed", "succeeded"]);
    // What came of a step is reported without its input again.
    let asked =
        json!({"steps": [{"tool": "Bash", "outcome": "proposed", "input": "ls", "tool_use_id": "t3"}]});
    let came =
        json!({"steps": [{"tool": "Bash", "outcome": "failed", "output": "denied", "tool_use_id": "t3"}]});
    let mut said = Vec::new();
    for body in [&asked, &came, &came, &asked] {
        let answer = report(&world, &id, body.clone()).await.with_status(200).json;
        said.push((answer["recorded"].as_i64().unwrap(), answer["uses"].as_i64().unwrap()));
    }
    assert_eq!(said, [(1, 2), (1, 2), (0, 2), (0, 2)]);
    // Twice in one report, in any order, with others in between.
    let twice = json!({"steps": [
        {"tool": "Read", "outcome": "proposed", "tool_use_id": "t2"},
        {"tool": "Read", "outcome": "succeeded"},
        {"tool": "Read", "outcome": "failed", "tool_use_id": "t2"},
        {"tool": "Read", "outcome": "proposed", "tool_use_id": "t2"},
    ]});
    let answer = report(&world, &id, twice.clone()).await.with_status(200).json;
    assert_eq!(
        (&answer["recorded"], &answer["uses"], &answer["state"]),
        (&json!(2), &json!(4), &json!("expired"))
    );
    assert_eq!(recorded(&world).await[4]["detail"]["outcome"], "failed");
    report(&world, &id, twice).await.assert_conflict("command_limit", "expired");
}

#[tokio::test(flavor = "multi_thread")]
async fn reports_on_two_servers_record_a_step_once() {
    let world = World::configured("[ledger]\ntimeout = 30").await;
    let twin = world.server.twin_configured("[ledger]\ntimeout = 30").await;
    let id = world.granted("bob", json!({"max_uses": 50})).await.id();
    let token = world.management_token(&world.user_proxy).await;
    let path = format!("/delegate/{id}/steps");
    let answers = (0..24).map(async |n: usize| {
        let server = if n.is_multiple_of(2) { &world.server } else { &twin };
        let body = json!({"steps": [{"tool": "Bash", "outcome": "succeeded", "tool_use_id": format!("t{}", n % 3)}]});
        Api::post(server, &path, body).client(&world.user_proxy, &token).send().await
    });
    let answers = join_all(answers).await;
    let counted: i64 = answers.iter().map(|one| one.json["recorded"].as_i64().unwrap()).sum();
    assert_eq!((counted, world.shown(&id).await["uses"].clone()), (3, json!(3)));
    assert_eq!(recorded(&world).await.len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn steps_are_in_the_session_of_the_exchange_and_no_other_client_joins_it() {
    let world = World::new().await;
    let id = world.granted("bob", json!({})).await.id();
    let below = world.passed_on(&world.user_proxy, (&id, "email-svc"), json!({})).await.id();
    let first = world.first_hop_of("bob").send().await.with_status(200);
    let second =
        world.email_svc.exchange(&world.server, first.token(), ACCESS_TOKEN).send().await.with_status(200);
    let sid = second.claims()["sid"].clone();
    let unnamed = report(&world, &id, steps(1)).await.with_status(200).json;
    assert_eq!(unnamed["session_id"], sid, "the session of its newest exchange");
    let of_mail = async |body: Value| {
        let path = format!("/delegate/{below}/steps");
        world.as_agent(&world.email_svc, "POST", &path, body).await.with_status(200).json["session_id"]
            .clone()
    };
    assert_eq!(of_mail(with(steps(1), json!({"session_id": sid}))).await, sid, "by the sid of its token");
    // The same name is another session for another client, and for another user.
    let named = with(steps(1), json!({"session_id": "invoice-7"}));
    let mine = report(&world, &id, named.clone()).await.with_status(200).json["session_id"].clone();
    let theirs = of_mail(named.clone()).await;
    assert_ne!(mine, theirs);
    assert_eq!(report(&world, &id, named).await.with_status(200).json["session_id"], mine);
    assert_ne!(
        of_mail(with(steps(1), json!({"session_id": mine}))).await,
        mine,
        "it has no token of that session"
    );
    for odd in ["", "\u{7}", &"x".repeat(129)] {
        let answer = report(&world, &id, with(steps(1), json!({"session_id": odd}))).await;
        answer.with_status(200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn texts_end_with_their_salt_and_the_log_stays_valid() {
    let world = World::new().await;
    let texts = json!({"steps": [step(json!({"input": CANARY, "reasoning_sha256": "0".repeat(64)})), step(json!({}))]});
    let mut sessions = Vec::new();
    for user in ["bob", "carol"] {
        let id = world.granted(user, json!({})).await.id();
        let answer = report(&world, &id, texts.clone()).await.with_status(200).json;
        sessions.push(answer["session_id"].as_str().unwrap().to_owned());
    }
    let erase = async |user: &str, session: &str| {
        world.as_user(user, "DELETE", &format!("/api/v1/sessions/{session}/texts"), json!({})).await
    };
    let personal = async || {
        let mut sql = world.server.sql().await;
        let text = "SELECT coalesce(string_agg(personal, ' '), '') FROM audit_event";
        sqlx::query_scalar::<_, String>(text).fetch_one(&mut sql).await.unwrap()
    };
    assert_eq!(erase("carol", &sessions[0]).await.with_status(200).json["steps"], 0, "not of another user");
    assert_eq!(erase("dave", &sessions[0]).await.with_status(200).json["steps"], 0, "nor by a stranger");
    assert_eq!(personal().await.matches(CANARY).count(), 2);
    let done = erase("bob", &sessions[0]).await.with_status(200).json;
    assert_eq!(done, json!({"session_id": sessions[0], "steps": 1}), "the step without texts has none");
    assert_eq!(erase("bob", &sessions[0]).await.with_status(200).json["steps"], 0);
    assert_eq!(personal().await.matches(CANARY).count(), 1, "those of the other session stay");
    let stranger = format!("/api/v1/sessions/{}/texts", sessions[1]);
    world
        .as_agent(&world.user_proxy, "DELETE", &stranger, json!({}))
        .await
        .assert_problem(403, "insufficient_scope");
    let done = world.as_admin("DELETE", &stranger, json!({})).await.with_status(200).json;
    assert_eq!(done["steps"], 1);
    assert_eq!(personal().await.matches(CANARY).count(), 0);
    let mut erasures = world.server.events().await;
    erasures.retain(|event| event["action"] == "session.texts_erased");
    assert_eq!(erasures.len(), 2);
    assert_eq!(erasures[0]["detail"], json!({"steps": 1, "cause": "requested"}));
    assert_eq!(
        (&erasures[0]["session_id"], &erasures[0]["subject"]["sub"]),
        (&json!(sessions[0]), &json!("bob"))
    );
    assert!(recorded(&world).await[0]["personal_sha256"].is_string(), "the digest stays, without its salt");
    verify_log(&world).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn texts_are_kept_for_their_time_and_no_longer() {
    let world = World::configured("[sessions]\ntext_retention = 100").await;
    let id = world.granted("bob", json!({})).await.id();
    report(&world, &id, json!({"steps": [step(json!({"input": CANARY}))]})).await.with_status(200);
    let left = async || {
        let mut sql = world.server.sql().await;
        let count = "SELECT count(*) FROM audit_event WHERE personal LIKE '%letter%'";
        sqlx::query_scalar::<_, i64>(count).fetch_one(&mut sql).await.unwrap()
    };
    // Rows without texts delay no others.
    let mut sql = world.server.sql().await;
    let orphans =
        "INSERT INTO audit_step_text SELECT 1000000 + n, 's', '2025-01-01' FROM generate_series(1, 1500) n";
    sqlx::query(orphans).execute(&mut sql).await.unwrap();
    world.server.pass(100);
    sweep::run_once(&world.server.app, world.server.clock.now()).await.unwrap();
    assert_eq!(left().await, 1);
    world.server.pass(1);
    sweep::run_once(&world.server.app, world.server.clock.now()).await.unwrap();
    assert_eq!(left().await, 0);
    let erased = world.server.events().await;
    let erased = erased.iter().find(|event| event["action"] == "session.texts_erased").unwrap();
    assert_eq!(
        (&erased["detail"]["cause"], &erased["actor"]["type"]),
        (&json!("retention"), &json!("server"))
    );
    verify_log(&world).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_recorded_is_refused_whole() {
    let world = World::new().await;
    let id = world.granted("bob", json!({})).await.id();
    let long = "x".repeat(16 * 1024 + 1);
    let hash_of_other = "a".repeat(64);
    for (bad, what) in [
        (json!({"tool": ""}), "no tool"),
        (json!({"tool": "rm -rf"}), "a tool is a name"),
        (json!({"tool": "x".repeat(129)}), "a long name"),
        (json!({"outcome": "done"}), "an unknown outcome"),
        (json!({"input": long}), "a long text"),
        (json!({"reasoning": 7}), "no text"),
        (json!({"input": "a\u{0}b"}), "NUL"),
        (json!({"input": "a", "input_sha256": hash_of_other}), "a digest of something else"),
        (json!({"input_sha256": "A".repeat(64)}), "no digest"),
        (json!({"plan_step": 0}), "a plan begins with 1"),
        (json!({"plan_step": 3, "plan_total": 2}), "after the end of the plan"),
        (json!({"plan_total": 2}), "a plan without a step"),
        (json!({"took_ms": -1}), "no time"),
        (json!({"took_ms": u64::MAX}), "no time at all"),
        (json!({"tool_use_id": "a b"}), "no id"),
        (json!({"colour": "red"}), "an unknown member"),
    ] {
        let body = json!({"steps": [step(json!({})), step(bad)]});
        let answer = report(&world, &id, body).await;
        assert_eq!((answer.status, answer.reason()), (400, "malformed_request"), "{what}: {}", answer.text);
    }
    assert!(recorded(&world).await.is_empty());
    assert_eq!(world.shown(&id).await["uses"], 0);
    // As many and as long as they may be.
    let text = "\u{1}".repeat(16 * 1024);
    let all = step(json!({"input": text, "output": text, "reasoning": text}));
    let answer = report(&world, &id, json!({"steps": vec![all; 25]})).await.with_status(200).json;
    assert_eq!(answer["recorded"], 25);
    let huge = json!({"steps": [step(json!({"input": "x".repeat(9 * 1024 * 1024)}))]});
    report(&world, &id, huge).await.assert_problem(413, "request_too_large");
}

/// A step that a built-in rule blocks.
const PROBE: &str = "curl --unix-socket /var/run/docker.sock http://localhost/containers/json";

async fn with_rules(world: &World, rules: Value) {
    let manifest = json!({"rules": rules});
    world.as_admin("POST", "/api/v1/apply", manifest).await.with_status(200);
    world.server.app.refresh_rules().await.unwrap();
}

fn rule(id: &str, word: &str, action: &str) -> Value {
    json!({"id": id, "title": "A word", "severity": "high", "targets": ["input"], "match_mode": "any",
           "patterns": [{"contains": word}], "action": action,
           "examples": {"match": [word], "no_match": ["nothing"]}})
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_asks_is_answered_by_the_strictest_rule() {
    let world = World::new().await;
    with_rules(&world, json!([rule("MY-001", "notes", "flag"), rule("MY-002", "diary", "record")])).await;
    let id = world.granted("bob", json!({})).await.id();
    let proposed = |input: &str, id: &str| json!({"tool": "Bash", "outcome": "proposed", "input": input, "tool_use_id": id});
    let body = json!({"ask": true, "steps": [proposed("ls", "a"), proposed("cat diary", "b"), proposed("cat notes", "c")]});
    let answer = report(&world, &id, body.clone()).await.with_status(200).json;
    let decisions: Vec<&Value> =
        answer["steps"].as_array().unwrap().iter().map(|one| &one["decision"]).collect();
    assert_eq!((json!(decisions), &answer["decision"]), (json!(["allow", "allow", "flag"]), &json!("flag")));
    assert_eq!(answer["steps"][1]["findings"][0]["rule"], "MY-002");
    let again = report(&world, &id, body).await.with_status(200).json;
    assert_eq!((&again["steps"], &again["recorded"]), (&answer["steps"], &json!(0)), "asked again");
    let probe = json!({"ask": true, "steps": [proposed(PROBE, "d")]});
    let answer = report(&world, &id, probe).await.with_status(200).json;
    assert_eq!(answer["decision"], "block", "{answer}");
    let events = recorded(&world).await;
    let last = events.last().unwrap();
    assert_eq!(last["detail"]["decision"], "block");
    assert!(last["findings"][0]["rule"].as_str().unwrap().starts_with("CE-"), "{last}");
    assert!(
        !json!(world.server.documents().await).to_string().contains("docker.sock"),
        "a finding has no text"
    );
    // What was done is recorded with its findings, and nothing is decided.
    let done = json!({"steps": [step(json!({"input": PROBE}))]});
    let answer = report(&world, &id, done).await.with_status(200).json;
    assert!(answer.get("decision").is_none());
    let last = recorded(&world).await.pop().unwrap();
    assert!(last["findings"].is_array() && last["detail"].get("decision").is_none());
    for odd in [
        step(json!({})),
        json!({"tool": "Bash", "outcome": "proposed", "input_sha256": "0".repeat(64)}),
        json!({"tool": "Pay", "outcome": "proposed", "input": {"account": 9_007_199_254_740_993_u64}}),
    ] {
        let body = json!({"ask": true, "steps": [odd]});
        report(&world, &id, body).await.assert_problem(400, "malformed_request");
    }
    // Another step under a known id is another step.
    let uses = world.shown(&id).await["uses"].as_i64().unwrap();
    let other = json!({"ask": true, "steps": [proposed(PROBE, "a")]});
    let answer = report(&world, &id, other).await.with_status(200).json;
    assert_eq!(
        (&answer["decision"], &answer["recorded"], &answer["uses"]),
        (&json!("block"), &json!(1), &json!(uses + 1))
    );
    let both = json!({"ask": true, "steps": [proposed(PROBE, "e"), proposed("ls", "e")]});
    assert_eq!(
        report(&world, &id, both).await.with_status(200).json["decision"],
        "block",
        "the first counts"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_that_needs_a_confirmation_passes_once_after_the_user_gave_it() {
    let world = World::new().await;
    with_rules(&world, json!([rule("MY-003", "pay", "confirm")])).await;
    let root = world.granted("bob", json!({})).await.id();
    let id = world.passed_on(&world.user_proxy, (&root, "email-svc"), json!({})).await.id();
    let ask = async |input: &str, use_id: &str| {
        let step = json!({"tool": "Shop", "outcome": "proposed", "input": input, "tool_use_id": use_id});
        let body = json!({"ask": true, "steps": [step]});
        let path = format!("/delegate/{id}/steps");
        world.as_agent(&world.email_svc, "POST", &path, body).await.with_status(200).json["steps"][0].clone()
    };
    let first = ask("pay 5", "p1").await;
    assert_eq!((&first["decision"], &first["confirmed_at"]), (&json!("confirm"), &json!(root)));
    let ceremony = first["ceremony"].as_str().unwrap().to_owned();
    assert_eq!(ask("pay 5", "p1").await["ceremony"], ceremony, "it waits");
    assert_ne!(ask("pay 6", "p2").await["ceremony"], ceremony, "another step");
    let shown = world
        .as_user("bob", "GET", &format!("/delegate/{root}/ceremonies"), json!({}))
        .await
        .with_status(200)
        .json;
    assert!(shown.to_string().contains("pay 5") && shown.to_string().contains("MY-003"), "{shown}");
    let decide = |name: &str| format!("/delegate/{root}/ceremonies/{ceremony}/{name}");
    // The agent that passed the delegation on decides nothing.
    world
        .as_agent(&world.user_proxy, "POST", &decide("approve"), json!({}))
        .await
        .assert_problem(403, "insufficient_scope");
    world.as_user("bob", "POST", &decide("approve"), json!({})).await.with_status(200);
    let allowed = ask("pay 5", "p1").await;
    assert_eq!((&allowed["decision"], &allowed["ceremony"]), (&json!("allow"), &json!(ceremony)));
    let once = ask("pay 5", "p1").await;
    assert_eq!(once["decision"], "confirm", "once");
    assert_ne!(once["ceremony"], ceremony);
    let used: Vec<Value> = recorded(&world).await;
    assert!(
        used.iter().any(|event| event["detail"]["decision"] == "allow"
            && event["detail"]["ceremony"] == ceremony.as_str())
    );
    let deny = format!("/delegate/{root}/ceremonies/{}/deny", once["ceremony"].as_str().unwrap());
    world.as_user("bob", "POST", &deny, json!({})).await.with_status(200);
    assert_eq!(ask("pay 5", "p9").await["decision"], "block");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rule_suspends_a_delegation_until_its_user_evaluates_it_again() {
    let world = World::new().await;
    with_rules(&world, json!([rule("MY-004", "exfiltrate", "suspend")])).await;
    let id = world.granted("bob", json!({})).await.id();
    let token = world.first_hop_of("bob").send().await.with_status(200);
    let body = json!({"steps": [step(json!({"input": "exfiltrate"}))]});
    let answer = report(&world, &id, body.clone()).await.with_status(200).json;
    assert_eq!(answer["state"], "requested");
    assert!(!world.is_active(token.token()).await, "before the answer");
    report(&world, &id, body).await.assert_conflict("delegation_requested", "requested");
    let events = world.events_about(&id).await;
    let suspended = events.iter().find(|event| event["action"] == "delegation.suspended").unwrap();
    assert_eq!(
        (&suspended["detail"]["cause"], &suspended["actor"]["client_id"]),
        (&json!("rule"), &json!("user-proxy"))
    );
    world.moves("bob", &id, "approve", json!({})).await.with_status(200);
    assert!(world.is_active(token.token()).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proof_is_for_one_report_however_it_is_recorded_or_refused() {
    let world = World::new().await;
    let twin = world.server.twin().await;
    let id = world.granted("bob", json!({})).await.id();
    let token = world.management_token(&world.user_proxy).await;
    let path = format!("/delegate/{id}/steps");
    let one = json!({"tool": "Bash", "outcome": "succeeded"});
    let many = vec![one.clone(); 11];
    let long = json!({"tool": "Bash", "outcome": "succeeded", "input": "x".repeat(15_000), "output": "y".repeat(15_000)});
    let uses = async || world.shown(&id).await["uses"].as_i64().unwrap();
    for (body, key, status) in [
        (json!({"steps": [one]}), None, 200),
        (json!({"ask": true, "steps": [{"tool": "Bash", "outcome": "proposed"}]}), None, 200),
        (json!({"steps": many}), None, 200),
        (json!({"steps": vec![long; 3]}), None, 200),
        (json!({"steps": [one]}), Some("again"), 200),
        (json!({"steps": []}), None, 400),
        (json!({"other": 1}), None, 400),
    ] {
        let claims = Api::post(&world.server, &path, body.clone()).proof_claims(&token);
        let proof = world.user_proxy.key.sign_proof("dpop+jwt", &claims).unwrap();
        let send = async |server| {
            let call = Api::post(server, &path, body.clone());
            let call = call.header("authorization", &format!("DPoP {token}")).header("dpop", &proof);
            key.into_iter().fold(call, |call: Api<'_>, key| call.key(key)).send().await
        };
        let answers = join_all([&world.server, &twin, &world.server].map(|server| send(server))).await;
        let accepted: Vec<u16> =
            answers.iter().map(|one| one.status).filter(|status| *status != 401).collect();
        assert_eq!(accepted, [status], "{body}");
        let before = (uses().await, about_steps(&world).await);
        send(&twin).await.assert_problem(401, "dpop_proof_replayed");
        assert_eq!((uses().await, about_steps(&world).await), before, "{body}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_report_is_refused_as_soon_as_what_it_rests_on_has_ended() {
    let world = World::new().await;
    let twin = world.server.twin().await;
    let id = world.granted("bob", json!({})).await.id();
    let token = world.management_token(&world.user_proxy).await;
    let path = format!("/delegate/{id}/steps");
    let ask = json!({"ask": true, "steps": [{"tool": "Bash", "outcome": "proposed"}]});
    let report = || Api::post(&world.server, &path, ask.clone()).client(&world.user_proxy, &token).send();
    // From here on, path and client are in memory.
    for _ in 0..2 {
        assert_eq!(report().await.with_status(200).json["decision"], "allow");
    }
    // Another version of the client, whose authority goes on.
    twin.disable("user-proxy").await;
    report().await.assert_problem(401, "access_token_invalid");
    twin.enable("user-proxy").await;
    report().await.with_status(200);
    let revoked = Api::post(&twin, &format!("/delegate/{id}/revoke"), json!({}));
    revoked.user(&world.token_of("bob")).send().await.with_status(200);
    report().await.assert_conflict("delegation_revoked", "revoked");
    let other = world.granted("carol", json!({})).await.id();
    let path = format!("/delegate/{other}/steps");
    let report = || Api::post(&world.server, &path, ask.clone()).client(&world.user_proxy, &token).send();
    report().await.with_status(200);
    let proxy = Principal::new(&world.server.app.issuer, "user-proxy");
    principals::revoke_all(&twin.operator(), &proxy, "its key was stolen").await.unwrap();
    let events = about_steps(&world).await;
    report().await.assert_problem(401, "access_token_invalid");
    assert_eq!(about_steps(&world).await, events, "a stolen token writes nothing");
}
