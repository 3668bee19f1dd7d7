//! Rows as lines of JSON at the end of a file.
//!
//! Rows, flushed, then their note in a file beside it (`FILE.notes`), flushed: a note is the
//! commit. Rows behind the last note are a crash's and are cut off when the file is opened. So the
//! file belongs to the target; whoever else appends to it may lose that.
//!
//! Must never: write a note before its rows are on the disk; share the file with another process.

mod file;
mod notes;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{
    BatchNote, Hand, Outlet, Reply, Resumed, RowSink, SinkError, Stored, Totals, json::JsonRows,
};
use crate::load::LoadId;
use crate::rows::Batch;
use crate::target::Target;
use file::{Cause, NdjsonFile};

/// One file. Opened by the first load.
#[derive(Debug)]
pub struct NdjsonOutlet {
    hand: Hand<NdjsonFile>,
    rows: Arc<JsonRows>,
    path: Arc<Path>,
}

impl NdjsonOutlet {
    /// For `target`, with rows at the end of `path`. Errors: its thread cannot be started.
    pub fn new(target: &Target, path: impl Into<PathBuf>) -> io::Result<Self> {
        let path: PathBuf = path.into();
        Ok(Self {
            hand: Hand::new("ingest-ndjson", NdjsonFile::new(path.clone()))?,
            rows: Arc::new(JsonRows::new(target.columns())),
            path: path.into(),
        })
    }
}

impl Outlet for NdjsonOutlet {
    fn sink(&self, load: &LoadId) -> Arc<dyn RowSink> {
        Arc::new(NdjsonSink {
            hand: self.hand.clone(),
            rows: Arc::clone(&self.rows),
            path: Arc::clone(&self.path),
            load: load.clone(),
            run: std::sync::OnceLock::new(),
        })
    }

    fn check(&self) -> Reply<'_, ()> {
        let looked = file::look(&self.path).map_err(|cause| SinkError::File {
            place: self.path.display().to_string(),
            cause,
        });
        Box::pin(std::future::ready(looked))
    }
}

#[derive(Debug)]
struct NdjsonSink {
    hand: Hand<NdjsonFile>,
    rows: Arc<JsonRows>,
    path: Arc<Path>,
    load: LoadId,
    /// Which run of the load this is.
    run: std::sync::OnceLock<u64>,
}

impl NdjsonSink {
    async fn ask<T: Send + 'static>(
        &self,
        deed: impl FnOnce(&mut NdjsonFile) -> Result<T, Cause> + Send + 'static,
    ) -> Result<T, SinkError> {
        let done = self.hand.ask(deed).await.map_err(|_| SinkError::Ended)?;
        done.map_err(|cause| match cause {
            Cause::Io(cause) => SinkError::File {
                place: self.path.display().to_string(),
                cause,
            },
            Cause::TakenOver => SinkError::TakenOver,
            Cause::Locked => SinkError::Place {
                problem: format!(
                    "{} is being written by another process",
                    self.path.display()
                ),
            },
            Cause::Shorter { len, noted } => SinkError::Place {
                problem: format!(
                    "{} has {len} bytes, but {noted} were stored: somebody cut it; move it and its .notes away to begin anew",
                    self.path.display()
                ),
            },
        })
    }

    fn run(&self) -> u64 {
        self.run.get().copied().unwrap_or(0)
    }
}

impl RowSink for NdjsonSink {
    fn resume(&self) -> Reply<'_, Resumed> {
        Box::pin(async {
            let load = self.load.clone();
            let (run, resumed) = self.ask(move |file| file.take_over(&load)).await?;
            // Once a sink; a second answer would be an earlier run's.
            let _first = self.run.set(run);
            Ok(resumed)
        })
    }

    fn store(&self, batch: Arc<Batch>, note: BatchNote) -> Reply<'_, Stored> {
        Box::pin(async move {
            let rejects = note.put_aside(&batch, Vec::new()).await?;
            let stored = Stored {
                rows: batch.len() as u64,
                rejects,
            };
            let (run, load, rows) = (self.run(), self.load.clone(), Arc::clone(&self.rows));
            self.ask(move |file| file.append(&load, run, &rows, &batch, stored))
                .await?;
            Ok(stored)
        })
    }

    fn finish(&self, totals: Totals) -> Reply<'_, ()> {
        Box::pin(async move {
            let (run, load) = (self.run(), self.load.clone());
            self.ask(move |file| file.finish(&load, run, totals)).await
        })
    }
}
