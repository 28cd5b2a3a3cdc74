//! Resource limits of the operating system: no core dumps, and enough file descriptors.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::stage::{Server, Stage, send, until};

/// Soft and hard limit from a line of `/proc/PID/limits`.
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

/// Connections that send one letter and then nothing.
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
}

/// A program under an account other than root: the current account, or UID 65534 if the current account is root.
#[cfg(target_os = "linux")]
fn unprivileged(program: &Path) -> Command {
    const OTHER_ACCOUNT: u32 = 65_534;
    let mut command = Command::new(program);
    if nix::unistd::Uid::effective().is_root() {
        command.uid(OTHER_ACCOUNT).gid(OTHER_ACCOUNT);
    }
    command.current_dir("/").stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    command
}

// proc(5): the files of a process that may not be dumped belong to root.
#[cfg(target_os = "linux")]
#[test]
fn no_other_process_of_the_account_reads_the_memory_of_the_program() {
    let stage = Stage::new();
    // The other account may not be able to read the build folder.
    let program = stage.path("actchain");
    std::fs::copy(env!("CARGO_BIN_EXE_actchain"), &program).unwrap();
    let mut other = unprivileged(Path::new("/bin/cat")).spawn().unwrap();
    let mut ours = unprivileged(&program).args(["token", "inspect", "-"]).spawn().unwrap();
    let reads = |pid: u32, file: &str| {
        let path = format!("/proc/{pid}/{file}");
        unprivileged(Path::new("/bin/head")).args(["-c", "1", &path]).output().unwrap().status.success()
    };
    // Both processes wait for standard input; the program forbids dumps before it reads any input.
    until("the program forbids it", || !reads(ours.id(), "environ"));
    for file in ["environ", "maps", "auxv"] {
        assert!(reads(other.id(), file), "an ordinary process is readable: {file}");
        assert!(!reads(ours.id(), file), "{file}");
    }
    for child in [&mut other, &mut ours] {
        assert!(child.try_wait().unwrap().is_none(), "it still waits");
        drop(child.stdin.take());
        child.wait().unwrap();
    }
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

/// After the first request of a connection, the head of the next request has no time limit of its own.
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
    // The first connections are closed after ten seconds; until then other requests wait.
    for _ in 0..3 {
        let answer = send(&server.base, &stage.exchange()).await.expect("an answer");
        assert_eq!(answer.0, 200, "{}", answer.1);
    }
    drop(idle);
    let log = std::fs::read_to_string(stage.path("server.log")).unwrap();
    assert!(log.contains("\"descriptors\":320") && log.contains("\"connections\":"), "{log}");
    assert!(!log.contains("Too many open files"), "{log}");
}
