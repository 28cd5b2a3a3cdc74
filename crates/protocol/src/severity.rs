//! The severity of events, and its name in each export format.

use serde_json::Value;

/// From routine operations to events that should be impossible.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// An operation succeeded.
    Informational,
    /// The client was too late, or requested something that does not exist.
    Low,
    /// The client requested more than it is allowed.
    Medium,
    /// The client presented credentials of another party, or pretended to be another party.
    High,
    /// An agent did what no task can need.
    Critical,
}

impl Severity {
    /// The `level` in SARIF, which has three (SARIF 2.1.0 §3.27.10).
    pub fn level(self) -> &'static str {
        match self {
            Self::Informational | Self::Low => "note",
            Self::Medium => "warning",
            Self::High | Self::Critical => "error",
        }
    }

    /// `severity_id` of OCSF.
    pub fn ocsf(self) -> (u8, &'static str) {
        match self {
            Self::Informational => (1, "Informational"),
            Self::Low => (2, "Low"),
            Self::Medium => (3, "Medium"),
            Self::High => (4, "High"),
            Self::Critical => (5, "Critical"),
        }
    }

    /// 0 to 10, as in the header of CEF.
    pub fn cef(self) -> u8 {
        match self {
            Self::Informational => 1,
            Self::Low => 3,
            Self::Medium => 6,
            Self::High => 8,
            Self::Critical => 10,
        }
    }
}

/// A text member of an event, by JSON pointer.
pub(super) fn text<'a>(event: &'a Value, pointer: &str) -> Option<&'a str> {
    event.pointer(pointer).and_then(Value::as_str)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_severity_has_its_level() {
        let all =
            [Severity::Informational, Severity::Low, Severity::Medium, Severity::High, Severity::Critical];
        assert_eq!(all.map(Severity::level), ["note", "note", "warning", "error", "error"]);
        assert!(
            all.windows(2).all(|pair| pair[0].cef() < pair[1].cef() && pair[0].ocsf().0 < pair[1].ocsf().0)
        );
    }
}
