//! Where rows go: the seam that every sink implements, so that a crash costs no row and doubles none.
//!
//! Path: reader -> pipeline ([`crate::load`]) -> **sink**. An [`Outlet`] is one target's place and
//! what all loads into it share (a pool, a file, a writer's thread); a [`RowSink`] is one load's way
//! into it. A batch and its note (load, byte range, counts, checkpoint) are stored in one commit
//! where the place has commits. So the notes are the truth about what is stored, and nothing else
//! needs to survive.
//!
//! Must never: say stored before the commit; commit rows whose refused neighbours are not in the
//! reject file yet; let two runs of one load write at once.

mod error;
mod hand;
pub mod jobs;
pub mod json;
#[cfg(feature = "kafka")]
pub mod kafka;
pub mod ndjson;
pub mod postgres;
mod ranges;
pub mod sqlite;
mod stream;

use std::fmt;
use std::future::Future;
use std::io;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;

use rustix::fs::{Access, access};
use serde::{Deserialize, Serialize};

pub use error::SinkError;
pub use hand::Hand;
pub use ranges::Ranges;
pub(crate) use stream::Source;
pub use stream::Stream;

use crate::load::LoadId;
use crate::rejects::{RejectLog, SinkReject};
use crate::rows::{Batch, Checkpoint};

/// One answer of a sink. One box per batch.
pub type Reply<'a, T> = Pin<Box<dyn Future<Output = Result<T, SinkError>> + Send + 'a>>;

/// One target's place, shared by all loads into it.
pub trait Outlet: Send + Sync + fmt::Debug {
    /// The way of one load into it. Waits for nothing and fails at nothing: [`RowSink::resume`] does.
    fn sink(&self, load: &LoadId) -> Arc<dyn RowSink>;

    /// The way of one partition of a topic into it: its position is stored in one commit with the
    /// rows, and [`RowSink::resume`] tells it as the end of the only note. Its batches are to follow
    /// each other without a gap, one at a time; [`RowSink::finish`] is not for it.
    ///
    /// `None`: the place has no such commits.
    fn stream(&self, _stream: &Stream) -> Option<Arc<dyn RowSink>> {
        None
    }

    /// Whether the place is there and is what the target says, without a trace in it: nothing is
    /// made, noted or taken away. Errors: as of [`RowSink::resume`].
    fn check(&self) -> Reply<'_, ()>;
}

/// Whether a file that is missing could be made. Its folder is asked; nothing is made.
fn may_make(file: &Path) -> io::Result<()> {
    let folder = file.parent();
    let folder = folder.filter(|folder| !folder.as_os_str().is_empty());
    let folder = folder.unwrap_or(Path::new("."));
    Ok(access(folder, Access::WRITE_OK | Access::EXEC_OK)?)
}

/// One load's way into its target.
pub trait RowSink: Send + Sync + fmt::Debug {
    /// Calls of [`RowSink::store`] that may be under way at once; at least 1. With 1, batches are
    /// stored in the order of the input.
    fn width(&self) -> usize {
        1
    }

    /// Before the first byte is taken: checks the place against the target's columns (or makes
    /// it), takes the load away from whoever ran it before, and tells what of it is stored.
    ///
    /// When this answers, no earlier run of the load can commit any more.
    fn resume(&self) -> Reply<'_, Resumed>;

    /// Stores the rows of `batch` and the note of it, whole or not at all, and answers behind the
    /// commit. Rows that the place itself refuses are put aside: [`BatchNote::put_aside`] with all
    /// of them right before the commit, even if there are none.
    ///
    /// Lost connections are the sink's matter: it tries again, and asks for the note first.
    fn store(&self, batch: Arc<Batch>, note: BatchNote) -> Reply<'_, Stored>;

    /// The input has ended and all of it is stored; its notes may shrink to one.
    fn finish(&self, totals: Totals) -> Reply<'_, ()>;
}

/// What a sink found of a load.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Resumed {
    /// In the order of `from`.
    pub notes: Vec<Note>,
    /// The load came to its end before: there is nothing left to do.
    pub finished: Option<Totals>,
}

/// What is kept of a stored batch.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Note {
    /// Byte range in the decoded text.
    pub from: u64,
    pub to: u64,
    /// Stored with it.
    pub rows: u64,
    /// Put aside with it, by the reader or by the place.
    pub rejects: u64,
    /// Where to go on behind it.
    pub checkpoint: Checkpoint,
}

/// Sums of a load that ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    /// Stored.
    pub rows: u64,
    pub rejects: u64,
    /// Of decoded text.
    pub bytes: u64,
}

/// What one [`RowSink::store`] did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stored {
    pub rows: u64,
    /// The reader's and the place's.
    pub rejects: u64,
}

/// What goes with a batch. Cheap to clone.
#[derive(Debug, Clone)]
pub struct BatchNote {
    pub load: LoadId,
    /// Refused rows that the target still bears, this batch's own by the reader not among them;
    /// `None`: any number.
    pub bearable: Option<u64>,
    /// Number of this call of [`RowSink::store`] in this run of the load, from 0 without gaps, in the
    /// order of the input: calls that are under way at once may begin in any order.
    pub order: u64,
    pub(crate) aside: Aside,
}

/// Where a batch's refused rows go.
#[derive(Debug, Clone)]
pub(crate) enum Aside {
    File(RejectLog),
    #[cfg_attr(not(feature = "kafka"), expect(dead_code, reason = "of topics alone"))]
    Letters(Arc<dyn Letters>),
}

/// A place of refused rows that is no file of this process.
pub(crate) trait Letters: Send + Sync + fmt::Debug {
    /// Puts aside what the place refused of a batch; what the reader refused was before.
    fn post(&self, more: Vec<SinkReject>) -> Reply<'_, ()>;
}

impl BatchNote {
    /// Writes the batch's refused rows, the reader's and `more`, to the reject file and flushes
    /// it. Call right before the commit, with the same batch again if the commit has to be tried
    /// again: what an earlier try wrote is replaced.
    ///
    /// Returns how many that are. Errors: the file cannot be written, or the target does not bear
    /// so many; then the batch must not be committed.
    pub async fn put_aside(
        &self,
        batch: &Arc<Batch>,
        more: Vec<SinkReject>,
    ) -> Result<u64, SinkError> {
        if let Some(bearable) = self.bearable
            && let Some(reject) = more.get(usize::try_from(bearable).unwrap_or(usize::MAX))
        {
            return Err(SinkError::BadRow {
                reject: Box::new(reject.clone()),
            });
        }
        let count = batch.rejects().len() as u64 + more.len() as u64;
        match &self.aside {
            Aside::File(log) => {
                let kept = log.keep(Arc::clone(batch), more).await;
                kept.map_err(|cause| SinkError::RejectFile { cause })?;
            }
            Aside::Letters(_) if more.is_empty() => {}
            Aside::Letters(letters) => letters.post(more).await?,
        }
        Ok(count)
    }

    /// The note as it is to be stored with the batch.
    pub fn of(batch: &Batch, stored: Stored) -> Note {
        Note {
            from: batch.from(),
            to: batch.to(),
            rows: stored.rows,
            rejects: stored.rejects,
            checkpoint: batch.checkpoint().clone(),
        }
    }
}
