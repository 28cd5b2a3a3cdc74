//! What a server asks of the operating system: no core dumps, and descriptors for everyone.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::fs::MetadataExt as _;
use std::process::Command;

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::stage::{Server, Stage, send};

/// A line of `/proc/PID/limits`: soft and hard limit.
fn limits(server: &Server, name: &str) -> (String, String) {
    let text = std::fs::read_to_string(format!("/proc/{}/limits", server.child.id())).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    let mut values = line.split_whitespace().map(str::to_owned);
    (values.next().unwrap(), values.next().unwrap())
}

/// The program, started by a shell that has set its limits.
fn limited(stage: &Stage, limits: &str) -> Command {
    stage.wrapped("sh", &["-c", &format!("{limits} && exec \"$0\" \"$@\"")])
}

/// Connections that say one letter and then nothing.
fn idle(server: &Server, count: usize) -> Vec<TcpStream> {
    let address = server.base.strip_prefix("http://").unwrap();
    let one = |_| {
        let mut stream = TcpStream::connect(address).unwrap();
        let _ = stream.write_all(b"G");
        stream
    };
    (0..count).map(one).collect()
}

#[test]
fn a_server_leaves_no_core_dump_with_its_keys() {
    let stage = Stage::new();
    let server = stage.serve_by(limited(&stage, "ulimit -c unlimited"));
    assert_eq!(limits(&server, "Max core file size"), ("0".into(), "0".into()));
    // What may not be dumped belongs to root, whoever runs it (proc(5)). Under root, that says nothing.
    let owner = std::fs::metadata(format!("/proc/{}/environ", server.child.id())).unwrap().uid();
    assert_eq!(owner, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_idle_connections_keep_no_one_from_being_served() {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
    let stage = Stage::new();
    let server = stage.serve_by(limited(&stage, "ulimit -S -n 256"));
    let (soft, hard) = limits(&server, "Max open files");
    assert_eq!(soft, hard, "raised as far as it goes");
    stage.declare();
    let idle = idle(&server, 1_000);
    for _ in 0..20 {
        let answer = send(&server.base, &stage.exchange()).await.expect("an answer");
        assert_eq!(answer.0, 200, "{}", answer.1);
    }
    drop(idle);
}

/// What is behind the first request of a connection has no time limit of its own.
#[test]
fn connections_are_kept_for_another_request_only_while_there_is_room() {
    let stage = Stage::new();
    let server = stage.serve_by(limited(&stage, "ulimit -n 320"));
    let address = server.base.strip_prefix("http://").unwrap();
    let ask = || {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.write_all(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"{\"status\":\"ok\"}") {
            let mut some = [0; 1024];
            let read = stream.read(&mut some).unwrap();
            assert!(read > 0, "{}", String::from_utf8_lossy(&answer));
            answer.extend_from_slice(&some[..read]);
        }
        let is_kept = !String::from_utf8(answer).unwrap().contains("connection: close");
        (stream, is_kept)
    };
    let connections: Vec<_> = (0..150).map(|_| ask()).collect();
    assert!(connections.first().is_some_and(|(_, is_kept)| *is_kept));
    assert!(connections.iter().any(|(_, is_kept)| !is_kept), "room is left for others");
}

#[tokio::test(flavor = "multi_thread")]
async fn where_descriptors_are_few_they_are_not_used_up_by_connections() {
    let stage = Stage::new();
    let server = stage.serve_by(limited(&stage, "ulimit -n 320"));
    stage.declare();
    let idle = idle(&server, 400);
    // The first ones are sent away after ten seconds; until then others wait.
    for _ in 0..3 {
        let answer = send(&server.base, &stage.exchange()).await.expect("an answer");
        assert_eq!(answer.0, 200, "{}", answer.1);
    }
    drop(idle);
    let log = std::fs::read_to_string(stage.path("server.log")).unwrap();
    assert!(log.contains("\"descriptors\":320") && log.contains("\"connections\":"), "{log}");
    assert!(!log.contains("Too many open files"), "{log}");
}
