//! What time demands, beside the path: expire, prune, and once at the start, rescue. (Promotion is
//! timed by the keeper itself, as claims depend on it.)

pub(crate) mod expire;
pub(crate) mod groups;
mod promote;
pub(crate) mod prune;
pub(crate) mod rescue;

use std::sync::Arc;
use std::time::{Duration, Instant};

use offloop_job::Timestamp;

use crate::config::RuntimeConfig;
use crate::handle::Shared;
use crate::keeper::Input;

/// What upkeep tells the keeper.
#[derive(Debug)]
pub(crate) enum Done {
    /// A piece of what comes by the clock alone.
    Piece,
    /// Ends were worked off, as far as that could be done.
    Others(groups::Others),
    /// A group was made, or has something to do.
    Stirred,
}

/// When the next piece is due. One piece runs at a time, and beside it what ends mean for others.
#[derive(Debug)]
pub(crate) struct Upkeep {
    every: Duration,
    tick: Duration,
    next_prune: Instant,
    next_expire: Instant,
    busy: bool,
    settling_others: bool,
    next_others: Instant,
    others_not_before: Instant,
    group_deadline: Option<Timestamp>,
}

impl Upkeep {
    pub(crate) fn new(config: &RuntimeConfig) -> Self {
        let now = Instant::now();
        Self {
            every: config.prune_every,
            tick: config.tick,
            next_prune: now + config.prune_every,
            next_expire: now,
            busy: false,
            settling_others: false,
            next_others: now,
            others_not_before: now,
            group_deadline: None,
        }
    }

    pub(crate) fn on(&mut self, done: Done) {
        match done {
            Done::Piece => self.busy = false,
            Done::Others(others) => {
                self.settling_others = false;
                self.group_deadline = others.next_deadline;
                if others.stuck {
                    self.others_not_before = Instant::now() + self.tick; // whatever stirs
                }
            }
            Done::Stirred => self.next_others = Instant::now(),
        }
    }

    /// Until a group runs out of time.
    pub(crate) fn wait(&self, shared: &Shared) -> Duration {
        self.group_deadline.map_or(self.tick, |at| {
            let left = at.since(shared.clock.now());
            left.max(Duration::from_millis(1))
        })
    }

    fn act_on_others(&mut self, shared: &Arc<Shared>) {
        let now = Instant::now();
        let late = |at: Timestamp| at <= shared.clock.now();
        let due = now >= self.next_others
            || self.group_deadline.is_some_and(late)
            || shared.engine.stirred();
        if self.settling_others || !due || now < self.others_not_before {
            return;
        }
        self.settling_others = true;
        self.next_others = now + self.tick;
        let shared = Arc::clone(shared);
        tokio::task::spawn_local(async move {
            let done = groups::settle_others(&shared).await;
            let others = done.unwrap_or_else(|error| {
                tracing::warn!(%error, "could not tell others of ends; trying again later");
                groups::Others::STUCK
            });
            let _ = shared.inbox.send(Input::Upkeep(Done::Others(others))); // as below
        });
    }

    /// Starts the piece that is due, as a local task that answers into the inbox.
    pub(crate) fn act(&mut self, shared: &Arc<Shared>) {
        self.act_on_others(shared);
        let now = Instant::now();
        if self.busy {
            return;
        }
        let expire = now >= self.next_expire;
        if expire {
            let alerts = shared.schedules.warn_silent(shared.clock.now());
            shared.hub.alert(alerts);
        }
        if !expire && now < self.next_prune {
            return;
        }
        if expire {
            self.next_expire = now + self.tick;
        } else {
            self.next_prune = now + self.every;
        }
        self.busy = true;
        let shared = Arc::clone(shared);
        tokio::task::spawn_local(async move {
            let (what, done) = if expire {
                ("expire jobs", expire::expire(&shared).await)
            } else {
                ("prune finished jobs", prune::prune(&shared).await)
            };
            if let Err(error) = done {
                tracing::warn!(error = %error, "could not {what}; trying again later");
            }
            let _ = shared.inbox.send(Input::Upkeep(Done::Piece)); // the keeper has ended
        });
    }
}
