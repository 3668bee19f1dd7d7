//! What goes wrong with a whole transaction, as the seam says it.

use std::fmt;

use offloop_store::{BackendError, StoreError};
use rusqlite::ErrorCode;

/// Why a transaction did not come through. After either the handle is not trusted again.
#[derive(Clone, Debug)]
pub(crate) enum Failure {
    DiskFull,
    Broken(Broken),
}

/// SQLite's error, in a form that every caller of a batch can have.
#[derive(Clone, Debug)]
pub(crate) struct Broken {
    pub(crate) text: String,
    /// The file itself is damaged: it is checked before it is served again.
    pub(crate) corrupt: bool,
}

impl Failure {
    pub(crate) fn bug(text: impl Into<String>) -> Self {
        Self::Broken(Broken {
            text: text.into(),
            corrupt: false,
        })
    }

    pub(crate) const fn is_corrupt(&self) -> bool {
        matches!(self, Self::Broken(broken) if broken.corrupt)
    }

    /// `disk`: free bytes, and how many are kept.
    pub(crate) fn answer(&self, disk: (u64, u64)) -> StoreError {
        match self {
            Self::DiskFull => StoreError::DiskFull {
                free_bytes: disk.0,
                needed_bytes: disk.1,
            },
            Self::Broken(broken) => StoreError::Broken {
                cause: Some(BackendError::new(broken.text.clone())),
            },
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::DiskFull => f.write_str("the disk is full"),
            Self::Broken(broken) => f.write_str(&broken.text),
        }
    }
}

impl From<rusqlite::Error> for Failure {
    fn from(error: rusqlite::Error) -> Self {
        let code = error.sqlite_error_code();
        if code == Some(ErrorCode::DiskFull) {
            return Self::DiskFull;
        }
        let corrupt = matches!(
            code,
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase)
        );
        Self::Broken(Broken {
            text: error.to_string(),
            corrupt,
        })
    }
}

/// Of the log's flush. Never `DiskFull`, whatever the kernel says: the rows stand in the log and may
/// be there after the reopening, so nobody may be told that they were refused.
impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::bug(format!("the log could not be flushed: {error}"))
    }
}
