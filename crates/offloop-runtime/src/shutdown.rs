//! How the server ends: in phases with deadlines, losing nothing.

use std::time::{Duration, Instant};

use offloop_job::{JobId, StopReason, TaskName};
use tokio::sync::oneshot;

use crate::keeper::{Input, Keeper};

/// How long each phase may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShutdownPlan {
    /// Running attempts may finish on their own; default 25 s.
    pub drain: Duration,
    /// After that they are asked to stop, and made to where their lane can; default 5 s.
    pub stop: Duration,
}

impl Default for ShutdownPlan {
    fn default() -> Self {
        Self {
            drain: Duration::from_secs(25),
            stop: Duration::from_secs(5),
        }
    }
}

/// How it went.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ShutdownReport {
    /// Attempts that were running when it began.
    pub running: usize,
    /// Of these and of those in line, handed back without spending the attempt.
    pub handed_back: usize,
    /// Threads that ignored their token: their jobs are rescued when the server starts again.
    pub abandoned: Vec<(JobId, TaskName)>,
    /// A second signal cut the drain short.
    pub forced: bool,
    /// Everything was settled and the store closed.
    pub settled: bool,
}

impl ShutdownReport {
    /// What the exit code tells.
    pub const fn is_clean(&self) -> bool {
        self.settled && self.abandoned.is_empty() && !self.forced
    }
}

/// A shutdown under way.
#[derive(Debug)]
pub(crate) struct Closing {
    pub(crate) plan: ShutdownPlan,
    pub(crate) began: Instant,
    pub(crate) phase: Phase,
    pub(crate) report: ShutdownReport,
    pub(crate) answer: oneshot::Sender<ShutdownReport>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    Drain,
    Stop,
    Terminate,
}

impl Closing {
    /// When the current phase ends.
    pub(crate) fn due(&self) -> Instant {
        match self.phase {
            Phase::Drain => self.began + self.plan.drain,
            Phase::Stop => self.began + self.plan.drain + self.plan.stop,
            // Time for the last settlements to reach the disk.
            Phase::Terminate => self.began + self.plan.drain + self.plan.stop + SETTLE_AT_END,
        }
    }
}

/// How long the last settlements may take once every executor has been dealt with.
const SETTLE_AT_END: Duration = Duration::from_secs(5);

impl Keeper {
    pub(crate) fn begin_shutdown(
        &mut self,
        plan: ShutdownPlan,
        force: oneshot::Receiver<()>,
        answer: oneshot::Sender<ShutdownReport>,
    ) {
        let report = ShutdownReport {
            running: self.running.len(),
            ..ShutdownReport::default()
        };
        let began = Instant::now();
        self.closing = Some(Closing {
            plan,
            began,
            phase: Phase::Drain,
            report,
            answer,
        });
        self.hand_back_held();
        for lane in &self.shared.lanes {
            lane.close();
        }
        self.shared.calls.close();
        let inbox = self.shared.inbox.clone();
        tokio::task::spawn_local(async move {
            if force.await.is_ok() {
                let _ = inbox.send(Input::Force);
            }
        });
    }

    /// A second signal: no more waiting for work that might end on its own.
    pub(crate) fn force(&mut self) {
        if let Some(closing) = &mut self.closing {
            closing.report.forced = true;
            closing.plan.drain = closing.began.elapsed().min(closing.plan.drain);
            closing.plan.stop = closing.plan.stop.min(Duration::from_millis(500));
        }
    }

    /// Moves on when the phase is over: drain, then stop, then terminate.
    pub(crate) fn close_step(&mut self) {
        let Some(closing) = &mut self.closing else {
            return;
        };
        let idle = self.running.is_empty() && self.shared.calls.is_idle();
        if idle || Instant::now() < closing.due() {
            return;
        }
        match closing.phase {
            Phase::Drain => {
                closing.phase = Phase::Stop;
                for (lease, running) in &self.running {
                    self.shared.lanes[running.lane].stop(*lease, StopReason::Shutdown);
                }
                self.shared.calls.stop_all();
            }
            Phase::Stop => {
                closing.phase = Phase::Terminate;
                self.shared.calls.terminate(Duration::from_millis(500));
                for lane in &self.shared.lanes {
                    for lease in lane.terminate(Duration::from_millis(500)) {
                        if let Some(running) = self.running.remove(&lease) {
                            let claimed = running.claimed;
                            closing.report.abandoned.push((claimed.id, claimed.task));
                        }
                    }
                }
            }
            Phase::Terminate => {
                for (_, running) in self.running.drain() {
                    closing
                        .report
                        .abandoned
                        .push((running.claimed.id, running.claimed.task));
                }
            }
        }
    }

    pub(crate) fn is_finished(&self) -> bool {
        let Some(closing) = &self.closing else {
            return false;
        };
        let quiet = self.running.is_empty()
            && self.shared.calls.is_idle()
            && self.over.is_empty()
            && self.settling == 0
            && !self.claiming;
        let overtime = closing.phase == Phase::Terminate && Instant::now() >= closing.due();
        quiet || overtime
    }

    pub(crate) async fn finish(mut self) {
        let Some(mut closing) = self.closing.take() else {
            return;
        };
        for lane in &self.shared.lanes {
            let _ = lane.terminate(Duration::from_millis(500)); // idle executors
        }
        self.shared.calls.terminate(Duration::from_millis(500));
        let settled = self.over.is_empty() && self.settling == 0;
        let closed = tokio::time::timeout(SETTLE_AT_END, self.shared.engine.close()).await;
        closing.report.settled = settled && matches!(closed, Ok(Ok(())));
        let _ = closing.answer.send(closing.report); // its caller gave up waiting
    }
}
