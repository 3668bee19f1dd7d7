//! What `/pulse` answers: the loop's delay as a thread outside of it sees it, and what blocks it.

use std::time::Duration;

use offloop::pulse::{LoopView, Pulse};
use serde::Serialize;

/// The loop's name in the pulse.
pub(super) const LOOP: &str = "lab";

/// Milliseconds.
#[derive(Debug, Default, Serialize)]
pub(super) struct Delay {
    /// Of the no-op that is on its way, if it is late, or else of the last one.
    now_ms: f64,
    /// Over the last 10 to 15 s, as the two below; `None`: nothing was timed.
    p50_ms: Option<f64>,
    p99_ms: Option<f64>,
    max_ms: Option<f64>,
    /// Blocks that ended, newest first, with the route that blocked.
    blocks: Vec<Block>,
}

#[derive(Debug, Serialize)]
struct Block {
    route: Option<String>,
    /// At least.
    lasted_ms: f64,
    ago_ms: f64,
}

fn ms(span: Duration) -> f64 {
    (span.as_secs_f64() * 1e6).round() / 1e3
}

pub(super) fn read(pulse: &Pulse) -> Delay {
    let snapshot = pulse.snapshot();
    let is_ours = |view: &&LoopView| &*view.name == LOOP;
    let Some(view) = snapshot.loops.iter().find(is_ours) else {
        return Delay::default(); // not looked at yet
    };
    let lately = view.delay.lately;
    let blocks = snapshot.recent.iter().filter(|block| &*block.on == LOOP);
    Delay {
        now_ms: ms(view.delay.now),
        p50_ms: lately.map(|lately| ms(lately.p50)),
        p99_ms: lately.map(|lately| ms(lately.p99)),
        max_ms: lately.map(|lately| ms(lately.max)),
        blocks: blocks
            .map(|block| Block {
                route: block.what.map(|name| name.text().to_string()),
                lasted_ms: ms(block.lasted),
                ago_ms: ms(block.ended.elapsed()),
            })
            .collect(),
    }
}
