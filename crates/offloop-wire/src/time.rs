//! Instants as RFC 3339 text, UTC, with milliseconds.

use std::time::Duration;

use offloop_job::Timestamp;

/// Appends `2026-11-21T11:13:20.123Z`.
pub fn write_time(out: &mut Vec<u8>, at: Timestamp) {
    let ms = at.as_millis();
    let (days, in_day) = (ms / 86_400_000, ms % 86_400_000);
    let (year, month, day) = civil(days);
    let parts = [
        (year, 4, b'-'),
        (month, 2, b'-'),
        (day, 2, b'T'),
        (in_day / 3_600_000, 2, b':'),
        (in_day / 60_000 % 60, 2, b':'),
        (in_day / 1_000 % 60, 2, b'.'),
        (in_day % 1_000, 3, b'Z'),
    ];
    for (value, width, then) in parts {
        let mut unit = 10_u64.pow(width - 1);
        for _ in 0..width {
            out.push(b'0' + (value / unit % 10) as u8);
            unit /= 10;
        }
        out.push(then);
    }
}

/// The same as a text of its own.
pub fn format_time(at: Timestamp) -> String {
    let mut out = Vec::with_capacity(24);
    write_time(&mut out, at);
    String::from_utf8(out).unwrap_or_default() // ASCII digits and marks only
}

/// Reads RFC 3339 with any offset. An instant before 1970, or on the last two days of year 9999 or
/// later, is refused.
pub fn parse_time(text: &str) -> Result<Timestamp, String> {
    const LIKE: &str = "give RFC 3339, such as 2026-11-21T11:13:20Z";
    let at: jiff::Timestamp = text.parse().map_err(|_| format!("is no time; {LIKE}"))?;
    let ms = u64::try_from(at.as_millisecond())
        .map_err(|_| "is before 1970; give a time from 1970 to 9999".to_owned())?;
    if ms > Timestamp::MAX.as_millis() {
        return Err("is after year 9999; give a time from 1970 to 9999".into());
    }
    Ok(Timestamp::from_millis(ms))
}

/// When something began: an instant as [`parse_time`] reads it, or how long before `now`, such as
/// `24h`, `90min`, `7d` or `1d12h`.
pub fn parse_since(text: &str, now: Timestamp) -> Result<Timestamp, String> {
    if let Some(span) = span(text) {
        return Ok(now.minus(span));
    }
    parse_time(text).map_err(|_| {
        format!(
            "is {:?}; give a length such as 24h, 90min or 7d, or RFC 3339, such as \
             2026-11-21T11:13:20Z",
            &text[..text.floor_char_boundary(64)]
        )
    })
}

/// Whole numbers with their units, one after the other.
fn span(text: &str) -> Option<Duration> {
    let mut seconds = 0_u64;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let (number, after) = rest.split_at(digits);
        let letters = after.bytes().take_while(u8::is_ascii_lowercase).count();
        let (unit, after) = after.split_at(letters);
        let unit = match unit {
            "s" => 1,
            "m" | "min" => 60,
            "h" => 3_600,
            "d" => 86_400,
            "w" => 7 * 86_400,
            _ => return None,
        };
        seconds = number
            .parse::<u64>()
            .ok()?
            .checked_mul(unit)?
            .checked_add(seconds)?;
        rest = after;
    }
    (!text.is_empty()).then(|| Duration::from_secs(seconds))
}

/// Year, month and day of a day count since 1970-01-01. Source: Howard Hinnant,
/// "chrono-Compatible Low-Level Date Algorithms", `civil_from_days`, for days from 0 on.
const fn civil(days: u64) -> (u64, u64, u64) {
    let z = days + 719_468;
    let era = z / 146_097;
    let day_of_era = z % 146_097;
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 {
        shifted + 3
    } else {
        shifted - 9
    };
    let year = year_of_era + era * 400 + (month <= 2) as u64;
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn known_instants_read_and_write() {
        let rows = [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_399_999, "2000-02-28T23:59:59.999Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (4_107_542_400_000, "2100-03-01T00:00:00.000Z"),
            (253_402_207_200_999, "9999-12-30T22:00:00.999Z"),
        ];
        for (ms, text) in rows {
            assert_eq!(format_time(Timestamp::from_millis(ms)), text);
            assert_eq!(parse_time(text), Ok(Timestamp::from_millis(ms)));
        }
        assert_eq!(
            parse_time("1970-01-01T01:00:00+01:00"),
            Ok(Timestamp::from_millis(0))
        );
        for bad in [
            "",
            "soon",
            "1969-12-31T23:59:59Z",
            "2026-13-01T00:00:00Z",
            "1700000000",
        ] {
            assert!(parse_time(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_beginning_is_a_length_or_an_instant() {
        let now = Timestamp::from_millis(1_800_000_000_000);
        let ago = |seconds| Ok(now.minus(Duration::from_secs(seconds)));
        let rows = [
            ("24h", ago(86_400)),
            ("90min", ago(5_400)),
            ("1d12h", ago(129_600)),
            ("2w", ago(1_209_600)),
            ("5m0s", ago(300)),
            ("99999999999d", ago(99_999_999_999 * 86_400)),
            ("1970-01-01T00:00:01Z", Ok(Timestamp::from_millis(1_000))),
        ];
        for (text, want) in rows {
            assert_eq!(parse_since(text, now), want, "{text:?}");
        }
        let huge = "9".repeat(30) + "d";
        for bad in [
            "",
            "h",
            "24",
            "24 h",
            "-1h",
            "1y",
            "yesterday",
            "1h1",
            "ü",
            &huge,
        ] {
            let error = parse_since(bad, now).unwrap_err();
            assert!(error.contains("24h"), "{bad:?}: {error}");
        }
    }

    proptest! {
        #[test]
        fn an_instant_survives_its_text(ms in 0_u64..=253_402_207_200_999) {
            let at = Timestamp::from_millis(ms);
            prop_assert_eq!(parse_time(&format_time(at)), Ok(at));
        }

        #[test]
        fn any_text_is_read_or_refused(text in ".{0,40}") {
            let _ = parse_since(&text, Timestamp::from_millis(1));
            let _ = parse_time(&text);
        }
    }
}
