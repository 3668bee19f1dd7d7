//! One runtime that is watched: its no-op, its delays, its workers.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::runtime::{Handle, Id, RuntimeMetrics};

use crate::beat::{Beat, Came};
use crate::config::IDLE_POST;
use crate::slot::Doing;
use crate::snapshot::{Blocked, DelayView, LoopView};
use crate::utilisation::Workers;
use crate::warn::Seen;
use crate::window::{Buckets, Windowed};

const SLICE: Duration = Duration::from_secs(5);
const SLICES: usize = 12;
const LATELY: Duration = Duration::from_secs(10);
const MINUTE: Duration = Duration::from_secs(60);

/// What a look at a loop found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Look {
    /// Every thread is parked and no no-op is out.
    pub(crate) idle: bool,
    pub(crate) gone: bool,
    /// A parked thread was woken.
    pub(crate) woke: bool,
}

#[derive(Debug)]
pub(crate) struct Watched {
    pub(crate) name: Arc<str>,
    pub(crate) id: Id,
    handle: Handle,
    metrics: RuntimeMetrics,
    workers: Workers,
    beat: Option<Beat>,
    /// The loop was parked when the no-op was posted.
    found_parked: bool,
    /// Until the next one, as it was chosen then.
    pause: Duration,
    next_post: Option<Instant>,
    last: Duration,
    delays: Windowed,
    idle: Windowed,
    buckets: Buckets,
    view: DelayView,
    utilisation: f64,
}

impl Watched {
    pub(crate) fn new(name: &str, handle: Handle) -> Self {
        let metrics = handle.metrics();
        Self {
            name: name.into(),
            id: handle.id(),
            workers: Workers::new(&metrics),
            metrics,
            handle,
            beat: None,
            found_parked: false,
            pause: Duration::ZERO,
            next_post: None,
            last: Duration::ZERO,
            delays: Windowed::new(SLICE, SLICES),
            idle: Windowed::new(SLICE, SLICES),
            buckets: Buckets::default(),
            view: DelayView::default(),
            utilisation: 0.0,
        }
    }

    /// Reads the no-op that is out and posts the next when it is due. `calm`: nothing happens in the
    /// whole server, so a parked loop is woken seldom.
    pub(crate) fn look(&mut self, now: Instant, every: Duration, calm: bool) -> Look {
        let parked = self.workers.look(&self.metrics, now);
        match self.beat.as_ref().map(Beat::came) {
            Some(Came::Gone) => {
                return Look {
                    idle: true,
                    gone: true,
                    woke: false,
                };
            }
            Some(Came::Back(delay)) => {
                self.beat = None;
                self.back(now, delay, every);
            }
            Some(Came::Out) | None => {}
        }
        let due = self.next_post.is_none_or(|at| now >= at);
        let post = self.beat.is_none() && due;
        if post {
            self.beat = Some(Beat::post(&self.handle));
            self.found_parked = parked;
            self.pause = if parked && calm { IDLE_POST } else { every };
            self.next_post = Some(now + self.pause);
        } else if !(parked && calm) {
            // It was calm when the pause was chosen, and is no longer.
            self.next_post = self.next_post.map(|at| at.min(now + every));
        }
        Look {
            idle: parked && (self.beat.is_none() || post),
            gone: false,
            woke: post && parked,
        }
    }

    fn back(&mut self, now: Instant, delay: Duration, every: Duration) {
        self.last = delay;
        if self.found_parked {
            self.idle.record(now, delay, 1);
        }
        if delay >= every {
            self.delays.record_delay(now, delay, every);
            self.buckets.record_delay(delay, every);
            return;
        }
        // It stands for the looks that were spared after it.
        let times = (self.pause.as_millis() / every.as_millis().max(1)).max(1) as u32;
        self.delays.record(now, delay, times);
        self.buckets.record(delay, times);
    }

    /// Nothing was heard of one of its workers since the last look.
    pub(crate) fn is_silent(&self, now: Instant, every: Duration) -> bool {
        !self.workers.silent(now, every / 2).is_empty()
    }

    /// How old the no-op is that is out.
    fn out_for(&self, now: Instant) -> Duration {
        let beat = self.beat.as_ref().filter(|beat| beat.came() == Came::Out);
        beat.map_or(Duration::ZERO, |beat| {
            now.saturating_duration_since(beat.posted)
        })
    }

    /// Percentiles and utilisation, four times a second.
    pub(crate) fn read(&mut self, now: Instant, every: Duration) {
        let out = self.out_for(now);
        let pending = (out >= every).then_some((out, every));
        self.view = DelayView {
            now: Duration::ZERO,
            lately: self.delays.figures(now, LATELY, pending),
            minute: self.delays.figures(now, MINUTE, pending),
            idle: self
                .idle
                .figures(now, MINUTE, None)
                .map(|figures| figures.p50),
        };
        self.utilisation = self.workers.share(now);
    }

    /// Everything that holds one of its threads for `least` and longer, not counting what the
    /// thread may have waited for a processor meanwhile.
    ///
    /// `waited`: what its threads may have waited for a processor since it fell silent.
    pub(crate) fn blocks(
        &self,
        now: Instant,
        doing: &[Doing],
        waited: Duration,
        least: Duration,
    ) -> Vec<Seen> {
        let mine = doing.iter().filter(|doing| doing.home == self.id);
        let mut found: Vec<Seen> = mine
            .filter(|doing| doing.age.saturating_sub(doing.waited) >= least)
            .map(|doing| Seen {
                on: Arc::clone(&self.name),
                what: Some(doing.name),
                lasts: doing.age,
                waited: doing.waited,
                key: (doing.key.0 as u64, doing.key.1),
            })
            .collect();
        // A silent worker without a mark runs code that nobody named. Which worker a mark belongs
        // to is not known: as many as there are marks are taken to be those.
        let silent = self.workers.silent(now, least + waited);
        for (index, age) in silent.into_iter().skip(found.len()) {
            found.push(Seen {
                on: Arc::clone(&self.name),
                what: None,
                lasts: age,
                waited,
                key: (u64::MAX - index as u64, self.key()),
            });
        }
        found.sort_by_key(|seen| std::cmp::Reverse(seen.lasts));
        found
    }

    /// Differs between loops for as long as both are watched.
    fn key(&self) -> u64 {
        Arc::as_ptr(&self.name).cast::<u8>() as u64
    }

    pub(crate) fn view(&self, now: Instant, blocks: &[Seen]) -> LoopView {
        let out = self.out_for(now);
        let late = out > self.last;
        let worst = |figures: &mut Option<crate::window::Figures>| {
            if let Some(figures) = figures {
                figures.max = figures.max.max(out);
            }
        };
        let mut delay = self.view;
        worst(&mut delay.lately);
        worst(&mut delay.minute);
        delay.now = if late { out } else { self.last };
        LoopView {
            name: Arc::clone(&self.name),
            threads: self.workers.threads(),
            delay,
            buckets: Box::new(self.buckets),
            utilisation: self.utilisation,
            blocked: blocks
                .iter()
                .map(|seen| Blocked {
                    what: seen.what,
                    lasts: seen.lasts,
                    waited: seen.waited,
                })
                .collect(),
        }
    }
}
