//! Each promise of SECURITY.md names its tests.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

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
