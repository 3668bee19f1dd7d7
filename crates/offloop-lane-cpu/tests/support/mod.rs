//! What the tests of all lanes share: a sink that can be waited on, and the rules of the trait
//! `Lane` as cases that every lane runs.

#![allow(dead_code, unreachable_pub, reason = "each lane uses its part")]
#![allow(clippy::unwrap_used, reason = "in a test an unwrap is an assertion")]

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use offloop_job::{Failure, FailureClass, JobId, Lease, Outcome, StopReason, TaskName};
use offloop_lane::{Ended, Lane, LaneEvent, LaneSink, Proof, TaskInfo, Work, WorkLimits};

/// No event takes this long; a test that waits longer has found a bug.
pub const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Debug, Default)]
pub struct TestSink {
    seen: Mutex<Seen>,
    news: Condvar,
    /// Somebody wants output and partial results.
    pub listening: AtomicBool,
}

#[derive(Debug, Default)]
pub struct Seen {
    pub started: Vec<(Lease, Box<str>)>,
    pub notes: Vec<(Lease, Bytes)>,
    /// Kept at once.
    pub checkpoints: Vec<(Lease, Bytes)>,
    pub partials: Vec<(Lease, Bytes)>,
    pub printed: Vec<(Lease, Bytes)>,
    pub ended: Vec<Ended>,
}

impl LaneSink for TestSink {
    fn send(&self, event: LaneEvent) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        match event {
            LaneEvent::Started {
                lease, executor, ..
            } => seen.started.push((lease, executor)),
            LaneEvent::Progress { lease, note, .. } => seen.notes.push((lease, note)),
            LaneEvent::Ended(ended) => seen.ended.push(*ended),
            LaneEvent::Checkpoint {
                lease, data, reply, ..
            } => {
                seen.checkpoints.push((lease, data));
                drop(seen); // the answer may bring news of its own
                reply.answer(Ok(()));
            }
            LaneEvent::Partial { lease, data, .. } => seen.partials.push((lease, data)),
            LaneEvent::Log { lease, data, .. } => seen.printed.push((lease, data)),
            LaneEvent::Wanted => {}
        }
        self.news.notify_all();
    }

    fn listens(&self, _: JobId) -> bool {
        self.listening.load(Ordering::Relaxed)
    }
}

impl TestSink {
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Waits for what `look` looks for.
    #[track_caller]
    pub fn wait<T>(&self, what: &str, mut look: impl FnMut(&mut Seen) -> Option<T>) -> T {
        let deadline = Instant::now() + PATIENCE;
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(found) = look(&mut seen) {
                return found;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "no {what} within {PATIENCE:?}: {seen:#?}");
            let waited = self.news.wait_timeout(seen, left);
            seen = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    #[track_caller]
    pub fn started(&self, lease: u64) -> Box<str> {
        self.wait("start", |seen| {
            let found = seen.started.iter().find(|row| row.0 == Lease(lease));
            found.map(|row| row.1.clone())
        })
    }

    #[track_caller]
    pub fn note(&self, lease: u64) -> Bytes {
        self.wait("note", |seen| {
            let found = seen.notes.iter().find(|row| row.0 == Lease(lease));
            found.map(|row| row.1.clone())
        })
    }

    /// Takes the end of one attempt out.
    #[track_caller]
    pub fn ended(&self, lease: u64) -> Ended {
        self.wait("end", |seen| {
            let at = seen.ended.iter().position(|e| e.lease == Lease(lease))?;
            Some(seen.ended.remove(at))
        })
    }

    #[track_caller]
    pub fn ended_count(&self, count: usize) {
        self.wait("ends", |seen| (seen.ended.len() >= count).then_some(()));
    }

    pub fn peek<T>(&self, look: impl FnOnce(&Seen) -> T) -> T {
        look(&self.seen.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Waits for a state that no event announces.
#[track_caller]
pub fn eventually(what: &str, mut look: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !look() {
        assert!(Instant::now() < deadline, "{what}: not within {PATIENCE:?}");
        std::thread::yield_now();
        std::thread::park_timeout(Duration::from_millis(1));
    }
}

pub fn info(name: &str) -> TaskInfo {
    TaskInfo {
        name: TaskName::parse(name).unwrap(),
        timeout: None,
        about: name.into(),
    }
}

pub fn limits() -> WorkLimits {
    WorkLimits {
        timeout: Duration::from_secs(60),
        cpu: None,
        memory_bytes: None,
        stall: None,
        result_bytes: offloop_job::limits::RESULT_BYTES_MAX,
    }
}

pub fn work(lease: u64, task: &str, payload: &str) -> Work {
    Work {
        job: JobId::from_parts(lease << 12, lease),
        lease: Lease(lease),
        attempt: 1,
        task: TaskName::parse(task).unwrap(),
        payload: Bytes::copy_from_slice(payload.as_bytes()),
        priority: 5,
        limits: limits(),
        cores: 1,
        deadline: None,
        checkpoint: None,
        trace: None,
        inputs: std::sync::Arc::default(),
    }
}

#[track_caller]
pub fn failure(ended: &Ended) -> &Failure {
    match &ended.outcome {
        Outcome::Failed(failure) | Outcome::Stopped { failure, .. } => failure,
        Outcome::Completed { .. } | Outcome::Snoozed { .. } => {
            panic!("it did not fail: {ended:?}")
        }
    }
}

#[track_caller]
pub fn failed_as(ended: &Ended, class: FailureClass, says: &str) {
    assert!(
        matches!(ended.outcome, Outcome::Failed(_)),
        "not failed: {ended:?}"
    );
    let failure = failure(ended);
    assert_eq!(failure.class, class, "{ended:?}");
    assert!(failure.message.contains(says), "{says:?} not in {ended:?}");
}

#[track_caller]
pub fn stopped_by(ended: &Ended, want: StopReason) {
    match &ended.outcome {
        Outcome::Stopped { reason, .. } if *reason == want => {}
        _ => panic!("not stopped by {want:?}: {ended:?}"),
    }
}

#[track_caller]
pub fn result(ended: &Ended) -> String {
    match &ended.outcome {
        Outcome::Completed { result, .. } => {
            String::from_utf8(result.clone().unwrap_or_default().to_vec()).unwrap()
        }
        _ => panic!("did not complete: {ended:?}"),
    }
}

/// A lane under test. It runs three tasks:
/// - `echo`: answers with its payload;
/// - `wait`: notes `"waiting"` as progress, then waits until it is stopped;
/// - `fail`: fails with class `invalid` and the message `no good`.
pub struct Subject {
    pub lane: Box<dyn Lane>,
    pub sink: Arc<TestSink>,
}

/// Opens a lane with so many slots, of which none is ahead.
pub type Open = fn(slots: u16) -> Subject;

pub mod cases {
    use super::*;

    pub fn each_work_has_exactly_one_end(open: Open) {
        let Subject { lane, sink } = open(4);
        let tasks = ["echo", "fail"];
        for round in 0..10_u64 {
            let batch = (0..4_u64).map(|n| round * 4 + n + 1);
            let batch: Vec<u64> = batch.collect();
            lane.start(
                batch
                    .iter()
                    .map(|lease| work(*lease, tasks[*lease as usize % 2], "[1]"))
                    .collect(),
            );
            for lease in batch {
                let ended = sink.ended(lease);
                assert_eq!(ended.job, work(lease, "echo", "").job);
                assert_ne!(ended.gone.proof(), Proof::NeverStarted);
                if lease % 2 == 0 {
                    assert_eq!(result(&ended), "[1]");
                } else {
                    failed_as(&ended, FailureClass::Invalid, "no good");
                }
            }
        }
        let left = lane.terminate(PATIENCE);
        assert_eq!(left, []);
        sink.peek(|seen| {
            assert_eq!(seen.started.len(), 40);
            assert!(seen.ended.is_empty(), "ended twice: {:?}", seen.ended);
        });
        assert_eq!(lane.status().running, 0);
    }

    pub fn a_running_stop_ends_the_job_once_and_frees_its_slot(open: Open) {
        let Subject { lane, sink } = open(1);
        lane.start(vec![work(1, "wait", "null")]);
        sink.note(1);
        lane.stop(Lease(1), StopReason::Cancel);
        lane.stop(Lease(1), StopReason::Shutdown); // the first wish stays
        let ended = sink.ended(1);
        stopped_by(&ended, StopReason::Cancel);
        assert_ne!(ended.gone.proof(), Proof::NeverStarted);
        lane.stop(Lease(1), StopReason::Cancel); // it has ended already
        lane.start(vec![work(2, "echo", "2")]);
        assert_eq!(result(&sink.ended(2)), "2");
        assert_eq!(lane.terminate(PATIENCE), []);
        sink.peek(|seen| assert!(seen.ended.is_empty(), "{:?}", seen.ended));
    }

    pub fn a_limit_ends_the_job_in_its_class(open: Open) {
        let Subject { lane, sink } = open(2);
        let mut late = work(1, "wait", "null");
        late.limits.timeout = Duration::from_millis(50);
        let mut silent = work(2, "wait", "null");
        silent.limits.stall = Some(Duration::from_millis(60));
        lane.start(vec![late, silent]);
        failed_as(&sink.ended(1), FailureClass::Timeout, "limit is 50ms");
        failed_as(&sink.ended(2), FailureClass::Stalled, "limit is 60ms");
        assert_eq!(lane.terminate(PATIENCE), []);
    }

    pub fn work_over_the_slots_is_handed_back_unstarted(open: Open) {
        let Subject { lane, sink } = open(1);
        lane.start(vec![work(1, "wait", "null"), work(2, "echo", "2")]);
        let ended = sink.ended(2);
        stopped_by(&ended, StopReason::Shutdown);
        assert_eq!(ended.gone.proof(), Proof::NeverStarted);
        lane.stop(Lease(1), StopReason::Cancel);
        stopped_by(&sink.ended(1), StopReason::Cancel);
    }

    pub fn close_refuses_new_work_and_lets_the_old_finish(open: Open) {
        let Subject { lane, sink } = open(2);
        lane.start(vec![work(1, "wait", "null")]);
        sink.note(1);
        lane.close();
        lane.start(vec![work(2, "echo", "2")]);
        let ended = sink.ended(2);
        stopped_by(&ended, StopReason::Shutdown);
        assert_eq!(ended.gone.proof(), Proof::NeverStarted);
        assert_eq!(lane.status().running, 1);
        lane.stop(Lease(1), StopReason::Cancel);
        stopped_by(&sink.ended(1), StopReason::Cancel);
    }

    pub fn terminate_ends_idle_and_busy_executors_and_answers_for_each_job(open: Open) {
        let Subject { lane, sink } = open(2);
        lane.start(vec![work(1, "wait", "null")]);
        sink.note(1);
        assert_eq!(lane.terminate(PATIENCE), []);
        stopped_by(&sink.ended(1), StopReason::Shutdown);
        assert_eq!(lane.status().executors, 0);
        lane.start(vec![work(2, "echo", "2")]);
        stopped_by(&sink.ended(2), StopReason::Shutdown);
        assert_eq!(lane.terminate(PATIENCE), []);
    }
}

/// Each rule of the trait as a test of its own name.
#[macro_export]
macro_rules! lane_conformance {
    ($open:expr) => {
        mod conformance {
            use super::*;
            $crate::lane_conformance! { @ $open;
                each_work_has_exactly_one_end
                a_running_stop_ends_the_job_once_and_frees_its_slot
                a_limit_ends_the_job_in_its_class
                work_over_the_slots_is_handed_back_unstarted
                close_refuses_new_work_and_lets_the_old_finish
                terminate_ends_idle_and_busy_executors_and_answers_for_each_job
            }
        }
    };
    (@ $open:expr; $($case:ident)*) => {
        $( #[test] fn $case() { support::cases::$case($open); } )*
    };
}
