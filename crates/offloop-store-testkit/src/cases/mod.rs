//! The cases, by what they are about. `list.rs` names every one of them.

pub mod claim;
pub mod insert;
pub mod settle;
