//! Requests to the introspection endpoints of issuers (RFC 7662 §2.1).

use secrecy::{ExposeSecret as _, SecretString};
use serde_json::{Map, Value};
use time::OffsetDateTime;

use crate::domain::client::AuthMethod;
use crate::domain::introspection::Introspection;
use crate::domain::issuer::Issuer;
use crate::platform::fault::Fault;
use crate::platform::outbound::{Outbound, PostRequest, PostResponse};
use crate::platform::seal::SealingKey;
use actchain_protocol::introspection_answer::{self, IntrospectionAnswer};
use actchain_protocol::jose::{Jws, MAX_TOKEN_BYTES, SigningKey};
use actchain_protocol::oauth_client::{self, EndpointAuth};
use actchain_protocol::{client_assertion, introspection, json, random};

/// A token of an issuer that introspects it.
#[derive(Clone, Copy)]
pub(super) struct IntrospectedToken<'a> {
    pub(super) issuer: &'a Issuer,
    pub(super) introspection: &'a Introspection,
    pub(super) token: &'a str,
    /// Version of the registry that has the issuer.
    pub(super) registry_version: i64,
}

/// This server as a client of introspection endpoints.
#[derive(Clone, Copy)]
pub struct Introspector<'a> {
    pub outbound: &'a Outbound,
    /// Opens client secrets.
    pub seal: &'a SealingKey,
    /// Signs client assertions; absent before the first start of a server.
    pub signer: Option<&'a SigningKey>,
}

impl Introspector<'_> {
    /// Sends a token to the introspection endpoint of its issuer.
    pub(super) async fn send(
        self,
        of: IntrospectedToken<'_>,
        now: OffsetDateTime,
    ) -> Result<PostResponse, Fault> {
        let IntrospectedToken { introspection, token, .. } = of;
        let settings = &introspection.settings;
        let credential = self.credential(of, now)?;
        let auth = match settings.auth {
            AuthMethod::ClientSecretBasic => EndpointAuth::Basic(credential.expose_secret()),
            AuthMethod::ClientSecretPost => EndpointAuth::Post(credential.expose_secret()),
            AuthMethod::PrivateKeyJwt => EndpointAuth::Assertion(credential.expose_secret()),
            AuthMethod::None => EndpointAuth::None,
        };
        let mut params = vec![("token", token), ("token_type_hint", "access_token")];
        let authorization = auth.apply(&settings.client_id, &mut params);
        let post = PostRequest {
            content_type: "application/x-www-form-urlencoded",
            accept: if settings.signed { introspection::JWT_MEDIA_TYPE } else { "application/json" },
            authorization: authorization.as_ref().map(|value| value.as_str()),
            body: &oauth_client::form(&params),
        };
        self.outbound.post(&settings.endpoint, post).await
    }

    /// This server's secret, or an assertion signed by this server.
    fn credential(self, of: IntrospectedToken<'_>, now: OffsetDateTime) -> Result<SecretString, Fault> {
        let IntrospectedToken { issuer, introspection, .. } = of;
        let settings = &introspection.settings;
        if settings.auth.uses_secret() {
            return introspection.secret(&issuer.iss, self.seal);
        }
        let jti = random::id(now)?.to_string();
        let claims = client_assertion::claims(&settings.client_id, &issuer.iss, &jti, now);
        let signer = self.signer.ok_or_else(|| Fault::new("no signing key is active"))?;
        Ok(signer.sign(client_assertion::TYP, &claims)?.into())
    }

    /// Checks that an issuer answers this server, by a token that does not exist. The signature of a signed answer is
    /// not verified.
    ///
    /// # Errors
    /// A fault if there is no answer that the token is not active.
    pub async fn probe(
        self,
        issuer: &Issuer,
        introspection: &Introspection,
        now: OffsetDateTime,
    ) -> Result<(), Fault> {
        let token = random::token()?;
        let of = IntrospectedToken { issuer, introspection, token: &token, registry_version: 0 };
        let posted = self.send(of, now).await?;
        let body = body(&posted)?;
        let answer = match introspection.settings.signed {
            true => {
                let jws = std::str::from_utf8(body).ok().and_then(Jws::parse);
                let answer = jws.and_then(|jws| jws.claims.get("token_introspection")?.as_object().cloned());
                answer.ok_or_else(|| Fault::new("the answer is not signed (RFC 9701)"))?
            }
            false => plain(body)?,
        };
        match introspection_answer::read(answer) {
            Some(IntrospectionAnswer::Inactive) => Ok(()),
            Some(IntrospectionAnswer::Active(_)) => {
                Err(Fault::new("a token that does not exist is called active"))
            }
            None => Err(Fault::new("active is neither true nor false")),
        }
    }
}

/// The body of a complete success that is no longer than a token.
pub(super) fn body(posted: &PostResponse) -> Result<&[u8], Fault> {
    match &posted.incomplete {
        _ if posted.status != 200 => Err(Fault::new(format!("status {}", posted.status))),
        Some(why) => Err(Fault::new(why.clone())),
        None if posted.body.len() > MAX_TOKEN_BYTES => {
            Err(Fault::new(format!("the answer is longer than {MAX_TOKEN_BYTES} bytes")))
        }
        None => Ok(&posted.body),
    }
}

/// Reads an answer that is not signed.
pub(super) fn plain(body: &[u8]) -> Result<Map<String, Value>, Fault> {
    json::parse_object(body).ok_or_else(|| Fault::new("the answer is no JSON object"))
}
