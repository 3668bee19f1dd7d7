//! What the pulse costs: one mark around a poll, and the thread over an idle and a working server.
//!
//! `cargo run --release -p offloop-pulse --example cost`
#![allow(clippy::unwrap_used, reason = "an example may stop at once")]

use std::hint::black_box;
use std::time::{Duration, Instant};

use offloop_pulse::{Name, Pulse, PulseConfig, enter};

const MARKS: u32 = 5_000_000;

fn main() {
    let name = Name::task("marked");
    let bare = time(|number| {
        black_box(number);
    });
    let clock = time(|_| {
        black_box(Instant::now());
    });
    let marked = time(|_| {
        drop(black_box(enter(name)));
    });
    println!(
        "an empty loop {bare:.1} ns, a reading of the clock {clock:.1} ns, a mark {marked:.1} ns"
    );

    let runtimes: Vec<_> = [2, 1, 1, 1]
        .map(|threads| {
            tokio::runtime::Builder::new_multi_thread()
                .worker_threads(threads)
                .enable_all()
                .build()
                .unwrap()
        })
        .into();
    let before = processor_time();
    std::thread::sleep(Duration::from_secs(10));
    let without = processor_time().saturating_sub(before);
    let pulse = Pulse::start(PulseConfig::default()).unwrap();
    for (number, runtime) in runtimes.iter().enumerate() {
        pulse.watch(&format!("loop {number}"), runtime.handle().clone());
    }
    std::thread::sleep(Duration::from_secs(2));
    let before = processor_time();
    std::thread::sleep(Duration::from_secs(20));
    let with = processor_time().saturating_sub(before);
    let own = pulse.snapshot().own;
    println!(
        "four idle loops: {:.3} % of a processor without a pulse, {:.3} % with one; its thread {:.3} %, {:.0} wakes/s, {:?} late at worst",
        without.as_secs_f64() * 10.0,
        with.as_secs_f64() * 5.0,
        own.cpu * 100.0,
        own.wakes_per_s,
        own.late
    );
    // A loop that is awake at most looks: the pulse does not back off.
    runtimes[1].spawn(async {
        loop {
            let end = Instant::now() + Duration::from_micros(200);
            while Instant::now() < end {
                std::hint::spin_loop();
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    });
    std::thread::sleep(Duration::from_secs(10));
    let own = pulse.snapshot().own;
    println!(
        "one of them at work: its thread {:.3} %, {:.0} wakes/s",
        own.cpu * 100.0,
        own.wakes_per_s
    );
    for view in &pulse.snapshot().loops {
        println!("{}: {:?}", view.name, view.delay);
    }
}

/// Nanoseconds of one round.
fn time(mut round: impl FnMut(u32)) -> f64 {
    let best = (0..5).map(|_| {
        let begun = Instant::now();
        for number in 0..MARKS {
            round(number);
        }
        begun.elapsed()
    });
    best.min().unwrap().as_secs_f64() * 1e9 / f64::from(MARKS)
}

fn processor_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}
