//! Why a load did not begin, or did not end well.

use super::LoadId;
use super::status::Summary;
use crate::decode::DecodeError;
use crate::rows::ReadError;
use crate::sink::SinkError;

/// A load that cannot begin now.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LoadRefused {
    #[error("there is no target `{target}`; declared are: {}", known.join(", "))]
    UnknownTarget { target: String, known: Vec<String> },
    #[error("the load `{load}` is running already")]
    Running { load: LoadId },
    #[error("{limit} loads are running, as many as may be at once; come again later")]
    Full { limit: usize },
    #[error("`{tenant}` has {limit} loads running, as many as a tenant may; come again later")]
    TenantFull { tenant: String, limit: usize },
}

/// Why a load ended before its input was stored.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    #[error("the input ended before its end was said: {reason}")]
    Cut { reason: String },
    #[error(transparent)]
    Decode(#[from] DecodeError),
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error(transparent)]
    Sink(#[from] SinkError),
}

impl LoadError {
    /// The same load with the same input may come through later.
    pub const fn retry_helps(&self) -> bool {
        match self {
            Self::Cut { .. } => true,
            Self::Decode(_) | Self::Read(_) => false,
            Self::Sink(error) => error.retry_helps(),
        }
    }
}

/// A load that ended early, and what of it is stored. Complete rows before the end of what was
/// read are; [`Summary`] says which.
#[derive(Debug, thiserror::Error)]
#[error("{error}; stored: {}", summary.stored_text())]
pub struct LoadFailed {
    #[source]
    pub error: LoadError,
    pub summary: Box<Summary>,
}
