//! The lane as the runtime sees it, and as doors see it for workers.
//!
//! News goes out under the board's lock, so that no end overtakes its start.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;
use offloop_job::{JobId, Lease, StopReason, TaskName};
use offloop_lane::{
    CheckpointError, CheckpointReply, Demand, Lane, LaneEvent, LaneOpenError, LaneSink, LaneStatus,
    Slots, TaskInfo, Work,
};
use tokio::sync::{Notify, oneshot};

use crate::board::Board;
use crate::types::{
    ClaimRefusal, Extended, News, Offer, Pull, RemoteTask, RemoteView, Report, Settle, Stale,
    Watched, WorkerEnd,
};

const NAME: &str = "remote";
/// The longest pause between two looks at the clock while jobs are out.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// A look that comes so much too late means that the whole server stood still.
const STOOD_STILL: Duration = Duration::from_secs(1);

struct Shared {
    board: Mutex<Board>,
    sink: OnceLock<Arc<dyn LaneSink>>,
    /// Something is due earlier than the timer knows.
    sooner: Condvar,
    /// Notices to stop, and leases that are over.
    notices: Notify,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Board> {
        self.board.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Called under the board's lock.
    fn send(&self, events: Vec<LaneEvent>) {
        let Some(sink) = self.sink.get() else {
            return;
        };
        for event in events {
            sink.send(event);
        }
    }
}

/// The timer: until the lane is dropped.
fn keep_time(shared: &Shared, gone: &Mutex<bool>) {
    let is_gone = || *gone.lock().unwrap_or_else(PoisonError::into_inner);
    let mut board = shared.lock();
    while !is_gone() {
        let now = Instant::now();
        let mut events = Vec::new();
        let look = board.look(now, &mut events);
        shared.send(events);
        if look {
            shared.notices.notify_waiters();
        }
        let idle = board.next_due().is_none();
        let wait = board.next_due().map_or(STOOD_STILL * 3600, |due| {
            due.saturating_duration_since(now).min(LOOK_EVERY)
        });
        let waited = shared.sooner.wait_timeout(board, wait);
        board = waited.unwrap_or_else(PoisonError::into_inner).0;
        let late = now.elapsed().saturating_sub(wait);
        if late > STOOD_STILL && !idle {
            tracing::warn!(?late, "the server stood still: leases go on so much longer");
            board.postpone(late);
        }
    }
}

/// Workers on other machines. See the crate's page.
pub struct RemoteLane {
    infos: Vec<TaskInfo>,
    shared: Arc<Shared>,
    gone: Arc<Mutex<bool>>,
    timer: Mutex<Option<JoinHandle<()>>>,
}

/// An asker's place; leaving it is not forgotten, however the asker goes.
struct Place<'a> {
    shared: &'a Shared,
    pull: u64,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.shared.lock().leave(self.pull);
    }
}

impl RemoteLane {
    pub fn new(tasks: Vec<RemoteTask>) -> Self {
        Self {
            infos: tasks.iter().map(|task| task.info.clone()).collect(),
            shared: Arc::new(Shared {
                board: Mutex::new(Board::new(tasks)),
                sink: OnceLock::new(),
                sooner: Condvar::new(),
                notices: Notify::new(),
            }),
            gone: Arc::default(),
            timer: Mutex::default(),
        }
    }

    /// Waits for work, at most `within`; empty if there was none. Each offer must be confirmed by
    /// [`RemoteLane::extend`] within [`crate::CONFIRM_WITHIN`], before the work begins. Dropped
    /// while it waits, it leaves what it was about to be given in line.
    pub async fn claim(&self, pull: &Pull, within: Duration) -> Result<Vec<Offer>, ClaimRefusal> {
        let wake = Arc::new(Notify::new());
        let place = {
            let mut board = self.shared.lock();
            let pull = board.ask(pull, Arc::clone(&wake))?;
            self.shared.send(vec![LaneEvent::Wanted]);
            Place {
                shared: &self.shared,
                pull,
            }
        };
        let until = tokio::time::Instant::now() + within;
        loop {
            let woken = tokio::time::timeout_at(until, wake.notified()).await;
            let mut board = self.shared.lock();
            if let Some(offers) = board.take(place.pull, Instant::now()) {
                drop(board);
                self.shared.sooner.notify_all();
                return Ok(offers);
            }
            if board.is_closed() {
                drop(board);
                return Err(ClaimRefusal::Closed);
            }
            if woken.is_err() {
                return Ok(Vec::new());
            }
        }
    }

    /// A sign of life. The first one confirms the offer, and only then may the work begin.
    pub fn extend(&self, job: JobId, lease: Lease, news: &News) -> Result<Extended, Stale> {
        let mut events = Vec::new();
        let mut board = self.shared.lock();
        let extended = board.extend(job, lease, news, Instant::now(), &mut events);
        self.shared.send(events);
        if extended.is_ok() {
            self.tell(job, lease, news);
        }
        drop(board);
        extended
    }

    /// What only those hear who listen now.
    fn tell(&self, job: JobId, lease: Lease, news: &News) {
        let Some(sink) = self.shared.sink.get().filter(|sink| sink.listens(job)) else {
            return;
        };
        if let Some(data) = news.log.clone() {
            sink.send(LaneEvent::Log { job, lease, data });
        }
        if let Some(data) = news.partial.clone() {
            sink.send(LaneEvent::Partial { job, lease, data });
        }
    }

    /// Keeps a place in the work for the job's next attempt; on disk when it answers. JSON, at most
    /// 64 KiB.
    pub async fn checkpoint(
        &self,
        job: JobId,
        lease: Lease,
        data: Bytes,
    ) -> Result<(), CheckpointError> {
        let (tell, told) = oneshot::channel();
        let reply = CheckpointReply::new(move |kept| {
            let _ = tell.send(kept); // its worker hung up
        });
        {
            let board = self.shared.lock();
            if board.notice(job, lease, Instant::now()).is_err() {
                return Err(CheckpointError::Stale);
            }
            self.shared.send(vec![LaneEvent::Checkpoint {
                job,
                lease,
                data,
                reply,
            }]);
        }
        told.await.unwrap_or(Err(CheckpointError::Nobody))
    }

    /// Extends every lease that it names, then waits until one of them must stop or is over, at
    /// most `within`.
    pub async fn watch(&self, leases: &[(JobId, Lease)], within: Duration) -> Watched {
        let until = tokio::time::Instant::now() + within;
        for (job, lease) in leases {
            let _ = self.extend(*job, *lease, &News::default()); // told below
        }
        loop {
            let called = self.shared.notices.notified();
            tokio::pin!(called);
            called.as_mut().enable();
            let watched = self.watched(leases);
            if !watched.is_empty() || tokio::time::timeout_at(until, called).await.is_err() {
                return watched;
            }
        }
    }

    fn watched(&self, leases: &[(JobId, Lease)]) -> Watched {
        let now = Instant::now();
        let board = self.shared.lock();
        let mut watched = Watched::default();
        for (job, lease) in leases {
            match board.notice(*job, *lease, now) {
                Ok(notice) => watched.stop.extend(notice),
                Err(Stale) => watched.gone.push((*job, *lease)),
            }
        }
        watched
    }

    /// Ends an attempt. It is on record once the runtime has committed it, not before.
    pub fn settle(
        &self,
        job: JobId,
        lease: Lease,
        end: WorkerEnd,
        report: &Report,
    ) -> Result<Settle, Stale> {
        let mut events = Vec::new();
        let mut board = self.shared.lock();
        let settled = board.settle(job, lease, end, report, Instant::now(), &mut events);
        self.shared.send(events);
        drop(board);
        settled
    }

    /// Jobs that workers hold or were just offered.
    pub fn held(&self) -> usize {
        self.shared.lock().held()
    }

    pub fn view(&self) -> RemoteView {
        self.shared.lock().view()
    }
}

impl Lane for RemoteLane {
    fn name(&self) -> &str {
        NAME
    }

    fn tasks(&self) -> &[TaskInfo] {
        &self.infos
    }

    fn slots(&self) -> Slots {
        Slots {
            running: self.shared.lock().slots() as u16,
            ahead: 0,
        }
    }

    fn demand(&self) -> Option<Vec<Demand>> {
        Some(self.shared.lock().demand())
    }

    /// A worker that cannot reach its server any more may work until its lease runs out.
    fn outlives(&self, task: &TaskName) -> Duration {
        let board = self.shared.lock();
        let task = board.task(task);
        task.map_or(Duration::ZERO, |task| task.lease.max(task.grace))
    }

    fn open(&self, sink: Arc<dyn LaneSink>) -> Result<(), LaneOpenError> {
        let error = |message: String| LaneOpenError {
            lane: NAME.into(),
            message,
        };
        if self.shared.sink.set(sink).is_err() {
            return Err(error("it is open already".into()));
        }
        let (shared, gone) = (Arc::clone(&self.shared), Arc::clone(&self.gone));
        let timer = std::thread::Builder::new()
            .name("offloop-remote".into())
            .spawn(move || keep_time(&shared, &gone))
            .map_err(|cause| error(format!("the system refuses to start its thread: {cause}")))?;
        *self.timer.lock().unwrap_or_else(PoisonError::into_inner) = Some(timer);
        Ok(())
    }

    fn start(&self, work: Vec<Work>) {
        let mut board = self.shared.lock();
        let events = board.start(work, Instant::now());
        self.shared.send(events);
        drop(board);
        self.shared.sooner.notify_all();
    }

    fn stop(&self, lease: Lease, reason: StopReason) {
        let mut events = Vec::new();
        let mut board = self.shared.lock();
        let look = board.stop(lease, reason, Instant::now(), &mut events);
        self.shared.send(events);
        drop(board);
        if look {
            self.shared.notices.notify_waiters();
            self.shared.sooner.notify_all();
        }
    }

    fn close(&self) {
        let mut board = self.shared.lock();
        let events = board.close(Instant::now());
        self.shared.send(events);
    }

    /// Workers cannot be ended from here: what they hold is put off until their leases have run out.
    fn terminate(&self, _within: Duration) -> Vec<Lease> {
        self.close();
        let mut events = Vec::new();
        let mut board = self.shared.lock();
        board.terminate(Instant::now(), &mut events);
        self.shared.send(events);
        Vec::new()
    }

    fn status(&self) -> LaneStatus {
        let board = self.shared.lock();
        LaneStatus {
            running: board.running() as u32,
            queued: board.queued() as u32,
            stuck: 0,
            executors: board.view().workers.len() as u32,
            head_age: board.head_age(Instant::now()),
            late: board.late(),
        }
    }
}

impl Drop for RemoteLane {
    fn drop(&mut self) {
        self.close();
        *self.gone.lock().unwrap_or_else(PoisonError::into_inner) = true;
        // Under the board's lock: the timer either sees that the lane is gone, or waits already.
        drop(self.shared.lock());
        self.shared.sooner.notify_all();
        let timer = self
            .timer
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(timer) = timer {
            let _ = timer.join(); // a panic was reported by the hook
        }
    }
}

impl std::fmt::Debug for RemoteLane {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RemoteLane")
            .field("tasks", &self.infos)
            .finish_non_exhaustive()
    }
}
