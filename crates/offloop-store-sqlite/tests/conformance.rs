//! The suite that every engine passes.
#![allow(clippy::unwrap_used)]

use std::sync::Mutex;

use offloop_store::Engine;
use offloop_store_sqlite::{SqliteOptions, SqliteStore};
use offloop_store_testkit::{Harness, Setup, conformance};
use tempfile::TempDir;

#[derive(Debug, Default)]
struct SqliteHarness {
    folders: Mutex<Vec<TempDir>>,
}

fn open(folder: &TempDir, setup: Setup) -> Box<dyn Engine> {
    let mut options = SqliteOptions::new(folder.path(), setup.id_seed);
    options.queue_jobs_max = setup.queue_jobs_max;
    Box::new(SqliteStore::open(options).unwrap())
}

impl Harness for SqliteHarness {
    fn open(&self, setup: Setup) -> Box<dyn Engine> {
        let folder = tempfile::tempdir().unwrap();
        let engine = open(&folder, setup);
        self.folders.lock().unwrap().push(folder);
        engine
    }

    fn reopen(&self, engine: Box<dyn Engine>, setup: Setup) -> Option<Box<dyn Engine>> {
        drop(engine);
        let folders = self.folders.lock().unwrap();
        folders.last().map(|folder| open(folder, setup))
    }
}

conformance!(SqliteHarness);
