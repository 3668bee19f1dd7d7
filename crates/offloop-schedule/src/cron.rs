//! Cron expressions on the clock of a wall: which civil seconds match. `croner` reads the text and
//! knows days (`L`, `W`, `#`); hours, minutes and seconds are bits here, so that a search is a few
//! steps.
//!
//! Must never: know a time zone.

use croner::parser::{CronParser, Seconds, Year};
use croner::{CronPattern, Weekday};

/// Seconds since 1970-01-01T00:00 as a clock on the wall shows them.
pub(crate) type Civil = i64;

pub(crate) const DAY: i64 = 86_400;
/// After so many days the Gregorian calendar repeats itself, weekdays included.
const DAYS_OF_400_YEARS: i64 = 146_097;
/// Of year 9999.
const LAST_DAY: i64 = 2_932_896;

const NAMES: [(&str, &str); 7] = [
    ("@yearly", "0 0 1 1 *"),
    ("@annually", "0 0 1 1 *"),
    ("@monthly", "0 0 1 * *"),
    ("@weekly", "0 0 * * 0"),
    ("@daily", "0 0 * * *"),
    ("@midnight", "0 0 * * *"),
    ("@hourly", "0 * * * *"),
];
const FIELDS: [&str; 6] = [
    "second",
    "minute",
    "hour",
    "day of month",
    "month",
    "weekday",
];

#[derive(Clone, Debug)]
pub(crate) struct Cron {
    pattern: CronPattern,
    seconds: u64,
    minutes: u64,
    hours: u64,
    months: u64,
    follows: Follows,
}

/// What an expression goes by where clocks are changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Follows {
    /// Elapsed time: the hour field begins with `*`.
    Elapsed,
    /// The clock on the wall, each of its times once: nothing but days begins with `*`.
    Wall,
    /// Either: hours are fixed and minutes (or seconds) begin with `*`. It goes on through an hour that
    /// comes twice, and makes up once for one that is skipped.
    Both,
}

impl Follows {
    /// `fields`: second, minute, hour and so on.
    fn of(fields: &[&str]) -> Self {
        let [second, minute, hour] = [0, 1, 2].map(|at| fields[at].starts_with('*'));
        match (hour, second || minute) {
            (true, _) => Self::Elapsed,
            (false, true) => Self::Both,
            (false, false) => Self::Wall,
        }
    }
}

fn bits(values: &[u16]) -> u64 {
    values.iter().fold(0, |bits, value| bits | 1 << value)
}

/// The first set bit from `from` on.
fn bit_from(bits: u64, from: i64) -> Option<i64> {
    if from > 63 {
        return None;
    }
    let rest = bits >> from << from;
    (rest != 0).then(|| i64::from(rest.trailing_zeros()))
}

fn parser() -> CronParser {
    let builder = CronParser::builder().seconds(Seconds::Optional);
    builder.year(Year::Disallowed).build()
}

impl Cron {
    /// The error says what is wrong and what to give.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let shown = &text[..text.floor_char_boundary(80)];
        let text = text.trim();
        let text = match NAMES.iter().find(|name| name.0.eq_ignore_ascii_case(text)) {
            Some(name) => name.1,
            None if text.starts_with('@') => {
                let known: Vec<_> = NAMES.iter().map(|name| name.0).collect();
                return Err(format!(
                    "is {shown:?}; known names are {}",
                    known.join(", ")
                ));
            }
            None => text,
        };
        let mut fields: Vec<&str> = text.split_ascii_whitespace().collect();
        let count = fields.len();
        if !(5..=6).contains(&count) {
            return Err(format!(
                "is {shown:?} with {count} fields; give 5 (minute, hour, day of month, month, \
                 weekday), 6 (second first), or a name such as @hourly"
            ));
        }
        if count == 5 {
            fields.insert(0, "0");
        }
        for (at, field) in fields.iter().enumerate() {
            check_field(at, field)?;
        }
        let cron = parser()
            .parse(text)
            .map_err(|error| format!("is {shown:?}: {error}"))?;
        let pattern = cron.pattern;
        let cron = Self {
            seconds: bits(&pattern.seconds.values()),
            minutes: bits(&pattern.minutes.values()),
            hours: bits(&pattern.hours.values()),
            months: bits(&pattern.months.values()),
            follows: Follows::of(&fields),
            pattern,
        };
        if cron.first_from(0).is_none() {
            return Err(format!(
                "is {shown:?}, which never comes: no year has such a day (day of month {}, month {}, \
                 weekday {})",
                fields[3], fields[4], fields[5]
            ));
        }
        Ok(cron)
    }

    pub(crate) const fn follows(&self) -> Follows {
        self.follows
    }

    /// The first match at or after `from`; `None`: there is none up to year 9999.
    pub(crate) fn first_from(&self, from: Civil) -> Option<Civil> {
        let mut day = from.div_euclid(DAY);
        let mut within = from.rem_euclid(DAY);
        let last = LAST_DAY.min(day + DAYS_OF_400_YEARS + 1);
        while day <= last {
            let (year, month, of_month) = date(day);
            if self.months >> month & 1 == 0 {
                day += i64::from(29 - of_month.min(28)).max(1); // into the next month, or near it
                within = 0;
                continue;
            }
            if self.matches_day(day, year, month, of_month)
                && let Some(second) = self.first_in_day(within)
            {
                return Some(day * DAY + second);
            }
            day += 1;
            within = 0;
        }
        None
    }

    fn matches_day(&self, day: i64, year: i32, month: u32, of_month: u32) -> bool {
        // 1970-01-01 was a Thursday.
        let weekday = Weekday::from_days_from_sunday((day + 4).rem_euclid(7) as u32);
        let found = self.pattern.day_match(year, month, of_month, weekday);
        found.unwrap_or(false) // an error is a date that is none
    }

    fn first_in_day(&self, from: i64) -> Option<i64> {
        let (hour, minute, second) = (from / 3_600, from / 60 % 60, from % 60);
        let at = |hour, minute, second| hour * 3_600 + minute * 60 + second;
        let (minute_0, second_0) = (bit_from(self.minutes, 0)?, bit_from(self.seconds, 0)?);
        if self.hours >> hour & 1 == 1 {
            if self.minutes >> minute & 1 == 1
                && let Some(second) = bit_from(self.seconds, second)
            {
                return Some(at(hour, minute, second));
            }
            if let Some(minute) = bit_from(self.minutes, minute + 1) {
                return Some(at(hour, minute, second_0));
            }
        }
        let hour = bit_from(self.hours, hour + 1)?;
        Some(at(hour, minute_0, second_0))
    }
}

/// What the parser would say without naming the field, or not at all.
fn check_field(at: usize, field: &str) -> Result<(), String> {
    let name = FIELDS[at];
    if field.split(',').any(str::is_empty) {
        return Err(format!(
            "its {name} {field:?} has an empty part; take a comma out"
        ));
    }
    let mut alone = ["0", "0", "0", "*", "*", "*"];
    alone[at] = field;
    match parser().parse(&alone.join(" ")) {
        Ok(_) => Ok(()),
        Err(error) => {
            let range = [
                "0-59",
                "0-59",
                "0-23",
                "1-31, L or W",
                "1-12 or JAN-DEC",
                "0-7, SUN-SAT, L or #",
            ][at];
            Err(format!(
                "its {name} {field:?} cannot be ({error}); give {range}, lists, ranges or steps"
            ))
        }
    }
}

/// Year, month and day of a day count since 1970-01-01. Source: Howard Hinnant,
/// "chrono-Compatible Low-Level Date Algorithms", `civil_from_days`.
const fn date(days: i64) -> (i32, u32, u32) {
    let z = days + 719_468;
    let era = z.div_euclid(DAYS_OF_400_YEARS);
    let day_of_era = z.rem_euclid(DAYS_OF_400_YEARS);
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
    let year = year_of_era + era * 400 + (month <= 2) as i64;
    (year as i32, month as u32, day as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn civil(text: &str) -> Civil {
        let at: jiff::civil::DateTime = text.parse().unwrap();
        at.to_zoned(jiff::tz::TimeZone::UTC)
            .unwrap()
            .timestamp()
            .as_second()
    }

    #[test]
    fn an_expression_names_the_times_that_its_words_say() {
        #[rustfmt::skip]
        let rows = [
            ("*/15 * * * *", "2026-11-21T10:07:30", "2026-11-21T10:15:00"),
            ("0 9 * * MON-FRI", "2026-11-21T00:00:00", "2026-11-23T09:00:00"),
            ("*/10 * * * * *", "2026-11-21T10:07:31", "2026-11-21T10:07:40"),
            ("30 4 1,15 * 5", "2026-11-02T00:00:00", "2026-11-06T04:30:00"),
            ("0 0 29 2 *", "2026-01-01T00:00:00", "2028-02-29T00:00:00"),
            ("0 0 L * *", "2027-02-01T00:00:00", "2027-02-28T00:00:00"),
            ("0 0 15W * *", "2026-08-01T00:00:00", "2026-08-14T00:00:00"),
            ("0 0 LW * *", "2026-10-01T00:00:00", "2026-10-30T00:00:00"),
            ("0 0 * * FRI#2", "2026-11-01T00:00:00", "2026-11-13T00:00:00"),
            ("0 0 * * 5L", "2026-11-01T00:00:00", "2026-11-27T00:00:00"),
            ("0 0 31 * *", "2026-02-01T00:00:00", "2026-03-31T00:00:00"),
            ("0 0 * JAN,mar SUN", "2026-02-01T00:00:00", "2026-03-01T00:00:00"),
            ("@weekly", "2026-11-21T00:00:00", "2026-11-22T00:00:00"),
            ("@hourly", "2026-11-21T10:00:00", "2026-11-21T10:00:00"),
            ("59 59 23 31 12 *", "2026-11-21T10:00:00", "2026-12-31T23:59:59"),
        ];
        for (text, from, want) in rows {
            let cron = Cron::parse(text).unwrap();
            assert_eq!(cron.first_from(civil(from)), Some(civil(want)), "{text}");
        }
    }

    #[test]
    fn what_cannot_be_is_refused_with_the_field_and_the_reason() {
        #[rustfmt::skip]
        let rows = [
            ("0 0 30 2 *", "never comes"), ("0 0 31 4,6,9,11 *", "never comes"),
            ("61 * * * *", "minute \"61\""), ("* 24 * * *", "hour \"24\""),
            ("* * 0 * *", "day of month \"0\""), ("* * * 13 *", "month \"13\""),
            ("* * * * 8", "weekday \"8\""), ("* * * FOO *", "month \"FOO\""),
            ("*/0 * * * *", "minute \"*/0\""), ("5-1 * * * *", "minute \"5-1\""),
            ("1,,2 * * * *", "empty part"), ("* * * *", "4 fields"), ("", "0 fields"),
            ("0 0 0 1 1 * 2030", "7 fields"), ("@reboot", "@hourly"), ("@every 5m", "@hourly"),
            ("\u{1d7d9} * * * *", "minute"), ("L * * * *", "minute \"L\""),
            ("* * * * 1#6", "weekday \"1#6\""),
        ];
        for (text, want) in rows {
            let error = Cron::parse(text).unwrap_err();
            assert!(error.contains(want), "{text:?}: {error}");
        }
    }

    #[test]
    fn dates_are_those_of_the_calendar() {
        for day in (-1_000..=LAST_DAY).step_by(97) {
            let at = jiff::civil::date(1970, 1, 1) + jiff::Span::new().days(day);
            assert_eq!(
                date(day),
                (at.year().into(), at.month() as u32, at.day() as u32)
            );
        }
    }
}
