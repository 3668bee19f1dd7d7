//! Whom to tell how a job ended.

use crate::JobState;

/// Longer ones are refused.
pub const WEBHOOK_URL_BYTES_MAX: usize = 2_048;

/// A set of final states.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EndStates(u8);

impl EndStates {
    pub const NONE: Self = Self(0);
    pub const ALL: Self = Self(
        1 << JobState::Completed as u8
            | 1 << JobState::Failed as u8
            | 1 << JobState::Cancelled as u8
            | 1 << JobState::Expired as u8,
    );

    /// States that are not final are left out.
    #[must_use]
    pub const fn with(self, state: JobState) -> Self {
        Self(self.0 | (1 << state as u8) & Self::ALL.0)
    }

    pub const fn contains(self, state: JobState) -> bool {
        self.0 & 1 << state as u8 != 0
    }

    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    pub const fn bits(self) -> u8 {
        self.0
    }

    pub const fn from_bits(bits: u8) -> Self {
        Self(bits & Self::ALL.0)
    }

    pub fn iter(self) -> impl Iterator<Item = JobState> {
        JobState::ALL
            .into_iter()
            .filter(move |state| self.contains(*state))
    }
}

/// A receiver that is told when a job has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Webhook {
    pub url: Box<str>,
    /// The ends that it is told of.
    pub on: EndStates,
    /// By which secret it knows that it is us; `None`: the one called `default`.
    pub secret: Option<Box<str>>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_ends_are_told() {
        for state in JobState::ALL {
            let one = EndStates::NONE.with(state);
            assert_eq!(one.contains(state), state.is_final(), "{state:?}");
            assert_eq!(EndStates::ALL.contains(state), state.is_final());
            assert_eq!(EndStates::from_bits(one.bits()), one);
        }
        assert_eq!(EndStates::ALL.iter().count(), 4);
        assert!(EndStates::from_bits(0x0f).is_empty());
    }
}
