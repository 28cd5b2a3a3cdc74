//! `exp`, `nbf` and `iat` (RFC 7519 §4.1.4 to §4.1.6), compared in one place against a `now` that is passed in.

use serde_json::{Map, Value};
use time::{Duration, OffsetDateTime};

use crate::platform::clock;

/// How far another party's clock may be ahead of ours.
pub const SKEW: Duration = Duration::seconds(5);

/// When a token begins and ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Validity {
    /// `exp`.
    pub expires_at: OffsetDateTime,
    /// `nbf`, where there is one.
    pub not_before: Option<OffsetDateTime>,
    /// `iat`, where there is one.
    pub issued_at: Option<OffsetDateTime>,
}

/// Reads the claims. `None` if `exp` is missing or any of them is not a whole number in range. NumericDates with a
/// fraction are legal and rounded towards an earlier end and a later beginning.
pub fn validity(claims: &Map<String, Value>) -> Option<Validity> {
    Some(Validity {
        expires_at: date(claims, "exp", f64::floor)??,
        not_before: date(claims, "nbf", f64::ceil)?,
        issued_at: date(claims, "iat", f64::floor)?,
    })
}

impl Validity {
    /// Whether the token may be used: `now` is before its end, and neither its beginning nor its making lie in the
    /// future by more than [`SKEW`].
    pub fn holds_at(&self, now: OffsetDateTime) -> bool {
        now < self.expires_at && self.begins_at() <= now + SKEW
    }

    /// The later of `nbf` and `iat`; the epoch where there is neither.
    pub fn begins_at(&self) -> OffsetDateTime {
        let begins = [self.not_before, self.issued_at].into_iter().flatten().max();
        begins.unwrap_or(OffsetDateTime::UNIX_EPOCH)
    }
}

/// Outer `None`: malformed. Inner `None`: absent.
fn date(claims: &Map<String, Value>, name: &str, round: fn(f64) -> f64) -> Option<Option<OffsetDateTime>> {
    let Some(value) = claims.get(name) else { return Some(None) };
    let seconds = match value.as_i64() {
        Some(seconds) => seconds,
        None => {
            let seconds = round(value.as_f64()?);
            // Beyond this no date is representable anyway, so the cast below cannot change the value.
            if seconds.abs() > 1e12 {
                return None;
            }
            seconds as i64
        }
    };
    clock::from_seconds(seconds).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn at(seconds: i64) -> OffsetDateTime {
        clock::from_seconds(seconds).unwrap()
    }

    fn read(claims: Value) -> Option<Validity> {
        validity(claims.as_object().unwrap())
    }

    #[test]
    fn the_edges_of_validity() {
        let token = read(json!({"exp": 1000, "nbf": 900, "iat": 900})).unwrap();
        assert!(!token.holds_at(at(894)) && token.holds_at(at(895)));
        assert!(token.holds_at(at(999)) && !token.holds_at(at(1000)));
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
    }
}
