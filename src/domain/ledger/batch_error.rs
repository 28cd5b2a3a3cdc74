//! Why a batch was not recorded.

use crate::platform::fault::Fault;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FailureScope {
    /// An entry of the batch is to blame: others can be recorded.
    Content,
    Database,
}

/// An error in a batch: of the database, or of the code that assembles the batch.
#[derive(Debug, thiserror::Error)]
pub(super) enum BatchError {
    #[error(transparent)]
    Sql(#[from] sqlx::Error),
    #[error(transparent)]
    Fault(#[from] Fault),
    /// A person was erased since the names of the batch were read; the number of erasures.
    #[error("a person was erased while a batch was recorded")]
    Erased(i64),
}

impl From<BatchError> for Fault {
    fn from(error: BatchError) -> Self {
        match error {
            BatchError::Sql(error) => error.into(),
            BatchError::Fault(fault) => fault,
            error @ BatchError::Erased(_) => Self::new(error.to_string()),
        }
    }
}

impl BatchError {
    /// SQLSTATE classes 22 (data), 23 (integrity) and 40 (rollback for a conflict) are caused by the content of the
    /// entries. So is a stored row that cannot be read: other entries do not rely on it.
    pub(super) fn scope(&self) -> FailureScope {
        let cause = match self {
            Self::Erased(_) => return FailureScope::Content,
            Self::Sql(error) => error,
            // A store function returns the error of the database as the cause of a fault.
            Self::Fault(fault) => {
                match std::error::Error::source(fault).and_then(|cause| cause.downcast_ref()) {
                    Some(error) => error,
                    None => return FailureScope::Content,
                }
            }
        };
        let of_content = match cause {
            sqlx::Error::Database(error) => error
                .code()
                .is_some_and(|code| ["22", "23", "40"].iter().any(|class| code.starts_with(class))),
            error => matches!(error, sqlx::Error::ColumnDecode { .. }),
        };
        if of_content { FailureScope::Content } else { FailureScope::Database }
    }
}
