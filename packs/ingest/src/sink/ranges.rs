//! Which bytes of an input are stored. Batches commit in any order, so there may be gaps.

/// Half-open byte ranges, ordered, none touching another.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ranges(Vec<(u64, u64)>);

impl Ranges {
    pub fn insert(&mut self, from: u64, to: u64) {
        if from >= to {
            return;
        }
        let first = self.0.partition_point(|range| range.1 < from);
        let behind = self.0.partition_point(|range| range.0 <= to);
        let touched = &self.0[first..behind];
        let from = touched.first().map_or(from, |range| range.0.min(from));
        let to = touched.last().map_or(to, |range| range.1.max(to));
        self.0.splice(first..behind, [(from, to)]);
    }

    pub fn contains(&self, offset: u64) -> bool {
        let behind = self.0.partition_point(|range| range.0 <= offset);
        behind > 0 && offset < self.0[behind - 1].1
    }

    /// All of `from..to`.
    pub fn covers(&self, from: u64, to: u64) -> bool {
        let behind = self.0.partition_point(|range| range.0 <= from);
        from >= to || behind > 0 && to <= self.0[behind - 1].1
    }

    /// End of what is stored without a gap from the first byte.
    pub fn prefix(&self) -> u64 {
        match self.0.first() {
            Some((0, to)) => *to,
            _ => 0,
        }
    }

    /// End of the last range.
    pub fn end(&self) -> u64 {
        self.0.last().map_or(0, |range| range.1)
    }

    pub fn iter(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.0.iter().copied()
    }
}

impl FromIterator<(u64, u64)> for Ranges {
    fn from_iter<I: IntoIterator<Item = (u64, u64)>>(ranges: I) -> Self {
        let mut all = Self::default();
        for (from, to) in ranges {
            all.insert(from, to);
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::Ranges;

    proptest! {
        /// Against the obvious: a set of single bytes.
        #[test]
        fn a_byte_is_never_taken_for_stored_that_is_not(
            ranges in prop::collection::vec((0_u64..60, 0_u64..12), 0..20)
        ) {
            let ranges: Vec<_> = ranges.into_iter().map(|(from, len)| (from, from + len)).collect();
            let all: Ranges = ranges.iter().copied().collect();
            let is_in = |at: u64| ranges.iter().any(|(from, to)| (*from..*to).contains(&at));
            for at in 0..80 {
                prop_assert_eq!(all.contains(at), is_in(at), "{}", at);
            }
            prop_assert_eq!(all.prefix(), (0..80).find(|at| !is_in(*at)).unwrap());
            for from in 0..70 {
                for to in from..72 {
                    prop_assert_eq!(all.covers(from, to), (from..to).all(is_in));
                }
            }
            let flat: Vec<_> = all.iter().collect();
            prop_assert!(flat.windows(2).all(|pair| pair[0].1 < pair[1].0), "{:?}", flat);
        }
    }
}
