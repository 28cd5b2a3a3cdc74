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
        let mut sorted = self.latencies.clone();
        sorted.sort_by(f64::total_cmp);
        let at = ((sorted.len() - 1) as f64 * percent / 100.0).round() as usize;
        sorted[at] * 1_000.0
    }
}

/// Sends the requests over so many connections; gives each one's latency in seconds and how many were not 200.
pub async fn send(address: &str, requests: Vec<Vec<u8>>, connections: usize) -> (Duration, Vec<f64>, usize) {
    let mut shares: Vec<Vec<Vec<u8>>> = vec![Vec::new(); connections];
    for (n, request) in requests.into_iter().enumerate() {
        shares[n % connections].push(request);
    }
    let mut streams = Vec::new();
    for _ in 0..connections {
        let stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        streams.push(stream);
    }
    let started = Instant::now();
    let tasks: Vec<_> =
        streams.into_iter().zip(shares).map(|(stream, share)| tokio::spawn(drive(stream, share))).collect();
    let (mut latencies, mut failed) = (Vec::new(), 0);
    for task in tasks {
        let (some, bad) = task.await.unwrap();
        latencies.extend(some);
        failed += bad;
    }
    (started.elapsed(), latencies, failed)
}

async fn drive(mut stream: TcpStream, requests: Vec<Vec<u8>>) -> (Vec<f64>, usize) {
    let (mut latencies, mut failed) = (Vec::with_capacity(requests.len()), 0);
    let mut buffer = Vec::with_capacity(8 * 1024);
    for request in requests {
        let started = Instant::now();
        stream.write_all(&request).await.unwrap();
        let good = read(&mut stream, &mut buffer).await;
        latencies.push(started.elapsed().as_secs_f64());
        failed += usize::from(!good);
    }
    (latencies, failed)
}

async fn read(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> bool {
    buffer.clear();
    loop {
        assert!(stream.read_buf(buffer).await.unwrap() > 0, "the server closed a connection");
        let Some(end) = buffer.windows(4).position(|window| window == b"\r\n\r\n") else { continue };
        let head = std::str::from_utf8(&buffer[..end]).unwrap().to_ascii_lowercase();
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
        if buffer.len() >= end + 4 + length.trim().parse::<usize>().unwrap() {
            return head.starts_with("http/1.1 200");
        }
    }
}
