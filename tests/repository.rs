//! Checks the files around the code: links of the documentation, and the table of contents of the book.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path, PathBuf};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The Markdown files of the folder; in docs/, those of its subfolders too.
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

/// The anchors that GitHub and mdBook give to the headings of a page.
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
    // Links may be broken over two lines between their words, never within the address.
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
