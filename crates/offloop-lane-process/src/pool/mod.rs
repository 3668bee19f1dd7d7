//! One lane: a pool of children for one task.
//!
//! The pool's state has one owner, a mutex that is held for no longer than a few writes to sockets.
//! Callers change it in place, so that a job reaches an idle child without a detour over another
//! thread; the pool's thread waits for what children say and for time.

mod answers;
mod births;
mod breaker;
mod channel;
mod child;
mod deadline;
mod deaths;
mod exec;
mod exits;
mod jobs;
mod live;
mod part;
mod poll;
mod recycle;
mod sample;
mod speech;
mod state;
mod time;
mod trial;
mod verdict;

use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant};

use offloop_job::{Lease, StopReason};
use offloop_lane::{
    ExitCount, Lane, LaneOpenError, LaneSink, LaneStatus, LeftoverError, Slots, TaskInfo, Work,
};
use rustix::event::{EventfdFlags, epoll, eventfd};

use crate::harness;
use crate::host::Host;
use crate::spec::{Harness, Mode, ProcessSpec, Wire};
use state::Pool;

/// Children of one lane.
const PROCESSES_MAX: u16 = 256;
/// Token of the pool's own wake-up among the children's.
const WAKE: u64 = u64::MAX;

/// Rust code of an exec task, run on the lane's own thread.
type Hook = Box<dyn FnOnce() + Send>;

/// The command with its program found.
#[derive(Clone, Debug)]
struct Resolved {
    program: PathBuf,
    argv: Vec<OsString>,
}

/// What the lane, its thread and its helpers share.
struct Shared {
    name: Box<str>,
    spec: ProcessSpec,
    host: Arc<Host>,
    me: Weak<Shared>,
    command: OnceLock<Resolved>,
    sink: OnceLock<Arc<dyn LaneSink>>,
    hooks: OnceLock<Mutex<Sender<Hook>>>,
    epoll: OnceLock<OwnedFd>,
    bell: OnceLock<OwnedFd>,
    pool: Mutex<Pool>,
    /// A child is gone, or the last news are delivered.
    quiet: Condvar,
}

/// The lane of one declared task: `process:TASK` or `exec:TASK`. See the crate's page.
pub struct ProcessLane {
    tasks: [TaskInfo; 1],
    shared: Arc<Shared>,
}

impl ProcessLane {
    pub fn new(mut spec: ProcessSpec, host: Arc<Host>) -> Self {
        spec.processes = spec.processes.clamp(1, PROCESSES_MAX);
        let tasks = [spec.task.clone()];
        let shared = Arc::new_cyclic(|me| Shared {
            name: spec.lane_name(),
            pool: Mutex::new(Pool::new(Instant::now(), spec.pacing)),
            spec,
            host,
            me: me.clone(),
            command: OnceLock::new(),
            sink: OnceLock::new(),
            hooks: OnceLock::new(),
            epoll: OnceLock::new(),
            bell: OnceLock::new(),
            quiet: Condvar::new(),
        });
        Self { tasks, shared }
    }

    /// What is wrong with the declaration, without starting anything.
    pub fn check(&self) -> Result<(), String> {
        self.shared.resolve().map(drop)
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Pool> {
        self.pool.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn slots(&self) -> usize {
        usize::from(self.spec.processes)
    }

    fn resolve(&self) -> Result<Option<Resolved>, String> {
        let spec = &self.spec;
        if let Some(cwd) = spec.cwd.as_deref().filter(|cwd| !cwd.is_dir()) {
            return Err(format!(
                "its working directory {} is no folder",
                cwd.display()
            ));
        }
        self.host.check_sandbox(&spec.sandbox)?;
        if spec.mode == Mode::Exec && spec.hooks.is_some() {
            return Ok(None);
        }
        if spec.wire == Wire::Lines && matches!(spec.harness, Harness::Node | Harness::Python) {
            return Err("a harness speaks frames: leave the wire out, or the harness".into());
        }
        let argv = harness::wrap(spec, self.host.run_dir());
        let Some(word) = argv.first() else {
            return Err("the command is empty".into());
        };
        let program = self.host.find_program(word, spec.cwd.as_deref())?;
        if let Some(file) = harness::missing_file(spec) {
            return Err(format!("the task's file {} cannot be read", file.display()));
        }
        Ok(Some(Resolved { program, argv }))
    }

    fn ring(&self) {
        if let Some(bell) = self.bell.get() {
            let _ = rustix::io::write(bell, &1_u64.to_ne_bytes()); // full means it rings already
        }
    }

    /// After the bell was heard.
    fn hush(&self) {
        if let Some(bell) = self.bell.get() {
            let mut count = [0_u8; 8];
            let _ = rustix::io::read(bell, &mut count);
        }
    }

    /// After a change: calls the pool's thread if it sleeps too long, then delivers the news.
    fn settle<'a>(&'a self, mut pool: MutexGuard<'a, Pool>) {
        if pool.due_without_samples() < pool.sleeps_until || pool.wants_a_look(Instant::now()) {
            self.ring();
        }
        // One thread delivers at a time, in order; whoever comes in between leaves it to that one.
        // The lock is not held: a sink may call the lane.
        if pool.delivering {
            return;
        }
        pool.delivering = true;
        while !pool.news.is_empty() {
            let news = std::mem::take(&mut pool.news);
            drop(pool);
            if let Some(sink) = self.sink.get() {
                for event in news {
                    sink.send(event);
                }
            }
            pool = self.lock();
        }
        pool.delivering = false;
        let rest = pool.ending && pool.children.is_empty();
        drop(pool);
        if rest {
            self.quiet.notify_all();
        }
    }

    fn start_threads(&self) -> std::io::Result<()> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let bell = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        epoll::add(
            &epoll,
            &bell,
            epoll::EventData::new_u64(WAKE),
            epoll::EventFlags::IN,
        )?;
        let _ = self.epoll.set(epoll);
        let _ = self.bell.set(bell);
        if self.spec.hooks.is_some() {
            let (sender, inbox) = channel::<Hook>();
            let name = "offloop-hooks".to_owned();
            std::thread::Builder::new()
                .name(name)
                .spawn(move || inbox.into_iter().for_each(|hook| hook()))?;
            let _ = self.hooks.set(Mutex::new(sender));
        }
        let Some(shared) = self.me.upgrade() else {
            return Ok(());
        };
        let thread = std::thread::Builder::new().name("offloop-pool".into());
        thread.spawn(move || poll::run(&shared)).map(drop)
    }

    fn end(&self) {
        let mut pool = self.lock();
        pool.shut();
        pool.kill_all();
        self.ring();
        self.settle(pool);
    }
}

impl Lane for ProcessLane {
    fn name(&self) -> &str {
        &self.shared.name
    }

    fn tasks(&self) -> &[TaskInfo] {
        &self.tasks
    }

    fn slots(&self) -> Slots {
        Slots {
            running: self.shared.spec.processes,
            ahead: 0,
        }
    }

    fn open(&self, sink: Arc<dyn LaneSink>) -> Result<(), LaneOpenError> {
        let shared = &self.shared;
        let error = |message: String| LaneOpenError {
            lane: shared.name.clone(),
            message,
        };
        let command = shared.resolve().map_err(error)?;
        let host_error = |cause: std::io::Error| error(format!("cannot start children: {cause}"));
        shared.host.make_ready().map_err(host_error)?;
        if shared.sink.set(sink).is_err() {
            return Err(error("it is open already".into()));
        }
        if let Some(command) = command {
            let _ = shared.command.set(command);
        }
        shared
            .start_threads()
            .map_err(|cause| error(format!("the system refuses to start its threads: {cause}")))?;
        let mut pool = shared.lock();
        shared.fill(&mut pool, Instant::now());
        shared.settle(pool);
        Ok(())
    }

    fn start(&self, work: Vec<Work>) {
        #[cfg(feature = "sabotage")]
        let work = crate::sabotage::taken(work);
        let mut pool = self.shared.lock();
        self.shared.submit(&mut pool, work, Instant::now());
        self.shared.settle(pool);
    }

    fn stop(&self, lease: Lease, reason: StopReason) {
        let mut pool = self.shared.lock();
        self.shared.ask(&mut pool, lease, reason, Instant::now());
        self.shared.settle(pool);
    }

    fn close(&self) {
        let mut pool = self.shared.lock();
        pool.shut();
        self.shared.settle(pool);
    }

    fn terminate(&self, within: Duration) -> Vec<Lease> {
        self.shared.end();
        let deadline = Instant::now().checked_add(within);
        let mut pool = self.shared.lock();
        while !pool.is_quiet() {
            let left = deadline.map_or(within, |at| at.saturating_duration_since(Instant::now()));
            if left.is_zero() {
                break;
            }
            let waited = self.shared.quiet.wait_timeout(pool, left);
            pool = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        let flights = pool.children.values().filter_map(|c| c.flight.as_ref());
        flights.map(|flight| flight.work.lease).collect()
    }

    fn status(&self) -> LaneStatus {
        self.shared.lock().status(Instant::now())
    }

    fn exits(&self) -> Vec<ExitCount> {
        self.shared.lock().exits.list()
    }

    fn trouble(&self) -> Option<Box<str>> {
        let pool = self.shared.lock();
        let trouble = self.shared.trouble_of(&pool, Instant::now());
        trouble.map(Into::into)
    }

    fn try_out(&self) -> Result<(), String> {
        trial::run(&self.shared.spec, &self.shared.host)
    }

    fn clear_leftovers(&self) -> Result<u32, LeftoverError> {
        self.shared
            .host
            .clear_leftovers()
            .map_err(|message| LeftoverError {
                lane: self.shared.name.clone(),
                message,
            })
    }
}

impl Drop for ProcessLane {
    /// Kills every child and does not wait; the pool's thread leaves when they are buried.
    fn drop(&mut self) {
        self.shared.end();
    }
}

impl std::fmt::Debug for ProcessLane {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ProcessLane")
            .field("name", &self.shared.name)
            .field("processes", &self.shared.spec.processes)
            .finish_non_exhaustive()
    }
}
