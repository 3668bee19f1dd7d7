//! The `process` and `exec` lanes: code in any language, in processes that can be ended for certain.
//!
//! `process` keeps children warm and speaks frames with them (docs/guides/process-protocol.md);
//! `exec` runs one command per job. Both climb the same ladder (docs/adr/0005): ask, SIGTERM to the
//! group, SIGKILL, hunt for what escaped, reap; only then does a job end.
//!
//! One [`Host`] per server starts and buries the children of all its process lanes.
//!
//! Must never: use a shell, fork the server's memory (`pre_exec`), signal a pid that may have been
//! reused, or end a job while a process of its tree lives.

mod cgroup;
mod frame;
mod harness;
mod host;
mod json;
mod lines;
mod log;
mod pool;
mod procfs;
#[cfg(feature = "sabotage")]
mod sabotage;
mod sandbox;
mod shim;
mod spec;
mod sys;
mod tree;

pub use cgroup::Cgroups;
pub use frame::{FRAME_BYTES_MAX, PROTOCOL_VERSION};
pub use host::{Host, HostConfig, HostError, Means};
pub use pool::ProcessLane;
pub use shim::{SHIM_COMMAND, shim_main};
pub use spec::{
    Budgets, ExecCommand, ExecExit, ExecPlan, ExecResult, Harness, Mode, Pacing, ProcessSpec,
    Recycle, Sandbox, Wire,
};
