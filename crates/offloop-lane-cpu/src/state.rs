//! What the lane's one mutex guards: the lines of waiting jobs, and a seat for each thread.
//!
//! The protocol of sleep and wake, model-checked by `tests/model.rs`. At most one thread searches:
//! it spins, or was called and is on its way. Whoever leaves startable work behind while nobody
//! searches calls the thread that parked last, and that one calls the next. So the rule at the end
//! of each hold of the lock is: **work that could start and a parked thread mean that one searches**.
//!
//! Must never: do I/O, read the clock, or call into a task or a sink. Holds are short.

use std::sync::Arc;
use std::time::{Duration, Instant};

use offloop_job::{Lease, StopReason};
use offloop_lane::{Overrun, StopToken, Stopped, TypicalRun, Work, cannot_be_done};

use crate::line::{Lines, Queued};
use crate::pulse::SeatSink;
use crate::sync::{Step, Thread, takes};
use crate::tasks::Tasks;
use crate::wide::Crew;

/// A job on a thread.
#[derive(Debug)]
pub(crate) struct Running {
    pub(crate) work: Arc<Work>,
    pub(crate) token: StopToken,
    pub(crate) started: Instant,
    /// Processors that it was given, 1 to the lane's.
    pub(crate) cores: u16,
    /// The threads of a wide job.
    pub(crate) crew: Option<Arc<Crew>>,
    /// When a stop was first asked.
    pub(crate) stop_at: Option<Instant>,
    pub(crate) overrun: Option<Overrun>,
    /// The thread's processor time when the job began; only where there is a limit.
    pub(crate) cpu_from: Option<Duration>,
    pub(crate) stuck: bool,
}

/// The place of one thread.
#[derive(Debug, Default)]
pub(crate) struct Seat {
    pub(crate) thread: Option<Thread>,
    pub(crate) tid: i32,
    pub(crate) pulse: Option<Arc<SeatSink>>,
    pub(crate) running: Option<Running>,
    /// On the stack of sleepers, and nobody has called it yet.
    pub(crate) parked: bool,
    /// Processors that another thread stands in for: it leaves after its job. 0 is none.
    pub(crate) replaced: u16,
}

#[derive(Debug)]
pub(crate) struct State {
    pub(crate) lines: Lines,
    pub(crate) seats: Vec<Seat>,
    /// Most recently parked on top: its cache is warm.
    sleepers: Vec<usize>,
    /// The one that looks for work without holding any: it spins, or was called.
    searcher: Option<usize>,
    /// Processors that may be busy at a time.
    processors: u16,
    /// Those of running jobs whose thread was not replaced.
    used: u16,
    /// Those of replaced threads that have not left: the bound on what deaf jobs can cost.
    pub(crate) stood_in: u16,
    pub(crate) busy: usize,
    pub(crate) stuck: usize,
    pub(crate) alive: usize,
    pub(crate) closed: bool,
    /// Threads leave when they are free.
    pub(crate) ending: bool,
    /// Work that ended after its deadline.
    pub(crate) late: u64,
    /// Why a replacement could not be started, until one can.
    pub(crate) start_error: Option<Box<str>>,
    /// The watch sleeps until here unless it is called.
    pub(crate) watch_until: Instant,
}

/// Work that is not begun because of its deadline.
#[derive(Debug)]
pub(crate) struct Hopeless {
    pub(crate) entry: Queued,
    pub(crate) typical: Option<Duration>,
}

/// What one look at the lines gave.
#[derive(Debug, Default)]
pub(crate) struct Taken {
    pub(crate) begun: Option<Begun>,
    pub(crate) hopeless: Vec<Hopeless>,
    /// The watch sleeps too long for this job.
    pub(crate) call_watch: bool,
}

/// What a thread takes along.
#[derive(Debug)]
pub(crate) struct Begun {
    pub(crate) work: Arc<Work>,
    pub(crate) token: StopToken,
    pub(crate) queued: Duration,
    pub(crate) cores: u16,
    pub(crate) crew: Option<Arc<Crew>>,
}

impl State {
    pub(crate) fn new(now: Instant, processors: u16, ageing: Duration) -> Self {
        Self {
            lines: Lines::new(ageing),
            seats: Vec::new(),
            sleepers: Vec::new(),
            searcher: None,
            processors,
            used: 0,
            stood_in: 0,
            busy: 0,
            stuck: 0,
            alive: 0,
            closed: false,
            ending: false,
            late: 0,
            start_error: None,
            watch_until: now,
        }
    }

    /// Processors for a job: what it asks for, as far as the lane has them.
    fn cores(&self, work: &Work) -> u16 {
        work.cores.clamp(1, self.processors)
    }

    /// The job whose turn it is has room. One that has none holds the freed processors for itself:
    /// nothing that comes after it starts before it.
    pub(crate) fn startable(&self) -> bool {
        let head = self.lines.head();
        head.is_some_and(|head| self.used + self.cores(&head.work) <= self.processors)
    }

    /// The thread to wake so that startable work has one that searches. At most one: it calls on.
    #[must_use = "a thread that is called must be woken"]
    pub(crate) fn call_next(&mut self) -> Option<Thread> {
        if self.searcher.is_some() || self.sleepers.is_empty() || !self.startable() {
            return None;
        }
        let seat = self.sleepers.pop()?;
        self.seats[seat].parked = false;
        self.searcher = Some(seat);
        self.seats[seat].thread.clone()
    }

    /// Calls all of them, to make them leave.
    pub(crate) fn call_everyone(&mut self) -> Vec<Thread> {
        self.ending = true;
        for seat in std::mem::take(&mut self.sleepers) {
            self.seats[seat].parked = false;
        }
        self.seats.iter().filter_map(|s| s.thread.clone()).collect()
    }

    /// Calls one thread, if it sleeps.
    fn call_seat(&mut self, seat: usize) -> Option<Thread> {
        if !std::mem::take(&mut self.seats[seat].parked) {
            return None;
        }
        self.sleepers.retain(|sleeper| *sleeper != seat);
        self.seats[seat].thread.clone()
    }

    /// A seat that is free, or a new one.
    pub(crate) fn free_seat(&mut self) -> usize {
        let free = self.seats.iter().position(|seat| seat.thread.is_none());
        free.unwrap_or_else(|| {
            self.seats.push(Seat::default());
            self.seats.len() - 1
        })
    }

    /// Makes this thread the one that searches. False: another one does.
    pub(crate) fn search(&mut self, seat: usize) -> bool {
        self.searcher.get_or_insert(seat);
        self.searcher == Some(seat)
    }

    pub(crate) fn end_search(&mut self, seat: usize) {
        if self.searcher == Some(seat) {
            self.searcher = None;
        }
    }

    pub(crate) fn park(&mut self, seat: usize) {
        self.seats[seat].parked = true;
        self.sleepers.push(seat);
    }

    /// Another thread stands in for this seat's, which leaves after its job. Answers threads to wake.
    pub(crate) fn stand_in(&mut self, seat: usize) -> [Option<Thread>; 2] {
        let running = self.seats[seat].running.as_ref();
        let cores = running.map_or(1, |running| running.cores);
        if running.is_some() {
            self.used -= cores;
        }
        self.seats[seat].replaced = cores;
        self.stood_in += cores;
        // It may have come back in between, and sleep: it leaves all the same, as one too many.
        [self.call_seat(seat), self.call_next()]
    }

    /// The first stuck job whose processors may be stood in for.
    pub(crate) fn deaf(&self) -> Option<usize> {
        let room = self.processors - self.stood_in.min(self.processors);
        self.seats.iter().position(|seat| {
            let stuck = seat.running.as_ref().filter(|job| job.stuck);
            seat.replaced == 0 && stuck.is_some_and(|job| job.cores <= room)
        })
    }

    /// A thread's last step.
    pub(crate) fn leave(&mut self, seat: usize) -> Option<Thread> {
        self.alive -= 1;
        self.stood_in -= self.seats[seat].replaced;
        self.seats[seat] = Seat::default();
        if takes(Step::LeaveTheSearch) {
            self.end_search(seat);
        }
        self.call_next()
    }

    /// Frees a seat of its job.
    pub(crate) fn finish(&mut self, seat: usize, now: Instant) -> Option<Running> {
        let running = self.seats[seat].running.take()?;
        self.busy -= 1;
        if self.seats[seat].replaced == 0 {
            self.used -= running.cores;
        }
        if running.stuck {
            self.stuck -= 1;
        }
        if running.work.deadline.is_some_and(|at| now > at) {
            self.late += 1;
        }
        Some(running)
    }

    /// The next job for a seat, and what is not worth beginning before it.
    pub(crate) fn take(&mut self, seat: usize, now: Instant, tasks: &Tasks) -> Taken {
        let mut taken = Taken::default();
        while let Some(head) = self.lines.head() {
            let typical = tasks.get(&head.work.task).map(|task| &task.typical);
            if cannot_be_done(&head.work, typical, now) {
                let typical = typical.and_then(TypicalRun::get);
                let entry = self.lines.take_head();
                taken
                    .hopeless
                    .extend(entry.map(|entry| Hopeless { entry, typical }));
                continue;
            }
            if self.startable()
                && let Some(entry) = self.lines.take_head()
            {
                self.begin(seat, entry, now, &mut taken);
            }
            break;
        }
        taken
    }

    fn begin(&mut self, seat: usize, entry: Queued, now: Instant, taken: &mut Taken) {
        let token = StopToken::new();
        let cores = self.cores(&entry.work);
        let crew = (cores > 1).then(Arc::<Crew>::default);
        self.seats[seat].running = Some(Running {
            work: entry.work.clone(),
            token: token.clone(),
            started: now,
            cores,
            crew: crew.clone(),
            stop_at: None,
            overrun: None,
            cpu_from: None,
            stuck: false,
        });
        self.busy += 1;
        self.used += cores;
        self.end_search(seat);
        let limits = &entry.work.limits;
        let first = [limits.cpu, limits.stall]
            .into_iter()
            .flatten()
            .fold(limits.timeout, Duration::min);
        taken.call_watch = self.earlier(now.checked_add(first));
        taken.begun = Some(Begun {
            queued: now.saturating_duration_since(entry.since),
            work: entry.work,
            token,
            cores,
            crew,
        });
    }

    /// What must hold whenever nobody holds the lock.
    #[cfg(test)]
    #[allow(dead_code, reason = "the model check compiles this file and calls it")]
    pub(crate) fn flaw(&self) -> Option<&'static str> {
        let running = || self.seats.iter().filter(|seat| seat.running.is_some());
        let cores = |seats: &mut dyn Iterator<Item = &Seat>| -> u16 {
            seats
                .filter_map(|seat| seat.running.as_ref())
                .map(|job| job.cores)
                .sum()
        };
        let parked = self.seats.iter().filter(|seat| seat.parked).count();
        let mut sleepers = self.sleepers.clone();
        sleepers.sort_unstable();
        sleepers.dedup();
        let flaws = [
            (self.busy != running().count(), "busy is miscounted"),
            (
                self.used != cores(&mut running().filter(|seat| seat.replaced == 0)),
                "used is miscounted",
            ),
            (
                self.used > self.processors,
                "more processors used than there are",
            ),
            (
                self.stood_in > self.processors,
                "more stand-ins than processors",
            ),
            (
                sleepers.len() != parked,
                "the sleepers are not the parked ones",
            ),
            (
                self.searcher.is_some_and(|seat| self.seats[seat].parked),
                "the searcher sleeps",
            ),
            (
                !self.ending
                    && self.startable()
                    && !self.sleepers.is_empty()
                    && self.searcher.is_none(),
                "work could start, a thread sleeps, and nobody searches",
            ),
        ];
        flaws.iter().find(|flaw| flaw.0).map(|flaw| flaw.1)
    }

    /// Notes that the watch is needed at `due`. True: it must be called for that.
    pub(crate) fn earlier(&mut self, due: Option<Instant>) -> bool {
        match due {
            Some(due) if due < self.watch_until => {
                self.watch_until = due;
                true
            }
            _ => false,
        }
    }

    /// Asks the job of a seat to stop. The first wish stays.
    pub(crate) fn ask(running: &mut Running, why: Stopped, now: Instant) {
        if running.stop_at.is_none() {
            running.stop_at = Some(now);
            running.token.stop(why);
        }
    }

    /// Asks one running job. False: it is not here.
    pub(crate) fn ask_lease(&mut self, lease: Lease, reason: StopReason, now: Instant) -> bool {
        let found = self
            .seats
            .iter_mut()
            .filter_map(|seat| seat.running.as_mut())
            .find(|running| running.work.lease == lease);
        let Some(running) = found else { return false };
        Self::ask(running, Stopped::Asked(reason), now);
        true
    }

    pub(crate) fn ask_all(&mut self, reason: StopReason, now: Instant) {
        for running in self.seats.iter_mut().filter_map(|s| s.running.as_mut()) {
            Self::ask(running, Stopped::Asked(reason), now);
        }
    }
}
