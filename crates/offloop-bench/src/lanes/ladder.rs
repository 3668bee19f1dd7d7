//! How punctually a lane ends what must end: cancels of what does not listen, and limits of time.

use std::ffi::OsString;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use offloop_job::{Lease, StopReason};
use offloop_lane::Lane;
use offloop_lane_process::{ProcessLane, ProcessSpec};
use serde_json::json;

use super::Bench;
use super::work::{Heard, Line, info, quantile, work};
use crate::tell::Figure;

/// In one round.
const CANCELS: usize = 20;
const TIMEOUTS: usize = 25;
const GRACE: Duration = Duration::from_millis(20);
const LIMIT: Duration = Duration::from_millis(30);
const HOUR: Duration = Duration::from_secs(3_600);
/// Ignores SIGTERM, keeps a processor busy, and has a descendant in a session of its own.
const DEAF: &str = "trap '' TERM; setsid sleep 100 & while :; do :; done";

pub(super) fn measure(bench: &mut Bench) -> anyhow::Result<()> {
    let spin = [bench.me.clone().into(), "child".into(), "spin".into()];
    let mut spin = ProcessSpec::process(info()?, spin as [OsString; 3]);
    let mut deaf = ProcessSpec::exec(info()?, ["sh", "-c", DEAF]);
    (spin.grace, deaf.grace) = (GRACE, GRACE);
    let wait = [bench.me.clone().into(), "child".into(), "wait".into()];
    let wait = ProcessSpec::process(info()?, wait as [OsString; 3]);
    let (spin, deaf, wait) = (open(bench, spin)?, open(bench, deaf)?, open(bench, wait)?);
    let (cancels, timeouts) = (bench.count(CANCELS), bench.count(TIMEOUTS));
    let (mut spins, mut deafs, mut lates) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..bench.rounds {
        cancel(&spin, cancels, &mut spins)?;
        cancel(&deaf, cancels, &mut deafs)?;
        time_out(&wait, timeouts, &mut lates)?;
    }
    for (what, mut times, goal) in [
        (
            "cancel of a spinning child, past its grace, p99",
            spins,
            20.0,
        ),
        ("cancel of a deaf tree, past its grace, p99", deafs, 20.0),
        ("timeout after its due time, p99", lates, 5.0),
    ] {
        let at = |times: &mut [Duration], share| quantile(times, share, 1e3);
        let more =
            json!({ "p50": at(&mut times, 0.5), "max": at(&mut times, 1.0), "of": times.len() });
        let p99 = at(&mut times, 0.99);
        bench.add(Figure::new(what, "ms", vec![p99]).below(goal).more(more));
    }
    Ok(())
}

fn open(bench: &Bench, spec: ProcessSpec) -> anyhow::Result<(ProcessLane, Heard)> {
    let (line, heard) = Line::new();
    let lane = ProcessLane::new(spec, Arc::clone(&bench.host));
    lane.open(Arc::new(line))?;
    Ok((lane, heard))
}

/// From the call to the proof that nothing of it runs, less the grace.
fn cancel(
    (lane, heard): &(ProcessLane, Heard),
    count: usize,
    into: &mut Vec<Duration>,
) -> anyhow::Result<()> {
    for _ in 0..count {
        let lease = into.len() as u64 + 1;
        let null = Bytes::from_static(b"null");
        lane.start(vec![work(lease, &info()?.name, &null, HOUR)]);
        heard.started()?;
        std::thread::sleep(Duration::from_millis(10));
        let asked = Instant::now();
        lane.stop(Lease(lease), StopReason::Cancel);
        let (ended, _) = heard.ended()?;
        into.push(ended.saturating_duration_since(asked).saturating_sub(GRACE));
    }
    Ok(())
}

/// The child answers as soon as it hears of the limit: from the limit's due time to that answer.
fn time_out(
    (lane, heard): &(ProcessLane, Heard),
    count: usize,
    into: &mut Vec<Duration>,
) -> anyhow::Result<()> {
    for _ in 0..count {
        let lease = into.len() as u64 + 1;
        let null = Bytes::from_static(b"null");
        lane.start(vec![work(lease, &info()?.name, &null, LIMIT)]);
        let due = heard.started()? + LIMIT;
        let (ended, end) = heard.ended()?;
        anyhow::ensure!(
            ended + Duration::from_millis(1) > due,
            "ended early: {end:?}"
        );
        into.push(ended.saturating_duration_since(due));
    }
    Ok(())
}
