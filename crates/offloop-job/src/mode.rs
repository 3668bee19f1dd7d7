//! Whether a queue or a task takes jobs in and gives them out.

use std::fmt;

/// What an operator has set about a queue or a task. What runs goes on in every mode.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Mode {
    /// Takes jobs in and gives them out.
    #[default]
    Open = 0,
    /// Takes jobs in and gives none out.
    Paused = 1,
    /// Takes no new jobs in and gives those out that it has, retries and snoozed ones too.
    Draining = 2,
}

impl Mode {
    pub const ALL: [Self; 3] = [Self::Open, Self::Paused, Self::Draining];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Paused => "paused",
            Self::Draining => "draining",
        }
    }

    /// The number that engines store; the inverse of `as u8`.
    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.get(usize::from(code)).copied()
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
