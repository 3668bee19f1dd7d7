//! What attempts cost since this process started, by task: for counters that machines scrape.
//!
//! The store's sums outlive the process and are kept by the hour; these only grow.
//!
//! Must never: count an attempt before its end is committed.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use offloop_job::{JobState, TaskName};
use offloop_store::{Settled, Settlement, UsageRow, UsageSum, Verdict};

/// Tasks that have counters of their own; those that end their first attempt later share one
/// without a name.
const TASKS_MAX: usize = 256;

/// Counters by task.
#[derive(Debug, Default)]
pub(crate) struct Meters(Mutex<BTreeMap<Option<TaskName>, UsageRow>>);

impl Meters {
    /// Counts what was settled; an attempt that was handed back has not happened.
    pub(crate) fn count<'a>(
        &self,
        ends: impl Iterator<Item = (&'a TaskName, &'a Settlement, Settled)>,
    ) {
        let mut tasks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for (task, end, settled) in ends {
            let happened = match settled {
                Settled::Done(state) => state != JobState::Ready,
                // The answer to its first settlement was lost, and nothing was counted then.
                Settled::Already(_) => !matches!(end.verdict, Verdict::HandBack),
                Settled::Stale => false,
            };
            if !happened {
                continue;
            }
            let class = end.report.failure.as_ref().map(|failure| failure.class);
            let sum = UsageSum::of(&end.report);
            let mut place = Some(task.clone());
            if !tasks.contains_key(&place) && tasks.len() >= TASKS_MAX {
                place = None;
            }
            let row = tasks.entry(place).or_insert_with_key(|name| UsageRow {
                name: name.as_ref().map(|name| name.as_str().into()),
                ..UsageRow::default()
            });
            row.add(class, &sum);
        }
    }

    pub(crate) fn read(&self) -> Vec<UsageRow> {
        let tasks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        tasks.values().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    use offloop_job::{Failure, FailureClass, JobId, Lease, LogTail, NodeId, Timestamp, Usage};
    use offloop_store::AttemptReport;

    fn end(verdict: Verdict, class: Option<FailureClass>) -> Settlement {
        let at = Timestamp::from_millis(5);
        Settlement {
            id: JobId::from_parts(1, 1),
            lease: Lease(1),
            verdict,
            report: AttemptReport {
                node: NodeId("n".into()),
                lane: "cpu".into(),
                executor: "thread 1".into(),
                started_at: at,
                ended_at: at,
                wait: Duration::ZERO,
                usage: Usage {
                    wall: Duration::from_micros(7),
                    ..Usage::default()
                },
                failure: class.map(|class| Failure::new(class, "x")),
                log: LogTail::default(),
            },
            records: vec![],
        }
    }

    #[test]
    fn what_did_not_happen_is_not_counted() {
        let meters = Meters::default();
        let task = TaskName::parse("t").unwrap();
        let done = end(Verdict::Completed { result: None }, None);
        let back = end(Verdict::HandBack, Some(FailureClass::Cancelled));
        meters.count(
            [
                (&task, &done, Settled::Done(JobState::Completed)),
                (&task, &done, Settled::Stale),
                (&task, &done, Settled::Already(JobState::Completed)),
                (&task, &back, Settled::Done(JobState::Ready)),
                (&task, &back, Settled::Already(JobState::Running)),
                (&task, &back, Settled::Done(JobState::Cancelled)),
            ]
            .into_iter(),
        );
        let row = meters.read().remove(0);
        assert_eq!((row.total.attempts, row.total.wall_us), (3, 21));
        assert_eq!(row.completed, 2);
        assert_eq!(row.failed, [(FailureClass::Cancelled, 1)]);
    }

    #[test]
    fn many_tasks_share_a_counter_in_the_end() {
        let meters = Meters::default();
        let done = end(Verdict::Completed { result: None }, None);
        for number in 0..TASKS_MAX + 5 {
            let task = TaskName::parse(&format!("t{number}")).unwrap();
            let settled = Settled::Done(JobState::Completed);
            meters.count([(&task, &done, settled)].into_iter());
        }
        let rows = meters.read();
        assert_eq!(rows.len(), TASKS_MAX + 1);
        assert_eq!((rows[0].name.as_deref(), rows[0].completed), (None, 5));
    }
}
