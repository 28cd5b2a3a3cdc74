//! Sends requests that were signed beforehand, over connections that stay open.

use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Method {
    Secret,
    Assertion,
}

impl Method {
    pub fn name(self) -> &'static str {
        match self {
            Self::Secret => "secret",
            Self::Assertion => "private_key_jwt",
        }
    }
}

pub struct Run {
    pub elapsed: Duration,
    pub latencies: Vec<f64>,
    pub failed: usize,
    pub server_cpu: f64,
    pub postgres_cpu: f64,
}

impl Run {
    pub fn per_second(&self) -> f64 {
        self.latencies.len() as f64 / self.elapsed.as_secs_f64()
    }

    pub fn percentile(&self, percent: f64) -> f64 {
        percentile(&self.latencies, percent) * 1_000.0
    }
}

/// Whether a response is the expected response, by its status and body.
pub type Good = fn(u16, &[u8]) -> bool;

pub fn is_200(status: u16, _: &[u8]) -> bool {
    status == 200
}

/// How requests are sent.
#[derive(Clone, Copy)]
pub struct Load {
    pub connections: usize,
    /// How long each connection waits between a response and the next request.
    pub pause: Duration,
    pub good: Good,
}

/// Sends the requests. Returns the latency of each in seconds, and the number of unexpected responses.
pub async fn send(address: &str, requests: Vec<Vec<u8>>, load: Load) -> (Duration, Vec<f64>, usize) {
    let connections = load.connections;
    let mut shares: Vec<Vec<Vec<u8>>> = vec![Vec::new(); connections];
    for (n, request) in requests.into_iter().enumerate() {
        shares[n % connections].push(request);
    }
    let mut lines = Vec::new();
    for _ in 0..connections {
        lines.push(Line::open(address).await);
    }
    let started = Instant::now();
    let tasks: Vec<_> =
        lines.into_iter().zip(shares).map(|(line, share)| tokio::spawn(drive(line, share, load))).collect();
    let (mut latencies, mut failed) = (Vec::new(), 0);
    for task in tasks {
        let (some, bad) = task.await.unwrap();
        latencies.extend(some);
        failed += bad;
    }
    (started.elapsed(), latencies, failed)
}

async fn drive(mut line: Line, requests: Vec<Vec<u8>>, load: Load) -> (Vec<f64>, usize) {
    let (mut latencies, mut failed) = (Vec::with_capacity(requests.len()), 0);
    for request in requests {
        let started = Instant::now();
        let (status, body) = line.ask(&request).await;
        latencies.push(started.elapsed().as_secs_f64());
        failed += usize::from(!(load.good)(status, body));
        if !load.pause.is_zero() {
            tokio::time::sleep(load.pause).await;
        }
    }
    (latencies, failed)
}

/// A connection that stays open.
pub struct Line {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Line {
    pub async fn open(address: &str) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream, buffer: Vec::with_capacity(8 * 1024) }
    }

    /// Sends a request and reads the response: status and body.
    pub async fn ask(&mut self, request: &[u8]) -> (u16, &[u8]) {
        self.stream.write_all(request).await.unwrap();
        self.buffer.clear();
        let mut head = None;
        loop {
            assert!(
                self.stream.read_buf(&mut self.buffer).await.unwrap() > 0,
                "the server closed a connection"
            );
            let (status, begin, length) = match head {
                Some(head) => head,
                None => match parse_head(&self.buffer) {
                    Some(parsed) => *head.insert(parsed),
                    None => continue,
                },
            };
            if self.buffer.len() >= begin + length {
                return (status, &self.buffer[begin..begin + length]);
            }
        }
    }
}

/// Status, offset of the body, and its length; `None` while the head is incomplete.
fn parse_head(buffer: &[u8]) -> Option<(u16, usize, usize)> {
    let end = buffer.windows(4).position(|window| window == b"\r\n\r\n")?;
    let head = std::str::from_utf8(&buffer[..end]).unwrap().to_ascii_lowercase();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
    Some((status, end + 4, length.trim().parse().unwrap()))
}

/// The percentile of the values.
pub fn percentile(values: &[f64], percent: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at = ((sorted.len() - 1) as f64 * percent / 100.0).round() as usize;
    sorted[at]
}
