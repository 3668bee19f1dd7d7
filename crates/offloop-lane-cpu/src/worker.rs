//! One thread of the lane: take, run, answer.
//!
//! Must never: run a job inside another one's stack, hold the lock while it answers, or end for a
//! panic of the task's code.

use std::sync::Arc;
use std::time::{Duration, Instant};

use offloop_job::{Failure, Outcome, Usage};
use offloop_lane::{
    Ended, Gone, LaneEvent, LaneSink, Overrun, Proof, TaskContext, TaskError, TaskOutput, Work,
    contained, drop_quietly, outcome_of,
};

use crate::meter::{Meter, own_cpu_time};
use crate::pulse::SeatSink;
use crate::shared::{Shared, wake};
use crate::state::{Begun, Hopeless, Taken};
use crate::sync::{Ordering, Step, park, spin, takes};
use crate::wide;

/// A job that has returned and is not yet answered.
struct Returned {
    work: Arc<Work>,
    ctx: TaskContext,
    answer: Result<TaskOutput, TaskError>,
    queued: Duration,
    usage: Usage,
    at: Instant,
}

enum Turn {
    Run(Begun),
    /// Nothing to do, but an answer to send first.
    Again,
    Spin,
    Sleep,
    Leave,
}

/// What a look at the state gave, to be acted on without the lock.
struct Look {
    turn: Turn,
    now: Instant,
    overrun: Option<Overrun>,
    hopeless: Vec<Hopeless>,
}

/// What a thread carries from job to job.
struct Worker<'a> {
    shared: &'a Shared,
    seat: usize,
    name: &'a str,
    pulse: &'a Arc<SeatSink>,
    meter: Meter,
    born: Instant,
}

pub(crate) fn run(shared: &Shared, seat: usize, name: &str, pulse: &Arc<SeatSink>) {
    raise_nice(shared.nice);
    let mut worker = Worker {
        shared,
        seat,
        name,
        pulse,
        meter: Meter::new(),
        born: Instant::now(),
    };
    let mut returned: Option<Returned> = None;
    let mut spun: Option<Instant> = None;
    loop {
        let look = look(
            shared,
            seat,
            returned.as_ref().map(|job| job.at),
            spun.is_some(),
        );
        if let Some(since) = spun.take() {
            worker.meter.skip(look.now.saturating_duration_since(since));
        }
        let mut begin = look.now;
        if let Some(returned) = returned.take() {
            answer(shared, name, returned, look.overrun.as_ref());
            begin = Instant::now(); // what that took is not the next job's
        }
        for hopeless in look.hopeless {
            shared.refuse(hopeless, look.now);
            begin = Instant::now();
        }
        worker.meter.skip(begin.saturating_duration_since(look.now));
        match look.turn {
            Turn::Run(begun) => returned = Some(worker.run_one(begun, begin)),
            Turn::Again => {}
            Turn::Spin => {
                worker.meter.rebase();
                spun = Some(Instant::now());
                spin(&shared.call.0, shared.spin);
            }
            Turn::Sleep => {
                worker.meter.rebase();
                park();
            }
            Turn::Leave => break,
        }
    }
    shared.left(seat);
}

/// One hold of the lock: frees the seat, then looks for the next job, and if there is none, goes to
/// bed in the same hold, so that nothing can come in between.
///
/// `finished`: when the job before returned.
///
/// The slot is free before the answer is sent, so that whoever is answered can fill it.
fn look(shared: &Shared, seat: usize, finished: Option<Instant>, spun: bool) -> Look {
    let now = finished.unwrap_or_else(Instant::now);
    let mut state = shared.lock();
    let mut look = Look {
        turn: Turn::Sleep,
        now,
        overrun: None,
        hopeless: Vec::new(),
    };
    if state.seats[seat].parked {
        return look; // woken by nobody
    }
    if finished.is_some() {
        let running = state.finish(seat, now);
        look.overrun = running.and_then(|running| running.overrun);
    }
    if state.ending || state.seats[seat].replaced > 0 {
        look.turn = Turn::Leave;
        return look;
    }
    let Taken {
        begun,
        hopeless,
        call_watch,
    } = state.take(seat, now, &shared.tasks);
    look.hopeless = hopeless;
    if let Some(begun) = begun {
        let called = takes(Step::PassOn).then(|| state.call_next()).flatten();
        drop(state);
        wake(called);
        if call_watch {
            shared.watch_call.notify_one();
        }
        look.turn = Turn::Run(begun);
        return look;
    }
    if finished.is_some() || !look.hopeless.is_empty() {
        look.turn = Turn::Again;
    } else if !spun && !shared.spin.is_zero() && state.search(seat) {
        shared.call.0.store(false, Ordering::Release);
        look.turn = Turn::Spin;
    } else {
        if !takes(Step::LookBeforePark) {
            drop(state);
            state = shared.lock();
        }
        state.end_search(seat);
        state.park(seat);
    }
    look
}

impl Worker<'_> {
    fn run_one(&mut self, begun: Begun, started: Instant) -> Returned {
        let Begun {
            work,
            token,
            queued,
            cores,
            crew,
        } = begun;
        if work.limits.cpu.is_some() {
            self.shared
                .note_cpu_start(self.seat, work.lease, own_cpu_time());
        }
        let sink: Arc<dyn LaneSink> = self.pulse.clone();
        self.shared.send(LaneEvent::Started {
            job: work.job,
            lease: work.lease,
            executor: self.name.into(),
        });
        let ctx = TaskContext::new(work.clone(), token, sink);
        let task = self.shared.tasks.get(&work.task);
        let answer = contained(|| {
            let Some(task) = task else {
                return Err(unknown_task(self.shared, &work));
            };
            match &crew {
                None => (task.handler)(&ctx),
                Some(crew) => {
                    let code = || (task.handler)(&ctx);
                    wide::run(crew, &self.shared.name, self.name, cores, code)
                }
            }
        });
        let at = Instant::now();
        let wall = at.saturating_duration_since(started);
        if let (Some(task), Ok(_)) = (task, &answer) {
            task.typical.ran(wall);
        }
        let result = answer
            .as_ref()
            .ok()
            .and_then(|output| output.result.as_ref());
        let crew_cpu = crew.map_or(Duration::ZERO, |crew| crew.cpu());
        Returned {
            usage: Usage {
                wall,
                cpu: Some(self.meter.charge(wall) + crew_cpu),
                bytes_in: work.payload.len() as u64,
                bytes_out: result.map_or(0, |result| result.len() as u64)
                    + self.pulse.take_note_bytes(),
                executor_age: Some(started.saturating_duration_since(self.born)),
                ..Usage::default()
            },
            work,
            ctx,
            answer,
            queued,
            at,
        }
    }
}

fn unknown_task(shared: &Shared, work: &Work) -> TaskError {
    TaskError::error(format!(
        "lane `{}` does not run task `{}`",
        shared.name, work.task
    ))
}

fn answer(shared: &Shared, name: &str, returned: Returned, overrun: Option<&Overrun>) {
    let Returned {
        work,
        ctx,
        answer,
        queued,
        mut usage,
        ..
    } = returned;
    let log = ctx.take_log();
    usage.bytes_out += log.written_bytes();
    let reason = ctx.token().reason();
    // An answer over a limit is dropped in here, and its destructor is the task's code.
    let outcome = contained(|| {
        Ok(outcome_of(
            answer,
            work.limits.result_bytes,
            reason,
            overrun,
        ))
    })
    .unwrap_or_else(|error| Outcome::Failed(Failure::new(error.class, error.message)));
    let (job, lease) = (work.job, work.lease);
    // The payload is dropped before the answer goes out, for the same reason.
    drop_quietly((ctx, work));
    shared.send(LaneEvent::Ended(Box::new(Ended {
        job,
        lease,
        outcome,
        executor: name.into(),
        queued,
        usage,
        log,
        gone: Gone::proven(Proof::ThreadReturned),
    })));
}

/// Raising the nice value needs no privilege. Nice is a thread's own on Linux.
fn raise_nice(by: u8) {
    let now = rustix::process::getpriority_process(None).unwrap_or(0);
    let _ = rustix::process::setpriority_process(None, (now + i32::from(by)).min(19));
    offloop_lane::slice::compute();
}
