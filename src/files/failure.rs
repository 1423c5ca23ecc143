//! What can go wrong with a file, and what its caller is told.

use otari_filters::rejection::{Code, Rejection};

use crate::store::StoreError;

/// Why something cannot be done with a file.
#[derive(Debug, thiserror::Error)]
pub enum FilesError {
    /// The operator switched uploads off.
    #[error("File uploads are disabled")]
    Disabled,
    /// There is nothing in it.
    #[error("Uploaded file is empty")]
    Empty,
    /// It has more bytes than it may.
    #[error("File exceeds maximum upload size of {} MB", limit / 1_048_576)]
    TooLarge {
        /// In bytes.
        limit: u64,
    },
    /// Its owner does not exist.
    #[error("User '{0}' not found")]
    UserNotFound(String),
    /// The place of the bytes, or the database, did not do what it was asked.
    #[error("{what}: {cause}")]
    Failed {
        /// For the caller.
        what: &'static str,
        /// For the log.
        cause: String,
    },
    /// The database did not answer a question.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl FilesError {
    pub(super) fn storing(cause: impl ToString) -> Self {
        Self::Failed { what: "Failed to store file", cause: cause.to_string() }
    }

    pub(super) fn reading(id: &str, cause: impl ToString) -> Self {
        let cause = format!("{id}: {}", cause.to_string());
        Self::Failed { what: "Failed to read file", cause }
    }

    pub(super) fn deleting(cause: impl ToString) -> Self {
        Self::Failed { what: "Failed to delete file", cause: cause.to_string() }
    }
}

impl From<FilesError> for Rejection {
    fn from(error: FilesError) -> Self {
        let code = match error {
            FilesError::Disabled => Code::NotFound,
            FilesError::Empty => Code::InvalidValue,
            FilesError::TooLarge { .. } => Code::BodyTooLarge,
            FilesError::UserNotFound(_) => Code::UserNotFound,
            FilesError::Failed { what, cause } => {
                return Self::new(Code::Internal, what).because(cause);
            }
            FilesError::Store(error) => return error.into(),
        };
        Self::new(code, error.to_string())
    }
}
