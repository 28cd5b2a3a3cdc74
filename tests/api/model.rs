//! Random trees of delegations and random moves, played on the real server and in a small model of the delegation
//! rules. They must agree on every state, every exchange and every refusal. `MODEL_CASES` multiplies the number of
//! stories; `MODEL_SEED` selects other stories.
mod moves;
mod play;
mod rules;
mod stage;

use std::cell::RefCell;

use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestError, TestRng, TestRunner};

use stage::{Stage, Theatre};

const STORIES: u32 = 12;
const ROUNDS: u32 = 4;
const MOVES: usize = 100;

/// A number from the environment, or the default.
fn number(name: &str, usual: u32) -> u32 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(usual)
}

#[test]
fn the_server_and_a_model_of_the_rules_agree_on_every_state_and_every_exchange() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let theatre = RefCell::new(runtime.block_on(Theatre::new()));
    let config = Config {
        cases: STORIES * number("MODEL_CASES", 1),
        failure_persistence: None,
        max_shrink_iters: 300,
        max_shrink_time: 120_000,
        ..Config::default()
    };
    // More stories, if a kind of move was not both accepted and refused so far.
    for more in 0..ROUNDS {
        let mut seed = [0; 32];
        seed[..4].copy_from_slice(&(number("MODEL_SEED", 1) + more * 1_000_000).to_be_bytes());
        play_all(&runtime, &theatre, (config.clone(), seed));
        if one_sided(&theatre.borrow()).is_empty() {
            break;
        }
    }
    let tally = &theatre.borrow().tally;
    println!("{tally:#?}");
    let one_sided = one_sided(&theatre.borrow());
    assert!(one_sided.is_empty() && tally.0.len() == 17, "not tried both ways: {one_sided:?}");
}

fn play_all(
    runtime: &tokio::runtime::Runtime,
    theatre: &RefCell<Theatre>,
    (config, seed): (Config, [u8; 32]),
) {
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &seed);
    let played = TestRunner::new_with_rng(config, rng).run(&moves::Stories(MOVES), |story| {
        let mut theatre = theatre.borrow_mut();
        let agreed = runtime.block_on(async {
            let mut stage = Stage::new(&mut theatre).await;
            play::play(&mut stage, &story).await
        });
        agreed.map_err(TestCaseError::fail)
    });
    if let Err(TestError::Fail(reason, story)) = &played {
        let story: Vec<String> = story.iter().map(|made| format!("  {made:?}")).collect();
        panic!("{reason}\nThe story:\n{}", story.join("\n"));
    }
    played.unwrap();
}

fn one_sided(theatre: &Theatre) -> Vec<String> {
    let tally = &theatre.tally;
    let kinds = tally.0.keys().filter(|kind| tally.accepted(kind) == 0 || tally.refused(kind) == 0);
    kinds.map(ToString::to_string).collect()
}
