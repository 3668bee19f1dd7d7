//! What the log is told of blocks: once when one begins to last, once when it ends, and never so
//! often that it floods.
//!
//! Pure: time and blocks come in, sentences go out.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::hint::{remedy, span};
use crate::name::Name;
use crate::snapshot::RecentBlock;

/// Between two warnings of one name.
const QUIET: Duration = Duration::from_secs(10);
/// Names that are remembered for that; one more name forgets them all.
const NAMES_MAX: usize = 256;
const RECENT_MAX: usize = 16;

/// A block as the pulse sees it now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) on: Arc<str>,
    pub(crate) what: Option<Name>,
    pub(crate) lasts: Duration,
    /// Of which its thread may have waited for a processor.
    pub(crate) waited: Duration,
    /// Tells it from every other block.
    pub(crate) key: (u64, u64),
}

#[derive(Debug)]
struct Open {
    seen: Seen,
    told: bool,
}

#[derive(Debug, Default)]
struct Quiet {
    told: Option<Instant>,
    /// Blocks that were not told since.
    untold: u32,
}

/// A line for the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Say {
    Lasts {
        on: Arc<str>,
        what: Arc<str>,
        lasts: Duration,
        remedy: &'static str,
        /// Others of the same name since the last line.
        untold: u32,
    },
    Ended {
        on: Arc<str>,
        what: Arc<str>,
        lasted: Duration,
        waited: Duration,
    },
}

fn text(what: Option<Name>) -> Arc<str> {
    what.map_or_else(|| "code without a name".into(), Name::text)
}

/// Blocks that are open, and what was told of them.
#[derive(Debug, Default)]
pub(crate) struct Warner {
    open: HashMap<(u64, u64), Open>,
    quiet: HashMap<(Arc<str>, Option<Name>), Quiet>,
    recent: VecDeque<RecentBlock>,
}

impl Warner {
    /// `blocks`: all that last now.
    pub(crate) fn on(&mut self, now: Instant, blocks: &[Seen]) -> Vec<Say> {
        let mut say = Vec::new();
        let ended: Vec<_> = self.open.keys().copied().collect();
        for key in ended {
            if blocks.iter().any(|block| block.key == key) {
                continue;
            }
            if let Some(open) = self.open.remove(&key) {
                say.extend(self.end(now, open));
            }
        }
        for block in blocks {
            if let Some(open) = self.open.get_mut(&block.key) {
                (open.seen.lasts, open.seen.waited) = (block.lasts, block.waited);
                continue;
            }
            let untold = self.may_tell(now, block);
            if let Some(untold) = untold {
                say.push(Say::Lasts {
                    on: Arc::clone(&block.on),
                    what: text(block.what),
                    lasts: block.lasts,
                    remedy: remedy(block.what.map(Name::kind)),
                    untold,
                });
            }
            let open = Open {
                seen: block.clone(),
                told: untold.is_some(),
            };
            self.open.insert(block.key, open);
        }
        say
    }

    fn end(&mut self, now: Instant, open: Open) -> Option<Say> {
        let seen = open.seen;
        if self.recent.len() == RECENT_MAX {
            self.recent.pop_back();
        }
        self.recent.push_front(RecentBlock {
            on: Arc::clone(&seen.on),
            what: seen.what,
            lasted: seen.lasts,
            ended: now,
        });
        open.told.then(|| Say::Ended {
            what: text(seen.what),
            on: seen.on,
            lasted: seen.lasts,
            waited: seen.waited,
        })
    }

    /// How many were not told since the last that was; `None`: it is too early for another.
    fn may_tell(&mut self, now: Instant, block: &Seen) -> Option<u32> {
        let key = (Arc::clone(&block.on), block.what);
        if self.quiet.len() >= NAMES_MAX && !self.quiet.contains_key(&key) {
            self.quiet.clear();
        }
        let quiet = self.quiet.entry(key).or_default();
        let early = quiet
            .told
            .is_some_and(|told| now.saturating_duration_since(told) < QUIET);
        if early {
            quiet.untold = quiet.untold.saturating_add(1);
            return None;
        }
        quiet.told = Some(now);
        Some(std::mem::take(&mut quiet.untold))
    }

    pub(crate) fn recent(&self) -> Vec<RecentBlock> {
        self.recent.iter().cloned().collect()
    }
}

/// To the log.
pub(crate) fn tell(say: &Say) {
    match say {
        Say::Lasts {
            on,
            what,
            lasts,
            remedy,
            untold,
        } => tracing::warn!(
            event_loop = &**on,
            what = &**what,
            for_ms = lasts.as_millis() as u64,
            earlier = untold,
            "`{what}` blocks the loop `{on}` and still runs: everything else on this thread waits; {remedy}"
        ),
        Say::Ended {
            on,
            what,
            lasted,
            waited,
        } => tracing::warn!(
            event_loop = &**on,
            what = &**what,
            for_ms = lasted.as_millis() as u64,
            waited_for_cpu_ms = waited.as_millis() as u64,
            "`{what}` blocked the loop `{on}` for {}",
            span(*lasted)
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(number: u64, what: Option<Name>, ms: u64) -> Seen {
        Seen {
            on: "doors".into(),
            what,
            lasts: Duration::from_millis(ms),
            waited: Duration::ZERO,
            key: (1, number),
        }
    }

    #[test]
    fn a_block_is_told_when_it_lasts_and_when_it_ends_with_its_total() {
        let mut warner = Warner::default();
        let now = Instant::now();
        let name = Some(Name::task("told twice"));
        let begun = warner.on(now, &[block(1, name, 60)]);
        assert!(matches!(&begun[..], [Say::Lasts { remedy, .. }] if remedy.contains("cpu lane")));
        assert_eq!(warner.on(now, &[block(1, name, 900)]), []);
        let ended = warner.on(now, &[]);
        let want = Say::Ended {
            on: "doors".into(),
            what: "told twice".into(),
            lasted: Duration::from_millis(900),
            waited: Duration::ZERO,
        };
        assert_eq!(ended, [want]);
        assert_eq!(warner.recent()[0].lasted, Duration::from_millis(900));
    }

    #[test]
    fn a_loop_that_is_blocked_a_thousand_times_does_not_flood_the_log() {
        let mut warner = Warner::default();
        let now = Instant::now();
        let mut lines = 0;
        for number in 0..1_000 {
            lines += warner.on(now, &[block(number, None, 60)]).len();
            lines += warner.on(now, &[]).len();
        }
        assert_eq!(lines, 2);
        assert_eq!(warner.recent().len(), RECENT_MAX);
        let later = warner.on(now + QUIET, &[block(5_000, None, 60)]);
        assert!(
            matches!(later[0], Say::Lasts { untold: 999, .. }),
            "{later:?}"
        );
    }

    #[test]
    fn one_name_does_not_silence_another() {
        let mut warner = Warner::default();
        let now = Instant::now();
        let (a, b) = (Name::task("a"), Name::task("b"));
        let both = [block(1, Some(a), 60), block(2, Some(b), 60)];
        assert_eq!(warner.on(now, &both).len(), 2);
    }

    #[test]
    fn many_names_cost_bounded_memory() {
        let mut warner = Warner::default();
        let now = Instant::now();
        for number in 0..2_000_u64 {
            let seen = Seen {
                on: format!("loop {number}").into(),
                ..block(number, None, 60)
            };
            warner.on(now, &[seen]);
            warner.on(now, &[]);
        }
        assert!(warner.quiet.len() <= NAMES_MAX && warner.open.is_empty());
    }
}
