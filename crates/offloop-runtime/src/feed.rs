//! What one job says to those who listen to it: its steps, and what no store keeps: progress as it
//! comes, output as it is printed, pieces of its result.
//!
//! A feed is there while somebody listens, and a little longer, so that a listener whose connection
//! broke goes on where it was. It is one ring with a bound, and a listener is a place in it: a slow one
//! costs nothing and is told that it lags. While nobody listens to any job, asking costs a lane one
//! load.
//!
//! Must never: block a lane, grow with what a job prints, or show what its task keeps to itself.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::str::FromStr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use offloop_job::{Job, JobEvent, JobId, Timestamp};
use tokio::sync::watch;

use crate::Lagged;
use crate::config::Redact;
use crate::handle::{QueryError, RuntimeHandle};
use crate::redact;

/// Of one feed. A reader that is further behind is told so.
const FEED_BYTES_MAX: usize = 256 << 10;
const FEED_NEWS_MAX: usize = 1_024;
/// News of one job in one second; what is over is counted and told as a number.
const NEWS_PER_SECOND_MAX: u32 = 2_000;
/// How long a feed outlasts its last listener, and how many may do so.
const LINGER: Duration = Duration::from_secs(30);
const LINGERING_MAX: usize = 256;
/// News handed to a listener at once.
const NEWS_AT_ONCE: usize = 64;

/// One thing that a job said.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum JobNews {
    /// It made a step, which is committed.
    Step(JobEvent),
    /// A note: JSON.
    Progress { at: Timestamp, note: Bytes },
    /// A piece of its result: JSON.
    Partial { at: Timestamp, data: Bytes },
    /// Output as it was printed, in any pieces.
    Log { at: Timestamp, data: Bytes },
    /// It said more than may be told in a second: so many pieces are left out here.
    LeftOut { pieces: u64 },
}

impl JobNews {
    fn len(&self) -> usize {
        let said = match self {
            Self::Progress { note: data, .. }
            | Self::Partial { data, .. }
            | Self::Log { data, .. } => data.len(),
            Self::Step(_) | Self::LeftOut { .. } => 0,
        };
        said + 64
    }

    fn ends(&self) -> bool {
        matches!(self, Self::Step(event) if event.kind.is_final())
    }

    /// Without what the task keeps to itself; `None` if nothing is left.
    fn shown(self, what: Redact) -> Option<Self> {
        match self {
            Self::Progress { at, .. } if what.payload => {
                let note = redact::payload();
                Some(Self::Progress { at, note })
            }
            Self::Partial { at, .. } if what.result => {
                let data = redact::payload();
                Some(Self::Partial { at, data })
            }
            Self::Log { .. } if what.log => None,
            other => Some(other),
        }
    }
}

/// A listener's place: which server run, which feed, and how many news came before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FeedCursor {
    epoch: u64,
    feed: u64,
    position: u64,
}

impl FeedCursor {
    /// A place that is nowhere: its listener is told that it lags.
    pub const fn lost() -> Self {
        Self {
            epoch: 0,
            feed: 0,
            position: 0,
        }
    }
}

impl fmt::Display for FeedCursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}-{}", self.epoch, self.feed, self.position)
    }
}

impl FromStr for FeedCursor {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut parts = text.splitn(3, '-').map(str::parse);
        let mut next = || parts.next().unwrap_or_else(|| "".parse());
        Ok(Self {
            epoch: next()?,
            feed: next()?,
            position: next()?,
        })
    }
}

#[derive(Debug)]
struct Ring {
    /// Position of `news[0]`.
    first: u64,
    news: VecDeque<JobNews>,
    bytes: usize,
    second: Instant,
    in_second: u32,
    left_out: u64,
    ended: bool,
}

impl Ring {
    fn next(&self) -> u64 {
        self.first + self.news.len() as u64
    }

    fn push(&mut self, news: JobNews) {
        self.bytes += news.len();
        self.ended |= news.ends();
        self.news.push_back(news);
        while self.news.len() > FEED_NEWS_MAX || self.bytes > FEED_BYTES_MAX {
            let Some(old) = self.news.pop_front() else {
                break;
            };
            self.bytes -= old.len();
            self.first += 1;
        }
    }

    /// A step is always told; of the rest so much in a second.
    fn admits(&mut self, news: &JobNews, now: Instant) -> bool {
        if now.saturating_duration_since(self.second) >= Duration::from_secs(1) {
            self.second = now;
            self.in_second = 0;
        }
        self.in_second += 1;
        if matches!(news, JobNews::Step(_)) || self.in_second <= NEWS_PER_SECOND_MAX {
            return true;
        }
        self.left_out += 1;
        false
    }
}

#[derive(Debug)]
struct Feed {
    number: u64,
    ring: Mutex<Ring>,
    latest: watch::Sender<u64>,
}

impl Feed {
    fn tell(&self, news: JobNews) {
        let next = {
            let mut ring = lock(&self.ring);
            if !ring.admits(&news, Instant::now()) {
                return;
            }
            let pieces = std::mem::take(&mut ring.left_out);
            if pieces > 0 {
                ring.push(JobNews::LeftOut { pieces });
            }
            ring.push(news);
            ring.next()
        };
        self.latest.send_replace(next);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[derive(Debug)]
struct Place {
    feed: Arc<Feed>,
    listeners: usize,
    /// Since nobody listens.
    left: Option<Instant>,
}

/// The feeds of all jobs that somebody listens to.
#[derive(Debug)]
pub(crate) struct Feeds {
    epoch: u64,
    numbers: AtomicU64,
    /// Feeds that there are: what lanes look at.
    open: AtomicUsize,
    places: Mutex<HashMap<JobId, Place>>,
}

impl Feeds {
    pub(crate) fn new(epoch: u64) -> Self {
        Self {
            epoch,
            numbers: AtomicU64::new(1),
            open: AtomicUsize::new(0),
            places: Mutex::default(),
        }
    }

    pub(crate) fn any(&self) -> bool {
        self.open.load(Ordering::Relaxed) > 0
    }

    fn of(&self, job: JobId) -> Option<Arc<Feed>> {
        if !self.any() {
            return None;
        }
        let places = lock(&self.places);
        places.get(&job).map(|place| Arc::clone(&place.feed))
    }

    pub(crate) fn listens(&self, job: JobId) -> bool {
        self.any() && lock(&self.places).contains_key(&job)
    }

    pub(crate) fn tell(&self, job: JobId, news: impl FnOnce() -> JobNews) {
        if let Some(feed) = self.of(job) {
            feed.tell(news());
        }
    }

    /// A committed step. After the last one nobody comes back: a feed without listeners goes.
    pub(crate) fn step(&self, event: &JobEvent) {
        let Some(feed) = self.of(event.job) else {
            return;
        };
        feed.tell(JobNews::Step(event.clone()));
        if event.kind.is_final() {
            let mut places = lock(&self.places);
            if places
                .get(&event.job)
                .is_some_and(|place| place.listeners == 0)
            {
                places.remove(&event.job);
            }
            self.count(&places);
        }
    }

    fn count(&self, places: &HashMap<JobId, Place>) {
        self.open.store(places.len(), Ordering::Relaxed);
    }

    /// Feeds that lingered long enough go, and the oldest of those that are too many.
    pub(crate) fn sweep(&self) {
        if self.any() {
            let mut places = lock(&self.places);
            self.sweep_in(&mut places, Instant::now());
        }
    }

    fn sweep_in(&self, places: &mut HashMap<JobId, Place>, now: Instant) {
        let stays = |left: Instant| now.saturating_duration_since(left) < LINGER;
        places.retain(|_, place| place.left.is_none_or(stays));
        let mut lingering: Vec<_> = places
            .iter()
            .filter_map(|(job, place)| Some((place.left?, *job)))
            .collect();
        let over = lingering.len().saturating_sub(LINGERING_MAX);
        if over > 0 {
            lingering.sort_unstable_by_key(|entry| entry.0);
            for (_, job) in &lingering[..over] {
                places.remove(job);
            }
        }
        self.count(places);
    }

    /// From `after` on, or from now.
    fn listen(self: &Arc<Self>, job: JobId, after: Option<FeedCursor>) -> JobStream {
        let mut places = lock(&self.places);
        self.sweep_in(&mut places, Instant::now());
        let over = |place: &Place| lock(&place.feed.ring).ended;
        if places.get(&job).is_some_and(over) {
            places.remove(&job); // of an earlier life
        }
        let place = places.entry(job).or_insert_with(|| Place {
            feed: Arc::new(Feed {
                number: self.numbers.fetch_add(1, Ordering::Relaxed),
                ring: Mutex::new(Ring {
                    first: 0,
                    news: VecDeque::new(),
                    bytes: 0,
                    second: Instant::now(),
                    in_second: 0,
                    left_out: 0,
                    ended: false,
                }),
                latest: watch::Sender::new(0),
            }),
            listeners: 0,
            left: None,
        });
        place.listeners += 1;
        place.left = None;
        let feed = Arc::clone(&place.feed);
        self.count(&places);
        drop(places);
        let now = lock(&feed.ring).next();
        let ours = |cursor: &FeedCursor| {
            cursor.epoch == self.epoch && cursor.feed == feed.number && cursor.position <= now
        };
        JobStream {
            position: after.filter(ours).map_or(now, |cursor| cursor.position),
            lagged: after.is_some_and(|cursor| !ours(&cursor)),
            latest: feed.latest.subscribe(),
            feeds: Arc::clone(self),
            feed,
            job,
            redact: Redact::default(),
        }
    }

    fn leave(&self, job: JobId, number: u64) {
        let mut places = lock(&self.places);
        if let Some(place) = places.get_mut(&job).filter(|p| p.feed.number == number) {
            place.listeners -= 1;
            if place.listeners == 0 {
                place.left = Some(Instant::now());
                if lock(&place.feed.ring).ended {
                    places.remove(&job);
                }
            }
        }
        self.sweep_in(&mut places, Instant::now());
    }
}

/// A listener of one job.
#[derive(Debug)]
pub struct JobStream {
    feeds: Arc<Feeds>,
    feed: Arc<Feed>,
    latest: watch::Receiver<u64>,
    job: JobId,
    position: u64,
    lagged: bool,
    redact: Redact,
}

impl JobStream {
    /// Where the next news will be read: what a client gives to go on from here.
    pub fn cursor(&self) -> FeedCursor {
        FeedCursor {
            epoch: self.feeds.epoch,
            feed: self.feed.number,
            position: self.position,
        }
    }

    /// The next news, each with the place behind it; waits for them. May be dropped while it waits.
    pub async fn next(&mut self) -> Result<Vec<(FeedCursor, JobNews)>, Lagged> {
        loop {
            if std::mem::take(&mut self.lagged) {
                return Err(Lagged);
            }
            let batch = self.take()?;
            if !batch.is_empty() {
                return Ok(batch);
            }
            let position = self.position;
            // Its sender is in the feed that this listener holds.
            let _ = self.latest.wait_for(|latest| *latest > position).await;
        }
    }

    /// What is there; news that are not for show move the place on and are left out.
    fn take(&mut self) -> Result<Vec<(FeedCursor, JobNews)>, Lagged> {
        let ring = lock(&self.feed.ring);
        if self.position < ring.first {
            self.position = ring.first;
            return Err(Lagged);
        }
        let skip = (self.position - ring.first) as usize;
        let found: Vec<_> = ring
            .news
            .iter()
            .skip(skip)
            .take(NEWS_AT_ONCE)
            .cloned()
            .collect();
        drop(ring);
        let mut batch = Vec::with_capacity(found.len());
        for news in found {
            self.position += 1;
            let cursor = self.cursor();
            batch.extend(news.shown(self.redact).map(|news| (cursor, news)));
        }
        Ok(batch)
    }
}

impl Drop for JobStream {
    fn drop(&mut self) {
        self.feeds.leave(self.job, self.feed.number);
    }
}

impl RuntimeHandle {
    /// The job as it is now, and everything that it says from now on, or from `after` on if that is
    /// still there (else the listener is told that it lags). `None`: there is no such job.
    ///
    /// It listens first and looks then: nothing is lost in between; a step may be in both.
    pub async fn listen(
        &self,
        id: JobId,
        after: Option<FeedCursor>,
    ) -> Result<Option<(Job, JobStream)>, QueryError> {
        let mut stream = self.0.hub.feeds().listen(id, after);
        let Some(job) = self.job(id).await? else {
            return Ok(None);
        };
        stream.redact = self.0.defaults_of(&job.summary.task).redact;
        Ok(Some((job, stream)))
    }
}

#[cfg(test)]
mod tests;
