//! Rows into a table of a SQLite file: one writer's thread for each file, a transaction a batch.
//!
//! Must never: hold the file's write lock while it waits for anything but the reject file.

mod place;
mod streams;
mod writer;

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use super::{
    BatchNote, Hand, Outlet, Reply, Resumed, RowSink, SinkError, Source, Stored, Stream, Totals,
};
use crate::load::LoadId;
use crate::rows::Batch;
use crate::target::{Sink as Destination, Target};
use writer::{Inserted, Writer};

/// One file, shared by all targets in it. Cheap to clone.
#[derive(Debug, Clone)]
pub struct SqliteFile {
    hand: Hand<Writer>,
    /// Whose transaction may be open across two deeds.
    turn: Arc<tokio::sync::Mutex<()>>,
}

impl SqliteFile {
    /// Opened by the first load, and made if it is missing. Errors: its thread cannot be started.
    pub fn new(path: impl Into<PathBuf>) -> std::io::Result<Self> {
        Ok(Self {
            hand: Hand::new("ingest-sqlite", Writer::new(path.into()))?,
            turn: Arc::default(),
        })
    }
}

/// One table.
#[derive(Debug)]
pub struct SqliteOutlet {
    file: SqliteFile,
    target: Arc<Target>,
}

impl SqliteOutlet {
    /// Errors: the target is of another sink, or names a schema.
    pub fn new(target: &Target, file: &SqliteFile) -> Result<Self, SinkError> {
        match target.sink() {
            Destination::Sqlite { table, .. } if !table.contains('.') => Ok(Self {
                file: file.clone(),
                target: Arc::new(target.clone()),
            }),
            _ => Err(SinkError::Place {
                problem: format!(
                    "target `{}`: a table of a SQLite file, without a schema, is needed",
                    target.name()
                ),
            }),
        }
    }
}

impl SqliteOutlet {
    fn way_of(&self, source: Source) -> SqliteSink {
        SqliteSink {
            file: self.file.clone(),
            target: Arc::clone(&self.target),
            source,
            run: OnceLock::new(),
        }
    }
}

impl Outlet for SqliteOutlet {
    fn sink(&self, load: &LoadId) -> Arc<dyn RowSink> {
        Arc::new(self.way_of(Source::Load(load.clone())))
    }

    fn stream(&self, stream: &Stream) -> Option<Arc<dyn RowSink>> {
        Some(Arc::new(self.way_of(Source::Stream(stream.clone()))))
    }

    fn check(&self) -> Reply<'_, ()> {
        let target = Arc::clone(&self.target);
        Box::pin(async move {
            let looked = self.file.hand.ask(move |file| file.look(&target)).await;
            looked.map_err(|_| SinkError::Ended)?
        })
    }
}

#[derive(Debug)]
struct SqliteSink {
    file: SqliteFile,
    target: Arc<Target>,
    source: Source,
    run: OnceLock<i64>,
}

impl SqliteSink {
    async fn ask<T: Send + 'static>(
        &self,
        deed: impl FnOnce(&mut Writer) -> Result<T, SinkError> + Send + 'static,
    ) -> Result<T, SinkError> {
        let done = self.file.hand.ask(deed).await;
        done.map_err(|_| SinkError::Ended)?
    }

    fn run(&self) -> Result<i64, SinkError> {
        self.run.get().copied().ok_or(SinkError::TakenOver)
    }
}

impl RowSink for SqliteSink {
    fn resume(&self) -> Reply<'_, Resumed> {
        Box::pin(async {
            let _turn = self.file.turn.lock().await;
            let (target, source) = (Arc::clone(&self.target), self.source.clone());
            let (run, resumed) = self
                .ask(move |file| file.take_over(&target, &source))
                .await?;
            // Once a sink: a second answer would be an earlier run's.
            let _first = self.run.set(run);
            Ok(resumed)
        })
    }

    fn store(&self, batch: Arc<Batch>, note: BatchNote) -> Reply<'_, Stored> {
        Box::pin(async move {
            let run = self.run()?;
            // Before the write lock is taken; again below, if the table refuses rows too.
            let rejects = note.put_aside(&batch, Vec::new()).await?;
            let stored = Stored {
                rows: batch.len() as u64,
                rejects,
            };
            let _turn = self.file.turn.lock().await;
            let (target, source) = (Arc::clone(&self.target), self.source.clone());
            let rows = Arc::clone(&batch);
            let inserted = self
                .ask(move |file| file.insert(&target, &source, run, &rows, stored))
                .await?;
            let bad = match inserted {
                Inserted::Committed => return Ok(stored),
                Inserted::Open { bad } => bad,
            };
            let stored = Stored {
                rows: (batch.len() - bad.len()) as u64,
                rejects: note.put_aside(&batch, bad).await?,
            };
            let source = self.source.clone();
            let table = self.target.sink().table();
            self.ask(move |file| file.commit(&table, &source, &batch, stored))
                .await?;
            Ok(stored)
        })
    }

    fn finish(&self, totals: Totals) -> Reply<'_, ()> {
        Box::pin(async move {
            let run = self.run()?;
            let Source::Load(load) = self.source.clone() else {
                return Ok(());
            };
            let _turn = self.file.turn.lock().await;
            let table = self.target.sink().table();
            self.ask(move |file| file.finish(&table, &load, run, totals))
                .await
        })
    }
}
