//! Text and times from metadata, made safe to store and to show.
//!
//! Must never: pass on a control character, or a string longer than its cap.

/// Characters of a camera's make or model.
const TEXT_CHARS_MAX: usize = 64;

/// When a photo was taken, by the camera's clock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Taken {
    /// `YYYY-MM-DDTHH:MM:SS`, without zone: a camera's clock shows local time.
    pub local: String,
    /// Minutes east of UTC, if the camera recorded its zone (EXIF 2.31 and later).
    pub offset_minutes: Option<i16>,
}

/// Trims at the first NUL, drops control characters, replaces invalid UTF-8, caps the length.
pub(super) fn clean(raw: &[u8]) -> Option<String> {
    let raw = raw.split(|&b| b == 0).next().unwrap_or(raw);
    let text = String::from_utf8_lossy(raw);
    let kept: String = text
        .trim()
        .chars()
        .filter(|c| !c.is_control() && !is_invisible(*c))
        .take(TEXT_CHARS_MAX)
        .collect();
    if kept.is_empty() { None } else { Some(kept) }
}

/// Direction overrides and zero-width characters change how *other* text is shown.
fn is_invisible(c: char) -> bool {
    matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

/// Reads `YYYY:MM:DD HH:MM:SS`; `None` when a field is not a number or out of its range.
pub(super) fn local_time(raw: &[u8]) -> Option<String> {
    let raw = raw.get(..19)?;
    let number = |from: usize, to: usize| -> Option<u32> {
        raw[from..to].iter().try_fold(0, |sum, &b| {
            b.is_ascii_digit().then(|| sum * 10 + u32::from(b - b'0'))
        })
    };
    let separators = [4, 7].iter().all(|&i| matches!(raw[i], b':' | b'-' | b'/'))
        && matches!(raw[10], b' ' | b'T')
        && [13, 16].iter().all(|&i| raw[i] == b':');
    let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    let (hour, minute, second) = (number(11, 13)?, number(14, 16)?, number(17, 19)?);
    let in_range = year >= 1
        && (1..=12).contains(&month)
        && (1..=31).contains(&day)
        && hour < 24
        && minute < 60
        && second <= 60;
    (separators && in_range)
        .then(|| format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}"))
}

/// Reads `+HH:MM`, `-HH:MM` or `Z`.
pub(super) fn zone(raw: &[u8]) -> Option<i16> {
    let digit = |b: u8| b.is_ascii_digit().then(|| i16::from(b - b'0'));
    match *raw {
        [b'Z', ..] => Some(0),
        [sign @ (b'+' | b'-'), h1, h0, b':', m1, m0, ..] => {
            let minutes = (digit(h1)? * 10 + digit(h0)?) * 60 + digit(m1)? * 10 + digit(m0)?;
            (minutes <= 14 * 60).then_some(if sign == b'-' { -minutes } else { minutes })
        }
        _ => None,
    }
}
