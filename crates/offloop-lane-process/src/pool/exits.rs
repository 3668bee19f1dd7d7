//! Why children leave, counted: every exit has one reason.

use offloop_job::{FailureClass, StopReason};
use offloop_lane::{ExitCount, Stopped};

use super::child::Child;
use crate::frame::Breach;
use crate::spec::ExecExit;

/// Why a child left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ExitReason {
    /// `exec`: a command that ended by itself with an exit code.
    Ended,
    RecycledJobs,
    RecycledAge,
    RecycledMemory,
    RecycledByRequest,
    Timeout,
    Cancelled,
    CpuLimit,
    MemoryLimit,
    Stalled,
    OutputLimit,
    FileLimit,
    ProcessLimit,
    /// A job that failed left processes behind.
    LeftProcesses,
    /// It broke the protocol.
    Protocol,
    /// The system did not start it.
    NotStarted,
    /// It ended, or its start timeout passed, before it was ready.
    NotReady,
    CrashedSignal,
    CrashedExit,
    /// It ended by itself between two jobs.
    IdleDeath,
    /// It did not answer a ping.
    Silent,
    Shutdown,
}

impl ExitReason {
    pub(super) const ALL: [Self; 22] = [
        Self::Ended,
        Self::RecycledJobs,
        Self::RecycledAge,
        Self::RecycledMemory,
        Self::RecycledByRequest,
        Self::Timeout,
        Self::Cancelled,
        Self::CpuLimit,
        Self::MemoryLimit,
        Self::Stalled,
        Self::OutputLimit,
        Self::FileLimit,
        Self::ProcessLimit,
        Self::LeftProcesses,
        Self::Protocol,
        Self::NotStarted,
        Self::NotReady,
        Self::CrashedSignal,
        Self::CrashedExit,
        Self::IdleDeath,
        Self::Silent,
        Self::Shutdown,
    ];

    pub(super) const fn code(self) -> &'static str {
        match self {
            Self::Ended => "ended",
            Self::RecycledJobs => "recycled_jobs",
            Self::RecycledAge => "recycled_age",
            Self::RecycledMemory => "recycled_memory",
            Self::RecycledByRequest => "recycled_by_request",
            Self::Timeout => "timeout",
            Self::Cancelled => "cancelled",
            Self::CpuLimit => "cpu_limit",
            Self::MemoryLimit => "memory_limit",
            Self::Stalled => "stalled",
            Self::OutputLimit => "output_limit",
            Self::FileLimit => "file_limit",
            Self::ProcessLimit => "process_limit",
            Self::LeftProcesses => "left_processes",
            Self::Protocol => "protocol",
            Self::NotStarted => "not_started",
            Self::NotReady => "not_ready",
            Self::CrashedSignal => "crashed_signal",
            Self::CrashedExit => "crashed_exit",
            Self::IdleDeath => "idle_death",
            Self::Silent => "silent",
            Self::Shutdown => "shutdown",
        }
    }

    /// Of a warm child that is gone. What was decided first counts: a child that is stopped dies
    /// of a signal, and the stop is why.
    pub(super) fn of_warm(child: &Child, exit: ExecExit, ending: bool) -> Self {
        let stop = child.flight.as_ref().and_then(|flight| flight.stop);
        match (child.retired, stop, &child.breach) {
            (Some(reason), _, _) => reason,
            (None, Some(stop), _) => Self::of_stop(stop),
            (None, None, Some(Breach::NotReady)) => Self::NotReady,
            (None, None, Some(Breach::Silent)) => Self::Silent,
            (None, None, Some(_)) => Self::Protocol,
            (None, None, None) if ending => Self::Shutdown,
            (None, None, None) if child.ready_after.is_none() => Self::NotReady,
            (None, None, None) if child.flight.is_none() => Self::IdleDeath,
            (None, None, None) => Self::of_crash(exit),
        }
    }

    pub(super) fn of_command(stop: Option<Stopped>, exit: ExecExit) -> Self {
        match (stop, exit) {
            (Some(stop), _) => Self::of_stop(stop),
            (None, ExecExit::Code(_)) => Self::Ended,
            (None, ExecExit::Signal(_)) => Self::CrashedSignal,
        }
    }

    const fn of_crash(exit: ExecExit) -> Self {
        match exit {
            ExecExit::Code(_) => Self::CrashedExit,
            ExecExit::Signal(_) => Self::CrashedSignal,
        }
    }

    const fn of_stop(stop: Stopped) -> Self {
        match stop {
            Stopped::Asked(StopReason::Cancel) => Self::Cancelled,
            Stopped::Asked(StopReason::Shutdown) => Self::Shutdown,
            Stopped::Limit(class) => match class {
                FailureClass::CpuLimit => Self::CpuLimit,
                FailureClass::MemoryLimit => Self::MemoryLimit,
                FailureClass::Stalled => Self::Stalled,
                FailureClass::OutputLimit => Self::OutputLimit,
                FailureClass::FileLimit => Self::FileLimit,
                FailureClass::ProcessLimit => Self::ProcessLimit,
                _ => Self::Timeout,
            },
        }
    }
}

/// Exits since the lane was opened.
#[derive(Debug, Default)]
pub(super) struct Exits([u64; ExitReason::ALL.len()]);

impl Exits {
    pub(super) fn count(&mut self, reason: ExitReason) {
        self.0[reason as usize] += 1;
    }

    /// Those that happened.
    pub(super) fn list(&self) -> Vec<ExitCount> {
        let all = ExitReason::ALL.iter().zip(self.0);
        let met = all.filter(|(_, count)| *count > 0);
        met.map(|(reason, count)| ExitCount {
            reason: reason.code(),
            count,
        })
        .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_has_a_place_and_a_code_of_its_own() {
        for (place, reason) in ExitReason::ALL.iter().enumerate() {
            assert_eq!(*reason as usize, place);
        }
        let mut codes = ExitReason::ALL.map(ExitReason::code).to_vec();
        codes.sort_unstable();
        codes.dedup();
        assert_eq!(codes.len(), ExitReason::ALL.len());
    }
}
