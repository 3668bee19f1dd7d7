//! One lane for calls with the line before it: lets callers in, feeds the lane, hands answers out.
//!
//! Must never: hold its lock while it calls the lane or answers somebody, or give the lane more than
//! it has slots for.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use offloop_job::{Lease, Outcome, StopReason, TaskName};
use offloop_lane::{Ended, Lane, LaneEvent, LaneOpenError, LaneSink, LaneStatus, Work};
use tokio::sync::oneshot;

use super::ask::{CallSettings, Refused};
use super::line::{Admitted, CallCounts, Left, Line, Next, Task, Waiter};
use crate::admission::Pressure;

/// What a caller is told.
#[derive(Debug)]
pub(super) enum Reply {
    Ended(Arc<Ended>),
    /// Dropped at the head of the line.
    Late(Refused),
    Closed,
}

type Tell = oneshot::Sender<Reply>;

/// What a desk shows of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallLaneView {
    pub name: Box<str>,
    /// Calls that run at the same time.
    pub slots: u32,
    pub running: u32,
    pub waiting: usize,
    pub head_age: Option<Duration>,
    /// What a newcomer of the usual priority would wait.
    pub estimated_wait: Duration,
    pub pressure: Pressure,
    pub counts: CallCounts,
    pub tasks: Vec<TaskName>,
    pub status: LaneStatus,
}

#[derive(Debug)]
pub(crate) struct Desk {
    pub(super) lane: Arc<dyn Lane>,
    slots: u32,
    index: HashMap<TaskName, usize>,
    line: Mutex<Line<Tell>>,
}

#[derive(Debug)]
struct Sink(Weak<Desk>);

impl LaneSink for Sink {
    fn send(&self, event: LaneEvent) {
        // Who waits for an answer is not told of its start; notes of progress have no reader.
        if let (LaneEvent::Ended(ended), Some(desk)) = (event, self.0.upgrade()) {
            desk.ended(*ended);
        }
    }
}

/// A caller's place. Dropped before its answer, it hangs up: its work is stopped, unless others wait
/// for the same.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) desk: Arc<Desk>,
    pub(super) lease: Lease,
    waiter: u64,
    pub(super) joined: bool,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.desk.leave(self.lease, self.waiter);
    }
}

impl Desk {
    pub(super) fn new(
        lane: Arc<dyn Lane>,
        settings: &HashMap<TaskName, CallSettings>,
    ) -> Arc<Self> {
        let slots = u32::from(lane.slots().running);
        let mut index = HashMap::new();
        let mut tasks = Vec::new();
        for info in lane.tasks() {
            index.insert(info.name.clone(), tasks.len());
            let settings = settings.get(&info.name).copied().unwrap_or_default();
            tasks.push(Task::new(settings));
        }
        Arc::new(Self {
            lane,
            slots,
            index,
            line: Mutex::new(Line::new(slots, tasks)),
        })
    }

    pub(super) fn open(self: &Arc<Self>) -> Result<(), LaneOpenError> {
        self.lane.open(Arc::new(Sink(Arc::downgrade(self))))
    }

    pub(super) fn settings(&self, task: &TaskName) -> CallSettings {
        let index = self.index.get(task.as_str()).copied();
        index.map_or_else(CallSettings::default, |index| {
            self.lock().tasks[index].settings
        })
    }

    fn lock(&self) -> MutexGuard<'_, Line<Tell>> {
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Slots whose executor does not end; the lane has put another one in its place. Asked only when
    /// it could matter, since it takes the lane's lock.
    fn stuck(&self, line: &Line<Tell>) -> u32 {
        if line.serving() < self.slots {
            return 0;
        }
        self.lane.status().stuck
    }

    pub(super) fn admit(
        self: &Arc<Self>,
        work: Work,
        tell: Tell,
        roll: f64,
    ) -> Result<Place, Option<Refused>> {
        let now = Instant::now();
        let Some(&task) = self.index.get(work.task.as_str()) else {
            return Err(None);
        };
        let own = work.lease;
        let waiter = own.0;
        let mut line = self.lock();
        if line.closed {
            return Err(None);
        }
        let stuck = self.stuck(&line);
        let waiting = Waiter { id: waiter, tell };
        let admitted = line
            .admit(task, work, waiting, stuck, now, roll)
            .map_err(Some)?;
        let (lease, joined) = match admitted {
            Admitted::Alone => (own, false),
            Admitted::Joined(lease) => (lease, true),
        };
        self.feed(line, stuck, now);
        Ok(Place {
            desk: Arc::clone(self),
            lease,
            waiter,
            joined,
        })
    }

    /// Gives the lane what it has room for.
    fn feed(&self, mut line: MutexGuard<'_, Line<Tell>>, stuck: u32, now: Instant) {
        let (mut start, mut late) = (Vec::new(), Vec::new());
        while let Some(next) = line.next(stuck, now) {
            match next {
                Next::Start(work) => start.push(work),
                Next::Late { refused, waiters } => late.push((refused, waiters)),
            }
        }
        drop(line);
        if !start.is_empty() {
            let leases: Vec<_> = start.iter().map(|work| work.lease).collect();
            self.lane.start(start);
            self.stop_deserted(&leases);
        }
        for (refused, waiters) in late {
            for waiter in waiters {
                let _ = waiter.tell.send(Reply::Late(refused)); // it has left
            }
        }
    }

    /// Who left while its work was on the way to the lane asked the lane too early: it knew no such
    /// lease. So it is asked again, now that it does.
    fn stop_deserted(&self, started: &[Lease]) {
        let line = self.lock();
        let deserted = started.iter().filter(|lease| line.is_deserted(**lease));
        let deserted: Vec<_> = deserted.copied().collect();
        drop(line);
        for lease in deserted {
            self.lane.stop(lease, StopReason::Cancel);
        }
    }

    fn ended(&self, ended: Ended) {
        let completed = matches!(ended.outcome, Outcome::Completed { .. });
        let mut line = self.lock();
        let waiters = line.ended(ended.lease, ended.usage.wall, completed);
        // The next one first: the executor is idle.
        let stuck = self.stuck(&line);
        self.feed(line, stuck, Instant::now());
        let ended = Arc::new(ended);
        for waiter in waiters {
            let _ = waiter.tell.send(Reply::Ended(Arc::clone(&ended))); // it has left
        }
    }

    fn leave(&self, lease: Lease, waiter: u64) {
        if self.lock().leave(lease, waiter) == Left::Stop {
            self.lane.stop(lease, StopReason::Cancel);
        }
    }

    /// Whether the caller's run has begun.
    pub(super) fn has_begun(&self, lease: Lease) -> bool {
        self.lock().began(lease) == Some(true)
    }

    pub(super) fn pressure(&self) -> Pressure {
        let mut line = self.lock();
        let stuck = self.stuck(&line);
        line.pressure(stuck, Instant::now())
    }

    pub(super) fn view(&self) -> CallLaneView {
        let now = Instant::now();
        let status = self.lane.status();
        let priority = offloop_job::limits::PRIORITY_DEFAULT;
        let mut line = self.lock();
        CallLaneView {
            name: self.lane.name().into(),
            slots: self.slots,
            running: line.serving(),
            waiting: line.waiting(),
            head_age: line.head_age(now),
            estimated_wait: line.estimate(priority, status.stuck, now),
            pressure: line.pressure(status.stuck, now),
            counts: line.counts,
            tasks: self
                .lane
                .tasks()
                .iter()
                .map(|task| task.name.clone())
                .collect(),
            status,
        }
    }

    /// No more calls: those in line are told so, those that run go on.
    pub(super) fn close(&self) {
        let waiters = self.lock().close();
        for waiter in waiters {
            let _ = waiter.tell.send(Reply::Closed); // it has left
        }
    }

    /// Asks everything that runs to stop.
    pub(super) fn stop_all(&self) {
        for lease in self.lock().running() {
            self.lane.stop(lease, StopReason::Shutdown);
        }
    }

    pub(super) fn is_idle(&self) -> bool {
        self.lock().serving() == 0
    }
}
