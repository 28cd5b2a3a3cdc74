//! The one place that reads the time. Everything else is given `now` by the door it came in through.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use time::{Duration, OffsetDateTime};

/// Where `now` comes from: the machine, or a test that moves it by hand.
#[derive(Debug, Clone, Default)]
pub enum Clock {
    /// The machine's clock.
    #[default]
    System,
    /// Microseconds since the epoch, moved by whoever holds it.
    Manual(Arc<AtomicI64>),
}

impl Clock {
    /// A clock that stands at `start` until it is moved.
    pub fn manual(start: OffsetDateTime) -> Self {
        Self::Manual(Arc::new(AtomicI64::new(micros(start))))
    }

    /// The present, cut to microseconds so that it survives a trip through PostgreSQL unchanged.
    pub fn now(&self) -> OffsetDateTime {
        match self {
            Self::System => {
                #[expect(clippy::disallowed_methods, reason = "this is the one place")]
                let now = OffsetDateTime::now_utc();
                from_micros(micros(now))
            }
            Self::Manual(at) => from_micros(at.load(Ordering::SeqCst)),
        }
    }

    /// Moves a manual clock (forwards or backwards); the machine's clock stays as it is.
    pub fn shift(&self, by: Duration) {
        if let Self::Manual(at) = self {
            let by = i64::try_from(by.whole_microseconds()).unwrap_or_default();
            at.fetch_add(by, Ordering::SeqCst);
        }
    }
}

/// Microseconds since the Unix epoch.
pub fn micros(at: OffsetDateTime) -> i64 {
    i64::try_from(at.unix_timestamp_nanos() / 1_000).unwrap_or(i64::MAX)
}

/// The instant so many microseconds after the Unix epoch; the epoch itself where that is out of range.
pub fn from_micros(micros: i64) -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp_nanos(i128::from(micros) * 1_000)
        .unwrap_or(OffsetDateTime::UNIX_EPOCH)
}

/// The instant named by a NumericDate in whole seconds (RFC 7519 §2), where it is representable.
pub fn from_seconds(seconds: i64) -> Option<OffsetDateTime> {
    OffsetDateTime::from_unix_timestamp(seconds).ok()
}

/// RFC 3339 in UTC with exactly six decimals, as events and answers show it.
pub fn rfc3339(at: OffsetDateTime) -> String {
    const FORMAT: &[time::format_description::BorrowedFormatItem<'static>] = time::macros::format_description!(
        "[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:6]Z"
    );
    at.to_offset(time::UtcOffset::UTC).format(FORMAT).unwrap_or_default()
}
