//! The pack: a lane of its own, the hook that makes deliveries, two routes.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use offloop::egress::{Policy, Resolve, Roots, SystemResolver};
use offloop::http::PackRoutes;
use offloop::job::{NameError, OptionProblem, Webhook};
use offloop::lane_io::IoLane;
use offloop::store::RecordScan;
use offloop::{
    EndHook, EndedJob, NewJob, Pack, PackError, QueueName, RecordWrite, RuntimeHandle, Setup,
    TaskDefaults, TaskError, TaskInfo, TaskName, Timestamp,
};

use crate::deliver::{UnderWay, deliver};
use crate::event::delivery;
use crate::health::Health;
use crate::routes;
use crate::secrets::{Keyring, is_name};
use crate::send::Sender;

/// The task that delivers, and the queue of its jobs.
pub const TASK: &str = "webhook.deliver";
pub const QUEUE: &str = "webhooks";

/// What an operator may set.
#[derive(Clone, Debug)]
pub struct WebhooksOptions {
    /// Folder of the secrets.
    pub secrets: PathBuf,
    /// Where receivers may be; default public addresses by https.
    pub policy: Policy,
    /// From the first look at a receiver's name to the head of its answer; default 15 s.
    pub timeout: Duration,
    /// Deliveries at a time, 1 to 4,096; default 64.
    pub concurrency: u16,
    /// To one receiver at a time; default 4.
    pub per_host: u16,
    /// A receiver that did nothing but fail for so long is given up; default 5 days. A delivery of
    /// that age is not tried again either.
    pub disable_after: Duration,
    /// Webhooks of all jobs of a task, where a job has none of its own.
    pub tasks: HashMap<TaskName, Webhook>,
    /// Who looks names up; default the system.
    pub resolver: Arc<dyn Resolve>,
    /// Authorities that are trusted beside the system's.
    pub roots: Roots,
}

impl WebhooksOptions {
    pub fn new(secrets: impl Into<PathBuf>) -> Self {
        Self {
            secrets: secrets.into(),
            policy: Policy::default(),
            timeout: Duration::from_secs(15),
            concurrency: 64,
            per_host: 4,
            disable_after: Duration::from_secs(5 * 24 * 3600),
            tasks: HashMap::new(),
            resolver: Arc::new(SystemResolver::default()),
            roots: Roots::default(),
        }
    }
}

/// What the hook, the task and the routes share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) sender: Sender,
    pub(crate) secrets: Keyring,
    pub(crate) health: Health,
    pub(crate) under_way: UnderWay,
    pub(crate) per_host: u16,
    pub(crate) disable_after: Duration,
    tasks: HashMap<TaskName, Webhook>,
    task: TaskName,
    queue: QueueName,
    server: OnceLock<RuntimeHandle>,
}

impl Shared {
    fn server(&self) -> Result<&RuntimeHandle, TaskError> {
        let early = || TaskError::error("the server is starting");
        self.server.get().ok_or_else(early)
    }

    pub(crate) fn now(&self) -> Result<Timestamp, TaskError> {
        Ok(self.server()?.now())
    }

    /// What is not written is known until a restart.
    pub(crate) async fn write(&self, row: RecordWrite) {
        let Ok(server) = self.server() else {
            return;
        };
        if let Err(error) = server.write_records(vec![row]).await {
            tracing::warn!(%error, "how a webhook's receiver does was not kept");
        }
    }

    /// What is wrong with a webhook, if anything.
    fn problem(&self, webhook: &Webhook) -> Option<(&'static str, String)> {
        if let Err(error) = self.sender.policy().target(&webhook.url) {
            return Some(("webhook/url", error.to_string()));
        }
        if webhook.on.is_empty() {
            return Some((
                "webhook/on",
                "is empty; give some of completed, failed, cancelled, expired".into(),
            ));
        }
        let name = webhook.secret.as_deref().unwrap_or("default");
        if !is_name(name) || !self.secrets.known().has(name) {
            let detail =
                format!("names {name:?}, and the folder of secrets has no {name}.v1.whsec");
            return Some(("webhook/secret_id", detail));
        }
        None
    }
}

#[derive(Debug)]
struct Hook(Arc<Shared>);

impl EndHook for Hook {
    fn delivers(&self) -> bool {
        true
    }

    fn problem(&self, job: &NewJob) -> Option<OptionProblem> {
        let (field, message) = self.0.problem(job.options.webhook.as_deref()?)?;
        Some(OptionProblem { field, message })
    }

    fn follow(&self, end: &EndedJob<'_>) -> Vec<NewJob> {
        let shared = &self.0;
        if *end.task == shared.task {
            return Vec::new();
        }
        let own = end.options.webhook.as_deref();
        let webhook = own.or_else(|| shared.tasks.get(end.task.as_str()));
        let Some(webhook) = webhook.filter(|webhook| webhook.on.contains(end.state)) else {
            return Vec::new();
        };
        let target = shared.sender.policy().target(&webhook.url);
        let host = target.map(|target| target.authority()).unwrap_or_default();
        let job = delivery(&shared.task, &shared.queue, end, webhook, &host);
        job.into_iter().collect()
    }
}

/// The pack of webhooks.
#[derive(Debug)]
pub struct WebhooksPack {
    options: WebhooksOptions,
    shared: Option<Arc<Shared>>,
}

impl WebhooksPack {
    pub const fn new(options: WebhooksOptions) -> Self {
        Self {
            options,
            shared: None,
        }
    }

    fn shared(&self) -> Result<Shared, PackError> {
        let options = &self.options;
        let name = |error: NameError| fail(error.to_string());
        let secrets = Keyring::open(&options.secrets).map_err(|error| fail(error.to_string()))?;
        let resolver = Arc::clone(&options.resolver);
        let sender = Sender::new(
            options.policy.clone(),
            resolver,
            &options.roots,
            options.timeout,
        );
        let shared = Shared {
            sender: sender.map_err(|error| fail(error.to_string()))?,
            secrets,
            health: Health::new(options.disable_after).map_err(name)?,
            under_way: UnderWay::default(),
            per_host: options.per_host.max(1),
            disable_after: options.disable_after,
            tasks: options.tasks.clone(),
            task: TaskName::parse(TASK).map_err(name)?,
            queue: QueueName::parse(QUEUE).map_err(name)?,
            server: OnceLock::new(),
        };
        for (task, webhook) in &shared.tasks {
            if let Some((field, message)) = shared.problem(webhook) {
                return Err(fail(format!(
                    "tasks.{task}.{}: {message}",
                    field.replace('/', ".")
                )));
            }
        }
        Ok(shared)
    }
}

fn fail(message: impl Into<String>) -> PackError {
    PackError {
        pack: "webhooks",
        message: message.into(),
    }
}

impl Pack for WebhooksPack {
    fn name(&self) -> &'static str {
        "webhooks"
    }

    fn install(&mut self, setup: &mut Setup<'_>) -> Result<(), PackError> {
        let shared = Arc::new(self.shared()?);
        let own = Arc::clone(&shared);
        let info = TaskInfo {
            name: shared.task.clone(),
            timeout: Some(self.options.timeout + Duration::from_secs(15)),
            about: "tells a receiver how a job ended".into(),
        };
        // A lane of its own: receivers that hang hold up each other at most.
        let lane = IoLane::builder("webhooks")
            .slots(self.options.concurrency)
            .pulse(setup.pulse().clone())
            .task(
                info,
                Arc::new(move |context| Box::pin(deliver(Arc::clone(&own), context))),
            );
        setup.lane(Arc::new(lane.build()));
        // Age ends a delivery that waits its turn, not how often it asked.
        let defaults = TaskDefaults {
            snoozes_max: Some(u16::MAX),
            ..TaskDefaults::default()
        };
        setup.defaults(shared.task.clone(), defaults);
        setup.end_hook(Arc::new(Hook(Arc::clone(&shared))));
        self.shared = Some(shared);
        Ok(())
    }

    fn open(mut self: Box<Self>, server: &RuntimeHandle) -> Result<PackRoutes, PackError> {
        let shared = self.shared.take();
        let shared = shared.ok_or_else(|| fail("was opened before it was installed"))?;
        let scan = RecordScan {
            collection: shared.health.collection().clone(),
            label: None,
            after: None,
            limit: 10_000,
        };
        let page =
            offloop::block_on(server.records(scan)).map_err(|error| fail(error.to_string()))?;
        for record in page.records {
            shared.health.load(&record.key, &record.value);
        }
        let _ = shared.server.set(server.clone()); // once
        Ok(routes::routes(shared))
    }
}
