//! What queues hold as of the last commit, for screens: read without waiting for the writer.
//!
//! Path: apply -> commit -> **board** -> answers. A caller that was answered finds its call here.
//!
//! Must never: show what was not committed, or cost a commit more than the lines that it touched.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use offloop_job::{QueueName, Timestamp};
use offloop_store::{QueueCounts, QueueStatus, StoreError};

use crate::index::{Index, LineCounts};

#[derive(Default)]
struct Shown {
    /// As the index has them, in its order; paused is `None` until the first time.
    queues: Vec<(QueueName, Option<bool>)>,
    /// Each with the position of its queue.
    lines: Vec<(usize, LineCounts)>,
    closed: bool,
}

#[derive(Default)]
pub(crate) struct Board(Mutex<Shown>);

impl Board {
    fn lock(&self) -> MutexGuard<'_, Shown> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Everything, for an index that was read anew.
    pub(crate) fn publish_all(&self, index: &mut Index) {
        let mut shown = self.lock();
        shown.queues.clear();
        shown.lines.clear();
        let touched = index.take_touched(); // new ones are shown whole
        drop(touched);
        show_new(&mut shown, index);
    }

    /// What a commit has changed.
    pub(crate) fn publish(&self, index: &mut Index) {
        let touched = index.take_touched();
        let mut shown = self.lock();
        show_new(&mut shown, index);
        for line in touched.lines {
            let at = line.0 as usize;
            shown.lines[at].1 = index.lines[at].counts();
        }
        for at in touched.queues {
            shown.queues[at].1 = index.queues[at].paused;
        }
    }

    pub(crate) fn close(&self) {
        self.lock().closed = true;
    }

    /// Queues that hold something or were ever paused, by name.
    pub(crate) fn queues(&self) -> Result<Vec<QueueStatus>, StoreError> {
        let shown = self.lock();
        if shown.closed {
            return Err(StoreError::Closed);
        }
        let mut sums = vec![LineCounts::default(); shown.queues.len()];
        for (queue, counts) in &shown.lines {
            sums[*queue].add(*counts);
        }
        let queues = shown.queues.iter().zip(sums);
        let found = queues.filter(|((_, paused), sum)| paused.is_some() || !sum.is_empty());
        let found = found.map(|((name, paused), sum)| {
            let status = QueueStatus {
                name: name.clone(),
                paused: *paused == Some(true),
                counts: QueueCounts {
                    waiting: 0,
                    scheduled: sum.scheduled,
                    ready: sum.ready,
                    running: sum.running,
                },
                oldest_ready: sum.oldest_ready.map(Timestamp::from_millis),
            };
            (name, status)
        });
        let by_name: BTreeMap<_, _> = found.collect();
        Ok(by_name.into_values().collect())
    }
}

/// Queues and lines that the index has and the board has not.
fn show_new(shown: &mut Shown, index: &Index) {
    let queues = &index.queues[shown.queues.len()..];
    let queues = queues
        .iter()
        .map(|queue| (queue.name.clone(), queue.paused));
    shown.queues.extend(queues);
    let lines = &index.lines[shown.lines.len()..];
    let lines = lines.iter().map(|line| (line.queue, line.counts()));
    shown.lines.extend(lines);
}
