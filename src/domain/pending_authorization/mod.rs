//! Pending authorizations at providers (RFC 6749 §4.1). A pending authorization has the data that the callback is
//! checked against. If the callback comes from another browser, the owner confirms it with a code.

pub mod store;

use std::collections::BTreeSet;

use serde_json::json;
use time::OffsetDateTime;
use uuid::Uuid;
use zeroize::Zeroizing;

use super::data_key::Sealed;
use super::principal::Principal;
use crate::platform::fault::Fault;
use crate::platform::secret;
use actchain_protocol::canonical_json;
use actchain_protocol::digest::sha256;
use actchain_protocol::{base64url, random};

/// Maximum number for each owner; a further one removes the oldest.
pub const MOST: i64 = 20;
/// Wrong codes after which an authorization ends.
pub const MAX_ATTEMPTS: i32 = 5;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PendingAuthorization {
    /// SHA-256 of the `state` parameter.
    pub state: [u8; 32],
    /// The connection to create, or to give another credential.
    pub connection: String,
    pub provider: String,
    pub owner: Principal,
    /// The name for the connection; `None`: unchanged.
    pub name: Option<String>,
    /// The requested scopes.
    pub scopes: BTreeSet<String>,
    /// SHA-256 of the binding secret of the browser that started the authorization.
    pub browser_binding_hash: [u8; 32],
    pub owner_authenticated_at: OffsetDateTime,
    /// The console session in which the authorization was begun; `None` at the management API.
    pub console_session: Option<Uuid>,
    /// The sealed secrets; see [`AuthorizationStage`].
    pub sealed: Sealed,
    pub created_at: OffsetDateTime,
    pub expires_at: OffsetDateTime,
    /// The number of wrong codes.
    pub attempts: i32,
}

/// The stage of an authorization, which determines the sealed data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuthorizationStage {
    /// Sealed: the PKCE verifier.
    Requested,
    /// Sealed: a [`PendingCode`].
    CodeReceived,
}

impl PendingAuthorization {
    /// The additional authenticated data of the secrets. A writer with access to the database alone cannot give an
    /// authorization to another owner or browser, nor widen it.
    pub fn aad(&self, stage: AuthorizationStage) -> Result<String, Fault> {
        let name = match stage {
            AuthorizationStage::Requested => "requested",
            AuthorizationStage::CodeReceived => "code_received",
        };
        let mut bound = vec![
            json!(base64url::encode(self.state)),
            json!(self.connection),
            json!(self.provider),
            json!(self.owner),
            json!(self.name),
            json!(self.scopes),
            json!(base64url::encode(self.browser_binding_hash)),
        ];
        bound.extend(self.console_session.map(|session| json!(session)));
        let digest = sha256(&[canonical_json::to_string(&json!(bound))?.as_bytes()]);
        Ok(format!("pending_authorization/{name}/{}", base64url::encode(digest)))
    }

    /// Whether the browser with these binding secrets started the authorization; where it was started in the console, the
    /// same session has to be open in that browser.
    pub fn began_in(&self, brought: &[String], console_session: Option<Uuid>) -> bool {
        let same_browser =
            brought.iter().any(|one| secret::equal(&sha256(&[one.as_bytes()]), &self.browser_binding_hash));
        same_browser && self.console_session.is_none_or(|session| Some(session) == console_session)
    }
}

/// An authorization code that came back in another browser and waits for the owner's confirmation.
pub struct PendingCode {
    pub verifier: Zeroizing<String>,
    pub code: Zeroizing<String>,
    /// The code that the owner types to confirm.
    pub finish: Zeroizing<String>,
}

impl PendingCode {
    pub fn to_bytes(&self) -> Zeroizing<Vec<u8>> {
        let parts = [self.verifier.as_bytes(), b"\n", self.finish.as_bytes(), b"\n", self.code.as_bytes()];
        Zeroizing::new(parts.concat())
    }

    pub fn from_bytes(bytes: &[u8]) -> Result<Self, Fault> {
        let malformed = || Fault::new("an authorization that waits is malformed");
        let text = std::str::from_utf8(bytes).map_err(|_| malformed())?;
        let mut parts = text.splitn(3, '\n').map(|part| Zeroizing::new(part.to_owned()));
        match (parts.next(), parts.next(), parts.next()) {
            (Some(verifier), Some(finish), Some(code)) => Ok(Self { verifier, code, finish }),
            _ => Err(malformed()),
        }
    }

    /// Whether the owner typed the confirmation code: hyphens, spaces and case do not matter, O is 0, I and L are 1.
    pub fn is_finished_by(&self, typed: &str) -> bool {
        let plain = |text: &str| -> Zeroizing<String> {
            let letters =
                text.chars().filter(|letter| !matches!(letter, '-' | ' ')).map(|letter| {
                    match letter.to_ascii_uppercase() {
                        'O' => '0',
                        'I' | 'L' => '1',
                        other => other,
                    }
                });
            Zeroizing::new(letters.collect())
        };
        secret::equal(plain(typed).as_bytes(), plain(&self.finish).as_bytes())
    }
}

/// 60 random bits for typing: three groups of four characters, without letters that are easily confused.
pub fn finish_code() -> Result<Zeroizing<String>, Fault> {
    const LETTERS: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";
    let random = Zeroizing::new(random::bytes::<12>()?);
    let letters =
        random.iter().filter_map(|byte| LETTERS.get(usize::from(byte & 31)).copied().map(char::from));
    let mut code = Zeroizing::new(String::with_capacity(14));
    for (place, letter) in letters.enumerate() {
        if place > 0 && place % 4 == 0 {
            code.push('-');
        }
        code.push(letter);
    }
    Ok(code)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waiting(finish: &str) -> PendingCode {
        let text = |text: &str| Zeroizing::new(text.to_owned());
        PendingCode { verifier: text("v"), code: text("c\nd"), finish: text(finish) }
    }

    #[test]
    fn what_waits_survives_writing_and_is_finished_however_it_is_typed() {
        let code = finish_code().unwrap();
        assert_eq!((code.len(), code.split('-').count()), (14, 3));
        assert_ne!(*code, *finish_code().unwrap());
        let read = PendingCode::from_bytes(&waiting("AB10-CDEF-GHJK").to_bytes()).unwrap();
        assert_eq!((read.verifier.as_str(), read.code.as_str()), ("v", "c\nd"));
        for typed in ["AB10-CDEF-GHJK", "ab10cdefghjk", "ablo cdef ghjk"] {
            assert!(read.is_finished_by(typed), "{typed}");
        }
        for typed in ["", "AB10-CDEF-GHJ", "AB10-CDEF-GHJKK", "BB10-CDEF-GHJK"] {
            assert!(!read.is_finished_by(typed), "{typed}");
        }
    }

    #[test]
    fn a_seal_is_for_one_owner_browser_and_width() {
        let one = PendingAuthorization {
            state: [1; 32],
            connection: "c".into(),
            provider: "p".into(),
            owner: Principal::new("i", "s"),
            name: None,
            scopes: BTreeSet::from(["a".to_owned()]),
            browser_binding_hash: [2; 32],
            owner_authenticated_at: OffsetDateTime::UNIX_EPOCH,
            console_session: None,
            sealed: Sealed { key: "k".into(), text: "t".into() },
            created_at: OffsetDateTime::UNIX_EPOCH,
            expires_at: OffsetDateTime::UNIX_EPOCH,
            attempts: 0,
        };
        let row = one.aad(AuthorizationStage::Requested).unwrap();
        for other in [
            PendingAuthorization { state: [3; 32], ..one.clone() },
            PendingAuthorization { connection: "d".into(), ..one.clone() },
            PendingAuthorization { provider: "q".into(), ..one.clone() },
            PendingAuthorization { console_session: Some(Uuid::nil()), ..one.clone() },
            PendingAuthorization { owner: Principal::new("i", "t"), ..one.clone() },
            PendingAuthorization { scopes: BTreeSet::new(), ..one.clone() },
            PendingAuthorization { browser_binding_hash: [3; 32], ..one.clone() },
        ] {
            assert_ne!(row, other.aad(AuthorizationStage::Requested).unwrap());
        }
        assert_ne!(row, one.aad(AuthorizationStage::CodeReceived).unwrap());
    }
}
