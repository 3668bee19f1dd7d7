//! Calls to third parties: hundreds at a time, within limits, and each with an end of its own.
//!
//! As a library: a [`Client`] (pool, breakers, budgets of retries) and a [`Runner`] that makes a list of
//! calls. As a pack: the task `fetch`, which keeps what is finished over a restart, and `POST /v1/fetch`
//! for long lists. Why it is so: docs/adr/0026.
//!
//! Must never: connect to an address that was not checked, call twice what may have been done once, or
//! hold anything of an answer without a bound.

mod body;
mod breaker;
mod budget;
mod call;
mod client;
mod conn;
mod download;
mod draft;
mod flight;
mod gate;
mod host;
mod names;
mod pack;
mod plan;
mod queue;
mod read;
mod retry;
mod rule;
mod runner;
mod show;
mod sync;
mod tally;

pub use breaker::{Breaker, BreakerEvents, BreakerRule, BreakerState, NotNow, Permit};
pub use budget::{Budget, BudgetRule};
pub use call::{Answer, Call, Cause, Done, Failure, Keep};
pub use client::{Client, ClientOptions};
pub use download::{DownloadError, Remote, Version};
pub use draft::{Draft, Drafts};
pub use gate::CONNECTIONS_MAX;
pub use host::Tripped;
pub use pack::{FetchOptions, FetchPack, QUEUE, TASK};
pub use plan::{JOB_CALLS_MAX, OnResult, Plan, PlanLimits, read_plan};
pub use read::{LIMIT_MAX, Problems, RESPONSE_BYTES_MAX, read_call, read_line};
pub use retry::{RETRY_AFTER_MAX, RetryRule, is_idempotent};
pub use rule::Rule;
pub use runner::{Hedge, Runner, Settings, calls_from};
pub use show::{done_json, summary_json};
pub use tally::{HostTally, Tally};
