//! What each reason means and what to do about it: the sentences of `docs/reference/problems.md`, so that the documentation and what
//! programs receive are the same text.

/// Rows have the reason, status, error, meaning and advice.
const PROBLEMS: &str = include_str!("../../../docs/reference/problems.md");

/// What a page says of one reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Explained {
    pub(super) reason: &'static str,
    /// What happened.
    pub(super) meaning: &'static str,
    /// What to do next.
    pub(super) advice: &'static str,
}

/// All of them, in the order of the page.
pub(super) fn explained() -> impl Iterator<Item = Explained> {
    PROBLEMS.lines().filter_map(|line| {
        let row = line.strip_prefix("| `")?.strip_suffix(" |")?;
        let (reason, rest) = row.split_once("` | ")?;
        let (rest, advice) = rest.rsplit_once(" | ")?;
        let (_, meaning) = rest.rsplit_once(" | ")?;
        Some(Explained { reason, meaning, advice })
    })
}
