//! The manifest that `actchain apply` reads: issuers, resources, clients, providers, sinks and delegations as
//! YAML. Unknown members, duplicate keys and duplicate ids are refused; each error names its place and repeats no
//! value of the file.

mod check;
mod issuer;
pub mod schema;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use schemars::JsonSchema;
use secrecy::SecretString;
use serde::Deserialize;
use serde_json::Value;

pub use self::issuer::IssuerDeclaration;
use crate::domain::client::{AuthMethod, DpopPolicy, Grant, Kind};
use crate::domain::principal::Principal;
use crate::platform::fault::Fault;
use crate::platform::yaml::{self, Place};
use crate::services::sinks::SinkDeclaration;
use crate::services::vault::ProviderDeclaration;

/// A manifest for `actchain apply`. Several files are read as one. What is registered and not declared stays as it is.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(title = "actchain manifest")]
pub struct Manifest {
    /// Trusted issuers of user tokens and workload tokens.
    pub issuers: Vec<IssuerDeclaration>,
    /// Resource servers that tokens are for.
    pub resources: Vec<ResourceDeclaration>,
    /// Clients that authenticate at this server.
    pub clients: Vec<ClientDeclaration>,
    /// Providers of the credentials that the vault keeps.
    pub providers: Vec<ProviderDeclaration>,
    /// HTTP endpoints to which the audit log is sent.
    pub sinks: Vec<SinkDeclaration>,
    /// Delegations; a parent is declared before its children.
    pub delegations: Vec<DelegationDeclaration>,
}

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
    pub(super) place: Place,
}

/// A client.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ClientDeclaration {
    /// Client id: letters, digits and `-._~:/@`, not beginning with `-`. `server`, `user`, `operator` and `witness` are
    /// reserved.
    #[schemars(
        length(min = 1, max = 128),
        regex(pattern = r"^[A-Za-z0-9._~:/@][A-Za-z0-9._~:/@-]*$"),
        example = &"mail-bot"
    )]
    pub id: String,
    /// Kind of the client. A declared client of another kind is replaced only with `--replace`.
    pub kind: Kind,
    /// Name for people; the id where absent.
    #[schemars(length(min = 1, max = 100), example = &"Mail bot")]
    pub name: Option<String>,
    /// Authentication method (RFC 7591 §2).
    pub auth: AuthMethod,
    /// Client secret for `client_secret_basic` and `client_secret_post`; at least 16 bytes. Where neither `secret` nor
    /// `secret_file` is given and the client has no secret, a secret is made and printed once.
    #[schemars(with = "Option<String>", length(min = 16), example = &"mail-bot-secret-0123456789")]
    pub secret: Option<SecretString>,
    /// File with the client secret; a line break at its end is ignored.
    #[schemars(example = &"/run/secrets/mail-bot")]
    pub secret_file: Option<PathBuf>,
    /// Public keys for `private_key_jwt` as a JWK Set.
    #[serde(default)]
    #[schemars(schema_with = "schema::jwks")]
    pub jwks: Option<Value>,
    /// URL of the JWK Set for `private_key_jwt`; https, and no private address.
    #[schemars(example = &"https://bot.example.com/jwks.json")]
    pub jwks_uri: Option<String>,
    /// Scopes that the client can get at most. Each is declared by a resource, or is one of `actchain.delegate`,
    /// `actchain.admin` (kind `admin`) and `actchain.audit` (kind `auditor`).
    #[serde(default)]
    #[schemars(example = ["mail.read"])]
    pub scopes: BTreeSet<String>,
    /// Resources that the client can get tokens for; this server's issuer is one, too.
    #[serde(default)]
    #[schemars(example = ["https://mail.example.com"])]
    pub audiences: BTreeSet<String>,
    /// Types of `authorization_details` that the client can get at most; each is declared by a resource.
    #[serde(default)]
    #[schemars(example = ["mailbox"])]
    pub authorization_details_types: BTreeSet<String>,
    /// Grant types that the client can use.
    #[serde(default)]
    #[schemars(example = ["token-exchange"])]
    pub grant_types: BTreeSet<Grant>,
    /// Whether each token request needs a DPoP proof (RFC 9449).
    #[serde(default)]
    pub dpop: DpopPolicy,
    /// SHA-256 thumbprints (RFC 7638) of the only keys that the client can use for DPoP; any key where absent. Needed for
    /// `auth: none`. An empty list is refused.
    #[serde(default, deserialize_with = "yaml::present")]
    #[schemars(length(min = 1), example = ["0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I"])]
    pub dpop_keys: Option<BTreeSet<String>>,
    /// Workload identities of trusted issuers whose tokens prove this client as an actor.
    #[serde(default)]
    #[schemars(example = [serde_json::json!({"iss": "https://idp.example.com", "sub": "spiffe://example.com/mail-bot"})])]
    pub actor_subjects: Vec<Principal>,
    /// Longest lifetime of the client's tokens, in seconds; `tokens.max_ttl` where absent.
    #[schemars(range(min = 1, max = 2_147_483_647), example = 300)]
    pub max_token_ttl: Option<u32>,
    #[serde(skip)]
    pub(super) place: Place,
}

/// A delegation. A limit that is left out is the one above. The terms of a declared delegation do not change.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DelegationDeclaration {
    /// Delegation id: letters, digits and `-._~`; not beginning with `-` or `may-`.
    #[schemars(
        length(min = 1, max = 64),
        regex(pattern = "^[A-Za-z0-9._~][A-Za-z0-9._~-]*$"),
        example = &"alice-mail-bot"
    )]
    pub id: String,
    /// Delegator of a root delegation: a user of a trusted issuer, or a client of this server. Excludes `parent`.
    pub delegator: Option<Principal>,
    /// Id of the delegation above. Excludes `delegator`.
    #[schemars(example = &"alice-assistant")]
    pub parent: Option<String>,
    /// Client of kind `agent` that receives the authority.
    #[schemars(example = &"mail-bot")]
    pub delegate: String,
    /// Scopes, each declared by a resource; an empty list allows none.
    #[serde(default, deserialize_with = "yaml::present")]
    #[schemars(length(max = 100), example = ["mail.read"])]
    pub scopes: Option<BTreeSet<String>>,
    /// Resources, each declared; an empty list allows none.
    #[serde(default, deserialize_with = "yaml::present")]
    #[schemars(length(max = 100), example = ["https://mail.example.com"])]
    pub audiences: Option<BTreeSet<String>>,
    /// `authorization_details` (RFC 9396 §2); an empty list allows none.
    #[serde(default)]
    #[schemars(schema_with = "schema::details")]
    pub authorization_details: Option<Value>,
    /// Lifetime in seconds from the first apply; needed at the root. A lifetime beyond the parent's end or
    /// `delegations.max_ttl` is shortened, and the plan says to what.
    #[schemars(range(min = 1), example = 3600)]
    pub expires_in: Option<u32>,
    /// Most actors of a token under the delegation.
    #[schemars(range(min = 1, max = 2_147_483_647), example = 2)]
    pub max_depth: Option<u32>,
    /// Most uses; a use is an exchange, a vault retrieval or a reported step.
    #[schemars(range(min = 1), example = 100)]
    pub max_uses: Option<u32>,
    /// Highest capability, one of `delegations.capabilities`.
    #[schemars(example = &"observe")]
    pub capability_ceiling: Option<String>,
    /// Capabilities and scopes whose every use the delegator confirms (a ceremony).
    #[serde(default)]
    #[schemars(length(max = 100), example = ["mail.send"])]
    pub ceremony_required_for: BTreeSet<String>,
    /// Reason, shown to people; at most 500 characters.
    #[schemars(length(max = 500), example = &"Answers mail while Alice is away")]
    pub reason: Option<String>,
    #[serde(skip)]
    pub(super) place: Place,
}

impl Manifest {
    /// Reads the text of one file.
    ///
    /// # Errors
    /// A fault with the place and the reason.
    pub fn parse(origin: &str, text: &str) -> Result<Self, Fault> {
        let (mut read, places): (Self, _) = yaml::read(origin, text)?;
        let places = Arc::new(places);
        for (path, place, _) in read.entries() {
            *place = Place::new(&places, path);
        }
        Ok(read)
    }

    /// Appends the entries of another file.
    pub fn merge(&mut self, other: Self) {
        self.issuers.extend(other.issuers);
        self.resources.extend(other.resources);
        self.clients.extend(other.clients);
        self.providers.extend(other.providers);
        self.sinks.extend(other.sinks);
        self.delegations.extend(other.delegations);
    }

    /// Path, place and id of each entry.
    fn entries(&mut self) -> Vec<(String, &mut Place, &str)> {
        let mut all = Vec::new();
        for (index, one) in self.issuers.iter_mut().enumerate() {
            all.push((format!("issuers[{index}]"), &mut one.place, one.iss.as_str()));
        }
        for (index, one) in self.resources.iter_mut().enumerate() {
            all.push((format!("resources[{index}]"), &mut one.place, one.id.as_str()));
        }
        for (index, one) in self.clients.iter_mut().enumerate() {
            all.push((format!("clients[{index}]"), &mut one.place, one.id.as_str()));
        }
        for (index, one) in self.providers.iter_mut().enumerate() {
            all.push((format!("providers[{index}]"), &mut one.place, one.id.as_str()));
        }
        for (index, one) in self.sinks.iter_mut().enumerate() {
            all.push((format!("sinks[{index}]"), &mut one.place, one.id.as_str()));
        }
        for (index, one) in self.delegations.iter_mut().enumerate() {
            all.push((format!("delegations[{index}]"), &mut one.place, one.id.as_str()));
        }
        all
    }

    /// Refuses two entries of one kind with the same id.
    fn check_unique(&mut self) -> Result<(), Fault> {
        let mut first: BTreeMap<(String, &str), String> = BTreeMap::new();
        for (path, place, id) in self.entries() {
            let kind = path.split('[').next().unwrap_or_default().to_owned();
            if let Some(before) = first.get(&(kind.clone(), id)) {
                return Err(place.whole(format!("{id} is declared twice: first at {before}")));
            }
            first.insert((kind, id), place.to_string());
        }
        Ok(())
    }
}

/// Reads several files (name, text) as one manifest.
///
/// # Errors
/// A fault with the place and the reason; for an id that is there twice, with both places.
pub fn read_all(files: &[(String, String)]) -> Result<Manifest, Fault> {
    let mut all = Manifest::default();
    for (origin, text) in files {
        all.merge(Manifest::parse(origin, text)?);
    }
    all.check_unique()?;
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_jwk_may_be_written_without_quotes() {
        let yaml = "clients:
  - {id: a, kind: agent, auth: private_key_jwt, jwks: {keys: [{kty: EC, crv: P-256, x: f83, y: x_F}]}}";
        let declared = Manifest::parse("test", yaml).unwrap();
        assert_eq!(declared.clients[0].jwks.as_ref().unwrap()["keys"][0]["y"], "x_F");
    }

    #[test]
    fn an_id_that_two_files_declare_is_refused_with_both_places() {
        let file = |name: &str, text: &str| (name.to_owned(), text.to_owned());
        let agent = "{id: a, kind: agent, auth: client_secret_basic}";
        let one = file("one.yaml", &format!("clients:\n  - {agent}"));
        let two = file("two.yaml", &format!("resources: []\nclients:\n  - {agent}"));
        let said = read_all(&[one.clone(), two]).unwrap_err().to_string();
        assert_eq!(said, "two.yaml:3:5: clients[0]: a is declared twice: first at one.yaml:2:5");
        for (kind, entry) in [
            ("issuers", "{iss: \"https://i.example\", jwks: {keys: []}, audiences: [x]}"),
            ("resources", "{id: a, scopes: []}"),
            ("providers", "{id: a, kind: api_key}"),
            ("sinks", "{id: a, url: \"https://s.example\"}"),
            ("delegations", "{id: a, delegate: b}"),
        ] {
            let text = format!("{kind}:\n  - {entry}\n  - {entry}\n");
            let said = read_all(&[file("m.yaml", &text)]).unwrap_err().to_string();
            assert!(said.contains("m.yaml:3:5") && said.contains("m.yaml:2:5"), "{said}");
        }
        read_all(&[one, file("r.yaml", "resources: [{id: a, scopes: []}]")]).unwrap();
    }

    #[test]
    fn no_mistake_shows_the_secret_beside_it() {
        const CANARY: &str = "canary-7f3a-Passw0rd";
        let around = |client: &str| format!("clients:\n  - {{id: a, kind: agent, {client}}}\n");
        let block = |lines: &str| format!("clients:\n  - id: a\n    kind: agent\n{lines}\n");
        let mut refused = 0;
        for text in [
            around(&format!("auth: client_secret_basic, secret: {CANARY}, colour: red")),
            around(&format!("auth: client_secret_basic, secret:{CANARY}")),
            around(&format!("auth: client_secret_basic secret: {CANARY}")),
            around(&format!("auth: {CANARY}")),
            around(&format!("auth: client_secret_basic, secret: \"{CANARY}")),
            around(&format!("auth: client_secret_basic, secret: [{CANARY}]")),
            around(&format!("auth: client_secret_basic, secret: {{{CANARY}: x}}")),
            around(&format!("auth: client_secret_basic, secret: {CANARY}, secret: {CANARY}")),
            around(&format!("auth: client_secret_basic, {CANARY}: x")),
            around(&format!("auth: client_secret_basic, {CANARY}: x, {CANARY}: y")),
            around(&format!("auth: client_secret_basic, scopes: {CANARY}")),
            around(&format!("auth: client_secret_basic, max_token_ttl: {CANARY}")),
            around(&format!("auth: client_secret_basic, secret: *{CANARY}")),
            around(&format!("auth: client_secret_basic, secret: @{CANARY}")),
            around(&format!("auth: client_secret_basic, secret: %{CANARY}")),
            around(&format!("auth: client_secret_basic, actor_subjects: [{CANARY}]")),
            around(&format!("auth: client_secret_basic, actor_subjects: [{{iss: i, sub: s, {CANARY}: x}}]")),
            around(&format!("auth: client_secret_basic, grant_types: [{CANARY}]")),
            around(&format!("auth: client_secret_basic, secret: {CANARY}]")),
            block(&format!("    auth: client_secret_basic\n    secret: {CANARY}\n   colour: red")),
            block(&format!("    auth: client_secret_basic\n\tsecret: {CANARY}")),
            block(&format!("    auth: client_secret_basic\n    secret {CANARY}")),
            block(&format!("    auth: client_secret_basic\n    secret: {CANARY}: x")),
            block(&format!("    auth: client_secret_basic\n    secret: |\n   {CANARY}")),
            block(&format!("    auth: client_secret_basic\n    - secret: {CANARY}")),
            block(&format!("    auth: client_secret_basic\n    secret: '{CANARY}")),
            block(&format!("    auth: client_secret_basic\n    ? [{CANARY}]\n    : x")),
            CANARY.to_owned(),
            format!("- {CANARY}"),
            format!("clients: {CANARY}"),
            format!("{CANARY}: []"),
            format!("clients: []\n---\nsecret: {CANARY}"),
            format!("sinks: [{{id: s, url: u, filter: {CANARY}}}]"),
            format!("sinks: [{{id: s, url: u, filter: {{{CANARY}: x, {CANARY}: y}}}}]"),
            format!("providers: [{{id: s, authorization_params: {{{CANARY}: [x]}}}}]"),
            format!("providers: [{{id: s, client_secret: {CANARY}, kind: {CANARY}}}]"),
            format!("clients: [{{id: a, kind: agent, auth: client_secret_basic, secret: \"{CANARY}\\0\"}}]"),
        ] {
            // What YAML reads without a complaint shows nothing either.
            let Err(fault) = Manifest::parse("m.yaml", &text) else { continue };
            let said = fault.to_string();
            refused += 1;
            assert!(said.starts_with("m.yaml:"), "no place: {said}\n{text}");
            for part in [CANARY, "canary", "7f3a", "Passw0rd"] {
                assert!(!said.contains(part), "{said}\n{text}");
            }
        }
        assert!(refused >= 30, "{refused} mistakes");
    }
}
