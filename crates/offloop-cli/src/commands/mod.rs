//! One file per command, or per family of commands.

mod args;
pub(crate) mod call;
pub(crate) mod check;
pub(crate) mod fetch;
pub(crate) mod groups;
pub(crate) mod ingest;
pub(crate) mod job;
pub(crate) mod jobs;
pub(crate) mod lab;
pub(crate) mod limits;
pub(crate) mod plan;
pub(crate) mod pulse;
pub(crate) mod queues;
pub(crate) mod scan;
pub(crate) mod schedules;
pub(crate) mod serve;
pub(crate) mod sweep;
pub(crate) mod tasks;
mod text;
pub(crate) mod usage;
pub(crate) mod vault;
