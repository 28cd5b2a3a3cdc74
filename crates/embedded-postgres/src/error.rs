//! The error of this crate.

use std::error::Error as StdError;

/// The cluster could not be made, started, used or stopped. `Display` says what was attempted or what to do, in one
/// sentence for operators; `source` has the cause, if there is one.
#[derive(Debug, thiserror::Error)]
#[error("{during}")]
pub struct Error {
    during: String,
    #[source]
    cause: Option<Box<dyn StdError + Send + Sync>>,
}

impl Error {
    pub(crate) fn new(during: impl Into<String>) -> Self {
        Self { during: during.into(), cause: None }
    }

    pub(crate) fn caused(
        during: impl Into<String>,
        cause: impl Into<Box<dyn StdError + Send + Sync>>,
    ) -> Self {
        Self { during: during.into(), cause: Some(cause.into()) }
    }

    /// The sentence with its causes.
    pub(crate) fn chain(&self) -> String {
        let mut text = self.during.clone();
        let mut cause = self.source();
        while let Some(error) = cause {
            text = format!("{text}: {error}");
            cause = error.source();
        }
        text
    }
}

/// Adds to an error what was attempted.
pub(crate) trait Context<T> {
    fn context(self, during: &str) -> Result<T, Error>;
}

impl<T, E: Into<Box<dyn StdError + Send + Sync>>> Context<T> for Result<T, E> {
    fn context(self, during: &str) -> Result<T, Error> {
        self.map_err(|error| Error::caused(during, error))
    }
}
