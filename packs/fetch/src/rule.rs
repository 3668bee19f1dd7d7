//! When a list of calls is over, by the ends that it has seen. The rules are those of groups of jobs: a list
//! that is long becomes one, and means the same by them.
//!
//! Must never: know what a call is.

pub use offloop::job::GroupRule as Rule;

/// Whether this end decides, and how: `Some(true)` is success.
pub(crate) const fn decided_by(rule: Rule, good: bool) -> Option<bool> {
    match (rule, good) {
        (Rule::All, false) => Some(false),
        (Rule::Any, true) => Some(true),
        (Rule::Race, good) => Some(good),
        (Rule::All, true) | (Rule::Any, false) | (Rule::AllSettled, _) => None,
    }
}

/// How it went where no single end decided. A list of nothing is a success but for those who wait for one.
pub(crate) const fn at_the_end(rule: Rule, total: u64) -> bool {
    match rule {
        Rule::All | Rule::AllSettled => true,
        Rule::Any => false,
        Rule::Race => total > 0,
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
                decided_by(rule, *good)
            });
            let verdict = decided.unwrap_or_else(|| at_the_end(rule, ends.len() as u64));
            assert_eq!((verdict, seen), (want, counted), "{rule:?} {ends:?}");
        }
    }
}
