//! What a check of an installation has found.

use crate::platform::fault::Fault;

/// What a check has found.
#[derive(Debug)]
pub struct DoctorFinding {
    /// The subject of the check, with facts about it.
    pub check: String,
    pub problem: Option<String>,
    /// Warnings are no problem.
    pub warnings: Vec<String>,
}

impl DoctorFinding {
    pub fn of<T>(check: impl Into<String>, result: Result<T, Fault>) -> Self {
        let problem = result.err().map(|fault| fault.to_string());
        Self { check: check.into(), problem, warnings: Vec::new() }
    }
}
