//! An engine around an engine: payloads, results, checkpoints, notes, logs and messages of chosen tasks
//! are given to the inner one in sealed form, and opened for whoever asks.
//!
//! It stands between the runtime and the store, so every way in and out passes it: jobs, groups,
//! schedules, jobs that follow others. Sealed content is a JSON text (or a plain one, in logs), so that
//! nothing above or below has to know of it.
//!
//! Must never: let anything of such a task through in clear, or fail a whole call for one job's key.

mod cipher;
mod engine;
mod groups;
mod jobs;
mod query;
mod schedules;

pub use cipher::{Cipher, CipherError, Sealed};
pub use engine::SealedStore;
