//! Latencies from a microsecond to ten minutes, to three digits.

use std::io;
use std::time::Duration;

use hdrhistogram::Histogram;

const MICROS_MAX: u64 = 600_000_000;

pub(super) fn empty() -> io::Result<Histogram<u64>> {
    Histogram::new_with_max(MICROS_MAX, 3).map_err(|error| io::Error::other(error.to_string()))
}

pub(super) fn note(into: &mut Histogram<u64>, latency: Duration) {
    let micros = u64::try_from(latency.as_micros()).unwrap_or(MICROS_MAX);
    into.saturating_record(micros);
}

/// 0 if nothing was noted.
pub(super) fn ms(of: &Histogram<u64>, quantile: f64) -> f64 {
    if of.is_empty() {
        return 0.0;
    }
    let micros = if quantile >= 1.0 {
        of.max()
    } else {
        of.value_at_quantile(quantile)
    };
    micros as f64 / 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_those_of_what_was_noted() {
        let mut seen = empty().unwrap();
        assert_eq!(ms(&seen, 0.5).to_bits(), 0.0_f64.to_bits());
        for micros in 1..=1_000 {
            note(&mut seen, Duration::from_micros(micros * 10));
        }
        for (quantile, want) in [(0.5, 5.0), (0.99, 9.9), (1.0, 10.0)] {
            let got = ms(&seen, quantile);
            assert!((got - want).abs() <= want / 500.0, "{quantile}: {got}");
        }
    }
}
