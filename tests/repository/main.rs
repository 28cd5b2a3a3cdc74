//! Checks the files around the code: links in the documentation, the table of contents, the page of problems, the pages that
//! name tests, and `scripts/check-language`.
#![allow(
    missing_docs,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod conformance;
mod named_tests;
mod promises;
mod siem_mapping;
mod stored_names;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path, PathBuf};
use std::process::Command;

use actchain::domain::refusal::catalogue::{self, entry::CatalogueEntry};

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
fn row_of_problem(entry: &CatalogueEntry) -> String {
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
