//! When a list of calls is over, by the ends that it has seen.
//!
//! Must never: know what a call is.

use std::fmt;

/// What a list of calls is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Rule {
    /// All must succeed; the first that fails ends the others.
    All,
    /// Each comes to its own end.
    #[default]
    AllSettled,
    /// The first end counts, good or bad, and ends the others.
    Race,
    /// The first success counts and ends the others; failed if none does.
    Any,
}

impl Rule {
    pub const ALL: [Self; 4] = [Self::All, Self::AllSettled, Self::Race, Self::Any];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::All => "all",
            Self::AllSettled => "all_settled",
            Self::Race => "race",
            Self::Any => "any",
        }
    }

    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|rule| rule.as_str() == name)
    }

    /// Whether this end decides, and how: `Some(true)` is success.
    pub const fn decided_by(self, good: bool) -> Option<bool> {
        match (self, good) {
            (Self::All, false) => Some(false),
            (Self::Any, true) => Some(true),
            (Self::Race, good) => Some(good),
            (Self::All, true) | (Self::Any, false) | (Self::AllSettled, _) => None,
        }
    }

    /// How it went where no single end decided. A list of nothing is a success but for those who
    /// wait for one.
    pub const fn at_the_end(self, total: u64) -> bool {
        match self {
            Self::All | Self::AllSettled => true,
            Self::Any => false,
            Self::Race => total > 0,
        }
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_rule_decides_otherwise_than_its_namesake_in_javascript() {
        // Ends in order, and what Promise.all, allSettled, race and any would do; how many ends count.
        #[rustfmt::skip]
        let rows: [(Rule, &[bool], bool, usize); 11] = [
            (Rule::All, &[true, true], true, 2), (Rule::All, &[true, false, true], false, 2),
            (Rule::All, &[], true, 0), (Rule::AllSettled, &[false, false], true, 2),
            (Rule::AllSettled, &[], true, 0), (Rule::Race, &[false, true], false, 1),
            (Rule::Race, &[true, false], true, 1), (Rule::Any, &[false, true, true], true, 2),
            (Rule::Any, &[false, false], false, 2), (Rule::Any, &[], false, 0),
            (Rule::Race, &[], false, 0),
        ];
        for (rule, ends, want, counted) in rows {
            let mut seen = 0;
            let decided = ends.iter().find_map(|good| {
                seen += 1;
                rule.decided_by(*good)
            });
            let verdict = decided.unwrap_or_else(|| rule.at_the_end(ends.len() as u64));
            assert_eq!((verdict, seen), (want, counted), "{rule} {ends:?}");
        }
    }
}
