//! What the writer knows without asking the file: ready order, timers, running jobs, unique keys,
//! counts. Read from the rows at start; the rows hold the truth.
//!
//! Nothing here knows an idle job by its id alone: a ready job costs 16 bytes in its line's order (32
//! with a group key), a scheduled one 24. Who needs more reads the row, which says where to look here.
//!
//! Must never: be used after a transaction failed. It is read anew.

mod flows;
mod gates;
mod groups;
mod line;
mod load;
mod names;
mod schedules;

pub(crate) use flows::{Flows, Spot};
pub(crate) use gates::Gates;
pub(crate) use groups::{FanOut, GroupRow, Groups};
pub(crate) use line::{Line, LineCounts, LineId, Picked, ReadyKey};
pub(crate) use names::{Labels, Words};
pub(crate) use schedules::{Known, Schedules};

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use offloop_job::{JobId, JobIdSource, Limit, LimitTarget, Mode, QueueName, TaskName};
use sha2::{Digest, Sha256};

use crate::tables::LiveRow;

/// A row number: [`JobId::order`].
pub(crate) type Row = u64;

/// A job that somebody runs.
#[derive(Clone, Debug)]
pub(crate) struct Running {
    pub(crate) rnd: u64,
    pub(crate) lease: u64,
    pub(crate) attempt: u16,
    pub(crate) claimed_at: u64,
    pub(crate) node: u32,
    pub(crate) line: LineId,
    pub(crate) spot: Spot,
    /// The unique key that it holds.
    pub(crate) unique: Option<UniqueHash>,
    pub(crate) cancelling: bool,
    /// Its row as the claim read it, so that its end need not read it again; the payload is shared
    /// with the executor. `None` for a job that ran before the last start.
    pub(crate) row: Option<Box<LiveRow>>,
}

/// Who holds a unique key.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Hold {
    pub(crate) id: JobId,
    /// Whatever becomes of the job; 0: by the job's state.
    pub(crate) until: u64,
}

/// Task and unique key, as 128 bits of SHA-256: a million keys take 50 MB as text.
pub(crate) type UniqueHash = u128;

pub(crate) fn unique_hash(task: &TaskName, key: &str) -> UniqueHash {
    let mut hash = Sha256::new();
    hash.update(task.as_str());
    hash.update([0]);
    hash.update(key);
    let digest = hash.finalize();
    digest
        .iter()
        .take(16)
        .fold(0, |hash, byte| (hash << 8) | u128::from(*byte))
}

/// A scheduled job: when, which, and where it goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Timer {
    due: u64,
    row: Row,
    spot: Spot,
    priority: u8,
}

/// One queue as far as it is known.
#[derive(Clone, Debug)]
pub(crate) struct Queue {
    pub(crate) name: QueueName,
    /// `None` until it is set for the first time.
    pub(crate) mode: Option<Mode>,
    /// Unfinished jobs.
    pub(crate) live: u64,
    pub(super) running: u64,
    pub(super) limit: Option<Limit>,
}

/// One task in all queues.
#[derive(Clone, Debug)]
struct Task {
    name: TaskName,
    lines: Vec<LineId>,
    running: u64,
    limit: Option<Limit>,
}

/// Lines whose counts changed, and queues whose mode did, by position; and whether a task's did.
#[derive(Debug, Default)]
pub(crate) struct Touched {
    pub(crate) lines: Vec<LineId>,
    pub(crate) queues: Vec<usize>,
    pub(crate) tasks: bool,
}

pub(crate) struct Index {
    pub(crate) lines: Vec<Line>,
    touched: Touched,
    line_ids: HashMap<QueueName, HashMap<TaskName, LineId>>,
    tasks: Vec<Task>,
    task_ids: HashMap<TaskName, usize>,
    flows: Flows,
    pub(crate) gates: Gates,
    pub(crate) queues: Vec<Queue>,
    /// Tasks whose mode was ever set.
    pub(crate) task_modes: BTreeMap<TaskName, Mode>,
    pub(crate) words: Words,
    pub(crate) labels: Labels,
    timers: BTreeSet<Timer>,
    /// Scheduled jobs whose row says so although it is due before the promoted mark.
    late: BTreeSet<Row>,
    /// Idle jobs by `expires_at`.
    expiries: BTreeSet<(u64, Row)>,
    expires_at: HashMap<Row, u64>,
    pub(crate) running: BTreeMap<Row, Running>,
    /// Jobs that left something for their next attempt, finished ones too.
    pub(crate) checkpoints: HashSet<Row>,
    unique: HashMap<UniqueHash, Hold>,
    pub(crate) groups: Groups,
    pub(crate) schedules: Schedules,
    pub(crate) ids: JobIdSource,
    pub(crate) last_lease: u64,
    /// Leases up to this one are reserved on disk.
    pub(crate) leases_reserved: u64,
    /// Rows of scheduled jobs that are due by then are ready.
    pub(crate) promoted: u64,
    pub(crate) finished_rows: u64,
    /// Largest row number that was given.
    pub(crate) last_row: Row,
    pub(crate) queue_jobs_max: u64,
}

impl Index {
    /// The line of a queue and a task, if there is one.
    pub(crate) fn line_of(&self, queue: &QueueName, task: &TaskName) -> Option<LineId> {
        self.line_ids.get(queue)?.get(task).copied()
    }

    /// Adds a line whose id is the next one.
    pub(crate) fn add_line(&mut self, queue: &QueueName, task: &TaskName) -> LineId {
        let id = LineId(self.lines.len() as u32);
        let queue_at = self.queue_at(queue);
        let task_at = self.task_at(task);
        self.lines.push(Line::new(queue_at, task.clone(), task_at));
        let of_queue = self.line_ids.entry(queue.clone()).or_default();
        of_queue.insert(task.clone(), id);
        self.tasks[task_at].lines.push(id);
        id
    }

    /// Position of a queue; it is added if it is new.
    pub(crate) fn queue_at(&mut self, name: &QueueName) -> usize {
        if let Some(at) = self.queues.iter().position(|queue| queue.name == *name) {
            return at;
        }
        self.queues.push(Queue {
            name: name.clone(),
            mode: None,
            live: 0,
            running: 0,
            limit: self
                .gates
                .table
                .get(&LimitTarget::Queue(name.clone()))
                .copied(),
        });
        self.queues.len() - 1
    }

    /// To change it: its counts are shown anew after the commit.
    pub(crate) fn line(&mut self, id: LineId) -> &mut Line {
        let line = &mut self.lines[id.0 as usize];
        if !std::mem::replace(&mut line.touched, true) {
            self.touched.lines.push(id);
        }
        line
    }

    pub(crate) fn set_queue_mode(&mut self, at: usize, mode: Mode) {
        self.queues[at].mode = Some(mode);
        self.touched.queues.push(at);
    }

    pub(crate) fn set_task_mode(&mut self, task: &TaskName, mode: Mode) {
        self.task_modes.insert(task.clone(), mode);
        self.touched.tasks = true;
    }

    pub(crate) fn task_mode(&self, task: &TaskName) -> Mode {
        if self.task_modes.is_empty() {
            return Mode::Open; // most servers; the path of every claim and insert
        }
        self.task_modes.get(task).copied().unwrap_or_default()
    }

    /// What was changed since the last call.
    pub(crate) fn take_touched(&mut self) -> Touched {
        let touched = std::mem::take(&mut self.touched);
        for line in &touched.lines {
            self.lines[line.0 as usize].touched = false;
        }
        touched
    }

    pub(crate) fn queue_of(&mut self, id: LineId) -> &mut Queue {
        let at = self.lines[id.0 as usize].queue;
        &mut self.queues[at]
    }

    pub(crate) fn task_and_queue(&self, id: LineId) -> (TaskName, QueueName) {
        let line = &self.lines[id.0 as usize];
        (line.task.clone(), self.queues[line.queue].name.clone())
    }

    /// An idle job of either kind is there now.
    pub(crate) fn add_idle(&mut self, row: Row, spot: Spot, idle: Idle, expires_at: Option<u64>) {
        match idle {
            Idle::Ready(key) => self.add_ready(spot, key, row),
            Idle::Scheduled(key) | Idle::ScheduledLate(key) => {
                self.add_scheduled(spot);
                self.timers.insert(timer(row, spot, key));
            }
        }
        if let Idle::ScheduledLate(_) = idle {
            self.late.insert(row);
        }
        self.add_expiry(row, expires_at);
    }

    /// A job that waits for others is there now.
    pub(crate) fn add_waiting(&mut self, row: Row, line: LineId, expires_at: Option<u64>) {
        self.line(line).waiting += 1;
        self.add_expiry(row, expires_at);
    }

    fn add_expiry(&mut self, row: Row, expires_at: Option<u64>) {
        if let Some(at) = expires_at {
            self.expiries.insert((at, row));
            self.expires_at.insert(row, at);
        }
    }

    /// An idle job is there no more.
    pub(crate) fn remove_idle(&mut self, row: Row, spot: Spot, key: ReadyKey) {
        self.forget_expiry(row);
        if self.remove_ready(spot, key, row) {
            return;
        }
        self.late.remove(&row);
        if self.timers.remove(&timer(row, spot, key)) {
            self.remove_scheduled(spot);
        }
    }

    /// Which kind of scheduled a job is that falls due at `due`.
    pub(crate) fn scheduled(&self, key: ReadyKey) -> Idle {
        if key.due() <= self.promoted {
            Idle::ScheduledLate(key)
        } else {
            Idle::Scheduled(key)
        }
    }

    pub(crate) fn forget_expiry(&mut self, row: Row) {
        if let Some(at) = self.expires_at.remove(&row) {
            self.expiries.remove(&(at, row));
        }
    }

    /// Moves what is due to the ready order: how many, and the rows that must be told so.
    pub(crate) fn promote(&mut self, now: u64) -> (u32, Vec<Row>) {
        let mut jobs = 0;
        let mut late = Vec::new();
        while let Some(first) = self.timers.first().copied() {
            if first.due > now {
                break;
            }
            self.timers.pop_first();
            if self.late.remove(&first.row) {
                late.push(first.row);
            }
            self.remove_scheduled(first.spot);
            let key = ReadyKey::new(first.priority, first.due);
            self.add_ready(first.spot, key, first.row);
            jobs += 1;
        }
        self.promoted = self.promoted.max(now);
        (jobs, late)
    }

    pub(crate) fn next_due(&self) -> Option<u64> {
        self.timers.first().map(|timer| timer.due)
    }

    /// Rows of idle jobs that are too late, the latest first, at most `limit`, in age order.
    pub(crate) fn overdue(&self, now: u64, limit: usize) -> Vec<Row> {
        let late = self.expiries.range(..(now, 0)).map(|entry| entry.1);
        let mut rows: Vec<Row> = late.take(limit).collect();
        rows.sort_unstable();
        rows
    }

    /// Takes the best ready jobs of these tasks out of their lines, where they are plain
    /// ([`Index::is_plain`]).
    pub(crate) fn pick(&mut self, tasks: &[TaskName], limit: usize, now: u64) -> Vec<Picked> {
        let wanted = self.wanted(tasks);
        let expires_at = &self.expires_at;
        let groups = &self.groups;
        let is_late =
            |row: Row| expires_at.get(&row).is_some_and(|at| *at < now) || groups.is_doomed(row);
        let picked = line::pick(&mut self.lines, wanted, limit, is_late);
        for picked in &picked {
            self.use_turn(picked.spot, 1);
        }
        picked
    }

    /// Lines that hold ready jobs of these tasks, each once, and may give them out.
    fn wanted(&self, tasks: &[TaskName]) -> Vec<LineId> {
        let open = tasks
            .iter()
            .filter(|task| self.task_mode(task) != Mode::Paused);
        let at = open.filter_map(|task| self.task_ids.get(task));
        let lines = at.flat_map(|at| &self.tasks[*at].lines);
        let gives = lines.filter(|id| {
            let line = &self.lines[id.0 as usize];
            self.queues[line.queue].mode != Some(Mode::Paused) && !line.has_nothing_ready()
        });
        let mut wanted: Vec<LineId> = gives.copied().collect();
        wanted.sort_unstable();
        wanted.dedup();
        wanted
    }

    /// Who held it before is answered, also if that was over.
    pub(crate) fn hold(&mut self, unique: UniqueHash, hold: Hold) -> Option<Hold> {
        self.unique.insert(unique, hold)
    }

    pub(crate) fn holder(&self, unique: UniqueHash, now: u64) -> Option<JobId> {
        let hold = self.unique.get(&unique);
        hold.filter(|hold| hold.until == 0 || hold.until > now)
            .map(|hold| hold.id)
    }

    /// If the job holds it, and not for a period.
    pub(crate) fn release(&mut self, unique: UniqueHash, id: JobId) {
        let hold = self.unique.get(&unique);
        if hold.is_some_and(|hold| hold.id == id && hold.until == 0) {
            self.unique.remove(&unique);
        }
    }

    pub(crate) fn forget_periods(&mut self, now: u64) {
        let over = |hold: &Hold| hold.until != 0 && hold.until <= now;
        self.unique.retain(|_, hold| !over(hold));
    }
}

/// The two ways of waiting, with the place in the order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Idle {
    Ready(ReadyKey),
    Scheduled(ReadyKey),
    /// Due before the promoted mark, which therefore does not speak for it.
    ScheduledLate(ReadyKey),
}

impl Idle {
    /// As the row has it.
    pub(crate) const fn code(self) -> i64 {
        match self {
            Self::ScheduledLate(_) => -1,
            Self::Scheduled(_) => 1,
            Self::Ready(_) => 2,
        }
    }
}

const fn timer(row: Row, spot: Spot, key: ReadyKey) -> Timer {
    Timer {
        due: key.due(),
        row,
        spot,
        priority: key.priority(),
    }
}
