//! Checks the three rules at the top of `src/lib.rs`, and conventions that the compiler cannot check.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// From the bottom up: a layer may import itself and earlier layers. Entry points do not import each other, except the
/// command line, which starts the other two.
const LAYERS: [(&str, &[&str]); 8] = [
    ("platform", &[]),
    ("protocol", &["platform"]),
    ("domain", &["platform", "protocol"]),
    ("app", &["platform", "protocol", "domain"]),
    ("services", &["platform", "protocol", "domain", "app"]),
    ("http", &["platform", "protocol", "domain", "app", "services"]),
    ("jobs", &["platform", "protocol", "domain", "app", "services"]),
    ("cli", &["platform", "protocol", "domain", "app", "services", "http", "jobs"]),
];

/// Crates that only one folder may import.
const OWNERS: [(&str, &[&str]); 8] = [
    ("actix_web", &["src/http/"]),
    ("jsonwebtoken", &["src/platform/jose/"]),
    ("josekit", &["src/platform/jose/"]),
    ("p256", &["src/platform/jose/"]),
    ("curve25519_dalek", &["src/platform/jose/"]),
    ("reqwest", &["src/platform/outbound/", "src/cli/demo"]),
    ("clap", &["src/cli/", "src/main.rs"]),
    ("governor", &["src/domain/rate_limit.rs"]),
];

/// The most lines of a file above its tests.
const MOST_LINES: usize = 400;

fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found
}

/// Path below the project, and the text above the tests without comments.
fn files() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    sources(&root.join("src"))
        .into_iter()
        .map(|path| {
            let text = std::fs::read_to_string(&path).unwrap();
            let above = text.split("#[cfg(test)]\nmod tests").next().unwrap().to_owned();
            (path.strip_prefix(root).unwrap().display().to_string(), above)
        })
        .collect()
}

fn code(text: &str) -> impl Iterator<Item = &str> {
    text.lines().map(|line| line.split("//").next().unwrap_or_default())
}

fn is_test_file(path: &str) -> bool {
    path.ends_with("/tests.rs")
}

#[test]
fn arrows_point_down() {
    for (path, text) in files() {
        let layer = path.trim_start_matches("src/").split(['/', '.']).next().unwrap().to_owned();
        let Some((_, allowed)) = LAYERS.iter().find(|(name, _)| *name == layer) else {
            assert!(["src/lib.rs", "src/main.rs"].contains(&path.as_str()), "{path} is in no layer");
            continue;
        };
        for line in code(&text) {
            for named in line.split("crate::").skip(1) {
                let named = named.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap();
                assert!(named == layer || allowed.contains(&named), "{path} points up to {named}: {line}");
            }
        }
    }
}

#[test]
fn each_crate_has_its_place() {
    for (path, text) in files().iter().filter(|(path, _)| !is_test_file(path)) {
        for (name, owners) in OWNERS {
            let used = code(text).any(|line| {
                line.contains(&format!("{name}::")) && !line.contains(&format!("tracing_{name}::"))
            });
            assert!(!used || owners.iter().any(|owner| path.starts_with(owner)), "{path} imports {name}");
        }
    }
}

#[test]
fn the_protocol_is_pure() {
    for (path, text) in files().iter().filter(|(path, _)| path.starts_with("src/protocol/")) {
        for banned in ["sqlx", "async fn", "tokio", "Clock", "std::fs", "std::env"] {
            assert!(!code(text).any(|line| line.contains(banned)), "{path} has {banned}");
        }
    }
}

#[test]
fn every_write_is_a_service_or_the_ledger() {
    // Stores contain the statements; only services and the ledger's batch may call a statement that writes.
    let changing = ["::put(", "::put_issuer(", "::put_resource(", "::insert(", "::mark_", "::raise_version("];
    for (path, text) in files() {
        let may = path.starts_with("src/services/") || path.starts_with("src/domain/ledger/");
        for line in code(&text).filter(|line| line.contains("store::") || line.contains("moves::")) {
            assert!(may || !changing.iter().any(|call| line.contains(call)), "{path} writes: {line}");
        }
    }
}

#[test]
fn files_fit_a_head_and_say_what_they_promise() {
    for (path, text) in files().iter().filter(|(path, _)| !is_test_file(path)) {
        let lines = text.lines().count();
        assert!(lines <= MOST_LINES, "{path} has {lines} lines above its tests");
        assert!(text.starts_with("//! "), "{path} does not say what it promises");
        for vague in ["utils", "helpers", "common", "shared", "misc"] {
            assert!(!path.contains(vague), "{path} has a name that says nothing");
        }
    }
}

#[test]
fn commands_print_through_one_place_and_take_the_issuer_that_was_agreed() {
    for (path, text) in files().iter().filter(|(path, _)| path.starts_with("src/cli/")) {
        for line in code(text) {
            // The standard macros panic when their reader has ended.
            let prints = ["std::println", "std::print", "std::eprint", "io::stdout()", "io::stderr()"];
            let standard = prints.iter().any(|one| line.contains(one));
            assert!(!standard || path == "src/cli/out.rs", "{path} prints by itself: {line}");
            // The configured issuer can differ from the issuer of the server.
            let configured = line.replace("context.config.issuer()", "").contains("config.issuer()");
            assert!(
                !configured || path == "src/cli/context.rs",
                "{path} takes an issuer as configured: {line}"
            );
        }
    }
}

/// Titles of the bullets (`- **Title.** text`) in a part of SECURITY.md; `None` for a bullet without a title.
fn titles(part: &str) -> Vec<Option<&str>> {
    let bullets = part.lines().filter_map(|line| line.strip_prefix("- "));
    bullets.map(|text| text.strip_prefix("**")?.split_once(".**").map(|(title, _)| title)).collect()
}

/// Names of all tests in `src` and `tests`.
fn tests() -> BTreeSet<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = BTreeSet::new();
    for path in [root.join("src"), root.join("tests")].iter().flat_map(|folder| sources(folder)) {
        let text = std::fs::read_to_string(path).unwrap();
        let mut marked = false;
        for line in text.lines().map(str::trim) {
            marked |= line == "#[test]" || line.starts_with("#[tokio::test");
            let name = line.trim_start_matches("async ").strip_prefix("fn ");
            if let Some(name) = name.filter(|_| marked) {
                found.insert(name.split('(').next().unwrap().to_owned());
                marked = false;
            }
        }
    }
    found
}

#[test]
fn each_security_promise_names_its_tests_and_they_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let promises = std::fs::read_to_string(root.join("SECURITY.md")).unwrap();
    let (promised, limits) =
        promises.split_once("## What is promised").unwrap().1.split_once("## What is not").unwrap();
    let limits = limits.split("\n## ").next().unwrap();
    let promised: Vec<&str> =
        titles(promised).into_iter().map(|title| title.expect("a promise has a title")).collect();
    // A limit has a title if tests can show it.
    let limits = titles(limits).into_iter().flatten();
    let titles: Vec<&str> = promised.into_iter().chain(limits).collect();
    let page = std::fs::read_to_string(root.join("docs/reference/security-tests.md")).unwrap();
    let sections: Vec<&str> = page.split("\n## ").skip(1).collect();
    let listed: Vec<&str> = sections.iter().map(|section| section.lines().next().unwrap()).collect();
    assert_eq!(
        titles, listed,
        "SECURITY.md and docs/reference/security-tests.md have the same titles in the same order"
    );
    let tests = tests();
    for section in sections {
        let named: Vec<&str> =
            section.lines().filter_map(|line| line.strip_prefix("- `")?.strip_suffix('`')).collect();
        assert!(!named.is_empty(), "no test is named: {section}");
        for name in named {
            assert!(tests.contains(name), "there is no test {name}");
        }
    }
}
