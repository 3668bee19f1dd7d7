//! What queues hold as of the last commit, for screens: read without waiting for the writer.
//!
//! Path: apply -> commit -> **board** -> answers. A caller that was answered finds its call here.
//!
//! Must never: show what was not committed, or cost a commit more than the lines that it touched.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use offloop_job::{Mode, QueueName, TaskName, Timestamp};
use offloop_store::{LineStatus, QueueCounts, QueueStatus, StoreError};

use crate::index::{Index, LineCounts};

#[derive(Default)]
struct Shown {
    /// As the index has them, in its order; the mode is `None` until it is set.
    queues: Vec<(QueueName, Option<Mode>)>,
    tasks: BTreeMap<TaskName, Mode>,
    /// Each with the position of its queue.
    lines: Vec<(usize, TaskName, LineCounts)>,
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
        shown.tasks.clone_from(&index.task_modes);
        show_new(&mut shown, index);
    }

    /// What a commit has changed.
    pub(crate) fn publish(&self, index: &mut Index) {
        let touched = index.take_touched();
        let mut shown = self.lock();
        show_new(&mut shown, index);
        for line in touched.lines {
            let at = line.0 as usize;
            shown.lines[at].2 = index.lines[at].counts();
        }
        for at in touched.queues {
            shown.queues[at].1 = index.queues[at].mode;
        }
        if touched.tasks {
            shown.tasks.clone_from(&index.task_modes);
        }
    }

    pub(crate) fn close(&self) {
        self.lock().closed = true;
    }

    pub(crate) fn task_modes(&self) -> Result<Vec<(TaskName, Mode)>, StoreError> {
        let shown = self.lock();
        if shown.closed {
            return Err(StoreError::Closed);
        }
        let modes = shown.tasks.iter();
        Ok(modes.map(|(task, mode)| (task.clone(), *mode)).collect())
    }

    /// Queues that hold something or whose mode was ever set, by name.
    pub(crate) fn queues(&self) -> Result<Vec<QueueStatus>, StoreError> {
        let shown = self.lock();
        if shown.closed {
            return Err(StoreError::Closed);
        }
        let mut sums = vec![LineCounts::default(); shown.queues.len()];
        for (queue, _, counts) in &shown.lines {
            sums[*queue].add(*counts);
        }
        let queues = shown.queues.iter().zip(sums);
        let found = queues.filter(|((_, mode), sum)| mode.is_some() || !sum.is_empty());
        let found = found.map(|((name, mode), sum)| {
            let status = QueueStatus {
                name: name.clone(),
                mode: mode.unwrap_or_default(),
                counts: shown_counts(sum),
                oldest_ready: sum.oldest_ready.map(Timestamp::from_millis),
            };
            (name, status)
        });
        let by_name: BTreeMap<_, _> = found.collect();
        Ok(by_name.into_values().collect())
    }

    /// Lines that hold something.
    pub(crate) fn backlog(&self) -> Result<Vec<LineStatus>, StoreError> {
        let shown = self.lock();
        if shown.closed {
            return Err(StoreError::Closed);
        }
        let held = shown.lines.iter().filter(|(.., counts)| !counts.is_empty());
        let status = |(queue, task, counts): &(usize, TaskName, LineCounts)| {
            let (name, mode) = &shown.queues[*queue];
            let of_task = shown.tasks.get(task).copied();
            LineStatus {
                queue: name.clone(),
                task: task.clone(),
                paused: *mode == Some(Mode::Paused) || of_task == Some(Mode::Paused),
                counts: shown_counts(*counts),
                oldest_ready: counts.oldest_ready.map(Timestamp::from_millis),
            }
        };
        Ok(held.map(status).collect())
    }
}

const fn shown_counts(counts: LineCounts) -> QueueCounts {
    QueueCounts {
        waiting: counts.waiting,
        scheduled: counts.scheduled,
        ready: counts.ready,
        running: counts.running,
    }
}

/// Queues and lines that the index has and the board has not.
fn show_new(shown: &mut Shown, index: &Index) {
    let queues = &index.queues[shown.queues.len()..];
    let queues = queues.iter().map(|queue| (queue.name.clone(), queue.mode));
    shown.queues.extend(queues);
    let lines = &index.lines[shown.lines.len()..];
    let lines = lines
        .iter()
        .map(|line| (line.queue, line.task.clone(), line.counts()));
    shown.lines.extend(lines);
}
