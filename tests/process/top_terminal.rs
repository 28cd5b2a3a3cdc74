//! `actchain top` in a real terminal, which is one of tmux.

use std::process::Command;

use actchain_embedded_postgres::Durability;
use nix::sys::signal::Signal;
use tokio::task::block_in_place;

use crate::external::outside;
use crate::stage::{Stage, send, signal, until};

/// Runs the program again and again until it is ended in another way each time. `$0` is the program.
const SCRIPT: &str = r#"echo before
while :; do
  "$0" --config actchain.toml top --every 1s
  echo "ended $?, $(stty -a | grep -o -- '-*icanon')"
  read -r line
done"#;

/// A terminal whose server ends with this value.
struct Terminal<'a> {
    stage: &'a Stage,
}

impl<'a> Terminal<'a> {
    fn open(stage: &'a Stage, environment: &[(&str, String)]) -> Self {
        std::fs::write(stage.path("actchain.toml"), "[limits]\nfailed_auth_per_minute = 11\n").unwrap();
        let arguments = ["-u", "-f", "/dev/null", "-L", "top", "new-session", "-d", "-x", "120", "-y", "40"];
        let mut command = stage.wrapped("tmux", &[&arguments[..], &["sh", "-c", SCRIPT]].concat());
        Self::configure(stage, &mut command);
        command.envs(environment.iter().cloned());
        let started = command.output().expect("tmux is missing: scripts/install-deps tmux");
        assert!(started.status.success(), "{}", String::from_utf8_lossy(&started.stderr));
        Self { stage }
    }

    fn configure(stage: &Stage, command: &mut Command) {
        command.env("TMUX_TMPDIR", stage.path("")).env("LC_ALL", "C.UTF-8").env_remove("TMUX");
    }

    fn tmux(&self, arguments: &[&str]) -> String {
        let mut command = Command::new("tmux");
        Self::configure(self.stage, &mut command);
        let done = command.args(["-u", "-L", "top"]).args(arguments).output().unwrap();
        assert!(done.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&done.stderr));
        String::from_utf8(done.stdout).unwrap()
    }

    fn screen(&self) -> String {
        self.tmux(&["capture-pane", "-p"])
    }

    /// Waits until the screen has a text; returns the screen.
    fn shows(&self, text: &str) -> String {
        self.is(&format!("the screen shows {text}"), |screen| screen.contains(text))
    }

    fn is(&self, what: &str, is_true: impl Fn(&str) -> bool) -> String {
        let mut screen = String::new();
        until(what, || {
            screen = self.screen();
            is_true(&screen)
        });
        screen
    }

    fn press(&self, key: &str) {
        self.tmux(&["send-keys", key]);
    }

    fn resize(&self, width: &str, height: &str) {
        self.tmux(&["resize-window", "-x", width, "-y", height]);
    }
}

impl Drop for Terminal<'_> {
    fn drop(&mut self) {
        let mut command = Command::new("tmux");
        Self::configure(self.stage, &mut command);
        let _ = command.args(["-L", "top", "kill-server"]).output();
    }
}

/// The first line of the screen.
const HEAD: &str = "actchain top  http://127.0.0.1:1  every 1s  q ends";
const TITLES: [&str; 9] = [
    "Rates  ",
    "Waiting for a decision: ",
    "Refusals by reason",
    "Newest events",
    "Findings",
    "Active chains of the last hour",
    "Ledger",
    "Log ─",
    "Settings",
];

#[tokio::test(flavor = "multi_thread")]
async fn a_terminal_shows_the_panels_reacts_and_is_restored() {
    let stage = Stage::new();
    stage.declare();
    let server = stage.serve();
    stage.declare_scope(stage.command());
    let terminal = Terminal::open(&stage, &[]);
    let screen = block_in_place(|| {
        terminal.is("all panels are there", |screen| TITLES.iter().all(|title| screen.contains(title)))
    });
    assert!(screen.starts_with(HEAD) && !screen.contains("before"), "{screen}");

    assert_eq!(send(&server.base, &stage.exchange()).await.unwrap().0, 200);
    block_in_place(|| terminal.shows("✓  oauth.token.exchanged  alice → agent"));
    block_in_place(|| terminal.shows("exchanges                     0.0       1       1        1"));
    let refused = stage.exchange().param("scope", "mail.send");
    assert_eq!(send(&server.base, &refused).await.unwrap().0, 400);
    block_in_place(|| {
        terminal.shows("✗ scope_exceeds_grant");
        terminal.shows("! AC-004 (low)");
        terminal.shows("failed_auth_per_minute = 11");
        std::fs::write(stage.path("actchain.toml"), "[limits]\nfailed_auth_per_minute = 12\n").unwrap();
        terminal.shows("failed_auth_per_minute = 12");
    });

    // What an issuer calls a user can be any text.
    let hostile = "mal\u{202e}ory\u{200b}\u{feff}日本 🚀e\u{301}\u{301}";
    let request = ["delegation", "request", "--delegate", "agent", "--delegator", hostile];
    let requested = stage.run(&[&request[..], &["--delegator-iss", "https://idp.example.com"]].concat());
    assert!(requested.status.success(), "{}", String::from_utf8_lossy(&requested.stderr));
    let screen = block_in_place(|| terminal.shows("! request  agent for mal"));
    assert!(screen.starts_with(HEAD) && screen.contains("Waiting for a decision: 1"), "{screen}");
    assert!(screen.contains("malU+202EoryU+200BU+FEFF日本"), "{screen}");

    block_in_place(|| {
        terminal.resize("60", "15");
        let small = terminal.is("the panels are below each other", |screen| {
            screen.starts_with(HEAD) && screen.lines().any(|line| line.starts_with("Newest events"))
        });
        assert!(small.contains("… 5 more") && small.lines().count() <= 15, "{small}");
        terminal.resize("20", "1");
        terminal.is("one row is left", |screen| screen.trim_end() == "actchain top  http:/");
        terminal.resize("120", "40");
        let large = terminal.shows("Settings ─");
        assert!(large.starts_with(HEAD), "{large}");
        let coloured = terminal.tmux(&["capture-pane", "-p", "-e"]);
        assert!(
            ["\u{1b}[32m✓", "\u{1b}[38;5;2m✓"].iter().any(|good| coloured.contains(good)),
            "{coloured:?}"
        );
    });

    for key in ["q", "Escape", "C-c"] {
        block_in_place(|| {
            terminal.press(key);
            let screen = terminal.shows("ended 0, icanon");
            assert!(screen.starts_with("before\n") && !screen.contains("Rates"), "{key}: {screen}");
            terminal.press("Enter");
            terminal.shows("Newest events");
        });
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_not_reachable_is_named_with_the_time_and_comes_back() {
    let stage = Stage::new();
    let (cluster, environment) = outside(&stage, Durability::On).await;
    let mut environment = environment.to_vec();
    environment.push(("NO_COLOR", "1".to_owned()));
    let terminal = Terminal::open(&stage, &environment);
    block_in_place(|| {
        terminal.shows("✓ nothing waits");
        let coloured = terminal.tmux(&["capture-pane", "-p", "-e"]);
        // 39 is the colour that a terminal has by itself.
        let mut colours = coloured.split("\u{1b}[3").skip(1);
        assert!(colours.all(|colour| colour.starts_with("9m")), "{coloured:?}");
        signal(cluster.postmaster_pid().unwrap(), Signal::SIGKILL);
        let screen = terminal.shows("✗ database not reachable since 20");
        assert!(screen.contains("! as of ") && screen.contains("✓ nothing waits"), "{screen}");
    });
    cluster.ensure_running().await.unwrap();
    block_in_place(|| {
        terminal.is("the database is read again", |screen| {
            screen.contains("✓ nothing waits")
                && !screen.contains("not reachable since")
                && !screen.contains("as of")
        });
        // The terminal is restored, too, where the process is asked to end.
        let pids = terminal.tmux(&["display-message", "-p", "#{pane_pid}"]);
        let child = Command::new("pgrep").args(["-P", pids.trim()]).output().unwrap();
        signal(String::from_utf8(child.stdout).unwrap().trim().parse().unwrap(), Signal::SIGTERM);
        let screen = terminal.shows("ended 2, icanon");
        assert!(screen.starts_with("before\nactchain: interrupted\n"), "{screen}");
    });
}
