//! Sizes from the environment, and tables whose rows are medians of rounds.

use std::str::FromStr;

use crate::generator::{Run, percentile};

/// A number from the environment.
pub fn size<T: FromStr>(name: &str, default: T) -> T {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

pub fn head(title: &str) {
    println!("{title}\n");
    println!(
        "{:<36} {:>8} {:>8} {:>8} {:>7} {:>10} {:>8}",
        "", "per s", "p50 ms", "p99 ms", "failed", "server µs", "PG µs"
    );
}

pub fn row(what: &str, runs: &[Run]) {
    let median = |pick: &dyn Fn(&Run) -> f64| percentile(&runs.iter().map(pick).collect::<Vec<_>>(), 50.0);
    println!(
        "{what:<36} {:>8.0} {:>8.2} {:>8.2} {:>7} {:>10.0} {:>8.0}",
        median(&Run::per_second),
        median(&|run| run.percentile(50.0)),
        median(&|run| run.percentile(99.0)),
        runs.iter().map(|run| run.failed).sum::<usize>(),
        median(&|run| run.server_cpu),
        median(&|run| run.postgres_cpu)
    );
}
