//! `actchain top`: the state of a server on a terminal, read again at every tick. It reads the database as other commands do,
//! and changes nothing.

mod json;
mod layout;
mod panels;
mod screen;
mod state;
mod style;
mod text;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::process::ExitCode;
use std::task::Poll;
use std::time::Duration;

use clap::ArgAction::SetTrue;
use time::OffsetDateTime;
use tokio::time::Instant;

use self::screen::{Act, Screen};
use self::state::State;
use super::context::{self, CommandContext, Opening};
use super::output::{OutputFormat, print_json};
use super::stdio;
use crate::platform::clock;
use crate::platform::config::Config;
use crate::platform::fault::Fault;
use crate::platform::outbound::{AddressPolicy, Outbound};
use crate::services::request_context::RequestContext;
use crate::services::top::{MetricsReader, TopSnapshot, snapshot};

/// How long a reading may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// The shortest and the longest time between two readings.
const TICKS: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(3_600)];

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  actchain top
  actchain top --every 5s
  actchain top --once --json")]
pub(super) struct Args {
    /// The time between two readings, 1s to 1h
    #[arg(long, value_name = "DURATION", default_value = "2s", value_parser = tick)]
    every: Duration,
    /// Print one reading as text, and end
    #[arg(long, conflicts_with = "every")]
    once: bool,
    /// The metrics of the server, https or on loopback; those of the server that was started last if absent
    #[arg(long, value_name = "URL")]
    metrics: Option<String>,
    #[arg(long = "json", action = SetTrue, requires = "once")]
    format: OutputFormat,
}

fn tick(text: &str) -> Result<Duration, &'static str> {
    let [shortest, longest] = TICKS;
    let duration = clock::duration(text)?;
    let is_allowed = (shortest..=longest).contains(&duration);
    if is_allowed { Ok(duration) } else { Err("a tick is 1s to 1h") }
}

/// `reload` reads the configuration again.
pub(super) async fn run(
    opening: Opening,
    args: Args,
    reload: impl Fn() -> Result<Config, Fault>,
) -> Result<ExitCode, Fault> {
    if !args.once && !stdio::has_terminal() {
        return Err(Fault::new(
            "top draws on a terminal, and standard input or output is not one: use --once, or --once --json for programs",
        ));
    }
    context::as_operator(opening, async |ctx, context| {
        let outbound =
            Outbound::of_command(&context.config, AddressPolicy::PublicAndLoopback, context.clock.now())?;
        let mut source = Source {
            ctx,
            context,
            config: context.config.clone(),
            reload: &reload,
            metrics: MetricsReader::new(outbound, args.metrics),
            has_failed: false,
        };
        let state = State::new(ctx.issuer.to_owned(), context.place());
        if args.once {
            return once(&mut source, state, args.format).await;
        }
        live(&mut source, State { every: Some(args.every), ..state }).await
    })
    .await
}

/// Where readings come from.
struct Source<'a> {
    ctx: &'a RequestContext<'a>,
    context: &'a CommandContext,
    /// The last configuration that could be read.
    config: Config,
    reload: &'a dyn Fn() -> Result<Config, Fault>,
    metrics: MetricsReader,
    /// Whether the last reading failed.
    has_failed: bool,
}

impl Source<'_> {
    /// Reads everything; returns the instant of the reading, too.
    async fn read(&mut self) -> (OffsetDateTime, Result<TopSnapshot, Fault>) {
        if self.has_failed {
            self.repair().await;
        }
        let now = self.context.clock.now();
        let settings = (self.reload)().and_then(|mut config| {
            config.issuer = config.issuer.or_else(|| self.context.config.issuer.clone());
            self.config = config;
            self.config.settings()
        });
        let ctx = RequestContext { now, config: &self.config, ..self.ctx.clone() };
        let reading = tokio::time::timeout(PATIENCE, snapshot(&ctx, &mut self.metrics, settings)).await;
        let late = |_| Fault::new(format!("no answer within {} s", PATIENCE.as_secs()));
        let read = reading.map_err(late).and_then(|read| read);
        self.has_failed = read.is_err();
        (now, read)
    }

    /// Restarts an embedded cluster that was killed: where no server runs, this command has started it.
    async fn repair(&self) {
        if let Some(cluster) = &self.context.cluster {
            // The next reading says what is wrong.
            let _ = cluster.ensure_running().await;
        }
    }
}

async fn once(source: &mut Source<'_>, mut state: State, format: OutputFormat) -> Result<ExitCode, Fault> {
    let (at, read) = source.read().await;
    let snapshot = read?;
    let code = if snapshot.is_complete() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    match format {
        OutputFormat::Json => print_json(&json::object(&state, at, &snapshot)?)?,
        OutputFormat::Text => {
            state.apply(at, Ok(snapshot));
            print!("{}", layout::plain(&state));
        }
    }
    Ok(code)
}

/// Shows the screen until a person ends it. A panic becomes a fault, so that the database is released in order.
async fn live(source: &mut Source<'_>, state: State) -> Result<ExitCode, Fault> {
    let mut showing = pin!(show(source, state));
    std::future::poll_fn(|context| match catch_unwind(AssertUnwindSafe(|| showing.as_mut().poll(context))) {
        Ok(polled) => polled,
        Err(_) => Poll::Ready(Err(Fault::new("the screen ended by a panic; its message is above"))),
    })
    .await?;
    Ok(ExitCode::SUCCESS)
}

async fn show(source: &mut Source<'_>, mut state: State) -> Result<(), Fault> {
    let every = state.every.unwrap_or(PATIENCE);
    let mut screen = Screen::enter()?;
    let mut acts = screen::acts();
    screen.draw(&state)?;
    loop {
        let begun = Instant::now();
        {
            let mut reading = pin!(source.read());
            let (at, read) = loop {
                tokio::select! {
                    read = &mut reading => break read,
                    act = acts.recv() => match act {
                        Some(Act::Resize) => screen.draw(&state)?,
                        Some(Act::Quit) | None => return Ok(()),
                    },
                }
            };
            state.apply(at, read);
        }
        screen.draw(&state)?;
        let next = begun + every;
        loop {
            tokio::select! {
                () = tokio::time::sleep_until(next) => break,
                act = acts.recv() => match act {
                    Some(Act::Resize) => screen.draw(&state)?,
                    Some(Act::Quit) | None => return Ok(()),
                },
            }
        }
    }
}
