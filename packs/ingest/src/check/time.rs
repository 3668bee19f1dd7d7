//! Dates and timestamps by their shape and the calendar (proleptic Gregorian, years 0001 to 9999).
//! Must never: guess an order of day and month.

/// `YYYY-MM-DD`.
pub(super) fn is_date(text: &[u8]) -> bool {
    let &[y1, y2, y3, y4, b'-', m1, m2, b'-', d1, d2] = text else {
        return false;
    };
    let (Some(century), Some(rest)) = (two(y1, y2), two(y3, y4)) else {
        return false;
    };
    let (Some(month), Some(day)) = (two(m1, m2), two(d1, d2)) else {
        return false;
    };
    let year = u16::from(century) * 100 + u16::from(rest);
    year >= 1 && day >= 1 && day <= days(year, month)
}

/// A date, `T` or a space, a time, and optionally an offset from UTC.
pub(super) fn is_timestamp(text: &[u8]) -> bool {
    let Some((date, rest)) = text.split_at_checked(10) else {
        return false;
    };
    let [b'T' | b't' | b' ', time @ ..] = rest else {
        return false;
    };
    is_date(date) && clock(time).is_some_and(is_offset)
}

/// Takes `HH:MM[:SS[.f]]` and hands back what follows. Up to nine digits of a second.
fn clock(text: &[u8]) -> Option<&[u8]> {
    let [h1, h2, b':', m1, m2, rest @ ..] = text else {
        return None;
    };
    if two(*h1, *h2)? > 23 || two(*m1, *m2)? > 59 {
        return None;
    }
    let [b':', s1, s2, rest @ ..] = rest else {
        return Some(rest);
    };
    if two(*s1, *s2)? > 59 {
        return None;
    }
    let [b'.', rest @ ..] = rest else {
        return Some(rest);
    };
    let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
    (1..=9).contains(&digits).then(|| &rest[digits..])
}

/// Nothing, `Z`, `+HH`, `+HHMM` or `+HH:MM`.
fn is_offset(text: &[u8]) -> bool {
    let within = |hours: Option<u8>, minutes: Option<u8>| {
        hours.is_some_and(|hours| hours <= 15) && minutes.is_some_and(|minutes| minutes <= 59)
    };
    match text {
        [] | [b'Z' | b'z'] => true,
        [b'+' | b'-', h1, h2] => within(two(*h1, *h2), Some(0)),
        [b'+' | b'-', h1, h2, m1, m2] | [b'+' | b'-', h1, h2, b':', m1, m2] => {
            within(two(*h1, *h2), two(*m1, *m2))
        }
        _ => false,
    }
}

fn two(tens: u8, ones: u8) -> Option<u8> {
    let (tens, ones) = (tens.wrapping_sub(b'0'), ones.wrapping_sub(b'0'));
    (tens <= 9 && ones <= 9).then(|| tens * 10 + ones)
}

fn days(year: u16, month: u8) -> u8 {
    let leap = year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    match month {
        1 | 3 | 5 | 7 | 8 | 10 | 12 => 31,
        4 | 6 | 9 | 11 => 30,
        2 if leap => 29,
        2 => 28,
        _ => 0,
    }
}
