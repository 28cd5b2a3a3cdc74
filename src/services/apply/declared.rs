//! The result of a declaration at the management API.

use crate::domain::refusal::{Error, Refusal};
use crate::services::transition::Reply;

#[derive(Debug)]
pub enum DeclarationResult<T> {
    Stored(Reply<T>),
    /// The declaration is invalid; with the problem in words for its author.
    Invalid(String),
}

impl<T> DeclarationResult<T> {
    /// The refusal of an invalid declaration.
    pub const REFUSAL: Refusal = Refusal::Malformed("The declaration cannot be used");

    /// Combines the result of storing with the problem that was found, if any.
    pub(in crate::services) fn new(
        result: Result<Reply<T>, Error>,
        problem: Option<String>,
    ) -> Result<Self, Error> {
        match (result, problem) {
            (Err(Error::Refused(_)), Some(problem)) => Ok(Self::Invalid(problem)),
            (result, _) => result.map(Self::Stored),
        }
    }
}
