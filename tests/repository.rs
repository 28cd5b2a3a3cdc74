//! Checks the files around the code: links in the documentation, the table of contents, the page of problems, the pages
//! that name tests, and `scripts/check-language`.
//! `scripts/check-language`.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

use syn::{Attribute, Expr, Item, Lit, Meta};

use actchain::domain::refusal::catalogue::{self, entry::Entry};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The Markdown files of the folder; in docs/, also those of its subfolders.
fn pages(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() && path.starts_with(root().join("docs")) {
            found.extend(pages(&path));
        } else if path.extension().is_some_and(|extension| extension == "md") {
            found.push(path);
        }
    }
    found
}

fn documentation() -> BTreeMap<PathBuf, String> {
    let all = pages(root()).into_iter().chain(pages(&root().join("docs")));
    all.map(|path| (path.clone(), std::fs::read_to_string(path).unwrap())).collect()
}

/// The lines outside fenced and indented code, without inline code.
fn prose(text: &str) -> impl Iterator<Item = String> {
    let mut fenced = false;
    text.lines().filter_map(move |line| {
        let fence = line.trim_start().starts_with("```");
        fenced ^= fence;
        (!fenced && !fence && !line.starts_with("    "))
            .then(|| line.split('`').step_by(2).collect::<Vec<_>>().join(""))
    })
}

/// The anchors that GitHub and mdBook generate for the headings of a page.
fn anchors(text: &str) -> BTreeSet<String> {
    let mut fenced = false;
    let headings = text.lines().filter(move |line| {
        fenced ^= line.starts_with("```");
        !fenced && line.starts_with('#')
    });
    headings
        .map(|line| {
            let heading = line.trim_start_matches('#').trim().to_lowercase();
            let kept = heading.chars().filter(|c| c.is_alphanumeric() || [' ', '-', '_'].contains(c));
            kept.map(|c| if c == ' ' { '-' } else { c }).collect()
        })
        .collect()
}

fn normal(path: &Path) -> PathBuf {
    let mut parts = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => assert!(parts.pop(), "{} leaves the file system", path.display()),
            other => parts.push(other),
        }
    }
    parts
}

fn links(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    // A link may be broken over two lines between its words, never within the address.
    for line in prose(text) {
        let targets = line.split("](").skip(1).map(|rest| rest.split(')').next().unwrap().to_owned());
        found.extend(targets.filter(|target| !target.contains("://")));
    }
    found
}

#[test]
fn every_relative_link_leads_to_a_file_and_a_heading() {
    let documentation = documentation();
    for (path, text) in &documentation {
        for link in links(text) {
            let (file, anchor) = link.split_once('#').unwrap_or((&link, ""));
            let target =
                if file.is_empty() { path.clone() } else { normal(&path.parent().unwrap().join(file)) };
            assert!(target.exists(), "{}: {link} leads nowhere", path.display());
            if !anchor.is_empty() {
                let headings = anchors(&documentation[&target]);
                assert!(headings.contains(anchor), "{}: {link} names no heading", path.display());
            }
        }
    }
}

#[test]
fn the_book_has_every_page_of_the_documentation_once() {
    let docs = root().join("docs");
    let summary = std::fs::read_to_string(docs.join("SUMMARY.md")).unwrap();
    let listed = links(&summary);
    let distinct: BTreeSet<PathBuf> = listed.iter().map(|page| docs.join(page)).collect();
    assert_eq!(distinct.len(), listed.len(), "a page is listed twice");
    let pages: BTreeSet<PathBuf> =
        pages(&docs).into_iter().filter(|page| !page.ends_with("SUMMARY.md")).collect();
    assert_eq!(distinct, pages, "docs/SUMMARY.md and the files in docs/");
}

/// The row of a refusal in `docs/reference/problems.md`.
fn row_of_problem(entry: &Entry) -> String {
    let none = || "–".to_owned();
    let status = entry.answers.at_resource().map_or_else(none, |code| code.status.to_string());
    let error = entry.answers.at_oauth_endpoint().map_or_else(none, |code| match code.status {
        400 => format!("`{}`", code.error),
        other => format!("`{}` {other}", code.error),
    });
    format!("| `{}` | {status} | {error} | {} | {} |", entry.reason, entry.meaning, entry.advice)
}

#[test]
fn the_page_of_problems_has_the_row_of_each_refusal_and_no_other_row() {
    let page = std::fs::read_to_string(root().join("docs/reference/problems.md")).unwrap();
    let rows: Vec<&str> = page.lines().filter(|line| line.starts_with("| `")).collect();
    let right: Vec<String> = catalogue::explained().map(row_of_problem).collect();
    let missing = right.iter().filter(|row| rows.iter().filter(|there| there == row).count() != 1);
    let wrong = rows.iter().filter(|row| !right.iter().any(|one| one == *row));
    let missing: Vec<&str> = missing.map(String::as_str).collect();
    let wrong: Vec<&str> = wrong.copied().collect();
    assert!(
        missing.is_empty() && wrong.is_empty(),
        "docs/reference/problems.md\n\nneeds, once each:\n{}\n\nhas, but src/domain/refusal/catalogue does not:\n{}\n",
        missing.join("\n"),
        wrong.join("\n")
    );
}

/// The value of a JSON member in a response that a page shows.
fn member<'a>(response: &'a str, name: &str) -> Option<&'a str> {
    response.split_once(&format!("\"{name}\":\""))?.1.split('"').next()
}

#[test]
fn responses_in_the_documentation_have_the_sentences_of_the_catalogue() {
    let mut seen = 0;
    for (path, text) in documentation() {
        for response in text.split('{').map(|rest| rest.split('}').next().unwrap()) {
            let Some(reason) = member(response, "reason") else { continue };
            let Some(sentence) = member(response, "error_description").or(member(response, "title")) else {
                continue;
            };
            let right: Vec<&str> = catalogue::ENTRIES
                .iter()
                .filter(|entry| entry.reason == reason)
                .map(|entry| entry.sentence)
                .collect();
            assert!(
                right.contains(&sentence),
                "{}: {reason} is said as {right:?}, not {sentence}",
                path.display()
            );
            seen += 1;
        }
    }
    assert!(seen > 5, "the documentation shows responses: {seen}");
}

/// Runs `scripts/check-language` with one file; returns its findings and exit code.
fn check_language(name: &str, text: &str, options: &[&str]) -> (Vec<String>, Option<i32>) {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join(name), text).unwrap();
    let script = root().join("scripts/check-language");
    let output = Command::new(script).args(options).arg(name).current_dir(folder.path()).output().unwrap();
    let lines = String::from_utf8(output.stdout).unwrap();
    let findings = lines.lines().map(|line| line.split(" → ").next().unwrap().to_owned()).collect();
    (findings, output.status.code())
}

#[test]
fn the_check_of_language_finds_words_in_prose_names_and_parts_of_names() {
    let text = "fn whoever_calls() {}\n// Nobody reads `wrong_state`.\nlet work: Work = dead_letter(); // Work ends.\n";
    let (findings, code) = check_language("a.rs", text, &[]);
    assert_eq!(
        findings,
        ["a.rs:1: whoever in whoever_calls", "a.rs:2: Nobody", "a.rs:2: wrong_state", "a.rs:3: Work"]
    );
    assert_eq!(code, Some(1));
}

#[test]
fn the_check_of_language_finds_doc_comments_that_say_nothing() {
    let text =
        "/// Its name.\nlet a = 1;\n/// Short\n/// but the lines count together.\nlet b = 1;\n//// not one\n";
    assert_eq!(check_language("a.rs", text, &[]).0, ["a.rs:1: \"Its name.\""]);
}

#[test]
fn the_check_of_language_measures_sentences_but_neither_code_nor_addresses() {
    let long = "word ".repeat(30);
    let text = format!(
        "Short. {long}\n`one more of them`, and.\n\n    {long} more words\n\n```\n{long} more words\n```\n\n\
         {long}[end](a.md#b).\n\n- {long}\n- more words\n"
    );
    // 30 words, one inline code and one more word are 32; the linked word makes the other sentence 31.
    assert_eq!(
        check_language("a.md", &text, &[]).0,
        ["a.md:1: a sentence of 32 words", "a.md:10: a sentence of 31 words"]
    );
}

#[test]
fn the_check_of_language_accepts_no_more_findings_than_it_is_allowed() {
    let text = "nobody told anybody";
    assert_eq!(check_language("a.md", text, &["--max", "3"]), (Vec::new(), Some(0)));
    let (findings, code) = check_language("a.md", text, &["--max", "2"]);
    assert_eq!((findings.len(), code), (3, Some(1)));
    assert_eq!(check_language("a.md", text, &["--max", "few"]).1, Some(2));
}

#[test]
fn every_path_in_the_maps_of_the_code_exists() {
    for page in ["ARCHITECTURE.md", "CONTRIBUTING.md"] {
        let text = std::fs::read_to_string(root().join(page)).unwrap();
        let named = text.split('`').skip(1).step_by(2).filter(|code| !code.contains([' ', '*']));
        let folders = ["src/", "tests/", "docs/", "benches/", "scripts/"];
        let paths: Vec<&str> = named.filter(|code| folders.iter().any(|one| code.starts_with(one))).collect();
        assert!(paths.len() > 5, "{page} names paths");
        for path in paths {
            assert!(root().join(path).exists(), "{page} names {path}, which does not exist");
        }
    }
}

/// A function with the attribute `test`.
struct TestFunction {
    /// The path from the root of the repository.
    file: String,
    name: String,
    doc: String,
}

/// All tests in `src` and `tests`.
static TESTS: LazyLock<Vec<TestFunction>> = LazyLock::new(|| {
    let mut found = Vec::new();
    for (file, text) in rust_files() {
        let parsed = syn::parse_file(&text).unwrap_or_else(|error| panic!("{file}: {error}"));
        collect(&file, &parsed.items, &mut found);
    }
    found
});

fn rust_files() -> Vec<(String, String)> {
    let mut folders = vec![root().join("src"), root().join("tests")];
    let mut found = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|extension| extension == "rs") {
                let name = path.strip_prefix(root()).unwrap().to_str().unwrap().to_owned();
                found.push((name, std::fs::read_to_string(path).unwrap()));
            } else if path.is_dir() && !path.ends_with("node_modules") {
                folders.push(path);
            }
        }
    }
    found
}

fn collect(file: &str, items: &[Item], found: &mut Vec<TestFunction>) {
    let test = |name: String, doc| TestFunction { file: file.to_owned(), name, doc };
    for item in items {
        match item {
            Item::Fn(function) if function.attrs.iter().any(is_test) => {
                found.push(test(function.sig.ident.to_string(), doc(&function.attrs)));
            }
            Item::Mod(module) => {
                if let Some((_, items)) = &module.content {
                    collect(file, items, found);
                }
            }
            // The functions in `proptest!` have parameters that are not Rust: they are read as tokens.
            Item::Macro(item) if item.mac.path.is_ident("proptest") => {
                let tokens: Vec<String> =
                    item.mac.tokens.clone().into_iter().map(|token| token.to_string()).collect();
                for window in tokens.windows(4) {
                    if window[..3] == ["#", "[test]", "fn"] {
                        found.push(test(window[3].clone(), String::new()));
                    }
                }
            }
            _ => {}
        }
    }
}

fn is_test(attribute: &Attribute) -> bool {
    attribute.path().segments.last().is_some_and(|segment| segment.ident == "test")
}

fn doc(attributes: &[Attribute]) -> String {
    let lines = attributes.iter().filter_map(|attribute| match &attribute.meta {
        Meta::NameValue(pair) if pair.path.is_ident("doc") => match &pair.value {
            Expr::Lit(literal) => match &literal.lit {
                Lit::Str(text) => Some(text.value()),
                _ => None,
            },
            _ => None,
        },
        _ => None,
    });
    lines.collect::<Vec<_>>().join("\n")
}

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
