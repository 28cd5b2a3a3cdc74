//! Meaning and advice of each reason: the sentences of `docs/reference/problems.md`, so that documentation and
//! responses have the same text.

/// Rows have the reason, status, error, meaning and advice.
const PROBLEMS: &str = include_str!("../../../docs/reference/problems.md");

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Explained {
    pub(super) reason: &'static str,
    pub(super) meaning: &'static str,
    pub(super) advice: &'static str,
}

/// All reasons, in the order of the page.
pub(super) fn explained() -> impl Iterator<Item = Explained> {
    PROBLEMS.lines().filter_map(|line| {
        let row = line.strip_prefix("| `")?.strip_suffix(" |")?;
        let (reason, rest) = row.split_once("` | ")?;
        let (rest, advice) = rest.rsplit_once(" | ")?;
        let (_, meaning) = rest.rsplit_once(" | ")?;
        Some(Explained { reason, meaning, advice })
    })
}
