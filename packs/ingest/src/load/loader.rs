//! The targets of a process, and the loads into them.
//!
//! Must never: run one load twice at once, or forget a load that runs.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;
use tokio::time::Instant;

use super::error::{LoadFailed, LoadRefused};
use super::feed::Intake;
use super::governor::{Governor, Place, Settings, reject_path};
use super::id::LoadId;
use super::pipeline::Pipeline;
use super::status::{Phase, Status, Summary};
use crate::sink::{Hand, Outlet};
use crate::target::Target;

/// What a load is to be.
#[derive(Debug, Clone)]
pub struct LoadAsk {
    /// The same for the same input: what is stored under it is not stored again.
    pub load: LoadId,
    pub target: String,
    /// On whose account.
    pub tenant: Option<String>,
    /// Of the whole input as it comes, for the progress.
    pub bytes_total: Option<u64>,
}

/// All targets of a process. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Loader {
    shared: Arc<Shared>,
}

#[derive(Debug)]
pub(super) struct Shared {
    pub(super) settings: Settings,
    pub(super) governor: Arc<Governor>,
    pub(super) reject_hand: Hand<()>,
    targets: BTreeMap<String, (Target, Arc<dyn Outlet>)>,
    loads: Mutex<Loads>,
}

#[derive(Debug, Default)]
struct Loads {
    running: HashMap<LoadId, watch::Receiver<Status>>,
    /// The latest last.
    ended: VecDeque<Status>,
}

impl Loader {
    /// Makes the folder of the reject files and begins their writer's thread.
    pub fn new(
        settings: Settings,
        targets: impl IntoIterator<Item = (Target, Arc<dyn Outlet>)>,
    ) -> io::Result<Self> {
        std::fs::create_dir_all(&settings.folder)?;
        let targets = targets.into_iter();
        let shared = Shared {
            governor: Arc::new(Governor::new(&settings)),
            reject_hand: Hand::new("ingest-rejects", ())?,
            targets: targets
                .map(|(target, outlet)| (target.name().to_owned(), (target, outlet)))
                .collect(),
            loads: Mutex::default(),
            settings,
        };
        Ok(Self {
            shared: Arc::new(shared),
        })
    }

    pub fn target(&self, name: &str) -> Option<&Target> {
        self.shared.targets.get(name).map(|(target, _)| target)
    }

    /// In the order of their names.
    pub fn targets(&self) -> impl Iterator<Item = &Target> {
        self.shared.targets.values().map(|(target, _)| target)
    }

    /// A load that may begin now. Nothing is asked of its sink yet.
    pub fn load(&self, ask: LoadAsk) -> Result<Load, LoadRefused> {
        let Some((target, outlet)) = self.shared.targets.get(&ask.target) else {
            return Err(LoadRefused::UnknownTarget {
                target: ask.target.chars().take(100).collect(),
                known: self.shared.targets.keys().cloned().collect(),
            });
        };
        let mut loads = self.shared.loads();
        if loads.running.contains_key(&ask.load) {
            return Err(LoadRefused::Running { load: ask.load });
        }
        let place = self.shared.governor.enter(ask.tenant.clone())?;
        let mut status = Status::new(ask.load.clone(), target.name(), ask.tenant);
        status.bytes_total = ask.bytes_total;
        let (tell, told) = watch::channel(status);
        loads.ended.retain(|ended| ended.load != ask.load);
        loads.running.insert(ask.load.clone(), told);
        drop(loads);
        Ok(Load {
            sink: outlet.sink(&ask.load),
            target: target.clone(),
            running: Running {
                shared: Arc::clone(&self.shared),
                load: ask.load,
                tell,
                _place: place,
            },
        })
    }

    /// Of a load that runs, or ended not too long ago.
    pub fn status(&self, load: &LoadId) -> Option<Status> {
        let loads = self.shared.loads();
        if let Some(told) = loads.running.get(load) {
            return Some(told.borrow().clone());
        }
        loads
            .ended
            .iter()
            .find(|ended| ended.load == *load)
            .cloned()
    }

    /// To follow a running load by; closed when it ends ([`Loader::status`] has its end then).
    pub fn watch(&self, load: &LoadId) -> Option<watch::Receiver<Status>> {
        self.shared.loads().running.get(load).cloned()
    }

    /// All that run, then those that ended, the latest first.
    pub fn statuses(&self) -> Vec<Status> {
        let loads = self.shared.loads();
        let running = loads.running.values().map(|told| told.borrow().clone());
        let mut all: Vec<_> = running.collect();
        all.sort_by_key(|status| status.begun);
        all.extend(loads.ended.iter().rev().cloned());
        all
    }
}

impl Shared {
    fn loads(&self) -> MutexGuard<'_, Loads> {
        self.loads.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One load that may run. Dropped, it gives its place back.
#[derive(Debug)]
pub struct Load {
    pub(super) sink: Arc<dyn crate::sink::RowSink>,
    pub(super) target: Target,
    pub(super) running: Running,
}

impl Load {
    pub fn id(&self) -> &LoadId {
        &self.running.load
    }

    pub fn watch(&self) -> watch::Receiver<Status> {
        self.running.tell.subscribe()
    }

    /// Takes all that the feed brings, from the input's first byte (what is stored is skipped),
    /// and answers when all of it is stored. Dropped, it stops where it is, which costs nothing
    /// but the batches under way.
    ///
    /// Runs on the runtime that polls it, with one task for each batch with the sink, in slices
    /// of 64 KiB: let it be none that serves requests.
    pub async fn run(self, intake: Intake) -> Result<Summary, LoadFailed> {
        Pipeline::run(self, intake).await
    }
}

/// Stands for the load in the list of those that run.
#[derive(Debug)]
pub(super) struct Running {
    pub(super) shared: Arc<Shared>,
    pub(super) load: LoadId,
    pub(super) tell: watch::Sender<Status>,
    _place: Place,
}

impl Running {
    pub(super) fn reject_path(&self) -> std::path::PathBuf {
        reject_path(&self.shared.settings, &self.load)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let mut status = self.tell.borrow().clone();
        if !matches!(status.phase, Phase::Stored | Phase::Failed) {
            status.phase = Phase::Failed;
            status.error = Some("it was stopped".into());
        }
        status.ended.get_or_insert_with(Instant::now);
        status.in_flight = 0;
        self.tell.send_replace(status.clone());
        let mut loads = self.shared.loads();
        loads.running.remove(&self.load);
        loads.ended.push_back(status);
        while loads.ended.len() > self.shared.settings.ended_kept_max {
            loads.ended.pop_front();
        }
    }
}
