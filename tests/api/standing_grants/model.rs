//! Random grants, requests, key changes and times, compared with a plain statement of the rules. `MODEL_CASES` multiplies the
//! number of cases; `MODEL_SEED` selects other cases.

use std::cell::Cell;
use std::collections::BTreeSet;

use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestRng, TestRunner};
use serde_json::{Value, json};

use crate::support::agent::{Agent, JWT};
use crate::support::ends::new_key;
use crate::support::world::{CALENDAR, IDP, MAIL, World};

const CASES: u32 = 16;
const SCOPES: [&str; 3] = ["mail.read", "mail.send", "both"];

#[derive(Debug, Clone)]
enum Step {
    Grant {
        scopes: BTreeSet<usize>,
        calendar: bool,
        keys: BTreeSet<usize>,
        ttl: i64,
        max_ttl: i64,
    },
    Request {
        scopes: BTreeSet<usize>,
        calendar: bool,
        key: usize,
        ttl: i64,
    },
    /// An exchange with the newest delegation that came of a grant.
    Exchange {
        key: usize,
    },
    Revoke(usize),
    Renew(usize, i64),
    Revalidate(usize, BTreeSet<usize>),
    Pass(i64),
}

fn step() -> impl Strategy<Value = Step> {
    let names = || proptest::collection::btree_set(0..3usize, 1..3);
    let keys = || proptest::collection::btree_set(0..2usize, 1..3);
    prop_oneof![
        3 => (names(), any::<bool>(), keys(), 100..900i64, 50..400i64)
            .prop_map(|(scopes, calendar, keys, ttl, max_ttl)| Step::Grant { scopes, calendar, keys, ttl, max_ttl }),
        6 => (names(), any::<bool>(), 0..2usize, 30..500i64)
            .prop_map(|(scopes, calendar, key, ttl)| Step::Request { scopes, calendar, key, ttl }),
        4 => (0..2usize).prop_map(|key| Step::Exchange { key }),
        1 => (0..4usize).prop_map(Step::Revoke),
        1 => (0..4usize, 100..900i64).prop_map(|(grant, ttl)| Step::Renew(grant, ttl)),
        3 => (0..4usize, keys()).prop_map(|(grant, keys)| Step::Revalidate(grant, keys)),
        2 => (1..300i64).prop_map(Step::Pass),
    ]
}

struct ModelGrant {
    id: Value,
    scopes: BTreeSet<usize>,
    calendar: bool,
    keys: BTreeSet<usize>,
    ends: i64,
    max_ttl: i64,
    revoked: bool,
    suspended: bool,
}

impl ModelGrant {
    fn state(&self, now: i64) -> &'static str {
        match self {
            Self { revoked: true, .. } => "revoked",
            Self { ends, .. } if *ends <= now => "expired",
            Self { suspended: true, .. } => "suspended",
            _ => "active",
        }
    }
}

/// A delegation that came of a grant.
struct Came {
    grant: usize,
    id: Value,
    ends: i64,
}

struct Model<'a> {
    world: &'a World,
    agents: [Agent; 2],
    user: String,
    grants: Vec<ModelGrant>,
    came: Vec<Came>,
    outcomes: &'a [Cell<u32>; 6],
}

fn same<T: std::fmt::Debug + PartialEq>(what: &str, found: T, expected: T) -> Result<(), String> {
    if found == expected { Ok(()) } else { Err(format!("{what}: {found:?}, not {expected:?}")) }
}

impl Model<'_> {
    fn now(&self) -> i64 {
        self.world.server.now()
    }

    fn count(&self, outcome: usize) {
        self.outcomes[outcome].set(self.outcomes[outcome].get() + 1);
    }

    /// A proof under a key suspends every active grant that does not pin the key.
    fn proves(&mut self, key: usize) {
        let now = self.now();
        for grant in self.grants.iter_mut().filter(|grant| grant.ends > now && !grant.keys.contains(&key)) {
            grant.suspended = true;
        }
    }

    fn jkts(&self, keys: &BTreeSet<usize>) -> Vec<&str> {
        keys.iter().map(|key| self.agents[*key].jkt()).collect()
    }

    async fn of_user(&self, method: &str, path: &str, body: Value) -> crate::support::Answer {
        self.world.as_user(&self.user, method, path, body).await
    }

    fn path(&self, grant: usize, operation: &str) -> String {
        format!("{}/{}{operation}", super::GRANTS, self.grants[grant].id.as_str().unwrap())
    }

    async fn run(&mut self, step: &Step) -> Result<(), String> {
        let named = |scopes: &BTreeSet<usize>| scopes.iter().map(|one| SCOPES[*one]).collect::<Vec<_>>();
        let at = |calendar: &bool| if *calendar { json!([MAIL, CALENDAR]) } else { json!([MAIL]) };
        let now = self.now();
        match step {
            Step::Pass(seconds) => self.world.server.pass(*seconds),
            Step::Grant { scopes, calendar, keys, ttl, max_ttl } => {
                if self.grants.len() == 4 {
                    return Ok(());
                }
                let body = json!({"client_id": "email-svc", "scopes": named(scopes), "audiences": at(calendar),
                    "keys": self.jkts(keys), "expires_in": ttl, "max_ttl": max_ttl});
                let made = self.of_user("POST", super::GRANTS, body).await;
                same("a grant", made.status, 201)?;
                self.grants.push(ModelGrant {
                    id: made.json["id"].clone(),
                    scopes: scopes.clone(),
                    calendar: *calendar,
                    keys: keys.clone(),
                    ends: now + ttl,
                    max_ttl: *max_ttl,
                    revoked: false,
                    suspended: false,
                });
            }
            Step::Request { scopes, calendar, key, ttl } => {
                self.proves(*key);
                let body = json!({"delegator": {"iss": IDP, "sub": self.user}, "scopes": named(scopes),
                    "audiences": at(calendar), "expires_in": ttl});
                let answer = self.world.as_agent(&self.agents[*key], "POST", "/delegate", body).await;
                let covers = |grant: &ModelGrant| {
                    grant.state(now) == "active"
                        && grant.keys.contains(key)
                        && scopes.is_subset(&grant.scopes)
                        && (grant.calendar || !calendar)
                };
                let covering = self.grants.iter().any(covers);
                same("a request", answer.status, if covering { 201 } else { 202 })?;
                self.count(usize::from(!covering));
                if covering {
                    let under = &answer.json["standing_grant_id"];
                    let grant =
                        self.grants.iter().position(|grant| grant.id == *under).ok_or("no such grant")?;
                    if !covers(&self.grants[grant]) {
                        return Err(format!("grant {grant} does not cover the request"));
                    }
                    let ends = (now + ttl.min(&self.grants[grant].max_ttl)).min(self.grants[grant].ends);
                    let shown = crate::support::life::instant(ends);
                    same("the end", &answer.json["expires_at"], &json!(shown))?;
                    self.came.push(Came { grant, id: answer.json["id"].clone(), ends });
                }
            }
            Step::Exchange { key } => {
                if self.came.is_empty() {
                    return Ok(());
                }
                self.proves(*key);
                let Some(newest) = self.came.last() else { return Ok(()) };
                let token = self.world.token_of(&self.user);
                let request = self.agents[*key].exchange(&self.world.server, &token, JWT);
                let request =
                    request.param("audience", MAIL).param("delegation_id", newest.id.as_str().unwrap());
                let answer = request.send().await;
                let works = newest.ends > now && self.grants[newest.grant].state(now) == "active";
                same("an exchange", (answer.status == 200, answer.status == 400), (works, !works))?;
                self.count(2 + usize::from(!works));
            }
            Step::Revoke(grant) if *grant < self.grants.len() => {
                let lasts = ["active", "suspended"].contains(&self.grants[*grant].state(now));
                let answer = self.of_user("POST", &self.path(*grant, "/revoke"), json!({})).await;
                same("a revocation", answer.status, if lasts { 200 } else { 409 })?;
                self.grants[*grant].revoked |= lasts;
            }
            Step::Renew(grant, ttl) if *grant < self.grants.len() => {
                let state = self.grants[*grant].state(now);
                let expected = match state {
                    "active" if now + ttl > self.grants[*grant].ends => 200,
                    "active" => 400,
                    _ => 409,
                };
                let answer =
                    self.of_user("POST", &self.path(*grant, "/renew"), json!({"expires_in": ttl})).await;
                same("a renewal", answer.status, expected)?;
                if expected == 200 {
                    self.grants[*grant].ends = now + ttl;
                }
            }
            Step::Revalidate(grant, keys) if *grant < self.grants.len() => {
                let suspended = self.grants[*grant].state(now) == "suspended";
                let body = json!({"keys": self.jkts(keys), "replaces": self.jkts(&self.grants[*grant].keys)});
                let answer = self.of_user("POST", &self.path(*grant, "/revalidate"), body).await;
                same("a confirmation", answer.status, if suspended { 200 } else { 409 })?;
                self.count(4 + usize::from(!suspended));
                if suspended {
                    self.grants[*grant].suspended = false;
                    self.grants[*grant].keys = keys.clone();
                }
            }
            Step::Revoke(_) | Step::Renew(..) | Step::Revalidate(..) => {}
        }
        self.states().await
    }

    /// Grants and delegations have the states that the model says.
    async fn states(&self) -> Result<(), String> {
        let now = self.now();
        for (number, grant) in self.grants.iter().enumerate() {
            let shown = self.of_user("GET", &self.path(number, ""), Value::Null).await;
            same(&format!("grant {number}"), shown.json["state"].as_str(), Some(grant.state(now)))?;
        }
        Ok(())
    }
}

#[test]
fn random_grants_requests_keys_and_times_follow_the_rules() {
    let number =
        |name: &str, usual: u32| std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(usual);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let world = runtime.block_on(World::new());
    let config = Config {
        cases: CASES * number("MODEL_CASES", 1),
        failure_persistence: None,
        max_shrink_iters: 60,
        ..Config::default()
    };
    let mut seed = [0; 32];
    seed[..4].copy_from_slice(&number("MODEL_SEED", 1).to_be_bytes());
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &seed);
    let outcomes: [Cell<u32>; 6] = Default::default();
    let case = Cell::new(0);
    let run =
        TestRunner::new_with_rng(config, rng).run(&proptest::collection::vec(step(), 10..30), |steps| {
            case.set(case.get() + 1);
            let first = world.email_svc.clone();
            let second = Agent { key: new_key(), ..first.clone() };
            let mut model = Model {
                world: &world,
                agents: [first, second],
                user: format!("user-{}", case.get()),
                grants: Vec::new(),
                came: Vec::new(),
                outcomes: &outcomes,
            };
            for step in &steps {
                runtime
                    .block_on(model.run(step))
                    .map_err(|why| TestCaseError::fail(format!("{step:?}: {why}")))?;
            }
            Ok(())
        });
    run.unwrap();
    let rare: Vec<usize> = (0..6).filter(|one| outcomes[*one].get() < 5).collect();
    assert!(rare.is_empty(), "hardly reached: {rare:?} of {outcomes:?}");
}
