//! Each promise of SECURITY.md names its tests.

use std::collections::BTreeSet;

use crate::named_tests::TESTS;
use crate::root;

/// Titles of the bullets (`- **Title.** text`) in a part of SECURITY.md; `None` for a bullet without a title.
fn titles(part: &str) -> Vec<Option<&str>> {
    let bullets = part.lines().filter_map(|line| line.strip_prefix("- "));
    bullets.map(|text| text.strip_prefix("**")?.split_once(".**").map(|(title, _)| title)).collect()
}

#[test]
fn each_security_promise_names_its_tests_and_they_exist() {
    let promises = std::fs::read_to_string(root().join("SECURITY.md")).unwrap();
    let (promised, limits) =
        promises.split_once("## What is promised").unwrap().1.split_once("## What is not").unwrap();
    let limits = limits.split("\n## ").next().unwrap();
    let promised: Vec<&str> =
        titles(promised).into_iter().map(|title| title.expect("a promise has a title")).collect();
    // A limit has a title if tests can show it.
    let limits = titles(limits).into_iter().flatten();
    let titles: Vec<&str> = promised.into_iter().chain(limits).collect();
    let page = std::fs::read_to_string(root().join("docs/reference/security-tests.md")).unwrap();
    let sections: Vec<&str> = page.split("\n## ").skip(1).collect();
    let listed: Vec<&str> = sections.iter().map(|section| section.lines().next().unwrap()).collect();
    assert_eq!(
        titles, listed,
        "SECURITY.md and docs/reference/security-tests.md have the same titles in the same order"
    );
    let tests: BTreeSet<&str> = TESTS.iter().map(|test| test.name.as_str()).collect();
    for section in sections {
        let named: Vec<&str> =
            section.lines().filter_map(|line| line.strip_prefix("- `")?.strip_suffix('`')).collect();
        assert!(!named.is_empty(), "no test is named: {section}");
        for name in named {
            assert!(tests.contains(name), "there is no test {name}");
        }
    }
}
