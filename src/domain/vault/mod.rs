//! Connections: one principal's credential at one provider.

pub mod credential_cache;
pub mod exchanged;
pub mod list;
pub mod rekey;
pub mod store;
pub mod target;
pub mod unused;

use std::collections::BTreeSet;

use secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, Serialize, Serializer};
use serde_json::json;
use time::{Duration, OffsetDateTime};
use zeroize::Zeroizing;

use super::data_key::Sealed;
use super::principal::Principal;
use super::provider::ProviderKind;
use super::registry::VAULT_DETAIL;
use crate::platform::fault::{Context, Fault};
use crate::platform::secret;
use actchain_protocol::authorization_details::Detail;
use actchain_protocol::digest::sha256;

/// Derived from the facts of the connection.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, strum::IntoStaticStr, strum::EnumString,
)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum ConnectionState {
    /// The credential can be retrieved.
    Active,
    /// The provider no longer accepts the credential: the owner has to connect again.
    NeedsReconnect,
    /// The owner or an administrator has disconnected it.
    Disconnected,
}

impl ConnectionState {
    /// The name on the wire.
    pub fn name(self) -> &'static str {
        self.into()
    }
}

#[derive(Debug, Clone, PartialEq)]
pub struct Connection {
    pub id: String,
    pub provider: String,
    pub owner: Principal,
    /// The delegation whose token was exchanged for the credential, if it was obtained in this way.
    pub delegation_id: Option<String>,
    pub name: Option<String>,
    /// Increases with every change.
    pub version: i64,
    /// The credential; `None` once the connection is disconnected and the provider notified.
    pub sealed: Option<Sealed>,
    /// The scopes that the provider granted, if it reported them.
    pub scopes: Option<BTreeSet<String>>,
    /// Expiry of the access token, if known.
    pub expires_at: Option<OffsetDateTime>,
    pub has_refresh_token: bool,
    pub created_at: OffsetDateTime,
    pub updated_at: OffsetDateTime,
    /// When the credential was stored.
    pub obtained_at: OffsetDateTime,
    /// The provider accepts no request for this connection before this time.
    pub retry_at: Option<OffsetDateTime>,
    /// When the provider's API rejected the access token; a new token is due since then.
    pub rejected_at: Option<OffsetDateTime>,
    /// When the access token was last refreshed.
    pub refreshed_at: Option<OffsetDateTime>,
    /// Since when the provider no longer accepts the credential.
    pub needs_reconnect_at: Option<OffsetDateTime>,
    pub disconnected_at: Option<OffsetDateTime>,
}

impl Connection {
    /// The additional authenticated data of the credential. With write access to the database alone, credentials
    /// cannot be swapped or moved to another owner, provider or delegation. JSON separates the members unambiguously.
    pub fn aad(&self) -> String {
        let Self { id, provider, owner, delegation_id, .. } = self;
        match delegation_id {
            None => json!(["connection", id, provider, owner.iss, owner.sub]),
            Some(delegation) => json!(["connection", id, provider, owner.iss, owner.sub, delegation]),
        }
        .to_string()
    }

    pub fn state(&self) -> ConnectionState {
        match (self.disconnected_at, self.needs_reconnect_at) {
            (Some(_), _) => ConnectionState::Disconnected,
            (None, Some(_)) => ConnectionState::NeedsReconnect,
            (None, None) => ConnectionState::Active,
        }
    }

    /// Whether a new access token is due: within `leeway` of the expiry, but not in the first two fifths of the
    /// lifetime. Where the expiry is unknown and a refresh token exists, one hour is assumed. A rejected token is due
    /// at once.
    pub fn is_due(&self, now: OffsetDateTime, leeway: Duration) -> bool {
        let ends_at = match self.expires_at {
            Some(at) => at,
            None if self.has_refresh_token => self.obtained_at + UNTOLD,
            None => return false,
        };
        let life = (ends_at - self.obtained_at).max(Duration::ZERO);
        self.rejected_at.is_some() || ends_at - leeway.min(life * 3 / 5) <= now
    }

    /// Whether the access token is known to be expired.
    pub fn has_ended(&self, now: OffsetDateTime) -> bool {
        self.expires_at.is_some_and(|at| at <= now)
    }

    /// Seconds until the provider accepts requests again, at least one; `None` if it accepts them now.
    pub fn rests_for(&self, now: OffsetDateTime) -> Option<u32> {
        let rest = self.retry_at.map(|at| at - now).filter(|rest| rest.is_positive())?;
        // Rounded up, so that a caller that retries after this time is not refused again.
        let seconds = rest.whole_seconds() + i64::from(rest.subsec_nanoseconds() > 0);
        Some(u32::try_from(seconds).unwrap_or(u32::MAX))
    }

    /// Seconds until the access token expires, if known.
    pub fn expires_in(&self, now: OffsetDateTime) -> Option<i64> {
        self.expires_at.map(|at| (at - now).whole_seconds().max(0))
    }
}

/// A credential that a provider issued.
#[derive(Debug, Clone)]
pub enum Credential {
    /// Tokens (RFC 6749 §5.1).
    Oauth2(ProviderTokens),
    ApiKey {
        key: SecretString,
    },
    Basic {
        username: String,
        password: SecretString,
    },
}

#[derive(Debug, Clone)]
pub struct ProviderTokens {
    /// For requests to the provider's API.
    pub access_token: SecretString,
    /// How the access token is presented (RFC 6749 §7.1).
    pub token_type: String,
    /// Sent to the provider only; no response of this server has it.
    pub refresh_token: Option<SecretString>,
}

/// The serialized form that is sealed.
#[derive(Serialize)]
#[serde(rename_all = "snake_case")]
enum StoredCredential<'a> {
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

/// The deserialized form, also of imported credentials.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
enum OpenedCredential {
    Oauth2 { access_token: SecretString, token_type: String, refresh_token: Option<SecretString> },
    ApiKey { key: SecretString },
    Basic { username: String, password: SecretString },
}

impl Credential {
    pub fn kind(&self) -> ProviderKind {
        match self {
            Self::Oauth2(_) => ProviderKind::Oauth2,
            Self::ApiKey { .. } => ProviderKind::ApiKey,
            Self::Basic { .. } => ProviderKind::Basic,
        }
    }

    /// Serializes the credential into memory that is cleared on drop.
    pub fn to_bytes(&self) -> Result<Zeroizing<Vec<u8>>, Fault> {
        let written = match self {
            Self::Oauth2(tokens) => StoredCredential::Oauth2 {
                access_token: Exposed(&tokens.access_token),
                token_type: &tokens.token_type,
                refresh_token: tokens.refresh_token.as_ref().map(Exposed),
            },
            Self::ApiKey { key } => StoredCredential::ApiKey { key: Exposed(key) },
            Self::Basic { username, password } => {
                StoredCredential::Basic { username, password: Exposed(password) }
            }
        };
        // Allocated in full: a buffer that grows leaves copies in memory.
        let mut bytes = Zeroizing::new(Vec::with_capacity(self.room()));
        serde_json::to_writer(&mut *bytes, &written).context("writing a credential")?;
        Ok(bytes)
    }

    /// An upper bound of the JSON size in bytes.
    pub fn room(&self) -> usize {
        let long = match self {
            Self::Oauth2(tokens) => {
                let refresh_token = tokens.refresh_token.as_ref();
                let refresh_token = refresh_token.map_or(0, |token| token.expose_secret().len());
                tokens.access_token.expose_secret().len() + refresh_token
            }
            Self::ApiKey { .. } | Self::Basic { .. } => 0,
        };
        // Quotes and backslashes take two bytes each.
        2 * (MOST_CREDENTIAL + long)
    }

    /// Whether `digest` is the SHA-256 of the access token.
    pub fn has_access_token(&self, digest: &[u8; 32]) -> bool {
        let Self::Oauth2(tokens) = self else { return false };
        secret::equal(&sha256(&[tokens.access_token.expose_secret().as_bytes()]), digest)
    }

    pub fn from_bytes(bytes: &[u8]) -> Result<Self, Fault> {
        let read: OpenedCredential =
            serde_json::from_slice(bytes).map_err(|_| Fault::new("a credential is malformed"))?;
        Ok(match read {
            OpenedCredential::Oauth2 { access_token, token_type, refresh_token } => {
                Self::Oauth2(ProviderTokens { access_token, token_type, refresh_token })
            }
            OpenedCredential::ApiKey { key } => Self::ApiKey { key },
            OpenedCredential::Basic { username, password } => Self::Basic { username, password },
        })
    }
}

/// Whether authorization details of type `vault_connection` can be used at all. To retrieve the credential, only
/// `actions` and `scopes` can limit. The proxy also applies `locations`.
pub fn is_usable(detail: &Detail) -> bool {
    let names = |wanted: fn(&str) -> bool| {
        detail.lists.get("actions").is_none_or(|actions| actions.iter().any(|action| wanted(action)))
    };
    let limits = |known: &[&str]| detail.lists.keys().all(|member| known.contains(&member.as_str()));
    detail.kind != VAULT_DETAIL
        || (limits(&["actions", "scopes"]) && names(|action| action == "retrieve"))
        || (limits(&["actions", "scopes", "locations"])
            && names(|action| action == "proxy" || action.starts_with("proxy:")))
}

/// Assumed lifetime of an access token whose provider did not report one, if a refresh token exists: without an
/// expiry it would never be refreshed.
const UNTOLD: Duration = Duration::HOUR;

/// The longest credential that is stored, in bytes.
pub const MOST_CREDENTIAL: usize = 32 * 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::principal::Principal;
    use actchain_protocol::authorization_details::Details;

    fn connection(owner: Principal) -> Connection {
        Connection {
            id: "c".into(),
            provider: "p".into(),
            owner,
            delegation_id: None,
            name: None,
            version: 1,
            sealed: None,
            scopes: None,
            expires_at: None,
            has_refresh_token: true,
            created_at: OffsetDateTime::UNIX_EPOCH,
            updated_at: OffsetDateTime::UNIX_EPOCH,
            obtained_at: OffsetDateTime::UNIX_EPOCH,
            retry_at: None,
            rejected_at: None,
            refreshed_at: None,
            needs_reconnect_at: None,
            disconnected_at: None,
        }
    }

    fn at(seconds: i64) -> OffsetDateTime {
        OffsetDateTime::UNIX_EPOCH + Duration::seconds(seconds)
    }

    #[test]
    fn a_seal_is_for_one_owner_whatever_is_in_its_name() {
        let row = |iss: &str, sub: &str| connection(Principal::new(iss, sub)).aad();
        assert_ne!(row("https://idp", "alice smith"), row("https://idp alice", "smith"));
        assert_ne!(row("https://idp", "a/b"), row("https://idp/a", "b"));
        assert_ne!(row("i", "\",\""), row("i\",\"", ""));
        let other =
            Connection { id: "c/p".into(), provider: "q".into(), ..connection(Principal::new("i", "s")) };
        let one =
            Connection { id: "c".into(), provider: "p/q".into(), ..connection(Principal::new("i", "s")) };
        assert_ne!(one.aad(), other.aad());
    }

    #[test]
    fn an_access_token_is_due_within_the_leeway_and_not_just_after_it_was_issued() {
        let minute = Duration::minutes(1);
        let one = connection(Principal::new("i", "s"));
        for (life, due) in [(3_600, 3_540), (120, 60), (100, 40), (60, 24), (10, 4)] {
            let one = Connection { expires_at: Some(at(life)), ..one.clone() };
            assert!(!one.is_due(at(due - 1), minute) && one.is_due(at(due), minute), "{life}");
            assert!(!one.has_ended(at(life - 1)) && one.has_ended(at(life)), "{life}");
        }
        assert!(!one.is_due(at(3_539), minute) && one.is_due(at(3_540), minute), "not said");
        assert!(!one.has_ended(at(100_000)) && one.expires_in(at(100_000)).is_none());
        let fixed = Connection { has_refresh_token: false, ..one.clone() };
        assert!(!fixed.is_due(at(100_000), minute));
        assert!(Connection { rejected_at: Some(at(1)), ..one }.is_due(at(1), minute));
    }

    #[test]
    fn a_rest_is_answered_in_whole_seconds() {
        let one = Connection { retry_at: Some(at(30)), ..connection(Principal::new("i", "s")) };
        assert_eq!(one.rests_for(at(0)), Some(30));
        assert_eq!(one.rests_for(at(0) + Duration::milliseconds(1)), Some(30));
        assert_eq!(one.rests_for(at(29) + Duration::milliseconds(999)), Some(1));
        assert_eq!(one.rests_for(at(30)), None);
    }

    #[test]
    fn details_that_nothing_can_heed_are_of_no_use() {
        let usable = |members: &str| {
            let details = Details::parse(&format!(r#"[{{"type":"vault_connection"{members}}}]"#)).unwrap();
            is_usable(&details.0[0])
        };
        for members in [
            "",
            r#","actions":["retrieve"],"scopes":["x"]"#,
            r#","actions":["retrieve","proxy"],"locations":["https://a.example/"]"#,
            r#","actions":["proxy:GET"],"locations":["https://a.example/"]"#,
            r#","locations":["https://a.example/"]"#,
        ] {
            assert!(usable(members), "{members}");
        }
        for members in [
            r#","actions":["retrieve"],"locations":["https://a.example/"]"#,
            r#","actions":["read"]"#,
            r#","actions":[]"#,
            r#","datatypes":["x"]"#,
            r#","actions":["proxy"],"privileges":["x"]"#,
        ] {
            assert!(!usable(members), "{members}");
        }
        assert!(is_usable(&Details::parse(r#"[{"type":"mail","datatypes":["x"]}]"#).unwrap().0[0]));
    }

    #[test]
    fn a_credential_survives_writing_and_reading_and_does_not_print() {
        let credential = Credential::Oauth2(ProviderTokens {
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
