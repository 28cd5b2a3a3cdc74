//! Output of commands. In this layer `println!`, `print!` and `eprintln!` are the macros below: the standard macros
//! panic when their reader has ended (`| head`) or the disk is full, and a panic leaves a database running.

use std::error::Error as _;
use std::fmt::Arguments;
use std::io::{self, ErrorKind, IsTerminal as _, Write};
use std::process::ExitCode;
use std::sync::OnceLock;

use tokio::sync::Notify;

use crate::platform::fault::Fault;

/// The exit code of a command whose reader has closed the pipe: 128 + SIGPIPE, as for other programs.
const CUT_SHORT: u8 = 141;
/// The exit code of a command that could not do its work.
const FAILED: u8 = 2;

static BROKEN: OnceLock<(ErrorKind, String)> = OnceLock::new();
static BROKE: Notify = Notify::const_new();

macro_rules! println {
    () => { $crate::cli::stdio::print(::std::format_args!("\n")) };
    ($($text:tt)*) => { $crate::cli::stdio::print(::std::format_args!("{}\n", ::std::format_args!($($text)*))) };
}

macro_rules! print {
    ($($text:tt)*) => { $crate::cli::stdio::print(::std::format_args!($($text)*)) };
}

macro_rules! eprintln {
    ($($text:tt)*) => { $crate::cli::stdio::complain(::std::format_args!($($text)*)) };
}

/// Writes to standard output. The first error is stored for [`finish`], and wakes [`broken`].
pub(super) fn print(text: Arguments<'_>) {
    let mut out = io::stdout().lock();
    keep(out.write_fmt(text).and_then(|()| out.flush()));
}

/// Writes a line whose loss changes nothing.
pub(super) fn print_if_read(text: Arguments<'_>) {
    let _ = io::stdout().lock().write_fmt(format_args!("{text}\n"));
}

/// Writes a line to standard error. An error here is ignored: there is no other place to report it.
pub(super) fn complain(text: Arguments<'_>) {
    let _ = io::stderr().lock().write_fmt(format_args!("{text}\n"));
}

/// Whether text may be coloured: standard output is a terminal, `NO_COLOR` is not set, and `TERM` is not `dumb`.
pub(super) fn may_colour() -> bool {
    io::stdout().is_terminal() && !anstyle_query::no_color() && anstyle_query::term_supports_color()
}

/// Whether standard input and output are a terminal.
pub(super) fn has_terminal() -> bool {
    io::stdin().is_terminal() && io::stdout().is_terminal()
}

pub(super) struct Stdout;

impl Write for Stdout {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        noted(io::stdout().write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        noted(io::stdout().flush())
    }
}

fn noted<T>(written: io::Result<T>) -> io::Result<T> {
    if let Err(error) = &written
        && error.kind() != ErrorKind::Interrupted
    {
        note(error);
    }
    written
}

fn keep(written: io::Result<()>) {
    if let Err(error) = written {
        note(&error);
    }
}

fn note(error: &io::Error) {
    // Only the first error is stored.
    let _ = BROKEN.set((error.kind(), error.to_string()));
    BROKE.notify_waiters();
}

/// Waits until standard output cannot be written any more. Returns the fault for a command that is not finished.
pub(super) async fn broken() -> Fault {
    loop {
        let next = BROKE.notified();
        if let Some((kind, _)) = BROKEN.get() {
            return Fault::caused("writing standard output", io::Error::from(*kind));
        }
        next.await;
    }
}

/// Ends a command: prints what went wrong, and chooses the exit code.
pub(super) fn finish(done: Result<ExitCode, Fault>) -> ExitCode {
    let Some((kind, error)) = BROKEN.get() else {
        return done.unwrap_or_else(|fault| {
            complain(format_args!("actchain: {fault}"));
            ExitCode::from(FAILED)
        });
    };
    let because_of_it = |fault: &Fault| {
        let mut cause = fault.source();
        while let Some(error) = cause {
            if error.downcast_ref::<io::Error>().is_some_and(|io| io.kind() == *kind) {
                return true;
            }
            cause = error.source();
        }
        false
    };
    match &done {
        Err(fault) if !because_of_it(fault) => complain(format_args!("actchain: {fault}")),
        _ => {}
    }
    if *kind == ErrorKind::BrokenPipe {
        // A reader that closes early is no error. A command that ended before keeps its own result.
        return done
            .unwrap_or_else(|fault| ExitCode::from(if because_of_it(&fault) { CUT_SHORT } else { FAILED }));
    }
    let work = if done.is_ok() { "the command itself was carried out" } else { "the command was cut short" };
    complain(format_args!("actchain: standard output cannot be written ({error}); {work}"));
    ExitCode::from(FAILED)
}
