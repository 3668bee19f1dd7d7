//! Checks of the house itself. They run as tests: `cargo test -p xtask`.
//!
//! - `tests/levels.rs`: a crate depends on lower levels only, and drivers stay in their crate.
//! - `tests/tidy.rs`: rooms stay rooms, and promises stay where they are kept.
