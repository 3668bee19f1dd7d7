//! The pack: a lane of its own, the task `fetch`, rows of what is done, and routes.
//!
//! `task` makes a job's calls, `rows` is what it keeps over a restart, `hand` gives answers on, `files` is where
//! whole bodies lie, `routes` takes lists. Built on the facade alone.

mod files;
mod group;
mod hand;
mod routes;
mod rows;
mod task;

use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use offloop::egress::{EgressError, Policy, Resolve, Roots, SystemResolver};
use offloop::http::PackRoutes;
use offloop::job::NameError;
use offloop::lane_io::IoLane;
use offloop::store::PayloadProblem;
use offloop::{
    IntakeSlot, Pack, PackError, PayloadCheck, QueueName, RuntimeHandle, Setup, TaskError,
    TaskInfo, TaskName,
};

use crate::breaker::BreakerRule;
use crate::budget::BudgetRule;
use crate::client::{Client, ClientOptions};
use crate::draft::Drafts;
use crate::host::lock;
use crate::plan::{OnResult, PlanLimits, read_plan};
use files::Files;

/// The task, and the queue that its jobs of groups wait in.
pub const TASK: &str = "fetch";
pub const QUEUE: &str = "fetch";
/// From the wish to stop until a job's calls are dropped: time to keep what is done.
const GRACE: Duration = Duration::from_secs(2);

/// Rows of jobs that are gone are taken away this often.
const SWEEP_EVERY: Duration = Duration::from_secs(3_600);

/// What an operator may set.
#[derive(Clone, Debug)]
pub struct FetchOptions {
    /// Where calls may go; default public addresses by http and https.
    pub policy: Policy,
    /// Jobs at a time, 1 to 4,096; default 16.
    pub jobs: u16,
    /// Of one job.
    pub limits: PlanLimits,
    /// Calls at a time of all jobs, and connections; 1 to 60,000, default 2,000.
    pub connections: u32,
    /// Authorities that are trusted beside the system's.
    pub roots: Roots,
    pub breaker: BreakerRule,
    pub budget: BudgetRule,
    /// Bodies that are stored, all together; default 1 GiB. As many may be under way to their files.
    pub store_bytes: u64,
    /// How long they are; default 7 days.
    pub store_for: Duration,
    /// Who looks names up; default the system.
    pub resolver: Arc<dyn Resolve>,
    /// Of the jitter.
    pub seed: u64,
}

impl Default for FetchOptions {
    fn default() -> Self {
        Self {
            policy: Policy {
                http: true,
                ports: vec![443, 8443, 80, 8080],
                ..Policy::default()
            },
            jobs: 16,
            limits: PlanLimits::default(),
            connections: 2_000,
            roots: Roots::default(),
            breaker: BreakerRule::default(),
            budget: BudgetRule::default(),
            store_bytes: 1 << 30,
            store_for: Duration::from_secs(7 * 24 * 3600),
            resolver: Arc::new(SystemResolver::default()),
            seed: u64::from(std::process::id()),
        }
    }
}

/// What the task, its rule and the routes share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) client: Client,
    pub(crate) limits: PlanLimits,
    pub(crate) files: Files,
    pub(crate) intake: IntakeSlot,
    pub(crate) task: TaskName,
    pub(crate) queue: QueueName,
    pub(crate) rows: TaskName,
    /// When rows of jobs that are gone were looked for.
    swept: Mutex<Instant>,
    server: OnceLock<RuntimeHandle>,
}

impl Shared {
    pub(crate) fn server(&self) -> Result<&RuntimeHandle, TaskError> {
        let early = || TaskError::error("the server is starting");
        self.server.get().ok_or_else(early)
    }

    /// True once an hour.
    pub(crate) fn sweeps_now(&self) -> bool {
        let mut swept = lock(&self.swept);
        let is_due = swept.elapsed() >= SWEEP_EVERY;
        if is_due {
            *swept = Instant::now();
        }
        is_due
    }

    /// What is wrong with a URL, as far as its text says.
    pub(crate) fn url(&self, url: &str) -> Result<(), String> {
        self.client.check(url).map_err(|error| match error {
            EgressError::Forbidden { .. } => {
                format!("{error}: `allow` under [packs.fetch] lists networks of your own")
            }
            error => error.to_string(),
        })
    }

    /// What is wrong with handing answers on.
    pub(crate) fn taker(&self, on_result: &OnResult) -> Option<(&'static str, String)> {
        match on_result {
            OnResult::Task(task) => {
                let known = self.server.get()?.tasks();
                let is_known = known.iter().any(|view| view.info.name == *task);
                (!is_known).then(|| ("/task", "is not declared here".to_owned()))
            }
            OnResult::Ingest(target) => {
                let problem = match self.intake.get() {
                    Some(intake) => intake.problem(target)?,
                    None => "needs targets; this server has no [ingest.targets]".to_owned(),
                };
                Some(("/target", problem))
            }
            OnResult::Inline | OnResult::Hash | OnResult::Store => None,
        }
    }
}

/// Payloads are read at the door as the task reads them.
#[derive(Debug)]
struct Check(Arc<Shared>);

impl PayloadCheck for Check {
    fn problems(&self, payload: &[u8]) -> Vec<PayloadProblem> {
        let read = read_plan(payload, self.0.limits, &|url| self.0.url(url));
        match read {
            Err(problems) => problems,
            Ok(plan) => {
                let problem = self.0.taker(&plan.on_result);
                let problem = problem.map(|(pointer, message)| PayloadProblem {
                    pointer: pointer.into(),
                    message,
                });
                problem.into_iter().collect()
            }
        }
    }
}

/// The pack of calls to third parties.
#[derive(Debug)]
pub struct FetchPack {
    options: FetchOptions,
    shared: Option<Arc<Shared>>,
}

fn fail(message: impl std::fmt::Display) -> PackError {
    PackError {
        pack: "fetch",
        message: message.to_string(),
    }
}

impl FetchPack {
    pub const fn new(options: FetchOptions) -> Self {
        Self {
            options,
            shared: None,
        }
    }

    fn shared(&self, folder: &Path, intake: IntakeSlot) -> Result<Shared, PackError> {
        let options = &self.options;
        let name = |error: NameError| fail(error);
        let unusable = |error| fail(format!("its folder cannot be used: {error}"));
        let drafts = Drafts::open(folder.join("drafts"), options.store_bytes);
        let client = Client::new(ClientOptions {
            policy: options.policy.clone(),
            resolver: Arc::clone(&options.resolver),
            breaker: options.breaker,
            budget: options.budget,
            drafts: Some(drafts.map_err(unusable)?),
            roots: options.roots.clone(),
            connections: options.connections,
            seed: options.seed,
        });
        let client = client.map_err(fail)?;
        // Connections that lie idle are closed also when no job comes any more.
        let pool = client.clone();
        let tidy = move || pool.sweep();
        let files = Files::open(folder, options.store_bytes, options.store_for, tidy);
        Ok(Shared {
            client,
            limits: options.limits,
            files: files.map_err(unusable)?,
            intake,
            task: TaskName::parse(TASK).map_err(name)?,
            queue: QueueName::parse(QUEUE).map_err(name)?,
            rows: TaskName::parse(rows::COLLECTION).map_err(name)?,
            swept: Mutex::new(Instant::now()),
            server: OnceLock::new(),
        })
    }
}

impl Pack for FetchPack {
    fn name(&self) -> &'static str {
        "fetch"
    }

    fn install(&mut self, setup: &mut Setup<'_>) -> Result<(), PackError> {
        let shared = Arc::new(self.shared(&setup.data().join("fetch"), setup.intake())?);
        let own = Arc::clone(&shared);
        let info = TaskInfo {
            name: shared.task.clone(),
            timeout: None,
            about: "calls a list of URLs: {\"urls\": [\"https://...\"]}".into(),
        };
        // A lane of its own: calls that wait hold up each other at most.
        let lane = IoLane::builder("fetch")
            .slots(self.options.jobs)
            .grace(GRACE)
            .pulse(setup.pulse().clone())
            .task(
                info,
                Arc::new(move |context| Box::pin(task::fetch(Arc::clone(&own), context))),
            );
        setup.lane(Arc::new(lane.build()));
        setup.payload_check(shared.task.clone(), Arc::new(Check(Arc::clone(&shared))));
        self.shared = Some(shared);
        Ok(())
    }

    fn open(mut self: Box<Self>, server: &RuntimeHandle) -> Result<PackRoutes, PackError> {
        let shared = self.shared.take();
        let shared = shared.ok_or_else(|| fail("was opened before it was installed"))?;
        offloop::block_on(rows::sweep(server, &shared.rows)).map_err(fail)?;
        let _ = shared.server.set(server.clone()); // once
        Ok(routes::routes(shared, server.clone()))
    }
}
