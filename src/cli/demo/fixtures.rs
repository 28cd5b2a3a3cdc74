//! The parties of the demo, and the manifest that declares them.

use serde_json::json;

use super::client::{Agent, new_key, now};
use crate::platform::fault::Fault;
use actchain_protocol::jose::{SigningAlg, SigningKey};

pub(super) const IDP: &str = "https://idp.example.com";
pub(super) const MAIL: &str = "https://mail.example.com";
pub(super) const ARCHIVE: &str = "https://archive.example.com";
pub(super) const FILES: &str = "https://files.example.com";

/// The users' identity provider, the agents, and the mail server.
pub(super) struct Cast {
    idp: SigningKey,
    pub(super) user_proxy: Agent,
    pub(super) email_svc: Agent,
    pub(super) followup_svc: Agent,
    pub(super) thief: Agent,
    pub(super) mail_server: Agent,
    pub(super) auditor: Agent,
}

impl Cast {
    /// All parties, with new keys and secrets.
    pub(super) fn new(issuer: &str) -> Result<Self, Fault> {
        Ok(Self {
            idp: SigningKey::generate(SigningAlg::ES256)?.0,
            user_proxy: Agent::with_secret(issuer, "user-proxy")?,
            email_svc: Agent::with_secret(issuer, "email-svc")?,
            followup_svc: Agent::with_key(issuer, "followup-svc", new_key()?)?,
            thief: Agent::with_secret(issuer, "thief")?,
            mail_server: Agent::with_secret(issuer, "mail-server")?,
            auditor: Agent::with_key(issuer, "auditor", new_key()?)?,
        })
    }

    /// A token of the identity provider for a user, valid for an hour.
    pub(super) fn user_token(&self, sub: &str) -> Result<String, Fault> {
        let claims = json!({"iss": IDP, "sub": sub, "aud": "actchain", "iat": now(), "exp": now() + 3600});
        Ok(self.idp.sign("JWT", &claims)?)
    }

    /// The manifest for `actchain apply`, for a server with this issuer.
    pub(super) fn world(&self, issuer: &str) -> String {
        let jwk = self.idp.public_jwk();
        let secret = |agent: &Agent| agent.secret.clone().unwrap_or_default();
        format!(
            r#"issuers:
  - {{iss: {IDP}, jwks: {{keys: [{jwk}]}}, audiences: [actchain], algorithms: [ES256]}}
resources:
  - {{id: "{MAIL}", scopes: [mail.read, mail.send], token_ttl: 300}}
  - {{id: "{ARCHIVE}", scopes: [mail.read, mail.send]}}
  - {{id: "{FILES}", scopes: [files.read]}}
clients:
  - {{id: user-proxy, kind: agent, name: User proxy, auth: client_secret_basic, secret: {proxy},
     scopes: [mail.read, mail.send, files.read], audiences: ["{MAIL}", "{ARCHIVE}", "{FILES}", "{issuer}"],
     authorization_details_types: [vault_connection],
     grant_types: [client_credentials, token-exchange, refresh_token]}}
  - {{id: email-svc, kind: agent, name: E-mail service, auth: client_secret_basic, secret: {email},
     scopes: [mail.read, mail.send], audiences: ["{MAIL}", "{issuer}"],
     authorization_details_types: [vault_connection], grant_types: [client_credentials, token-exchange],
     max_token_ttl: 200}}
  - {{id: followup-svc, kind: agent, name: Follow-up service, auth: none, dpop_keys: [{followup}],
     scopes: [mail.read, mail.send], audiences: ["{MAIL}", "{FILES}"],
     grant_types: [client_credentials, token-exchange], max_token_ttl: 100}}
  - {{id: thief, kind: agent, name: Some other agent, auth: client_secret_basic, secret: {thief},
     scopes: [mail.read, mail.send], audiences: ["{MAIL}"], grant_types: [token-exchange]}}
  - {{id: mail-server, kind: resource_server, name: Mail server, auth: client_secret_basic, secret: {mail_server},
     audiences: ["{MAIL}"]}}
  - {{id: auditor, kind: auditor, auth: none, dpop_keys: [{auditor}], grant_types: [client_credentials]}}
delegations:
  - {{id: alice-user-proxy, delegator: {{iss: {IDP}, sub: alice}}, delegate: user-proxy, expires_in: 3600, max_depth: 3}}
  - {{id: proxy-email, parent: alice-user-proxy, delegate: email-svc, scopes: [mail.read, mail.send],
     audiences: ["{MAIL}"], expires_in: 1800}}
  - {{id: email-followup, parent: proxy-email, delegate: followup-svc, scopes: [mail.read], expires_in: 900}}
"#,
            proxy = secret(&self.user_proxy),
            email = secret(&self.email_svc),
            followup = self.followup_svc.key().thumbprint(),
            thief = secret(&self.thief),
            mail_server = secret(&self.mail_server),
            auditor = self.auditor.key().thumbprint(),
        )
    }
}
