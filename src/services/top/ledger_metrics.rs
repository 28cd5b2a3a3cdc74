//! The ledger's batches and their latency. Only a server's process counts them: they are read from its `/metrics`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use serde::Serialize;
use serde_json::Value;

use crate::domain::server_info::ServerInfo;
use crate::platform::fault::{Context as _, Fault};
use crate::platform::outbound::Outbound;
use crate::platform::prometheus_text::samples;

/// What a server has counted since its start.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct LedgerMetrics {
    /// Requests that wait to be recorded.
    pub queue_depth: f64,
    pub batches: f64,
    /// Requests in all batches.
    pub entries: f64,
    pub commit_seconds: Histogram,
}

/// Durations, by upper limits in seconds.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Histogram {
    pub count: f64,
    pub sum: f64,
    /// Upper limits in ascending order, each with the number of values up to it.
    pub buckets: Vec<(f64, f64)>,
}

impl Histogram {
    /// The smallest limit that this part of the values is within; `None` without values, and above the last limit.
    pub fn limit_of(&self, part: f64) -> Option<f64> {
        let wanted = self.count * part;
        let found = self.buckets.iter().find(|(_, number)| self.count > 0.0 && *number >= wanted);
        found.map(|(limit, _)| *limit).filter(|limit| limit.is_finite())
    }

    pub fn mean(&self) -> Option<f64> {
        (self.count > 0.0).then_some(self.sum / self.count)
    }

    fn since(&self, earlier: &Self) -> Self {
        let before =
            |limit: f64| earlier.buckets.iter().find(|(own, _)| *own == limit).map_or(0.0, |(_, n)| *n);
        Self {
            count: self.count - earlier.count,
            sum: self.sum - earlier.sum,
            buckets: self.buckets.iter().map(|(limit, n)| (*limit, n - before(*limit))).collect(),
        }
    }
}

impl LedgerMetrics {
    fn parse(text: &str) -> Self {
        let mut found = Self::default();
        for sample in samples(text) {
            let commit = &mut found.commit_seconds;
            match sample.name {
                "actchain_ledger_queue_depth" => found.queue_depth = sample.value,
                "actchain_ledger_batch_size_count" => found.batches = sample.value,
                "actchain_ledger_batch_size_sum" => found.entries = sample.value,
                "actchain_ledger_commit_seconds_count" => commit.count = sample.value,
                "actchain_ledger_commit_seconds_sum" => commit.sum = sample.value,
                "actchain_ledger_commit_seconds_bucket" => {
                    let limit = sample.label("le").and_then(|limit| limit.parse().ok());
                    commit.buckets.extend(limit.map(|limit| (limit, sample.value)));
                }
                _ => {}
            }
        }
        found
    }

    /// What was counted after an earlier reading; `None` if the server was restarted in between.
    pub fn since(&self, earlier: &Self) -> Option<Self> {
        (self.batches >= earlier.batches && self.commit_seconds.count >= earlier.commit_seconds.count).then(
            || Self {
                queue_depth: self.queue_depth,
                batches: self.batches - earlier.batches,
                entries: self.entries - earlier.entries,
                commit_seconds: self.commit_seconds.since(&earlier.commit_seconds),
            },
        )
    }
}

/// The ledger of one server, or why its metrics cannot be read.
#[derive(Debug, Clone)]
pub struct LedgerState {
    /// The URL of the metrics; `None` if no server was ever started.
    pub source: Option<String>,
    pub metrics: Result<LedgerMetrics, String>,
}

/// The form of [`LedgerState`] for programs.
#[derive(Debug, Serialize)]
pub struct LedgerNumbers {
    source: Option<String>,
    /// Why nothing could be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    not_reachable: Option<String>,
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    since_start: Option<SinceStart>,
}

#[derive(Debug, Serialize)]
struct SinceStart {
    queue_depth: u64,
    batches: u64,
    entries: u64,
    commit_ms_mean: Option<f64>,
    /// Half of the batches took at most this time.
    commit_ms_p50: Option<f64>,
    commit_ms_p99: Option<f64>,
}

impl From<&LedgerState> for LedgerNumbers {
    fn from(state: &LedgerState) -> Self {
        let milliseconds = |seconds: Option<f64>| seconds.map(|seconds| seconds * 1_000.0);
        let numbers = |metrics: &LedgerMetrics| SinceStart {
            // Counts are whole numbers.
            queue_depth: metrics.queue_depth as u64,
            batches: metrics.batches as u64,
            entries: metrics.entries as u64,
            commit_ms_mean: milliseconds(metrics.commit_seconds.mean()),
            commit_ms_p50: milliseconds(metrics.commit_seconds.limit_of(0.5)),
            commit_ms_p99: milliseconds(metrics.commit_seconds.limit_of(0.99)),
        };
        Self {
            source: state.source.clone(),
            not_reachable: state.metrics.as_ref().err().cloned(),
            since_start: state.metrics.as_ref().ok().map(numbers),
        }
    }
}

/// Where metrics are read.
#[derive(Debug)]
pub struct MetricsReader {
    outbound: Outbound,
    /// The URL that the operator named; without it, that of the server that was started last.
    named: Option<String>,
    /// The server whose address has answered with its issuer.
    known: Option<ServerInfo>,
}

impl MetricsReader {
    pub fn new(outbound: Outbound, named: Option<String>) -> Self {
        Self { outbound, named, known: None }
    }

    pub(super) async fn read(&mut self, server: Option<&ServerInfo>) -> LedgerState {
        let base = server.and_then(base_url);
        let source = self.named.clone().or(base.as_ref().map(|base| format!("{base}/metrics")));
        let metrics = match (&self.named, server, &base, &source) {
            (None, Some(server), Some(base), Some(url)) => match self.require_same(server, base).await {
                Ok(()) => self.fetch(url).await,
                Err(fault) => Err(fault),
            },
            (Some(_), _, _, Some(url)) => self.fetch(url).await,
            _ => Err(Fault::new("no server was started on this database")),
        };
        LedgerState { source, metrics: metrics.map_err(|fault| fault.to_string()) }
    }

    async fn fetch(&self, url: &str) -> Result<LedgerMetrics, Fault> {
        Ok(LedgerMetrics::parse(&self.outbound.get_text(url, "text/plain").await?))
    }

    /// Refuses what answers for another issuer: the address can be one of another machine, or be in use by another server.
    async fn require_same(&mut self, server: &ServerInfo, base: &str) -> Result<(), Fault> {
        if self.known.as_ref() == Some(server) {
            return Ok(());
        }
        let url = format!("{base}/.well-known/oauth-authorization-server");
        let metadata: Value = serde_json::from_slice(&self.outbound.get_json(&url).await?).context(&url)?;
        let issuer = metadata.get("issuer").and_then(Value::as_str).unwrap_or_default();
        if issuer != server.issuer {
            return Err(Fault::new(format!(
                "{base} serves another issuer; name the right one with --metrics"
            )));
        }
        self.known = Some(server.clone());
        Ok(())
    }
}

/// The base URL of a server, seen from its own machine.
fn base_url(server: &ServerInfo) -> Option<String> {
    let address: SocketAddr = server.listen.parse().ok()?;
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    Some(format!("http://{}", SocketAddr::new(ip, address.port())))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "# TYPE actchain_ledger_batch_size histogram
actchain_ledger_batch_size_bucket{le=\"1\"} 3
actchain_ledger_batch_size_sum 7
actchain_ledger_batch_size_count 4
actchain_ledger_commit_seconds_bucket{le=\"0.001\"} 1
actchain_ledger_commit_seconds_bucket{le=\"0.0025\"} 3
actchain_ledger_commit_seconds_bucket{le=\"+Inf\"} 4
actchain_ledger_commit_seconds_sum 0.02
actchain_ledger_commit_seconds_count 4
actchain_ledger_queue_depth 2
";

    #[test]
    fn batches_and_their_latency_are_read() {
        let read = LedgerMetrics::parse(TEXT);
        assert_eq!((read.queue_depth, read.batches, read.entries), (2.0, 4.0, 7.0));
        let commit = &read.commit_seconds;
        assert_eq!(
            (commit.limit_of(0.5), commit.limit_of(0.99), commit.mean()),
            (Some(0.0025), None, Some(0.005))
        );
        let none = LedgerMetrics::parse("").commit_seconds;
        assert_eq!((none.limit_of(0.5), none.mean()), (None, None));
    }

    #[test]
    fn a_restarted_server_has_no_difference() {
        let first = LedgerMetrics::parse(TEXT);
        let none = first.since(&first).unwrap();
        assert_eq!(
            (none.batches, none.commit_seconds.count, none.commit_seconds.limit_of(0.5)),
            (0.0, 0.0, None)
        );
        assert_eq!(LedgerMetrics::default().since(&first), None);
    }

    #[test]
    fn a_server_is_reached_on_its_own_machine() {
        let at = |listen: &str| ServerInfo {
            issuer: String::new(),
            listen: listen.to_owned(),
            pid: 1,
            started_at: time::OffsetDateTime::UNIX_EPOCH,
        };
        assert_eq!(base_url(&at("0.0.0.0:80")).unwrap(), "http://127.0.0.1:80");
        assert_eq!(base_url(&at("[::]:80")).unwrap(), "http://[::1]:80");
        assert_eq!(base_url(&at("10.0.0.1:80")).unwrap(), "http://10.0.0.1:80");
        assert_eq!(base_url(&at("unix")), None);
    }
}
