//! offloop for Rust programs: durable jobs on lanes that really stop.
//!
//! ```no_run
//! use offloop::{Builder, NewJob, NewJobExt, TaskOutput};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let server = Builder::embedded("./offloop-data")
//!     .cpu_task("greet", |context| {
//!         let name: String = offloop::payload(context)?;
//!         Ok(TaskOutput::json(format!("\"hello {name}\"")))
//!     })?
//!     .start()?;
//! let job = NewJob::of("greet", &"world")?;
//! let outcomes = offloop::block_on(server.handle().enqueue(vec![job]))?;
//! # Ok(()) }
//! ```
//!
//! A [`Pack`] brings tasks, lanes, routes and a dashboard page that belong together.
//!
//! Must never: hold logic of the path itself. It names things, and puts them together.

mod builder;
mod builtin;
mod intake;
mod pack;
mod server;
mod task;
pub mod units;

pub use builder::{BuildError, Builder, Checked, CheckedLane};
pub use intake::{Intake, IntakeError, IntakeSlot, Taking, WholeBody};
pub use pack::{Pack, PackError, Setup};
pub use server::Server;
pub use task::{NewJobError, NewJobExt, payload};

pub use offloop_egress as egress;
pub use offloop_http as http;
pub use offloop_job as job;
pub use offloop_job::{
    Failure, FailureClass, JobId, JobOptions, JobState, KeyTarget, Limit, LimitTarget, Missed,
    NewJob, OnConflict, Overlap, QueueName, Rate, RecordWrite, ScheduleName, ScheduleSpec,
    TaskName, Timestamp, Timing, Unique, UniqueKey, UniqueScope,
};
pub use offloop_lane as lane;
pub use offloop_lane::{TaskContext, TaskError, TaskInfo, TaskOutput};
pub use offloop_lane_cpu as lane_cpu;
pub use offloop_lane_io as lane_io;
pub use offloop_lane_process as lane_process;
pub use offloop_lane_remote as lane_remote;
pub use offloop_pulse as pulse;
pub use offloop_runtime as runtime;
pub use offloop_runtime::{
    CallAnswer, CallAsk, CallError, CallSettings, EndHook, EndedJob, FinalEnd, PayloadCheck,
    Pressure, Redact, RuntimeConfig, RuntimeHandle, ShutdownPlan, ShutdownReport, TaskDefaults,
    TaskHook,
};
pub use offloop_schedule as schedule;
pub use offloop_schema as schema;
pub use offloop_schema::Schema;
pub use offloop_store as store;
pub use offloop_store_memory as store_memory;
pub use offloop_store_seal as seal;
pub use offloop_store_sqlite as store_sqlite;
pub use offloop_wire as wire;

/// Waits for a future on this thread. For tasks on the `cpu` lane that ask the server something;
/// never on a reactor thread.
pub use pollster::block_on;
