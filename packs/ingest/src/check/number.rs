//! Whole, binary and decimal numbers: syntax, range, and the form of a JSON number.
//! Must never: round.

use std::io::Write;

use super::{Bounds, Value};
use crate::rows::Reason;
use crate::target::Kind;

/// Parts of a written number.
struct Parts<'a> {
    negative: bool,
    /// Without leading zeros; at least one digit.
    whole: &'a [u8],
    fraction: &'a [u8],
    /// With its `e` and sign.
    exponent: &'a [u8],
    /// The text is a JSON number as it stands.
    is_canonical: bool,
}

/// `[+-] digits [. digits] [e [+-] digits]`, at least one digit around the point.
fn parts(text: &[u8]) -> Option<Parts<'_>> {
    let (negative, plus, rest) = match text {
        [b'-', rest @ ..] => (true, false, rest),
        [b'+', rest @ ..] => (false, true, rest),
        rest => (false, false, rest),
    };
    let digits = |text: &[u8]| text.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let (written, rest) = rest.split_at(digits(rest));
    let (fraction, point, rest) = match rest {
        [b'.', rest @ ..] => {
            let (fraction, rest) = rest.split_at(digits(rest));
            (fraction, true, rest)
        }
        rest => (&rest[..0], false, rest),
    };
    if written.is_empty() && fraction.is_empty() {
        return None;
    }
    let exponent = match rest {
        [] => rest,
        [b'e' | b'E', b'+' | b'-', tail @ ..] | [b'e' | b'E', tail @ ..]
            if !tail.is_empty() && digits(tail) == tail.len() =>
        {
            rest
        }
        _ => return None,
    };
    let zeros = written.iter().take_while(|byte| **byte == b'0').count();
    let whole: &[u8] = match &written[zeros..] {
        [] => b"0",
        whole => whole,
    };
    let is_canonical = !plus && whole.len() == written.len() && point != fraction.is_empty();
    Some(Parts {
        negative,
        whole,
        fraction,
        exponent,
        is_canonical,
    })
}

impl Parts<'_> {
    fn write(&self, made: &mut Vec<u8>) {
        if self.negative {
            made.push(b'-');
        }
        made.extend_from_slice(self.whole);
        if !self.fraction.is_empty() {
            made.push(b'.');
            made.extend_from_slice(self.fraction);
        }
        made.extend_from_slice(self.exponent);
    }
}

#[inline]
pub(super) fn int(
    text: &[u8],
    bits: u8,
    bounds: Bounds,
    made: &mut Vec<u8>,
) -> Result<Value, Reason> {
    let kind = Kind::Int { bits };
    let (negative, digits) = match text {
        [b'-', digits @ ..] => (true, digits),
        [b'+', digits @ ..] | digits => (false, digits),
    };
    if digits.is_empty() {
        return Err(Reason::Not(kind));
    }
    // Negative on the way: the smallest i64 has no positive.
    let mut value = 0_i64;
    let mut fits = true;
    for byte in digits {
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 {
            return Err(Reason::Not(kind));
        }
        // Eighteen digits always fit.
        let next = if digits.len() <= 18 {
            Some(value * 10 - i64::from(digit))
        } else {
            value
                .checked_mul(10)
                .and_then(|value| value.checked_sub(i64::from(digit)))
        };
        match next {
            Some(next) => value = next,
            None => fits = false,
        }
    }
    let Some(value) = (if negative {
        Some(value)
    } else {
        value.checked_neg()
    }) else {
        return Err(Reason::OutOfRange(kind));
    };
    let (min, max) = match bounds {
        Bounds::Int(min, max) => (min, max),
        _ => (i64::MIN, i64::MAX),
    };
    if !fits || value < min || value > max {
        return Err(Reason::OutOfRange(kind));
    }
    let has_zeros = digits[0] == b'0' && (digits.len() > 1 || negative);
    if has_zeros || text[0] == b'+' {
        // Writing into memory cannot fail.
        let _ = write!(made, "{value}");
        return Ok(Value::Made);
    }
    Ok(Value::whole(text))
}

/// Longest text of a plain number: so many digits are finite whatever they are.
pub(super) const PLAIN_BYTES_MAX: usize = 300;

/// `-12.5`: a JSON number without exponent, told in one pass. Most are like this.
#[inline]
pub(super) fn is_plain(text: &[u8]) -> bool {
    let digits = text.strip_prefix(b"-").unwrap_or(text);
    let whole = digits
        .iter()
        .take_while(|byte| byte.is_ascii_digit())
        .count();
    let ends_well = match &digits[whole..] {
        [] => true,
        [b'.', fraction @ ..] => !fraction.is_empty() && are_digits(fraction),
        _ => false,
    };
    ends_well && whole > 0 && (digits[0] != b'0' || whole == 1) && text.len() <= PLAIN_BYTES_MAX
}

/// A whole number of up to 18 digits that stands as it is to be written, between these.
#[inline]
pub(super) fn is_plain_int(text: &[u8], min: i64, max: i64) -> bool {
    let digits = text.strip_prefix(b"-").unwrap_or(text);
    let mut value = 0_i64;
    let mut odd = 0;
    for byte in digits.iter().take(18) {
        let digit = byte.wrapping_sub(b'0');
        odd |= u8::from(digit > 9);
        value = value.wrapping_mul(10).wrapping_add(i64::from(digit));
    }
    let value = if digits.len() < text.len() {
        -value
    } else {
        value
    };
    // "-0" and "007" are written in another way.
    let has_zero = digits.first() == Some(&b'0') && text.len() > 1;
    odd == 0 && !has_zero && matches!(digits.len(), 1..=18) && (min..=max).contains(&value)
}

/// Eight at a time: a digit is 0x30 to 0x39.
fn are_digits(text: &[u8]) -> bool {
    const HIGH: u64 = 0xf0f0_f0f0_f0f0_f0f0;
    const ZEROS: u64 = 0x3030_3030_3030_3030;
    const SIX: u64 = 0x0606_0606_0606_0606;
    let are = |word: &[u8; 8]| {
        let word = u64::from_le_bytes(*word);
        // A carry leaves a byte of 0xfa or more, which the first test has refused.
        word & HIGH == ZEROS && word.wrapping_add(SIX) & HIGH == ZEROS
    };
    match text.last_chunk() {
        // The last eight are looked at again where they overlap.
        Some(last) => are(last) && text.as_chunks().0.iter().all(are),
        None => text.iter().all(u8::is_ascii_digit),
    }
}

pub(super) fn float(text: &[u8], bounds: Bounds, made: &mut Vec<u8>) -> Result<Value, Reason> {
    if matches!(bounds, Bounds::None) && is_plain(text) {
        return Ok(Value::whole(text));
    }
    let parts = parts(text).ok_or(Reason::Not(Kind::Float))?;
    let may_overflow = !parts.exponent.is_empty() || parts.whole.len() > PLAIN_BYTES_MAX;
    if may_overflow || !matches!(bounds, Bounds::None) {
        let value = std::str::from_utf8(text)
            .ok()
            .and_then(|text| text.parse::<f64>().ok())
            .ok_or(Reason::Not(Kind::Float))?;
        let (min, max) = match bounds {
            Bounds::Float(min, max) => (min, max),
            _ => (f64::NEG_INFINITY, f64::INFINITY),
        };
        if !value.is_finite() || value < min || value > max {
            return Err(Reason::OutOfRange(Kind::Float));
        }
    }
    if parts.is_canonical {
        return Ok(Value::whole(text));
    }
    parts.write(made);
    Ok(Value::Made)
}

pub(super) fn decimal(
    text: &[u8],
    precision: u8,
    scale: u8,
    bounds: Bounds,
    made: &mut Vec<u8>,
) -> Result<Value, Reason> {
    let kind = Kind::Decimal { precision, scale };
    let mut parts = parts(text).ok_or(Reason::Not(kind))?;
    if !parts.exponent.is_empty() {
        return Err(Reason::Not(kind));
    }
    let scale = usize::from(scale);
    if parts.fraction.len() > scale {
        // More digits than the column keeps, unless they say nothing.
        if parts.fraction[scale..].iter().any(|digit| *digit != b'0') {
            return Err(Reason::OutOfRange(kind));
        }
        parts.fraction = &parts.fraction[..scale];
        parts.is_canonical = false;
    }
    let whole = if parts.whole == b"0" {
        0
    } else {
        parts.whole.len()
    };
    if whole > usize::from(precision) - scale {
        return Err(Reason::OutOfRange(kind));
    }
    if let Bounds::Decimal(min, max) = bounds {
        let missing = scale - parts.fraction.len();
        let digits = parts.whole.iter().chain(parts.fraction);
        let value = digits
            .chain(std::iter::repeat_n(&b'0', missing))
            .fold(0_i128, |value, digit| value * 10 + i128::from(digit - b'0'));
        let value = if parts.negative { -value } else { value };
        if value < min || value > max {
            return Err(Reason::OutOfRange(kind));
        }
    }
    if parts.is_canonical {
        return Ok(Value::whole(text));
    }
    parts.write(made);
    Ok(Value::Made)
}
