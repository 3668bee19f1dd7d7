//! Decides what an ended attempt means for its job. Path: enqueue -> claim -> dispatch ->
//! **settle** -> publish.
//!
//! Needs the lane's [`Gone`]: no job is ready again before its executor is proven gone. Must
//! never: read the clock or draw a number; both come in.

use std::time::Duration;

use offloop_job::limits::SNOOZES_DEFAULT;
use offloop_job::{
    Decision, EventKind, Failure, FailureClass, JobEvent, JobState, Outcome, RecordWrite,
    StopReason, Timestamp, Usage, decide,
};
use offloop_lane::{Ended, Gone, Proof};
use offloop_store::{AttemptReport, Claimed, Settled, Settlement, Verdict};

use crate::hooks::FinalEnd;

/// An attempt that is over, with everything that the decision needs.
pub(crate) struct Over<'a> {
    pub(crate) claimed: &'a Claimed,
    pub(crate) lane: &'a str,
    pub(crate) ended: Ended,
    /// Its cancel was asked for.
    pub(crate) cancelling: bool,
    /// It ran with the larger memory that its task grants once.
    pub(crate) enlarged: bool,
    /// Its result is kept, or somebody waits for it.
    pub(crate) wanted: bool,
    /// Snoozes in a row that its task grants.
    pub(crate) snoozes_max: Option<u16>,
}

/// What is known of the attempt beside its outcome.
#[derive(Clone, Copy)]
struct Moods {
    cancelling: bool,
    enlarged: bool,
    wanted: bool,
}

/// One snooze too many is a failure: a job that waits for ever must not look well for ever.
fn bounded(outcome: Outcome, claimed: &Claimed, most: Option<u16>) -> Outcome {
    let most = most.unwrap_or(SNOOZES_DEFAULT);
    match outcome {
        Outcome::Snoozed { .. } if claimed.history.snoozes >= most => {
            let message = format!(
                "asked {} times in a row to be run again later; its limit is {most}",
                u32::from(most) + 1
            );
            Outcome::Failed(Failure::new(FailureClass::Error, message))
        }
        outcome => outcome,
    }
}

/// What the outcome means: the verdict, the failure for the record, and the rows that a completed
/// job brings.
fn decided(
    claimed: &Claimed,
    outcome: Outcome,
    Moods {
        cancelling,
        enlarged,
        wanted,
    }: Moods,
    now: Timestamp,
    dice: f64,
) -> (Verdict, Option<Failure>, Vec<RecordWrite>) {
    match outcome {
        // The answer came first, whatever was asked meanwhile.
        Outcome::Completed { result, records } => {
            let result = result.filter(|_| wanted);
            (Verdict::Completed { result }, None, records)
        }
        Outcome::Stopped {
            reason: StopReason::Shutdown,
            ..
        } if !cancelling => (Verdict::HandBack, None, Vec::new()),
        Outcome::Stopped { failure, .. } => {
            let failure = Failure {
                class: FailureClass::Cancelled,
                ..failure
            };
            (Verdict::Abort, Some(failure), Vec::new())
        }
        Outcome::Snoozed { .. } if cancelling => {
            let failure = Failure::new(FailureClass::Cancelled, "cancelled while it ran");
            (Verdict::Abort, Some(failure), Vec::new())
        }
        Outcome::Snoozed { after } => {
            let due = now.plus(after);
            (Verdict::Snooze { due }, None, Vec::new())
        }
        Outcome::Failed(failure) if cancelling => (Verdict::Abort, Some(failure), Vec::new()),
        Outcome::Failed(failure) => {
            let options = &claimed.options;
            let (policy, class) = (&options.retry, failure.class);
            let verdict = match decide(policy, claimed.history, class, enlarged, dice) {
                Decision::Retry { after } => Verdict::Retry {
                    due: now.plus(after),
                },
                Decision::GiveUp { reason } => Verdict::GiveUp { reason },
            };
            (verdict, Some(failure), Vec::new())
        }
    }
}

/// The settlement. `final_records` asks the task's pack for rows when a job ends without success.
pub(crate) fn settlement(
    over: Over<'_>,
    now: Timestamp,
    dice: f64,
    final_records: impl FnOnce(&FinalEnd<'_>) -> Vec<RecordWrite>,
) -> Settlement {
    let Over {
        claimed,
        lane,
        ended,
        cancelling,
        enlarged,
        wanted,
        snoozes_max,
    } = over;
    let outcome = bounded(ended.outcome, claimed, snoozes_max);
    let moods = Moods {
        cancelling,
        enlarged,
        wanted,
    };
    let (verdict, failure, mut records) = decided(claimed, outcome, moods, now, dice);
    let _proof: Proof = ended.gone.proof(); // without it there would be no settlement
    let started_at = now.minus(ended.usage.wall);
    let report = AttemptReport {
        node: claimed.node.clone(),
        lane: lane.into(),
        executor: ended.executor,
        started_at,
        ended_at: now,
        wait: started_at.since(claimed.due_at),
        usage: ended.usage,
        failure,
        log: ended.log,
    };
    let state = verdict.step().edge().1;
    if matches!(state, JobState::Failed | JobState::Cancelled) {
        records = final_records(&FinalEnd {
            id: claimed.id,
            task: &claimed.task,
            payload: &claimed.payload,
            state,
            failure: report.failure.as_ref(),
        });
    }
    Settlement {
        id: claimed.id,
        lease: claimed.lease,
        verdict,
        report,
        records,
        follow: vec![],
    }
}

/// The end of an attempt whose node is dead: the engine vouches for that.
pub(crate) fn lost(claimed: &Claimed) -> Ended {
    let message = format!(
        "the server that ran it ended without a word (node {})",
        claimed.node
    );
    Ended {
        job: claimed.id,
        lease: claimed.lease,
        outcome: Outcome::Failed(Failure::new(FailureClass::Lost, message)),
        executor: "".into(),
        queued: Duration::ZERO,
        usage: Usage::default(),
        log: offloop_job::LogTail::default(),
        gone: Gone::proven(Proof::NodeGone),
    }
}

/// The end of an attempt that no lane had yet.
pub(crate) fn unbegun(claimed: &Claimed, reason: StopReason) -> Ended {
    Ended {
        job: claimed.id,
        lease: claimed.lease,
        outcome: offloop_lane::unstarted(reason),
        executor: "".into(),
        queued: Duration::ZERO,
        usage: Usage::default(),
        log: offloop_job::LogTail::default(),
        gone: Gone::proven(Proof::NeverStarted),
    }
}

/// What subscribers hear once it is committed. A cancel that was marked meanwhile has made an end of
/// what was to be another life.
pub(crate) fn event(
    claimed: &Claimed,
    settlement: &Settlement,
    settled: Settled,
    now: Timestamp,
) -> JobEvent {
    let class = settlement
        .report
        .failure
        .as_ref()
        .map_or(FailureClass::Error, |f| f.class);
    let cancelled = match settled {
        Settled::Done(state) | Settled::Already(state) => state == JobState::Cancelled,
        Settled::Stale => false,
    };
    let kind = match settlement.verdict {
        _ if cancelled => EventKind::Cancelled,
        Verdict::Completed { .. } => EventKind::Completed,
        Verdict::Retry { due } => EventKind::Retrying { class, due_at: due },
        Verdict::Snooze { due } => EventKind::Snoozed { due_at: due },
        Verdict::GiveUp { .. } => EventKind::Failed { class },
        Verdict::HandBack => EventKind::HandedBack,
        Verdict::Abort => EventKind::Cancelled,
    };
    let queue = claimed.options.queue.clone();
    JobEvent {
        at: now,
        job: claimed.id,
        task: claimed.task.clone(),
        queue,
        kind,
    }
}
