//! The only module that reads the time. Other modules get `now` from the entry point of the request.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration as StdDuration, Instant};

use time::format_description::well_known::Rfc3339;
use time::{Duration, OffsetDateTime};

/// The source of `now`: the machine, or a test that sets the time.
#[derive(Debug, Clone, Default)]
pub enum Clock {
    #[default]
    System,
    /// Microseconds since the Unix epoch, moved by the test.
    Manual(Arc<AtomicI64>),
}

impl Clock {
    /// A clock that shows `start` until it is moved.
    pub fn manual(start: OffsetDateTime) -> Self {
        Self::Manual(Arc::new(AtomicI64::new(micros(start))))
    }

    /// The current time, truncated to microseconds so that PostgreSQL stores it unchanged.
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

    /// Moves a manual clock forwards or backwards; has no effect on the system clock.
    pub fn shift(&self, by: Duration) {
        if let Self::Manual(at) = self {
            let by = i64::try_from(by.whole_microseconds()).unwrap_or_default();
            at.fetch_add(by, Ordering::SeqCst);
        }
    }
}

/// Measures a duration by a clock that is never set.
#[derive(Debug, Clone, Copy)]
pub struct Stopwatch(Instant);

impl Stopwatch {
    pub fn start() -> Self {
        Self(Instant::now())
    }

    pub fn elapsed(self) -> StdDuration {
        self.0.elapsed()
    }

    /// Whole microseconds since the start.
    pub fn micros(self) -> u64 {
        u64::try_from(self.elapsed().as_micros()).unwrap_or(u64::MAX)
    }
}

pub fn micros(at: OffsetDateTime) -> i64 {
    i64::try_from(at.unix_timestamp_nanos() / 1_000).unwrap_or(i64::MAX)
}

/// Converts microseconds since the Unix epoch; the epoch itself if they are out of range.
pub fn from_micros(micros: i64) -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp_nanos(i128::from(micros) * 1_000)
        .unwrap_or(OffsetDateTime::UNIX_EPOCH)
}

/// Converts a NumericDate in whole seconds (RFC 7519 §2); `None` if it is out of range.
pub fn from_seconds(seconds: i64) -> Option<OffsetDateTime> {
    OffsetDateTime::from_unix_timestamp(seconds).ok()
}

/// Parses an instant written by a person: RFC 3339, or a date, which means its beginning in UTC.
pub fn instant(text: &str) -> Option<OffsetDateTime> {
    const DATE: &[time::format_description::BorrowedFormatItem<'static>] =
        time::macros::format_description!("[year]-[month]-[day]");
    let at = OffsetDateTime::parse(text, &Rfc3339).ok();
    let at = at.or_else(|| Some(time::Date::parse(text, DATE).ok()?.midnight().assume_utc()));
    // An instant in the first or last year may be out of range in UTC.
    at?.checked_to_offset(time::UtcOffset::UTC)
}

/// Parses seconds written by a person: a whole number, or a duration with the units w, d, h, m and s, such as `1h30m`.
///
/// # Errors
/// A text that says what is accepted.
pub fn seconds(text: &str) -> Result<u32, &'static str> {
    const ACCEPTED: &str =
        "expected a whole number of seconds, or a duration such as 30s, 15m, 1h30m, 7d or 2w";
    if let Ok(seconds) = text.parse() {
        return Ok(seconds);
    }
    // The crate accepts more units, some of them easy to mistake, such as M for months.
    let plain = text.chars().all(|c| c.is_ascii_digit() || " wdhms".contains(c));
    let duration = humantime::parse_duration(text).ok().filter(|_| plain).ok_or(ACCEPTED)?;
    match u32::try_from(duration.as_secs()) {
        Ok(seconds) if duration.subsec_nanos() == 0 => Ok(seconds),
        _ => Err(ACCEPTED),
    }
}

/// Parses a duration written by a person: as [`seconds`], or with milliseconds, as in `1500ms` or `1.5s`.
///
/// # Errors
/// A text that says what is accepted.
pub fn duration(text: &str) -> Result<std::time::Duration, &'static str> {
    const ACCEPTED: &str = "expected a whole number of seconds, or a duration such as 1500ms, 1.5s, 2s or 1m";
    let number = |digits: &str| -> Result<u64, &'static str> {
        let plain = digits.len() <= 9 && digits.bytes().all(|byte| byte.is_ascii_digit());
        digits.parse().ok().filter(|_| plain).ok_or(ACCEPTED)
    };
    let milliseconds = if let Some(digits) = text.strip_suffix("ms") {
        number(digits)?
    } else if let Some((whole, part)) = text.strip_suffix('s').and_then(|text| text.split_once('.')) {
        if part.is_empty() || part.len() > 3 {
            return Err(ACCEPTED);
        }
        number(whole)? * 1_000 + number(&format!("{part:0<3}"))?
    } else {
        u64::from(seconds(text).map_err(|_| ACCEPTED)?) * 1_000
    };
    Ok(std::time::Duration::from_millis(milliseconds))
}

/// RFC 3339 in UTC with exactly six decimals, as in events and responses.
pub fn rfc3339(at: OffsetDateTime) -> String {
    const FORMAT: &[time::format_description::BorrowedFormatItem<'static>] = time::macros::format_description!(
        "[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:6]Z"
    );
    at.to_offset(time::UtcOffset::UTC).format(FORMAT).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use time::macros::datetime;

    #[test]
    fn a_date_is_its_beginning_in_utc() {
        assert_eq!(instant("2026-11-01"), Some(datetime!(2026-11-01 00:00 UTC)));
        assert_eq!(instant("2026-11-01T02:00:00+02:00"), Some(datetime!(2026-11-01 00:00 UTC)));
        for text in [
            "",
            "2026-11",
            "2026-11-31",
            "2026-11-01T",
            "2026-W44-7",
            "01.11.2026",
            "9999-12-31T23:59:59-01:00",
        ] {
            assert_eq!(instant(text), None, "{text}");
        }
    }

    #[test]
    fn seconds_may_have_units() {
        for (text, expected) in [
            ("0", 0),
            ("90", 90),
            ("30s", 30),
            ("15m", 900),
            ("1h30m", 5_400),
            ("1h 30m", 5_400),
            ("7d", 604_800),
        ] {
            assert_eq!(seconds(text), Ok(expected), "{text}");
        }
        for text in ["", "-1", "1.5h", "1500ms", "15M", "1month", "1y", "m", "soon", "5000000000", "200000w"]
        {
            assert!(seconds(text).is_err(), "{text}");
        }
    }
}
