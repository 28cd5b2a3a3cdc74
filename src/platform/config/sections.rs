//! The sections of the configuration, with their defaults. Durations are seconds, and may be written with units.

use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use time::{OffsetDateTime, UtcOffset};
use url::Url;

use super::networks::Networks;
use crate::platform::clock;
use crate::platform::fault::Fault;
use actchain_protocol::jose::SigningAlg;

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HttpConfig {
    /// Origins of browser applications whose scripts may call the server, such as `https://app.example.com`.
    pub cors_origins: Vec<String>,
    /// Networks of the proxies whose header fields about the client are believed.
    pub trusted_proxies: Networks,
}

impl HttpConfig {
    /// Checks that each origin is written as browsers send it in the `Origin` header (RFC 6454 §6.2), and that not every
    /// client is a trusted proxy.
    pub(super) fn check(&self) -> Result<(), Fault> {
        if self.trusted_proxies.iter().any(|network| network.prefix_len() == 0) {
            return Err(Fault::new(
                "http.trusted_proxies: a network of all addresses would let every client choose the address that is \
                 recorded: write the networks of the proxies alone, as in 10.0.0.0/8",
            ));
        }
        let is_origin = |text: &String| {
            let read = Url::parse(text).ok().map(|url| url.origin().ascii_serialization());
            let schemed = ["https://", "http://"].iter().any(|scheme| text.starts_with(scheme));
            // A host may contain an asterisk, but here it would match only itself, not other hosts.
            schemed && !text.contains('*') && read.as_ref() == Some(text)
        };
        match self.cors_origins.iter().position(|text| !is_origin(text)) {
            None => Ok(()),
            Some(place) => Err(Fault::new(format!(
                "http.cors_origins: number {} is not an origin: write scheme, host and port alone, in lower case and \
                 without a default port, as in https://app.example.com",
                place + 1
            ))),
        }
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TokenConfig {
    /// Longest lifetime of any issued token.
    #[serde(deserialize_with = "seconds")]
    pub max_ttl: u32,
    /// Largest number of actors in a token.
    pub max_depth: u32,
}

/// Proof of possession (RFC 9449).
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DpopConfig {
    /// Whether proofs must contain a nonce provided by this server (RFC 9449 §8).
    pub nonce: bool,
    /// Maximum age of a proof.
    #[serde(deserialize_with = "seconds")]
    pub proof_max_age: u32,
    /// How far a client's clock may be ahead of this server's.
    #[serde(deserialize_with = "seconds")]
    pub skew: u32,
    /// Lifetime of a nonce; the previous nonce is accepted too.
    #[serde(deserialize_with = "seconds")]
    pub nonce_ttl: u32,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct KeyConfig {
    /// Algorithm of the next token signing key.
    pub algorithm: SigningAlg,
    /// How long a key signs.
    #[serde(deserialize_with = "seconds")]
    pub rotate_every: u32,
    /// How long a key is published before it signs, so that relying parties have fetched it by then.
    #[serde(deserialize_with = "seconds")]
    pub prepublish: u32,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DelegationConfig {
    /// Lifetime of a delegation whose request does not specify one.
    #[serde(deserialize_with = "seconds")]
    pub default_ttl: u32,
    /// Longest lifetime of a delegation.
    #[serde(deserialize_with = "seconds")]
    pub max_ttl: u32,
    /// How long a delegation request waits for approval by its delegator.
    #[serde(deserialize_with = "seconds")]
    pub request_ttl: u32,
    /// How long a ceremony (the delegator's confirmation of one use) waits for the delegator, and then for its use.
    #[serde(deserialize_with = "seconds")]
    pub ceremony_ttl: u32,
    /// Most pending delegation requests for one delegator.
    pub max_pending_requests: u32,
    /// Most pending delegation requests for one delegator from one client.
    pub max_pending_requests_per_client: u32,
    /// Most pending confirmations for one delegation.
    pub max_pending_confirmations: u32,
    /// Most pending confirmations for one delegation from one client.
    pub max_pending_confirmations_per_client: u32,
    /// Names of capabilities, lowest first; each includes all earlier ones.
    pub capabilities: Vec<String>,
    /// Whether administrators approve, deny and renew delegations and confirm uses in the name of users.
    pub admins_decide: bool,
    /// Where users decide what gives authority.
    pub decide_in: DecisionPlace,
}

/// Where users create, approve and renew delegations, and confirm uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DecisionPlace {
    /// In the console, and at the management API with their tokens.
    Anywhere,
    /// In the console alone.
    Console,
}

/// Ephemeral agents, each made for one delegation.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AgentConfig {
    /// Longest lifetime of an ephemeral agent.
    #[serde(deserialize_with = "seconds")]
    pub max_ttl: u32,
    /// Most active ephemeral agents for one task.
    pub max_per_task: u32,
}

/// Status lists (draft-ietf-oauth-status-list).
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StatusConfig {
    /// How long relying parties may cache a list.
    #[serde(deserialize_with = "seconds")]
    pub ttl: u32,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct VaultConfig {
    /// How long before its expiry a provider's access token is renewed.
    #[serde(deserialize_with = "seconds")]
    pub refresh_leeway: u32,
    /// How long an owner may take to authorize a connection at a provider.
    #[serde(deserialize_with = "seconds")]
    pub connect_ttl: u32,
    /// Largest request body that the proxy forwards, in bytes.
    pub proxy_max_request_bytes: u64,
    /// Largest response body that the proxy returns, in bytes.
    pub proxy_max_response_bytes: u64,
    /// Longest duration of a proxied call, from the first byte to the last.
    #[serde(deserialize_with = "seconds")]
    pub proxy_timeout: u32,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AuditConfig {
    /// The period that one partition of the log covers; archiving drops whole partitions.
    pub partition: RotationInterval,
    /// How often a stream of the log sends a heartbeat if there are no new events.
    #[serde(deserialize_with = "seconds")]
    pub heartbeat: u32,
    /// How long a reader of a stream may take to receive what was sent.
    #[serde(deserialize_with = "seconds")]
    pub stream_write_timeout: u32,
    /// Most concurrent streams of one reader.
    pub max_streams: u32,
    /// Whether responses with a token contain the token's position in the log (`Actchain-Receipt`).
    pub receipts: bool,
    /// Witnesses whose cosignatures are accepted, each as `name+id+key`, or `name+id+key URL` if the log requests them.
    pub witnesses: Vec<String>,
    /// How many witnesses must have cosigned a checkpoint; more than half of them if not set.
    pub witness_quorum: Option<u32>,
    /// How many failed attempts to send an event to a sink are made before the event is put aside.
    pub sink_attempts: u32,
    /// How often every event of the log is verified in the background; 0 for never.
    #[serde(deserialize_with = "seconds")]
    pub verify_every: u32,
}

/// A span of the calendar, in UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RotationInterval {
    Day,
    /// A week that begins on Monday.
    Week,
    Month,
}

impl RotationInterval {
    /// Whether the span that contains `began` has ended at `now`. A clock that was set back ends no span.
    pub fn is_over(self, began: OffsetDateTime, now: OffsetDateTime) -> bool {
        let number = |at: OffsetDateTime| {
            let date = at.to_offset(UtcOffset::UTC).date();
            match self {
                Self::Day => date.to_julian_day(),
                Self::Week => date.to_julian_day().div_euclid(7),
                Self::Month => date.year() * 12 + i32::from(u8::from(date.month())),
            }
        };
        number(now) > number(began)
    }
}

/// Limits on requests, for unauthenticated and authenticated clients.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LimitConfig {
    /// Requests per second for each authenticated client; 0 is off.
    pub requests_per_second_per_client: u32,
    /// Attempts with a secret per minute, for a client id from one address. After that, only cached secrets are
    /// accepted there. Also the number of failed authentications of a client that are recorded per minute.
    pub failed_auth_per_minute: u32,
    /// Largest request body, in bytes.
    pub max_body_bytes: usize,
    /// Most `audience` and `resource` values together.
    pub max_targets: usize,
}

/// Group commit of the ledger.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LedgerConfig {
    /// Most entries in one transaction.
    pub batch: usize,
    /// Most waiting entries; further requests are refused at once.
    pub queue: usize,
    /// Time after which a request stops waiting for the database.
    #[serde(deserialize_with = "duration", serialize_with = "milliseconds")]
    pub timeout: Duration,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LogConfig {
    pub format: LogFormat,
    /// A `tracing` filter, such as `info` or `actchain=debug,info`.
    pub filter: String,
}

/// Format of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// One JSON object per line.
    Json,
    Text,
}

/// Reads seconds: a number, or a text with units.
pub(super) fn seconds<'de, D: Deserializer<'de>>(from: D) -> Result<u32, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum NumberOrText {
        Number(u32),
        Text(String),
    }
    match NumberOrText::deserialize(from)? {
        NumberOrText::Number(seconds) => Ok(seconds),
        NumberOrText::Text(text) => clock::seconds(&text).map_err(serde::de::Error::custom),
    }
}

/// Reads a duration: seconds as a number, or a text with units, which include milliseconds.
fn duration<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum NumberOrText {
        Number(u32),
        Text(String),
    }
    match NumberOrText::deserialize(from)? {
        NumberOrText::Number(seconds) => Ok(Duration::from_secs(seconds.into())),
        NumberOrText::Text(text) => clock::duration(&text).map_err(serde::de::Error::custom),
    }
}

fn milliseconds<S: Serializer>(value: &Duration, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_u128(value.as_millis())
}

impl Default for TokenConfig {
    fn default() -> Self {
        Self { max_ttl: 900, max_depth: 5 }
    }
}

impl Default for DpopConfig {
    fn default() -> Self {
        Self { nonce: false, proof_max_age: 60, skew: 10, nonce_ttl: 300 }
    }
}

impl Default for KeyConfig {
    fn default() -> Self {
        Self { algorithm: SigningAlg::default(), rotate_every: 30 * 86_400, prepublish: 3_600 }
    }
}

impl Default for DelegationConfig {
    fn default() -> Self {
        Self {
            default_ttl: 3_600,
            max_ttl: 365 * 86_400,
            request_ttl: 3_600,
            ceremony_ttl: 300,
            admins_decide: true,
            decide_in: DecisionPlace::Anywhere,
            max_pending_requests: 100,
            max_pending_requests_per_client: 20,
            max_pending_confirmations: 100,
            max_pending_confirmations_per_client: 10,
            capabilities: ["observe", "mutate", "execute", "admin"].map(str::to_owned).to_vec(),
        }
    }
}

impl Default for AgentConfig {
    fn default() -> Self {
        Self { max_ttl: 3_600, max_per_task: 100 }
    }
}

impl Default for StatusConfig {
    fn default() -> Self {
        Self { ttl: 30 }
    }
}

impl Default for VaultConfig {
    fn default() -> Self {
        Self {
            refresh_leeway: 60,
            connect_ttl: 600,
            proxy_max_request_bytes: 10 * 1024 * 1024,
            proxy_max_response_bytes: 100 * 1024 * 1024,
            proxy_timeout: 60,
        }
    }
}

impl Default for AuditConfig {
    fn default() -> Self {
        Self {
            partition: RotationInterval::Month,
            heartbeat: 15,
            stream_write_timeout: 30,
            max_streams: 8,
            receipts: true,
            witnesses: Vec::new(),
            witness_quorum: None,
            sink_attempts: 12,
            verify_every: 12 * 3600,
        }
    }
}

impl Default for LimitConfig {
    fn default() -> Self {
        Self {
            requests_per_second_per_client: 0,
            failed_auth_per_minute: 10,
            max_body_bytes: 64 * 1024,
            max_targets: 16,
        }
    }
}

impl Default for LedgerConfig {
    fn default() -> Self {
        Self { batch: 128, queue: 1_024, timeout: Duration::from_millis(1_500) }
    }
}

impl Default for LogConfig {
    fn default() -> Self {
        Self { format: LogFormat::Json, filter: "info".into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use time::macros::datetime;

    #[test]
    fn a_span_is_over_when_the_calendar_says_so() {
        let sunday = datetime!(2026-02-01 23:59:59 UTC);
        let monday = datetime!(2026-02-02 00:00 UTC);
        assert!(
            RotationInterval::Day.is_over(sunday, monday) && RotationInterval::Week.is_over(sunday, monday)
        );
        assert!(
            !RotationInterval::Month.is_over(sunday, monday)
                && !RotationInterval::Week.is_over(monday, datetime!(2026-02-08 23:00 UTC))
        );
        assert!(RotationInterval::Month.is_over(sunday, datetime!(2026-03-01 00:00 UTC)));
        assert!(!RotationInterval::Day.is_over(monday, sunday), "a clock that went back");
    }
}
