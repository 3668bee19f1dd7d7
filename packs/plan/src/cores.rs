//! Processor amounts as Kubernetes writes them: `2`, `0.5`, `1500m`.
//!
//! Pure. Must never: take what Kubernetes would refuse.

use std::fmt;

/// Most cores of one pod that are taken for meant.
pub const CORES_MAX: f64 = 4_096.0;

/// An amount of processors, more than 0; finer than a thousandth does not exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cores(u32);

/// Why a text is no amount of processors.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} {why}; give cores such as 2, 0.5 or 1500m")]
pub struct CoresError {
    text: String,
    why: &'static str,
}

impl Cores {
    /// `cores`: 1 to 4,096.
    pub fn whole(cores: u16) -> Self {
        Self(u32::from(cores.clamp(1, CORES_MAX as u16)) * 1_000)
    }

    /// A Kubernetes quantity: decimal digits with at most one point, then nothing or one of `n`,
    /// `u`, `m`, `k`, or an exponent (`15e-1`). Source: the grammar of
    /// `k8s.io/apimachinery/pkg/api/resource.Quantity`; a CPU finer than `1m` is refused there too.
    pub fn parse(text: &str) -> Result<Self, CoresError> {
        let fail = |why| CoresError {
            text: text.chars().take(64).collect(),
            why,
        };
        let text = text.trim();
        let (number, power) = split(text).ok_or_else(|| fail("is no amount of processors"))?;
        let (digits, point) = digits(number).ok_or_else(|| fail("is no amount of processors"))?;
        // In thousandths: digits x 10^(power - point + 3).
        let shift = power - point + 3;
        let mut value = digits;
        for _ in 0..shift.unsigned_abs().min(64) {
            if shift > 0 {
                value = value.saturating_mul(10);
            } else if value.is_multiple_of(10) {
                value /= 10;
            } else {
                return Err(fail("is finer than a thousandth of a core (1m)"));
            }
        }
        if value == 0 {
            return Err(fail("is nothing"));
        }
        if value > CORES_MAX as u64 * 1_000 {
            return Err(fail("is more than 4096 cores"));
        }
        Ok(Self(value as u32))
    }

    /// As a number.
    pub fn count(self) -> f64 {
        f64::from(self.0) / 1_000.0
    }

    /// Whole cores that hold it: threads for a pool.
    pub fn ceil(self) -> u16 {
        self.0.div_ceil(1_000) as u16
    }
}

impl fmt::Display for Cores {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_multiple_of(1_000) {
            write!(f, "{}", self.0 / 1_000)
        } else {
            write!(f, "{}m", self.0)
        }
    }
}

/// The number, and the power of ten behind it.
fn split(text: &str) -> Option<(&str, i32)> {
    if let Some((number, exponent)) = text.split_once(['e', 'E']) {
        let power: i32 = exponent.parse().ok()?;
        return (-64..=64).contains(&power).then_some((number, power));
    }
    let suffixes = [('n', -9), ('u', -6), ('m', -3), ('k', 3)];
    let found = suffixes
        .iter()
        .find_map(|(letter, power)| Some((text.strip_suffix(*letter)?, *power)));
    Some(found.unwrap_or((text, 0)))
}

/// Digits as one number, and how many stand behind the point.
fn digits(number: &str) -> Option<(u64, i32)> {
    let number = number.strip_prefix('+').unwrap_or(number);
    let (whole, part) = number.split_once('.').unwrap_or((number, ""));
    let all = format!("{whole}{part}");
    if all.is_empty() || all.len() > 18 || !all.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    Some((all.parse().ok()?, part.len() as i32))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_read_as_kubernetes_reads_them() {
        #[rustfmt::skip]
        let rows = [
            ("1500m", 1.5), ("2", 2.0), ("0.5", 0.5), (".5", 0.5), ("2.", 2.0), ("1m", 0.001),
            ("250000u", 0.25), ("100000000n", 0.1), ("15e-1", 1.5), ("1E0", 1.0), ("+4", 4.0),
            ("0.001", 0.001), ("1.50", 1.5), ("0.1k", 100.0), (" 3 ", 3.0), ("4096", 4_096.0),
        ];
        for (text, want) in rows {
            let read = Cores::parse(text).unwrap_or_else(|error| panic!("{error}"));
            assert!((read.count() - want).abs() < 1e-9, "{text}: {read:?}");
        }
    }

    #[test]
    fn what_kubernetes_refuses_is_refused_with_a_reason() {
        let rows = [
            ("", "no amount"),
            ("m", "no amount"),
            ("two", "no amount"),
            ("-1", "no amount"),
            ("1.5.0", "no amount"),
            ("1e", "no amount"),
            ("1e99", "no amount"),
            ("2 cores", "no amount"),
            ("1000M", "no amount"),
            ("1Ki", "no amount"),
            ("0", "nothing"),
            ("0m", "nothing"),
            ("0.0001", "finer"),
            ("1u", "finer"),
            ("1.5m", "finer"),
            ("4097", "more than"),
            ("999999999999999999", "more than"),
            ("9999999999999999999999", "no amount"),
        ];
        for (text, why) in rows {
            let error = Cores::parse(text).expect_err(text).to_string();
            assert!(error.contains(why), "{text}: {error}");
        }
    }

    #[test]
    fn an_amount_is_shown_as_it_may_be_written_again() {
        for text in ["1500m", "2", "500m", "1m"] {
            assert_eq!(Cores::parse(text).unwrap().to_string(), text);
        }
        assert_eq!(Cores::parse("1001m").unwrap().ceil(), 2);
        assert_eq!(Cores::parse("999m").unwrap().ceil(), 1);
        assert_eq!(Cores::whole(0).ceil(), 1);
    }
}
