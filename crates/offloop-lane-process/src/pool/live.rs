//! What a job says while it runs and is not its answer: checkpoints, pieces of its result, and its
//! output for those who listen to it now.
//!
//! Must never: keep any of it, or do anything for listeners while there are none.

use std::time::Instant;

use bytes::Bytes;
use offloop_job::Lease;
use offloop_job::limits::{CHECKPOINT_BYTES_MAX, PARTIAL_BYTES_MAX};
use offloop_lane::{CheckpointError, CheckpointReply, LaneEvent};

use super::Shared;
use super::child::Child;
use super::state::Pool;
use crate::frame::{FromChild, ToChild};
use crate::json;

impl Shared {
    /// Takes what is not an answer; the rest comes back.
    pub(super) fn on_the_way(
        &self,
        pool: &mut Pool,
        number: u64,
        message: FromChild,
        now: Instant,
    ) -> Option<FromChild> {
        match message {
            FromChild::Checkpoint {
                lease,
                number: nth,
                data,
            } => self.checkpoint(pool, number, (lease, nth), data, now),
            FromChild::Partial { lease, data } => self.partial(pool, number, lease, data, now),
            other => return Some(other),
        }
        None
    }

    fn checkpoint(
        &self,
        pool: &mut Pool,
        number: u64,
        (lease, nth): (Lease, u64),
        data: Bytes,
        now: Instant,
    ) {
        let Some(child) = pool.children.get_mut(&number) else {
            return;
        };
        if let Err(error) = admit(child, lease, &data, now) {
            self.acknowledge(child, number, (lease, nth), &Err(error));
            return;
        }
        let Some(job) = child.flight.as_ref().map(|flight| flight.work.job) else {
            return;
        };
        let me = self.me.clone();
        let reply = CheckpointReply::new(move |kept| {
            if let Some(shared) = me.upgrade() {
                let mut pool = shared.lock();
                if let Some(child) = pool.children.get_mut(&number) {
                    shared.acknowledge(child, number, (lease, nth), &kept);
                }
                shared.settle(pool);
            }
        });
        pool.news.push(LaneEvent::Checkpoint {
            job,
            lease,
            data,
            reply,
        });
    }

    /// Tells the child what became of its checkpoint. One that does not read is found by other means.
    fn acknowledge(
        &self,
        child: &mut Child,
        number: u64,
        (lease, nth): (Lease, u64),
        kept: &Result<(), CheckpointError>,
    ) {
        let message = kept.as_ref().err().map(ToString::to_string);
        let answer = ToChild::CheckpointAck {
            lease: lease.0,
            number: nth,
            kept: kept.is_ok(),
            message: message.as_deref(),
        };
        self.send(child, number, &answer, None);
    }

    fn partial(&self, pool: &mut Pool, number: u64, lease: Lease, data: Bytes, now: Instant) {
        let Some(child) = pool.children.get_mut(&number) else {
            return;
        };
        let Some(flight) = child.flight.as_mut().filter(|f| f.work.lease == lease) else {
            return; // late, by code that was not awaited
        };
        flight.progress = now;
        flight.notes.bytes += data.len() as u64;
        if data.len() > PARTIAL_BYTES_MAX || !json::is_json(&data) {
            let line = format!(
                "offloop: a partial result is not JSON of at most {PARTIAL_BYTES_MAX} bytes\n"
            );
            child.log.push(line.as_bytes());
            return;
        }
        let job = flight.work.job;
        if self.sink.get().is_some_and(|sink| sink.listens(job)) {
            pool.news.push(LaneEvent::Partial { job, lease, data });
        }
    }

    /// Before output is taken off a child: whether it is copied for listeners.
    pub(super) fn look_who_listens(&self, pool: &mut Pool, number: u64) {
        let Some(child) = pool.children.get_mut(&number) else {
            return;
        };
        let job = child.flight.as_ref().map(|flight| flight.work.job);
        let sink = self.sink.get();
        child.live.listened = job.zip(sink).is_some_and(|(job, sink)| sink.listens(job));
    }
}

/// A checkpoint of the job that runs there, within its limits.
fn admit(
    child: &mut Child,
    lease: Lease,
    data: &Bytes,
    now: Instant,
) -> Result<(), CheckpointError> {
    let flight = child.flight.as_mut().filter(|f| f.work.lease == lease);
    let Some(flight) = flight else {
        return Err(CheckpointError::Stale); // late, by code that was not awaited
    };
    flight.progress = now;
    flight.notes.bytes += data.len() as u64;
    if data.len() > CHECKPOINT_BYTES_MAX {
        return Err(CheckpointError::TooLarge { len: data.len() });
    }
    json::check(data).map_err(|why| CheckpointError::NotJson { why })
}

impl Pool {
    /// What was copied for listeners goes out.
    pub(super) fn tell_live(&mut self, number: u64) {
        let child = self.children.get_mut(&number);
        self.news.extend(child.and_then(Child::take_live));
    }
}

impl Child {
    pub(super) fn take_live(&mut self) -> Option<LaneEvent> {
        if self.live.printed.is_empty() {
            return None;
        }
        let data = Bytes::from(std::mem::take(&mut self.live.printed));
        let work = &self.flight.as_ref()?.work;
        let (job, lease) = (work.job, work.lease);
        Some(LaneEvent::Log { job, lease, data })
    }
}
