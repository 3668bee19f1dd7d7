//! What the lane's one mutex guards: ten lines of waiting jobs, and a seat for each thread.
//!
//! No I/O, no clock, no call into a task or a sink happens in here: holds are short.

use std::collections::VecDeque;
use std::sync::Arc;
use std::thread::Thread;
use std::time::{Duration, Instant};

use offloop_job::limits::PRIORITY_MAX;
use offloop_job::{FailureClass, Lease, StopReason};
use offloop_lane::{Overrun, StopToken, Stopped, Work};

use crate::pulse::SeatSink;

const LINES: usize = PRIORITY_MAX as usize + 1;
/// How long the watch sleeps when no job needs it earlier.
const WATCH_IDLE: Duration = Duration::from_secs(60);

/// A job in line.
#[derive(Debug)]
pub(crate) struct Queued {
    pub(crate) work: Arc<Work>,
    pub(crate) since: Instant,
}

/// A job on a thread.
#[derive(Debug)]
pub(crate) struct Running {
    pub(crate) work: Arc<Work>,
    pub(crate) token: StopToken,
    pub(crate) started: Instant,
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
    /// Another thread took its place: it leaves after its job.
    pub(crate) replaced: bool,
}

#[derive(Debug)]
pub(crate) struct State {
    lines: [VecDeque<Queued>; LINES],
    /// Bit n: line n is not empty.
    filled: u16,
    pub(crate) queued: usize,
    pub(crate) seats: Vec<Seat>,
    /// Most recently parked on top: its cache is warm.
    sleepers: Vec<usize>,
    /// Called, and not yet at the lines.
    waking: usize,
    pub(crate) busy: usize,
    pub(crate) stuck: usize,
    pub(crate) replacements: usize,
    pub(crate) alive: usize,
    pub(crate) closed: bool,
    /// Threads leave when they are free.
    pub(crate) ending: bool,
    /// The watch sleeps until here unless it is called.
    pub(crate) watch_until: Instant,
}

impl State {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            lines: Default::default(),
            filled: 0,
            queued: 0,
            seats: Vec::new(),
            sleepers: Vec::new(),
            waking: 0,
            busy: 0,
            stuck: 0,
            replacements: 0,
            alive: 0,
            closed: false,
            ending: false,
            watch_until: now,
        }
    }

    pub(crate) fn push(&mut self, entry: Queued) {
        let line = usize::from(entry.work.priority.min(PRIORITY_MAX));
        self.lines[line].push_back(entry);
        self.filled |= 1 << line;
        self.queued += 1;
    }

    fn pop(&mut self) -> Option<Queued> {
        let line = self.filled.trailing_zeros() as usize;
        let entry = self.lines.get_mut(line)?.pop_front()?;
        self.queued -= 1;
        if self.lines[line].is_empty() {
            self.filled &= !(1 << line);
        }
        Some(entry)
    }

    /// Takes a job out of its line.
    pub(crate) fn remove(&mut self, lease: Lease) -> Option<Queued> {
        for (number, line) in self.lines.iter_mut().enumerate() {
            let Some(at) = line.iter().position(|entry| entry.work.lease == lease) else {
                continue;
            };
            let entry = line.remove(at);
            self.queued -= 1;
            if line.is_empty() {
                self.filled &= !(1 << number);
            }
            return entry;
        }
        None
    }

    /// Empties all lines.
    pub(crate) fn drain(&mut self) -> Vec<Queued> {
        self.filled = 0;
        self.queued = 0;
        self.lines.iter_mut().flat_map(std::mem::take).collect()
    }

    /// Threads to call so that each waiting job has one on its way, as far as there are any.
    pub(crate) fn call_sleepers(&mut self) -> Vec<Thread> {
        let wanted = self.queued.saturating_sub(self.waking);
        let count = wanted.min(self.sleepers.len());
        let mut called = Vec::new(); // no allocation while it stays empty
        for _ in 0..count {
            let Some(seat) = self.sleepers.pop() else {
                break;
            };
            self.seats[seat].parked = false;
            self.waking += 1;
            called.extend(self.seats[seat].thread.clone());
        }
        called
    }

    /// Calls all of them, to make them leave.
    pub(crate) fn call_everyone(&mut self) -> Vec<Thread> {
        self.ending = true;
        for seat in std::mem::take(&mut self.sleepers) {
            self.seats[seat].parked = false;
            self.waking += 1;
        }
        self.seats.iter().filter_map(|s| s.thread.clone()).collect()
    }

    /// Calls one thread, if it sleeps.
    pub(crate) fn call_seat(&mut self, seat: usize) -> Vec<Thread> {
        if !std::mem::take(&mut self.seats[seat].parked) {
            return Vec::new();
        }
        self.sleepers.retain(|sleeper| *sleeper != seat);
        self.waking += 1;
        self.seats[seat].thread.clone().into_iter().collect()
    }

    /// A seat that is free, or a new one.
    pub(crate) fn free_seat(&mut self) -> usize {
        let free = self.seats.iter().position(|seat| seat.thread.is_none());
        free.unwrap_or_else(|| {
            self.seats.push(Seat::default());
            self.seats.len() - 1
        })
    }

    pub(crate) fn park(&mut self, seat: usize) {
        self.seats[seat].parked = true;
        self.sleepers.push(seat);
    }

    pub(crate) fn awake(&mut self) {
        self.waking -= 1;
    }

    /// Frees a seat of its job.
    pub(crate) fn finish(&mut self, seat: usize) -> Option<Running> {
        let running = self.seats[seat].running.take()?;
        self.busy -= 1;
        if running.stuck {
            self.stuck -= 1;
        }
        Some(running)
    }

    /// The next job for a seat. True: the watch sleeps too long for it.
    pub(crate) fn begin(&mut self, seat: usize, now: Instant) -> Option<(Begun, bool)> {
        let entry = self.pop()?;
        let token = StopToken::new();
        self.seats[seat].running = Some(Running {
            work: entry.work.clone(),
            token: token.clone(),
            started: now,
            stop_at: None,
            overrun: None,
            cpu_from: None,
            stuck: false,
        });
        self.busy += 1;
        let limits = &entry.work.limits;
        let first = [limits.cpu, limits.stall]
            .into_iter()
            .flatten()
            .fold(limits.timeout, Duration::min);
        let begun = Begun {
            work: entry.work,
            token,
            queued: now.saturating_duration_since(entry.since),
        };
        Some((begun, self.earlier(now.checked_add(first))))
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

    /// One round of the watch: stops what is over a limit and marks what is stuck. Answers when to
    /// look again.
    pub(crate) fn inspect(&mut self, now: Instant, grace: Duration, cpu_of: CpuOf) -> Instant {
        let mut next = now + WATCH_IDLE;
        for seat in &mut self.seats {
            let (tid, pulse) = (seat.tid, &seat.pulse);
            let Some(running) = seat.running.as_mut() else {
                continue;
            };
            if running.stop_at.is_none() {
                match check_limits(running, now, pulse.as_deref(), || cpu_of(tid)) {
                    Ok(due) => {
                        next = due.map_or(next, |due| next.min(due));
                        continue;
                    }
                    Err(overrun) => {
                        let class: FailureClass = overrun.class;
                        running.overrun = Some(overrun);
                        Self::ask(running, Stopped::Limit(class), now);
                    }
                }
            }
            let stuck_at = running.stop_at.and_then(|at| at.checked_add(grace));
            match stuck_at {
                Some(at) if at > now => next = next.min(at),
                Some(_) if !running.stuck => {
                    running.stuck = true;
                    self.stuck += 1;
                }
                _ => {}
            }
        }
        self.watch_until = next;
        next
    }
}

/// Reads the processor time of a thread.
pub(crate) type CpuOf = fn(i32) -> Option<Duration>;

/// What a thread takes along.
#[derive(Debug)]
pub(crate) struct Begun {
    pub(crate) work: Arc<Work>,
    pub(crate) token: StopToken,
    pub(crate) queued: Duration,
}

/// The next time at which a limit may be passed, or the limit that was.
fn check_limits(
    running: &Running,
    now: Instant,
    pulse: Option<&SeatSink>,
    cpu: impl Fn() -> Option<Duration>,
) -> Result<Option<Instant>, Overrun> {
    let limits = &running.work.limits;
    let ran = now.saturating_duration_since(running.started);
    if ran >= limits.timeout {
        return Err(Overrun::timeout(limits.timeout, ran));
    }
    let mut due = running.started.checked_add(limits.timeout);
    let mut sooner = |at: Option<Instant>| {
        due = match (due, at) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
    };
    if let Some(limit) = limits.stall {
        let since = pulse
            .and_then(|pulse| pulse.progress_of(running.work.lease))
            .map_or(running.started, |at| at.max(running.started));
        let silent = now.saturating_duration_since(since);
        if silent >= limit {
            return Err(Overrun::stalled(limit, silent));
        }
        sooner(since.checked_add(limit));
    }
    if let Some(limit) = limits.cpu {
        let from = running.cpu_from.unwrap_or_default();
        let used = running
            .cpu_from
            .and_then(|_| cpu())
            .map_or(Duration::ZERO, |reading| reading.saturating_sub(from));
        if used >= limit {
            return Err(Overrun::cpu(limit, used));
        }
        // A thread cannot use processor time faster than time passes; the reading may lag a tick.
        let left = limit.saturating_sub(used);
        sooner(now.checked_add(left.max(Duration::from_millis(2))));
    }
    Ok(due)
}
