//! Puts a server together: a store, lanes, tasks, packs.

use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use offloop_job::{Limit, LimitTarget, NameError, NodeId, ScheduleName, ScheduleSpec, TaskName};
use offloop_lane::{Lane, TaskContext, TaskError, TaskInfo, TaskOutput};
use offloop_lane_cpu::{CpuHandler, CpuLane, CpuLaneBuilder};
use offloop_lane_io::{IoHandler, IoLane, IoLaneBuilder};
use offloop_lane_process::{
    Cgroups, Host, HostConfig, HostError, Means, ProcessLane, ProcessSpec, SHIM_COMMAND,
};
use offloop_lane_remote::{RemoteLane, RemoteTask};
use offloop_pulse::{Pulse, PulseConfig};
use offloop_runtime::clock::{Clock, SystemClock};
use offloop_runtime::{
    CallSettings, PayloadCheck, RuntimeBuilder, RuntimeConfig, ScheduleError, StartError,
    TaskDefaults,
};
use offloop_store::Engine;
use offloop_store_memory::{MemoryOptions, MemoryStore};
use offloop_store_seal::{Cipher, SealedStore};
use offloop_store_sqlite::{OpenError, SqliteOptions, SqliteStore};

use crate::builtin;
use crate::pack::{Additions, Pack, PackError, Setup};
use crate::server::Server;

/// Why a server cannot be built or started.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    #[error("task: {0}")]
    TaskName(#[from] NameError),
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error(transparent)]
    Host(#[from] HostError),
    #[error(transparent)]
    Pack(#[from] PackError),
    #[error("{0}")]
    Encrypt(String),
    #[error("cannot start the pulse's thread")]
    Pulse(#[source] std::io::Error),
    #[error(transparent)]
    Start(#[from] StartError),
    #[error("a declared schedule cannot be kept")]
    Schedule(#[from] ScheduleError),
}

/// Where jobs are kept.
enum Store {
    /// SQLite in the data directory.
    Embedded {
        queue_jobs_max: u64,
    },
    /// Gone with the process: for tests.
    Memory,
    Given(Arc<dyn Engine>),
}

impl Store {
    fn open(self, data: &Path, seed: u64) -> Result<Arc<dyn Engine>, BuildError> {
        Ok(match self {
            Self::Embedded { queue_jobs_max } => {
                let options = SqliteOptions {
                    queue_jobs_max,
                    ..SqliteOptions::new(data, seed)
                };
                Arc::new(SqliteStore::open(options)?)
            }
            Self::Memory => Arc::new(MemoryStore::new(MemoryOptions {
                id_seed: seed,
                queue_jobs_max: QUEUE_JOBS_MAX_DEFAULT,
            })),
            Self::Given(engine) => engine,
        })
    }
}

/// Queues take this many jobs unless the operator says otherwise.
const QUEUE_JOBS_MAX_DEFAULT: u64 = 10_000_000;

/// Threads for calls come before those for jobs (10) and after the doors (0): a request waits for
/// them, and the doors must answer everybody else.
const CALLS_NICE: u8 = 5;

/// What a server is made of.
pub struct Builder {
    data: PathBuf,
    store: Store,
    config: RuntimeConfig,
    cpu: CpuLaneBuilder,
    io: IoLaneBuilder,
    /// The same tasks once more, for calls.
    cpu_calls: CpuLaneBuilder,
    io_calls: IoLaneBuilder,
    call_settings: Vec<(TaskName, CallSettings)>,
    processes: Vec<ProcessSpec>,
    remote: Vec<RemoteTask>,
    encrypt: Vec<(TaskName, Box<str>)>,
    defaults: Vec<(TaskName, TaskDefaults)>,
    checks: Vec<(TaskName, Arc<dyn PayloadCheck>)>,
    limits: Vec<(LimitTarget, Limit)>,
    packs: Vec<Box<dyn Pack>>,
    shim: Option<PathBuf>,
    environment: Vec<(OsString, OsString)>,
    cgroups: Cgroups,
    pulse: Option<PulseConfig>,
    schedules: Vec<(ScheduleName, ScheduleSpec)>,
    seed: Option<u64>,
}

impl fmt::Debug for Builder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder")
            .field("data", &self.data)
            .field("processes", &self.processes)
            .field("packs", &self.packs)
            .finish_non_exhaustive()
    }
}

impl Builder {
    /// Jobs are kept in SQLite in this folder, which is made if it is not there.
    pub fn embedded(data: impl Into<PathBuf>) -> Self {
        Self::with(
            data.into(),
            Store::Embedded {
                queue_jobs_max: QUEUE_JOBS_MAX_DEFAULT,
            },
        )
    }

    /// Jobs are gone with the process; `data` still holds what lanes and packs write.
    pub fn in_memory(data: impl Into<PathBuf>) -> Self {
        Self::with(data.into(), Store::Memory)
    }

    fn with(data: PathBuf, store: Store) -> Self {
        Self {
            data,
            store,
            config: RuntimeConfig::default(),
            cpu: builtin::on_cpu(CpuLane::builder("cpu")),
            io: builtin::on_io(IoLane::builder("io")),
            cpu_calls: builtin::on_cpu(CpuLane::builder("cpu:calls").nice(CALLS_NICE)),
            io_calls: builtin::on_io(IoLane::builder("io:calls")),
            call_settings: Vec::new(),
            processes: Vec::new(),
            remote: Vec::new(),
            encrypt: Vec::new(),
            defaults: Vec::new(),
            checks: Vec::new(),
            limits: Vec::new(),
            packs: Vec::new(),
            shim: None,
            environment: Vec::new(),
            cgroups: Cgroups::Auto,
            pulse: Some(PulseConfig::default()),
            schedules: Vec::new(),
            seed: None,
        }
    }

    /// Another engine than the embedded one.
    #[must_use]
    pub fn engine(mut self, engine: Arc<dyn Engine>) -> Self {
        self.store = Store::Given(engine);
        self
    }

    /// Of the embedded engine: jobs that one queue takes; default 10 million.
    #[must_use]
    pub fn queue_jobs_max(mut self, jobs: u64) -> Self {
        if let Store::Embedded { queue_jobs_max } = &mut self.store {
            *queue_jobs_max = jobs;
        }
        self
    }

    #[must_use]
    pub fn config(mut self, config: RuntimeConfig) -> Self {
        self.config = config;
        self
    }

    /// Threads of the `cpu` lane; default by affinity and cgroup quota.
    #[must_use]
    pub fn cpu_threads(mut self, threads: u16) -> Self {
        self.cpu = self.cpu.threads(threads);
        self
    }

    /// Threads of the `cpu:calls` lane; default as many as the `cpu` lane has by default.
    #[must_use]
    pub fn call_threads(mut self, threads: u16) -> Self {
        self.cpu_calls = self.cpu_calls.threads(threads);
        self
    }

    /// How calls of this task are treated.
    #[must_use]
    pub fn calls(mut self, task: TaskName, settings: CallSettings) -> Self {
        self.call_settings.push((task, settings));
        self
    }

    /// Of ids and jitter, for runs that can be repeated; default from the clock and the process.
    #[must_use]
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = Some(seed);
        self
    }

    /// The program whose hidden `__shim` command starts children; default this very program.
    #[must_use]
    pub fn shim(mut self, program: impl Into<PathBuf>) -> Self {
        self.shim = Some(program.into());
        self
    }

    /// What children may be given of the program's environment: PATH, HOME, LANG, TZ and TMPDIR
    /// are passed on, nothing else.
    #[must_use]
    pub fn environment(mut self, all: impl IntoIterator<Item = (OsString, OsString)>) -> Self {
        self.environment = all.into_iter().collect();
        self
    }

    /// Whether children get control groups; default where the kernel then bounds memory or processes.
    #[must_use]
    pub fn cgroups(mut self, wanted: Cgroups) -> Self {
        self.cgroups = wanted;
        self
    }

    /// How the server's loops are watched; `None`: not at all. Default [`PulseConfig::default`].
    #[must_use]
    pub fn pulse(mut self, config: Option<PulseConfig>) -> Self {
        self.pulse = config;
        self
    }

    /// A task of Rust code that computes.
    pub fn cpu_task<F>(self, name: &str, run: F) -> Result<Self, BuildError>
    where
        F: Fn(&TaskContext) -> Result<TaskOutput, TaskError> + Send + Sync + 'static,
    {
        let info = TaskInfo {
            name: TaskName::parse(name)?,
            timeout: None,
            about: "".into(),
        };
        Ok(self.cpu_task_with(info, run))
    }

    /// The same, with defaults for its jobs.
    #[must_use]
    pub fn cpu_task_with<F>(mut self, info: TaskInfo, run: F) -> Self
    where
        F: Fn(&TaskContext) -> Result<TaskOutput, TaskError> + Send + Sync + 'static,
    {
        let run: CpuHandler = Arc::new(run);
        self.cpu = self.cpu.task(info.clone(), Arc::clone(&run));
        self.cpu_calls = self.cpu_calls.task(info, run);
        self
    }

    /// A task of Rust code that waits.
    pub fn io_task<F, R>(mut self, name: &str, run: F) -> Result<Self, BuildError>
    where
        F: Fn(TaskContext) -> R + Send + Sync + 'static,
        R: Future<Output = Result<TaskOutput, TaskError>> + Send + 'static,
    {
        let info = TaskInfo {
            name: TaskName::parse(name)?,
            timeout: None,
            about: "".into(),
        };
        let run: IoHandler = Arc::new(move |context| Box::pin(run(context)));
        self.io = self.io.task(info.clone(), Arc::clone(&run));
        self.io_calls = self.io_calls.task(info, run);
        Ok(self)
    }

    /// A task in any language, as a child process. With [`ProcessSpec::calls`] these children serve
    /// calls, and the task's jobs need a spec of their own.
    #[must_use]
    pub fn process_task(mut self, spec: ProcessSpec) -> Self {
        self.processes.push(spec);
        self
    }

    /// A task that workers on other machines come for ([`Server::remote`]).
    #[must_use]
    pub fn remote_task(mut self, task: RemoteTask) -> Self {
        self.remote.push(task);
        self
    }

    /// In force from the start on, whatever the store had for this target.
    #[must_use]
    pub fn limit(mut self, target: LimitTarget, limit: Limit) -> Self {
        self.limits.push((target, limit));
        self
    }

    /// The task's payloads, results, checkpoints, notes, logs and messages are kept in sealed form, by
    /// this key of the pack that has keys.
    #[must_use]
    pub fn encrypt(mut self, task: TaskName, key: &str) -> Self {
        self.encrypt.push((task, key.into()));
        self
    }

    /// Limits of a task's jobs where they name none.
    #[must_use]
    pub fn task_defaults(mut self, task: TaskName, defaults: TaskDefaults) -> Self {
        self.defaults.push((task, defaults));
        self
    }

    /// What payloads this task takes, of jobs and of calls: a [`Schema`](crate::Schema), or a rule of
    /// your own. What it refuses does not come in, whichever way it comes.
    #[must_use]
    pub fn payload_check(mut self, task: TaskName, check: impl PayloadCheck + 'static) -> Self {
        self.checks.push((task, Arc::new(check)));
        self
    }

    #[must_use]
    pub fn pack(mut self, pack: impl Pack + 'static) -> Self {
        self.packs.push(Box::new(pack));
        self
    }

    /// Opens the store, starts the lanes, rescues what an earlier run left, and begins to work.
    /// Blocks until then; call it outside any async runtime.
    pub fn start(self) -> Result<Server, BuildError> {
        let Parts {
            private,
            engine,
            lanes,
            call_lanes,
            call_settings,
            more,
            packs,
            node,
            seed,
            config,
            defaults,
            checks,
            limits,
            data,
            host: _,
            pulse,
            remote,
            schedules,
        } = self.parts()?;
        let mut builder = RuntimeBuilder::new(engine, node)
            .config(config)
            .seed(seed)
            .pulse(pulse);
        builder = more.add_to(builder);
        for lane in lanes {
            builder = builder.lane(lane);
        }
        for lane in call_lanes {
            builder = builder.call_lane(lane);
        }
        for (task, settings) in call_settings {
            builder = builder.call_settings(task, settings);
        }
        for (task, defaults) in defaults {
            builder = builder.defaults(task, defaults);
        }
        for task in private {
            builder = builder.sealed(task);
        }
        for (target, limit) in limits {
            builder = builder.limit(target, limit);
        }
        for (task, check) in checks {
            builder = builder.payload_check(task, check);
        }
        let runtime = builder.start()?;
        pollster::block_on(runtime.handle().reconcile_schedules(schedules))?;
        let mut routes = Vec::new();
        for pack in packs {
            routes.push(pack.open(runtime.handle())?);
        }
        Ok(Server {
            runtime,
            routes,
            data,
            remote,
        })
    }

    /// Declares a schedule: made or changed at the start, deleted at a later start that does not
    /// declare it.
    #[must_use]
    pub fn schedule(mut self, name: ScheduleName, spec: ScheduleSpec) -> Self {
        self.schedules.push((name, spec));
        self
    }

    /// Opens the store and tries one executor of each lane, then closes all of it: whether
    /// [`Builder::start`] would do, without taking a job. Blocks.
    pub fn check(self) -> Result<Checked, BuildError> {
        let parts = self.parts()?;
        let all = parts.lanes.iter().chain(&parts.call_lanes);
        let lanes = all.map(|lane| CheckedLane {
            name: lane.name().into(),
            tasks: lane.tasks().iter().map(|task| task.name.clone()).collect(),
            problem: lane.try_out().err(),
            elsewhere: lane.demand().is_some(),
        });
        let checked = Checked {
            engine: parts.engine.capability().engine,
            lanes: lanes.collect(),
            means: parts.host.means(),
        };
        let _ = pollster::block_on(parts.engine.close()); // nothing was written
        Ok(checked)
    }

    fn parts(self) -> Result<Parts, BuildError> {
        let clock = SystemClock;
        let now = clock.now().as_millis();
        let pid = std::process::id();
        let seed = self.seed.unwrap_or(now ^ (u64::from(pid) << 44));
        let engine = self.store.open(&self.data, seed)?;
        let mut host = HostConfig::new(self.data.join("run")).data(&self.data);
        if let Some(program) = self.shim {
            host = host.shim(program, [SHIM_COMMAND]);
        }
        host = host.cgroups(self.cgroups);
        let host = Host::open(host.environment(self.environment))?;
        let pulse = self.pulse.map_or_else(|| Ok(Pulse::off()), Pulse::start);
        let pulse = pulse.map_err(BuildError::Pulse)?;
        let io = self.io.pulse(pulse.clone()).build();
        let io_calls = self.io_calls.pulse(pulse.clone()).build();
        let mut lanes: Vec<Arc<dyn Lane>> = vec![Arc::new(self.cpu.build()), Arc::new(io)];
        let mut call_lanes: Vec<Arc<dyn Lane>> =
            vec![Arc::new(self.cpu_calls.build()), Arc::new(io_calls)];
        for spec in self.processes {
            let kind = if spec.calls {
                &mut call_lanes
            } else {
                &mut lanes
            };
            kind.push(Arc::new(ProcessLane::new(spec, Arc::clone(&host))));
        }
        let remote = (!self.remote.is_empty()).then(|| Arc::new(RemoteLane::new(self.remote)));
        lanes.extend(remote.clone().map(|lane| lane as Arc<dyn Lane>));
        let mut call_settings = self.call_settings;
        let mut packs = self.packs;
        let mut more = Additions::default();
        for pack in &mut packs {
            pack.install(&mut Setup {
                data: &self.data,
                host: &host,
                pulse: &pulse,
                lanes: &mut lanes,
                call_lanes: &mut call_lanes,
                call_settings: &mut call_settings,
                more: &mut more,
            })?;
        }
        let private = self.encrypt.iter().map(|(task, _)| task.clone()).collect();
        let engine = sealed(engine, self.encrypt, more.cipher.as_ref())?;
        Ok(Parts {
            private,
            engine,
            lanes,
            call_lanes,
            call_settings,
            more,
            packs,
            node: NodeId(format!("{now}-{pid}").into()),
            seed,
            config: self.config,
            defaults: self.defaults,
            checks: self.checks,
            limits: self.limits,
            data: self.data,
            host,
            pulse,
            remote,
            schedules: self.schedules,
        })
    }
}

/// The engine as the runtime gets it: with seals around it where somebody has keys, so that what was
/// sealed before is opened also when no task is sealed now.
fn sealed(
    engine: Arc<dyn Engine>,
    encrypt: Vec<(TaskName, Box<str>)>,
    cipher: Option<&Arc<dyn Cipher>>,
) -> Result<Arc<dyn Engine>, BuildError> {
    match (cipher, encrypt.first()) {
        (None, None) => Ok(engine),
        (None, Some((task, _))) => {
            let problem = "needs the vault's key folder; set `keys` under [packs.vault]";
            Err(BuildError::Encrypt(format!(
                "tasks.{task}.encrypt: {problem}"
            )))
        }
        (Some(cipher), _) => {
            let store = SealedStore::new(engine, Arc::clone(cipher), encrypt);
            let store = store.map_err(|error| BuildError::Encrypt(error.to_string()))?;
            Ok(Arc::new(store))
        }
    }
}

/// A server that is put together and not started.
struct Parts {
    /// Tasks whose jobs are sealed.
    private: Vec<TaskName>,
    engine: Arc<dyn Engine>,
    lanes: Vec<Arc<dyn Lane>>,
    call_lanes: Vec<Arc<dyn Lane>>,
    call_settings: Vec<(TaskName, CallSettings)>,
    more: Additions,
    packs: Vec<Box<dyn Pack>>,
    node: NodeId,
    seed: u64,
    config: RuntimeConfig,
    defaults: Vec<(TaskName, TaskDefaults)>,
    checks: Vec<(TaskName, Arc<dyn PayloadCheck>)>,
    limits: Vec<(LimitTarget, Limit)>,
    data: PathBuf,
    host: Arc<Host>,
    pulse: Pulse,
    remote: Option<Arc<RemoteLane>>,
    schedules: Vec<(ScheduleName, ScheduleSpec)>,
}

/// What [`Builder::check`] found.
#[derive(Clone, Debug)]
pub struct Checked {
    pub engine: &'static str,
    /// What the system gives for bounding and ending children.
    pub means: Means,
    pub lanes: Vec<CheckedLane>,
}

/// One lane.
#[derive(Clone, Debug)]
pub struct CheckedLane {
    pub name: Box<str>,
    pub tasks: Vec<TaskName>,
    /// Why it would not work, in a sentence.
    pub problem: Option<String>,
    /// Its executors are on other machines: it is declared, and nothing of it could be tried.
    pub elsewhere: bool,
}
