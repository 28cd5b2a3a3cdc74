//! `debt.txt`: what breaks a rule today, by file. It may only shrink: what is new fails a test, and so does what is listed and
//! no longer there. `BLESS=1 cargo test --test architecture` removes fixed places from the list and adds none.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

/// Findings of one kind by file or arrow: how many, and where.
#[derive(Debug, Default, Clone)]
pub struct Counts(BTreeMap<String, (usize, Vec<String>)>);

impl Counts {
    pub fn add(&mut self, subject: &str, number: usize, place: String) {
        let count = self.0.entry(subject.to_owned()).or_default();
        count.0 += number;
        count.1.push(place);
    }

    pub fn total(&self) -> usize {
        self.0.values().map(|(number, _)| number).sum()
    }
}

fn path() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/architecture/debt.txt"))
}

/// `(subject, number)` of the lines `kind subject number`.
fn listed(text: &str, kind: &str) -> BTreeMap<String, usize> {
    let lines = text.lines().filter_map(|line| line.strip_prefix(kind)?.strip_prefix(' '));
    lines
        .map(|line| {
            let (subject, number) = line.rsplit_once(' ').expect("kind subject number");
            (subject.to_owned(), number.parse().expect("kind subject number"))
        })
        .collect()
}

/// Compares what was found with what is listed; gives a message for each difference.
pub fn compare(text: &str, kind: &str, found: &Counts) -> Vec<String> {
    let listed = listed(text, kind);
    let subjects: BTreeSet<&String> = listed.keys().chain(found.0.keys()).collect();
    let difference = |subject: &String| {
        let allowed = listed.get(subject).copied().unwrap_or_default();
        let (number, places) = found.0.get(subject).cloned().unwrap_or_default();
        match number.cmp(&allowed) {
            std::cmp::Ordering::Equal => None,
            std::cmp::Ordering::Greater => {
                let places = places.join(", ");
                Some(format!("{kind} {subject} {number}: at most {allowed} may be there: {places}"))
            }
            std::cmp::Ordering::Less if number == 0 => {
                Some(format!("remove the line of debt.txt: {kind} {subject} {allowed}"))
            }
            std::cmp::Ordering::Less => {
                Some(format!("the line of debt.txt is now: {kind} {subject} {number}"))
            }
        }
    };
    subjects.into_iter().filter_map(difference).collect()
}

/// The list without fixed places.
fn lowered(text: &str, kind: &str, found: &Counts) -> String {
    let line = |line: &str| {
        let Some(rest) = line.strip_prefix(kind).and_then(|rest| rest.strip_prefix(' ')) else {
            return Some(line.to_owned());
        };
        let (subject, allowed) = rest.rsplit_once(' ')?;
        let number = found.0.get(subject).map_or(0, |(number, _)| *number).min(allowed.parse().ok()?);
        (number > 0).then(|| format!("{kind} {subject} {number}"))
    };
    text.lines().filter_map(line).map(|line| line + "\n").collect()
}

/// Fails if a rule is broken in a place that is not listed, or is no longer broken in a place that is.
pub fn check(kinds: &[(&str, Counts)]) {
    // Tests run at the same time, and each writes the whole list.
    static LIST: std::sync::Mutex<()> = std::sync::Mutex::new(());
    let guard = LIST.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let mut text = std::fs::read_to_string(path()).expect("debt.txt");
    if std::env::var_os("BLESS").is_some() {
        text = kinds.iter().fold(text, |text, (kind, found)| lowered(&text, kind, found));
        std::fs::write(path(), &text).expect("debt.txt");
    }
    drop(guard);
    let wrong: Vec<String> = kinds.iter().flat_map(|(kind, found)| compare(&text, kind, found)).collect();
    assert!(wrong.is_empty(), "\n{}\n", wrong.join("\n"));
}

#[test]
fn a_list_only_shrinks() {
    let text = "# Why.\ntuple src/a.rs 2\ntuple src/b.rs 1\nboolean src/a.rs 1\n";
    let mut found = Counts::default();
    found.add("src/a.rs", 1, "line 7".into());
    found.add("src/c.rs", 2, "line 9".into());
    assert_eq!(
        compare(text, "tuple", &found),
        [
            "the line of debt.txt is now: tuple src/a.rs 1",
            "remove the line of debt.txt: tuple src/b.rs 1",
            "tuple src/c.rs 2: at most 0 may be there: line 9",
        ]
    );
    assert_eq!(lowered(text, "tuple", &found), "# Why.\ntuple src/a.rs 1\nboolean src/a.rs 1\n");
}
