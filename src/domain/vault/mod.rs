//! Connections: one principal's credential at one provider.

pub mod held;
pub mod list;
pub mod resealing;
pub mod store;
pub mod target;

use std::collections::BTreeSet;

use secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, Serialize, Serializer};
use time::{Duration, OffsetDateTime};
use zeroize::Zeroizing;

use super::data_key::Sealed;
use super::principal::Principal;
use super::provider::Kind;
use crate::platform::fault::{During, Fault};

/// Where a connection stands; derived from its facts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Its credential can be had.
    Active,
    /// The provider honours its credential no more: its owner has to connect again.
    NeedsReconnect,
    /// Its owner, or an administrator, has ended it.
    Disconnected,
}

impl State {
    /// The name, as on the wire.
    pub fn name(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::NeedsReconnect => "needs_reconnect",
            Self::Disconnected => "disconnected",
        }
    }
}

/// A connection.
#[derive(Debug, Clone, PartialEq)]
pub struct Connection {
    /// Its id.
    pub id: String,
    /// Where it leads.
    pub provider: String,
    /// Whose it is.
    pub owner: Principal,
    /// For people.
    pub name: Option<String>,
    /// Grows with every change.
    pub version: i64,
    /// The credential; gone once it is disconnected and the provider knows.
    pub sealed: Option<Sealed>,
    /// What the provider said that it allows.
    pub scopes: Option<BTreeSet<String>>,
    /// When its access token ends, where that is known.
    pub expires_at: Option<OffsetDateTime>,
    /// Whether there is a refresh token.
    pub refreshable: bool,
    /// When it was made.
    pub created_at: OffsetDateTime,
    /// When it was changed last.
    pub updated_at: OffsetDateTime,
    /// When its access token was renewed last.
    pub refreshed_at: Option<OffsetDateTime>,
    /// Since when the provider honours it no more.
    pub broken_at: Option<OffsetDateTime>,
    /// When it was ended.
    pub disconnected_at: Option<OffsetDateTime>,
}

impl Connection {
    /// What its credential is sealed for: whoever writes to the database alone can neither swap two credentials nor give
    /// one to another owner or provider.
    pub fn row(&self) -> String {
        format!("connection/{}/{}/{} {}", self.id, self.provider, self.owner.iss, self.owner.sub)
    }

    /// Where it stands.
    pub fn state(&self) -> State {
        match (self.disconnected_at, self.broken_at) {
            (Some(_), _) => State::Disconnected,
            (None, Some(_)) => State::NeedsReconnect,
            (None, None) => State::Active,
        }
    }

    /// Whether its access token has ended, or will within the leeway.
    pub fn is_due(&self, now: OffsetDateTime, leeway: Duration) -> bool {
        self.expires_at.is_some_and(|at| at - leeway <= now)
    }

    /// Seconds for which its access token is good still, where that is known.
    pub fn expires_in(&self, now: OffsetDateTime) -> Option<i64> {
        self.expires_at.map(|at| (at - now).whole_seconds().max(0))
    }
}

/// What a provider honours.
#[derive(Debug, Clone)]
pub enum Credential {
    /// Tokens (RFC 6749 §5.1).
    Oauth2(Tokens),
    /// One secret.
    ApiKey {
        /// It.
        key: SecretString,
    },
    /// A name and a password.
    Basic {
        /// The name.
        username: String,
        /// The password.
        password: SecretString,
    },
}

/// The tokens of one authorization.
#[derive(Debug, Clone)]
pub struct Tokens {
    /// For the provider's interface.
    pub access_token: SecretString,
    /// How it is presented there.
    pub token_type: String,
    /// For another access token; never leaves this server but to the provider.
    pub refresh_token: Option<SecretString>,
}

/// As it is written before it is sealed.
#[derive(Serialize)]
#[serde(rename_all = "snake_case")]
enum Written<'a> {
    Oauth2 { access_token: Exposed<'a>, token_type: &'a str, refresh_token: Option<Exposed<'a>> },
    ApiKey { key: Exposed<'a> },
    Basic { username: &'a str, password: Exposed<'a> },
}

struct Exposed<'a>(&'a SecretString);

impl Serialize for Exposed<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.0.expose_secret())
    }
}

/// As it is read, and as it is imported.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Read {
    Oauth2 { access_token: SecretString, token_type: String, refresh_token: Option<SecretString> },
    ApiKey { key: SecretString },
    Basic { username: String, password: SecretString },
}

impl Credential {
    /// What it is.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Oauth2(_) => Kind::Oauth2,
            Self::ApiKey { .. } => Kind::ApiKey,
            Self::Basic { .. } => Kind::Basic,
        }
    }

    /// Writes it, into memory that is cleared afterwards.
    pub fn to_bytes(&self) -> Result<Zeroizing<Vec<u8>>, Fault> {
        let written = match self {
            Self::Oauth2(tokens) => Written::Oauth2 {
                access_token: Exposed(&tokens.access_token),
                token_type: &tokens.token_type,
                refresh_token: tokens.refresh_token.as_ref().map(Exposed),
            },
            Self::ApiKey { key } => Written::ApiKey { key: Exposed(key) },
            Self::Basic { username, password } => Written::Basic { username, password: Exposed(password) },
        };
        // Large enough from the beginning: a buffer that grows leaves copies behind.
        let mut bytes = Zeroizing::new(Vec::with_capacity(2 * MOST_CREDENTIAL));
        serde_json::to_writer(&mut *bytes, &written).during("writing a credential")?;
        Ok(bytes)
    }

    /// Reads what was written.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, Fault> {
        let read: Read =
            serde_json::from_slice(bytes).map_err(|_| Fault::new("a credential is malformed"))?;
        Ok(match read {
            Read::Oauth2 { access_token, token_type, refresh_token } => {
                Self::Oauth2(Tokens { access_token, token_type, refresh_token })
            }
            Read::ApiKey { key } => Self::ApiKey { key },
            Read::Basic { username, password } => Self::Basic { username, password },
        })
    }
}

/// When an access token ends, as its provider said. Where it said nothing and there is a refresh token, it is taken to last
/// an hour: else nobody would ever ask.
pub fn ends_at(now: OffsetDateTime, expires_in: Option<u32>, refreshable: bool) -> Option<OffsetDateTime> {
    const UNTOLD: u32 = 3_600;
    let life = expires_in.or(refreshable.then_some(UNTOLD));
    life.map(|seconds| now + Duration::seconds(seconds.min(i32::MAX as u32).into()))
}

/// The longest credential that is kept, in bytes.
pub const MOST_CREDENTIAL: usize = 32 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_credential_survives_writing_and_reading_and_does_not_print() {
        let credential = Credential::Oauth2(Tokens {
            access_token: SecretString::from("at-\"1"),
            token_type: "Bearer".into(),
            refresh_token: Some(SecretString::from("rt-1")),
        });
        assert!(!format!("{credential:?}").contains("t-1"));
        let written = credential.to_bytes().unwrap();
        let Credential::Oauth2(read) = Credential::from_bytes(&written).unwrap() else { panic!() };
        assert_eq!(read.access_token.expose_secret(), "at-\"1");
        assert_eq!(read.refresh_token.unwrap().expose_secret(), "rt-1");
        let basic = Credential::Basic { username: "u".into(), password: SecretString::from("p") };
        let Credential::Basic { password, .. } = Credential::from_bytes(&basic.to_bytes().unwrap()).unwrap()
        else {
            panic!()
        };
        assert_eq!(password.expose_secret(), "p");
    }
}
