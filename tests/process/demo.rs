//! `actchain demo`: how much it prints, in which form, and what its exit code says.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use nix::pty::openpty;
use nix::sys::signal::Signal;

use crate::stage::{Stage, signal};

/// The most lines of the story: half of what it had when every answer was printed.
const MAX_LINES: usize = 130;
/// How the claims of a JWT begin that is not decoded. A random value has no dot.
const ENCODED_CLAIMS: &str = ".eyJ";

/// The demo, in a temporary folder of its own.
fn demo(stage: &Stage) -> Command {
    let folder = stage.path("tmp");
    std::fs::create_dir_all(&folder).unwrap();
    let mut command = stage.command();
    command.arg("demo").env("TMPDIR", folder).env("TERM", "xterm-256color").env_remove("NO_COLOR");
    command
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

#[test]
fn a_piped_demo_tells_a_short_story_without_escape_codes() {
    let stage = Stage::new();
    let output = demo(&stage).env("CLICOLOR_FORCE", "1").output().unwrap();
    let story = stdout(&output);
    assert!(output.status.success(), "{story}");
    assert_eq!(String::from_utf8(output.stderr).unwrap(), "");
    assert!(story.lines().count() <= MAX_LINES, "{} lines:\n{story}", story.lines().count());
    assert!(story.contains("\nAll ") && story.contains(" checks passed.\n"), "{story}");
    assert!(story.contains("actchain demo --open-console") && !story.contains("/console/enter/"), "{story}");
    assert!(!story.contains('\u{1b}'), "{story}");
    // No raw answer and no token.
    assert!(!story.contains("{\"") && !story.contains(ENCODED_CLAIMS), "{story}");
    let steps = story.lines().filter(|line| line.trim_start().starts_with(|c: char| c.is_ascii_digit()));
    let proofs = story.lines().filter(|line| line.starts_with("    ok "));
    assert_eq!(steps.count(), proofs.count(), "each step proves something:\n{story}");
}

#[test]
fn a_verbose_demo_shows_checks_commands_answers_and_decoded_tokens() {
    let stage = Stage::new();
    let output = demo(&stage).arg("--verbose").output().unwrap();
    let shown = stdout(&output);
    assert!(output.status.success(), "{shown}");
    for expected in [
        "passed the token is bound to the key of its newest actor",
        "| $ actchain apply -f ",
        "| $ actchain token verify TOKEN --audience https://mail.example.com",
        "| POST /oauth/token by followup-svc: status 400: {\"error\":\"invalid_scope\",",
        "\"access_token\":{\"header\":{",
        "\"access_token\":\"…\"",
        "/messages: 401 {\"error\":\"invalid_token\"}",
    ] {
        assert!(shown.contains(expected), "{expected} is not in\n{shown}");
    }
    // The result counts the checks.
    let checks = shown.lines().filter(|line| line.trim_start().starts_with("passed ")).count();
    assert!(shown.ends_with(&format!("All {checks} checks passed.\n")), "{shown}");
    assert!(!shown.contains(ENCODED_CLAIMS), "{shown}");
}

/// Runs the demo at a pseudo-terminal until its first step has ended, and returns what the terminal got.
fn at_a_terminal(mut command: Command) -> String {
    let terminal = openpty(None, None).unwrap();
    let mut child = command.stdout(Stdio::from(terminal.slave)).stderr(Stdio::null()).spawn().unwrap();
    // The command has a copy of the terminal's other side, without which the terminal would have no end.
    drop(command);
    let mut reader = BufReader::new(File::from(terminal.master));
    let mut shown = String::new();
    while !shown.contains("Alice's token") {
        assert_ne!(reader.read_line(&mut shown).unwrap(), 0, "{shown}");
    }
    signal(child.id(), Signal::SIGTERM);
    // On Linux, a terminal whose other side is closed ends with an error.
    let _ = reader.read_to_string(&mut String::new());
    child.wait().unwrap();
    shown
}

#[test]
fn a_terminal_gets_colours_unless_the_environment_declines_them() {
    let stage = Stage::new();
    let coloured = at_a_terminal(demo(&stage));
    assert!(coloured.contains("\u{1b}[32mok\u{1b}[0m "), "{coloured:?}");
    for (name, value) in [("NO_COLOR", "1"), ("TERM", "dumb")] {
        let mut command = demo(&stage);
        command.env(name, value);
        let plain = at_a_terminal(command);
        assert!(!plain.contains('\u{1b}'), "{name}={value}: {plain:?}");
    }
}

/// The id of the server that a demo has started below a folder.
fn server_below(folder: &Path) -> u32 {
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let ids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let is_server = |id: &u32| {
        let command = std::fs::read(format!("/proc/{id}/cmdline")).unwrap_or_default();
        let folder_of = std::fs::read_link(format!("/proc/{id}/cwd")).unwrap_or_default();
        command.ends_with(b"\0serve\0") && folder_of.starts_with(folder)
    };
    ids.into_iter().find(is_server).unwrap()
}

#[test]
fn a_failed_check_says_what_was_expected_and_what_came() {
    let stage = Stage::new();
    let mut child: Child = demo(&stage).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut reader = BufReader::new(child.stdout.take().unwrap());
    let mut story = String::new();
    // The last step uses files only, so that the end of the server fails exactly one check.
    while !story.contains("re-signed") {
        assert_ne!(reader.read_line(&mut story).unwrap(), 0, "{story}");
    }
    signal(server_below(&stage.path("tmp")), Signal::SIGKILL);
    reader.read_to_string(&mut story).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(1), "{story}");
    let failure = "    FAILED the server stops with exit code 0\n           expected Some(0)\n           found    None\n";
    assert!(story.contains(failure), "{story}");
    assert!(story.contains("\n1 of ") && story.contains(" checks FAILED.\n"), "{story}");
}

#[tokio::test]
async fn a_demo_with_the_console_prints_a_link_and_serves_until_it_is_interrupted() {
    let stage = Stage::new();
    let mut command = demo(&stage);
    // No desktop: the link is printed, and no browser is started.
    command.arg("--open-console").env_remove("DISPLAY").env_remove("WAYLAND_DISPLAY");
    let mut child: Child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut reader = BufReader::new(child.stdout.take().unwrap());
    let mut story = String::new();
    while !story.contains("Ctrl-C stops the server.\n") {
        assert_ne!(reader.read_line(&mut story).unwrap(), 0, "{story}");
    }
    let link = story.split_whitespace().find(|word| word.contains("/console/enter/")).unwrap().to_owned();
    let client = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).build().unwrap();
    assert_eq!(client.get(&link).send().await.unwrap().status(), 200, "{story}");
    let entered = client.post(&link).header("sec-fetch-site", "same-origin").send().await.unwrap();
    assert_eq!(entered.status(), 303);
    let cookie = entered.headers()["set-cookie"].to_str().unwrap().split(';').next().unwrap().to_owned();
    let (console, _) = link.split_once("/enter/").unwrap();
    let page = client.get(format!("{console}/delegations")).header("cookie", cookie).send().await.unwrap();
    assert_eq!(page.status(), 200);
    let page = page.text().await.unwrap();
    assert!(page.contains("user-proxy") && page.contains("alice"), "{page}");
    signal(child.id(), Signal::SIGINT);
    reader.read_to_string(&mut story).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0), "{story}");
    assert!(story.contains("\nAll ") && story.contains(" checks passed.\n"), "{story}");
    let left = std::fs::read_dir(stage.path("tmp")).unwrap().count();
    assert_eq!(left, 0, "the folder is removed");
}
