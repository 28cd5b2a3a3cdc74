//! The manifest: refusals and their places, a rotated secret that an old file does not restore, the JSON Schema and its
//! reference, and the removal of registrations.

use actchain::services::apply::{ApplyOutcome, ApplyRequest, Mode, apply, read_all};
use actchain::services::manifest::Manifest;
use actchain::services::registrations::{Delegations, Removal, remove_issuer, remove_resource};
use serde_json::{Value, json};

use crate::support::START;
use crate::support::agent::{Agent, Auth, JWT};
use crate::support::life::instant;
use crate::support::world::{CALENDAR, IDP, MAIL, World};

impl World {
    /// Applies a manifest, or only plans it.
    pub async fn plan(&self, yaml: &str, mode: Mode) -> Result<ApplyOutcome, String> {
        let app = &self.server.app;
        let files = [("m.yaml".to_owned(), yaml.to_owned())];
        let manifest = read_all(&files).map_err(|fault| fault.to_string())?;
        let request = ApplyRequest { mode, ..ApplyRequest::apply_all(manifest) };
        let done = apply(&self.server.operator(), Some(&app.vault), request).await;
        done.map(|reply| reply.value).map_err(|error| error.to_string())
    }
}

/// `email-svc` as the test world declares it, with this secret.
fn email(secret: &str) -> String {
    format!(
        "clients:\n  - {{id: email-svc, kind: agent, name: E-mail, auth: client_secret_basic, secret: {secret},
     scopes: [mail.read, mail.send, both], audiences: [\"{MAIL}\", \"{CALENDAR}\"],
     authorization_details_types: [mailbox], grant_types: [client_credentials, token-exchange, refresh_token]}}"
    )
}

async fn status_with(world: &World, secret: &str) -> u16 {
    let key = world.email_svc.key.clone();
    let agent = Agent { id: "email-svc".into(), key, auth: Auth::Basic(secret.to_owned()) };
    let request = agent.request(&world.server).param("grant_type", "client_credentials");
    request.param("audience", MAIL).send().await.status
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_file_does_not_overwrite_a_rotated_secret_and_a_changed_one_replaces_it() {
    const OLD: &str = "email-svc-secret-0123456789";
    let world = World::new().await;
    let rotated = world.server.rotate_secret("email-svc", 0).await;
    let rotated = rotated.as_str();
    let again = world.plan(&email(OLD), Mode::Apply).await.unwrap();
    let line = serde_json::to_value(&again.lines[0]).unwrap();
    assert_eq!(line["change"], "unchanged");
    assert!(line["note"].as_str().unwrap().contains("rotated"), "{line}");
    assert_eq!((status_with(&world, rotated).await, status_with(&world, OLD).await), (200, 401));
    // The file is updated: only the declared members change.
    let updated = world.plan(&email(rotated), Mode::Apply).await.unwrap();
    let line = serde_json::to_value(&updated.lines[0]).unwrap();
    assert_eq!(
        (&line["change"], &line["members"]),
        (&json!("update"), &json!([{"member": "secret", "secret": "recorded"}]))
    );
    let newest = world.server.rotate_secret("email-svc", 0).await;
    let kept = world.plan(&email(rotated), Mode::Apply).await.unwrap();
    assert_eq!(serde_json::to_value(&kept.lines[0]).unwrap()["change"], "unchanged");
    assert_eq!(status_with(&world, &newest).await, 200);
    // The declared secret changes: it replaces all existing secrets.
    let changed = world.plan(&email("a-new-secret-0123456789"), Mode::Apply).await.unwrap();
    let line = serde_json::to_value(&changed.lines[0]).unwrap();
    assert_eq!(line["members"], json!([{"member": "secret", "secret": "replaced"}]));
    assert_eq!(status_with(&world, "a-new-secret-0123456789").await, 200);
    assert_eq!(status_with(&world, &newest).await, 401);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_api_refuses_apply_refuses_with_the_place() {
    let world = World::new().await;
    let agent = "kind: agent, auth: client_secret_basic, secret: 0123456789abcdef";
    let client = |more: &str| format!("clients:\n  - {{id: c, {agent}, {more}}}");
    let alice = format!("delegator: {{iss: \"{IDP}\", sub: bob}}, delegate: user-proxy");
    let delegation = |more: &str| format!("delegations:\n  - {{id: N, {alice}, {more}}}");
    let named = |id: &str| format!("clients:\n  - {{id: \"{id}\", {agent}}}");
    let key = world.idp.public_jwk();
    let keys = |keys: &str| {
        format!("issuers:\n  - {{iss: \"https://n.example\", audiences: [x], jwks: {{keys: [{keys}]}}}}")
    };
    let raw =
        |more: &str| format!("{{iss: \"https://n.example\", audiences: [x], jwks: {{keys: [{key}]}}{more}}}");
    let mut cases = vec![
        (
            client("dpop_keys: []"),
            "clients[0].dpop_keys: dpop_keys is an empty list, so that no key could be used: leave dpop_keys out to allow any key",
        ),
        (client("dpop_keys:"), "dpop_keys has no value"),
        (
            "providers:\n  - {id: p, kind: api_key, paths: []}".to_owned(),
            "paths is an empty list, so that no request could be sent: leave paths out to allow every path",
        ),
        (
            format!("issuers:\n  - {}", raw("")),
            "issuers[0].subject: issuers https://idp.example.com and https://n.example are both raw",
        ),
        (format!("issuers:\n  - {}", raw("")), "; https://idp.example.com was registered before"),
        (
            client("scopes: [mail.read, mail.sned]"),
            "m.yaml:2:87: clients[0].scopes: no resource declares the scope mail.sned",
        ),
        (client("audiences: [\"https://nowhere.example\"]"), "clients[0].audiences: there is no resource"),
        (client("authorization_details_types: [nothing]"), "no resource declares the type nothing"),
        (client("actor_subjects: [{iss: \"https://unknown.example\", sub: s}]"), "is no trusted issuer"),
        (client("max_token_ttl: 0"), "clients[0].max_token_ttl: max_token_ttl must not be 0"),
        (client("name: \"\""), "clients[0].name"),
        (delegation("expires_in: 0"), "expires_in are at least 1"),
        (delegation("expires_in: 9, max_uses: 0"), "at least 1"),
        (delegation("expires_in: 9, max_depth: 0"), "at least 1"),
        (
            delegation("expires_in: 9, scopes: [mail.sned]"),
            "delegations[0].scopes: no resource declares the scope mail.sned",
        ),
        (
            delegation("expires_in: 9, audiences: [\"https://nowhere.example\"]"),
            "delegations[0].audiences: there is no resource",
        ),
        (
            delegation("expires_in: 9, ceremony_required_for: [mail.sned]"),
            "delegations[0].ceremony_required_for",
        ),
        (delegation("expires_in: 9, capability_ceiling: nothing"), "delegations[0].capability_ceiling"),
        (
            delegation("expires_in: 9, authorization_details: [{type: nothing}]"),
            "no resource declares the type nothing",
        ),
        (delegation("scopes: [mail.read]"), "needs expires_in"),
        (
            "resources:\n  - {id: r, scopes: [a], token_ttl: 0}".to_owned(),
            "resources[0].token_ttl: token_ttl must not be 0",
        ),
        ("resources:\n  - {id: user-proxy, scopes: []}".to_owned(), "a client or an issuer has this name"),
        (
            format!(
                "delegations:\n  - {{id: N, delegator: {{iss: \"{IDP}\", sub: bob}}, delegate: mail-server, expires_in: 9}}"
            ),
            "is not a client of kind agent",
        ),
        (keys(&format!("{key}, {key}")), "issuers[0].jwks: keys[0] and keys[1] have the same kid"),
        (
            keys(
                "{kty: OKP, crv: Ed25519, x: 11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo, d: nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A}",
            ),
            "private",
        ),
        ("providers:\n  - {id: -x, kind: api_key}".to_owned(), "providers[0]: provider -x: id may have"),
        ("sinks:\n  - {id: .., url: \"https://s.example\"}".to_owned(), "sinks[0]: sink ..: id may have"),
    ];
    for id in [".", "..", "-x", "a/../b", "a b", ""] {
        cases.push((named(id), "m.yaml:2:"));
    }
    for id in [".", "..", "-x", "may-x", "a/b"] {
        cases.push((
            delegation("expires_in: 9").replace("id: N", &format!("id: {id}")),
            "delegations[0].id: id may have",
        ));
    }
    for id in ["-x", "..", "a/./b"] {
        cases.push((format!("resources:\n  - {{id: {id}, scopes: []}}"), "resources[0].id: id must be"));
    }
    for (yaml, expected) in cases {
        let said = world.plan(&yaml, Mode::Apply).await.expect_err(&yaml);
        assert!(said.starts_with("m.yaml:2:") && said.contains(expected), "{yaml}\n{said}");
    }
    assert!(world.plan(&delegation("expires_in: 9, scopes: [mail.read]"), Mode::DryRun).await.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn two_issuers_of_one_alias_are_refused_with_both_places() {
    let world = World::new().await;
    let key = world.idp.public_jwk();
    let issuer =
        |iss: &str| format!("  - {{iss: \"{iss}\", audiences: [x], alias: corp, jwks: {{keys: [{key}]}}}}\n");
    // The later duplicate is named first, in either order of their names.
    let yaml = format!("issuers:\n{}{}", issuer("https://z.example"), issuer("https://a.example"));
    let said = world.plan(&yaml, Mode::DryRun).await.unwrap_err();
    assert!(
        said.starts_with("m.yaml:3:") && said.contains("issuers[1].alias: issuers https://a.example and"),
        "{said}"
    );
    assert!(said.contains("; https://z.example is declared at m.yaml:2:5"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_list_restricts_and_a_name_without_a_value_is_refused() {
    let world = World::new().await;
    let yaml = |scopes: &str| {
        format!(
            "delegations:\n  - id: N\n    delegator: {{iss: \"{IDP}\", sub: bob}}\n    delegate: user-proxy\n    expires_in: 9\n    scopes:{scopes}\n"
        )
    };
    let said = world.plan(&yaml(""), Mode::Apply).await.unwrap_err();
    assert!(said.starts_with("m.yaml:6:") && said.contains("scopes has no value"), "{said}");
    // A limit whose value is missing is not "no limit".
    for member in ["max_uses", "max_depth", "authorization_details", "capability_ceiling"] {
        for nothing in ["", " null", " ~"] {
            let said =
                world.plan(&yaml(&format!(" []\n    {member}:{nothing}")), Mode::Apply).await.unwrap_err();
            assert!(said.contains(&format!("{member} has no value")), "{said}");
        }
    }
    world.plan(&yaml(" []"), Mode::Apply).await.unwrap();
    assert_eq!(world.shown("N").await["scopes"], json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_declared_lifetime_longer_than_its_parents_is_shortened_and_the_plan_says_so() {
    let world = World::new().await;
    let yaml = "delegations:\n  - {id: G, parent: E, delegate: stranger, expires_in: 601}";
    let plan = world.plan(yaml, Mode::Apply).await.unwrap();
    let line = serde_json::to_value(&plan.lines[0]).unwrap();
    assert!(line["note"].as_str().unwrap().contains("it ends with E at"), "{line}");
    assert_eq!(world.shown("G").await["expires_at"], world.shown("E").await["expires_at"]);
    // Without a lifetime a child ends with its parent, within the maximum that is configured now.
    let stricter = world.server.twin_configured("[delegations]\ndefault_ttl = 60\nmax_ttl = 60").await;
    let yaml = "delegations:\n  - {id: H, parent: E, delegate: stranger}";
    let manifest = read_all(&[("m.yaml".to_owned(), yaml.to_owned())]).unwrap();
    let request = ApplyRequest::apply_all(manifest);
    let plan = apply(&stricter.operator(), Some(&stricter.app.vault), request).await.unwrap().value;
    let line = serde_json::to_value(&plan.lines[0]).unwrap();
    assert!(line["note"].as_str().unwrap().contains("it ends with delegations.max_ttl at"), "{line}");
    assert_eq!(world.shown("H").await["expires_at"], json!(instant(START + 60)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removed_issuer_ends_its_users_at_once_for_servers_that_remember_it() {
    let world = World::new().await;
    let ctx = world.server.operator();
    let first = world.first_hop().await;
    let kept = remove_issuer(&ctx, IDP, Delegations::Keep).await.unwrap();
    let Removal::InUse(why) = kept else { panic!("{kept:?}") };
    assert!(why[0].contains("delegations D") && why[0].contains("3 delegations and 1 tokens"), "{why:?}");
    assert!(world.is_active(first.token()).await);
    let removed = remove_issuer(&ctx, IDP, Delegations::Revoke).await.unwrap();
    let Removal::Removed(said) = removed else { panic!("{removed:?}") };
    assert_eq!((said.revoked, said.affected.tokens), (1, 1));
    assert!(!world.is_active(first.token()).await, "its users' tokens end");
    // A registry in memory may still contain the issuer, but nothing is accepted from it any more.
    let again = world.user_proxy.exchange(&world.server, &world.user_token(), JWT).param("audience", MAIL);
    assert_ne!(again.send().await.status, 200);
    let asked = world.as_alice("POST", "/delegate", json!({"delegate": "user-proxy"})).await;
    asked.assert_problem(401, "access_token_invalid");
    let actions: Vec<Value> =
        world.server.events().await.into_iter().map(|event| event["action"].clone()).collect();
    assert!(
        actions.contains(&json!("admin.issuer_removed")) && actions.contains(&json!("delegation.revoked"))
    );
    let removed = remove_issuer(&ctx, IDP, Delegations::Revoke).await.unwrap();
    assert!(matches!(removed, Removal::NotFound), "{removed:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_resource_is_removed_when_nothing_names_it_any_more() {
    let world = World::new().await;
    let app = &world.server.app;
    let ctx = world.server.operator();
    let kept = remove_resource(&ctx, MAIL).await.unwrap();
    let Removal::InUse(why) = kept else { panic!("{kept:?}") };
    assert!(why[0].contains("email-svc") && why[1].contains("delegations E"), "{why:?}");
    let spare = "https://spare.example";
    world.server.apply(&format!("resources:\n  - {{id: \"{spare}\", scopes: [spare.read]}}")).await.unwrap();
    let before = app.registry().version;
    assert!(matches!(remove_resource(&ctx, spare).await.unwrap(), Removal::Removed(_)));
    assert!(matches!(remove_resource(&ctx, spare).await.unwrap(), Removal::NotFound));
    app.refresh_registry().await.unwrap();
    let after = app.registry();
    assert!(after.version > before && !after.resources.contains_key(spare));
    assert_eq!(world.server.last_event().await["action"], "admin.resource_removed");
    let own = remove_resource(&ctx, &app.issuer).await.unwrap();
    assert!(matches!(own, Removal::NotFound), "this server itself is not registered, and stays");
}

/// The content of a YAML file, as JSON.
fn as_json(yaml: &str) -> Value {
    serde_saphyr::from_str(yaml).unwrap()
}

#[test]
fn the_schema_takes_what_the_parser_takes_and_refuses_unknown_members_as_it_does() {
    let schema = jsonschema::validator_for(&Manifest::schema()).unwrap();
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let folders = [("examples", ".."), ("examples/issuers", "../..")];
    let files = folders.iter().flat_map(|(folder, up)| {
        let files = std::fs::read_dir(root.join(folder)).unwrap().map(|file| file.unwrap().path());
        let is_manifest = |path: &std::path::PathBuf| path.extension().is_some_and(|end| end == "yaml");
        files.filter(is_manifest).map(move |path| (path, up))
    });
    for (path, up) in files {
        let text = std::fs::read_to_string(&path).unwrap();
        let named = format!("# yaml-language-server: $schema={up}/docs/reference/manifest.schema.json\n");
        assert!(text.starts_with(&named), "{} does not begin with {named}", path.display());
        Manifest::parse("example", &text).unwrap();
        let value = as_json(&text);
        let wrong: Vec<String> = schema.iter_errors(&value).map(|error| error.to_string()).collect();
        assert!(wrong.is_empty(), "{}: {wrong:?}", path.display());
    }
    let agent = "{id: a, kind: agent, auth: none, dpop_keys: [0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I]";
    for (right, yaml) in [
        (true, format!("clients: [{agent}, actor_subjects: [{{iss: i, sub: s}}], max_token_ttl: 5}}]")),
        (true, "providers: [{id: p, kind: api_key, hosts: [api.example.com]}]".to_owned()),
        (true, "registrars: [{id: r, kind: keycloak, issuer: i, enabled: false}]".to_owned()),
        (false, "registrars: [{id: r, kind: keycloak, colour: red}]".to_owned()),
        (
            true,
            "sinks: [{id: s, url: \"https://s.example\", filter: {outcome: refused}, from_seq: 0}]"
                .to_owned(),
        ),
        (true, "issuers: [{iss: i, audiences: [a], jwks: {keys: [{kty: EC}]}}]".to_owned()),
        (
            true,
            "delegations: [{id: d, parent: e, delegate: a, authorization_details: [{type: t}]}]".to_owned(),
        ),
        (false, "clientz: []".to_owned()),
        (false, format!("clients: [{agent}, colour: red}}]")),
        (false, format!("clients: [{agent}, actor_subjects: [{{iss: i, sub: s, aud: a}}]}}]")),
        (false, "providers: [{id: p, colour: red}]".to_owned()),
        (false, "sinks: [{id: s, url: u, colour: red}]".to_owned()),
        (false, "issuers: [{iss: i, audiences: [a], colour: red}]".to_owned()),
        (false, "resources: [{id: i, scopes: [a], colour: red}]".to_owned()),
        (false, "resources: [{id: i}]".to_owned()),
        (false, "delegations: [{id: d, delegate: a, colour: red}]".to_owned()),
        (false, "clients: [{id: a, kind: robot, auth: none}]".to_owned()),
        (false, format!("clients: [{agent}, scopes: mail.read}}]")),
    ] {
        assert_eq!(schema.is_valid(&as_json(&yaml)), right, "schema: {yaml}");
        assert_eq!(Manifest::parse("m.yaml", &yaml).is_ok(), right, "parser: {yaml}");
    }
    assert!(!schema.is_valid(&json!({"resources": [{"id": "r", "scopes": [], "token_ttl": 0}]})), "bounds");
}

#[test]
fn the_published_schema_is_that_of_the_parser() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/reference/manifest.schema.json");
    let schema = serde_json::to_string_pretty(&Manifest::schema()).unwrap() + "\n";
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(path, schema).unwrap();
        return;
    }
    let published = std::fs::read_to_string(path).unwrap();
    assert!(published == schema, "write it again: BLESS=1 cargo test --test api the_published_schema");
}

const BEGIN: &str = "<!-- generated: members -->\n";

/// The reference, generated from the schema, which is generated from the types that the parser uses.
fn reference() -> String {
    let schema = Manifest::schema();
    let of = |value: &Value, name: &str| value[name].as_str().unwrap_or_default().replace('\n', " ");
    let mut text = BEGIN.to_owned();
    let mut types = std::collections::BTreeSet::new();
    let kinds =
        ["issuers", "resources", "clients", "providers", "registrars", "sinks", "delegations", "rules"];
    let off = &schema["properties"]["rules_off"];
    // The one member that is no list of entries.
    assert_eq!(schema["properties"].as_object().unwrap().len(), kinds.len() + 1, "a kind is missing here");
    for kind in kinds {
        let reference = schema["properties"][kind]["items"]["$ref"].as_str().unwrap();
        let one = &schema["$defs"][reference.rsplit('/').next().unwrap()];
        text += &format!("\n### `{kind}`\n\n{}\n\n", of(one, "description"));
        text += "| member | type | default | bounds | meaning | example |\n| --- | --- | --- | --- | --- | --- |\n";
        let required: Vec<&str> =
            one["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        for (name, member) in one["properties"].as_object().unwrap() {
            let default = match (&member["default"], required.contains(&name.as_str())) {
                (_, true) => "needed".to_owned(),
                (Value::Null, false) => "absent".to_owned(),
                (value, false) => format!("`{value}`"),
            };
            let example = member["examples"][0].clone();
            let example = if example.is_null() { String::new() } else { format!("`{example}`") };
            let meaning = of(member, "description");
            assert!(!meaning.is_empty(), "{kind}.{name} has no description");
            text += &format!(
                "| `{name}` | {} | {default} | {} | {meaning} | {example} |\n",
                type_of(member, &mut types),
                bounds(member)
            );
        }
    }
    text += &format!("\n### `rules_off`\n\n{}\n", of(off, "description"));
    for name in types {
        let one = &schema["$defs"][&name];
        text += &format!("\n### {name}\n\n{}\n\n", of(one, "description"));
        if let Some(members) = one["properties"].as_object() {
            text += "| member | meaning |\n| --- | --- |\n";
            for (name, member) in members {
                text += &format!("| `{name}` | {} |\n", of(member, "description"));
            }
        } else {
            text += "| value | meaning |\n| --- | --- |\n";
            for value in one["oneOf"].as_array().unwrap_or_else(|| panic!("{name}: {one}")) {
                text +=
                    &format!("| `{}` | {} |\n", value["const"].as_str().unwrap(), of(value, "description"));
            }
        }
    }
    text
}

/// The type of a member in words; named types are added to `named`.
fn type_of(member: &Value, named: &mut std::collections::BTreeSet<String>) -> String {
    if let Some(name) = member["$ref"].as_str() {
        let name = name.rsplit('/').next().unwrap().to_owned();
        let link = format!("[{name}](#{})", name.to_lowercase());
        named.insert(name);
        return link;
    }
    if let Some(either) = member["anyOf"].as_array().or(member["allOf"].as_array()) {
        return type_of(&either[0], named);
    }
    let kind = match &member["type"] {
        Value::Array(kinds) => kinds[0].as_str().unwrap().to_owned(),
        kind => kind.as_str().unwrap_or_else(|| panic!("{member}")).to_owned(),
    };
    match kind.as_str() {
        "array" => format!("list of {}", type_of(&member["items"], named)),
        "object" => "mapping".to_owned(),
        "integer" => "whole number".to_owned(),
        "string" => "text".to_owned(),
        other => other.to_owned(),
    }
}

fn bounds(member: &Value) -> String {
    let number = |name: &str| member[name].as_f64().map(|number| format!("{number}"));
    let range = |low: &str, high: &str, unit: &str| match (number(low), number(high)) {
        (None, None) => None,
        (low, high) => {
            let (low, high) = (low.unwrap_or("0".into()), high.map(|high| format!(" to {high}")));
            Some(format!("{low}{}{unit}", high.unwrap_or_else(|| " or more".into())))
        }
    };
    let all = [
        range("minimum", "maximum", ""),
        range("minLength", "maxLength", " characters"),
        range("minItems", "maxItems", " elements"),
    ];
    all.into_iter().flatten().collect::<Vec<_>>().join(", ")
}

#[test]
fn the_reference_of_the_manifest_has_every_member_as_the_parser_reads_it() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/reference/manifest.md");
    let text = std::fs::read_to_string(path).unwrap();
    let (above, written) = text.split_once(BEGIN).unwrap();
    let expected = reference();
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(path, format!("{above}{expected}")).unwrap();
    } else {
        let written = format!("{BEGIN}{written}");
        assert_eq!(written, expected, "write it again: BLESS=1 cargo test --test api the_reference_of");
    }
    for name in above.split("```yaml\n").skip(1).map(|part| part.split("```").next().unwrap()) {
        Manifest::parse("docs/reference/manifest.md", name).unwrap();
    }
}
