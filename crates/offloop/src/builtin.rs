//! Three tasks for trials, each on the lane that fits.

use std::sync::Arc;
use std::time::Duration;

use offloop_job::TaskName;
use offloop_lane::{TaskContext, TaskError, TaskInfo, TaskOutput};
use offloop_lane_cpu::CpuLaneBuilder;
use offloop_lane_io::IoLaneBuilder;
use serde::Deserialize;

use crate::payload;

/// Longest trial.
const MILLIS_MAX: u64 = 24 * 3600 * 1000;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Sleep {
    ms: u64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Spin {
    cpu_ms: u64,
}

fn info(name: &str, about: &str) -> Option<TaskInfo> {
    let name = TaskName::parse(name).ok()?;
    Some(TaskInfo {
        name,
        timeout: None,
        about: about.into(),
    })
}

pub(crate) fn on_cpu(mut lane: CpuLaneBuilder) -> CpuLaneBuilder {
    if let Some(info) = info("offloop.noop", "does nothing; for trials and benchmarks") {
        lane = lane.task(info, Arc::new(|_| Ok(TaskOutput::none())));
    }
    if let Some(info) = info("offloop.spin", "keeps a core busy: {\"cpu_ms\": 1000}") {
        lane = lane.task(info, Arc::new(spin));
    }
    lane
}

pub(crate) fn on_io(mut lane: IoLaneBuilder) -> IoLaneBuilder {
    if let Some(info) = info("offloop.sleep", "waits without a core: {\"ms\": 1000}") {
        lane = lane.task(info, Arc::new(|context| Box::pin(sleep(context))));
    }
    lane
}

fn bounded(field: &str, ms: u64) -> Result<Duration, TaskError> {
    if ms > MILLIS_MAX {
        return Err(TaskError::invalid(format!(
            "{field} is {ms}; the limit is {MILLIS_MAX} (1 day)"
        )));
    }
    Ok(Duration::from_millis(ms))
}

/// Processor time of this thread.
fn cpu_time() -> Duration {
    let spent = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(
        spent.tv_sec.unsigned_abs(),
        spent.tv_nsec.unsigned_abs() as u32,
    )
}

/// Computes until it has used its processor time or is asked to stop.
fn spin(context: &TaskContext) -> Result<TaskOutput, TaskError> {
    let Spin { cpu_ms } = payload(context)?;
    let until = cpu_time() + bounded("cpu_ms", cpu_ms)?;
    let mut sum = 0_u64;
    while cpu_time() < until {
        if context.should_stop() {
            return Err(TaskError::stopped());
        }
        for n in 0..10_000_u64 {
            sum = std::hint::black_box(sum.wrapping_mul(31).wrapping_add(n));
        }
    }
    Ok(TaskOutput::json(format!("{{\"sum\":{sum}}}")))
}

async fn sleep(context: TaskContext) -> Result<TaskOutput, TaskError> {
    let Sleep { ms } = payload(&context)?;
    let span = bounded("ms", ms)?;
    tokio::time::sleep(span).await;
    Ok(TaskOutput::none())
}
