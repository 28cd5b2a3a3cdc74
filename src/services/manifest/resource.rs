//! Resource servers as declared.

use std::collections::BTreeSet;

use schemars::JsonSchema;
use serde::Deserialize;

use super::check::check_ttl;
use crate::domain::name;
use crate::domain::registry::{ADMIN_SCOPE, AUDIT_SCOPE};
use crate::domain::resource::Resource;
use crate::platform::yaml::{InvalidDeclaration, Place};
use actchain_protocol::{resource, scope, trusted_issuer_jwt};

/// A resource server, as `audience` and `resource` name it.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ResourceDeclaration {
    /// Value of `audience`, of `resource`, and of `aud` in tokens. A client or an issuer of this name is refused.
    #[schemars(length(min = 1), example = &"https://mail.example.com")]
    pub id: String,
    /// Scopes that the resource server knows.
    #[schemars(example = ["mail.read", "mail.send"])]
    pub scopes: BTreeSet<String>,
    /// Types of `authorization_details` (RFC 9396) that the resource server knows.
    #[serde(default)]
    #[schemars(example = ["mailbox"])]
    pub authorization_details_types: BTreeSet<String>,
    /// Longest lifetime of a token for this resource, in seconds; `tokens.max_ttl` where absent.
    #[schemars(range(min = 1, max = 2_147_483_647), example = 300)]
    pub token_ttl: Option<u32>,
    #[serde(skip)]
    pub(in crate::services) place: Place,
}

impl ResourceDeclaration {
    /// Validates the declaration and converts it.
    pub fn read(self, own_issuer: &str) -> Result<Resource, InvalidDeclaration> {
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
