//! The end of a demo that stays: a link to the console over its data.

use std::future::pending;
use std::process::Stdio;

use tokio::process::Command;

use super::Story;
use crate::platform::fault::Fault;

/// The program that opens a URL in the browser of the desktop.
const OPENER: &str = if cfg!(target_os = "macos") { "open" } else { "xdg-open" };

impl Story {
    /// Prints a link of an operator, opens it where there is a desktop, and waits. Never returns by itself.
    pub(super) async fn show_console(&mut self) -> Result<(), Fault> {
        let made = self.process.run(&["console"]).await?;
        self.check_success("an operator gets a link to the console", &made);
        let link = made.stdout.lines().find(|line| line.starts_with("http://"));
        let link = link.ok_or_else(|| Fault::new("the command printed no link"))?;
        println!(
            "\nThe console over this data, as an operator. The link is good once, for five minutes:\n\n    {link}\n"
        );
        println!(
            "Begin at Delegations: the chain of the story is there. Another link, from another terminal:"
        );
        println!("    ACTCHAIN_DATA_DIR={} actchain console", self.process.folder.join("data").display());
        println!("Ctrl-C stops the server.");
        if has_desktop() {
            open(link);
        }
        pending::<Result<(), Fault>>().await
    }
}

/// Whether there is a browser to open: over SSH and in a container there is none.
fn has_desktop() -> bool {
    cfg!(target_os = "macos")
        || ["DISPLAY", "WAYLAND_DISPLAY"].iter().any(|name| std::env::var_os(name).is_some())
}

/// Opens a link. Without a browser the printed link remains.
fn open(link: &str) {
    let silent = || Stdio::null();
    let started = Command::new(OPENER).arg(link).stdin(silent()).stdout(silent()).stderr(silent()).spawn();
    drop(started);
}
