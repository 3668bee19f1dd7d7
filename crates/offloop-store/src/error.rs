//! Why an engine could not do a whole call. What is wrong with one item is in its outcome.

use std::error::Error;
use std::fmt;

/// An engine's own error, kept as a cause and never looked into above the engine.
pub struct BackendError(Box<dyn Error + Send + Sync>);

impl BackendError {
    pub fn new(cause: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self(cause.into())
    }
}

impl fmt::Debug for BackendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl fmt::Display for BackendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl Error for BackendError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.0.source()
    }
}

/// Nothing of the call was acknowledged. After `Broken` it is unknown whether it is on disk.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    #[error(
        "the disk under the store is full ({free_bytes} bytes free, {needed_bytes} are kept in reserve); free some space, jobs already taken in go on"
    )]
    DiskFull { free_bytes: u64, needed_bytes: u64 },
    #[error("the store failed and is being reopened; try again")]
    Broken {
        #[source]
        cause: Option<BackendError>,
    },
    #[error("the store is closed")]
    Closed,
    #[error("the store has {waiting} calls in line, its limit; try again later")]
    Busy { waiting: usize },
    #[error("the store could not {operation}")]
    Backend {
        operation: &'static str,
        #[source]
        cause: BackendError,
    },
}

impl StoreError {
    /// Whether the same call may succeed later without anybody changing it.
    pub const fn retry_helps(&self) -> bool {
        match self {
            Self::DiskFull { .. } | Self::Broken { .. } | Self::Busy { .. } => true,
            Self::Closed | Self::Backend { .. } => false,
        }
    }
}
