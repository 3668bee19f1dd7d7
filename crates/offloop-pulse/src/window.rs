//! Histograms that forget, and buckets that only grow.
//!
//! A mean hides what people feel, and a figure since the start of the process gets blinder with
//! every hour. Time comes in as an argument.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

/// Percentiles of a window.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    pub count: u64,
    pub p50: Duration,
    pub p90: Duration,
    pub p99: Duration,
    pub max: Duration,
}

/// Values are whole microseconds, told apart to 1 %.
const DIGITS: u8 = 2;
/// Larger values count as this: 24 hours, the longest timeout of a job.
const VALUE_MAX_US: u64 = 24 * 3_600 * 1_000_000;

fn micros(value: Duration) -> u64 {
    u64::try_from(value.as_micros())
        .unwrap_or(u64::MAX)
        .min(VALUE_MAX_US)
}

fn empty() -> Option<Histogram<u32>> {
    // It grows with its values: most never see an hour.
    let mut histogram = Histogram::new(DIGITS).ok()?;
    histogram.auto(true);
    Some(histogram)
}

/// Durations of the last while, in slices that are forgotten one by one.
#[derive(Debug)]
pub struct Windowed {
    slice: Duration,
    kept: usize,
    /// The start of a slice, oldest first.
    slices: VecDeque<(Instant, Histogram<u32>)>,
}

impl Windowed {
    /// Covers `kept` slices and the one that is being filled.
    pub fn new(slice: Duration, kept: usize) -> Self {
        Self {
            slice,
            kept,
            slices: VecDeque::new(),
        }
    }

    fn forget(&mut self, at: Instant) {
        let all = self.slice * (self.kept as u32 + 1);
        while let Some((start, _)) = self.slices.front()
            && at.saturating_duration_since(*start) >= all
        {
            self.slices.pop_front();
        }
    }

    fn slice(&mut self, at: Instant) -> Option<&mut Histogram<u32>> {
        self.forget(at);
        let last = self.slices.back();
        let full = last.is_none_or(|(start, _)| at.saturating_duration_since(*start) >= self.slice);
        if full {
            self.slices.push_back((at, empty()?));
        }
        self.slices.back_mut().map(|(_, histogram)| histogram)
    }

    /// `times`: how many equal values it stands for.
    pub fn record(&mut self, at: Instant, value: Duration, times: u32) {
        if let Some(histogram) = self.slice(at) {
            let _ = histogram.record_n(micros(value), times); // within its range: it grows
        }
    }

    /// A value that kept others from being taken, one every `every`: they are put in as they would
    /// have been (Tene, "How NOT to Measure Latency": coordinated omission).
    pub fn record_delay(&mut self, at: Instant, value: Duration, every: Duration) {
        if let Some(histogram) = self.slice(at) {
            let _ = histogram.record_correct(micros(value), micros(every)); // as above
        }
    }

    /// Of the slices that began within `over`, and of `pending`, a delay that still lasts and when
    /// others would have been taken beside it. `None`: nothing was recorded.
    pub fn figures(
        &mut self,
        at: Instant,
        over: Duration,
        pending: Option<(Duration, Duration)>,
    ) -> Option<Figures> {
        self.forget(at);
        let mut sum = empty()?;
        for (start, histogram) in &self.slices {
            if at.saturating_duration_since(*start) < over + self.slice {
                sum.add(histogram).ok()?;
            }
        }
        if let Some((value, every)) = pending {
            let _ = sum.record_correct(micros(value), micros(every)); // as above
        }
        if sum.is_empty() {
            return None;
        }
        let at = |quantile| Duration::from_micros(sum.value_at_quantile(quantile));
        Some(Figures {
            count: sum.len(),
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            max: Duration::from_micros(sum.max()),
        })
    }
}

/// Upper bounds of [`Buckets`], in microseconds.
#[rustfmt::skip]
pub const BOUNDS_US: [u64; 14] = [
    20, 100, 500, 1_000, 2_500, 5_000, 10_000, 50_000, 100_000, 500_000, 1_000_000, 5_000_000,
    60_000_000, 600_000_000,
];

/// Counts since the start of the process, for machines that scrape and subtract.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Buckets {
    /// Values up to each bound of [`BOUNDS_US`] and over the one before; the last one: larger.
    pub counts: [u64; BOUNDS_US.len() + 1],
    pub sum_us: u64,
}

impl Buckets {
    pub fn record(&mut self, value: Duration, times: u32) {
        let us = micros(value);
        let at = BOUNDS_US.partition_point(|bound| *bound < us);
        self.counts[at] += u64::from(times);
        self.sum_us = self
            .sum_us
            .saturating_add(us.saturating_mul(u64::from(times)));
    }

    /// As [`Windowed::record_delay`].
    pub fn record_delay(&mut self, value: Duration, every: Duration) {
        let mut left = value;
        loop {
            self.record(left, 1);
            left = left.saturating_sub(every);
            if every.is_zero() || left < every {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MS: Duration = Duration::from_millis(1);
    const SLICE: Duration = Duration::from_secs(5);

    #[test]
    fn a_bad_minute_is_forgotten_after_a_minute() {
        let mut window = Windowed::new(SLICE, 12);
        let start = Instant::now();
        window.record(start, 500 * MS, 1);
        for second in 1..120 {
            let at = start + Duration::from_secs(second);
            window.record(at, MS, 1);
            let max = |figures: Option<Figures>| figures.unwrap().max;
            let minute = max(window.figures(at, Duration::from_secs(60), None));
            let lately = max(window.figures(at, Duration::from_secs(10), None));
            assert_eq!(minute > 100 * MS, second < 65, "at {second} s");
            assert_eq!(lately > 100 * MS, second < 15, "at {second} s");
        }
        assert!(window.slices.len() <= 13);
        let later = start + Duration::from_secs(1_000);
        assert_eq!(window.figures(later, Duration::from_secs(60), None), None);
    }

    #[test]
    fn a_block_counts_for_all_the_looks_that_it_swallowed() {
        let mut window = Windowed::new(SLICE, 12);
        let start = Instant::now();
        window.record(start, MS, 50); // a quiet second
        window.record_delay(start, Duration::from_secs(1), 20 * MS);
        let figures = window.figures(start, SLICE, None).unwrap();
        assert_eq!(figures.count, 100);
        assert!(figures.p90 > 700 * MS, "{figures:?}");
        let mut buckets = Buckets::default();
        buckets.record_delay(Duration::from_secs(1), 20 * MS);
        assert_eq!(buckets.counts.iter().sum::<u64>(), 50);
    }

    #[test]
    fn a_delay_that_still_lasts_is_in_the_figures_and_not_in_the_record() {
        let mut window = Windowed::new(SLICE, 12);
        let start = Instant::now();
        window.record(start, MS, 1);
        let pending = Some((900 * MS, 20 * MS));
        let figures = window.figures(start, SLICE, pending).unwrap();
        assert!(figures.max >= 890 * MS && figures.count > 40);
        let after = window.figures(start, SLICE, None).unwrap();
        assert_eq!(after.count, 1);
    }

    proptest! {
        #[test]
        fn percentiles_are_in_order_and_within_a_percent(
            values in prop::collection::vec(0_u64..100_000_000, 1..200),
        ) {
            let mut window = Windowed::new(SLICE, 2);
            let at = Instant::now();
            let mut buckets = Buckets::default();
            for us in &values {
                window.record(at, Duration::from_micros(*us), 1);
                buckets.record(Duration::from_micros(*us), 1);
            }
            let figures = window.figures(at, SLICE, None).unwrap();
            let max = *values.iter().max().unwrap();
            prop_assert_eq!(figures.count, values.len() as u64);
            prop_assert!(figures.p50 <= figures.p90 && figures.p90 <= figures.p99);
            prop_assert!(figures.p99 <= figures.max);
            let shown = figures.max.as_micros() as u64;
            prop_assert!(shown >= max && shown <= max + max / 100 + 1);
            prop_assert_eq!(buckets.counts.iter().sum::<u64>(), values.len() as u64);
            prop_assert_eq!(buckets.sum_us, values.iter().sum::<u64>());
        }
    }
}
