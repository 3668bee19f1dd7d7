//! What time demands, beside the path: expire, prune, and once at the start, rescue. (Promotion is
//! timed by the keeper itself, as claims depend on it.)

pub(crate) mod expire;
pub(crate) mod prune;
pub(crate) mod rescue;

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::config::RuntimeConfig;
use crate::handle::Shared;
use crate::keeper::Input;

/// When the next piece is due. One piece runs at a time.
#[derive(Debug)]
pub(crate) struct Upkeep {
    every: Duration,
    tick: Duration,
    next_prune: Instant,
    next_expire: Instant,
    busy: bool,
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
        }
    }

    pub(crate) fn done(&mut self) {
        self.busy = false;
    }

    /// Starts the piece that is due, as a local task that answers into the inbox.
    pub(crate) fn act(&mut self, shared: &Arc<Shared>) {
        let now = Instant::now();
        if self.busy {
            return;
        }
        let expire = now >= self.next_expire;
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
            let _ = shared.inbox.send(Input::UpkeepDone); // the keeper has ended
        });
    }
}
