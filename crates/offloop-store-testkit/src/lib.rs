//! The conformance suite that every engine passes: one named test per case and engine.
//!
//! The whole of an engine's `tests/conformance.rs`:
//!
//! ```
//! use offloop_store::Engine;
//! use offloop_store_memory::{MemoryOptions, MemoryStore};
//! use offloop_store_testkit::{Harness, Setup};
//!
//! #[derive(Debug, Default)]
//! struct MemoryHarness;
//!
//! impl Harness for MemoryHarness {
//!     fn open(&self, setup: Setup) -> Box<dyn Engine> {
//!         Box::new(MemoryStore::new(MemoryOptions {
//!             id_seed: setup.id_seed,
//!             queue_jobs_max: setup.queue_jobs_max,
//!         }))
//!     }
//! }
//!
//! offloop_store_testkit::conformance!(MemoryHarness);
//! ```
//!
//! The words of `offloop-store` are the specification; a case only holds an engine to them. The
//! cases of [`model`] compare whole random lives with the memory store.
//!
//! Must never: name an engine but the oracle, read a clock for a decision, or wait without a bound.

pub mod cases;
mod draft;
mod groups;
mod harness;
mod list;
pub mod model;

mod store;

pub use draft::{Draft, T0, at, job, name, record, remove, report};
pub use harness::{Harness, Kit, Setup, block_on};
pub use store::{COMPLETED, EXHAUSTED, Store, failed, settlement};
