//! The export of the log: events per second and peak memory of the command, for a small log and a large log.

use crate::stage::Stage;

const SIZES: [u64; 2] = [20_000, 200_000];

pub async fn bench() {
    println!("\n{:<26} {:>9} {:>9} {:>8} {:>10} {:>12}", "export", "lines", "MB", "s", "lines/s", "peak MB");
    for events in SIZES {
        let stage = Stage::set().await;
        stage.fill_log(events).await;
        // The server updates the index twice a second.
        stage.covered().await;
        for (name, words) in [
            ("jsonl, whole", &["--format", "jsonl"] as &[&str]),
            ("jsonl, a proof for each", &["--filter", "action=client.enabled"]),
            ("csv", &["--format", "csv"]),
            ("sarif", &["--format", "sarif"]),
        ] {
            let taken = stage.export(words).await;
            println!(
                "{:<26} {:>9} {:>9.1} {:>8.2} {:>10.0} {:>12.1}",
                format!("{name}, {events}"),
                taken.lines,
                taken.bytes / 1e6,
                taken.seconds,
                f64::from(u32::try_from(events).unwrap()) / taken.seconds,
                taken.peak / 1e3
            );
        }
        stage.strike().await;
    }
}
