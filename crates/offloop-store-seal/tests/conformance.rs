//! An engine in sealed clothes is an engine: the whole suite, with every task of it sealed.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod common;

use std::sync::Arc;

use offloop_store::Engine;
use offloop_store_memory::{MemoryOptions, MemoryStore};
use offloop_store_testkit::{Harness, Setup, conformance};

#[derive(Debug, Default)]
struct SealedHarness;

impl Harness for SealedHarness {
    fn open(&self, setup: Setup) -> Box<dyn Engine> {
        let inner = MemoryStore::new(MemoryOptions {
            id_seed: setup.id_seed,
            queue_jobs_max: setup.queue_jobs_max,
        });
        Box::new(common::sealed(Arc::new(inner)))
    }
}

conformance!(SealedHarness);
