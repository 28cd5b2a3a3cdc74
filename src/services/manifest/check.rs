//! Checks of one manifest entry that need no other data.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{ClientDeclaration, DelegationDeclaration, ResourceDeclaration};
use crate::domain::client::{self, AuthMethod, Kind};
use crate::domain::registry::{ADMIN_SCOPE, AUDIT_SCOPE};
use crate::domain::resource::Resource;
use crate::domain::{delegation, name};
use crate::platform::fault::Fault;
use crate::platform::outbound::Outbound;
use crate::platform::yaml::Place;
use actchain_protocol::jose::{BadJwk, PublicKey};
use actchain_protocol::{resource, scope, trusted_issuer_jwt};

/// Maximum length of a display name, in characters.
const MAX_NAME: usize = 100;

/// A lifetime of at least one second that fits the database column.
fn check_ttl(place: &Place, member: &str, ttl: Option<u32>) -> Result<(), Fault> {
    match ttl {
        Some(0) => Err(place.fault(member, format!("{member} must not be 0"))),
        Some(ttl) if i32::try_from(ttl).is_err() => Err(place.fault(member, format!("{member} is too long"))),
        _ => Ok(()),
    }
}

/// Exactly one of `jwks`, which needs a usable key, and `jwks_uri`, which must be an allowed address.
pub(super) fn check_keys(
    place: &Place,
    jwks: Option<&Value>,
    jwks_uri: Option<&str>,
    outbound: &Outbound,
) -> Result<(), Fault> {
    match (jwks, jwks_uri) {
        (Some(_), Some(_)) => Err(place.fault("jwks_uri", "jwks and jwks_uri exclude each other")),
        (None, None) => Err(place.whole("jwks or jwks_uri is needed")),
        (Some(set), None) => check_set(set).map_err(|why| place.fault("jwks", why)),
        (None, Some(url)) if outbound.may_fetch(url) => Ok(()),
        (None, Some(_)) => {
            Err(place.fault("jwks_uri", "jwks_uri must be https and must not point to a private address"))
        }
    }
}

fn check_set(set: &Value) -> Result<(), String> {
    let Some(keys) = client::usable_keys(set) else { return Err("jwks is not a JWK Set".to_owned()) };
    let listed = set.get("keys").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    for (index, key) in listed.iter().enumerate() {
        let read = key.as_object().map(PublicKey::from_jwk);
        if matches!(read, Some(Err(BadJwk::Private))) {
            return Err(format!(
                "keys[{index}] is a private or symmetric key: write the public key only, and use another key"
            ));
        }
        // RFC 7517 §4.5: keys of one set use distinct `kid` values.
        let (kid, kty) = (key.get("kid"), key.get("kty"));
        let same = |other: &Value| kid.is_some() && other.get("kid") == kid && other.get("kty") == kty;
        if let Some(first) = listed.iter().take(index).position(same) {
            return Err(format!("keys[{first}] and keys[{index}] have the same kid"));
        }
    }
    if keys.is_empty() {
        let why = "jwks has no usable public key (ES256, ES384, Ed25519, RSA of 2048 bits and more)";
        return Err(why.to_owned());
    }
    Ok(())
}

fn check_name(place: &Place, name: Option<&String>) -> Result<(), Fault> {
    let fits =
        |name: &String| (1..=MAX_NAME).contains(&name.chars().count()) && !name.chars().any(char::is_control);
    if name.is_none_or(fits) {
        return Ok(());
    }
    Err(place.fault("name", format!("name has 1 to {MAX_NAME} characters and no control characters")))
}

impl ResourceDeclaration {
    /// Validates the declaration and converts it.
    pub fn read(self, own_issuer: &str) -> Result<Resource, Fault> {
        let place = &self.place;
        let usable = resource::is_audience(&self.id) && name::is_addressable(&self.id);
        if !usable || self.id == own_issuer {
            let why = "id must be printable ASCII without spaces, must not begin with - or have a part . or .., and must \
                       not be this server's issuer";
            return Err(place.fault("id", why));
        }
        check_ttl(place, "token_ttl", self.token_ttl)?;
        let reserved = |scope: &String| [ADMIN_SCOPE, AUDIT_SCOPE].contains(&scope.as_str());
        if let Some(scope) = self.scopes.iter().find(|scope| !scope::is_token(scope) || reserved(scope)) {
            return Err(place.fault("scopes", format!("{scope:?} is not usable as a scope")));
        }
        if let Some(kind) =
            self.authorization_details_types.iter().find(|kind| !trusted_issuer_jwt::is_name(kind))
        {
            return Err(
                place.fault("authorization_details_types", format!("{kind:?} is not usable as a type"))
            );
        }
        Ok(Resource {
            id: self.id,
            scopes: self.scopes,
            detail_types: self.authorization_details_types,
            token_ttl: self.token_ttl,
        })
    }
}

impl ClientDeclaration {
    /// The checks that need no other data.
    pub fn check(&self, outbound: &Outbound) -> Result<(), Fault> {
        let place = &self.place;
        if !client::is_new_id(&self.id) {
            let why = "id may have letters, digits and -._~:/@, at most 128; it must not begin with -, have a part . or .., \
                       or be «server», «user», «operator» or «witness»";
            return Err(place.fault("id", why));
        }
        check_name(place, self.name.as_ref())?;
        check_ttl(place, "max_token_ttl", self.max_token_ttl)?;
        self.check_credentials(outbound)?;
        if let Some(scope) = self.scopes.iter().find(|scope| !scope::is_token(scope)) {
            return Err(place.fault("scopes", format!("{scope:?} is not usable as a scope")));
        }
        if self.scopes.contains(ADMIN_SCOPE) && self.kind != Kind::Admin {
            return Err(place.fault("scopes", "the scope actchain.admin is for clients of kind admin"));
        }
        if self.scopes.contains(AUDIT_SCOPE) && self.kind != Kind::Auditor {
            return Err(place.fault("scopes", "the scope actchain.audit is for clients of kind auditor"));
        }
        let is_name = |one: &crate::domain::principal::Principal| {
            trusted_issuer_jwt::is_name(&one.iss) && trusted_issuer_jwt::is_name(&one.sub)
        };
        if !self.actor_subjects.iter().all(is_name) {
            let why = "iss and sub have 1 to 512 bytes and no control characters";
            return Err(place.fault("actor_subjects", why));
        }
        Ok(())
    }

    fn check_credentials(&self, outbound: &Outbound) -> Result<(), Fault> {
        let place = &self.place;
        let with_keys = self.jwks.is_some() || self.jwks_uri.is_some();
        let with_secret = self.secret.is_some() || self.secret_file.is_some();
        match self.auth {
            AuthMethod::PrivateKeyJwt => {
                check_keys(place, self.jwks.as_ref(), self.jwks_uri.as_deref(), outbound)?;
            }
            _ if with_keys => {
                return Err(place.whole("jwks and jwks_uri belong to auth private_key_jwt"));
            }
            _ => {}
        }
        if with_secret && !self.auth.uses_secret() {
            return Err(place.whole("a secret belongs to auth client_secret_basic or client_secret_post"));
        }
        if self.secret.is_some() && self.secret_file.is_some() {
            return Err(place.whole("secret and secret_file exclude each other"));
        }
        if self.dpop_keys.as_ref().is_some_and(BTreeSet::is_empty) {
            let why = "dpop_keys is an empty list, so that no key could be used: leave dpop_keys out to allow any key, or \
                       name the keys, as in `dpop_keys: [0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I]`";
            return Err(place.fault("dpop_keys", why));
        }
        if self.auth == AuthMethod::None && self.dpop_keys.is_none() {
            return Err(
                place.whole("auth none needs dpop_keys: without them, any key would prove this client")
            );
        }
        let thumbprint =
            |jkt: &String| actchain_protocol::base64url::decode(jkt).is_some_and(|bytes| bytes.len() == 32);
        if !self.dpop_keys.iter().flatten().all(thumbprint) {
            return Err(place.fault("dpop_keys", "dpop_keys must be SHA-256 thumbprints in base64url"));
        }
        Ok(())
    }
}

impl DelegationDeclaration {
    /// Checks the id, and that exactly one of delegator and parent is present.
    pub(in crate::services) fn check(&self) -> Result<(), Fault> {
        if !delegation::is_id(&self.id) || self.id.starts_with("may-") {
            let why = "id may have letters, digits and -._~, at most 64; it must not begin with - or may-, or be . or ..";
            return Err(self.place.fault("id", why));
        }
        if self.delegator.is_some() == self.parent.is_some() {
            return Err(self.place.whole("needs a delegator (at the root) or a parent, and not both"));
        }
        if self.max_depth.is_some_and(|depth| i32::try_from(depth).is_err()) {
            return Err(self.place.fault("max_depth", "max_depth is at most 2147483647"));
        }
        Ok(())
    }
}
