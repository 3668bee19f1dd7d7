//! What the lane, its threads and its watch share: the lock, the sink, and the steps that need both.
//!
//! Must never: send an event, wake a thread or drop a job's values while it holds the lock.

use std::sync::{Arc, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use offloop_job::{Lease, LogTail, Outcome, StopReason, Usage};
use offloop_lane::{
    Ended, Gone, LaneEvent, LaneSink, Proof, contained, drop_quietly, not_begun, unstarted,
};

use crate::builder::CpuLaneBuilder;
use crate::line::Queued;
use crate::pulse::SeatSink;
use crate::state::{Hopeless, State};
use crate::sync::{AtomicBool, Builder, Condvar, Mutex, MutexGuard, Ordering, Thread};
use crate::tasks::Tasks;
use crate::{inside, worker};

/// On cache lines of its own: whoever spins on one field must not slow the lock of another.
#[repr(align(128))]
pub(crate) struct Apart<T>(pub(crate) T);

pub(crate) struct Shared {
    /// Its address is the lane's identity for [`inside`].
    pub(crate) name: Arc<str>,
    pub(crate) threads: u16,
    pub(crate) ahead: u16,
    pub(crate) grace: Duration,
    pub(crate) nice: u8,
    pub(crate) spin: Duration,
    pub(crate) tasks: Tasks,
    epoch: Instant,
    pub(crate) sink: OnceLock<Arc<dyn LaneSink>>,
    state: Apart<Mutex<State>>,
    /// Set for the thread that spins: there is work, or the end.
    pub(crate) call: Apart<AtomicBool>,
    pub(crate) watch_call: Condvar,
    /// A thread left.
    pub(crate) quiet: Condvar,
}

impl Shared {
    pub(crate) fn new(from: CpuLaneBuilder, now: Instant) -> Self {
        let spin = from.spin_for();
        Self {
            name: from.name,
            threads: from.threads,
            ahead: from.ahead,
            grace: from.grace,
            nice: from.nice,
            spin,
            tasks: from.handlers,
            epoch: now,
            sink: OnceLock::new(),
            state: Apart(Mutex::new(State::new(now, from.threads, from.ageing))),
            call: Apart(AtomicBool::new(false)),
            watch_call: Condvar::new(),
            quiet: Condvar::new(),
        }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn wait_watch<'a>(
        &self,
        state: MutexGuard<'a, State>,
        most: Duration,
    ) -> MutexGuard<'a, State> {
        let waited = self.watch_call.wait_timeout(state, most);
        waited.unwrap_or_else(PoisonError::into_inner).0
    }

    /// A sink that panics breaks its promise; it does not take a thread of the lane with it.
    pub(crate) fn send(&self, event: LaneEvent) {
        if let Some(sink) = self.sink.get() {
            let _ = contained(|| {
                sink.send(event);
                Ok(())
            });
        }
    }

    /// Starts a thread on a new seat.
    pub(crate) fn add_thread(self: &Arc<Self>) -> std::io::Result<()> {
        let Some(sink) = self.sink.get() else {
            return Ok(());
        };
        let pulse = Arc::new(SeatSink::new(sink.clone(), self.epoch));
        let mut state = self.lock();
        let seat = state.free_seat();
        let name = format!("offloop-{}-{seat}", self.name);
        let (shared, news, title) = (self.clone(), pulse.clone(), name.clone());
        // Started under the lock: the seat is there before the thread looks for it.
        let handle = Builder::new().name(name).spawn(move || {
            inside::enter(&shared.name);
            let tid = rustix::thread::gettid().as_raw_nonzero().get();
            shared.lock().seats[seat].tid = tid;
            worker::run(&shared, seat, &title, &news);
        })?;
        state.seats[seat].thread = Some(handle.thread().clone());
        state.seats[seat].pulse = Some(pulse);
        state.alive += 1;
        Ok(())
    }

    /// Puts a new thread beside one that does not listen. False: the system refused, and
    /// `trouble` says so.
    pub(crate) fn replace(self: &Arc<Self>, seat: usize) -> bool {
        let started = self.add_thread();
        let mut state = self.lock();
        if let Err(error) = started {
            state.start_error = Some(error.to_string().into());
            return false;
        }
        state.start_error = None;
        let called = state.stand_in(seat);
        drop(state);
        wake(called.into_iter().flatten());
        true
    }

    pub(crate) fn note_cpu_start(&self, seat: usize, lease: Lease, used: Duration) {
        let mut state = self.lock();
        if let Some(running) = state.seats[seat].running.as_mut()
            && running.work.lease == lease
        {
            running.cpu_from = Some(used);
        }
    }

    /// A thread's last word.
    pub(crate) fn left(&self, seat: usize) {
        let mut state = self.lock();
        let called = state.leave(seat);
        drop(state);
        self.call_spinner();
        wake(called);
        self.quiet.notify_all();
        self.watch_call.notify_one();
    }

    /// Tells the thread that spins, if one does, to look at the lines.
    pub(crate) fn call_spinner(&self) {
        self.call.0.store(true, Ordering::Release);
    }

    /// Work that ends without having begun.
    pub(crate) fn never_started(&self, entry: Queued, now: Instant, outcome: Outcome) {
        let (job, lease) = (entry.work.job, entry.work.lease);
        let queued = now.saturating_duration_since(entry.since);
        // The payload is dropped before the answer goes out: its destructor is its owner's code.
        drop_quietly(entry);
        self.send(LaneEvent::Ended(Box::new(Ended {
            job,
            lease,
            outcome,
            executor: "".into(),
            queued,
            usage: Usage::default(),
            log: LogTail::default(),
            gone: Gone::proven(Proof::NeverStarted),
        })));
    }

    /// Answers for work that is not begun because of its deadline.
    pub(crate) fn refuse(&self, hopeless: Hopeless, now: Instant) {
        let Hopeless { entry, typical } = hopeless;
        let waited = now.saturating_duration_since(entry.since);
        let outcome = not_begun(&entry.work, waited, typical, now);
        self.never_started(entry, now, outcome);
    }

    /// No more work: what waits is handed back.
    pub(crate) fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        let left = state.lines.drain();
        drop(state);
        let now = Instant::now();
        for entry in left {
            self.never_started(entry, now, unstarted(StopReason::Shutdown));
        }
    }

    /// No more work, every running job asked, free threads leave.
    pub(crate) fn end(&self) {
        self.close();
        let mut state = self.lock();
        state.ask_all(StopReason::Shutdown, Instant::now());
        let called = state.call_everyone();
        drop(state);
        self.call_spinner();
        self.watch_call.notify_one();
        wake(called);
    }
}

pub(crate) fn wake(threads: impl IntoIterator<Item = Thread>) {
    for thread in threads {
        thread.unpark();
    }
}
