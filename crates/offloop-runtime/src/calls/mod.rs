//! Calls: work straight to a lane, for somebody who waits. The other way in beside durable jobs.
//!
//! Calls have lanes of their own, so that a line of jobs never stands before a request, and the
//! lanes' own bounds hold for each kind (docs/adr/0016). Path: door -> **calls** -> lane -> answer.
//!
//! Must never: touch the store, or keep work going for which nobody waits.

mod ask;
mod desk;
mod line;
#[cfg(test)]
mod simulation;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use offloop_job::limits::{CALL_RESULT_BYTES_MAX, CALL_TIMEOUT_MAX, PRIORITY_MAX};
use offloop_job::{Failure, FailureClass, JobId, Lease, Outcome, TaskName};
use offloop_lane::{Ended, Lane, LaneOpenError, LeftoverError, Work, WorkLimits};
use tokio::sync::oneshot;

pub use ask::{CallAnswer, CallAsk, CallError, CallSettings, Refused, RefusedWhy};
pub use desk::CallLaneView;
pub use line::CallCounts;

use crate::admission::{Pressure, retry_after};
use crate::handle::Shared;
use crate::payload;
use desk::{Desk, Reply};

/// Over those of jobs, which count from 1, and within the whole numbers that JavaScript can hold: a
/// child in Node repeats it.
const FIRST_LEASE: u64 = 1 << 52;

/// The lanes for calls.
#[derive(Debug)]
pub(crate) struct Calls {
    desks: Vec<Arc<Desk>>,
    routes: HashMap<TaskName, usize>,
    /// Fences of calls. They never meet those of jobs, whose lanes are others.
    leases: AtomicU64,
}

impl Calls {
    pub(crate) fn new(
        lanes: Vec<Arc<dyn Lane>>,
        settings: &HashMap<TaskName, CallSettings>,
    ) -> Self {
        let mut routes = HashMap::new();
        for (index, lane) in lanes.iter().enumerate() {
            for task in lane.tasks() {
                routes.insert(task.name.clone(), index);
            }
        }
        Self {
            desks: lanes
                .into_iter()
                .map(|lane| Desk::new(lane, settings))
                .collect(),
            routes,
            leases: AtomicU64::new(FIRST_LEASE),
        }
    }

    pub(crate) fn open(&self) -> Result<(), LaneOpenError> {
        self.desks.iter().try_for_each(Desk::open)
    }

    pub(crate) fn clear_leftovers(&self) -> Result<u32, LeftoverError> {
        self.desks.iter().try_fold(0, |sum, desk| {
            desk.lane.clear_leftovers().map(|cleared| sum + cleared)
        })
    }

    pub(crate) fn lanes(&self) -> impl Iterator<Item = &Arc<dyn Lane>> {
        self.desks.iter().map(|desk| &desk.lane)
    }

    pub(crate) fn views(&self) -> Vec<CallLaneView> {
        self.desks.iter().map(|desk| desk.view()).collect()
    }

    pub(crate) fn lane_of(&self, task: &TaskName) -> Option<&Arc<dyn Lane>> {
        let index = self.routes.get(task.as_str())?;
        Some(&self.desks[*index].lane)
    }

    pub(crate) fn takes(&self, task: &str) -> bool {
        self.routes.contains_key(task)
    }

    pub(crate) fn pressure_of(&self, task: &TaskName) -> Pressure {
        let index = self.routes.get(task.as_str());
        index.map_or(Pressure::Open, |index| self.desks[*index].pressure())
    }

    /// No more calls.
    pub(crate) fn close(&self) {
        self.desks.iter().for_each(|desk| desk.close());
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.desks.iter().all(|desk| desk.is_idle())
    }

    pub(crate) fn stop_all(&self) {
        self.desks.iter().for_each(|desk| desk.stop_all());
    }

    /// Ends every executor. Nobody is told of calls that still ran: their callers have gone.
    pub(crate) fn terminate(&self, within: Duration) {
        for desk in &self.desks {
            let _ = desk.lane.terminate(within);
        }
    }

    fn desk(&self, shared: &Shared, task: &TaskName) -> Result<&Arc<Desk>, CallError> {
        if let Some(index) = self.routes.get(task.as_str()) {
            return Ok(&self.desks[*index]);
        }
        let task = task.clone();
        if shared.routes.contains_key(task.as_str()) {
            return Err(CallError::NotCallable { task });
        }
        let mut known: Vec<_> = self.routes.keys().map(|task| format!("`{task}`")).collect();
        known.sort();
        let known = known.join(", ");
        Err(CallError::UnknownTask { task, known })
    }
}

/// Runs the call and answers with its end. Dropped before that, it hangs up.
pub(crate) async fn call(shared: &Shared, ask: CallAsk) -> Result<CallAnswer, CallError> {
    if shared.is_closing() {
        return Err(CallError::ShuttingDown);
    }
    let began = Instant::now();
    let desk = shared.calls.desk(shared, &ask.task)?;
    let (len, limit) = (ask.payload.len(), desk.lane.bytes_max());
    if len > limit {
        let task = ask.task;
        return Err(CallError::PayloadTooLarge { task, len, limit });
    }
    let asked = ask
        .timeout
        .unwrap_or_else(|| desk.settings(&ask.task).timeout);
    if asked.is_zero() || asked > CALL_TIMEOUT_MAX {
        return Err(CallError::Timeout { asked });
    }
    let deadline = began + asked;
    let problems = payload::problems(shared, &ask.task, &ask.payload).await;
    if !problems.is_empty() {
        let task = ask.task;
        return Err(CallError::Payload { task, problems });
    }
    let roll = shared.dice.roll();
    if shared
        .gauge
        .crowds_out(&shared.pulse, ask.priority, roll)
        .is_some()
    {
        return Err(CallError::Refused(Refused {
            why: RefusedWhy::Pressed,
            wait: Duration::ZERO,
            retry_after: retry_after(Duration::from_secs(1), roll),
        }));
    }
    let (tell, told) = oneshot::channel();
    let task = ask.task.clone();
    let work = work(shared, ask, limit, deadline);
    let place = desk
        .admit(work, tell, shared.dice.roll())
        .map_err(|refused| refused.map_or(CallError::ShuttingDown, CallError::Refused))?;
    match tokio::time::timeout_at(deadline.into(), told).await {
        Ok(Ok(Reply::Ended(ended))) => {
            if !place.joined {
                let wait = began.elapsed().saturating_sub(ended.usage.wall);
                let now = Instant::now();
                shared.meters.called(now, &task, wait, ended.usage.wall);
            }
            answer(&place, &ended, began, asked)
        }
        Ok(Ok(Reply::Late(refused))) => Err(CallError::Refused(refused)),
        Ok(Ok(Reply::Closed) | Err(_)) => Err(CallError::ShuttingDown),
        Err(_) => {
            let begun = place.desk.has_begun(place.lease);
            Err(CallError::TimedOut {
                limit: asked,
                ran: begun.then(|| began.elapsed()),
            })
        }
    }
}

fn work(shared: &Shared, ask: CallAsk, bytes_max: usize, deadline: Instant) -> Work {
    let lease = Lease(shared.calls.leases.fetch_add(1, Ordering::Relaxed));
    let defaults = shared.defaults_of(&ask.task);
    Work {
        job: JobId::from_parts(shared.clock.now().as_millis() << 12, lease.0),
        lease,
        attempt: 1,
        task: ask.task,
        payload: ask.payload,
        priority: ask.priority.min(PRIORITY_MAX),
        limits: WorkLimits {
            timeout: defaults.timeout.unwrap_or(CALL_TIMEOUT_MAX),
            cpu: defaults.cpu_limit,
            memory_bytes: defaults.memory_limit_bytes,
            stall: defaults.stall_timeout,
            result_bytes: bytes_max.min(CALL_RESULT_BYTES_MAX),
        },
        cores: 1,
        deadline: Some(deadline),
        checkpoint: None,
        trace: ask.trace,
        inputs: std::sync::Arc::default(),
    }
}

fn answer(
    place: &desk::Place,
    ended: &Ended,
    began: Instant,
    asked: Duration,
) -> Result<CallAnswer, CallError> {
    match &ended.outcome {
        Outcome::Completed { result, .. } => Ok(CallAnswer {
            result: result.clone(),
            waited: began.elapsed().saturating_sub(ended.usage.wall),
            usage: ended.usage,
            lane: place.desk.lane.name().into(),
            executor: ended.executor.clone(),
            shared: place.joined,
        }),
        Outcome::Failed(failure) => Err(failed(failure, ended, began, asked)),
        Outcome::Snoozed { .. } => {
            let message =
                "the task asked to be run again later, which a call cannot: ask for a job";
            Err(CallError::Failed(Failure::new(
                FailureClass::Error,
                message,
            )))
        }
        // Only its last caller's leaving, or the end of the server, stops a call.
        Outcome::Stopped { .. } => Err(CallError::ShuttingDown),
    }
}

/// A limit that was the caller's patience is a timeout of the call; one of the task is its failure.
fn failed(failure: &Failure, ended: &Ended, began: Instant, asked: Duration) -> CallError {
    if failure.class == FailureClass::Timeout && began.elapsed() >= asked {
        return CallError::TimedOut {
            limit: asked,
            ran: Some(ended.usage.wall).filter(|ran| !ran.is_zero()),
        };
    }
    CallError::Failed(failure.clone())
}
