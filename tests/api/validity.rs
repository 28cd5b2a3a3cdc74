//! Everything that decides about tokens and delegations agrees, on random facts: the functions and views of SQL, the rule
//! of the program, the ledger, introspection, status lists, impact and searches, and a plain statement of the rules.
//! `MODEL_CASES` multiplies the number of cases; `MODEL_SEED` selects other cases.

mod facts;
mod rules;

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};

use actchain::domain::delegation::impact::{RevocationScope, impact};
use actchain::domain::delegation::{DelegationState, Inactive};
use actchain::domain::ledger::{CommitOutcome, Entry, Guards, SingleUseId, Write};
use actchain::domain::principal::Principal;
use actchain::domain::refusal::{ClientProblem, Refusal};
use actchain::domain::{delegation, status, token};
use futures_util::future::join_all;
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestRng, TestRunner};
use sqlx::PgConnection;

use crate::support::Server;
use crate::support::world::IDP;
use facts::{Facts, agent_id, delegation_id, jti, time, user};
use rules::{KINDS, Listed, delegation_reason};

const CASES: u32 = 60;

fn number(name: &str, usual: u32) -> u32 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(usual)
}

#[test]
fn all_that_decides_about_tokens_and_delegations_agrees_on_random_facts() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let server = runtime.block_on(Server::start("", "{}"));
    let sql = RefCell::new(runtime.block_on(server.sql()));
    let seen: HashMap<&str, Cell<u32>> = KINDS.iter().map(|kind| (*kind, Cell::new(0))).collect();
    let config = Config {
        cases: CASES * number("MODEL_CASES", 1),
        failure_persistence: None,
        max_shrink_iters: 400,
        ..Config::default()
    };
    let mut seed = [0; 32];
    seed[..4].copy_from_slice(&number("MODEL_SEED", 1).to_be_bytes());
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &seed);
    let agreed = TestRunner::new_with_rng(config, rng).run(&facts::facts(), |facts| {
        for kind in facts.kinds() {
            seen[kind].set(seen[kind].get() + 1);
        }
        let agreed = runtime.block_on(agrees(&server, &mut sql.borrow_mut(), &facts));
        agreed.map_err(TestCaseError::fail)
    });
    agreed.unwrap();
    let rare: Vec<_> = seen.iter().filter(|(_, count)| count.get() < 5).collect();
    assert!(rare.is_empty(), "hardly generated: {rare:?}");
}

/// Fails with a sentence for the first disagreement.
async fn agrees(server: &Server, sql: &mut PgConnection, facts: &Facts) -> Result<(), String> {
    facts.store(sql, &server.app.issuer).await;
    server.seal_rows().await;
    for number in 0..facts.delegations.len() {
        delegation_agrees(server, sql, facts, number).await?;
    }
    for number in 0..facts.tokens.len() {
        let known = token::store::standing(&server.app.rows, sql, jti(number)).await.unwrap().unwrap();
        let expected = facts.inactive(number).map(delegation_reason);
        let found = known.check(time(facts.now)).err().map(Refusal::reason);
        same(&format!("introspection of token {number}"), found, expected)?;
    }
    lists_agree(server, facts).await?;
    ledger_agrees(server, facts).await
}

fn same<T: std::fmt::Debug + PartialEq>(what: &str, found: T, expected: T) -> Result<(), String> {
    if found == expected { Ok(()) } else { Err(format!("{what}: {found:?}, not {expected:?}")) }
}

fn name(inactive: Inactive) -> &'static str {
    match inactive {
        Inactive::Revoked => "revoked",
        Inactive::PrincipalRevoked => "principal_revoked",
        Inactive::Expired => "expired",
        Inactive::Exhausted => "exhausted",
        Inactive::UsedUp => "used_up",
        Inactive::Requested => "requested",
    }
}

async fn delegation_agrees(
    server: &Server,
    sql: &mut PgConnection,
    facts: &Facts,
    number: usize,
) -> Result<(), String> {
    let (id, now) = (delegation_id(number), time(facts.now));
    let (problem, state): (Option<String>, DelegationState) = sqlx::query_as(
        "SELECT delegation_problem($2, expires_at, revoked_at, principal_revoked, exhausted_at, used_up, waiting),
                delegation_state(path, $2)
         FROM delegation_status WHERE id = $1",
    )
    .bind(&id)
    .bind(now)
    .fetch_one(&mut *sql)
    .await
    .unwrap();
    let expected = facts.delegation_problem(number);
    same(&format!("delegation_problem of {id}"), problem.as_deref(), expected)?;
    let path = delegation::store::path(&server.app.rows, sql, &id).await.unwrap().unwrap();
    let own = path.leaf().unwrap().facts.check(now).err().map(name);
    same(&format!("DelegationRecord::check of {id}"), own, expected)?;
    same(&format!("delegation_state of {id}"), state, path.state(now).0)?;
    let counted = impact(&mut *sql, &RevocationScope::Delegation(&id), now).await.unwrap();
    same(&format!("the impact of {id}"), (counted.delegations, counted.tokens), facts.impact(number))?;
    let active = facts.path_problem(number).is_none();
    same(&format!("whether {id} is active"), state == DelegationState::Active, active)
}

async fn lists_agree(server: &Server, facts: &Facts) -> Result<(), String> {
    let list = status::store::ended(&server.app.pool, 0, time(facts.now)).await.unwrap();
    for number in 0..facts.tokens.len() {
        let Some(expected) = facts.listed(number) else { continue };
        let place = i64::try_from(number).unwrap();
        // Invalid is final, so invalid overrides suspended.
        let found = match (list.invalid.contains(&place), list.suspended.contains(&place)) {
            (true, _) => Listed::Invalid,
            (false, true) => Listed::Suspended,
            (false, false) => Listed::Valid,
        };
        same(&format!("the status list about token {number}"), found, expected)?;
    }
    Ok(())
}

/// Records one entry for each thing that an entry can rely on, all at once.
async fn ledger_agrees(server: &Server, facts: &Facts) -> Result<(), String> {
    let entries = entries(facts);
    let recorded =
        join_all(entries.iter().map(|(_, entry, _)| server.app.ledger.record(entry.clone()))).await;
    for ((what, _, expected), outcome) in entries.iter().zip(recorded) {
        let found = match outcome.map_err(|error| format!("the ledger about {what}: {error:?}"))? {
            CommitOutcome::Committed(_) => "accepted",
            CommitOutcome::Rejected(refusal) => refusal.reason(),
            CommitOutcome::Retry => "retry",
        };
        same(&format!("the ledger about {what}"), found, *expected)?;
    }
    Ok(())
}

/// What an entry relies on, the entry, and its expected outcome.
fn entries(facts: &Facts) -> Vec<(String, Entry, &str)> {
    let mut entries = Vec::new();
    let mut add = |what: String, guards: Guards, refused: Option<&'static str>| {
        let entry = Entry {
            session: None,
            now: time(facts.now),
            single_use_ids: Vec::new(),
            guards,
            write: Write::Nothing,
            event: None,
        };
        entries.push((what, entry, refused.unwrap_or("accepted")));
    };
    for number in 0..facts.tokens.len() {
        let guards = Guards { tokens: vec![jti(number)], ..Guards::default() };
        add(format!("token {number}"), guards, facts.lineage_problem(number));
    }
    for number in 0..facts.delegations.len() {
        let id = delegation_id(number);
        let problem = facts.path_problem(number);
        let guards = Guards { path: facts.path_ids(number), ..Guards::default() };
        add(format!("the path of {id}"), guards, problem.map(delegation_reason));
        let guards = Guards { ephemeral_delegation: vec![id.clone()], ..Guards::default() };
        add(format!("an agent that {id} was made for"), guards, problem.and(Some("agent_deactivated")));
    }
    for (number, agent) in facts.agents.iter().enumerate() {
        let id = agent_id(number);
        let inactive = agent.disabled || agent.deactivated;
        let disabled = Refusal::InvalidClient(ClientProblem::Disabled).reason();
        let guards = Guards { client: Some((id.clone(), 1)), ..Guards::default() };
        add(format!("client {id}"), guards, inactive.then_some(disabled));
        let guards = Guards { client: Some((id.clone(), 2)), ..Guards::default() };
        add(
            format!("client {id} of another version"),
            guards,
            Some(if inactive { disabled } else { "retry" }),
        );
        let guards = Guards { earlier_actors: vec![id.clone()], ..Guards::default() };
        add(format!("earlier actor {id}"), guards, inactive.then_some("actor_disabled"));
    }
    for (number, revoked) in facts.users.iter().enumerate() {
        // Ten seconds of difference between the clocks of issuer and server.
        for issued in [10, 14, 18] {
            let subject = (Principal::new(IDP, user(number)), time(issued));
            let guards = Guards { subjects: vec![subject], ..Guards::default() };
            let covered = revoked.is_some_and(|(_, at)| at + 10 >= issued);
            add(format!("a token of user {number}"), guards, covered.then_some("principal_revoked"));
        }
    }
    for expires in 0..8 {
        let single_use_ids = vec![SingleUseId {
            id: unused_id(),
            expires_at: time(expires),
            on_replay: Refusal::DpopProofReplayed,
            if_forgotten: Refusal::ProofTooOld,
        }];
        let entry = Entry {
            session: None,
            now: time(facts.now),
            single_use_ids,
            guards: Guards::default(),
            write: Write::Nothing,
            event: None,
        };
        let forgotten = if expires <= facts.horizon { Refusal::ProofTooOld.reason() } else { "accepted" };
        entries.push((format!("an id that expires at {expires}"), entry, forgotten));
    }
    entries
}

/// An id that no other entry has.
fn unused_id() -> [u8; 16] {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    u128::from(NEXT.fetch_add(1, Ordering::Relaxed)).to_be_bytes()
}
