//! Why a sink could not do its part.

use std::io;

use crate::rejects::SinkReject;

/// Of [`super::RowSink`]. Every variant says what to do next.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SinkError {
    /// The place is not what the declaration says. No retry helps.
    #[error("{problem}")]
    Place { problem: String },
    /// It did not answer, for as long as the sink's patience lasts.
    #[error("{place} cannot be reached")]
    Unreachable {
        place: String,
        #[source]
        cause: Box<dyn std::error::Error + Send + Sync>,
    },
    /// It refused for a reason that lies in no row.
    #[error("{place} refused a batch: {message}")]
    Refused { place: String, message: String },
    /// A row that the place refuses, where the target bears no more of them.
    #[error("stopped by on_bad_row at {reject}")]
    BadRow { reject: Box<SinkReject> },
    /// Another run of the same load has begun.
    #[error("another run of this load has taken it over")]
    TakenOver,
    #[error("the reject file cannot be written")]
    RejectFile {
        #[source]
        cause: io::Error,
    },
    #[error("{place} cannot be written")]
    File {
        place: String,
        #[source]
        cause: io::Error,
    },
    /// The sink's thread or task is gone: the server ends.
    #[error("the sink has ended")]
    Ended,
}

impl SinkError {
    /// The same load, begun again later, may come through.
    pub const fn retry_helps(&self) -> bool {
        match self {
            Self::Unreachable { .. }
            | Self::RejectFile { .. }
            | Self::File { .. }
            | Self::Ended => true,
            Self::Place { .. } | Self::Refused { .. } | Self::BadRow { .. } | Self::TakenOver => {
                false
            }
        }
    }
}
