//! Stateless server-provided nonces (RFC 9449 §8): a keyed hash of the current period. Servers that share a master key
//! accept each other's nonces.

use subtle::ConstantTimeEq as _;
use time::OffsetDateTime;

use crate::base64url;
use crate::digest::{MacKey, prefix};

/// Makes and checks nonces.
#[derive(Debug, Clone)]
pub struct NonceKey {
    key: MacKey,
    period: i64,
}

impl NonceKey {
    /// Nonces that change every `period` seconds.
    pub fn new(key: &[u8; 32], period: u32) -> Self {
        Self { key: MacKey::new(key), period: i64::from(period.max(1)) }
    }

    /// The nonce of the current period.
    pub fn current(&self, now: OffsetDateTime) -> String {
        self.of(self.number(now))
    }

    /// Whether a nonce is that of the current period or of the previous one.
    pub fn accepts(&self, nonce: &str, now: OffsetDateTime) -> bool {
        let number = self.number(now);
        let same = |number| bool::from(self.of(number).as_bytes().ct_eq(nonce.as_bytes()));
        same(number) || same(number - 1)
    }

    fn number(&self, now: OffsetDateTime) -> i64 {
        now.unix_timestamp().div_euclid(self.period)
    }

    fn of(&self, number: i64) -> String {
        let mac = self.key.mac(&number.to_be_bytes());
        base64url::encode(prefix::<16>(&mac))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use time::Duration;

    #[test]
    fn the_current_and_the_last_nonce_are_accepted() {
        let key = NonceKey::new(&[7; 32], 300);
        let now = OffsetDateTime::UNIX_EPOCH + Duration::days(20_000);
        let nonce = key.current(now);
        assert!(key.accepts(&nonce, now) && key.accepts(&nonce, now + Duration::seconds(300)));
        assert!(!key.accepts(&nonce, now + Duration::seconds(600)));
        assert!(!key.accepts("", now) && !key.accepts("never-issued", now));
        assert!(!NonceKey::new(&[8; 32], 300).accepts(&nonce, now), "another server's key");
    }
}
