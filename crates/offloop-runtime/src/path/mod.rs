//! The life of a job, in the order in which it happens.

pub(crate) mod admit;
pub(crate) mod checkpoint;
pub(crate) mod claim;
pub(crate) mod dispatch;
pub(crate) mod enqueue;
mod notes;
pub(crate) mod publish;
pub(crate) mod settle;
