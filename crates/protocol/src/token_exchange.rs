//! The token exchange request (RFC 8693 §2.1): its parameters and their combinations.

use std::collections::BTreeSet;

use super::{resource, scope};

/// The `grant_type` of RFC 8693 §2.1.
pub const GRANT_TYPE: &str = "urn:ietf:params:oauth:grant-type:token-exchange";

/// The type of a credential from the vault. Another server issued the credential, so the identifiers of RFC 8693 §3 do
/// not apply.
pub const VAULT_TOKEN: &str = "urn:actchain:params:oauth:token-type:vault-token";

/// Token type identifiers (RFC 8693 §3) that this server supports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TokenType {
    /// An access token of this server, or of an issuer that introspects its tokens.
    AccessToken,
    /// A JWT of a trusted issuer.
    Jwt,
    /// An ID token of a trusted issuer.
    IdToken,
}

impl TokenType {
    /// The identifier in `subject_token_type` and its siblings.
    pub fn urn(self) -> &'static str {
        match self {
            Self::AccessToken => "urn:ietf:params:oauth:token-type:access_token",
            Self::Jwt => "urn:ietf:params:oauth:token-type:jwt",
            Self::IdToken => "urn:ietf:params:oauth:token-type:id_token",
        }
    }

    /// Parses a URN; `None` for types that this server does not support.
    pub fn parse(urn: &str) -> Option<Self> {
        [Self::AccessToken, Self::Jwt, Self::IdToken].into_iter().find(|kind| kind.urn() == urn)
    }
}

/// A presented token, with the type that the client declares.
#[derive(Debug, Clone)]
pub struct PresentedToken {
    /// As received; not yet parsed or verified.
    pub token: String,
    /// What the client declares, which the token need not confirm.
    pub kind: TokenType,
    /// The issuer that the client names (`subject_issuer`, not in RFC 8693).
    pub issuer: Option<String>,
}

/// The requested access: who may use the issued token, and for what. `None` requests everything that is allowed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RequestedAccess {
    /// `scope`, split at spaces.
    pub scopes: Option<BTreeSet<String>>,
    /// `audience` and `resource` values.
    pub audiences: Option<BTreeSet<String>>,
    /// `authorization_details`, parsed but not yet compared with any grant.
    pub details: Option<super::authorization_details::Details>,
    /// The highest requested capability, by name.
    pub capability: Option<String>,
}

/// A token exchange request with valid syntax.
#[derive(Debug, Clone)]
pub struct ExchangeRequest {
    /// The principal on whose behalf the issued token is used.
    pub subject: PresentedToken,
    /// The acting party; `None` if the client itself acts.
    pub actor: Option<PresentedToken>,
    /// The requested access, which may exceed what is allowed.
    pub wanted: RequestedAccess,
    /// The delegation to use (not in RFC 8693: RFC 6749 §8.2 lets servers add parameters).
    pub delegation_id: Option<String>,
    /// The client's name for the piece of work that begins (not in RFC 8693).
    pub session_id: Option<String>,
}

/// The invalid parameter among `scope`, `audience` and `resource`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InvalidParameter {
    /// A value of `scope` that RFC 6749 §3.3 does not allow.
    Scope,
    /// Not an absolute URI without fragment, or not a valid name.
    Target,
    /// More targets than one request may name.
    TooManyTargets,
}

/// Reads the requested access from the values of `scope`, `audience` and `resource`.
pub fn wanted(
    scope: Option<&str>,
    audiences: &[String],
    resources: &[String],
    most_targets: usize,
) -> Result<RequestedAccess, InvalidParameter> {
    if audiences.len() + resources.len() > most_targets {
        return Err(InvalidParameter::TooManyTargets);
    }
    let readable = audiences.iter().all(|name| resource::is_audience(name))
        && resources.iter().all(|uri| resource::is_resource_uri(uri) && resource::is_audience(uri));
    if !readable {
        return Err(InvalidParameter::Target);
    }
    let scopes = match scope {
        None => None,
        Some(text) => Some(scope::parse(text).ok_or(InvalidParameter::Scope)?),
    };
    let targets: BTreeSet<String> = audiences.iter().chain(resources).cloned().collect();
    Ok(RequestedAccess {
        scopes,
        audiences: (!targets.is_empty()).then_some(targets),
        details: None,
        capability: None,
    })
}

/// Decodes one name or value of `application/x-www-form-urlencoded`: `+` is a space, escapes must be complete, the
/// result must be UTF-8 without NUL. `None` otherwise; the usual decoders accept invalid input.
pub fn percent_decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        rest = tail;
        bytes.push(match first {
            b'+' => b' ',
            b'%' => {
                let (hex, tail) = rest.split_at_checked(2)?;
                rest = tail;
                let hex = std::str::from_utf8(hex).ok()?;
                // `from_str_radix` would accept a sign.
                if !hex.bytes().all(|byte| byte.is_ascii_hexdigit()) {
                    return None;
                }
                u8::from_str_radix(hex, 16).ok()?
            }
            other => *other,
        });
    }
    let decoded = String::from_utf8(bytes).ok()?;
    (!decoded.contains('\0')).then_some(decoded)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn kat_12a_form_decoding() {
        assert_eq!(percent_decode("+%25%26%2B%C2%A3%E2%82%AC").as_deref(), Some(" %&+£€"));
        for text in ["%", "%2", "%zz", "%+1", "%ff", "%00"] {
            assert_eq!(percent_decode(text), None, "{text}");
        }
    }

    #[test]
    fn targets_are_merged_and_counted() {
        let list = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let wanted_ = wanted(None, &list(&["mail"]), &list(&["https://a.example"]), 2).unwrap();
        assert_eq!(wanted_.audiences.unwrap().len(), 2);
        assert_eq!(wanted(None, &list(&["a", "b", "c"]), &[], 2), Err(InvalidParameter::TooManyTargets));
        assert_eq!(wanted(None, &[], &list(&["rel"]), 2), Err(InvalidParameter::Target));
        assert_eq!(wanted(Some("a  b"), &[], &[], 2), Err(InvalidParameter::Scope));
    }

    proptest! {
        #[test]
        fn decoding_never_panics(text in "\\PC{0,40}") {
            let _ = percent_decode(&text);
        }
    }
}
