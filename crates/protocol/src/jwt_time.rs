//! `exp`, `nbf` and `iat` (RFC 7519 §4.1.4 to §4.1.6). All comparisons are here, and `now` is a parameter.

use serde_json::{Map, Value};
use time::{Duration, OffsetDateTime};

use super::token_problem::TokenProblem;

/// How far the clock of another party may be ahead of this server's. FAPI 2.0 Security Profile §5.3.2.1: `iat` and
/// `nbf` up to 10 seconds ahead are accepted, more than 60 are refused.
pub const SKEW: Duration = Duration::seconds(10);

/// The time claims of a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Validity {
    /// `exp` in whole seconds. The token is invalid from this instant on.
    pub expires_at: OffsetDateTime,
    /// `nbf`, with fractions of a second.
    pub not_before: Option<OffsetDateTime>,
    /// `iat` in whole seconds.
    pub issued_at: Option<OffsetDateTime>,
}

/// Reads the claims. `None` if `exp` is missing or any of them is not a NumericDate in range. Fractions of a second
/// are dropped from `exp` and `iat`, and kept in `nbf`.
pub fn validity(claims: &Map<String, Value>) -> Option<Validity> {
    let date = |name: &str| match claims.get(name) {
        None => Some(None),
        Some(value) => numeric_date(value).map(Some),
    };
    Some(Validity {
        expires_at: whole_second(date("exp")??)?,
        not_before: date("nbf")?,
        issued_at: date("iat")?.and_then(whole_second),
    })
}

/// Reads a NumericDate: a JSON number of seconds, which may have a fraction or an exponent (RFC 7519 §2).
pub fn numeric_date(value: &Value) -> Option<OffsetDateTime> {
    if let Some(seconds) = value.as_i64() {
        return OffsetDateTime::from_unix_timestamp(seconds).ok();
    }
    let seconds = value.as_f64()?;
    // No larger number is a representable date, so the casts below cannot change the value.
    if seconds.abs() > 1e12 {
        return None;
    }
    let nanoseconds = ((seconds - seconds.floor()) * 1e9) as i64;
    OffsetDateTime::from_unix_timestamp(seconds.floor() as i64)
        .ok()?
        .checked_add(Duration::nanoseconds(nanoseconds))
}

/// Reads a NumericDate as whole seconds, rounded down.
pub fn whole_seconds(value: &Value) -> Option<i64> {
    numeric_date(value).map(OffsetDateTime::unix_timestamp)
}

fn whole_second(at: OffsetDateTime) -> Option<OffsetDateTime> {
    OffsetDateTime::from_unix_timestamp(at.unix_timestamp()).ok()
}

impl Validity {
    /// Whether the token is valid: `now` is before `exp`, and neither `nbf` nor `iat` is in the future by more than
    /// [`SKEW`].
    pub fn is_valid_at(&self, now: OffsetDateTime) -> bool {
        self.check(now).is_ok()
    }

    /// As [`Validity::is_valid_at`], with the reason.
    ///
    /// # Errors
    /// [`TokenProblem::Expired`] or [`TokenProblem::NotYetValid`].
    pub fn check(&self, now: OffsetDateTime) -> Result<(), TokenProblem> {
        if now >= self.expires_at {
            return Err(TokenProblem::Expired);
        }
        if self.begins_at() > now + SKEW { Err(TokenProblem::NotYetValid) } else { Ok(()) }
    }

    /// The later of `nbf` and `iat`; the Unix epoch if both are absent.
    pub fn begins_at(&self) -> OffsetDateTime {
        let begins = [self.not_before, self.issued_at].into_iter().flatten().max();
        begins.unwrap_or(OffsetDateTime::UNIX_EPOCH)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn at(seconds: i64) -> OffsetDateTime {
        OffsetDateTime::from_unix_timestamp(seconds).unwrap()
    }

    fn read(claims: Value) -> Option<Validity> {
        validity(claims.as_object().unwrap())
    }

    #[test]
    fn the_edges_of_validity() {
        let token = read(json!({"exp": 1000, "nbf": 900, "iat": 900})).unwrap();
        assert!(!token.is_valid_at(at(889)) && token.is_valid_at(at(890)));
        assert!(token.is_valid_at(at(999)) && !token.is_valid_at(at(1000)));
    }

    #[test]
    fn dates_that_are_no_numbers_are_refused() {
        for claims in [
            json!({}),
            json!({"exp": "1000"}),
            json!({"exp": 1e300}),
            json!({"exp": i64::MAX}),
            json!({"exp": null}),
            json!({"exp": 1000, "nbf": "1"}),
            json!({"exp": 1000, "iat": [1]}),
        ] {
            assert_eq!(read(claims.clone()), None, "{claims}");
        }
        assert_eq!(read(json!({"exp": 1000.9})).unwrap().expires_at, at(1000));
        let fractions = read(json!({"exp": 2e3, "nbf": 1000.5, "iat": 999.9})).unwrap();
        assert_eq!(fractions.expires_at, at(2000));
        assert_eq!(fractions.not_before, Some(at(1000) + Duration::milliseconds(500)));
        assert_eq!(fractions.issued_at, Some(at(999)));
    }
}
