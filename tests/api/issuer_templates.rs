//! The ready manifests of `examples/issuers`, each with a provider whose documents and tokens have the shape of the real
//! ones: member names, types and header fields are as documented by the providers, values are invented.

use std::collections::BTreeSet;
use std::path::Path;

use actchain_protocol::base64url;
use actchain_protocol::jose::{SigningAlg, SigningKey};
use serde_json::{Value, json};
use wiremock::matchers::path;
use wiremock::{Mock, MockServer, ResponseTemplate};

use crate::support::Answer;
use crate::support::agent::{ID_TOKEN, JWT};
use crate::support::world::{MAIL, World};

/// The ids in `examples/issuers/entra.yaml`.
const TENANT: &str = "8a1f0e5c-0d7e-4f0a-9b55-6c2f3f1f2a10";
const API: &str = "1f6e2c9a-7b1d-4e57-9a3c-2d8f5b0a6e41";
const APP: &str = "c0d4e8f2-6a1b-4c3d-9e5f-7a8b9c0d1e2f";

/// What a token of a provider is used for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    Subject(&'static str),
    Actor,
}

/// A provider, as its documentation describes its documents.
struct Template {
    /// The file in `examples/issuers`, without its ending.
    file: &'static str,
    /// The host in the file, which the test replaces.
    host: &'static str,
    /// The path of the issuer of its tokens.
    issuer: &'static str,
    /// The path of the metadata.
    metadata: &'static str,
    /// The path of the keys.
    keys: &'static str,
    /// Members of the metadata besides `issuer` and `jwks_uri`.
    document: Value,
    /// Header fields besides `alg` and `kid`.
    header: Value,
    /// Claims besides `iss`, `iat` and `exp`.
    claims: Value,
    role: Role,
    /// The name of the user or workload in `claims`.
    subject: &'static str,
    /// Changes of claims that make the token one that the manifest does not accept, with the cause in the log.
    wrong: Vec<(&'static str, Value, &'static str)>,
}

fn templates() -> Vec<Template> {
    let endpoints = |algorithms: &[&str]| {
        json!({
            "response_types_supported": ["code"], "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": algorithms,
            "scopes_supported": ["openid"], "claims_supported": ["sub", "iss"],
        })
    };
    vec![
        Template {
            file: "keycloak",
            host: "https://keycloak.example.com",
            issuer: "/realms/staff",
            metadata: "/realms/staff/.well-known/openid-configuration",
            keys: "/realms/staff/protocol/openid-connect/certs",
            document: endpoints(&[
                "PS384", "RS384", "EdDSA", "ES384", "HS256", "ES256", "RS256", "PS512", "RS512",
            ]),
            header: json!({"typ": "JWT"}),
            claims: json!({
                "auth_time": 1_767_225_000, "jti": "onrtac:7a0c6f1e-4c50-7d0e-5b56-1b5b8f0c0d2e", "aud": ["actchain", "account"],
                "sub": "0b3b2a52-6c0f-4a2f-9d5e-5f8f7b1f3c11", "typ": "Bearer", "azp": "web-app",
                "sid": "6e0ff7a1-2f4b-4a0e-8f63-0f9a3f1b2c3d", "acr": "1", "allowed-origins": ["https://app.example.com"],
                "realm_access": {"roles": ["offline_access", "default-roles-staff"]},
                "resource_access": {"account": {"roles": ["view-profile"]}}, "scope": "openid profile email mail.read",
                "email_verified": true, "name": "Alice Example", "preferred_username": "alice",
                "family_name": "Example", "email": "alice@example.com",
            }),
            role: Role::Subject(JWT),
            subject: "0b3b2a52-6c0f-4a2f-9d5e-5f8f7b1f3c11",
            wrong: vec![
                ("aud", json!("account"), "audience"),
                ("azp", json!("other-app"), "client_not_accepted"),
            ],
        },
        Template {
            file: "entra",
            host: "https://login.microsoftonline.com",
            issuer: "/8a1f0e5c-0d7e-4f0a-9b55-6c2f3f1f2a10/v2.0",
            metadata: "/organizations/v2.0/.well-known/openid-configuration",
            keys: "/organizations/discovery/v2.0/keys",
            document: json!({
                "token_endpoint": "https://login.microsoftonline.com/organizations/oauth2/v2.0/token",
                "id_token_signing_alg_values_supported": ["RS256"], "subject_types_supported": ["pairwise"],
                "response_types_supported": ["code", "id_token"], "tenant_region_scope": null,
                "cloud_instance_name": "microsoftonline.com", "http_logout_supported": true,
            }),
            header: json!({"typ": "JWT"}),
            claims: json!({
                "aud": API, "nbf": 1_767_225_600, "aio": "AWQAm/8TAAAAexample", "azp": APP, "azpacr": "1",
                "name": "Alice Example", "oid": "3f0c9a1d-7e2b-4c5a-8d6f-9a0b1c2d3e4f",
                "preferred_username": "alice@example.com", "rh": "1.AAAAexample.", "scp": "mail.read",
                "sid": "005e1f2a-3b4c-5d6e-7f80-91a2b3c4d5e6", "sub": "pairwise-of-alice-for-this-api",
                "tid": TENANT, "uti": "exampleUti0123456789AA", "ver": "2.0",
            }),
            role: Role::Subject(JWT),
            subject: "3f0c9a1d-7e2b-4c5a-8d6f-9a0b1c2d3e4f",
            wrong: vec![
                ("aud", json!("00000003-0000-0000-c000-000000000000"), "audience"),
                ("azp", json!("00000000-0000-0000-0000-000000000001"), "client_not_accepted"),
                ("tid", json!("5b3c7d21-44f1-4c0e-8a1d-0f9e2b6c7d30"), "tenant"),
                ("iss", json!("/9188040d-6c67-4c5b-b112-36a304b66dad/v2.0"), "issuer_unknown"),
            ],
        },
        Template {
            file: "okta",
            host: "https://dev-000000.okta.com",
            issuer: "/oauth2/default",
            metadata: "/.well-known/oauth-authorization-server/oauth2/default",
            keys: "/oauth2/default/v1/keys",
            document: endpoints(&["RS256"]),
            header: json!({}),
            claims: json!({
                "ver": 1, "jti": "AT.example0123456789", "aud": "api://default", "cid": "0oa1example2client3",
                "uid": "00u1example2user3id4", "scp": ["openid", "mail.read"], "auth_time": 1_767_225_000,
                "sub": "alice@example.com",
            }),
            role: Role::Subject(JWT),
            subject: "00u1example2user3id4",
            wrong: vec![
                ("aud", json!("api://other"), "audience"),
                ("cid", json!("0oa9other"), "client_not_accepted"),
                ("uid", json!(null), "claims"),
            ],
        },
        Template {
            file: "auth0",
            host: "https://example.eu.auth0.com",
            issuer: "/",
            metadata: "/.well-known/openid-configuration",
            keys: "/.well-known/jwks.json",
            document: endpoints(&["HS256", "RS256", "PS256"]),
            header: json!({"typ": "JWT"}),
            claims: json!({
                "sub": "auth0|65a1b2c3d4e5f60718293a4b",
                "aud": ["https://actchain.example.com", "https://example.eu.auth0.com/userinfo"],
                "scope": "openid profile", "azp": "AbCdEfGhIjKlMnOpQrStUvWxYz012345", "permissions": ["mail.read"],
            }),
            role: Role::Subject(JWT),
            subject: "auth0|65a1b2c3d4e5f60718293a4b",
            wrong: vec![
                ("aud", json!("https://example.eu.auth0.com/userinfo"), "audience"),
                ("azp", json!("other"), "client_not_accepted"),
            ],
        },
        Template {
            file: "google",
            host: "https://accounts.google.com",
            issuer: "",
            metadata: "/.well-known/openid-configuration",
            keys: "/oauth2/v3/certs",
            document: endpoints(&["RS256"]),
            header: json!({"typ": "JWT"}),
            claims: json!({
                "azp": "000000000000-example.apps.googleusercontent.com",
                "aud": "000000000000-example.apps.googleusercontent.com", "sub": "110169484474386276334",
                "hd": "example.com", "email": "alice@example.com", "email_verified": true, "at_hash": "HK6E_P6Dh8Y93mRNtsDB1Q",
                "name": "Alice Example", "picture": "https://lh3.googleusercontent.com/a/example", "family_name": "Example",
                "nonce": "0394852-3190485-2490358",
            }),
            role: Role::Subject(ID_TOKEN),
            subject: "110169484474386276334",
            wrong: vec![
                ("aud", json!("111111111111-other.apps.googleusercontent.com"), "audience"),
                ("azp", json!("111111111111-other.apps.googleusercontent.com"), "client_not_accepted"),
                ("iss", json!("accounts.google.com"), "issuer_unknown"),
            ],
        },
        Template {
            file: "zitadel",
            host: "https://example-abc123.zitadel.cloud",
            issuer: "",
            metadata: "/.well-known/openid-configuration",
            keys: "/oauth/v2/keys",
            document: endpoints(&["EdDSA", "RS256", "RS384", "RS512", "ES256", "ES384", "ES512"]),
            header: json!({"typ": "JWT"}),
            claims: json!({
                "sub": "280000000000000009", "aud": ["280000000000000002", "280000000000000001"], "nbf": 1_767_225_600,
                "client_id": "280000000000000002", "jti": "V2_280000000000000010-at_280000000000000011",
            }),
            role: Role::Subject(JWT),
            subject: "280000000000000009",
            wrong: vec![
                ("aud", json!(["280000000000000002"]), "audience"),
                ("client_id", json!("280000000000000003"), "client_not_accepted"),
            ],
        },
        Template {
            file: "authentik",
            host: "https://authentik.example.com",
            issuer: "/application/o/actchain/",
            metadata: "/application/o/actchain/.well-known/openid-configuration",
            keys: "/application/o/actchain/jwks/",
            document: endpoints(&["RS256"]),
            header: json!({"typ": "JWT"}),
            claims: json!({
                "sub": "5d1f7c3a-9b2e-4f60-8a1d-2c3b4d5e6f70", "aud": "aKexampleClientId0123456789",
                "auth_time": 1_767_225_000, "acr": "goauthentik.io/providers/oauth2/default", "amr": ["pwd", "mfa"],
                "sid": "2b1e0c9d8f7a6b5c4d3e2f1a0b9c8d7e", "jti": "aKexampleJti", "email": "alice@example.com",
                "email_verified": true, "name": "Alice Example", "family_name": "Example", "preferred_username": "alice",
                "nickname": "alice", "groups": ["staff"], "azp": "aKexampleClientId0123456789", "uid": "aKexampleUid",
            }),
            role: Role::Subject(ID_TOKEN),
            subject: "5d1f7c3a-9b2e-4f60-8a1d-2c3b4d5e6f70",
            wrong: vec![("aud", json!("other"), "audience"), ("azp", json!("other"), "client_not_accepted")],
        },
        Template {
            file: "kubernetes",
            host: "https://kubernetes.default.svc.cluster.local",
            issuer: "",
            metadata: "/.well-known/openid-configuration",
            keys: "/openid/v1/jwks",
            document: json!({
                "response_types_supported": ["id_token"], "subject_types_supported": ["public"],
                "id_token_signing_alg_values_supported": ["RS256"],
            }),
            header: json!({}),
            claims: json!({
                "aud": ["actchain"], "jti": "ea28ed49-2e11-4280-9ec5-bc3d1d84661a", "nbf": 1_767_225_600,
                "kubernetes.io": {
                    "namespace": "agents", "node": {"name": "node-1", "uid": "646e7c5e-32d6-4d42-9dbd-e504e6cbe6b1"},
                    "pod": {"name": "mail-bot-0", "uid": "5e0bd49b-f040-43b0-99b7-22765a53f7f3"},
                    "serviceaccount": {"name": "mail-bot", "uid": "14ee3fa4-a7e2-420f-9f9a-dbc4507c3798"},
                    "warnafter": 1_767_229_207,
                },
                "sub": "system:serviceaccount:agents:mail-bot",
            }),
            role: Role::Actor,
            subject: "system:serviceaccount:agents:mail-bot",
            wrong: vec![
                ("aud", json!(["https://kubernetes.default.svc.cluster.local"]), "audience"),
                ("sub", json!("system:serviceaccount:other:mail-bot"), ""),
            ],
        },
        Template {
            file: "github-actions",
            host: "https://token.actions.githubusercontent.com",
            issuer: "",
            metadata: "/.well-known/openid-configuration",
            keys: "/.well-known/jwks",
            document: json!({
                "subject_types_supported": ["public", "pairwise"], "response_types_supported": ["id_token"],
                "claims_supported": ["sub", "aud", "exp", "iat", "iss", "jti", "nbf", "ref", "repository"],
                "id_token_signing_alg_values_supported": ["RS256"], "scopes_supported": ["openid"],
            }),
            header: json!({"typ": "JWT", "x5t": "eR2T0example"}),
            claims: json!({
                "jti": "0c9d8e7f-6a5b-4c3d-2e1f-0a9b8c7d6e5f", "sub": "repo:example-org/mail-bot:environment:production",
                "environment": "production", "aud": "actchain", "ref": "refs/heads/main",
                "sha": "0123456789abcdef0123456789abcdef01234567", "repository": "example-org/mail-bot",
                "repository_owner": "example-org", "actor_id": "12", "repository_visibility": "private",
                "repository_id": "74", "repository_owner_id": "65", "run_id": "1001", "run_number": "10", "run_attempt": "2",
                "runner_environment": "github-hosted", "actor": "octocat", "workflow": "deploy", "head_ref": "",
                "base_ref": "", "event_name": "workflow_dispatch", "ref_type": "branch", "nbf": 1_767_225_600,
                "job_workflow_ref": "example-org/mail-bot/.github/workflows/deploy.yml@refs/heads/main",
            }),
            role: Role::Actor,
            subject: "repo:example-org/mail-bot:environment:production",
            wrong: vec![
                ("aud", json!("https://github.com/example-org"), "audience"),
                ("sub", json!("repo:attacker/mail-bot:environment:production"), ""),
            ],
        },
    ]
}

/// A world that has applied a template, and the template's provider.
struct Story {
    world: World,
    provider: MockServer,
    key: SigningKey,
    template: Template,
}

impl Story {
    async fn of(template: Template) -> Self {
        let (world, provider) = (World::new().await, MockServer::start().await);
        let (key, _) = SigningKey::generate(SigningAlg::RS256).unwrap();
        let at = |path: &str| format!("{}{path}", provider.uri());
        let text = std::fs::read_to_string(folder().join(format!("{}.yaml", template.file))).unwrap();
        assert!(text.contains(template.host), "{}", template.file);
        let text = text.replace(template.host, &provider.uri());
        let declared: Value = serde_saphyr::from_str(&text).unwrap();
        let mut document = template.document.clone();
        document["issuer"] = declared["issuers"][0]["iss"].clone();
        document["jwks_uri"] = json!(at(template.keys));
        // Some providers publish keys without `alg`, with certificates, and keys for encryption beside them.
        let mut jwk = key.public_jwk();
        jwk.as_object_mut().unwrap().remove("alg");
        (jwk["x5t"], jwk["x5c"]) = (json!("example"), json!(["MIIexample"]));
        let other =
            json!({"kty": "RSA", "use": "enc", "alg": "RSA-OAEP", "kid": "e", "e": "AQAB", "n": jwk["n"]});
        for (place, body) in [(template.metadata, document), (template.keys, json!({"keys": [other, jwk]}))] {
            let answer = ResponseTemplate::new(200).set_body_json(body);
            Mock::given(path(place)).respond_with(answer).mount(&provider).await;
        }
        world.server.apply(&text).await.unwrap_or_else(|fault| panic!("{}: {fault}", template.file));
        let story = Self { world, provider, key, template };
        story.declare().await;
        story
    }

    fn issuer(&self) -> String {
        format!("{}{}", self.provider.uri(), self.template.issuer)
    }

    /// The delegation of the user, or the client whose workload the token is about.
    async fn declare(&self) {
        let (iss, sub) = (self.issuer(), self.template.subject);
        let yaml = match self.template.role {
            Role::Subject(_) => format!(
                "delegations:\n  - {{id: OWN, delegator: {{iss: \"{iss}\", sub: \"{sub}\"}}, delegate: user-proxy, expires_in: 3600}}"
            ),
            Role::Actor => format!(
                "clients:\n  - {{id: user-proxy, kind: agent, auth: private_key_jwt, jwks: {{keys: [{}]}}, scopes: [mail.read],\n     \
                 audiences: [\"{MAIL}\"], grant_types: [token-exchange], actor_subjects: [{{iss: \"{iss}\", sub: \"{sub}\"}}]}}",
                self.world.user_proxy.key.public_jwk()
            ),
        };
        self.world.server.apply(&yaml).await.unwrap();
    }

    fn token(&self, change: Option<(&str, &Value)>) -> String {
        let now = self.world.server.now();
        let mut claims = self.template.claims.clone();
        (claims["iss"], claims["iat"], claims["exp"]) = (json!(self.issuer()), json!(now), json!(now + 3600));
        if let Some((name, value)) = change {
            // Another issuer is at the same host.
            let path = value.as_str().filter(|text| name == "iss" && text.starts_with('/'));
            claims[name] =
                path.map_or_else(|| value.clone(), |path| json!(format!("{}{path}", self.provider.uri())));
        }
        let mut header = self.template.header.clone();
        (header["alg"], header["kid"]) = (json!("RS256"), json!(self.key.kid()));
        let input = [header, claims].map(|part| base64url::encode(part.to_string())).join(".");
        let signature = self.key.sign_raw(input.as_bytes()).unwrap();
        format!("{input}.{}", base64url::encode(signature))
    }

    async fn exchange(&self, token: &str) -> Answer {
        let (world, proxy) = (&self.world, &self.world.user_proxy);
        match self.template.role {
            Role::Subject(kind) => {
                let request = proxy.exchange(&world.server, token, kind).param("audience", MAIL);
                request.param("scope", "mail.read").send().await
            }
            Role::Actor => {
                let request = proxy.exchange(&world.server, &world.user_token(), JWT).param("audience", MAIL);
                let request = request.param("scope", "mail.read");
                request.param("actor_token", token).param("actor_token_type", JWT).send().await
            }
        }
    }
}

fn folder() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/issuers")
}

#[tokio::test(flavor = "multi_thread")]
async fn each_template_accepts_the_tokens_of_its_provider_and_no_others() {
    for template in templates() {
        let file = template.file;
        let story = Story::of(template).await;
        let answer = story.exchange(&story.token(None)).await;
        assert_eq!(answer.status, 200, "{file}: {}", answer.text);
        let claims = answer.claims();
        match story.template.role {
            Role::Subject(_) => {
                assert_eq!(claims["idp"], json!(story.issuer()), "{file}");
                let sub = claims["sub"].as_str().unwrap();
                assert!(sub.ends_with(&format!(":{}", story.template.subject)), "{file}: {sub}");
            }
            Role::Actor => assert_eq!(claims["act"]["sub"], "user-proxy", "{file}"),
        }
        for (name, value, cause) in &story.template.wrong {
            let answer = story.exchange(&story.token(Some((*name, value)))).await;
            let reason = match (story.template.role, *cause) {
                (_, "") => "actor_is_not_client",
                (Role::Subject(_), _) => "subject_token_invalid",
                (Role::Actor, _) => "actor_token_invalid",
            };
            assert_eq!(
                (answer.status, answer.reason()),
                (400, reason),
                "{file}: {name} {value}: {}",
                answer.text
            );
            let event = story.world.server.last_event().await;
            let found = event["detail"]["cause"].as_str().unwrap_or_default();
            assert_eq!(found, *cause, "{file}: {name} {value}");
        }
    }
}

#[test]
fn each_template_is_tested_and_on_the_page_about_issuers() {
    let tested: BTreeSet<String> = templates().iter().map(|one| format!("{}.yaml", one.file)).collect();
    let files = std::fs::read_dir(folder()).unwrap();
    let files: BTreeSet<String> =
        files.map(|file| file.unwrap().file_name().into_string().unwrap()).collect();
    assert_eq!(tested, files);
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/how-to/trust-an-issuer.md");
    let page = std::fs::read_to_string(page).unwrap();
    for file in files {
        assert!(page.contains(&format!("`examples/issuers/{file}`")), "the page does not name {file}");
    }
}
