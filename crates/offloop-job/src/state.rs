//! The life of a job: its states and the steps between them. One table; SQL guards and the docs'
//! diagram come from it.

use std::fmt;

/// Where a job is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum JobState {
    /// For other jobs.
    Waiting = 0,
    /// For a time: a delay, a `run_at`, a backoff.
    Scheduled = 1,
    /// For a free executor.
    Ready = 2,
    Running = 3,
    Completed = 4,
    /// Retries used up, or not retryable: the dead letters.
    Failed = 5,
    Cancelled = 6,
    /// Too late to start.
    Expired = 7,
}

/// One arrow of the life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Step {
    /// The last job it waited for ended; it may still be for a time.
    Unblock,
    /// Its time has come.
    FallDue,
    /// A node took it, with a new lease.
    Claim,
    /// The executor answered.
    Succeed,
    /// The attempt failed; another follows after a backoff.
    Retry,
    /// The attempt asked to be run again later: it is not spent.
    Snooze,
    /// The attempt failed; none follows.
    GiveUp,
    /// Handed back unrun, or run in vain by our fault (shutdown): the attempt is not spent.
    HandBack,
    /// Cancelled while no executor had it.
    Cancel,
    /// Cancelled while running: only after the executor is proven gone.
    Abort,
    /// Too late to start.
    Expire,
    /// A job that it waited for did not complete.
    Bar,
    /// A person asked for another life after the end.
    Revive,
    /// A newer request took its place: for a later time again.
    Debounce,
}

/// A step that the table does not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a job that is {state} cannot {step:?}")]
pub struct IllegalStep {
    pub state: JobState,
    pub step: Step,
}

impl Step {
    pub const ALL: [Step; 14] = [
        Step::Unblock,
        Step::FallDue,
        Step::Claim,
        Step::Succeed,
        Step::Retry,
        Step::Snooze,
        Step::GiveUp,
        Step::HandBack,
        Step::Cancel,
        Step::Abort,
        Step::Expire,
        Step::Bar,
        Step::Revive,
        Step::Debounce,
    ];

    /// States this step may start from, and the one it ends in. One row is one arrow.
    pub const fn edge(self) -> (&'static [JobState], JobState) {
        use JobState::{Cancelled, Completed, Expired, Failed, Ready, Running, Scheduled, Waiting};
        match self {
            Step::Unblock => (&[Waiting], Scheduled),
            Step::FallDue => (&[Scheduled], Ready),
            Step::Claim => (&[Ready], Running),
            Step::Succeed => (&[Running], Completed),
            Step::Retry | Step::Snooze => (&[Running], Scheduled),
            Step::GiveUp => (&[Running], Failed),
            Step::HandBack => (&[Running], Ready),
            Step::Cancel => (&[Waiting, Scheduled, Ready], Cancelled),
            Step::Abort => (&[Running], Cancelled),
            Step::Expire => (&[Waiting, Scheduled, Ready], Expired),
            Step::Bar => (&[Waiting], Failed),
            Step::Revive => (&[Failed, Cancelled, Expired], Ready),
            Step::Debounce => (&[Scheduled, Ready], Scheduled),
        }
    }
}

impl JobState {
    pub const ALL: [JobState; 8] = [
        JobState::Waiting,
        JobState::Scheduled,
        JobState::Ready,
        JobState::Running,
        JobState::Completed,
        JobState::Failed,
        JobState::Cancelled,
        JobState::Expired,
    ];

    /// Where `step` leads from here.
    pub fn after(self, step: Step) -> Result<JobState, IllegalStep> {
        let (from, to) = step.edge();
        if from.contains(&self) {
            Ok(to)
        } else {
            Err(IllegalStep { state: self, step })
        }
    }

    pub const fn is_final(self) -> bool {
        matches!(
            self,
            Self::Completed | Self::Failed | Self::Cancelled | Self::Expired
        )
    }

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Scheduled => "scheduled",
            Self::Ready => "ready",
            Self::Running => "running",
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
            Self::Expired => "expired",
        }
    }

    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == name)
    }

    /// The number that engines store; the inverse of `as u8`.
    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.get(usize::from(code)).copied()
    }
}

impl fmt::Display for JobState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_makes_only_the_moves_of_the_table() {
        use JobState::{Cancelled, Completed, Expired, Failed, Ready, Running, Scheduled, Waiting};
        #[rustfmt::skip]
        let legal = [
            (Waiting,   Step::Unblock,  Scheduled), (Scheduled, Step::FallDue, Ready),
            (Ready,     Step::Claim,    Running),   (Running,   Step::Succeed, Completed),
            (Running,   Step::Retry,    Scheduled), (Running,   Step::GiveUp,  Failed),
            (Running,   Step::Snooze,   Scheduled),
            (Running,   Step::HandBack, Ready),     (Running,   Step::Abort,   Cancelled),
            (Waiting,   Step::Cancel,   Cancelled), (Scheduled, Step::Cancel,  Cancelled),
            (Ready,     Step::Cancel,   Cancelled), (Waiting,   Step::Expire,  Expired),
            (Scheduled, Step::Expire,   Expired),   (Ready,     Step::Expire,  Expired),
            (Failed,    Step::Revive,   Ready),     (Cancelled, Step::Revive,  Ready),
            (Expired,   Step::Revive,   Ready),     (Scheduled, Step::Debounce, Scheduled),
            (Ready,     Step::Debounce, Scheduled),
            (Expired,   Step::Revive,   Ready),     (Waiting,   Step::Bar,     Failed),
        ];
        for state in JobState::ALL {
            for step in Step::ALL {
                let want = legal
                    .iter()
                    .find(|row| (row.0, row.1) == (state, step))
                    .map(|r| r.2);
                assert_eq!(state.after(step).ok(), want, "{state:?} + {step:?}");
            }
        }
    }

    #[test]
    fn a_final_state_is_left_only_by_a_person() {
        for state in JobState::ALL.into_iter().filter(|state| state.is_final()) {
            for step in Step::ALL.into_iter().filter(|step| *step != Step::Revive) {
                assert!(state.after(step).is_err(), "{state:?} + {step:?}");
            }
        }
    }

    #[test]
    fn names_and_codes_lead_back() {
        for state in JobState::ALL {
            assert_eq!(JobState::from_name(state.as_str()), Some(state));
            assert_eq!(JobState::from_code(state as u8), Some(state));
        }
        assert_eq!(JobState::from_code(8), None);
        assert_eq!(JobState::from_name("done"), None);
    }
}
