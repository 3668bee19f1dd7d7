//! The photo pack.

pub mod jpeg;
