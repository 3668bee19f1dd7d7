//! Processor time of a thread, read only where it is worth its price (about 0.4 us a reading).

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// Shorter runs are charged with their wall time: an upper bound, off by less than this.
const WORTH_READING: Duration = Duration::from_micros(50);

/// The worker's own meter.
#[derive(Debug)]
pub(crate) struct Meter {
    /// The last reading, plus the wall time of the short runs since.
    accounted: Duration,
}

impl Meter {
    pub(crate) fn new() -> Self {
        Self {
            accounted: own_cpu_time(),
        }
    }

    /// Before a pause: what the thread used between jobs is charged to nobody.
    pub(crate) fn rebase(&mut self) {
        self.accounted = own_cpu_time();
    }

    /// Between two jobs the thread did so long what is charged to neither.
    pub(crate) fn skip(&mut self, wall: Duration) {
        if wall <= WORTH_READING {
            self.accounted += wall;
        } else {
            self.rebase();
        }
    }

    /// What a run of this wall time used.
    pub(crate) fn charge(&mut self, wall: Duration) -> Duration {
        if wall <= WORTH_READING {
            self.accounted += wall;
            return wall;
        }
        let now = own_cpu_time();
        let used = now.saturating_sub(self.accounted).min(wall);
        self.accounted = now;
        used
    }
}

pub(crate) fn own_cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec as u32)
}

/// Processor time of another thread of this process, by the same clock.
pub(crate) fn cpu_time_of(tid: i32) -> Option<Duration> {
    let text = std::fs::read_to_string(format!("/proc/self/task/{tid}/schedstat")).ok()?;
    let nanos = text.split_whitespace().next()?.parse().ok()?;
    Some(Duration::from_nanos(nanos))
}
