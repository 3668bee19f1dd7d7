//! What others hold: they add loops and sources, and take the snapshot.

use std::fmt;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::runtime::Handle;

use crate::config::PulseConfig;
use crate::snapshot::{LaneSample, Snapshot, TaskSample};
use crate::thread;
use crate::watched::Watched;

/// Figures that others have: the pulse's thread asks for them, so that readers need not. Every call
/// returns at once. `None`: whoever had them is gone.
pub trait Source: Send + fmt::Debug {
    /// Four times a second.
    fn lanes(&mut self) -> Option<Vec<LaneSample>>;

    /// Once a second.
    fn tasks(&mut self, now: Instant) -> Option<Vec<TaskSample>>;
}

/// What the thread and the handles share.
#[derive(Debug, Default)]
pub(crate) struct Shared {
    pub(crate) config: PulseConfig,
    /// Added and not yet taken up by the thread.
    pub(crate) loops: Mutex<Vec<Watched>>,
    pub(crate) sources: Mutex<Vec<Box<dyn Source>>>,
    published: Mutex<Arc<Snapshot>>,
    changed: Condvar,
    pub(crate) ended: AtomicBool,
    /// For the thread's pauses.
    pub(crate) pause: Mutex<()>,
    pub(crate) woken: Condvar,
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    pub(crate) fn publish(&self, snapshot: Snapshot) {
        let old = std::mem::replace(&mut *lock(&self.published), Arc::new(snapshot));
        drop(old); // outside of the lock
        self.changed.notify_all();
    }

    fn end(&self) {
        self.ended.store(true, Ordering::Release);
        let _guard = lock(&self.pause);
        self.woken.notify_all();
    }
}

/// A pulse; clones are the same one. It ends with its last handle.
#[derive(Clone, Debug)]
pub struct Pulse(Arc<Owner>);

#[derive(Debug)]
struct Owner {
    shared: Arc<Shared>,
    on: bool,
}

impl Drop for Owner {
    /// Not joined: the last handle may be dropped by a source, on the thread itself.
    fn drop(&mut self) {
        self.shared.end();
    }
}

impl Default for Pulse {
    fn default() -> Self {
        Self::off()
    }
}

impl Pulse {
    /// Starts the thread `offloop-pulse`.
    ///
    /// - Errors: the system gives no thread.
    pub fn start(config: PulseConfig) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            config: config.clamped(),
            ..Shared::default()
        });
        let own = Arc::clone(&shared);
        std::thread::Builder::new()
            .name("offloop-pulse".into())
            .spawn(move || thread::run(&own))?;
        Ok(Self(Arc::new(Owner { shared, on: true })))
    }

    /// One without a thread: its snapshot stays empty.
    pub fn off() -> Self {
        let shared = Arc::new(Shared::default());
        Self(Arc::new(Owner { shared, on: false }))
    }

    pub fn is_on(&self) -> bool {
        self.0.on
    }

    pub fn config(&self) -> PulseConfig {
        self.0.shared.config
    }

    /// Watches a runtime until it ends. The same runtime again is watched once; another one of the
    /// same name is shown as `name:2`.
    ///
    /// A current-thread runtime must be driven (`block_on`): one that nobody drives looks blocked,
    /// and is.
    pub fn watch(&self, name: &str, runtime: Handle) {
        if self.0.on {
            lock(&self.0.shared.loops).push(Watched::new(name, runtime));
        }
    }

    pub fn source(&self, source: Box<dyn Source>) {
        if self.0.on {
            lock(&self.0.shared.sources).push(source);
        }
    }

    /// As published last. Costs a short lock and a count.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(&lock(&self.0.shared.published))
    }

    /// The first snapshot that `fits`, or `None` after `within`. Blocks; never on a loop.
    pub fn wait_for(
        &self,
        within: Duration,
        mut fits: impl FnMut(&Snapshot) -> bool,
    ) -> Option<Arc<Snapshot>> {
        let shared = &self.0.shared;
        let deadline = Instant::now() + within;
        let mut published = lock(&shared.published);
        loop {
            if fits(&published) {
                return Some(Arc::clone(&published));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return None;
            }
            let waited = shared.changed.wait_timeout(published, left);
            published = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}
