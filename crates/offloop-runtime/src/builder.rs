//! Brings an engine and lanes together and starts the keeper.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::thread::JoinHandle;

use offloop_job::{Limit, LimitTarget, NodeId, TaskName};
use offloop_lane::{Lane, LaneOpenError, LeftoverError};
use offloop_pulse::Pulse;
use offloop_store::{Engine, StoreError};
use tokio::sync::{mpsc, oneshot};

use crate::calls::{CallSettings, Calls};
use crate::clock::{Clock, SystemClock};
use crate::config::{RuntimeConfig, TaskDefaults};
use crate::ends::EndHook;
use crate::handle::{Parts, RuntimeHandle, Shared};
use crate::hooks::TaskHook;
use crate::inbox::LaneInbox;
use crate::keeper::{self, Input};
use crate::payload::PayloadCheck;
use crate::shutdown::{ShutdownPlan, ShutdownReport};

/// Why a server cannot start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    #[error(
        "task `{task}` is declared on two lanes, `{first}` and `{second}`; give one of them another name"
    )]
    TaskTwice {
        task: TaskName,
        first: Box<str>,
        second: Box<str>,
    },
    #[error("two lanes are called `{name}`")]
    LaneTwice { name: Box<str> },
    #[error(transparent)]
    Lane(#[from] LaneOpenError),
    #[error(transparent)]
    Leftovers(#[from] LeftoverError),
    #[error("the store failed while jobs of an earlier run were looked for")]
    Store(#[from] StoreError),
    #[error("cannot start the keeper's thread")]
    Thread(#[source] std::io::Error),
}

/// What a server is made of.
pub struct RuntimeBuilder {
    engine: Arc<dyn Engine>,
    lanes: Vec<Arc<dyn Lane>>,
    call_lanes: Vec<Arc<dyn Lane>>,
    call_settings: HashMap<TaskName, CallSettings>,
    hooks: HashMap<TaskName, Arc<dyn TaskHook>>,
    end_hooks: Vec<Arc<dyn EndHook>>,
    checks: HashMap<TaskName, Arc<dyn PayloadCheck>>,
    defaults: HashMap<TaskName, TaskDefaults>,
    limits: Vec<(LimitTarget, Limit)>,
    clock: Arc<dyn Clock>,
    config: RuntimeConfig,
    node: NodeId,
    seed: u64,
    pulse: Pulse,
}

impl fmt::Debug for RuntimeBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RuntimeBuilder")
            .field("lanes", &self.lanes)
            .finish_non_exhaustive()
    }
}

impl RuntimeBuilder {
    /// `node` must differ from every earlier run on this store: running jobs of other nodes are
    /// taken for orphans.
    pub fn new(engine: Arc<dyn Engine>, node: NodeId) -> Self {
        Self {
            engine,
            lanes: Vec::new(),
            call_lanes: Vec::new(),
            call_settings: HashMap::new(),
            hooks: HashMap::new(),
            end_hooks: Vec::new(),
            checks: HashMap::new(),
            defaults: HashMap::new(),
            limits: Vec::new(),
            clock: Arc::new(SystemClock),
            config: RuntimeConfig::default(),
            node,
            seed: 0,
            pulse: Pulse::off(),
        }
    }

    #[must_use]
    pub fn lane(mut self, lane: Arc<dyn Lane>) -> Self {
        self.lanes.push(lane);
        self
    }

    /// A lane for calls. A task may be on one of these and on one for jobs.
    #[must_use]
    pub fn call_lane(mut self, lane: Arc<dyn Lane>) -> Self {
        self.call_lanes.push(lane);
        self
    }

    /// How calls of this task are treated.
    #[must_use]
    pub fn call_settings(mut self, task: TaskName, settings: CallSettings) -> Self {
        self.call_settings.insert(task, settings);
        self
    }

    #[must_use]
    pub fn hook(mut self, task: TaskName, hook: Arc<dyn TaskHook>) -> Self {
        self.hooks.insert(task, hook);
        self
    }

    /// What payloads this task takes; others are refused at the door. One rule per task, the last.
    #[must_use]
    pub fn payload_check(mut self, task: TaskName, check: Arc<dyn PayloadCheck>) -> Self {
        self.checks.insert(task, check);
        self
    }

    /// What the task's jobs work on is kept in sealed form by the engine.
    #[must_use]
    pub fn sealed(mut self, task: TaskName) -> Self {
        self.defaults.entry(task).or_default().sealed = true;
        self
    }

    /// Jobs that follow the ends of others.
    #[must_use]
    pub fn end_hook(mut self, hook: Arc<dyn EndHook>) -> Self {
        self.end_hooks.push(hook);
        self
    }

    /// Limits of this task's jobs, before those that its lane names.
    #[must_use]
    pub fn defaults(mut self, task: TaskName, defaults: TaskDefaults) -> Self {
        self.defaults.insert(task, defaults);
        self
    }

    /// In force from the start on, whatever the store had for this target.
    #[must_use]
    pub fn limit(mut self, target: LimitTarget, limit: Limit) -> Self {
        self.limits.push((target, limit));
        self
    }

    #[must_use]
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    #[must_use]
    pub fn config(mut self, config: RuntimeConfig) -> Self {
        self.config = config;
        self
    }

    /// Of the jitter.
    #[must_use]
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// What watches the keeper's loop, and what lanes and tasks are shown to; default nothing.
    #[must_use]
    pub fn pulse(mut self, pulse: Pulse) -> Self {
        self.pulse = pulse;
        self
    }

    fn routes(&self) -> Result<HashMap<TaskName, usize>, StartError> {
        let names: Vec<_> = self.lanes.iter().chain(&self.call_lanes).collect();
        for (index, lane) in names.iter().enumerate() {
            if names[..index]
                .iter()
                .any(|other| other.name() == lane.name())
            {
                return Err(StartError::LaneTwice {
                    name: lane.name().into(),
                });
            }
        }
        tasks_of(&self.call_lanes)?;
        tasks_of(&self.lanes)
    }

    /// Opens the lanes, ends what an earlier run left behind, rescues its jobs, and begins to give
    /// work out. Blocks until that is done; call it outside any async runtime.
    pub fn start(self) -> Result<Runtime, StartError> {
        let routes = self.routes()?;
        let mut defaults = self.defaults;
        let all = self.lanes.iter().chain(&self.call_lanes);
        for info in all.flat_map(|lane| lane.tasks()) {
            let own = defaults.entry(info.name.clone()).or_default();
            own.timeout = own.timeout.or(info.timeout);
        }
        let (inbox, inputs) = mpsc::unbounded_channel();
        let shared = Arc::new(Shared::new(Parts {
            engine: self.engine,
            lanes: self.lanes,
            calls: Calls::new(self.call_lanes, &self.call_settings),
            routes,
            defaults,
            hooks: self.hooks,
            end_hooks: self.end_hooks,
            checks: self.checks,
            declared_limits: self.limits,
            clock: self.clock,
            seed: self.seed,
            node: self.node,
            config: self.config,
            inbox,
            pulse: self.pulse,
        }));
        crate::pulse::show(&shared);
        let weak = Arc::downgrade(&shared);
        shared.engine.set_hook(Arc::new(move || {
            if let Some(shared) = weak.upgrade() {
                shared.wake();
            }
        }));
        for (index, lane) in shared.lanes.iter().enumerate() {
            lane.open(Arc::new(LaneInbox {
                lane: index,
                inbox: shared.inbox.clone(),
                feeds: Arc::clone(shared.hub.feeds()),
                clock: Arc::clone(&shared.clock),
            }))?;
            let cleared = lane.clear_leftovers()?;
            if cleared > 0 {
                tracing::warn!(
                    lane = lane.name(),
                    cleared,
                    "ended what an earlier run left behind"
                );
            }
        }
        shared.calls.open()?;
        shared.calls.clear_leftovers()?;
        let (started, ready) = std::sync::mpsc::channel();
        let thread = std::thread::Builder::new()
            .name("offloop-keeper".into())
            .spawn({
                let shared = Arc::clone(&shared);
                move || keeper::run(shared, inputs, &started)
            })
            .map_err(StartError::Thread)?;
        ready
            .recv()
            .map_err(|_| StartError::Store(StoreError::Closed))??;
        Ok(Runtime {
            handle: RuntimeHandle(shared),
            keeper: Some(thread),
        })
    }
}

/// Task to lane; each task on one.
fn tasks_of(lanes: &[Arc<dyn Lane>]) -> Result<HashMap<TaskName, usize>, StartError> {
    let mut routes: HashMap<TaskName, usize> = HashMap::new();
    for (index, lane) in lanes.iter().enumerate() {
        for task in lane.tasks() {
            if let Some(first) = routes.insert(task.name.clone(), index) {
                return Err(StartError::TaskTwice {
                    task: task.name.clone(),
                    first: lanes[first].name().into(),
                    second: lane.name().into(),
                });
            }
        }
    }
    Ok(routes)
}

/// A running server. Dropped without [`Runtime::shutdown`], it ends its executors at once and
/// leaves their jobs to be rescued.
#[derive(Debug)]
pub struct Runtime {
    handle: RuntimeHandle,
    keeper: Option<JoinHandle<()>>,
}

impl Runtime {
    pub fn handle(&self) -> &RuntimeHandle {
        &self.handle
    }

    /// No more jobs are taken in; nothing else changes yet.
    pub fn refuse_new(&self) {
        self.handle.0.set_closing();
    }

    /// Drains, stops, hands back, closes the store. `force` cuts the drain short.
    pub async fn shutdown(
        mut self,
        plan: ShutdownPlan,
        force: oneshot::Receiver<()>,
    ) -> ShutdownReport {
        self.handle.0.set_closing();
        let (answer, report) = oneshot::channel();
        let _ = self.handle.0.inbox.send(Input::Shutdown {
            plan,
            force,
            answer,
        });
        let report = report.await.unwrap_or_default();
        if let Some(keeper) = self.keeper.take() {
            let _ = keeper.join(); // a panic was reported by the hook; the report says unsettled
        }
        report
    }
}

impl Drop for Runtime {
    fn drop(&mut self) {
        if self.keeper.is_some() {
            let _ = self.handle.0.inbox.send(Input::Abandon);
            for lane in &self.handle.0.lanes {
                lane.close();
                let _ = lane.terminate(std::time::Duration::ZERO);
            }
            self.handle.0.calls.close();
            self.handle.0.calls.terminate(std::time::Duration::ZERO);
        }
    }
}
