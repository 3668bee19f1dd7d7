//! The pack: targets of a server, loads into them over HTTP, and the task `ingest`.
//!
//! `routes` is the door, `direct` stores a body while it comes, `spool` keeps bodies that wait for a
//! job of `task`, `upload` takes them in parts, `intake` those that other packs have fetched, `history` knows
//! the loads that have ended, `consumers` are jobs without an end, `comeback` brings them back. Built on the facade alone.
//!
//! Must never: run a load on a thread that serves requests; take a byte that no bound counts.

#[cfg(feature = "kafka")]
mod comeback;
#[cfg(feature = "kafka")]
mod consumers;
mod digest;
mod direct;
mod events;
mod history;
mod intake;
mod interop;
mod outlets;
mod routes;
mod source;
mod spool;
mod task;
mod upload;
mod view;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use offloop::http::PackRoutes;
use offloop::job::limits::TAG_BYTES_MAX;
use offloop::job::{JobId, JobIdSource, NameError, Tag};
use offloop::lane_io::IoLane;
use offloop::runtime::clock::{Clock as _, SystemClock};
use offloop::{Pack, PackError, QueueName, RuntimeHandle, Setup, TaskDefaults, TaskInfo, TaskName};
use sha2::{Digest as _, Sha256};
use tokio::task::JoinHandle;

use crate::consume::Consumer;
use crate::load::{
    BATCH_MEMORY, Intake, Load, LoadFailed, LoadId, LoadIdError, Loader, Settings, Summary,
};
#[cfg(feature = "kafka")]
use crate::sink::kafka::KafkaSettings;
use crate::target::{Sink, Target};
use history::History;
#[cfg(feature = "kafka")]
pub use outlets::try_consumer;
pub use outlets::{Address, Opener, Places, WITHOUT_KAFKA, try_out};
use spool::{Spool, SpoolRule};
pub use view::chain;

/// Names of targets that are parts of paths already.
pub const RESERVED: [&str; 4] = ["consumers", "loads", "targets", "uploads"];

/// What an operator may set.
#[derive(Clone, Debug)]
pub struct IngestOptions {
    pub targets: Vec<Target>,
    /// Where relative paths of targets start.
    pub folder: PathBuf,
    pub postgres: Option<Address>,
    /// The cluster of targets with the sink `kafka`.
    #[cfg(feature = "kafka")]
    pub kafka: Option<KafkaSettings>,
    /// Topics that are read into targets.
    pub consumers: Vec<Consumer>,
    /// Memory of all batches together; default 24 MiB.
    pub memory_bytes: u64,
    /// Loads at once; default 256.
    pub loads: usize,
    /// Of one tenant; default 64.
    pub tenant_loads: usize,
    /// A sender that is silent for so long is given up; default 30 s.
    pub idle: Duration,
    /// Bytes of one body, as they come; default 64 GiB.
    pub upload_bytes: u64,
    /// Bodies on disk that wait for their job or come in parts, all together; default 10 GiB.
    pub spool_bytes: u64,
    /// A whole body whose job has failed is kept for so long; default 7 days.
    pub spool_for: Duration,
    /// An upload in parts that does not grow is kept for so long; default 1 day.
    pub parts_for: Duration,
    /// How often the spool is looked through for what is too old; default 1 hour.
    pub sweep_every: Duration,
    /// Jobs of the task `ingest` at a time, 1 to 4,096; default 4.
    pub jobs: u16,
    /// Loads that are remembered when they have ended, with their reject files; default 1,000.
    pub history: usize,
}

impl IngestOptions {
    pub fn new(targets: Vec<Target>, folder: impl Into<PathBuf>) -> Self {
        Self {
            targets,
            folder: folder.into(),
            postgres: None,
            #[cfg(feature = "kafka")]
            kafka: None,
            consumers: Vec::new(),
            memory_bytes: BATCH_MEMORY,
            loads: 256,
            tenant_loads: 64,
            idle: Duration::from_secs(30),
            upload_bytes: 64 << 30,
            spool_bytes: 10 << 30,
            spool_for: Duration::from_secs(7 * 24 * 3_600),
            parts_for: upload::PARTS_FOR,
            sweep_every: Duration::from_secs(3_600),
            jobs: 4,
            history: 1_000,
        }
    }

    /// What targets' places need. `data`: the pack's own folder, `ingest` in the server's.
    pub fn places(&self, data: &Path, server: Option<RuntimeHandle>) -> Places {
        Places {
            folder: self.folder.clone(),
            postgres: self.postgres.clone(),
            server,
            notes: data.to_owned(),
            #[cfg(feature = "kafka")]
            kafka: self.kafka.clone(),
        }
    }
}

/// What is wrong with the name of a tenant, which is a job's `group_key` too.
fn tenant_problem(tenant: &str) -> Option<String> {
    let is_wrong = Tag::parse(tenant).is_err();
    is_wrong.then(|| format!("give 1 to {TAG_BYTES_MAX} bytes without control characters"))
}

/// The name of a load by what it is made of: the same parts, the same load.
pub fn load_name<'p>(
    kind: &str,
    parts: impl IntoIterator<Item = &'p [u8]>,
) -> Result<LoadId, LoadIdError> {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    let digits = hash.finalize();
    let digits = digits.iter().take(16).map(|byte| format!("{byte:02x}"));
    LoadId::parse(&format!("{kind}-{}", digits.collect::<String>()))
}

/// Of a job: a day for one body.
const JOB_TIMEOUT: Duration = Duration::from_secs(24 * 3_600);
/// From the wish to stop until a load is dropped: time to store what was read.
const GRACE: Duration = Duration::from_secs(5);

/// Threads of its own, for loads. Ended without waiting: what a load has under way is noted or not.
#[derive(Debug)]
struct Threads(Option<tokio::runtime::Runtime>);

impl Threads {
    fn start() -> std::io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("offloop-ingest")
            .on_thread_start(|| {
                offloop::lane::slice::compute();
            })
            .enable_all()
            .build()?;
        Ok(Self(Some(runtime)))
    }

    fn handle(&self) -> Option<&tokio::runtime::Handle> {
        self.0.as_ref().map(tokio::runtime::Runtime::handle)
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

/// What routes and the task share.
#[derive(Debug)]
struct Shared {
    options: IngestOptions,
    /// The pack's own folder.
    data: PathBuf,
    /// Where reject files are.
    rejects: PathBuf,
    history: History,
    spool: Spool,
    task: TaskName,
    queue: QueueName,
    #[cfg(feature = "kafka")]
    consumers: consumers::Consumers,
    threads: Threads,
    ids: Mutex<JobIdSource>,
    /// Set when the server runs.
    open: OnceLock<Open>,
}

#[derive(Debug)]
struct Open {
    loader: Loader,
    server: RuntimeHandle,
}

impl Shared {
    fn new(options: IngestOptions, data: &Path) -> Result<Self, PackError> {
        let name = |error: NameError| fail(error);
        let now = SystemClock.now().as_millis();
        let seed = now ^ (u64::from(std::process::id()) << 44);
        let rejects = data.join("rejects");
        let rows = TaskName::parse(history::COLLECTION).map_err(name)?;
        let threads = Threads::start();
        let rule = SpoolRule {
            most: options.spool_bytes,
            keep: options.spool_for,
            keep_parts: options.parts_for,
            senders: options.loads,
            tenant_senders: options.tenant_loads,
        };
        let spool = Spool::open(&data.join("spool"), rule);
        Ok(Self {
            history: History::new(rows, rejects.clone(), options.history),
            threads: threads.map_err(|error| fail(format!("cannot start its thread: {error}")))?,
            spool: spool.map_err(|error| fail(format!("the spool cannot be used: {error}")))?,
            task: TaskName::parse(task::TASK).map_err(name)?,
            queue: QueueName::parse(task::QUEUE).map_err(name)?,
            #[cfg(feature = "kafka")]
            consumers: consumers::Consumers::default(),
            ids: Mutex::new(JobIdSource::new(0, seed)),
            open: OnceLock::new(),
            data: data.to_owned(),
            rejects,
            options,
        })
    }

    /// A name that no load has.
    fn new_id(&self, server: &RuntimeHandle) -> Option<LoadId> {
        let mut ids = self.ids.lock().unwrap_or_else(PoisonError::into_inner);
        LoadId::parse(&ids.next_id(server.now()).to_string()).ok()
    }

    /// Runs a load on threads of its own, and remembers its end.
    fn start(
        self: &Arc<Self>,
        open: &Open,
        load: Load,
        intake: Intake,
    ) -> Option<JoinHandle<Result<Summary, LoadFailed>>> {
        let (shared, loader, server) = (Arc::clone(self), open.loader.clone(), open.server.clone());
        let threads = self.threads.handle()?;
        Some(threads.spawn(async move {
            let id = load.id().clone();
            let end = load.run(intake).await;
            shared.remember(&loader, &server, &id, None).await;
            end
        }))
    }

    async fn remember(
        &self,
        loader: &Loader,
        server: &RuntimeHandle,
        id: &LoadId,
        job: Option<JobId>,
    ) {
        if let Some(status) = loader.status(id) {
            let mut view = view::status_view(&status);
            if let Some(job) = job {
                view["job"] = job.to_string().into();
            } else if let Some(known) = self.history.get(id) {
                view["job"] = known["job"].clone();
            }
            self.history.keep(server, id, view).await;
        }
    }
}

/// The pack of loads.
#[derive(Debug)]
pub struct IngestPack {
    options: IngestOptions,
    shared: Option<Arc<Shared>>,
}

impl IngestPack {
    pub const fn new(options: IngestOptions) -> Self {
        Self {
            options,
            shared: None,
        }
    }
}

fn fail(message: impl std::fmt::Display) -> PackError {
    PackError {
        pack: "ingest",
        message: message.to_string(),
    }
}

impl Pack for IngestPack {
    fn name(&self) -> &'static str {
        "ingest"
    }

    fn install(&mut self, setup: &mut Setup<'_>) -> Result<(), PackError> {
        let shared = Shared::new(self.options.clone(), &setup.data().join("ingest"))?;
        if let Some(threads) = shared.threads.handle() {
            setup.pulse().watch("ingest:loads", threads.clone());
        }
        let shared = Arc::new(shared);
        // Weak: the server holds its lanes, and what is shared holds the server.
        let own = Arc::downgrade(&shared);
        let info = TaskInfo {
            name: shared.task.clone(),
            timeout: Some(JOB_TIMEOUT),
            about: "stores a body of the spool in its target".into(),
        };
        // A lane of its own: targets that are slow hold up each other at most.
        let lane = IoLane::builder("ingest")
            .slots(self.options.jobs)
            .grace(GRACE)
            .pulse(setup.pulse().clone())
            .task(
                info,
                Arc::new(move |context| Box::pin(task::ingest(own.upgrade(), context))),
            );
        setup.lane(Arc::new(lane.build()));
        let defaults = TaskDefaults {
            // A place among the loads is waited for, however long it takes.
            snoozes_max: Some(u16::MAX),
            ..TaskDefaults::default()
        };
        setup.defaults(shared.task.clone(), defaults);
        #[cfg(feature = "kafka")]
        consumers::install(&shared, setup)?;
        setup.offer_intake(Arc::new(intake::Taker(Arc::downgrade(&shared))));
        self.shared = Some(shared);
        Ok(())
    }

    fn open(mut self: Box<Self>, server: &RuntimeHandle) -> Result<PackRoutes, PackError> {
        let shared = self.shared.take();
        let shared = shared.ok_or_else(|| fail("was opened before it was installed"))?;
        let options = &shared.options;
        let mut opener = Opener::new(options.places(&shared.data, Some(server.clone())));
        let mut targets = Vec::new();
        for target in &options.targets {
            let wrong = |error| fail(format!("ingest.targets.{}: {error}", target.name()));
            let outlet = opener.open(target).map_err(wrong)?;
            if let Sink::Jobs { task } = target.sink()
                && !server
                    .tasks()
                    .iter()
                    .any(|known| known.info.name.as_str() == &**task)
            {
                return Err(wrong(format!("no task `{task}` is declared here")));
            }
            targets.push((target.clone(), outlet));
        }
        let settings = Settings {
            batch_memory: options.memory_bytes,
            loads_max: options.loads,
            tenant_loads_max: options.tenant_loads,
            ..Settings::new(shared.rejects.clone())
        };
        let loader = Loader::new(settings, targets);
        let loader = loader.map_err(|error| fail(format!("its folder cannot be used: {error}")))?;
        offloop::block_on(shared.history.open(server)).map_err(fail)?;
        let server = server.clone();
        let open = Open { loader, server };
        offloop::block_on(task::recover(&shared, &open)).map_err(fail)?;
        #[cfg(feature = "kafka")]
        consumers::open(&shared, &mut opener, &open.server)?;
        let _once = shared.open.set(open);
        if let Some(threads) = shared.threads.handle() {
            let every = shared.options.sweep_every;
            threads.spawn(task::sweeper(Arc::downgrade(&shared), every));
        }
        Ok(routes::routes(shared))
    }
}
