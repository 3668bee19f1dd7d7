//! One child and the job on it.

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use offloop_job::{FailureClass, Usage};
use offloop_lane::{Overrun, Stopped, TaskError, TaskOutput, Work};
use rustix::process::{Pid, Signal, kill_process_group};

use super::channel::{Channel, Stdin};
use super::exits::ExitReason;
use super::recycle::RecycleAt;
use super::sample::Suspect;
use crate::frame::Breach;
use crate::host::GroupKill;
use crate::log::Log;
use crate::spec::ExecExit;
use crate::sys::CpuClock;

/// Where a child stands in its life.
#[derive(Debug)]
pub(super) enum Phase {
    /// `exec`: Rust code makes the command.
    Planning,
    /// The spawner has the order.
    Spawning,
    /// It runs and has not said that it is ready.
    Starting {
        until: Instant,
    },
    /// Ready for a job.
    Idle {
        since: Instant,
        /// A ping is out since then.
        pinged: Option<Instant>,
    },
    Busy,
    /// Between two jobs, while its memory is looked at.
    Weighing,
    /// To be replaced, and told so by the end of its input: it gets no other job.
    Retired,
    /// Dead, with the undertaker: no signal may be sent any more.
    Dead,
    /// `exec`: gone, and Rust code reads what it left.
    Reading,
}

/// How far up the kill ladder a child is; docs/adr/0005.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rung {
    Calm,
    /// It was told; SIGTERM follows.
    Asked {
        until: Instant,
    },
    /// SIGTERM was sent; SIGKILL follows.
    Termed {
        until: Instant,
    },
    Killed {
        at: Instant,
    },
}

/// A job on a child.
#[derive(Debug)]
pub(super) struct Flight {
    pub(super) work: Arc<Work>,
    pub(super) submitted: Instant,
    /// When the child had it.
    pub(super) began: Option<Instant>,
    pub(super) progress: Instant,
    pub(super) stop: Option<Stopped>,
    pub(super) overrun: Option<Overrun>,
    /// Said by a child that is on its way out; counts once it is gone.
    pub(super) answer: Option<Result<TaskOutput, TaskError>>,
    pub(super) max_rss: u64,
    /// Processes of the tree at the last look.
    pub(super) processes_seen: usize,
    /// Passed at the last look; twice in a row is once too often.
    pub(super) suspect: Suspect,
    /// Used until the last look.
    pub(super) cpu_seen: Duration,
    /// What the child's tree had used when the job began.
    pub(super) cpu_from: Duration,
    /// Of a warm child, when the job began.
    pub(super) age: Option<Duration>,
    /// Said on both streams while the job ran.
    pub(super) printed_bytes: u64,
    pub(super) notes: Notes,
}

/// A job's progress notes: the newest goes out, as often as a person can look.
#[derive(Debug, Default)]
pub(super) struct Notes {
    pub(super) told: Option<Instant>,
    /// Waits for its turn.
    pub(super) held: Option<Bytes>,
    pub(super) left_out: u64,
    pub(super) bytes: u64,
}

/// A copy of what the job prints, for those who listen to it now.
#[derive(Debug, Default)]
pub(super) struct Live {
    pub(super) listened: bool,
    pub(super) printed: Vec<u8>,
}

impl Flight {
    pub(super) fn new(work: Arc<Work>, submitted: Instant) -> Self {
        Self {
            work,
            submitted,
            began: None,
            progress: submitted,
            stop: None,
            overrun: None,
            answer: None,
            max_rss: 0,
            processes_seen: 0,
            suspect: Suspect::default(),
            cpu_seen: Duration::ZERO,
            cpu_from: Duration::ZERO,
            age: None,
            printed_bytes: 0,
            notes: Notes::default(),
        }
    }

    pub(super) fn queued(&self, now: Instant) -> Duration {
        let began = self.began.unwrap_or(now);
        began.saturating_duration_since(self.submitted)
    }

    pub(super) fn usage(&self, now: Instant, cpu: Duration, rss: u64) -> Usage {
        let Some(began) = self.began else {
            return Usage::default();
        };
        let rss = rss.max(self.max_rss);
        Usage {
            wall: now.saturating_duration_since(began),
            cpu: Some(cpu.max(self.cpu_seen)),
            max_rss_bytes: (rss > 0).then_some(rss),
            bytes_in: self.work.payload.len() as u64,
            bytes_out: self.printed_bytes + self.notes.bytes,
            executor_age: self.age,
        }
    }

    /// The kernel was faster than the watch.
    pub(super) fn note_memory_kill(&mut self, held: u64) {
        if let (None, Some(limit)) = (self.stop, self.work.limits.memory_bytes) {
            self.stop = Some(Stopped::Limit(FailureClass::MemoryLimit));
            self.overrun = Some(Overrun::memory(limit, held));
        }
    }

    /// When the next limit may be passed, or the one that was.
    pub(super) fn check(&self, now: Instant) -> Result<Option<Instant>, Overrun> {
        let Some(began) = self.began.filter(|_| self.stop.is_none()) else {
            return Ok(None);
        };
        let limits = &self.work.limits;
        let ran = now.saturating_duration_since(began);
        if ran >= limits.timeout {
            return Err(Overrun::timeout(limits.timeout, ran));
        }
        let by_timeout = began.checked_add(limits.timeout);
        let Some(stall) = limits.stall else {
            return Ok(by_timeout);
        };
        let silent = now.saturating_duration_since(self.progress);
        if silent >= stall {
            return Err(Overrun::stalled(stall, silent));
        }
        let by_stall = self.progress.checked_add(stall);
        Ok(by_timeout.into_iter().chain(by_stall).min())
    }
}

#[derive(Debug)]
pub(super) struct Child {
    pub(super) marker: String,
    pub(super) roster: PathBuf,
    /// 0 until it runs.
    pub(super) pid: i32,
    pub(super) pidfd: Option<OwnedFd>,
    /// All of its tree, where the system has such groups.
    pub(super) group: Option<GroupKill>,
    pub(super) cpu_clock: Option<CpuClock>,
    pub(super) channel: Option<Channel>,
    pub(super) stdin: Option<Stdin>,
    /// `exec`: what goes there once it runs.
    pub(super) stdin_data: Option<Bytes>,
    pub(super) stdout: Option<OwnedFd>,
    pub(super) stderr: Option<OwnedFd>,
    pub(super) phase: Phase,
    pub(super) rung: Rung,
    pub(super) flight: Option<Flight>,
    pub(super) log: Log,
    pub(super) live: Live,
    /// `exec`: what it prints may be the result.
    pub(super) captures: bool,
    pub(super) printed: Vec<u8>,
    pub(super) printed_cut: bool,
    /// `exec`: what it said last, for the failure's message.
    pub(super) said: Log,
    /// Jobs answered.
    pub(super) served: u64,
    /// Once it was ready: starts that had failed in a row before.
    pub(super) ready_after: Option<u32>,
    /// When it was started.
    pub(super) born: Option<Instant>,
    pub(super) recycle_at: RecycleAt,
    pub(super) weighed: Option<Instant>,
    /// It asked to be replaced.
    pub(super) wants_out: bool,
    /// It is to be replaced, and why.
    pub(super) due: Option<ExitReason>,
    /// It was replaced, and why.
    pub(super) retired: Option<ExitReason>,
    pub(super) breach: Option<Breach>,
    /// Resident bytes at the end of a job, and when that was.
    pub(super) rss: u64,
    pub(super) rss_at: Option<Instant>,
    /// Of its descendants, live and waited for, at the last look.
    pub(super) cpu_below: Duration,
    /// Its processes between two jobs: helpers that it keeps.
    pub(super) keeps: Vec<i32>,
}

impl Child {
    pub(super) fn new(marker: String, roster: PathBuf, phase: Phase) -> Self {
        Self {
            marker,
            roster,
            pid: 0,
            pidfd: None,
            group: None,
            cpu_clock: None,
            channel: None,
            stdin: None,
            stdin_data: None,
            stdout: None,
            stderr: None,
            phase,
            rung: Rung::Calm,
            flight: None,
            log: Log::default(),
            live: Live::default(),
            captures: false,
            printed: Vec::new(),
            printed_cut: false,
            said: Log::default(),
            served: 0,
            ready_after: None,
            born: None,
            recycle_at: RecycleAt::default(),
            weighed: None,
            wants_out: false,
            due: None,
            retired: None,
            breach: None,
            rss: 0,
            rss_at: None,
            cpu_below: Duration::ZERO,
            keeps: Vec::new(),
        }
    }

    pub(super) fn executor(&self) -> Box<str> {
        match self.pid {
            0 => "".into(),
            pid => format!("pid {pid}").into(),
        }
    }

    /// It will get no other job.
    pub(super) fn is_leaving(&self) -> bool {
        matches!(self.phase, Phase::Dead | Phase::Reading | Phase::Retired)
            || matches!(self.rung, Rung::Termed { .. } | Rung::Killed { .. })
    }

    /// It has a job or could take one.
    pub(super) fn is_ready(&self) -> bool {
        let phase = matches!(
            self.phase,
            Phase::Idle { .. } | Phase::Busy | Phase::Weighing
        );
        phase && !self.is_leaving()
    }

    /// On its way to be ready.
    pub(super) fn is_starting(&self) -> bool {
        matches!(self.phase, Phase::Spawning | Phase::Starting { .. }) && !self.is_leaving()
    }

    /// When the next limit of its job may be passed, or the one that was. Only while the job runs
    /// and nobody asked it to stop.
    pub(super) fn check(&self, now: Instant) -> Result<Option<Instant>, Overrun> {
        match &self.flight {
            Some(flight) if matches!(self.phase, Phase::Busy) && self.rung == Rung::Calm => {
                flight.check(now)
            }
            _ => Ok(None),
        }
    }

    /// Processor time of the tree as far as it is known without a look around.
    pub(super) fn cpu_now(&self) -> Duration {
        let own = self.cpu_clock.and_then(CpuClock::read);
        own.unwrap_or_default() + self.cpu_below
    }

    /// Signals the group while its leader cannot have been reaped: its number is nobody else's.
    fn signal(&self, signal: Signal) {
        if matches!(self.phase, Phase::Dead | Phase::Reading) {
            return;
        }
        if let Some(pid) = Pid::from_raw(self.pid) {
            let _ = kill_process_group(pid, signal);
        }
    }

    pub(super) fn term(&mut self, until: Instant) {
        self.signal(Signal::TERM);
        self.rung = Rung::Termed { until };
    }

    pub(super) fn kill(&mut self, now: Instant) {
        #[cfg(feature = "sabotage")]
        if crate::sabotage::is("kill") {
            self.rung = Rung::Killed { at: now };
            return;
        }
        if !matches!(self.rung, Rung::Killed { .. }) {
            self.signal(Signal::KILL);
            if let Some(group) = &self.group {
                group.kill();
            }
            self.rung = Rung::Killed { at: now };
        }
    }
}

/// How a process ended, in words.
pub(super) fn exit_words(exit: ExecExit) -> String {
    match exit {
        ExecExit::Code(code) => format!("exit code {code}"),
        ExecExit::Signal(signal) => format!("signal {signal}{}", signal_name(signal)),
    }
}

/// The names that an operator meets; others keep their number.
const fn signal_name(signal: i32) -> &'static str {
    match signal {
        libc::SIGHUP => " (SIGHUP)",
        libc::SIGINT => " (SIGINT)",
        libc::SIGILL => " (SIGILL)",
        libc::SIGABRT => " (SIGABRT)",
        libc::SIGBUS => " (SIGBUS)",
        libc::SIGFPE => " (SIGFPE)",
        libc::SIGKILL => " (SIGKILL)",
        libc::SIGSEGV => " (SIGSEGV)",
        libc::SIGPIPE => " (SIGPIPE)",
        libc::SIGTERM => " (SIGTERM)",
        libc::SIGXCPU => " (SIGXCPU)",
        libc::SIGXFSZ => " (SIGXFSZ)",
        libc::SIGSYS => " (SIGSYS)",
        _ => "",
    }
}
