//! The one door to locks, threads and their waiting, so that the model check (`tests/model.rs`) can
//! compile the same files against `shuttle` in its place.
//!
//! Must never: hold a rule of the lane. What is here has a twin in the model.

pub(crate) use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
pub(crate) use std::sync::{Condvar, Mutex, MutexGuard};
pub(crate) use std::thread::{Builder, Thread, park};
pub(crate) use std::thread_local;

use std::time::{Duration, Instant};

/// Steps of the protocol that the model leaves out, one at a time, to show that it would notice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// The last look at the lines and the way to bed are one hold of the lock.
    LookBeforePark,
    /// A thread that leaves work behind calls the next one.
    PassOn,
    /// A job that is cancelled in line may have held up the one behind it.
    PassOnAfterCancel,
    /// A submitter calls a thread.
    CallOnSubmit,
    /// A thread that leaves gives up the search.
    LeaveTheSearch,
}

/// True outside the model: no code is left of it.
pub(crate) const fn takes(_: Step) -> bool {
    true
}

/// So long the processor is kept. Longer, and whoever was just answered waits for it: the system
/// likes to wake a thread on the processor of the one that woke it (p99 of a round trip with 10 us
/// here was 16 us, with 2 us it is 8).
const ALONE: Duration = Duration::from_micros(2);

/// Looks at `call` for as long as `budget`, and gives the processor to whoever wants it in between.
/// True once it is set.
pub(crate) fn spin(call: &AtomicBool, budget: Duration) -> bool {
    let begin = Instant::now();
    loop {
        for _ in 0..32 {
            if call.load(Ordering::Acquire) {
                return true;
            }
            std::hint::spin_loop();
        }
        let spent = begin.elapsed();
        if spent >= budget {
            return false;
        }
        if spent >= ALONE {
            std::thread::yield_now();
        }
    }
}
