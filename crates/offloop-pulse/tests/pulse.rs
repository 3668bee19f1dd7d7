//! A pulse over real runtimes that are really blocked.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use offloop_pulse::{
    Figures, HintKind, LaneSample, LoopView, Name, Pulse, PulseConfig, Snapshot, Source,
    TaskSample, doing, enter,
};
use tokio::runtime::{Builder, Runtime};

/// Nothing here takes this long, not even on a machine that is busy with other tests.
const SOON: Duration = Duration::from_secs(30);

fn pulse() -> Pulse {
    Pulse::start(PulseConfig::default()).unwrap()
}

fn runtime(threads: usize) -> Runtime {
    Builder::new_multi_thread()
        .worker_threads(threads)
        .enable_all()
        .build()
        .unwrap()
}

/// Computes until the test opens it. The test must open it, or the runtime's end waits for ever.
#[derive(Clone, Default)]
struct Gate(Arc<AtomicBool>);

impl Gate {
    fn spin(&self) {
        while !self.0.load(Ordering::Acquire) {
            std::hint::spin_loop();
        }
    }

    fn open(&self) {
        self.0.store(true, Ordering::Release);
    }
}

impl Drop for Gate {
    /// A test that fails does not hang: it is declared after the runtimes, so it is dropped first.
    fn drop(&mut self) {
        if Arc::strong_count(&self.0) <= 2 {
            self.open();
        }
    }
}

/// Of this thread.
fn processor_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

fn the<'s>(snapshot: &'s Snapshot, name: &str) -> &'s LoopView {
    let mut loops = snapshot.loops.iter();
    loops.find(|view| &*view.name == name).unwrap()
}

fn blocks(snapshot: &Snapshot, name: &str) -> Vec<String> {
    let view = snapshot.loops.iter().find(|view| &*view.name == name);
    let blocked = view.map_or(&[][..], |view| &view.blocked);
    let what = blocked.iter().map(|block| block.what);
    what.map(|what| what.map_or("?".into(), |name| name.text().to_string()))
        .collect()
}

#[test]
fn a_block_is_seen_while_it_lasts_with_its_name_and_its_age() {
    let (pulse, runtime, gate) = (pulse(), runtime(1), Gate::default());
    pulse.watch("one", runtime.handle().clone());
    let held = gate.clone();
    let name = Name::task("spins until released");
    let task = runtime.spawn(doing(name, async move { held.spin() }));
    let seen = pulse.wait_for(SOON, |snapshot| {
        blocks(snapshot, "one") == ["spins until released"]
            && the(snapshot, "one").delay.now > Duration::from_millis(200)
    });
    let seen = seen.expect("the block was not seen while it lasted");
    let view = the(&seen, "one");
    assert!(view.blocked[0].lasts >= Duration::from_millis(50));
    assert!(!task.is_finished(), "seen only after its end");
    gate.open();
    let after = pulse.wait_for(SOON, |snapshot| {
        blocks(snapshot, "one").is_empty() && !snapshot.recent.is_empty()
    });
    let after = after.expect("the block did not end");
    let recent = &after.recent[0];
    assert_eq!(recent.what, Some(name));
    assert!(recent.lasted >= Duration::from_millis(150), "{recent:?}");
    let figures = pulse.wait_for(SOON, |snapshot| {
        let lately = the(snapshot, "one").delay.lately;
        lately.is_some_and(|lately| lately.max >= Duration::from_millis(200))
    });
    assert!(figures.is_some(), "the delay left no trace in the figures");
}

#[test]
fn one_blocked_thread_of_two_is_not_hidden_by_the_other() {
    let (pulse, runtime, gate) = (pulse(), runtime(2), Gate::default());
    pulse.watch("two", runtime.handle().clone());
    let held = gate.clone();
    runtime.spawn(doing(Name::route("GET /slow"), async move { held.spin() }));
    let seen = pulse.wait_for(SOON, |snapshot| blocks(snapshot, "two") == ["GET /slow"]);
    assert!(seen.is_some(), "{:?}", pulse.snapshot());
    // The other thread still runs what comes.
    let answer = runtime.block_on(async {
        let other = tokio::spawn(async { 7 });
        tokio::time::timeout(SOON, other).await
    });
    assert_eq!(answer.unwrap().unwrap(), 7);
    gate.open();
}

#[test]
fn code_that_nobody_marked_is_seen_without_a_name() {
    let (pulse, runtime, gate) = (pulse(), runtime(2), Gate::default());
    pulse.watch("unmarked", runtime.handle().clone());
    let held = gate.clone();
    runtime.spawn(async move { held.spin() });
    let seen = pulse.wait_for(SOON, |snapshot| blocks(snapshot, "unmarked") == ["?"]);
    assert!(seen.is_some(), "{:?}", pulse.snapshot());
    gate.open();
    let after = pulse.wait_for(SOON, |snapshot| blocks(snapshot, "unmarked").is_empty());
    assert!(after.is_some());
}

#[test]
fn a_block_of_one_loop_is_not_laid_at_another_ones_door() {
    let (pulse, guilty, innocent) = (pulse(), runtime(1), runtime(1));
    let gate = Gate::default();
    pulse.watch("guilty", guilty.handle().clone());
    pulse.watch("innocent", innocent.handle().clone());
    let held = gate.clone();
    guilty.spawn(async move {
        let _entered = enter(Name::section("guilty section"));
        held.spin();
    });
    let seen = pulse.wait_for(SOON, |snapshot| {
        blocks(snapshot, "guilty") == ["guilty section"]
    });
    assert!(blocks(&seen.unwrap(), "innocent").is_empty());
    gate.open();
}

#[test]
fn an_idle_loop_has_a_baseline_and_hardly_any_use() {
    let (pulse, runtime) = (pulse(), runtime(2));
    pulse.watch("idle", runtime.handle().clone());
    let seen = pulse.wait_for(SOON, |snapshot| {
        snapshot.loops.first().is_some_and(|view| {
            let known = view.delay.lately.is_some_and(|some| some.count > 100);
            // In the end: the machine may be busy with other tests.
            known && view.delay.idle < Some(Duration::from_millis(50)) && view.utilisation < 0.2
        })
    });
    let seen = seen.expect("no baseline, or an idle loop that counts as busy");
    let view = the(&seen, "idle");
    assert!(view.delay.idle.is_some());
    let figures = view.delay.lately.unwrap();
    assert!(figures.p50 <= figures.p99 && figures.p99 <= figures.max);
}

#[test]
fn use_is_that_of_the_last_seconds_and_not_since_the_start() {
    let (pulse, runtime, gate) = (pulse(), runtime(1), Gate::default());
    pulse.watch("used", runtime.handle().clone());
    let share = |low: f64, high: f64| {
        let seen = pulse.wait_for(SOON, |snapshot| {
            let view = snapshot.loops.first();
            view.is_some_and(|view| (low..=high).contains(&view.utilisation))
        });
        assert!(seen.is_some(), "{:?}", pulse.snapshot().loops[0]);
    };
    let idle = pulse.wait_for(SOON, |snapshot| snapshot.number > 2);
    assert!(idle.is_some());
    share(0.0, 0.2);
    // Blocked: tokio's own counter stands still for as long.
    let held = gate.clone();
    runtime.spawn(async move { held.spin() });
    share(0.9, 1.0);
    gate.open();
    share(0.0, 0.2);
    // Busy in many short polls.
    let busy = Gate::default();
    let until = busy.clone();
    runtime.spawn(async move {
        while !until.0.load(Ordering::Acquire) {
            let end = Instant::now() + Duration::from_micros(200);
            while Instant::now() < end {
                std::hint::spin_loop();
            }
            tokio::task::yield_now().await;
        }
    });
    share(0.8, 1.0);
    // Busy is not blocked.
    let free = pulse.wait_for(SOON, |snapshot| blocks(snapshot, "used").is_empty());
    assert!(free.is_some());
    busy.open();
    share(0.0, 0.2);
}

#[test]
fn a_runtime_that_ended_is_no_longer_watched() {
    let (pulse, kept, ends) = (pulse(), runtime(1), runtime(1));
    pulse.watch("kept", kept.handle().clone());
    pulse.watch("ends", ends.handle().clone());
    pulse.watch("ends again", ends.handle().clone());
    let both = pulse.wait_for(SOON, |snapshot| snapshot.loops.len() == 2);
    assert!(both.is_some(), "a runtime is watched once");
    drop(ends);
    let one = pulse.wait_for(SOON, |snapshot| snapshot.loops.len() == 1);
    assert_eq!(&*one.unwrap().loops[0].name, "kept");
}

#[test]
fn two_loops_of_one_name_are_not_taken_for_one() {
    let (pulse, one, other) = (pulse(), runtime(1), runtime(1));
    pulse.watch("same", one.handle().clone());
    pulse.watch("same", other.handle().clone());
    let both = pulse.wait_for(SOON, |snapshot| snapshot.loops.len() == 2);
    let both = both.expect("two runtimes");
    let names: Vec<_> = both.loops.iter().map(|view| &*view.name).collect();
    assert_eq!(names, ["same", "same:2"]);
}

#[test]
fn an_idle_server_is_left_alone() {
    let pulse = pulse();
    let runtimes = [runtime(2), runtime(1), runtime(1)];
    for (number, runtime) in runtimes.iter().enumerate() {
        pulse.watch(&format!("idle {number}"), runtime.handle().clone());
    }
    let quiet = pulse.wait_for(SOON, |snapshot| {
        let wakes = snapshot.own.wakes_per_s;
        wakes > 0.0 && wakes <= 100.0
    });
    assert!(quiet.is_some(), "{:?}", pulse.snapshot().own);
}

#[test]
fn a_pulse_that_is_off_costs_no_thread_and_says_nothing() {
    let (pulse, runtime) = (Pulse::off(), runtime(1));
    pulse.watch("nobody looks", runtime.handle().clone());
    assert!(!pulse.is_on() && pulse.snapshot().number == 0);
}

/// A lane whose figures the test sets, and tasks as they come.
#[derive(Debug)]
struct Shown {
    running: Arc<AtomicU64>,
    p50_us: Arc<AtomicU64>,
    here: Arc<AtomicBool>,
}

impl Source for Shown {
    fn lanes(&mut self) -> Option<Vec<LaneSample>> {
        self.here.load(Ordering::Acquire).then(|| {
            vec![LaneSample {
                name: "cpu".into(),
                running: self.running.load(Ordering::Acquire) as u32,
                slots: 4,
                queued: 3,
                stuck: 0,
                head_age: Some(Duration::from_millis(9)),
            }]
        })
    }

    fn tasks(&mut self, _now: Instant) -> Option<Vec<TaskSample>> {
        let run = Figures {
            count: 1_000,
            p50: Duration::from_micros(self.p50_us.load(Ordering::Acquire)),
            ..Figures::default()
        };
        Some(vec![TaskSample {
            task: Some("tiny".into()),
            dispatched: true,
            wait: None,
            run: Some(run),
        }])
    }
}

#[test]
fn hints_come_and_go_with_what_they_are_about() {
    let pulse = pulse();
    let (running, p50_us) = (Arc::new(AtomicU64::new(4)), Arc::new(AtomicU64::new(7)));
    let here = Arc::new(AtomicBool::new(true));
    pulse.source(Box::new(Shown {
        running: Arc::clone(&running),
        p50_us: Arc::clone(&p50_us),
        here: Arc::clone(&here),
    }));
    let full = pulse.wait_for(SOON, |snapshot| {
        let lane = snapshot.lanes.first();
        let task = snapshot.tasks.first();
        lane.is_some_and(|lane| lane.saturation > 0.99) && task.is_some()
    });
    let hints = full.unwrap().tasks[0].hints.clone();
    assert_eq!(hints[0].kind, HintKind::TooShort);
    assert!(hints[0].say.contains("batches"));
    p50_us.store(900, Ordering::Release);
    running.store(0, Ordering::Release);
    let calm = pulse.wait_for(SOON, |snapshot| {
        snapshot.lanes[0].saturation < 0.01 && snapshot.tasks[0].hints.is_empty()
    });
    assert!(calm.is_some(), "{:?}", pulse.snapshot());
    here.store(false, Ordering::Release);
    let gone = pulse.wait_for(SOON, |snapshot| snapshot.lanes.is_empty());
    assert!(
        gone.is_some(),
        "the figures of a server that is gone are shown"
    );
}

#[test]
fn a_task_that_computes_on_a_loop_is_told_to_move() {
    let (pulse, runtime) = (pulse(), runtime(1));
    pulse.watch("advised", runtime.handle().clone());
    let name = Name::task("computes inline");
    runtime.block_on(async {
        for _ in 0..3 {
            let inline = doing(name, async {
                // Its own time: what the thread waits for a processor is not the code's.
                let end = processor_time() + Duration::from_millis(80);
                while processor_time() < end {
                    std::hint::spin_loop();
                }
            });
            tokio::spawn(inline).await.unwrap();
        }
    });
    let seen = pulse.wait_for(SOON, |snapshot| {
        let row = snapshot.polls.first();
        row.is_some_and(|row| row.what == name && row.long == 3)
    });
    let seen = seen.unwrap();
    let row = &seen.polls[0];
    assert!(row.longest >= Duration::from_millis(80));
    assert!(row.hint.as_ref().unwrap().say.contains("cpu lane"));
}

#[test]
fn a_poll_that_sleeps_is_a_block_too() {
    let (pulse, runtime, gate) = (pulse(), runtime(1), Gate::default());
    pulse.watch("sleepy", runtime.handle().clone());
    // As a read that waits for the disk would.
    let sleeps = gate.clone();
    let name = Name::task("sleeps in its poll");
    runtime.spawn(doing(name, async move {
        while !sleeps.0.load(Ordering::Acquire) {
            std::thread::sleep(Duration::from_millis(5));
        }
    }));
    let seen = pulse.wait_for(SOON, |snapshot| {
        blocks(snapshot, "sleepy") == ["sleeps in its poll"]
    });
    let block = the(&seen.unwrap(), "sleepy").blocked[0];
    assert!(
        block.lasts.saturating_sub(block.waited) >= Duration::from_millis(50),
        "{block:?}"
    );
    gate.open();
}
