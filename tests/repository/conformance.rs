//! docs/reference/conformance.md and the tests agree.

use std::collections::BTreeSet;

use crate::named_tests::{TESTS, rust_files};
use crate::root;

/// A row of docs/reference/conformance.md.
struct Rule<'a> {
    specification: &'a str,
    sections: &'a str,
    text: &'a str,
    tests: Vec<(&'a str, &'a str)>,
}

fn rules(page: &str) -> Vec<Rule<'_>> {
    let mut found = Vec::new();
    for part in page.split("\n## ").skip(1) {
        let (heading, body) = part.split_once('\n').unwrap();
        let (specification, _) = heading.split_once(": ").expect("a specification has a number and a title");
        for row in body.lines().filter(|line| line.starts_with('|')).skip(2) {
            let cells: Vec<&str> = row.trim_matches(['|', ' ']).split(" | ").collect();
            let [sections, text, tests] = cells[..] else { panic!("not three cells: {row}") };
            let tests = tests.split(", ").map(|test| {
                test.trim_matches('`').split_once("::").unwrap_or_else(|| panic!("not a test: {test}"))
            });
            found.push(Rule { specification, sections, text, tests: tests.collect() });
        }
    }
    found
}

/// Whether a text has the form of a section, such as `2.1.3`, or of an appendix, such as `A.3`.
fn is_section(text: &str) -> bool {
    let number = |part: &str| part.parse::<u8>().is_ok_and(|number| number > 0 && part == number.to_string());
    let mut parts = text.split('.');
    let first = parts.next().unwrap();
    let appendix = first.len() == 1 && first.bytes().all(|byte| byte.is_ascii_uppercase());
    (appendix || number(first)) && parts.all(number)
}

fn conformance() -> String {
    std::fs::read_to_string(root().join("docs/reference/conformance.md")).unwrap()
}

#[test]
fn each_rule_of_the_conformance_page_has_a_section_and_existing_tests_and_appears_once() {
    let page = conformance();
    let rules = rules(&page);
    assert!(rules.len() > 100, "{} rules", rules.len());
    let known: BTreeSet<(&str, &str)> =
        TESTS.iter().map(|test| (test.file.as_str(), test.name.as_str())).collect();
    let mut texts = BTreeSet::new();
    for rule in &rules {
        let Rule { specification, sections, text, tests } = rule;
        // The documents of C2SP have no numbers.
        let valid = if specification.starts_with("c2sp.org/") {
            *sections == "–"
        } else {
            sections.split(", ").all(is_section)
        };
        assert!(valid, "{specification}: {sections} is no section");
        assert!(text.trim_end_matches('*').ends_with('.'), "{specification}: {text} is no sentence");
        assert!(texts.insert(text.trim_matches('*')), "{specification}: {text} appears twice");
        for (file, name) in tests {
            assert!(known.contains(&(*file, *name)), "{specification}: there is no test {file}::{name}");
        }
    }
    let headings: Vec<&str> = page.lines().filter(|line| line.starts_with("## ")).collect();
    assert_eq!(BTreeSet::from_iter(&headings).len(), headings.len(), "a specification appears twice");
}

#[test]
fn each_test_that_cites_an_rfc_is_on_the_conformance_page() {
    let page = conformance();
    let listed: BTreeSet<(&str, &str, &str)> = rules(&page)
        .into_iter()
        .flat_map(|rule| rule.tests.into_iter().map(move |(file, name)| (rule.specification, file, name)))
        .collect();
    let number = |text: &str| text.chars().take_while(char::is_ascii_digit).collect::<String>();
    for test in &*TESTS {
        let in_doc = test.doc.split("RFC ").skip(1).map(number);
        let in_name = test.name.strip_prefix("rfc").map(number);
        let cited: Vec<String> = in_doc.chain(in_name).map(|number| format!("RFC {number}")).collect();
        let is_listed = |rfc: &String| listed.contains(&(rfc.as_str(), &test.file, &test.name));
        assert!(cited.is_empty() || cited.iter().any(is_listed), "{} cites {cited:?}", test.name);
    }
}

#[test]
fn no_test_has_the_id_of_a_rule() {
    for test in &*TESTS {
        let words: Vec<&str> = test.name.split('_').collect();
        for pair in words.windows(2) {
            let letters = (2..=3).contains(&pair[0].len()) && pair[0] != "utf";
            let digits = pair[1].len() == 2 && pair[1].bytes().all(|byte| byte.is_ascii_digit());
            assert!(!letters || !digits, "{}::{} has the id of a rule", test.file, test.name);
        }
    }
    for (file, text) in rust_files() {
        for word in text.split(|c: char| !c.is_ascii_alphanumeric() && c != '-') {
            let is_id = word.split_once('-').is_some_and(|(letters, digits)| {
                letters.len() == 2
                    && letters.bytes().all(|byte| byte.is_ascii_uppercase())
                    && digits.len() == 2
                    && digits.bytes().all(|byte| byte.is_ascii_digit())
            });
            assert!(!is_id, "{file} has the id of a rule, {word}: cite the specification and its section");
        }
    }
}
