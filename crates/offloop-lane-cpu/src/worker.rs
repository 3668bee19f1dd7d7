//! One thread of the lane: take, run, answer.

use std::sync::Arc;
use std::time::{Duration, Instant};

use offloop_job::Usage;
use offloop_lane::{
    Ended, Gone, LaneEvent, LaneSink, Overrun, Proof, TaskContext, TaskError, TaskOutput, Work,
    contained, drop_quietly, outcome_of,
};

use crate::lane::Shared;
use crate::meter::{Meter, own_cpu_time};
use crate::pulse::SeatSink;
use crate::state::Begun;

/// A job that has returned and is not yet answered.
struct Returned {
    work: Arc<Work>,
    ctx: TaskContext,
    answer: Result<TaskOutput, TaskError>,
    queued: Duration,
    usage: Usage,
}

enum Turn {
    Run(Begun),
    Sleep,
    Leave,
}

pub(crate) fn run(shared: &Shared, seat: usize, name: &str, pulse: &Arc<SeatSink>) {
    raise_nice(shared.nice);
    let mut meter = Meter::new();
    let mut returned: Option<Returned> = None;
    loop {
        let (turn, overrun) = take_turn(shared, seat, returned.is_some());
        if let Some(returned) = returned.take() {
            answer(shared, name, returned, overrun.as_ref());
        }
        match turn {
            Turn::Run(begun) => {
                returned = Some(run_one(shared, seat, begun, name, pulse, &mut meter));
            }
            Turn::Sleep => {
                sleep(shared, seat);
                meter.rebase();
            }
            Turn::Leave => break,
        }
    }
    shared.left(seat);
}

/// One hold of the lock: frees the seat, then looks for the next job.
///
/// The slot is free before the answer is sent, so that whoever is answered can fill it.
fn take_turn(shared: &Shared, seat: usize, finished: bool) -> (Turn, Option<Overrun>) {
    let now = Instant::now();
    let mut state = shared.lock();
    let over = if finished {
        state.finish(seat).and_then(|running| running.overrun)
    } else {
        None
    };
    if state.ending || state.seats[seat].replaced {
        return (Turn::Leave, over);
    }
    let Some((begun, call_watch)) = state.begin(seat, now) else {
        return (Turn::Sleep, over);
    };
    drop(state);
    if call_watch {
        shared.watch_call.notify_one();
    }
    (Turn::Run(begun), over)
}

/// Waits until a job or the end calls this thread.
fn sleep(shared: &Shared, seat: usize) {
    let mut state = shared.lock();
    // What came since the last look at the lines found nobody asleep here.
    if state.queued > 0 || state.ending {
        return;
    }
    state.park(seat);
    loop {
        drop(state);
        std::thread::park();
        state = shared.lock();
        if !state.seats[seat].parked {
            state.awake();
            return;
        }
    }
}

fn run_one(
    shared: &Shared,
    seat: usize,
    begun: Begun,
    name: &str,
    pulse: &Arc<SeatSink>,
    meter: &mut Meter,
) -> Returned {
    let Begun {
        work,
        token,
        queued,
    } = begun;
    if work.limits.cpu.is_some() {
        shared.note_cpu_start(seat, work.lease, own_cpu_time());
    }
    let sink: Arc<dyn LaneSink> = pulse.clone();
    sink.send(LaneEvent::Started {
        job: work.job,
        lease: work.lease,
        executor: name.into(),
    });
    let ctx = TaskContext::new(work.clone(), token, sink);
    let started = Instant::now();
    let answer = contained(|| match shared.handlers.get(&work.task) {
        Some(handler) => handler(&ctx),
        None => Err(unknown_task(shared, &work)),
    });
    let wall = started.elapsed();
    Returned {
        work,
        ctx,
        answer,
        queued,
        usage: Usage {
            wall,
            cpu: Some(meter.charge(wall)),
            ..Usage::default()
        },
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
        usage,
    } = returned;
    let log = ctx.take_log();
    let outcome = outcome_of(answer, ctx.token().reason(), overrun);
    let (job, lease) = (work.job, work.lease);
    // The payload is dropped before the answer goes out: its owner's destructor is the task's code.
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
}
