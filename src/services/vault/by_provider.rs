//! Work at providers: at all of them at the same time, at each for a while.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::Instant;

/// How long one run sends requests to one provider.
const TURN: Duration = Duration::from_secs(10);

/// Does the work at each provider, named by its id. What a slow provider leaves undone is done by a later run.
pub(super) async fn run<F: Future<Output = ()>>(all: impl Iterator<Item = (String, F)>) {
    let mut by_provider: BTreeMap<String, Vec<F>> = BTreeMap::new();
    for (provider, work) in all {
        by_provider.entry(provider).or_default().push(work);
    }
    let until = Instant::now() + TURN;
    let turn = |works: Vec<F>| async move {
        for work in works {
            if Instant::now() >= until {
                break;
            }
            work.await;
        }
    };
    join_all(by_provider.into_values().map(turn)).await;
}
