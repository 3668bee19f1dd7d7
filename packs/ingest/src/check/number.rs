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

/// `-12.5`: a JSON number without exponent, told in one pass. Most are like this.
fn is_plain(text: &[u8]) -> bool {
    let digits = text.strip_prefix(b"-").unwrap_or(text);
    let mut point = digits.len();
    for (at, byte) in digits.iter().enumerate() {
        if *byte == b'.' && point == digits.len() {
            point = at;
        } else if !byte.is_ascii_digit() {
            return false;
        }
    }
    let starts_well = point > 0 && (digits[0] != b'0' || point == 1);
    starts_well && point + 1 != digits.len() && text.len() <= 300
}

pub(super) fn float(text: &[u8], bounds: Bounds, made: &mut Vec<u8>) -> Result<Value, Reason> {
    if matches!(bounds, Bounds::None) && is_plain(text) {
        return Ok(Value::whole(text));
    }
    let parts = parts(text).ok_or(Reason::Not(Kind::Float))?;
    // Up to 300 digits without an exponent are finite whatever they are.
    let may_overflow = !parts.exponent.is_empty() || parts.whole.len() > 300;
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
