//! The oracle holds itself to the words of the seam.

use offloop_store::Engine;
use offloop_store_memory::{MemoryOptions, MemoryStore};
use offloop_store_testkit::{Harness, Setup, conformance};

#[derive(Debug, Default)]
struct MemoryHarness;

impl Harness for MemoryHarness {
    fn open(&self, setup: Setup) -> Box<dyn Engine> {
        Box::new(MemoryStore::new(MemoryOptions {
            id_seed: setup.id_seed,
            queue_jobs_max: setup.queue_jobs_max,
        }))
    }
}

conformance!(MemoryHarness);
