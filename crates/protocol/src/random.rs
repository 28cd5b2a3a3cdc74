//! Random bytes from the operating system, and identifiers made of them.

use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::base64url;
use crate::failure::Failure;

/// `N` bytes from the system's generator.
pub fn bytes<const N: usize>() -> Result<[u8; N], Failure> {
    let mut bytes = [0; N];
    SystemRandom::new().fill(&mut bytes).map_err(|_| Failure::new("the system's random generator failed"))?;
    Ok(bytes)
}

/// 256 random bits as base64url: needs no escaping in any format.
pub fn token() -> Result<String, Failure> {
    bytes::<32>().map(base64url::encode)
}

/// A UUID of version 7 (RFC 9562 §5.7): sorts by creation time.
pub fn id(now: OffsetDateTime) -> Result<Uuid, Failure> {
    let millis = u64::try_from(now.unix_timestamp_nanos() / 1_000_000).unwrap_or_default();
    Ok(uuid::Builder::from_unix_timestamp_millis(millis, &bytes()?).into_uuid())
}
