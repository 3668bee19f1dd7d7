//! The thread: looks, reads, publishes, pauses.
//!
//! While a loop or a lane works it looks every `every`; when nothing happens it backs off, so that
//! an idle server is woken less than 100 times a second by it. Must never: wait for a loop.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

use crate::config::{IDLE_TICK, PulseConfig, READ_EVERY, SLOW_EVERY};
use crate::machine::{Machine, Reader};
use crate::pulse::{Shared, Source, lock};
use crate::slot::Threads;
use crate::snapshot::{LaneSample, LaneView, OwnCost, PollView, Snapshot, TaskView};
use crate::warn::{self, Seen, Warner};
use crate::watched::Watched;
use crate::{hint, polls};

/// Readings that a lane's saturation is the mean of: two seconds.
const LANE_READINGS: usize = 8;
/// Looks without work before it backs off: half a second.
const QUIET_LOOKS: u32 = 25;

/// What the thread alone holds.
#[derive(Debug)]
struct Looker {
    config: PulseConfig,
    loops: Vec<Watched>,
    sources: Vec<Box<dyn Source>>,
    reader: Reader,
    warner: Warner,
    threads: Threads,
    /// Anything was blocked at the last look.
    blocked: bool,
    quiet_looks: u32,
    next_read: Option<Instant>,
    next_slow: Option<Instant>,
    lanes: HashMap<Arc<str>, VecDeque<f64>>,
    lane_views: Arc<[LaneView]>,
    tasks: Arc<[TaskView]>,
    polls: Arc<[PollView]>,
    machine: Arc<Machine>,
    cost: Cost,
    number: u64,
}

/// The pulse's own expenses since they were last added up.
#[derive(Debug, Default)]
struct Cost {
    since: Option<Instant>,
    cpu: Duration,
    wakes: u64,
    late: Duration,
    own: OwnCost,
}

pub(crate) fn run(shared: &Shared) {
    let mut looker = Looker::new(shared.config);
    let mut due = Instant::now();
    while !shared.ended.load(Ordering::Acquire) {
        let now = Instant::now();
        looker.cost.woke(now.saturating_duration_since(due));
        looker.take_up(shared);
        if let Some(snapshot) = looker.turn(now) {
            shared.publish(snapshot);
        }
        due = now + looker.pause();
        let left = due.saturating_duration_since(Instant::now());
        let guard = lock(&shared.pause);
        if !shared.ended.load(Ordering::Acquire) {
            let waited = shared.woken.wait_timeout(guard, left);
            drop(waited.unwrap_or_else(PoisonError::into_inner));
        }
    }
}

impl Looker {
    fn new(config: PulseConfig) -> Self {
        Self {
            config,
            loops: Vec::new(),
            sources: Vec::new(),
            reader: Reader::open(),
            warner: Warner::default(),
            threads: Threads::default(),
            blocked: false,
            quiet_looks: 0,
            next_read: None,
            next_slow: None,
            lanes: HashMap::new(),
            lane_views: Arc::default(),
            tasks: Arc::default(),
            polls: Arc::default(),
            machine: Arc::default(),
            cost: Cost::default(),
            number: 0,
        }
    }

    fn take_up(&mut self, shared: &Shared) {
        for mut watched in std::mem::take(&mut *lock(&shared.loops)) {
            if self.loops.iter().all(|known| known.id != watched.id) {
                watched.name = self.unused(watched.name);
                self.loops.push(watched);
                self.next_read = None;
            }
        }
        self.sources.append(&mut lock(&shared.sources));
    }

    /// Two of one name would be one line in a scrape, twice: the second is called `name:2`.
    fn unused(&self, name: Arc<str>) -> Arc<str> {
        let is_free = |name: &str| self.loops.iter().all(|known| *known.name != *name);
        let others = (2..).map(|number| format!("{name}:{number}").into());
        let mut names = std::iter::once(Arc::clone(&name)).chain(others);
        names.find(|name| is_free(name)).unwrap_or(name)
    }

    /// Nothing has happened for a while.
    fn is_calm(&self) -> bool {
        self.quiet_looks >= QUIET_LOOKS
    }

    fn pause(&self) -> Duration {
        if self.is_calm() {
            IDLE_TICK.max(self.config.every)
        } else {
            self.config.every
        }
    }

    /// One look. Answers what there is to publish.
    fn turn(&mut self, now: Instant) -> Option<Snapshot> {
        let every = self.config.every;
        let (mut idle, before) = (true, self.loops.len());
        let (calm, cost) = (self.is_calm(), &mut self.cost);
        self.loops.retain_mut(|watched| {
            let look = watched.look(now, every, calm);
            idle &= look.idle;
            cost.wakes += u64::from(look.woke);
            if look.gone {
                polls::forget(watched.id);
            }
            !look.gone
        });
        let gone = self.loops.len() < before;
        // A lane at work takes time from the loops: that is when their delay matters.
        idle &= self.lane_views.iter().all(|lane| lane.sample.running == 0);
        self.quiet_looks = if idle {
            self.quiet_looks.saturating_add(1)
        } else {
            0
        };
        let silent = |watched: &Watched| (watched.id, watched.is_silent(now, every));
        let loops: Vec<_> = self.loops.iter().map(silent).collect();
        let doing = self.threads.look(&loops);
        let blocks: Vec<Vec<Seen>> = self
            .loops
            .iter()
            .map(|watched| {
                let waited = self.threads.waited_silent(watched.id);
                watched.blocks(now, &doing, waited, self.config.block_after)
            })
            .collect();
        let all: Vec<Seen> = blocks.iter().flatten().cloned().collect();
        for say in self.warner.on(now, &all) {
            warn::tell(&say);
        }
        let was = std::mem::replace(&mut self.blocked, !all.is_empty());
        let due = self.next_read.is_none_or(|at| now >= at);
        if due {
            self.read(now);
            self.next_read = Some(now + READ_EVERY);
        }
        (due || gone || was || self.blocked).then(|| self.snapshot(now, &blocks))
    }

    fn read(&mut self, now: Instant) {
        for watched in &mut self.loops {
            watched.read(now, self.config.every);
        }
        self.read_lanes();
        if self.next_slow.is_none_or(|at| now >= at) {
            self.next_slow = Some(now + SLOW_EVERY);
            self.machine = Arc::new(self.reader.read());
            self.read_polls(now);
            self.read_tasks(now);
            self.cost.add_up(now);
        }
    }

    fn read_lanes(&mut self) {
        let mut samples = Vec::new();
        self.sources.retain_mut(|source| {
            let lanes = source.lanes();
            let here = lanes.is_some();
            samples.extend(lanes.unwrap_or_default());
            here
        });
        self.lanes
            .retain(|name, _| samples.iter().any(|sample| sample.name == *name));
        let view = |sample: LaneSample| {
            let readings = self.lanes.entry(Arc::clone(&sample.name)).or_default();
            if readings.len() == LANE_READINGS {
                readings.pop_front();
            }
            let share = f64::from(sample.running) / f64::from(sample.slots.max(1));
            readings.push_back(share.min(1.0));
            let saturation = readings.iter().sum::<f64>() / readings.len() as f64;
            LaneView { sample, saturation }
        };
        self.lane_views = samples.into_iter().map(view).collect();
    }

    fn read_polls(&mut self, now: Instant) {
        let mut rows = Vec::new();
        for watched in &self.loops {
            for (what, long) in polls::read(watched.id, now) {
                rows.push(PollView {
                    on: Arc::clone(&watched.name),
                    what,
                    long: long.count,
                    longest: long.longest,
                    hint: hint::for_polls(what.kind(), long),
                });
            }
        }
        rows.sort_by_key(|row| std::cmp::Reverse(row.longest));
        self.polls = rows.into();
    }

    fn read_tasks(&mut self, now: Instant) {
        let mut tasks = Vec::new();
        for source in &mut self.sources {
            for sample in source.tasks(now).unwrap_or_default() {
                let mut hints: Vec<_> = hint::for_task(&sample).into_iter().collect();
                let polls = self.polls.iter().filter(|row| {
                    row.what.kind() == crate::Kind::Task
                        && sample.task.as_deref() == Some(&*row.what.text())
                });
                hints.extend(polls.filter_map(|row| row.hint.clone()));
                tasks.push(TaskView { sample, hints });
            }
        }
        self.tasks = tasks.into();
    }

    fn snapshot(&mut self, now: Instant, blocks: &[Vec<Seen>]) -> Snapshot {
        self.number += 1;
        let loops = self.loops.iter().zip(blocks);
        Snapshot {
            number: self.number,
            taken: Some(now),
            loops: loops
                .map(|(watched, blocks)| watched.view(now, blocks))
                .collect(),
            recent: self.warner.recent(),
            lanes: Arc::clone(&self.lane_views),
            tasks: Arc::clone(&self.tasks),
            polls: Arc::clone(&self.polls),
            machine: Arc::clone(&self.machine),
            own: self.cost.own,
        }
    }
}

impl Cost {
    fn woke(&mut self, late: Duration) {
        self.wakes += 1;
        self.late = self.late.max(late);
    }

    fn add_up(&mut self, now: Instant) {
        let time = clock_gettime(ClockId::ThreadCPUTime);
        let cpu = Duration::new(time.tv_sec as u64, time.tv_nsec as u32);
        if let Some(since) = self.since {
            let over = now.saturating_duration_since(since).as_secs_f64().max(1e-3);
            self.own = OwnCost {
                cpu: cpu.saturating_sub(self.cpu).as_secs_f64() / over,
                wakes_per_s: self.wakes as f64 / over,
                late: self.late,
            };
        }
        self.since = Some(now);
        self.cpu = cpu;
        self.wakes = 0;
        self.late = Duration::ZERO;
    }
}
