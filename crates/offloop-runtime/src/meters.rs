//! What attempts cost since this process started, by task: for counters that machines scrape. How
//! long they waited and ran: since the start, and in the last minute or two.
//!
//! The store's sums outlive the process and are kept by the hour; these only grow.
//!
//! Must never: count an attempt before its end is committed.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use offloop_job::{FailureClass, JobState, TaskName};
use offloop_pulse::{Buckets, Figures, Windowed};
use offloop_store::{Settled, Settlement, UsageRow, UsageSum, Verdict};

/// Tasks that have counters of their own; those that end their first attempt later share one
/// without a name.
const TASKS_MAX: usize = 256;
/// Times are of the minute that is being filled and the one before.
const SLICE: Duration = Duration::from_secs(60);

/// Waits and runs of one task's jobs and calls since the process started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskBuckets {
    /// `None`: tasks over the bound, together.
    pub task: Option<TaskName>,
    /// From due, or from the call, to started.
    pub wait: Buckets,
    /// From started to ended.
    pub run: Buckets,
}

/// The same in the last minute or two.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TaskFigures {
    pub(crate) task: Option<TaskName>,
    pub(crate) wait: Option<Figures>,
    pub(crate) run: Option<Figures>,
}

/// Has a lock of its own, so that a reader who works out percentiles holds up one task only.
#[derive(Debug)]
struct Times {
    wait: (Windowed, Buckets),
    run: (Windowed, Buckets),
}

impl Default for Times {
    fn default() -> Self {
        let empty = || (Windowed::new(SLICE, 1), Buckets::default());
        Self {
            wait: empty(),
            run: empty(),
        }
    }
}

impl Times {
    fn record(&mut self, at: Instant, wait: Duration, run: Duration) {
        for ((window, buckets), value) in [(&mut self.wait, wait), (&mut self.run, run)] {
            window.record(at, value, 1);
            buckets.record(value, 1);
        }
    }
}

#[derive(Debug, Default)]
struct Meter {
    row: UsageRow,
    times: Arc<Mutex<Times>>,
}

/// Counters by task.
#[derive(Debug, Default)]
pub(crate) struct Meters(Mutex<BTreeMap<Option<TaskName>, Meter>>);

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The meter of a task, or the one that the tasks over the bound share.
fn meter<'m>(meters: &'m mut BTreeMap<Option<TaskName>, Meter>, task: &TaskName) -> &'m mut Meter {
    let mut place = Some(task.clone());
    if !meters.contains_key(&place) && meters.len() >= TASKS_MAX {
        place = None;
    }
    meters.entry(place).or_insert_with_key(|name| Meter {
        row: UsageRow {
            name: name.as_ref().map(|name| name.as_str().into()),
            ..UsageRow::default()
        },
        times: Arc::default(),
    })
}

impl Meters {
    /// Counts what was settled; an attempt that was handed back has not happened.
    pub(crate) fn count<'a>(
        &self,
        at: Instant,
        ends: impl Iterator<Item = (&'a TaskName, &'a Settlement, Settled)>,
    ) {
        let mut meters = lock(&self.0);
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
            let report = &end.report;
            let class = report.failure.as_ref().map(|failure| failure.class);
            let meter = meter(&mut meters, task);
            meter.row.add(class, &UsageSum::of(report));
            // Nobody knows how long an attempt ran whose node died.
            if class != Some(FailureClass::Lost) {
                lock(&meter.times).record(at, report.wait, report.usage.wall);
            }
        }
    }

    /// A call that ran: it has its times here, and no row among the attempts of jobs.
    pub(crate) fn called(&self, at: Instant, task: &TaskName, wait: Duration, run: Duration) {
        let times = Arc::clone(&meter(&mut lock(&self.0), task).times);
        lock(&times).record(at, wait, run);
    }

    pub(crate) fn read(&self) -> Vec<UsageRow> {
        let meters = lock(&self.0);
        let rows = meters.values().map(|meter| &meter.row);
        rows.filter(|row| row.total.attempts > 0).cloned().collect()
    }

    fn times(&self) -> Vec<(Option<TaskName>, Arc<Mutex<Times>>)> {
        let meters = lock(&self.0);
        let each =
            |(task, meter): (&Option<TaskName>, &Meter)| (task.clone(), Arc::clone(&meter.times));
        meters.iter().map(each).collect()
    }

    pub(crate) fn buckets(&self) -> Vec<TaskBuckets> {
        let each = |(task, times): (Option<TaskName>, Arc<Mutex<Times>>)| {
            let times = lock(&times);
            TaskBuckets {
                task,
                wait: times.wait.1,
                run: times.run.1,
            }
        };
        self.times().into_iter().map(each).collect()
    }

    /// Of the tasks that ran lately.
    pub(crate) fn figures(&self, at: Instant) -> Vec<TaskFigures> {
        let each = |(task, times): (Option<TaskName>, Arc<Mutex<Times>>)| {
            let mut times = lock(&times);
            let wait = times.wait.0.figures(at, SLICE, None);
            let run = times.run.0.figures(at, SLICE, None);
            run.is_some().then_some(TaskFigures { task, wait, run })
        };
        self.times().into_iter().filter_map(each).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use offloop_job::{Failure, JobId, Lease, LogTail, NodeId, Timestamp, Usage};
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
            follow: vec![],
        }
    }

    #[test]
    fn what_did_not_happen_is_not_counted() {
        let meters = Meters::default();
        let task = TaskName::parse("t").unwrap();
        let done = end(Verdict::Completed { result: None }, None);
        let back = end(Verdict::HandBack, Some(FailureClass::Cancelled));
        meters.count(
            Instant::now(),
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
            meters.count(Instant::now(), [(&task, &done, settled)].into_iter());
        }
        let rows = meters.read();
        assert_eq!(rows.len(), TASKS_MAX + 1);
        assert_eq!((rows[0].name.as_deref(), rows[0].completed), (None, 5));
    }

    #[test]
    fn times_are_forgotten_and_counts_are_not() {
        let meters = Meters::default();
        let task = TaskName::parse("timed").unwrap();
        let mut done = end(Verdict::Completed { result: None }, None);
        done.report.wait = Duration::from_millis(3);
        let start = Instant::now();
        let settled = Settled::Done(JobState::Completed);
        meters.count(start, [(&task, &done, settled)].into_iter());
        let now = meters.figures(start).remove(0);
        assert_eq!(now.run.unwrap().max, Duration::from_micros(7));
        assert!(now.wait.unwrap().p50 >= Duration::from_millis(3));
        assert_eq!(meters.figures(start + 3 * SLICE), []);
        let ever = meters.buckets().remove(0);
        assert_eq!(ever.wait.sum_us, 3_000);
        assert_eq!(ever.run.counts.iter().sum::<u64>(), 1);
    }
}
