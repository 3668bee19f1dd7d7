//! Whose turn it is: items wait in one line per host, and hosts take turns, so that one slow host never
//! holds the places that others could use.
//!
//! Must never: know what an item is, read a clock, or start more than its limits.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;

#[derive(Debug)]
struct Line<T> {
    waiting: VecDeque<T>,
    under_way: usize,
    /// It is among those that take turns.
    in_turn: bool,
}

/// Items of hosts, and the places for them.
#[derive(Debug)]
pub(crate) struct Queue<K, T> {
    lines: HashMap<K, Line<T>>,
    turns: VecDeque<K>,
    limit: usize,
    per_host: usize,
    under_way: usize,
    waiting: usize,
}

impl<K: Hash + Eq + Clone, T> Queue<K, T> {
    pub(crate) fn new(limit: usize, per_host: usize) -> Self {
        Self {
            lines: HashMap::new(),
            turns: VecDeque::new(),
            limit: limit.max(1),
            per_host: per_host.max(1),
            under_way: 0,
            waiting: 0,
        }
    }

    pub(crate) fn waiting(&self) -> usize {
        self.waiting
    }

    fn line(&mut self, host: &K) -> &mut Line<T> {
        self.lines.entry(host.clone()).or_insert_with(|| Line {
            waiting: VecDeque::new(),
            under_way: 0,
            in_turn: false,
        })
    }

    /// `first`: before those of its host that wait already; for items that had their turn before.
    pub(crate) fn push(&mut self, host: &K, item: T, first: bool) {
        self.waiting += 1;
        let line = self.line(host);
        if first {
            line.waiting.push_front(item);
        } else {
            line.waiting.push_back(item);
        }
        self.join(host);
    }

    /// Lets the host take turns, if it has something to start and a place for it.
    fn join(&mut self, host: &K) {
        let per_host = self.per_host;
        let Some(line) = self.lines.get_mut(host) else {
            return;
        };
        if !line.in_turn && !line.waiting.is_empty() && line.under_way < per_host {
            line.in_turn = true;
            self.turns.push_back(host.clone());
        }
    }

    /// The next item that may start; it has its places until [`Queue::free`].
    pub(crate) fn next(&mut self) -> Option<T> {
        if self.under_way >= self.limit {
            return None;
        }
        while let Some(host) = self.turns.pop_front() {
            let per_host = self.per_host;
            let Some(line) = self.lines.get_mut(&host) else {
                continue;
            };
            line.in_turn = false;
            // A hedge may have taken the host's last place meanwhile.
            if line.under_way >= per_host {
                continue;
            }
            let Some(item) = line.waiting.pop_front() else {
                continue;
            };
            line.under_way += 1;
            self.under_way += 1;
            self.waiting -= 1;
            self.join(&host);
            return Some(item);
        }
        None
    }

    /// Places for one more call of something that is under way; only where nobody else waits for
    /// them.
    pub(crate) fn extra(&mut self, host: &K) -> bool {
        let per_host = self.per_host;
        if self.under_way >= self.limit || !self.turns.is_empty() {
            return false;
        }
        let line = self.line(host);
        if line.under_way >= per_host {
            return false;
        }
        line.under_way += 1;
        self.under_way += 1;
        true
    }

    /// Gives places back.
    pub(crate) fn free(&mut self, host: &K) {
        self.under_way -= 1;
        if let Some(line) = self.lines.get_mut(host) {
            line.under_way -= 1;
            if line.under_way == 0 && line.waiting.is_empty() && !line.in_turn {
                self.lines.remove(host);
                return;
            }
        }
        self.join(host);
    }

    /// Everything that waits.
    pub(crate) fn drain(&mut self) -> Vec<T> {
        self.turns.clear();
        self.waiting = 0;
        let mut all = Vec::new();
        for line in self.lines.values_mut() {
            line.in_turn = false;
            all.extend(line.waiting.drain(..));
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_host_with_a_long_line_does_not_hold_up_the_others() {
        let mut queue = Queue::new(4, 2);
        for turn in 0..100 {
            queue.push(&"slow", turn, false);
        }
        queue.push(&"quick", 1_000, false);
        queue.push(&"other", 2_000, false);
        let mut started: Vec<_> = std::iter::from_fn(|| queue.next()).collect();
        started.sort_unstable();
        assert_eq!(started, [0, 1, 1_000, 2_000]);
        queue.free(&"quick");
        assert_eq!(queue.next(), None, "the slow one has its two places");
        queue.free(&"slow");
        assert_eq!(queue.next(), Some(2));
    }

    #[derive(Clone, Copy, Debug)]
    enum Step {
        Push(u8, bool),
        Next,
        Extra(u8),
        Free(u8),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            3 => (0_u8..5, any::<bool>()).prop_map(|(host, first)| Step::Push(host, first)),
            4 => Just(Step::Next),
            1 => (0_u8..5).prop_map(Step::Extra),
            3 => (0_u8..5).prop_map(Step::Free),
        ]
    }

    proptest! {
        #[test]
        fn no_order_of_events_passes_a_limit_or_forgets_an_item(
            limit in 1_usize..6,
            per_host in 1_usize..4,
            steps in proptest::collection::vec(step(), 1..300),
        ) {
            let mut queue = Queue::new(limit, per_host);
            let mut running = [0_usize; 5];
            let (mut pushed, mut started) = (0_usize, 0_usize);
            for step in steps {
                match step {
                    Step::Push(host, first) => {
                        queue.push(&host, host, first);
                        pushed += 1;
                    }
                    Step::Next => {
                        if let Some(host) = queue.next() {
                            running[usize::from(host)] += 1;
                            started += 1;
                        } else {
                            let full = running.iter().sum::<usize>() >= limit;
                            let stuck = queue.lines.iter().all(|(host, line)| {
                                line.waiting.is_empty() || running[usize::from(*host)] >= per_host
                            });
                            prop_assert!(full || stuck, "somebody could have started");
                        }
                    }
                    Step::Extra(host) => running[usize::from(host)] += usize::from(queue.extra(&host)),
                    Step::Free(host) => {
                        if running[usize::from(host)] > 0 {
                            queue.free(&host);
                            running[usize::from(host)] -= 1;
                        }
                    }
                }
                prop_assert!(running.iter().all(|here| *here <= per_host));
                prop_assert!(running.iter().sum::<usize>() <= limit);
                prop_assert_eq!(queue.under_way, running.iter().sum::<usize>());
                prop_assert_eq!(queue.waiting(), pushed - started);
            }
            prop_assert_eq!(queue.drain().len(), pushed - started);
        }
    }
}
