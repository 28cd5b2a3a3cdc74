//! Logs and metrics of this process.

use std::sync::OnceLock;

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::util::SubscriberInitExt as _;

use super::config::{LogConfig, LogFormat};
use super::fault::{Context, Fault};

/// Bucket limits in seconds, from a tenth of a millisecond to ten seconds.
const TIME_BUCKETS: [f64; 12] =
    [0.0001, 0.000_25, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.5, 2.0, 10.0];
const SIZE_BUCKETS: [f64; 8] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0];

/// Starts writing logs to standard error. A second call in one process has no effect.
pub fn start_logs(log: &LogConfig) -> Result<(), Fault> {
    let filter = EnvFilter::try_new(&log.filter).context("log.filter")?;
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_target(false)
        .with_ansi(false)
        .log_internal_errors(false);
    let started = match log.format {
        LogFormat::Json => {
            lines.json().flatten_event(true).with_span_list(false).with_current_span(true).finish().try_init()
        }
        LogFormat::Text => lines.compact().finish().try_init(),
    };
    // Tests run several servers in one process; the first server's settings apply.
    drop(started);
    Ok(())
}

/// The metrics of this process, collected from the first call on.
pub fn metrics() -> Result<PrometheusHandle, Fault> {
    static HANDLE: OnceLock<PrometheusHandle> = OnceLock::new();
    if let Some(handle) = HANDLE.get() {
        return Ok(handle.clone());
    }
    let recorder = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".into()), &TIME_BUCKETS)
        .and_then(|builder| builder.set_buckets_for_metric(Matcher::Suffix("_size".into()), &SIZE_BUCKETS))
        .context("metrics")?
        .build_recorder();
    let handle = HANDLE.get_or_init(|| recorder.handle()).clone();
    // Fails only if another thread was faster; then that thread's recorder is used.
    drop(metrics::set_global_recorder(recorder));
    Ok(handle)
}
