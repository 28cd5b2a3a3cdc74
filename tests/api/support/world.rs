//! The default world: Alice delegates reading and sending mail to `user-proxy`, which calls `email-svc`, which calls
//! `followup-svc`.

use actchain_protocol::jose::{SigningAlg, SigningKey};
use serde_json::{Value, json};

use super::agent::{Agent, Auth, JWT, fresh_jti};
use super::{Answer, Server};

pub const IDP: &str = "https://idp.example.com";
pub const MAIL: &str = "https://mail.example.com";
pub const CALENDAR: &str = "https://calendar.example.com";

/// A server with the default issuers, resources, clients and delegations.
pub struct World {
    pub server: Server,
    pub idp: SigningKey,
    pub user_proxy: Agent,
    pub email_svc: Agent,
    pub followup_svc: Agent,
    pub stranger: Agent,
    pub admin: Agent,
    /// The resource server of `MAIL`.
    pub mail_server: Agent,
}

impl World {
    pub async fn new() -> Self {
        Self::configured("").await
    }

    pub async fn configured(config: &str) -> Self {
        let (idp, _) = SigningKey::generate(SigningAlg::ES256).unwrap();
        let user_proxy = Agent::new("user-proxy", Auth::Assertion);
        let email_svc = Agent::new("email-svc", Auth::Basic("email-svc-secret-0123456789".into()));
        let followup_svc = Agent::new("followup-svc", Auth::None);
        let stranger = Agent::new("stranger", Auth::Post("stranger-secret-0123456789".into()));
        let admin = Agent::new("admin", Auth::Assertion);
        let mail_server = Agent::new("mail-server", Auth::Basic("mail-server-secret-0123456789".into()));
        let yaml = format!(
            r#"
issuers:
  - {{iss: {IDP}, jwks: {{keys: [{idp_jwk}]}}, audiences: [actchain], algorithms: [ES256], may_act: authorize}}
resources:
  - {{id: {MAIL}, scopes: [mail.read, mail.send, both], authorization_details_types: [mailbox], token_ttl: 600}}
  - {{id: {CALENDAR}, scopes: [calendar.read, both]}}
clients:
  - {{id: user-proxy, kind: agent, name: User proxy, auth: private_key_jwt, jwks: {{keys: [{proxy_jwk}]}},
     scopes: [mail.read, mail.send, calendar.read, both], audiences: ["{MAIL}", "{CALENDAR}"],
     authorization_details_types: [mailbox], grant_types: [client_credentials, token-exchange, refresh_token]}}
  - {{id: email-svc, kind: agent, name: E-mail, auth: client_secret_basic, secret: email-svc-secret-0123456789,
     scopes: [mail.read, mail.send, both], audiences: ["{MAIL}", "{CALENDAR}"],
     authorization_details_types: [mailbox], grant_types: [client_credentials, token-exchange, refresh_token]}}
  - {{id: followup-svc, kind: agent, auth: none, dpop_keys: [{followup_jkt}], scopes: [mail.read],
     audiences: ["{MAIL}"], grant_types: [token-exchange, refresh_token]}}
  - {{id: stranger, kind: agent, auth: client_secret_post, secret: stranger-secret-0123456789, dpop: optional,
     scopes: [mail.read, calendar.read, both], audiences: ["{MAIL}", "{CALENDAR}"],
     grant_types: [client_credentials, token-exchange]}}
  - {{id: admin, kind: admin, auth: private_key_jwt, jwks: {{keys: [{admin_jwk}]}}, scopes: [actchain.admin],
     grant_types: [client_credentials]}}
  - {{id: mail-server, kind: resource_server, auth: client_secret_basic, secret: mail-server-secret-0123456789,
     audiences: ["{MAIL}"]}}
delegations:
  - {{id: D, delegator: {{iss: {IDP}, sub: alice}}, delegate: user-proxy, expires_in: 3600, max_depth: 3}}
  - {{id: E, parent: D, delegate: email-svc, scopes: [mail.read, mail.send], audiences: ["{MAIL}"], expires_in: 600}}
  - {{id: F, parent: E, delegate: followup-svc, scopes: [mail.read], expires_in: 300}}
"#,
            idp_jwk = idp.public_jwk(),
            proxy_jwk = user_proxy.key.public_jwk(),
            followup_jkt = followup_svc.jkt(),
            admin_jwk = admin.key.public_jwk(),
        );
        let server = Server::start(config, &yaml).await;
        Self { server, idp, user_proxy, email_svc, followup_svc, stranger, admin, mail_server }
    }

    /// The claims of Alice's token.
    pub fn user_claims(&self) -> Value {
        let now = self.server.now();
        json!({"iss": IDP, "sub": "alice", "aud": "actchain", "iat": now, "exp": now + 3600, "jti": fresh_jti(),
               "sid": "session-1", "auth_time": now - 60, "acr": "high", "amr": ["pwd", "otp"]})
    }

    pub fn user_token(&self) -> String {
        self.user_token_with(|_| {})
    }

    pub fn user_token_with(&self, change: impl FnOnce(&mut Value)) -> String {
        let mut claims = self.user_claims();
        change(&mut claims);
        self.idp.sign("JWT", &claims).unwrap()
    }

    /// The token of `user-proxy` for Alice's token.
    pub async fn first_hop(&self) -> Answer {
        let request = self.user_proxy.exchange(&self.server, &self.user_token(), JWT).param("audience", MAIL);
        request.send().await.with_status(200)
    }

    /// The token of `email-svc` for the first hop's token.
    pub async fn second_hop(&self) -> Answer {
        self.next_hop(&self.email_svc, self.first_hop().await.token()).await
    }

    /// The token of `followup-svc` for the second hop's token.
    pub async fn third_hop(&self) -> Answer {
        self.next_hop(&self.followup_svc, self.second_hop().await.token()).await
    }

    async fn next_hop(&self, agent: &Agent, token: &str) -> Answer {
        agent.exchange(&self.server, token, super::agent::ACCESS_TOKEN).send().await.with_status(200)
    }
}
