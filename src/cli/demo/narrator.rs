//! The demo's output: chapters, steps, and the result of the checks of each step.

use std::fmt::Debug;

use anstyle::{AnsiColor, Style};
use serde_json::Value;

use super::client::Answer;
use super::detail::Detail;
use crate::cli::stdio;

/// A refusal as a client reads it: status, OAuth error code and reason. Absent members are empty.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ExpectedRefusal<'a> {
    pub(super) status: u16,
    pub(super) error: &'a str,
    pub(super) reason: &'a str,
}

impl ExpectedRefusal<'static> {
    /// A refusal of the token endpoint.
    pub(super) const fn oauth(error: &'static str, reason: &'static str) -> Self {
        Self { status: 400, error, reason }
    }

    /// A refusal of the management API or the vault.
    pub(super) const fn problem(status: u16, reason: &'static str) -> Self {
        Self { status, error: "", reason }
    }
}

/// All members are plain if the output is not coloured.
#[derive(Default)]
struct Palette {
    heading: Style,
    picture: Style,
    passed: Style,
    failed: Style,
}

impl Palette {
    fn for_stdout() -> Self {
        if !stdio::may_colour() {
            return Self::default();
        }
        Self {
            heading: Style::new().bold(),
            picture: AnsiColor::Cyan.on_default(),
            passed: AnsiColor::Green.on_default(),
            failed: AnsiColor::Red.on_default().bold(),
        }
    }
}

/// Prints the story, and counts its checks.
pub(super) struct Narrator {
    detail: Detail,
    palette: Palette,
    steps: u32,
    checks: u32,
    failed: u32,
    failed_before_step: u32,
}

impl Narrator {
    pub(super) fn new(detail: Detail) -> Self {
        let palette = Palette::for_stdout();
        Self { detail, palette, steps: 0, checks: 0, failed: 0, failed_before_step: 0 }
    }

    pub(super) fn chapter(&self, title: &str) {
        let heading = self.palette.heading;
        println!("\n{heading}{title}{heading:#}");
    }

    /// Begins a step: who acts, and what is requested.
    pub(super) fn step(&mut self, sentence: &str) {
        self.steps += 1;
        self.failed_before_step = self.failed;
        println!("{:>2}. {sentence}", self.steps);
    }

    /// Shows what came of a request: a chain, or an extract of an answer.
    pub(super) fn picture(&self, text: &str) {
        let picture = self.palette.picture;
        for line in text.lines() {
            println!("    {picture}{line}{picture:#}");
        }
    }

    /// Ends a step: what its checks prove. Nothing is proved if one of them failed.
    pub(super) fn proved(&self, sentence: &str) {
        if self.failed == self.failed_before_step {
            let passed = self.palette.passed;
            println!("    {passed}ok{passed:#} {sentence}");
        }
    }

    pub(super) fn check<F, E>(&mut self, what: &str, found: F, expected: E)
    where
        F: PartialEq<E> + Debug,
        E: Debug,
    {
        if found == expected {
            self.passed(what);
        } else {
            self.failed(what, &format!("{expected:?}"), &format!("{found:?}"));
        }
    }

    pub(super) fn check_status(&mut self, what: &str, answer: &Answer, expected: u16) {
        if answer.status == expected {
            self.passed(what);
        } else {
            self.failed(what, &format!("status {expected}"), &answer.presentable());
        }
    }

    pub(super) fn check_refused(&mut self, what: &str, answer: &Answer, expected: &ExpectedRefusal<'_>) {
        let text = |name: &str| answer.body.get(name).and_then(Value::as_str).unwrap_or_default();
        let found = ExpectedRefusal { status: answer.status, error: text("error"), reason: text("reason") };
        if found == *expected {
            self.passed(what);
        } else {
            self.failed(what, &format!("{expected:?}"), &answer.presentable());
        }
    }

    /// Checks that these actions occur in this order. Others may occur between them.
    pub(super) fn check_order(&mut self, what: &str, found: &[&str], expected: &[&str]) {
        let mut rest = found.iter();
        if expected.iter().all(|action| rest.any(|found| found == action)) {
            self.passed(what);
        } else {
            self.failed(what, &expected.join(", "), &found.join(", "));
        }
    }

    fn passed(&mut self, what: &str) {
        self.checks += 1;
        if self.detail == Detail::Verbose {
            let passed = self.palette.passed;
            println!("    {passed}passed{passed:#} {what}");
        }
    }

    fn failed(&mut self, what: &str, expected: &str, found: &str) {
        self.checks += 1;
        self.failed += 1;
        let failed = self.palette.failed;
        println!("    {failed}FAILED{failed:#} {what}");
        println!("           expected {expected}");
        println!("           found    {found}");
    }

    /// Prints the result, and returns the number of failed checks.
    pub(super) fn end(&self) -> u32 {
        let Palette { passed, failed, .. } = self.palette;
        match self.failed {
            0 => println!("\n{passed}All {} checks passed.{passed:#}", self.checks),
            count => println!("\n{failed}{count} of {} checks FAILED.{failed:#}", self.checks),
        }
        if self.detail == Detail::Story {
            println!(
                "`actchain demo --verbose` shows every check, command and answer, and decodes the tokens."
            );
        }
        self.failed
    }
}
