//! Trusted issuers as declared.

use std::collections::BTreeSet;

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;

use super::check::check_keys;
use super::introspection::{DeclaredIntrospection, IntrospectionDeclaration};
use super::sign_in::{DeclaredSignIn, SignInDeclaration};
use crate::domain::issuer::{self, GrantCreators, Issuer, SubjectForm};
use crate::platform::outbound::Outbound;
use crate::platform::yaml::{self, InvalidDeclaration, Place};
use crate::services::discovery::MetadataSource;
use actchain_protocol::discovery::metadata_urls;
use actchain_protocol::jose::Alg;
use actchain_protocol::trusted_issuer_jwt::{self, ActorUse, ClaimNames, ClaimPolicy, MayActUse};

/// A trusted issuer. Exactly one of `jwks`, `jwks_uri` and `discover: true` is needed, or none if all its tokens are
/// introspected.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct IssuerDeclaration {
    /// Issuer identifier, compared character by character with `iss` of its tokens.
    #[schemars(length(min = 1, max = 512), example = &"https://idp.example.com")]
    pub iss: String,
    /// Tenants of an issuer whose `iss` has the placeholder `{tenantid}`, as that of Microsoft Entra. A token is accepted if
    /// its `iss` has one of them in this place, and its `tid` is the same.
    #[serde(default, deserialize_with = "yaml::present")]
    #[schemars(length(min = 1, max = 1000), example = ["8a1f0e5c-0d7e-4f0a-9b55-6c2f3f1f2a10"])]
    tenants: Option<BTreeSet<String>>,
    /// What takes the place of `{tenantid}` in the URL of the metadata; needed for `discover` with `tenants`.
    #[serde(default, deserialize_with = "yaml::present")]
    #[schemars(length(min = 1, max = 64), example = &"organizations")]
    discovery_tenant: Option<String>,
    /// Public keys of the issuer as a JWK Set (RFC 7517 §5).
    #[serde(default)]
    #[schemars(schema_with = "super::schema::jwks")]
    pub jwks: Option<Value>,
    /// URL of the issuer's JWK Set; https, and no private address.
    #[schemars(example = &"https://idp.example.com/jwks.json")]
    pub jwks_uri: Option<String>,
    /// Whether the URL of the keys is taken from the metadata of the issuer (RFC 8414, OpenID Connect Discovery). The
    /// metadata is read by `apply`; what is read stays in force until the issuer is applied again.
    #[serde(default)]
    pub(in crate::services) discover: bool,
    /// Accepted values of `aud`; a token of the issuer has at least one of them.
    #[schemars(length(min = 1), example = ["actchain"])]
    pub audiences: BTreeSet<String>,
    /// Those of `audiences` whose tokens let a user manage delegations; all of `audiences` where absent.
    #[serde(default, deserialize_with = "yaml::present")]
    #[schemars(example = ["actchain-console"])]
    pub delegation_audiences: Option<BTreeSet<String>>,
    /// Accepted signature algorithms (RFC 8725 §3.1).
    #[serde(default = "default_algorithms")]
    #[schemars(example = ["ES256"])]
    pub algorithms: Vec<String>,
    /// Accepted token types: `jwt`, `id_token`.
    #[serde(default = "default_token_types")]
    #[schemars(example = ["id_token"])]
    pub token_types: Vec<String>,
    /// How tokens of this server name the issuer's users in `sub`: `raw` is as the issuer does, `prefixed` is `{alias}:{sub}`.
    /// At most one issuer is raw. Where absent: `prefixed` with an `alias`, `raw` without.
    subject: Option<DeclaredSubject>,
    /// Prefix of the issuer's users in tokens of this server: a to z, digits and `-`; each issuer has its own.
    #[schemars(length(min = 1, max = 32), regex(pattern = "^[a-z0-9-]+$"), example = &"corp")]
    alias: Option<String>,
    /// Use of the `may_act` claim (RFC 8693 §4.4).
    #[serde(default)]
    may_act: MayActUse,
    /// Use of the `act` claim (RFC 8693 §4.1): whether the issuer's tokens may name actors.
    #[serde(default)]
    actors: ActorUse,
    /// Names of the claims that have the scopes of a token; a token without them allows none. Where absent, `scope` and
    /// `scp` bound a token that has them.
    #[serde(default, deserialize_with = "yaml::present")]
    #[schemars(length(min = 1), example = ["permissions"])]
    scope_claims: Option<Vec<String>>,
    /// Names of the claims that identify the user, the client and the session.
    #[serde(default)]
    claims: ClaimNames,
    /// Clients of the issuer whose tokens are accepted, by the claim in `claims.client`; all of them where absent.
    #[serde(default, deserialize_with = "yaml::present")]
    #[schemars(length(min = 1), example = ["web-app"])]
    accepted_clients: Option<BTreeSet<String>>,
    /// Who creates, renews and revalidates standing grants for the issuer's users: each user, or also administrators and
    /// operators.
    #[serde(default)]
    standing_grants: GrantCreators,
    /// Introspection of access tokens (RFC 7662); where absent, only signed tokens are accepted.
    #[serde(default, deserialize_with = "yaml::present")]
    pub(super) introspection: Option<IntrospectionDeclaration>,
    /// Sign-in of the issuer's users to the console; where absent, they do not sign in.
    #[serde(default, deserialize_with = "yaml::present")]
    pub(super) sign_in: Option<SignInDeclaration>,
    #[serde(skip)]
    pub(in crate::services) place: Place,
}

/// A declaration that was checked. Introspection and sign-in have no secrets yet.
#[derive(Debug)]
pub(in crate::services) struct DeclaredIssuer {
    pub(in crate::services) issuer: Issuer,
    pub(in crate::services) introspection: Option<DeclaredIntrospection>,
    pub(in crate::services) sign_in: Option<DeclaredSignIn>,
}

/// How tokens of this server name the users of an issuer.
#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "SubjectForm")]
enum DeclaredSubject {
    /// As the issuer names them.
    Raw,
    /// As the issuer names them, with the prefix `{alias}:`.
    Prefixed,
}

fn default_algorithms() -> Vec<String> {
    ["ES256", "EdDSA", "Ed25519", "RS256", "PS256"].map(str::to_owned).to_vec()
}

fn default_token_types() -> Vec<String> {
    ["jwt", "id_token"].map(str::to_owned).to_vec()
}

impl IssuerDeclaration {
    /// Where absent, the form is prefixed with an alias and raw without.
    fn subject_form(&self) -> Result<SubjectForm, InvalidDeclaration> {
        let place = &self.place;
        match (self.subject, &self.alias) {
            (None | Some(DeclaredSubject::Raw), None) => Ok(SubjectForm::Raw),
            (None | Some(DeclaredSubject::Prefixed), Some(alias)) if issuer::is_alias(alias) => {
                Ok(SubjectForm::Prefixed { alias: alias.clone() })
            }
            (None | Some(DeclaredSubject::Prefixed), Some(_)) => {
                Err(place.fault("alias", "alias may have a to z, digits and -, at most 32, as in `alias: corp`"))
            }
            (Some(DeclaredSubject::Prefixed), None) => Err(place.fault(
                "subject",
                "subject: prefixed needs an alias, as in `alias: corp`: tokens then say corp:alice for its user alice",
            )),
            (Some(DeclaredSubject::Raw), Some(_)) => {
                Err(place.fault("alias", "subject: raw has no alias: leave out one of them"))
            }
        }
    }

    /// The member that names a file with a secret.
    pub(super) fn member_with_a_file(&self) -> Option<&'static str> {
        let introspection = self.introspection.as_ref().and_then(|one| one.client_secret_file.as_ref());
        let sign_in = self.sign_in.as_ref().and_then(|one| one.client_secret_file.as_ref());
        introspection.map(|_| "introspection").or(sign_in.map(|_| "sign_in"))
    }

    /// Where the metadata is, if the keys are discovered.
    pub(in crate::services) fn metadata_source(&self) -> Option<MetadataSource> {
        self.discover.then(|| self.published_metadata())
    }

    /// Where the metadata is, if the endpoints for sign-ins are needed.
    pub(in crate::services) fn sign_in_source(&self) -> Option<MetadataSource> {
        self.sign_in.as_ref().map(|_| self.published_metadata())
    }

    fn published_metadata(&self) -> MetadataSource {
        match &self.discovery_tenant {
            None => MetadataSource::at(&self.iss),
            Some(tenant) => MetadataSource::of_tenant(&self.iss, tenant),
        }
    }

    /// The metadata with the endpoints has a URL that can be read, and there are keys.
    fn check_sign_in(&self, outbound: &Outbound) -> Result<(), InvalidDeclaration> {
        let Some(source) = self.sign_in_source() else { return Ok(()) };
        if self.jwks.is_none() && self.jwks_uri.is_none() && !self.discover {
            let why = "sign_in needs jwks, jwks_uri or `discover: true`: ID tokens are verified by the keys of the issuer";
            return Err(self.place.fault("sign_in", why));
        }
        if metadata_urls(&source.base).is_none() || !outbound.may_fetch(&source.base) {
            let why = "sign_in needs the metadata of the issuer: its iss must be an https URL without query and fragment, at \
                       a public address or one of outbound.allow, and an issuer with tenants needs `discover: true`";
            return Err(self.place.fault("sign_in", why));
        }
        Ok(())
    }

    /// The placeholder in `iss`, and what tells its tenants apart.
    fn check_tenants(&self, own_issuer: &str) -> Result<(), InvalidDeclaration> {
        let place = &self.place;
        let Some(tenants) = &self.tenants else {
            if self.iss.contains(issuer::TENANT) {
                let why = "tenants is needed: it lists the tenants whose tokens are accepted in place of {tenantid}";
                return Err(place.fault("iss", why));
            }
            return match self.discovery_tenant {
                None => Ok(()),
                Some(_) => {
                    Err(place.fault("discovery_tenant", "discovery_tenant is for an issuer with tenants"))
                }
            };
        };
        if !issuer::is_template(&self.iss) {
            let why = "an issuer with tenants is a URL with {tenantid} as one segment of its path, as in \
                       https://login.microsoftonline.com/{tenantid}/v2.0";
            return Err(place.fault("iss", why));
        }
        if tenants.is_empty()
            || tenants.len() > issuer::MAX_TENANTS
            || !tenants.iter().all(|one| issuer::is_tenant(one))
        {
            let why = "tenants has 1 to 1000 ids of tenants: a to z, digits and -, at most 64";
            return Err(place.fault("tenants", why));
        }
        if tenants.iter().any(|tenant| self.iss.replace(issuer::TENANT, tenant) == own_issuer) {
            return Err(place.fault("tenants", "a tenant is this server itself"));
        }
        if self.alias.is_none() {
            let why = "an issuer with tenants needs an alias: users of two tenants may have the same name, and tokens \
                       then say alias:tenant:name";
            return Err(place.fault("subject", why));
        }
        if self.introspection.is_some() {
            return Err(place.fault("introspection", "an issuer with tenants does not introspect tokens"));
        }
        match (self.discover, &self.discovery_tenant) {
            (true, None) => {
                let why = "discover needs a discovery_tenant for an issuer with tenants, as in \
                           `discovery_tenant: organizations`";
                Err(place.fault("discover", why))
            }
            (false, Some(_)) => {
                Err(place.fault("discovery_tenant", "discovery_tenant needs `discover: true`"))
            }
            (true, Some(tenant)) if !issuer::is_tenant(tenant) => {
                Err(place
                    .fault("discovery_tenant", "discovery_tenant may have a to z, digits and -, at most 64"))
            }
            _ => Ok(()),
        }
    }

    /// The names of claims, and the clients that one of them has to name.
    fn check_claims(&self) -> Result<(), InvalidDeclaration> {
        let place = &self.place;
        if !self.claims.declared().all(|name| trusted_issuer_jwt::is_name(name)) {
            return Err(place.fault("claims", "claims must name claims, as in `claims: {subject: oid}`"));
        }
        match &self.accepted_clients {
            Some(_) if self.claims.client.is_none() => Err(place.fault(
                "accepted_clients",
                "accepted_clients needs the claim that names the client, as in `claims: {client: azp}`",
            )),
            Some(clients) if clients.is_empty() => Err(place.fault(
                "accepted_clients",
                "accepted_clients is empty, so that no token of this issuer would be accepted",
            )),
            _ => Ok(()),
        }
    }

    /// Exactly one source of the keys, which can be fetched; none if all tokens are introspected.
    fn check_keys(&self, outbound: &Outbound) -> Result<(), InvalidDeclaration> {
        let (jwks, jwks_uri) = (self.jwks.as_ref(), self.jwks_uri.as_deref());
        let Some(source) = self.metadata_source() else {
            if jwks.is_none() && jwks_uri.is_none() {
                if self.introspection.as_ref().is_some_and(|declared| !declared.needs_keys()) {
                    return Ok(());
                }
                return Err(self.place.whole("jwks, jwks_uri or `discover: true` is needed"));
            }
            return check_keys(&self.place, jwks, jwks_uri, outbound);
        };
        if jwks.is_some() || jwks_uri.is_some() {
            return Err(self.place.fault("discover", "discover, jwks and jwks_uri exclude each other"));
        }
        if metadata_urls(&source.base).is_none() || !outbound.may_fetch(&source.base) {
            let why = "discover needs an issuer that is an https URL without query and fragment, at a public address \
                       or one of outbound.allow";
            return Err(self.place.fault("iss", why));
        }
        Ok(())
    }

    /// Validates the declaration and converts it.
    pub(in crate::services) fn read(
        self,
        own_issuer: &str,
        outbound: &Outbound,
    ) -> Result<DeclaredIssuer, InvalidDeclaration> {
        let place = &self.place;
        let is_name = trusted_issuer_jwt::is_name(&self.iss) && !self.iss.contains(char::is_whitespace);
        if !is_name || self.iss == own_issuer {
            return Err(place.fault("iss", "iss is empty, too long, has spaces, or is this server itself"));
        }
        self.check_tenants(own_issuer)?;
        self.check_keys(outbound)?;
        self.check_sign_in(outbound)?;
        self.check_claims()?;
        if self.audiences.is_empty() {
            let why = "audiences is empty, so that no token of this issuer would be accepted";
            return Err(place.fault("audiences", why));
        }
        if let Some(name) =
            self.delegation_audiences.iter().flatten().find(|name| !self.audiences.contains(*name))
        {
            let why = format!("{name} is not among audiences, so that no token for it is accepted");
            return Err(place.fault("delegation_audiences", why));
        }
        let subject = self.subject_form()?;
        let named = |names: &Vec<String>| {
            !names.is_empty() && names.iter().all(|name| trusted_issuer_jwt::is_name(name))
        };
        if !self.scope_claims.as_ref().is_none_or(named) {
            let why =
                "scope_claims must name the claims that hold scopes, as in `scope_claims: [permissions]`";
            return Err(place.fault("scope_claims", why));
        }
        let algorithms = self.algorithms.iter().map(|name| {
            Alg::parse(name)
                .ok_or_else(|| place.fault("algorithms", format!("algorithm {name} is not supported")))
        });
        let token_types = self.token_types.iter().map(|name| {
            issuer::parse_token_type(name)
                .ok_or_else(|| place.fault("token_types", format!("token type {name} is not supported")))
        });
        let (algorithms, token_types) =
            (algorithms.collect::<Result<Vec<_>, _>>()?, token_types.collect::<Result<Vec<_>, _>>()?);
        for (member, empty) in
            [("algorithms", algorithms.is_empty()), ("token_types", token_types.is_empty())]
        {
            if empty {
                let why = format!("{member} is empty, so that no token of this issuer would be accepted");
                return Err(place.fault(member, why));
            }
        }
        let introspection = self.introspection.map(|declared| declared.read(outbound)).transpose();
        let introspection = introspection.map_err(|why| place.fault("introspection", why))?;
        let sign_in = self.sign_in.map(|declared| declared.read(self.tenants.as_ref())).transpose();
        let sign_in = sign_in.map_err(|why| place.fault("sign_in", why))?;
        let issuer = Issuer {
            standing_grants: self.standing_grants,
            introspection: None,
            sign_in: None,
            algorithms,
            token_types,
            iss: self.iss,
            tenants: self.tenants,
            discovery_tenant: self.discovery_tenant,
            jwks: self.jwks,
            keys: Vec::new(),
            jwks_uri: self.jwks_uri,
            discovered: None,
            audiences: self.audiences,
            delegation_audiences: self.delegation_audiences,
            subject,
            subject_changed_at: None,
            claims: ClaimPolicy {
                may_act: self.may_act,
                scope_claims: self.scope_claims,
                actors: self.actors,
                names: self.claims,
                accepted_clients: self.accepted_clients,
            },
        };
        Ok(DeclaredIssuer { issuer: issuer.with_keys(), introspection, sign_in })
    }
}
