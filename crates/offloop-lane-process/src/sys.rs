//! The few system calls that have no safe wrapper.

#![allow(
    unsafe_code,
    reason = "wait4, getrusage, clocks of other processes, close_range, dup2, signal, landlock, unshare"
)]

use std::os::fd::RawFd;
use std::time::Duration;

/// What a reaped process used, with everything that it had waited for itself.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Spent {
    pub(crate) cpu: Duration,
    /// 0 where it cannot be told from the server's own.
    pub(crate) max_rss_bytes: u64,
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    Code(i32),
    Signal(i32),
}

/// Reaps one child of ours, if it is dead.
pub(crate) fn reap(pid: i32) -> Option<(Exit, Spent)> {
    let mut status = 0;
    // SAFETY: all zeroes is a valid rusage, a struct of plain numbers.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: both pointers are to locals that outlive the call.
    let got = unsafe { libc::wait4(pid, &raw mut status, libc::WNOHANG, &raw mut usage) };
    if got != pid {
        return None;
    }
    let exit = if libc::WIFSIGNALED(status) {
        Exit::Signal(libc::WTERMSIG(status))
    } else {
        Exit::Code(libc::WEXITSTATUS(status))
    };
    let time = |t: libc::timeval| Duration::new(t.tv_sec as u64, t.tv_usec as u32 * 1_000);
    // A spawned child inherits the figure of the memory that it shared until its exec: the
    // server's. Only what is more than that is its own.
    let max_rss = usage.ru_maxrss as u64 * 1_024;
    let own = max_rss > own_max_rss_bytes();
    let spent = Spent {
        cpu: time(usage.ru_utime) + time(usage.ru_stime),
        max_rss_bytes: if own { max_rss } else { 0 },
    };
    Some((exit, spent))
}

/// The most that this process ever held.
pub(crate) fn own_max_rss_bytes() -> u64 {
    // SAFETY: all zeroes is a valid rusage, a struct of plain numbers.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: the pointer is to a local that outlives the call.
    unsafe { libc::getrusage(libc::RUSAGE_SELF, &raw mut usage) };
    usage.ru_maxrss as u64 * 1_024
}

/// The clock of the processor time of a process, all its threads: looked up once, it is read with
/// one call.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CpuClock(libc::clockid_t);

impl CpuClock {
    pub(crate) fn of(pid: i32) -> Option<Self> {
        let mut clock: libc::clockid_t = 0;
        // SAFETY: the pointer is to a local that outlives the call.
        let failed = unsafe { libc::clock_getcpuclockid(pid, &raw mut clock) != 0 };
        (!failed).then_some(Self(clock))
    }

    /// To the nanosecond; `None` once the process is gone.
    pub(crate) fn read(self) -> Option<Duration> {
        let mut time = libc::timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        // SAFETY: the pointer is to a local that outlives the call.
        let failed = unsafe { libc::clock_gettime(self.0, &raw mut time) != 0 };
        (!failed).then(|| Duration::new(time.tv_sec as u64, time.tv_nsec as u32))
    }
}

/// Processor time of a process, all its threads, to the nanosecond.
pub(crate) fn cpu_time_of(pid: i32) -> Option<Duration> {
    CpuClock::of(pid)?.read()
}

/// Closes every descriptor from `first` up. Only for a process that is about to exec.
pub(crate) fn close_from(first: u32) {
    // SAFETY: no memory is passed. Descriptors owned by Rust values are closed under them, which
    // is why only the shim may call this: it owns none and never returns.
    unsafe {
        libc::syscall(libc::SYS_close_range, first, u32::MAX, 0);
    }
}

/// Makes `to` a copy of `from`. Only for a process that is about to exec.
pub(crate) fn copy_descriptor(from: RawFd, to: RawFd) -> bool {
    // SAFETY: no memory is passed; see `close_from` for ownership.
    unsafe { libc::dup2(from, to) == to }
}

/// The version of Landlock that this kernel enforces; 0: none.
pub(crate) fn landlock_abi() -> u32 {
    const VERSION: libc::c_ulong = 1;
    // SAFETY: a null pointer of size 0 with this flag asks for the version and touches no memory.
    let version = unsafe {
        libc::syscall(
            libc::SYS_landlock_create_ruleset,
            std::ptr::null::<libc::c_void>(),
            0_usize,
            VERSION,
        )
    };
    u32::try_from(version).unwrap_or(0)
}

/// Enters a network namespace of its own, where the privilege is there.
pub(crate) fn unshare_network() -> bool {
    // SAFETY: no memory is passed, and no table of descriptors or memory is unshared.
    unsafe { libc::unshare(libc::CLONE_NEWNET) == 0 }
}

/// Gives every signal its default action: a server that was started in the background ignores some,
/// and a program would inherit that.
pub(crate) fn default_signals() {
    for signal in 1..32 {
        // SAFETY: SIG_DFL is no function pointer, so no code of ours can run in a handler. SIGKILL
        // and SIGSTOP are refused with an error, which changes nothing.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
}
