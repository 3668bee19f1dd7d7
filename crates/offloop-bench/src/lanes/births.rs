//! What the start of a child costs an event loop in a server that holds two gigabytes.
//!
//! A thread posts to a loop every half millisecond and the loop writes down how long that took:
//! with nothing else, while the lane starts commands, and while the standard library starts them
//! with a `pre_exec`, which makes it fork the whole memory.

use std::os::unix::process::CommandExt as _;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use offloop_lane::Lane;
use offloop_lane_process::{ProcessLane, ProcessSpec};
use serde_json::json;

use super::Bench;
use super::work::{Line, info, quantile, work};
use crate::tell::Figure;

const HELD_BYTES: usize = 2 << 30;
const POST_EVERY: Duration = Duration::from_micros(500);
const SPAN: Duration = Duration::from_millis(700);
/// Between two children.
const START_EVERY: Duration = Duration::from_millis(10);
const HOUR: Duration = Duration::from_secs(3_600);

/// Starts a child and waits for its end.
type Start<'a> = &'a mut dyn FnMut() -> anyhow::Result<()>;

pub(super) fn measure(bench: &mut Bench) -> anyhow::Result<()> {
    let mut held = vec![0_u8; HELD_BYTES];
    held.iter_mut().step_by(4_096).for_each(|byte| *byte = 1);
    let (line, heard) = Line::new();
    let lane = ProcessLane::new(
        ProcessSpec::exec(info()?, ["true"]),
        Arc::clone(&bench.host),
    );
    lane.open(Arc::new(line))?;
    let task = info()?.name;
    let mut lease = 0;
    let (mut idle, mut ours, mut fork) = (Vec::new(), Vec::new(), Vec::new());
    let mut worst = [Duration::ZERO; 3];
    for _ in 0..bench.rounds {
        let rounds: [(&mut Vec<f64>, Start<'_>); 3] = [
            (&mut idle, &mut || Ok(())),
            (&mut ours, &mut || {
                lease += 1;
                lane.start(vec![work(lease, &task, &Bytes::from_static(b"null"), HOUR)]);
                heard.completed().map(drop)
            }),
            (&mut fork, &mut forked),
        ];
        for (at, (into, start)) in rounds.into_iter().enumerate() {
            let mut waits = posted(start)?;
            into.push(quantile(&mut waits, 0.99, 1e3));
            worst[at] = worst[at].max(waits.last().copied().unwrap_or_default());
        }
    }
    std::hint::black_box(&held);
    let huge = std::fs::read_to_string("/sys/kernel/mm/transparent_hugepage/enabled");
    let ms = |wait: Duration| wait.as_secs_f64() * 1e3;
    let more = json!({
        "max": ms(worst[1]), "max_idle": ms(worst[0]), "max_fork": ms(worst[2]),
        "huge_pages": huge.unwrap_or_default().trim(),
    });
    let what = "post to a loop beside births at 2 GB, p99";
    bench.add(
        Figure::new(format!("{what}, rival: no births"), "ms", ours.clone())
            .rival(idle)
            .below(1.0)
            .more(more),
    );
    bench.add(Figure::new(format!("{what}, rival: fork (pre_exec)"), "ms", ours).rival(fork));
    Ok(())
}

/// A child by the way that the lane does not go.
#[expect(
    unsafe_code,
    clippy::disallowed_methods,
    reason = "the rival of the lane's spawner"
)]
fn forked() -> anyhow::Result<()> {
    let mut command = Command::new("/bin/true");
    // SAFETY: the closure does nothing.
    unsafe { command.pre_exec(|| Ok(())) };
    command.status()?;
    Ok(())
}

/// How long each post took while `start` was called over and over, on a thread of its own.
fn posted(start: Start<'_>) -> anyhow::Result<Vec<Duration>> {
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let prober = scope.spawn(|| probe(&over));
        let began = Instant::now();
        let mut done = Ok(());
        while began.elapsed() < SPAN && done.is_ok() {
            done = start();
            std::thread::sleep(START_EVERY);
        }
        over.store(true, Ordering::Release);
        let waits = prober
            .join()
            .map_err(|_| anyhow::anyhow!("the prober panicked"))?;
        done.and(waits)
    })
}

fn probe(over: &AtomicBool) -> anyhow::Result<Vec<Duration>> {
    let (sender, mut posts) = tokio::sync::mpsc::unbounded_channel::<Instant>();
    let tokio = tokio::runtime::Builder::new_current_thread().build()?;
    let reader = std::thread::spawn(move || {
        tokio.block_on(async {
            let mut waits = Vec::new();
            while let Some(sent) = posts.recv().await {
                waits.push(sent.elapsed());
            }
            waits
        })
    });
    while !over.load(Ordering::Acquire) {
        let _ = sender.send(Instant::now()); // its reader lives until the sender is gone
        std::thread::sleep(POST_EVERY);
    }
    drop(sender);
    reader
        .join()
        .map_err(|_| anyhow::anyhow!("the loop panicked"))
}
