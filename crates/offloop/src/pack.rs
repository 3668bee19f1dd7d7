//! What belongs together: tasks, lanes, rows, routes and a page.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use offloop_http::PackRoutes;
use offloop_job::TaskName;
use offloop_lane::Lane;
use offloop_lane_process::Host;
use offloop_pulse::Pulse;
use offloop_runtime::{
    CallSettings, EndHook, PayloadCheck, RuntimeBuilder, RuntimeHandle, TaskDefaults, TaskHook,
};
use offloop_store_seal::Cipher;

use crate::intake::{Intake, IntakeSlot};

/// A pack that cannot be used as configured.
#[derive(Debug, thiserror::Error)]
#[error("pack `{pack}`: {message}")]
pub struct PackError {
    pub pack: &'static str,
    pub message: String,
}

/// One pack. Built on the facade alone.
pub trait Pack: Send + fmt::Debug {
    /// Also its place in URLs: `/v1/NAME/...`.
    fn name(&self) -> &'static str;

    /// Adds its lanes and hooks, before the server starts.
    fn install(&mut self, setup: &mut Setup<'_>) -> Result<(), PackError>;

    /// Brings its rows and the jobs in step after a restart, and answers its routes. The server
    /// runs already.
    fn open(self: Box<Self>, server: &RuntimeHandle) -> Result<PackRoutes, PackError>;
}

/// What packs add to the runtime.
#[derive(Default)]
pub(crate) struct Additions {
    hooks: Vec<(TaskName, Arc<dyn TaskHook>)>,
    end_hooks: Vec<Arc<dyn EndHook>>,
    defaults: Vec<(TaskName, TaskDefaults)>,
    checks: Vec<(TaskName, Arc<dyn PayloadCheck>)>,
    /// Who has the keys of sealed jobs.
    pub(crate) cipher: Option<Arc<dyn Cipher>>,
    intake: IntakeSlot,
}

impl Additions {
    /// Before what the operator says, which comes later and wins.
    pub(crate) fn add_to(self, mut builder: RuntimeBuilder) -> RuntimeBuilder {
        for (task, defaults) in self.defaults {
            builder = builder.defaults(task, defaults);
        }
        for (task, hook) in self.hooks {
            builder = builder.hook(task, hook);
        }
        for hook in self.end_hooks {
            builder = builder.end_hook(hook);
        }
        for (task, check) in self.checks {
            builder = builder.payload_check(task, check);
        }
        builder
    }
}

/// What a pack may add to.
pub struct Setup<'a> {
    pub(crate) data: &'a Path,
    pub(crate) host: &'a Arc<Host>,
    pub(crate) pulse: &'a Pulse,
    pub(crate) lanes: &'a mut Vec<Arc<dyn Lane>>,
    pub(crate) call_lanes: &'a mut Vec<Arc<dyn Lane>>,
    pub(crate) call_settings: &'a mut Vec<(TaskName, CallSettings)>,
    pub(crate) more: &'a mut Additions,
}

impl Setup<'_> {
    /// The server's data directory. A pack keeps its files in a folder of its own name in it.
    pub fn data(&self) -> &Path {
        self.data
    }

    /// Where process lanes are started from.
    pub fn host(&self) -> &Arc<Host> {
        self.host
    }

    /// What watches the server's loops: for lanes that bring one of their own.
    pub fn pulse(&self) -> &Pulse {
        self.pulse
    }

    pub fn lane(&mut self, lane: Arc<dyn Lane>) {
        self.lanes.push(lane);
    }

    /// A lane for calls.
    pub fn call_lane(&mut self, lane: Arc<dyn Lane>) {
        self.call_lanes.push(lane);
    }

    /// How calls of a task are treated.
    pub fn calls(&mut self, task: TaskName, settings: CallSettings) {
        self.call_settings.push((task, settings));
    }

    /// Limits of a task's jobs where they name none. What an operator says of the task wins.
    pub fn defaults(&mut self, task: TaskName, defaults: TaskDefaults) {
        self.more.defaults.push((task, defaults));
    }

    /// What payloads a task takes: asked at the door.
    pub fn payload_check(&mut self, task: TaskName, check: Arc<dyn PayloadCheck>) {
        self.more.checks.push((task, check));
    }

    /// Who has the keys for tasks whose jobs are sealed. The last pack that says so wins.
    pub fn cipher(&mut self, cipher: Arc<dyn Cipher>) {
        self.more.cipher = Some(cipher);
    }

    /// This pack takes bodies that others have fetched. The first pack that says so is asked.
    pub fn offer_intake(&mut self, intake: Arc<dyn Intake>) {
        self.more.intake.offer(intake);
    }

    /// Who takes bodies, to be asked when the server runs: packs that come later may offer it.
    pub fn intake(&self) -> IntakeSlot {
        self.more.intake.clone()
    }

    /// Jobs that follow the ends of others.
    pub fn end_hook(&mut self, hook: Arc<dyn EndHook>) {
        self.more.end_hooks.push(hook);
    }

    pub fn hook(&mut self, task: TaskName, hook: Arc<dyn TaskHook>) {
        self.more.hooks.push((task, hook));
    }
}

impl fmt::Debug for Setup<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Setup")
            .field("data", &self.data)
            .finish_non_exhaustive()
    }
}
