//! Tells subscribers what was committed. Path: enqueue -> claim -> dispatch -> settle ->
//! **publish**.
//!
//! One ring for all: a subscriber holds a position, not a buffer, so a slow one costs nothing and
//! learns that it lags. A job may be claimed, and even end, before the thread that took it in hears of
//! its commit: what happened to it is held back until its `Enqueued` is told. Must never: publish what
//! is not committed, wait for a reader, or tell of a job before its beginning.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fmt;
use std::str::FromStr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use offloop_job::{Event, EventKind, JobEvent, JobId, ScheduleEvent, Timestamp};
use offloop_store::Claimed;
use tokio::sync::{oneshot, watch};

use crate::feed::Feeds;

/// A place in the stream of events: which server run, and how many events came before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct EventCursor {
    /// Start of the server in milliseconds: events of another run cannot be replayed.
    pub epoch: u64,
    pub position: u64,
}

impl fmt::Display for EventCursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.epoch, self.position)
    }
}

impl FromStr for EventCursor {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (epoch, position) = text.split_once('-').unwrap_or((text, ""));
        Ok(Self {
            epoch: epoch.parse()?,
            position: position.parse()?,
        })
    }
}

/// Events were missed: the reader should ask for the current state and go on from here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lagged;

/// The ring and those who wait for one job.
#[derive(Debug)]
pub(crate) struct Hub {
    epoch: u64,
    kept: usize,
    /// Of single jobs.
    feeds: Arc<Feeds>,
    ring: Mutex<Ring>,
    latest: watch::Sender<u64>,
    waiting: Mutex<HashMap<JobId, Vec<oneshot::Sender<()>>>>,
}

#[derive(Debug, Default)]
struct Ring {
    /// Position of `events[0]`.
    first: u64,
    events: VecDeque<Arc<Event>>,
    /// Inserts under way by the time of their batch, and how many. Ids that come of them are no older.
    coming: BTreeMap<Timestamp, u32>,
    /// Events of jobs that may come of those, in order.
    held: VecDeque<JobEvent>,
}

impl Ring {
    /// Whether the job's `Enqueued` may be still to come.
    fn holds(&self, event: &JobEvent) -> bool {
        let oldest = self.coming.first_key_value();
        event.kind != EventKind::Enqueued
            && oldest.is_some_and(|(began, _)| *began <= event.job.created())
    }

    fn take(&mut self, event: JobEvent, kept: usize) {
        if self.held.len() < kept && self.holds(&event) {
            self.held.push_back(event);
            return;
        }
        self.push(Event::Job(event), kept);
    }

    fn push(&mut self, event: Event, kept: usize) {
        if self.events.len() == kept {
            self.events.pop_front();
            self.first += 1;
        }
        self.events.push_back(Arc::new(event));
    }

    /// Tells what need not be held any more. A job's events stay in order: a later one is held as long
    /// as an earlier one is.
    fn release(&mut self, kept: usize) {
        for event in std::mem::take(&mut self.held) {
            self.take(event, kept);
        }
    }

    fn next(&self) -> u64 {
        self.first + self.events.len() as u64
    }
}

/// Somebody who waits for the end of one job.
#[derive(Debug)]
pub(crate) struct Waiter<'h> {
    hub: &'h Hub,
    job: JobId,
    end: oneshot::Receiver<()>,
}

impl Waiter<'_> {
    /// Until the end is committed.
    pub(crate) async fn end(&mut self) {
        let _ = (&mut self.end).await; // its sender goes with its word only
    }
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        self.end.close();
        self.hub.forget_closed(self.job);
    }
}

/// An insert under way. Dropped without events, it had none.
#[derive(Debug)]
pub(crate) struct Coming<'h> {
    hub: &'h Hub,
    began: Timestamp,
}

impl Coming<'_> {
    /// It is committed, and this is what came of it.
    pub(crate) fn publish(self, events: Vec<JobEvent>) {
        self.hub.publish(events);
    }
}

impl Drop for Coming<'_> {
    fn drop(&mut self) {
        let mut ring = lock(&self.hub.ring);
        if let Some(inserts) = ring.coming.get_mut(&self.began) {
            *inserts -= 1;
            if *inserts == 0 {
                ring.coming.remove(&self.began);
            }
        }
        if ring.held.is_empty() {
            return;
        }
        ring.release(self.hub.kept);
        let next = ring.next();
        drop(ring);
        self.hub.show(next);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Hub {
    pub(crate) fn new(epoch: u64, kept: usize) -> Self {
        let (latest, _) = watch::channel(0);
        Self {
            epoch,
            kept,
            feeds: Arc::new(Feeds::new(epoch)),
            ring: Mutex::default(),
            latest,
            waiting: Mutex::default(),
        }
    }

    pub(crate) fn publish(&self, events: Vec<JobEvent>) {
        if events.is_empty() {
            return;
        }
        if self.feeds.any() {
            for event in &events {
                self.feeds.step(event);
            }
        }
        let mut finished: Vec<JobId> = Vec::new();
        let next = {
            let mut ring = lock(&self.ring);
            for event in events {
                if event.kind.is_final() {
                    finished.push(event.job);
                }
                ring.take(event, self.kept);
            }
            ring.next()
        };
        self.show(next);
        let mut waiting = lock(&self.waiting);
        if waiting.is_empty() {
            return;
        }
        for job in finished {
            for waiter in waiting.remove(&job).unwrap_or_default() {
                let _ = waiter.send(()); // its caller hung up
            }
        }
    }

    /// Alerts: they wait for no job, and no job waits for them.
    pub(crate) fn alert(&self, events: Vec<ScheduleEvent>) {
        if events.is_empty() {
            return;
        }
        let mut ring = lock(&self.ring);
        for event in events {
            ring.push(Event::Schedule(event), self.kept);
        }
        let next = ring.next();
        drop(ring);
        self.show(next);
    }

    /// Whether the job's result is to be kept: always, but for one that says that it is not, and for
    /// which nobody waits.
    pub(crate) fn is_wanted(&self, claimed: &Claimed) -> bool {
        claimed.options.keep != Some(Duration::ZERO)
            || claimed.options.group.is_some()
            || lock(&self.waiting).contains_key(&claimed.id)
            || self.feeds.listens(claimed.id)
    }

    pub(crate) fn feeds(&self) -> &Arc<Feeds> {
        &self.feeds
    }

    /// Two publishers may come out of order: the position only grows.
    fn show(&self, next: u64) {
        self.latest.send_if_modified(|latest| {
            let grew = next > *latest;
            *latest = next.max(*latest);
            grew
        });
    }

    /// To be called before an insert of this time; its events are told by what this answers.
    pub(crate) fn coming(&self, began: Timestamp) -> Coming<'_> {
        *lock(&self.ring).coming.entry(began).or_default() += 1;
        Coming { hub: self, began }
    }

    /// Resolves at the job's final event. Ask for its state after this call, not before it. Dropped,
    /// it is forgotten, whatever becomes of the job.
    pub(crate) fn wait_final(&self, job: JobId) -> Waiter<'_> {
        let (sender, receiver) = oneshot::channel();
        let mut waiting = lock(&self.waiting);
        let list = waiting.entry(job).or_default();
        list.retain(|waiter| !waiter.is_closed());
        list.push(sender);
        Waiter {
            hub: self,
            job,
            end: receiver,
        }
    }

    /// Forgets waiters of `job` whose callers hung up.
    fn forget_closed(&self, job: JobId) {
        let mut waiting = lock(&self.waiting);
        if let Some(list) = waiting.get_mut(&job) {
            list.retain(|waiter| !waiter.is_closed());
            if list.is_empty() {
                waiting.remove(&job);
            }
        }
    }

    /// From `after` on, or from now.
    pub(crate) fn subscribe(self: &Arc<Self>, after: Option<EventCursor>) -> Events {
        let latest = self.latest.subscribe();
        let now = *latest.borrow();
        let (position, lagged) = match after {
            None => (now, false),
            Some(cursor) if cursor.epoch == self.epoch && cursor.position <= now => {
                (cursor.position, false)
            }
            Some(_) => (now, true),
        };
        Events {
            hub: Arc::clone(self),
            latest,
            position,
            lagged,
        }
    }
}

/// A reader's place in the stream.
#[derive(Debug)]
pub struct Events {
    hub: Arc<Hub>,
    latest: watch::Receiver<u64>,
    position: u64,
    lagged: bool,
}

/// Events handed to a reader at once.
const EVENTS_AT_ONCE: usize = 256;

impl Events {
    /// Where the next event will be read: what a client sends as `Last-Event-ID`.
    pub fn cursor(&self) -> EventCursor {
        EventCursor {
            epoch: self.hub.epoch,
            position: self.position,
        }
    }

    /// The next events, at least one; waits for it. `None` when the server is gone. The cursor of
    /// the n-th event of the answer is the position before it plus n.
    pub async fn next(&mut self) -> Option<Result<Vec<Arc<Event>>, Lagged>> {
        loop {
            if std::mem::take(&mut self.lagged) {
                return Some(Err(Lagged));
            }
            {
                let ring = lock(&self.hub.ring);
                if self.position < ring.first {
                    self.position = ring.first;
                    return Some(Err(Lagged));
                }
                let skip = (self.position - ring.first) as usize;
                let batch: Vec<_> = ring
                    .events
                    .iter()
                    .skip(skip)
                    .take(EVENTS_AT_ONCE)
                    .cloned()
                    .collect();
                if !batch.is_empty() {
                    self.position += batch.len() as u64;
                    return Some(Ok(batch));
                }
            }
            let position = self.position;
            self.latest
                .wait_for(|latest| *latest > position)
                .await
                .ok()?;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use offloop_job::{EventKind, JobIdSource, QueueName, TaskName, Timestamp};

    fn event(source: &mut JobIdSource, kind: EventKind) -> JobEvent {
        JobEvent {
            at: Timestamp::from_millis(1),
            job: source.next_id(Timestamp::from_millis(1)),
            task: TaskName::parse("t").unwrap(),
            queue: QueueName::default(),
            kind,
        }
    }

    fn run<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap()
            .block_on(future)
    }

    fn kinds_of(events: &[Arc<Event>]) -> Vec<EventKind> {
        let jobs = events.iter().filter_map(|event| event.job());
        jobs.map(|event| event.kind).collect()
    }

    #[test]
    fn a_reader_that_reconnects_misses_nothing() {
        let hub = Arc::new(Hub::new(7, 100));
        let mut source = JobIdSource::new(0, 1);
        let mut reader = hub.subscribe(None);
        hub.publish(vec![event(&mut source, EventKind::Enqueued)]);
        assert_eq!(run(reader.next()).unwrap().unwrap().len(), 1);
        let cursor: EventCursor = reader.cursor().to_string().parse().unwrap();
        drop(reader);
        hub.publish(vec![event(&mut source, EventKind::Completed)]);
        let mut reader = hub.subscribe(Some(cursor));
        assert_eq!(
            kinds_of(&run(reader.next()).unwrap().unwrap()),
            [EventKind::Completed]
        );
    }

    #[test]
    fn a_slow_reader_is_told_that_it_lags_and_holds_no_memory() {
        let hub = Arc::new(Hub::new(7, 10));
        let mut source = JobIdSource::new(0, 1);
        let mut reader = hub.subscribe(None);
        for _ in 0..25 {
            hub.publish(vec![event(&mut source, EventKind::Enqueued)]);
        }
        assert_eq!(run(reader.next()), Some(Err(Lagged)));
        assert_eq!(run(reader.next()).unwrap().unwrap().len(), 10);
        assert_eq!(lock(&hub.ring).events.len(), 10);
    }

    #[test]
    fn a_cursor_of_another_run_is_told_that_it_lags() {
        let hub = Arc::new(Hub::new(7, 10));
        let mut reader = hub.subscribe(Some(EventCursor {
            epoch: 6,
            position: 0,
        }));
        assert_eq!(run(reader.next()), Some(Err(Lagged)));
        assert!("".parse::<EventCursor>().is_err() && "7".parse::<EventCursor>().is_err());
    }

    #[test]
    fn a_job_is_never_told_to_start_before_it_is_told_to_be_there() {
        let hub = Arc::new(Hub::new(7, 100));
        let at = Timestamp::from_millis;
        let mut source = JobIdSource::new(0, 1);
        let mut event = |created: u64, kind| JobEvent {
            job: source.next_id(at(created)),
            ..event(&mut JobIdSource::new(0, 1), kind)
        };
        let (old, new) = (event(5, EventKind::Started), event(20, EventKind::Enqueued));
        let later = |kind| JobEvent {
            kind,
            ..new.clone()
        };
        let mut reader = hub.subscribe(None);
        let mut kinds = || {
            let read = run(reader.next()).unwrap().unwrap();
            kinds_of(&read)
        };
        let (first, second) = (hub.coming(at(20)), hub.coming(at(10)));
        let mut waiter = hub.wait_final(new.job);
        hub.publish(vec![later(EventKind::Started)]);
        hub.publish(vec![later(EventKind::Completed), old]);
        // Whoever waits for the end need not wait for the order of the stream.
        run(waiter.end());
        assert_eq!(
            kinds(),
            [EventKind::Started],
            "of the job that was there before"
        );
        first.publish(vec![new.clone()]);
        assert_eq!(
            kinds(),
            [EventKind::Enqueued],
            "another insert may still bring it"
        );
        drop(second);
        assert_eq!(kinds(), [EventKind::Started, EventKind::Completed]);
        assert!(lock(&hub.ring).coming.is_empty() && lock(&hub.ring).held.is_empty());
    }

    #[test]
    fn a_wait_that_began_before_the_end_hears_of_it() {
        let hub = Arc::new(Hub::new(7, 10));
        let end = event(&mut JobIdSource::new(0, 1), EventKind::Completed);
        let mut waiter = hub.wait_final(end.job);
        drop(hub.wait_final(end.job));
        hub.publish(vec![end]);
        run(waiter.end());
        assert!(lock(&hub.waiting).is_empty());
    }
}
