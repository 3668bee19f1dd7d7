//! Why an attempt did not succeed.

use std::fmt;

use crate::limits::MESSAGE_BYTES_MAX;

/// The kinds of failure that retry rules can tell apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum FailureClass {
    /// The handler said so, or panicked.
    Error = 0,
    /// Over its wall-clock limit.
    Timeout = 1,
    /// Over its processor-time limit.
    CpuLimit = 2,
    /// Over its memory limit.
    MemoryLimit = 3,
    /// No progress for too long.
    Stalled = 4,
    /// The executor ended by a signal or an exit code, without an answer.
    Crashed = 5,
    /// The node went away.
    Lost = 6,
    /// The task refused the payload: no retry helps.
    Invalid = 7,
    /// Stopped on request.
    Cancelled = 8,
    /// Printed or answered more than it may.
    OutputLimit = 9,
    /// More open files than it may have.
    FileLimit = 10,
    /// More processes than it may have.
    ProcessLimit = 11,
}

impl FailureClass {
    pub const ALL: [Self; 12] = [
        Self::Error,
        Self::Timeout,
        Self::CpuLimit,
        Self::MemoryLimit,
        Self::Stalled,
        Self::Crashed,
        Self::Lost,
        Self::Invalid,
        Self::Cancelled,
        Self::OutputLimit,
        Self::FileLimit,
        Self::ProcessLimit,
    ];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Timeout => "timeout",
            Self::CpuLimit => "cpu_limit",
            Self::MemoryLimit => "memory_limit",
            Self::Stalled => "stalled",
            Self::Crashed => "crashed",
            Self::Lost => "lost",
            Self::Invalid => "invalid",
            Self::Cancelled => "cancelled",
            Self::OutputLimit => "output_limit",
            Self::FileLimit => "file_limit",
            Self::ProcessLimit => "process_limit",
        }
    }

    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|class| class.as_str() == name)
    }

    /// The number that engines store; the inverse of `as u8`.
    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.get(usize::from(code)).copied()
    }

    /// Ends that take the executor with them. Three in a row quarantine the job.
    pub const fn is_crash_like(self) -> bool {
        matches!(
            self,
            Self::Crashed | Self::Lost | Self::MemoryLimit | Self::ProcessLimit
        )
    }
}

impl fmt::Display for FailureClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A set of classes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FailureClasses(u16);

impl FailureClasses {
    pub const NONE: Self = Self(0);

    #[must_use]
    pub const fn with(self, class: FailureClass) -> Self {
        Self(self.0 | 1 << class as u8)
    }

    pub const fn contains(self, class: FailureClass) -> bool {
        self.0 & (1 << class as u8) != 0
    }

    pub const fn bits(self) -> u16 {
        self.0
    }

    pub const fn from_bits(bits: u16) -> Self {
        Self(bits & 0xfff)
    }

    pub fn iter(self) -> impl Iterator<Item = FailureClass> {
        FailureClass::ALL
            .into_iter()
            .filter(move |class| self.contains(*class))
    }
}

/// How one attempt failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    pub class: FailureClass,
    /// For a person: what happened, the limit and the reading. At most
    /// [`MESSAGE_BYTES_MAX`] bytes.
    pub message: Box<str>,
    pub exit_code: Option<i32>,
    pub signal: Option<i32>,
}

impl Failure {
    /// Cuts the message at the limit, on a character's edge.
    pub fn new(class: FailureClass, message: impl AsRef<str>) -> Self {
        Self {
            class,
            message: clip(message.as_ref(), MESSAGE_BYTES_MAX).into(),
            exit_code: None,
            signal: None,
        }
    }

    #[must_use]
    pub fn with_exit(mut self, exit_code: Option<i32>, signal: Option<i32>) -> Self {
        self.exit_code = exit_code;
        self.signal = signal;
        self
    }
}

/// The longest start of `text` that is no longer than `max` bytes.
pub(crate) fn clip(text: &str, max: usize) -> &str {
    &text[..text.floor_char_boundary(max)]
}
