//! Who gives way on a busy processor: a thread's slice, which Linux takes as how soon it must be
//! served (EEVDF; custom slices and preemption by shorter ones since 6.12).
//!
//! A server whose processors are full of work answers late although its threads are of higher
//! priority: what runs is let run to the end of its slice, 3 ms and more. A thread with a shorter
//! slice does not wait for that. It gets no more of the processor, only gets it sooner. The server
//! takes short slices at its start, threads and children that compute give them back (ADR 0015).
#![allow(
    unsafe_code,
    reason = "sched_getattr and sched_setattr have no wrapper"
)]

use std::time::Duration;

/// The shortest that the kernel takes.
const SHORT: Duration = Duration::from_micros(100);

/// `struct sched_attr`, its first version: sched_setattr(2).
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Attributes {
    size: u32,
    policy: u32,
    flags: u64,
    nice: i32,
    priority: u32,
    runtime_ns: u64,
    deadline_ns: u64,
    period_ns: u64,
}

/// This thread, and those that it starts from now on, answer first. False: this system has no such
/// thing, which harms nobody.
pub fn answer_first() -> bool {
    set(SHORT)
}

/// This thread, and what it starts, computes: the usual slice of the system.
pub fn compute() -> bool {
    set(Duration::ZERO)
}

/// Zero: the system's own.
fn set(slice: Duration) -> bool {
    let size = size_of::<Attributes>() as u32;
    let mut now = Attributes::default();
    let this_thread = 0;
    // SAFETY: `now` is a local of the size that is told, and outlives the call.
    let got = unsafe {
        libc::syscall(
            libc::SYS_sched_getattr,
            this_thread,
            &raw mut now,
            size,
            0_u32,
        )
    };
    let usual = now.policy == libc::SCHED_OTHER as u32 || now.policy == libc::SCHED_BATCH as u32;
    if got != 0 || !usual {
        return false; // somebody chose another policy on purpose
    }
    let wanted = Attributes {
        size,
        flags: 0,
        runtime_ns: u64::try_from(slice.as_nanos()).unwrap_or(0),
        deadline_ns: 0,
        period_ns: 0,
        ..now
    };
    // SAFETY: `wanted` is a local of the size that it tells, and outlives the call.
    unsafe {
        libc::syscall(
            libc::SYS_sched_setattr,
            this_thread,
            &raw const wanted,
            0_u32,
        ) == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nice() -> i32 {
        // SAFETY: no memory is passed.
        unsafe { libc::getpriority(libc::PRIO_PROCESS, 0) }
    }

    #[test]
    fn a_slice_is_taken_and_given_back_and_leaves_the_nice_value_alone() {
        let check = || {
            // SAFETY: no memory is passed. This test's thread ends after it.
            unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, 5) };
            let before = nice();
            let took = answer_first();
            assert_eq!(compute(), took);
            assert_eq!(nice(), before);
        };
        std::thread::spawn(check).join().unwrap();
    }
}
