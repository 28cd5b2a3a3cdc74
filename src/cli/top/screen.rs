//! The terminal while the screen is shown: raw mode, the alternate screen, no cursor. It is restored at the end, also after a
//! panic, whose message is then on the restored terminal.

use std::io::{BufWriter, Write};
use std::panic::{PanicHookInfo, set_hook, take_hook};
use std::sync::Arc;
use std::time::Duration;

use ratatui::Terminal;
use ratatui::backend::CrosstermBackend;
use ratatui::crossterm::cursor::Show;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};
use ratatui::crossterm::execute;
use ratatui::crossterm::terminal::{
    EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode,
};
use tokio::sync::mpsc;

use super::layout;
use super::state::State;
use super::style::Palette;
use crate::cli::stdio;
use crate::platform::fault::{Context as _, Fault};

/// How often the thread that reads keys checks whether it is still needed.
const POLL_INTERVAL: Duration = Duration::from_millis(100);
/// Size of the buffer that a whole screen is written through.
const BUFFER: usize = 64 * 1024;

type Hook = dyn Fn(&PanicHookInfo<'_>) + Sync + Send;

/// What a person did at the terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Act {
    Quit,
    /// The terminal has another size.
    Resize,
}

pub(super) struct Screen {
    terminal: Terminal<CrosstermBackend<BufWriter<stdio::Stdout>>>,
    palette: Palette,
    previous_hook: Arc<Hook>,
}

impl Screen {
    /// Takes the terminal over.
    pub(super) fn enter() -> Result<Self, Fault> {
        let previous_hook: Arc<Hook> = Arc::from(take_hook());
        let next = Arc::clone(&previous_hook);
        set_hook(Box::new(move |panic| {
            restore(&mut stdio::Stdout);
            next(panic);
        }));
        let out = BufWriter::with_capacity(BUFFER, stdio::Stdout);
        let terminal = Terminal::new(CrosstermBackend::new(out)).context("opening the terminal")?;
        // From here on, dropping the screen restores the terminal.
        let mut screen = Self { terminal, palette: Palette::of_terminal(), previous_hook };
        enable_raw_mode().context("opening the terminal")?;
        execute!(screen.terminal.backend_mut(), EnterAlternateScreen).context("opening the terminal")?;
        screen.terminal.hide_cursor().context("opening the terminal")?;
        Ok(screen)
    }

    pub(super) fn draw(&mut self, state: &State) -> Result<(), Fault> {
        let palette = self.palette;
        let drawn = self.terminal.draw(|frame| {
            let area = frame.area();
            layout::draw(state, palette, area, frame.buffer_mut());
        });
        drawn.map(drop).context("drawing on the terminal")
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        restore(self.terminal.backend_mut());
        if !std::thread::panicking() {
            drop(take_hook());
            let previous = Arc::clone(&self.previous_hook);
            set_hook(Box::new(move |panic| previous(panic)));
        }
    }
}

/// Restores the terminal. There is no other place to report an error.
fn restore(out: &mut impl Write) {
    let _ = disable_raw_mode();
    let _ = execute!(out, LeaveAlternateScreen, Show);
}

/// Reads keys and resizes in a thread of its own, which ends with the receiver.
pub(super) fn acts() -> mpsc::Receiver<Act> {
    let (sender, receiver) = mpsc::channel(8);
    std::thread::spawn(move || {
        while !sender.is_closed() {
            let act = match event::poll(POLL_INTERVAL) {
                Ok(false) => continue,
                Ok(true) => event::read().map_or(Some(Act::Quit), |event| act_of(&event)),
                // The terminal is closed.
                Err(_) => Some(Act::Quit),
            };
            let is_sent = act.is_none_or(|act| sender.blocking_send(act).is_ok());
            if !is_sent || act == Some(Act::Quit) {
                return;
            }
        }
    });
    receiver
}

fn act_of(event: &Event) -> Option<Act> {
    match event {
        Event::Resize(..) => Some(Act::Resize),
        Event::Key(key) if key.kind != KeyEventKind::Release => match key.code {
            KeyCode::Char('q' | 'Q') | KeyCode::Esc => Some(Act::Quit),
            KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => Some(Act::Quit),
            _ => None,
        },
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ratatui::crossterm::event::KeyEvent;

    #[test]
    fn keys_end_the_screen() {
        let key = |code, modifiers| act_of(&Event::Key(KeyEvent::new(code, modifiers)));
        for (code, modifiers) in [
            (KeyCode::Char('q'), KeyModifiers::NONE),
            (KeyCode::Esc, KeyModifiers::NONE),
            (KeyCode::Char('c'), KeyModifiers::CONTROL),
        ] {
            assert_eq!(key(code, modifiers), Some(Act::Quit));
        }
        assert_eq!(key(KeyCode::Char('c'), KeyModifiers::NONE), None);
        assert_eq!(act_of(&Event::Resize(1, 1)), Some(Act::Resize));
    }

    #[test]
    fn a_terminal_is_restored_by_leaving_the_alternate_screen_and_showing_the_cursor() {
        let mut written = Vec::new();
        restore(&mut written);
        assert_eq!(String::from_utf8(written).unwrap(), "\u{1b}[?1049l\u{1b}[?25h");
    }
}
