//! The manifest that `actchain apply` reads: issuers, resources, clients, providers, sinks, registrars, delegations and rules
//! as YAML. Unknown members, duplicate keys and duplicate ids are refused; each error names its place and repeats no
//! value of the file.

mod check;
mod client;
mod delegation;
mod introspection;
mod issuer;
mod resource;
mod rule;
pub(super) mod schema;
mod sign_in;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;

pub use self::client::ClientDeclaration;
pub use self::delegation::DelegationDeclaration;
pub(super) use self::introspection::DeclaredIntrospection;
pub use self::introspection::IntrospectionDeclaration;
pub(super) use self::issuer::DeclaredIssuer;
pub use self::issuer::IssuerDeclaration;
pub use self::resource::ResourceDeclaration;
pub use self::rule::RuleDeclaration;
pub(super) use self::sign_in::DeclaredSignIn;
pub use self::sign_in::SignInDeclaration;
use crate::platform::yaml::{self, InvalidDeclaration, Place};
use crate::services::registrars::RegistrarDeclaration;
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
    /// Identity providers at which ephemeral agents are registered.
    pub registrars: Vec<RegistrarDeclaration>,
    /// Delegations; a parent is declared before its children.
    pub delegations: Vec<DelegationDeclaration>,
    /// Rules that examine what agents do, besides the built-in rules.
    #[schemars(length(max = 1000))]
    pub rules: Vec<RuleDeclaration>,
    /// Ids of all rules that are off, built-in or declared. Without this member, the rules that are off stay off.
    #[serde(deserialize_with = "yaml::present")]
    #[schemars(example = ["CE-007"])]
    pub rules_off: Option<BTreeSet<String>>,
    #[serde(skip)]
    pub(in crate::services) rules_off_place: Place,
}

impl Manifest {
    /// The JSON Schema (2020-12), generated from the types that read a manifest, for editors and for checks before a
    /// manifest is applied.
    pub fn schema() -> Value {
        schemars::schema_for!(Self).to_value()
    }

    /// Reads the text of one file.
    ///
    /// # Errors
    /// The place and the reason.
    pub fn parse(origin: &str, text: &str) -> Result<Self, InvalidDeclaration> {
        let (mut read, places): (Self, _) = yaml::read(origin, text)?;
        let places = Arc::new(places);
        for (path, place, _) in read.entries() {
            *place = Place::new(&places, path);
        }
        read.rules_off_place = Place::new(&places, "rules_off".to_owned());
        read.rules.iter().try_for_each(RuleDeclaration::check)?;
        Ok(read)
    }

    /// Appends the entries of another file.
    pub fn merge(&mut self, other: Self) {
        self.issuers.extend(other.issuers);
        self.resources.extend(other.resources);
        self.clients.extend(other.clients);
        self.providers.extend(other.providers);
        self.sinks.extend(other.sinks);
        self.registrars.extend(other.registrars);
        self.delegations.extend(other.delegations);
        self.rules.extend(other.rules);
        if let Some(off) = other.rules_off {
            self.rules_off.get_or_insert_default().extend(off);
            self.rules_off_place = other.rules_off_place;
        }
    }

    /// Whether an entry may have a secret that is sealed under the master key.
    pub fn has_sealed_secrets(&self) -> bool {
        let at_issuers = self.issuers.iter().any(|one| one.introspection.is_some() || one.sign_in.is_some());
        at_issuers || !self.providers.is_empty() || !self.sinks.is_empty() || !self.registrars.is_empty()
    }

    /// Refuses names of files: the disk of the server is not the caller's.
    pub fn require_no_files(&self) -> Result<(), InvalidDeclaration> {
        const WHY: &str =
            "a file can be named only by an operator on the machine of the server: write the secret itself";
        let clients = self.clients.iter().filter(|one| one.secret_file.is_some());
        let clients = clients.map(|one| one.place.fault("secret_file", WHY));
        let providers = self.providers.iter().filter(|one| one.names_a_file());
        let providers = providers.map(|one| one.place.fault("client_secret_file", WHY));
        let issuers = self.issuers.iter().filter_map(|one| {
            let member = one.member_with_a_file()?;
            Some(one.place.fault(member, WHY))
        });
        let registrars = self.registrars.iter().filter(|one| one.secret_file.is_some());
        let registrars = registrars.map(|one| one.place.fault("secret_file", WHY));
        let sinks = self.sinks.iter().filter(|one| one.secret_file.is_some());
        let sinks = sinks.map(|one| one.place.fault("secret_file", WHY));
        clients.chain(providers).chain(issuers).chain(registrars).chain(sinks).next().map_or(Ok(()), Err)
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
        for (index, one) in self.registrars.iter_mut().enumerate() {
            all.push((format!("registrars[{index}]"), &mut one.place, one.id.as_str()));
        }
        for (index, one) in self.delegations.iter_mut().enumerate() {
            all.push((format!("delegations[{index}]"), &mut one.place, one.id.as_str()));
        }
        for (index, one) in self.rules.iter_mut().enumerate() {
            all.push((format!("rules[{index}]"), &mut one.place, one.rule.id.as_str()));
        }
        all
    }

    /// Refuses two entries of one kind with the same id.
    fn check_unique(&mut self) -> Result<(), InvalidDeclaration> {
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
/// The place and the reason; for an id that is there twice, with both places.
pub fn read_all(files: &[(String, String)]) -> Result<Manifest, InvalidDeclaration> {
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
            // Text that is valid YAML of a manifest has no error that could show the secret.
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
