//! What an operator may set about the pulse.

use std::time::Duration;

/// Numbers of the pulse, with their defaults.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PulseConfig {
    /// Between two looks while a loop or a lane works; 10 to 50 ms, default 20 ms. When nothing
    /// happens it is 50 ms, and loops are posted to every 200 ms.
    pub every: Duration,
    /// A poll that is older is a block: shown, and told in the log. 10 ms to 10 s, default 50 ms.
    pub block_after: Duration,
}

/// Between two looks when nothing happens.
pub(crate) const IDLE_TICK: Duration = Duration::from_millis(50);
/// Between two no-ops then: a loop that is parked is not blocked, so it need not be woken to know.
pub(crate) const IDLE_POST: Duration = Duration::from_millis(200);
/// Between two full readings: percentiles, lanes, memory.
pub(crate) const READ_EVERY: Duration = Duration::from_millis(250);
/// Between two readings of the machine and the tasks.
pub(crate) const SLOW_EVERY: Duration = Duration::from_secs(1);

impl Default for PulseConfig {
    fn default() -> Self {
        Self {
            every: Duration::from_millis(20),
            block_after: Duration::from_millis(50),
        }
    }
}

impl PulseConfig {
    /// Within its ranges.
    pub(crate) fn clamped(self) -> Self {
        Self {
            every: self
                .every
                .clamp(Duration::from_millis(10), Duration::from_millis(50)),
            block_after: self
                .block_after
                .clamp(Duration::from_millis(10), Duration::from_secs(10)),
        }
    }
}
