//! The loop that runs the path: a closed list of inputs, one thread, one small runtime.
//!
//! Store calls run as local tasks that answer into the inbox, so the loop itself never waits for
//! one. Must never: run a task, serve HTTP, or block.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use offloop_job::{EventKind, JobEvent, Lease, Outcome, StopReason, Timestamp};
use offloop_lane::{Ended, LaneEvent};
use offloop_store::{
    Checkpoint, CheckpointOutcome, Claimed, Claims, ProgressNote, Promoted, Settled, Settlement,
    StoreError, Verdict,
};
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::oneshot;

use crate::ends;
use crate::handle::{RunningView, Shared};
use crate::limits;
use crate::path::admit::Admission;
use crate::path::checkpoint::{Checkpoints, Held};
use crate::path::claim::{self, Asked, Desk};
use crate::path::dispatch;
use crate::path::settle::{self, Over};
use crate::schedules;
use crate::shutdown::{Closing, ShutdownPlan, ShutdownReport};
use crate::upkeep::{self, Upkeep};

/// Everything that can happen to the keeper.
#[derive(Debug)]
pub(crate) enum Input {
    /// Ready work may be there.
    Wake,
    /// A job was scheduled for this time.
    DueAt(Timestamp),
    Lane {
        lane: usize,
        event: LaneEvent,
    },
    Stop {
        lease: Lease,
        reason: StopReason,
    },
    Claimed {
        asked: Asked,
        answer: Result<Claims, StoreError>,
    },
    Settled {
        batch: Vec<Attempted>,
        answer: Result<Vec<Settled>, StoreError>,
    },
    Promoted(Result<Promoted, StoreError>),
    Upkeep(upkeep::Done),
    Noted(Result<(), StoreError>),
    Checkpointed {
        batch: Vec<Held>,
        answer: Result<Vec<CheckpointOutcome>, StoreError>,
    },
    Shutdown {
        plan: ShutdownPlan,
        force: oneshot::Receiver<()>,
        answer: oneshot::Sender<ShutdownReport>,
    },
    Force,
    /// The runtime was dropped.
    Abandon,
}

/// An attempt on its way into the store.
#[derive(Debug)]
pub(crate) struct Attempted {
    pub(crate) claimed: Claimed,
    pub(crate) settlement: Settlement,
}

pub(crate) fn earlier(one: Option<Timestamp>, other: Option<Timestamp>) -> Option<Timestamp> {
    one.into_iter().chain(other).min()
}

/// Settlements in one commit.
const SETTLE_BATCH_MAX: usize = 512;
/// Settlements under way: one in the flush, one in line for the next.
const SETTLES_IN_FLIGHT_MAX: usize = 2;
/// Inputs taken at once.
const INPUTS_AT_ONCE: usize = 1_024;
/// How often the end of the last calls is looked for while the server closes.
const CALLS_LOOKED_AT: Duration = Duration::from_millis(10);
/// After a failed store call: the first wait, doubled up to the last.
const STORE_RETRY_FIRST: Duration = Duration::from_millis(20);
const STORE_RETRY_LAST: Duration = Duration::from_secs(1);

/// An attempt in a lane.
#[derive(Debug)]
pub(crate) struct Running {
    pub(crate) claimed: Claimed,
    pub(crate) lane: usize,
    pub(crate) cancelling: bool,
}

#[derive(Debug)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each says that one kind of store call is under way; they are independent"
)]
pub(crate) struct Keeper {
    pub(crate) shared: Arc<Shared>,
    pub(crate) desks: Vec<Desk>,
    pub(crate) running: HashMap<Lease, Running>,
    /// Stops for leases whose claim is still on its way to us.
    pub(crate) stop_early: HashSet<Lease>,
    /// Over, not yet handed to the store.
    pub(crate) over: Vec<Attempted>,
    /// What one turn has to tell; published together at its end.
    pub(crate) news: Vec<JobEvent>,
    pub(crate) notes: HashMap<Lease, ProgressNote>,
    pub(crate) noting: bool,
    pub(crate) checkpoints: Checkpoints,
    pub(crate) claiming: bool,
    /// A hint came while a claim was under way, which may have missed what it hints at.
    pub(crate) hinted: bool,
    pub(crate) settling: usize,
    /// No store calls before this, after one failed.
    pub(crate) pause_until: Option<Instant>,
    pub(crate) pause: Duration,
    pub(crate) admission: Admission,
    pub(crate) next_due: Option<Timestamp>,
    /// When a rate lets ready jobs go again.
    pub(crate) blocked_until: Option<Timestamp>,
    pub(crate) promoting: bool,
    pub(crate) upkeep: Upkeep,
    pub(crate) closing: Option<Closing>,
}

/// The keeper's thread, from start to end.
pub(crate) fn run(
    shared: Arc<Shared>,
    inputs: UnboundedReceiver<Input>,
    started: &std::sync::mpsc::Sender<Result<(), StoreError>>,
) {
    let runtime = match tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            let cause = offloop_store::BackendError::new(error);
            let operation = "start the keeper's runtime";
            let _ = started.send(Err(StoreError::Backend { operation, cause }));
            return;
        }
    };
    shared.pulse.watch("keeper", runtime.handle().clone());
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime, async move {
        if let Err(error) = limits::declare(&shared).await {
            let _ = started.send(Err(error));
            return;
        }
        let mut begun = upkeep::rescue::rescue(&shared).await;
        if begun.is_ok() {
            begun = schedules::load(&shared).await;
        }
        if let Err(error) = begun {
            let _ = started.send(Err(error));
            return;
        }
        shared.set_trouble(None);
        let _ = started.send(Ok(())); // the builder waits for it
        tokio::task::spawn_local(schedules::run(Arc::clone(&shared)));
        Keeper::new(shared).serve(inputs).await;
    });
}

impl Keeper {
    fn new(shared: Arc<Shared>) -> Self {
        let desks = shared.lanes.iter().map(|lane| {
            Desk::new(
                lane.tasks().iter().map(|task| task.name.clone()).collect(),
                lane.slots(),
            )
        });
        Self {
            desks: desks.collect(),
            admission: Admission::new(shared.budget, shared.lanes.len()),
            upkeep: Upkeep::new(&shared.config),
            shared,
            running: HashMap::new(),
            stop_early: HashSet::new(),
            over: Vec::new(),
            news: Vec::new(),
            notes: HashMap::new(),
            noting: false,
            checkpoints: Checkpoints::default(),
            claiming: false,
            hinted: false,
            settling: 0,
            pause_until: None,
            pause: STORE_RETRY_FIRST,
            next_due: None,
            blocked_until: None,
            promoting: false,
            closing: None,
        }
    }

    async fn serve(mut self, mut inputs: UnboundedReceiver<Input>) {
        let mut batch = Vec::with_capacity(INPUTS_AT_ONCE);
        self.promote();
        loop {
            self.act();
            self.shared.hub.publish(std::mem::take(&mut self.news));
            if self.is_finished() {
                self.finish().await;
                return;
            }
            let wait = self.wait();
            batch.clear();
            if tokio::time::timeout(wait, inputs.recv_many(&mut batch, INPUTS_AT_ONCE))
                .await
                .is_err()
            {
                self.tick();
            }
            for input in batch.drain(..) {
                if matches!(input, Input::Abandon) {
                    return;
                }
                self.on(input);
            }
        }
    }

    /// Until the next thing that time demands; never longer than one tick, whatever was missed.
    fn wait(&self) -> Duration {
        let mut wait = self.shared.config.tick.min(self.upkeep.wait(&self.shared));
        for due in [self.next_due, self.blocked_until].into_iter().flatten() {
            wait = wait.min(
                due.since(self.shared.clock.now())
                    .max(Duration::from_millis(1)),
            );
        }
        let now = Instant::now();
        if let Some(until) = self.pause_until {
            wait = wait.min(until.saturating_duration_since(now));
        }
        if let Some(closing) = &self.closing {
            wait = wait.min(closing.due().saturating_duration_since(now));
            if !self.shared.calls.is_idle() {
                wait = wait.min(CALLS_LOOKED_AT); // their ends do not come by the inbox
            }
        }
        wait
    }

    fn on(&mut self, input: Input) {
        match input {
            Input::Wake => {
                self.shared.woken.store(false, Ordering::Release);
                self.hinted = self.claiming;
                claim::wake(&mut self.desks);
            }
            Input::DueAt(due) => {
                self.next_due = earlier(self.next_due, Some(due));
            }
            Input::Lane { lane, event } => self.on_lane(lane, event),
            Input::Stop { lease, reason } => self.stop(lease, reason),
            Input::Claimed { asked, answer } => self.on_claimed(&asked, answer),
            Input::Settled { batch, answer } => self.on_settled(batch, answer),
            Input::Promoted(answer) => self.on_promoted(answer),
            Input::Upkeep(done) => self.upkeep.on(done),
            Input::Noted(answer) => {
                self.noting = false;
                if let Err(error) = answer {
                    self.store_failed("keep progress notes", &error);
                }
            }
            Input::Checkpointed { batch, answer } => self.on_checkpointed(batch, answer),
            Input::Shutdown {
                plan,
                force,
                answer,
            } => self.begin_shutdown(plan, force, answer),
            Input::Force => self.force(),
            Input::Abandon => {}
        }
    }

    /// Time passed: look again, whatever hints were lost.
    fn tick(&mut self) {
        self.shared.hub.feeds().sweep();
        claim::wake(&mut self.desks);
    }

    /// Starts every store call that is due.
    fn act(&mut self) {
        self.close_step();
        if let Some(until) = self.pause_until {
            if Instant::now() < until {
                return;
            }
            self.pause_until = None;
        }
        let now = self.shared.clock.now();
        if self.next_due.is_some_and(|due| due <= now) {
            self.promote();
        }
        // First: an attempt that fails next must find it.
        self.keep_checkpoints(now);
        if self.blocked_until.is_some_and(|until| until <= now) {
            self.blocked_until = None;
            claim::wake(&mut self.desks);
        }
        self.settle(now);
        self.note(now);
        if self.closing.is_none() {
            self.claim(now);
            self.upkeep.act(&self.shared);
        }
    }

    fn on_lane(&mut self, lane: usize, event: LaneEvent) {
        match event {
            LaneEvent::Wanted => {
                // A claim under way was asked for before this wish.
                self.hinted |= self.claiming;
                claim::wanted(&mut self.desks[lane]);
            }
            LaneEvent::Started {
                job,
                lease,
                executor,
            } => {
                let started_at = self.shared.clock.now();
                let view = RunningView {
                    lease,
                    lane,
                    executor,
                    started_at,
                };
                self.shared.running().insert(job, view);
                self.tell(lease, EventKind::Started, started_at);
            }
            LaneEvent::Progress { job, lease, note } => {
                self.notes.insert(
                    lease,
                    ProgressNote {
                        id: job,
                        lease,
                        note,
                    },
                );
            }
            LaneEvent::Checkpoint {
                job,
                lease,
                data,
                reply,
            } => {
                let begun = self
                    .running
                    .get(&lease)
                    .map(|held| &held.claimed.checkpoint);
                let advances = begun.is_some_and(|begun| begun.as_ref() != Some(&data));
                let note = Checkpoint {
                    id: job,
                    lease,
                    data,
                    advances,
                };
                self.checkpoints.add(note, reply);
            }
            // They go past the keeper, to whoever listens.
            LaneEvent::Partial { .. } | LaneEvent::Log { .. } => {}
            LaneEvent::Ended(ended) => self.on_ended(lane, *ended),
        }
    }

    pub(crate) fn tell(&mut self, lease: Lease, kind: EventKind, at: Timestamp) {
        if let Some(running) = self.running.get(&lease) {
            let claimed = &running.claimed;
            let (task, queue) = (claimed.task.clone(), claimed.options.queue.clone());
            self.news.push(JobEvent {
                at,
                job: claimed.id,
                task,
                queue,
                kind,
            });
        }
    }

    pub(crate) fn on_ended(&mut self, lane: usize, ended: Ended) {
        let room = self.admission.give_back(ended.lease);
        self.desks[lane].work_out(ended.usage.wall);
        {
            let mut views = self.shared.running();
            if views
                .get(&ended.job)
                .is_some_and(|view| view.lease == ended.lease)
            {
                views.remove(&ended.job);
            }
        }
        let Some(running) = self.running.remove(&ended.lease) else {
            tracing::error!(lease = %ended.lease, "a lane ended an attempt that it was not given");
            return;
        };
        let now = self.shared.clock.now();
        let shared = Arc::clone(&self.shared);
        if matches!(ended.outcome, Outcome::Completed { .. }) {
            let (task, wall) = (&running.claimed.task, ended.usage.wall);
            self.shared.backlog.ran(task, wall);
        }
        let defaults = self.shared.defaults_of(&running.claimed.task);
        let over = Over {
            enlarged: dispatch::enlarged(&running.claimed, defaults).is_some(),
            wanted: shared.hub.is_wanted(&running.claimed),
            snoozes_max: defaults.snoozes_max,
            claimed: &running.claimed,
            lane: self.shared.lanes[lane].name(),
            ended,
            cancelling: running.cancelling || running.claimed.cancelling,
        };
        let mut settlement = settle::settlement(over, now, shared.dice.roll(), |end| {
            shared.final_records(end)
        });
        ends::settled(&shared, &running.claimed, &mut settlement, now);
        if matches!(settlement.verdict, Verdict::HandBack)
            && let Some(closing) = &mut self.closing
        {
            closing.report.handed_back += 1;
        }
        self.over.push(Attempted {
            claimed: running.claimed,
            settlement,
        });
        if room {
            self.start_held();
        }
    }

    fn settle(&mut self, now: Timestamp) {
        while !self.over.is_empty() && self.settling < SETTLES_IN_FLIGHT_MAX {
            let count = self.over.len().min(SETTLE_BATCH_MAX);
            let batch: Vec<_> = self.over.drain(..count).collect();
            let ends = batch.iter().map(|over| over.settlement.clone()).collect();
            let call = self.shared.engine.settle(now, ends);
            let inbox = self.shared.inbox.clone();
            self.settling += 1;
            tokio::task::spawn_local(async move {
                let answer = call.await;
                let _ = inbox.send(Input::Settled { batch, answer });
            });
        }
    }

    fn on_settled(&mut self, batch: Vec<Attempted>, answer: Result<Vec<Settled>, StoreError>) {
        self.settling -= 1;
        let settled = match answer {
            Ok(settled) => settled,
            Err(error) => {
                // The executors are gone and their answers are here: keep them until they are
                // on disk, however long that takes.
                self.over.extend(batch);
                self.store_failed("settle attempts", &error);
                return;
            }
        };
        self.store_works();
        let ends = batch.iter().zip(&settled);
        let ends = ends.map(|(over, end)| (&over.claimed.task, &over.settlement, *end));
        self.shared.meters.count(Instant::now(), ends);
        let now = self.shared.clock.now();
        let mut events = Vec::with_capacity(batch.len());
        self.shared.settled.tell(&batch, &settled);
        for (over, settled) in batch.iter().zip(settled) {
            if matches!(settled, Settled::Stale) {
                tracing::warn!(job = %over.claimed.id, lease = %over.claimed.lease, "a settlement was refused: another lease holds the job");
                continue;
            }
            if let Verdict::Retry { due } | Verdict::Snooze { due } = over.settlement.verdict {
                self.next_due = earlier(self.next_due, Some(due));
            }
            for job in &over.settlement.follow {
                self.next_due = earlier(self.next_due, job.options.run_at);
            }
            if let Some(by) = &over.claimed.options.schedule {
                self.shared.schedules.job_ended(&by.name);
            }
            events.push(settle::event(&over.claimed, &over.settlement, settled, now));
        }
        self.shared.hub.publish(events);
    }

    pub(crate) fn stop(&mut self, lease: Lease, reason: StopReason) {
        if let Some(running) = self.running.get_mut(&lease) {
            running.cancelling |= matches!(reason, StopReason::Cancel);
            let lane = running.lane;
            if !self.stop_held(lease, reason) {
                self.shared.lanes[lane].stop(lease, reason);
            }
        } else if self.claiming {
            self.stop_early.insert(lease);
        }
    }

    pub(crate) fn store_failed(&mut self, what: &str, error: &StoreError) {
        if self.pause_until.is_none() {
            tracing::warn!(error = %error, pause = ?self.pause, "the store could not {what}");
        }
        self.pause_until = Some(Instant::now() + self.pause);
        self.pause = (self.pause * 2).min(STORE_RETRY_LAST);
        if self.closing.is_none() {
            self.shared.set_trouble(Some("the store does not answer"));
        }
    }

    pub(crate) fn store_works(&mut self) {
        if self.pause > STORE_RETRY_FIRST {
            self.pause = STORE_RETRY_FIRST;
            if self.closing.is_none() {
                self.shared.set_trouble(None);
            }
        }
    }
}
