//! Every job and every asker of the lane. Decisions without I/O or a clock: `now` comes in, news
//! goes out.
//!
//! Must never: match a job to two askers, or lengthen a lease that is being withdrawn.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use offloop_job::{JobId, Lease, StopReason, TaskName};
use offloop_lane::{Demand, LaneEvent, Stopped, TypicalRun, Work, cannot_be_done, not_begun};
use tokio::sync::Notify;

use crate::entry::{Asked, Entry, Phase, executor, later, offered_bytes};
use crate::memory::{Settled, Strays};
use crate::types::{
    CONFIRM_WITHIN, ClaimRefusal, Extended, HELD_MAX, News, OFFER_BYTES_MAX, Offer, PULLS_MAX,
    Pull, RemoteTask, RemoteView, RemoteWorker, Report, Settle, Stale, StopNotice, StopWhy,
    WorkerEnd,
};

/// So long a job may be in line for somebody who wants it; then other nodes may have it.
const LINE_WAIT: Duration = Duration::from_secs(5);
/// Wishes that differ, in one question to the store.
const DEMANDS_MAX: usize = 64;

/// An asker that waits.
#[derive(Debug)]
struct Waiting {
    worker: Arc<str>,
    tasks: Arc<[TaskName]>,
    limit: u16,
    got: Vec<Lease>,
    got_bytes: usize,
    wake: Arc<Notify>,
}

impl Waiting {
    fn takes(&self, work: &Work) -> bool {
        let room = self.got.is_empty() || self.got_bytes + offered_bytes(work) <= OFFER_BYTES_MAX;
        room && self.got.len() < usize::from(self.limit) && self.tasks.contains(&work.task)
    }
}

#[derive(Debug)]
pub(crate) struct Board {
    tasks: HashMap<TaskName, (RemoteTask, TypicalRun)>,
    all: Arc<[TaskName]>,
    jobs: HashMap<Lease, Entry>,
    /// Priority, then age.
    line: BTreeSet<(u8, u64, Lease)>,
    /// By age.
    pulls: BTreeMap<u64, Waiting>,
    next: u64,
    settled: Settled,
    strays: Strays,
    closed: bool,
    late: u64,
}

impl Board {
    pub(crate) fn new(tasks: Vec<RemoteTask>) -> Self {
        let all = tasks.iter().map(|task| task.info.name.clone()).collect();
        let tasks = tasks.into_iter();
        let tasks = tasks.map(|task| (task.info.name.clone(), (task, TypicalRun::default())));
        Self {
            tasks: tasks.collect(),
            all,
            jobs: HashMap::new(),
            line: BTreeSet::new(),
            pulls: BTreeMap::new(),
            next: 0,
            settled: Settled::default(),
            strays: Strays::default(),
            closed: false,
            late: 0,
        }
    }

    pub(crate) fn task(&self, name: &TaskName) -> Option<&RemoteTask> {
        self.tasks.get(name).map(|(task, _)| task)
    }

    fn count(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// Somebody asks. Told by `wake` when there is something for it.
    pub(crate) fn ask(&mut self, pull: &Pull, wake: Arc<Notify>) -> Result<u64, ClaimRefusal> {
        if self.closed {
            return Err(ClaimRefusal::Closed);
        }
        if let Some(task) = pull
            .tasks
            .iter()
            .find(|task| !self.tasks.contains_key(*task))
        {
            let known: Vec<_> = self.all.iter().map(|name| format!("`{name}`")).collect();
            return Err(ClaimRefusal::UnknownTask {
                task: task.clone(),
                known: known.join(", "),
            });
        }
        if self.pulls.len() >= PULLS_MAX {
            return Err(ClaimRefusal::TooMany);
        }
        let tasks = if pull.tasks.is_empty() {
            Arc::clone(&self.all)
        } else {
            let mut tasks = pull.tasks.clone();
            tasks.sort();
            tasks.dedup();
            tasks.into()
        };
        let id = self.count();
        let waiting = Waiting {
            worker: Arc::clone(&pull.worker),
            tasks,
            limit: pull.limit.max(1),
            got: Vec::new(),
            got_bytes: 0,
            wake,
        };
        self.pulls.insert(id, waiting);
        self.match_up();
        Ok(id)
    }

    /// What an asker takes along: from now on its offers must be confirmed. `None`: nothing yet.
    pub(crate) fn take(&mut self, pull: u64, now: Instant) -> Option<Vec<Offer>> {
        if self.pulls.get(&pull)?.got.is_empty() {
            return None;
        }
        let waiting = self.pulls.remove(&pull)?;
        let mut offers = Vec::with_capacity(waiting.got.len());
        for lease in waiting.got {
            let Some(entry) = self.jobs.get_mut(&lease) else {
                continue; // stopped meanwhile
            };
            entry.phase = Phase::Offered;
            entry.until = later(now, CONFIRM_WITHIN);
            if let Some((task, _)) = self.tasks.get(&entry.work.task) {
                offers.push(entry.offer(task, now));
            }
        }
        Some(offers)
    }

    pub(crate) const fn is_closed(&self) -> bool {
        self.closed
    }

    /// An asker goes away; what it had not taken is in line again.
    pub(crate) fn leave(&mut self, pull: u64) {
        let Some(waiting) = self.pulls.remove(&pull) else {
            return;
        };
        for lease in waiting.got {
            if let Some(entry) = self.jobs.get_mut(&lease) {
                entry.phase = Phase::Line;
                self.line.insert((entry.work.priority, entry.seq, lease));
            }
        }
        self.match_up();
    }

    /// Work from the store.
    pub(crate) fn start(&mut self, work: Vec<Work>, now: Instant) -> Vec<LaneEvent> {
        let mut news = Vec::new();
        for work in work {
            let (lease, priority, seq) = (work.lease, work.priority, self.count());
            let typical = self.tasks.get(&work.task).map(|(_, typical)| typical);
            let entry = Entry::new(work, seq, later(now, LINE_WAIT), now);
            if cannot_be_done(&entry.work, typical, now) {
                let typical = typical.and_then(TypicalRun::get);
                let outcome = not_begun(&entry.work, Duration::ZERO, typical, now);
                news.push(LaneEvent::Ended(Box::new(entry.refused(outcome, now))));
            } else if self.closed || typical.is_none() {
                let ended = entry.unstarted(StopReason::Shutdown, now);
                news.push(LaneEvent::Ended(Box::new(ended)));
            } else {
                self.jobs.insert(lease, entry);
                self.line.insert((priority, seq, lease));
            }
        }
        self.match_up();
        news
    }

    /// Gives what is in line to those who wait, oldest first.
    fn match_up(&mut self) {
        if self.pulls.is_empty() {
            return;
        }
        let mut matched = Vec::new();
        for place in &self.line {
            let Some(entry) = self.jobs.get_mut(&place.2) else {
                matched.push(*place);
                continue;
            };
            let taker = self
                .pulls
                .iter_mut()
                .find(|(_, pull)| pull.takes(&entry.work));
            let Some((id, pull)) = taker else {
                continue;
            };
            entry.phase = Phase::Matched { pull: *id };
            entry.worker = Arc::clone(&pull.worker);
            pull.got.push(place.2);
            pull.got_bytes += offered_bytes(&entry.work);
            pull.wake.notify_one();
            matched.push(*place);
        }
        for place in matched {
            self.line.remove(&place);
        }
    }

    /// What those who wait with empty hands want.
    pub(crate) fn demand(&self) -> Vec<Demand> {
        let mut wanted: Vec<Demand> = Vec::new();
        let mut room = HELD_MAX.saturating_sub(self.jobs.len());
        if self.closed {
            return wanted;
        }
        for pull in self.pulls.values().filter(|pull| pull.got.is_empty()) {
            let jobs = usize::from(pull.limit).min(room) as u16;
            if jobs == 0 {
                break;
            }
            let same = wanted.iter_mut().find(|other| other.tasks == pull.tasks);
            if let Some(same) = same {
                same.jobs = same.jobs.saturating_add(jobs);
            } else if wanted.len() < DEMANDS_MAX {
                let tasks = Arc::clone(&pull.tasks);
                wanted.push(Demand { tasks, jobs });
            } else {
                continue;
            }
            room -= usize::from(jobs);
        }
        wanted
    }

    /// The entry of a lease, if it is this job's, and with a worker (or on its way to one).
    fn mine(&mut self, job: JobId, lease: Lease) -> Result<&mut Entry, Stale> {
        let entry = self.jobs.get_mut(&lease).ok_or(Stale)?;
        let with_worker = matches!(entry.phase, Phase::Offered | Phase::Held);
        if entry.work.job == job && with_worker {
            Ok(entry)
        } else {
            Err(Stale)
        }
    }

    /// A sign of life, with news. The first one confirms the offer.
    pub(crate) fn extend(
        &mut self,
        job: JobId,
        lease: Lease,
        news: &News,
        now: Instant,
        events: &mut Vec<LaneEvent>,
    ) -> Result<Extended, Stale> {
        #[cfg(feature = "sabotage")]
        let lease = crate::sabotage::lease_of(&self.jobs, job, lease);
        let entry = self.mine(job, lease)?;
        if entry.due_for_worker() <= now {
            return Err(Stale); // too late by the clock, whatever the timer has done about it
        }
        if entry.phase == Phase::Offered {
            entry.begin(now);
            events.push(LaneEvent::Started {
                job,
                lease,
                executor: executor(&entry.worker),
            });
            self.strays.forget(job);
        }
        let name = self.jobs.get(&lease).map(|entry| entry.work.task.clone());
        let lease_for = name
            .and_then(|name| self.tasks.get(&name))
            .ok_or(Stale)?
            .0
            .lease;
        let entry = self.jobs.get_mut(&lease).ok_or(Stale)?;
        entry.extend(lease_for, now);
        entry.note(news.note.as_ref(), news.log.as_ref(), now);
        if let Some(note) = &news.note {
            events.push(LaneEvent::Progress {
                job,
                lease,
                note: note.clone(),
            });
        }
        Ok(Extended {
            lease_left: entry.due_for_worker().saturating_duration_since(now),
            stop: entry.asked.as_ref().map(Asked::notice),
        })
    }

    /// A notice for this lease, if there is one.
    pub(crate) fn notice(
        &self,
        job: JobId,
        lease: Lease,
        now: Instant,
    ) -> Result<Option<StopNotice>, Stale> {
        let entry = self.jobs.get(&lease).filter(|entry| entry.work.job == job);
        let asked = entry.ok_or(Stale)?.asked.as_ref();
        Ok(asked.map(|asked| StopNotice {
            job,
            lease,
            why: asked.notice(),
            lease_left: asked.withdraw_at.saturating_duration_since(now),
        }))
    }

    /// A worker ends its attempt.
    pub(crate) fn settle(
        &mut self,
        job: JobId,
        lease: Lease,
        end: WorkerEnd,
        report: &Report,
        now: Instant,
        events: &mut Vec<LaneEvent>,
    ) -> Result<Settle, Stale> {
        #[cfg(feature = "sabotage")]
        let lease = crate::sabotage::lease_of(&self.jobs, job, lease);
        if self.settled.has(lease, job) {
            return Ok(Settle::Already);
        }
        if self.mine(job, lease)?.due_for_worker() <= now {
            return Err(Stale);
        }
        let Some(entry) = self.jobs.remove(&lease) else {
            return Err(Stale);
        };
        self.settled.add(lease, job);
        self.strays.forget(job);
        let late = entry.work.deadline.is_some_and(|at| now > at);
        self.late += u64::from(late);
        let task = entry.work.task.clone();
        let completed = matches!(end, WorkerEnd::Completed { .. });
        let ended = entry.answered(end, report, now);
        if completed && let Some((_, typical)) = self.tasks.get(&task) {
            typical.ran(ended.usage.wall);
        }
        events.push(LaneEvent::Ended(Box::new(ended)));
        Ok(Settle::Taken)
    }

    /// Asks one attempt to stop. `true`: those who watch should look.
    pub(crate) fn stop(
        &mut self,
        lease: Lease,
        reason: StopReason,
        now: Instant,
        events: &mut Vec<LaneEvent>,
    ) -> bool {
        let Some(entry) = self.jobs.get(&lease) else {
            return false;
        };
        if entry.phase != Phase::Held {
            // Not begun: whoever is about to confirm is refused.
            self.end(lease, events, |entry| entry.unstarted(reason, now));
            return true;
        }
        self.notify(lease, Stopped::Asked(reason), now);
        true
    }

    fn end(
        &mut self,
        lease: Lease,
        events: &mut Vec<LaneEvent>,
        how: impl FnOnce(Entry) -> offloop_lane::Ended,
    ) {
        let Some(entry) = self.jobs.remove(&lease) else {
            return;
        };
        self.line.remove(&(entry.work.priority, entry.seq, lease));
        if let Phase::Matched { pull } = entry.phase
            && let Some(waiting) = self.pulls.get_mut(&pull)
        {
            waiting.got.retain(|got| *got != lease);
        }
        events.push(LaneEvent::Ended(Box::new(how(entry))));
    }

    /// The first reason stays.
    fn notify(&mut self, lease: Lease, why: Stopped, now: Instant) {
        let Some(entry) = self.jobs.get_mut(&lease) else {
            return;
        };
        if entry.asked.is_some() {
            return;
        }
        let task = self.tasks.get(&entry.work.task);
        let grace = task.map_or(Duration::ZERO, |(task, _)| task.grace);
        let overrun = match why {
            Stopped::Limit(_) => entry.overrun(now),
            Stopped::Asked(_) => None,
        };
        let by_grace = later(now, grace);
        // A cancelled job is not run again, so nothing is risked by taking its lease early.
        let withdraw_at = match why {
            Stopped::Asked(StopReason::Cancel) => by_grace,
            _ => by_grace.max(entry.until),
        };
        entry.asked = Some(Asked {
            why,
            overrun,
            withdraw_at,
        });
    }

    /// Does what time demands. `true`: those who watch should look.
    pub(crate) fn look(&mut self, now: Instant, events: &mut Vec<LaneEvent>) -> bool {
        let due: Vec<Lease> = self
            .jobs
            .iter()
            .filter(|(_, entry)| entry.due() <= now)
            .map(|(lease, _)| *lease)
            .collect();
        for lease in &due {
            self.act(*lease, now, events);
        }
        !due.is_empty()
    }

    fn act(&mut self, lease: Lease, now: Instant, events: &mut Vec<LaneEvent>) {
        let Some(entry) = self.jobs.get(&lease) else {
            return;
        };
        let job = entry.work.job;
        match entry.phase {
            Phase::Line | Phase::Matched { .. } => {
                self.end(lease, events, |entry| {
                    entry.unstarted(StopReason::Shutdown, now)
                });
            }
            Phase::Offered => {
                let too_often = self.strays.add(job);
                self.end(lease, events, |entry| {
                    if too_often {
                        entry.never_confirmed(now)
                    } else {
                        entry.unstarted(StopReason::Shutdown, now)
                    }
                });
            }
            Phase::Held if entry.asked.is_some() => {
                self.end(lease, events, |entry| entry.withdrawn(now));
            }
            Phase::Held if entry.until <= now => {
                let lease_for = self
                    .task(&entry.work.task)
                    .map_or(Duration::ZERO, |task| task.lease);
                self.end(lease, events, |entry| entry.lost(lease_for, now));
            }
            Phase::Held => {
                let class = entry.overrun(now).map(|overrun| overrun.class);
                if let Some(class) = class {
                    self.notify(lease, Stopped::Limit(class), now);
                }
            }
        }
    }

    /// The server stood still for so long.
    pub(crate) fn postpone(&mut self, by: Duration) {
        for entry in self.jobs.values_mut() {
            entry.postpone(by);
        }
    }

    /// When to look next.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        self.jobs.values().map(Entry::due).min()
    }

    /// No more work. Askers are told, what no worker has goes back.
    pub(crate) fn close(&mut self, now: Instant) -> Vec<LaneEvent> {
        self.closed = true;
        let mut events = Vec::new();
        let waiting = |phase| matches!(phase, Phase::Line | Phase::Matched { .. });
        let unsent: Vec<Lease> = self
            .jobs
            .iter()
            .filter(|(_, entry)| waiting(entry.phase))
            .map(|(lease, _)| *lease)
            .collect();
        for lease in unsent {
            self.end(lease, &mut events, |entry| {
                entry.unstarted(StopReason::Shutdown, now)
            });
        }
        for pull in self.pulls.values() {
            pull.wake.notify_one();
        }
        events
    }

    /// Ends everything: what no worker has begun goes back, what one is at is put off until its lease
    /// has surely run out.
    pub(crate) fn terminate(&mut self, now: Instant, events: &mut Vec<LaneEvent>) {
        let all: Vec<Lease> = self.jobs.keys().copied().collect();
        for lease in all {
            self.end(lease, events, |entry| match (entry.phase, &entry.asked) {
                (Phase::Held, Some(asked)) if asked.notice() == StopWhy::Cancelled => {
                    entry.withdrawn(now)
                }
                (Phase::Held, _) => entry.put_off(now),
                _ => entry.unstarted(StopReason::Shutdown, now),
            });
        }
    }

    pub(crate) fn running(&self) -> usize {
        self.jobs.len() - self.line.len()
    }

    pub(crate) fn held(&self) -> usize {
        let held = |entry: &&Entry| matches!(entry.phase, Phase::Held | Phase::Offered);
        self.jobs.values().filter(held).count()
    }

    pub(crate) fn queued(&self) -> usize {
        self.line.len()
    }

    pub(crate) const fn late(&self) -> u64 {
        self.late
    }

    pub(crate) fn head_age(&self, now: Instant) -> Option<Duration> {
        let (_, _, lease) = self.line.first()?;
        let entry = self.jobs.get(lease)?;
        Some(LINE_WAIT.saturating_sub(entry.until.saturating_duration_since(now)))
    }

    pub(crate) fn view(&self) -> RemoteView {
        let mut workers: BTreeMap<Arc<str>, (u32, u32)> = BTreeMap::new();
        for entry in self.jobs.values() {
            if matches!(entry.phase, Phase::Held | Phase::Offered) {
                workers.entry(Arc::clone(&entry.worker)).or_default().0 += 1;
            }
        }
        for pull in self.pulls.values() {
            workers.entry(Arc::clone(&pull.worker)).or_default().1 += 1;
        }
        let workers = workers.into_iter();
        RemoteView {
            workers: workers
                .map(|(name, (running, waiting))| RemoteWorker {
                    name,
                    running,
                    waiting,
                })
                .collect(),
            queued: self.line.len() as u32,
        }
    }

    /// Slots as they are now: jobs with workers, and jobs that are asked for.
    pub(crate) fn slots(&self) -> usize {
        let asked: usize = self
            .pulls
            .values()
            .map(|pull| usize::from(pull.limit))
            .sum();
        (self.jobs.len() + asked).clamp(1, HELD_MAX)
    }
}

#[cfg(test)]
mod tests;
