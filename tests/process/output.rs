//! Output to a closed pipe or a full disk: no panic, and no process left running.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Output, Stdio};

use nix::sys::signal::Signal;

use crate::stage::{Stage, signal};

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A pipe whose reader has ended.
fn closed() -> Stdio {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    Stdio::from(writer)
}

fn full() -> Stdio {
    Stdio::from(std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap())
}

#[test]
fn a_closed_output_is_a_quiet_end_and_a_full_one_an_error() {
    let stage = Stage::new();
    stage.declare();
    // The server creates the keys.
    let mut server = stage.serve();
    signal(server.child.id(), Signal::SIGTERM);
    server.child.wait().unwrap();
    let world = stage.path("world.yaml");
    let commands: [&[&str]; 12] = [
        &["--help"],
        &["client", "list"],
        &["client", "show", "agent", "--json"],
        &["client", "disable", "agent"],
        &["delegation", "list"],
        &["delegation", "tree"],
        &["key", "list"],
        &["doctor"],
        &["audit", "verify"],
        &["audit", "tail"],
        &["audit", "export"],
        &["apply", "-f", world.to_str().unwrap()],
    ];
    for command in commands {
        let run = |stdout: Stdio| -> Output {
            stage.command().args(command).stdout(stdout).stderr(Stdio::piped()).output().unwrap()
        };
        let output = run(closed());
        let complaint = text(&output.stderr);
        assert!(
            matches!(output.status.code(), Some(0 | 141)),
            "{command:?}: {:?} {complaint}",
            output.status
        );
        assert!(!complaint.contains("panicked") && !complaint.contains("pipe"), "{command:?}: {complaint}");
        let output = run(full());
        let complaint = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{command:?}: {complaint}");
        assert!(complaint.contains("No space left"), "{command:?}: {complaint}");
        assert!(!complaint.contains("panicked"), "{command:?}: {complaint}");
        let running = stage.data_dir().join("postgres/cluster/postmaster.pid").exists();
        assert!(!running, "{command:?} left its database running");
    }
    // If standard error cannot be written either, the exit code stays the same.
    let output = stage.command().args(["client", "show", "nothing"]).stderr(full()).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
}

/// Processes whose command line or working folder is below a folder.
fn processes_below(folder: &Path) -> Vec<String> {
    let folder = folder.to_str().unwrap();
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    let about = entries.filter(|entry| entry.file_name().to_string_lossy().parse::<u32>().is_ok());
    about
        .filter_map(|entry| {
            let line = std::fs::read(entry.path().join("cmdline")).ok()?;
            let cwd = std::fs::read_link(entry.path().join("cwd")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line).replace('\0', " ");
            (line.contains(folder) || cwd.to_string_lossy().starts_with(folder)).then_some(line)
        })
        .collect()
}

#[test]
fn a_demo_whose_reader_ends_leaves_no_database_and_no_secret_behind() {
    let stage = Stage::new();
    let folder = stage.path("tmp");
    std::fs::create_dir(&folder).unwrap();
    let mut demo = stage
        .command()
        .arg("demo")
        .env("TMPDIR", &folder)
        .current_dir("/")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // Reads like `| head -n 4`.
    let read: Vec<String> =
        BufReader::new(demo.stdout.take().unwrap()).lines().take(4).map(Result::unwrap).collect();
    let output = demo.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(141), "{read:?} {}", text(&output.stderr));
    assert_eq!(text(&output.stderr), "");
    let left: Vec<_> = std::fs::read_dir(&folder).unwrap().flatten().map(|entry| entry.path()).collect();
    assert!(left.is_empty(), "{left:?}");
    assert_eq!(processes_below(&folder), Vec::<String>::new());
}
