//! What screens ask about jobs and queues.

use std::collections::BTreeMap;

use offloop_job::{JobId, JobState, QueueName, TaskName, Timestamp};
use offloop_store::{
    Cursor, Gate, JobFilter, JobPage, LineStatus, ListRequest, QueueCounts, QueueStatus,
};

use crate::state::{Row, State};

impl State {
    /// The cursor is the id of the last row of the page before.
    pub(crate) fn list(&self, ask: &ListRequest) -> JobPage {
        let before: Option<JobId> = ask.cursor.as_ref().and_then(|at| at.0.parse().ok());
        let rows = self.jobs.values().rev();
        let mut found = rows
            .filter(|row| before.is_none_or(|before| row.id < before))
            .filter(|row| fits(row, &ask.filter))
            .map(Row::summary);
        let jobs: Vec<_> = found.by_ref().take(usize::from(ask.limit)).collect();
        let last = jobs.last().filter(|_| found.next().is_some());
        let next = last.map(|last| Cursor(last.id.to_string().into()));
        JobPage { jobs, next }
    }

    pub(crate) fn queues(&self) -> Vec<QueueStatus> {
        let mut found: BTreeMap<QueueName, QueueStatus> = BTreeMap::new();
        for gate in self.modes.keys() {
            if let Gate::Queue(queue) = gate {
                found.insert(queue.clone(), self.empty_queue(queue));
            }
        }
        for row in self.jobs.values().filter(|row| !row.state.is_final()) {
            let queue = &row.options.queue;
            let status = found
                .entry(queue.clone())
                .or_insert_with(|| self.empty_queue(queue));
            count(
                &mut status.counts,
                &mut status.oldest_ready,
                row.state,
                row.due_at,
            );
        }
        found.into_values().collect()
    }

    pub(crate) fn backlog(&self) -> Vec<LineStatus> {
        let mut found: BTreeMap<(QueueName, TaskName), LineStatus> = BTreeMap::new();
        for row in self.jobs.values().filter(|row| !row.state.is_final()) {
            let (queue, task) = (row.options.queue.clone(), row.task.clone());
            let line = found
                .entry((queue.clone(), task.clone()))
                .or_insert_with(|| LineStatus {
                    paused: self.is_paused(&queue, &task),
                    queue,
                    task,
                    counts: QueueCounts::default(),
                    oldest_ready: None,
                });
            count(
                &mut line.counts,
                &mut line.oldest_ready,
                row.state,
                row.due_at,
            );
        }
        found.into_values().collect()
    }

    fn empty_queue(&self, name: &QueueName) -> QueueStatus {
        QueueStatus {
            name: name.clone(),
            mode: self.mode(&Gate::Queue(name.clone())),
            counts: QueueCounts::default(),
            oldest_ready: None,
        }
    }
}

fn count(
    counts: &mut QueueCounts,
    oldest_ready: &mut Option<Timestamp>,
    state: JobState,
    due_at: Timestamp,
) {
    match state {
        JobState::Waiting => counts.waiting += 1,
        JobState::Scheduled => counts.scheduled += 1,
        JobState::Running => counts.running += 1,
        _ => {
            counts.ready += 1;
            let oldest = oldest_ready.unwrap_or(due_at);
            *oldest_ready = Some(oldest.min(due_at));
        }
    }
}

fn fits(row: &Row, filter: &JobFilter) -> bool {
    let class = row.failure.as_ref().map(|failure| failure.class);
    filter.task.as_ref().is_none_or(|task| *task == row.task)
        && filter
            .queue
            .as_ref()
            .is_none_or(|queue| *queue == row.options.queue)
        && filter.state.is_none_or(|state| state == row.state)
        && filter.tags.iter().all(|tag| row.options.tags.contains(tag))
        && filter.class.is_none_or(|wanted| Some(wanted) == class)
        && filter.schedule.as_ref().is_none_or(|name| {
            let by = row.options.schedule.as_ref();
            by.is_some_and(|by| by.name == *name)
        })
        && filter.created.holds(row.id.created())
        && match row.finished_at {
            Some(at) => filter.finished.holds(at),
            None => filter.finished.is_open(),
        }
}
