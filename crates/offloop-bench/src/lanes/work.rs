//! Work for a lane without a server, and the ears for its answers.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use anyhow::bail;
use bytes::Bytes;
use offloop_job::{JobId, Lease, Outcome, TaskName};
use offloop_lane::{Ended, LaneEvent, LaneSink, TaskInfo, Work, WorkLimits};

pub(super) fn info() -> anyhow::Result<TaskInfo> {
    Ok(TaskInfo {
        name: TaskName::parse("task")?,
        timeout: None,
        about: "measured".into(),
    })
}

pub(super) fn work(lease: u64, task: &TaskName, payload: &Bytes, timeout: Duration) -> Work {
    Work {
        job: JobId::from_parts(lease, lease),
        lease: Lease(lease),
        attempt: 1,
        task: task.clone(),
        payload: payload.clone(),
        priority: 5,
        limits: WorkLimits {
            timeout,
            cpu: None,
            memory_bytes: None,
            stall: None,
            result_bytes: offloop_job::limits::RESULT_BYTES_MAX,
        },
        cores: 1,
        deadline: None,
        checkpoint: None,
        trace: None,
        inputs: std::sync::Arc::default(),
    }
}

/// JSON of so many bytes.
pub(super) fn payload(bytes: usize) -> Bytes {
    format!("\"{}\"", "x".repeat(bytes.saturating_sub(2))).into()
}

/// Events in their order, each with the moment of its coming.
#[derive(Debug)]
pub(super) struct Line(Sender<(Instant, LaneEvent)>);

impl Line {
    pub(super) fn new() -> (Self, Heard) {
        let (sender, events) = channel();
        (Self(sender), Heard(events))
    }
}

impl LaneSink for Line {
    fn send(&self, event: LaneEvent) {
        let _ = self.0.send((Instant::now(), event)); // nobody may listen any more
    }
}

/// The other end of a [`Line`].
#[derive(Debug)]
pub(super) struct Heard(Receiver<(Instant, LaneEvent)>);

impl Heard {
    pub(super) fn started(&self) -> anyhow::Result<Instant> {
        loop {
            if let (at, LaneEvent::Started { .. }) = self.next()? {
                return Ok(at);
            }
        }
    }

    pub(super) fn ended(&self) -> anyhow::Result<(Instant, Box<Ended>)> {
        loop {
            if let (at, LaneEvent::Ended(ended)) = self.next()? {
                return Ok((at, ended));
            }
        }
    }

    pub(super) fn completed(&self) -> anyhow::Result<Instant> {
        let (at, ended) = self.ended()?;
        if !matches!(ended.outcome, Outcome::Completed { .. }) {
            bail!("a job did not complete: {:?}", ended.outcome);
        }
        Ok(at)
    }

    fn next(&self) -> anyhow::Result<(Instant, LaneEvent)> {
        Ok(self.0.recv_timeout(Duration::from_secs(20))?)
    }
}

/// The value at this share of the sorted times, in the unit that `scale` makes of seconds.
pub(super) fn quantile(times: &mut [Duration], share: f64, scale: f64) -> f64 {
    times.sort_unstable();
    let place = ((times.len() as f64 * share) as usize).min(times.len().saturating_sub(1));
    times
        .get(place)
        .map_or(f64::NAN, |time| time.as_secs_f64() * scale)
}
