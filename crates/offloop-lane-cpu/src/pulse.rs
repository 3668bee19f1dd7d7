//! The sink that a thread's jobs see: it passes news on and notes the signs of life.

use std::sync::Arc;
use std::time::{Duration, Instant};

use offloop_job::{JobId, Lease};
use offloop_lane::{LaneEvent, LaneSink};

use crate::sync::{AtomicU64, Ordering};

#[derive(Debug)]
pub(crate) struct SeatSink {
    inner: Arc<dyn LaneSink>,
    epoch: Instant,
    lease: AtomicU64,
    /// Since `epoch`; 0 is none.
    progress_nanos: AtomicU64,
    /// Of the notes of this job.
    note_bytes: AtomicU64,
}

impl SeatSink {
    pub(crate) fn new(inner: Arc<dyn LaneSink>, epoch: Instant) -> Self {
        Self {
            inner,
            epoch,
            lease: AtomicU64::new(0),
            progress_nanos: AtomicU64::new(0),
            note_bytes: AtomicU64::new(0),
        }
    }

    /// The bytes of the notes since the last call.
    pub(crate) fn take_note_bytes(&self) -> u64 {
        // Most jobs send none: a load is cheaper than an exchange.
        match self.note_bytes.load(Ordering::Relaxed) {
            0 => 0,
            _ => self.note_bytes.swap(0, Ordering::Relaxed),
        }
    }

    pub(crate) fn progress_of(&self, lease: Lease) -> Option<Instant> {
        let nanos = self.progress_nanos.load(Ordering::Acquire);
        // The lease is written before the time: a match means that the time is its own.
        let same = self.lease.load(Ordering::Acquire) == lease.0;
        (same && nanos > 0).then(|| self.epoch + Duration::from_nanos(nanos))
    }
}

impl LaneSink for SeatSink {
    fn send(&self, event: LaneEvent) {
        if let LaneEvent::Progress {
            lease, note: data, ..
        }
        | LaneEvent::Checkpoint { lease, data, .. } = &event
        {
            self.note_bytes
                .fetch_add(data.len() as u64, Ordering::Relaxed);
            let nanos = self.epoch.elapsed().as_nanos() as u64;
            if self.lease.swap(lease.0, Ordering::AcqRel) != lease.0 {
                self.progress_nanos.store(0, Ordering::Release);
            }
            self.progress_nanos.store(nanos.max(1), Ordering::Release);
        }
        self.inner.send(event);
    }

    fn listens(&self, job: JobId) -> bool {
        self.inner.listens(job)
    }
}
