//! Why a manifest was not applied.

use std::fmt;

use crate::domain::refusal::{Error, Refusal};
use crate::platform::fault::Fault;
use crate::platform::yaml::InvalidDeclaration;

/// A refusal or a failure, with words for the author of the manifest.
#[derive(Debug)]
pub struct ApplyError {
    pub stop: Error,
    /// The place in the manifest, and the reason.
    pub detail: Option<String>,
}

impl ApplyError {
    /// The caller may apply a manifest, but not this entry.
    pub(super) fn for_operators(place: &InvalidDeclaration) -> Self {
        Self { stop: Refusal::OperatorOnly.into(), detail: Some(place.to_string()) }
    }
}

impl From<InvalidDeclaration> for ApplyError {
    fn from(invalid: InvalidDeclaration) -> Self {
        let stop = Refusal::Malformed("The manifest cannot be applied").into();
        Self { stop, detail: Some(invalid.to_string()) }
    }
}

impl<E: Into<Error>> From<E> for ApplyError {
    fn from(stop: E) -> Self {
        Self { stop: stop.into(), detail: None }
    }
}

impl fmt::Display for ApplyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.detail, &self.stop) {
            (Some(detail), _) => f.write_str(detail),
            (None, Error::Refused(refusal)) => f.write_str(refusal.sentence()),
            (None, Error::Failed(fault)) => fault.fmt(f),
        }
    }
}

impl From<ApplyError> for Fault {
    fn from(error: ApplyError) -> Self {
        match error {
            ApplyError { stop: Error::Failed(fault), detail: None } => fault,
            other => Self::new(other.to_string()),
        }
    }
}
