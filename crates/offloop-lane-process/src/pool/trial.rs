//! One child is started, and ended when it is ready: whether a declared task can serve at all.

use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use offloop_lane::{Lane as _, LaneEvent, LaneSink};

use super::ProcessLane;
use crate::host::Host;
use crate::spec::{Mode, ProcessSpec};

/// Between two looks at the child.
const LOOK_EVERY: Duration = Duration::from_millis(5);
/// Beyond the start timeout, for the end of a child that was not ready.
const END_WITHIN: Duration = Duration::from_secs(5);

/// There are no jobs, so there is no news.
#[derive(Debug)]
struct Nobody;

impl LaneSink for Nobody {
    fn send(&self, _: LaneEvent) {}
}

/// On a lane of its own. Commands are looked up and not run: a run is a job.
pub(super) fn run(spec: &ProcessSpec, host: &Arc<Host>) -> Result<(), String> {
    let mut spec = spec.clone();
    (spec.processes, spec.spare) = (1, false);
    let (mode, within) = (spec.mode, spec.start_timeout.saturating_add(END_WITHIN));
    let lane = ProcessLane::new(spec, host.clone());
    lane.check()?;
    if mode == Mode::Exec {
        return Ok(());
    }
    lane.open(Arc::new(Nobody)).map_err(|error| error.message)?;
    let end = wait(&lane, within);
    lane.terminate(END_WITHIN);
    end
}

fn wait(lane: &ProcessLane, within: Duration) -> Result<(), String> {
    let shared = &lane.shared;
    let begin = Instant::now();
    let mut pool = shared.lock();
    loop {
        if pool.has_proven_child() {
            return Ok(());
        }
        if pool.failures > 0 {
            return Err(pool.last_words.clone());
        }
        if begin.elapsed() >= within {
            return Err(format!("no child was ready within {within:?}"));
        }
        let waited = shared.quiet.wait_timeout(pool, LOOK_EVERY);
        pool = waited.unwrap_or_else(PoisonError::into_inner).0;
    }
}
