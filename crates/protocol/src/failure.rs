//! The error of operations that fail for internal reasons. Input that a specification forbids has other types: `None`,
//! or an error of its module.

use std::error::Error;

/// A failure that no other party caused: no random bytes, a private key that cannot be read, a value that cannot be
/// serialized. `Display` says which operation failed; `source` has the cause. Neither contains secrets.
#[derive(Debug, thiserror::Error)]
#[error("{during}")]
pub struct Failure {
    during: String,
    #[source]
    cause: Option<Box<dyn Error + Send + Sync>>,
}

impl Failure {
    pub(crate) fn new(during: impl Into<String>) -> Self {
        Self { during: during.into(), cause: None }
    }
}

/// Adds to an error which operation failed.
pub(crate) trait Context<T> {
    fn context(self, during: &str) -> Result<T, Failure>;
}

impl<T, E: Into<Box<dyn Error + Send + Sync>>> Context<T> for Result<T, E> {
    fn context(self, during: &str) -> Result<T, Failure> {
        self.map_err(|error| Failure { during: during.into(), cause: Some(error.into()) })
    }
}
