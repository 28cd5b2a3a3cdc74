//! An internal failure, or a failure of a dependency. Clients do not see the cause; the log does.

use std::fmt;

use actchain_protocol::failure::Failure;

/// A failure that the client did not cause: the database is unavailable, a key does not open, a bug.
///
/// Clients are only asked to try again; `Display` and `source` are for operators.
#[derive(Debug, thiserror::Error)]
pub struct Fault {
    during: String,
    #[source]
    cause: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = self.during.clone();
        let mut cause = self.cause.as_deref().map(|cause| cause as &dyn std::error::Error);
        while let Some(error) = cause {
            // Some errors repeat the text of their source in their own.
            let next = error.to_string();
            if !text.contains(&next) {
                text = format!("{text}: {next}");
            }
            cause = error.source();
        }
        f.write_str(&text)
    }
}

impl Fault {
    /// A fault without an underlying error.
    pub fn new(during: impl Into<String>) -> Self {
        Self { during: during.into(), cause: None }
    }

    /// A fault with the error that caused it.
    pub fn caused(
        during: impl Into<String>,
        cause: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self { during: during.into(), cause: Some(cause.into()) }
    }
}

impl From<Failure> for Fault {
    fn from(failure: Failure) -> Self {
        Self::caused(failure.to_string(), failure)
    }
}

impl From<actchain_embedded_postgres::Error> for Fault {
    fn from(error: actchain_embedded_postgres::Error) -> Self {
        Self::caused(error.to_string(), error)
    }
}

impl From<sqlx::Error> for Fault {
    fn from(error: sqlx::Error) -> Self {
        match super::postgres_errors::hint(&error) {
            Some(hint) => Self::caused(format!("database ({hint})"), error),
            None => Self::caused("database", error),
        }
    }
}

/// Adds to an error what the server was doing when the error occurred.
pub trait Context<T> {
    /// Converts any error to a [`Fault`] that says what the server was doing.
    fn context(self, what: &str) -> Result<T, Fault>;
}

impl<T, E: Into<Box<dyn std::error::Error + Send + Sync>>> Context<T> for Result<T, E> {
    fn context(self, what: &str) -> Result<T, Fault> {
        self.map_err(|error| Fault::caused(what, error))
    }
}
