//! A slow, independent reading of cron: minute by minute, field by field, with nothing of the crate
//! under test but its name for a schedule. For expressions of five fields.
#![allow(clippy::unwrap_used, reason = "it reads what tests write")]

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;

pub(crate) const MINUTE: i64 = 60;

const MONTHS: [&str; 12] = [
    "JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC",
];
const DAYS: [&str; 7] = ["SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"];

/// One field as the values that it names, by trying each.
#[derive(Clone, Debug)]
struct Field {
    parts: Vec<(u32, u32, u32)>,
    star: bool,
}

impl Field {
    fn read(text: &str, min: u32, max: u32, names: &[&str], first: u32) -> Self {
        let number = |text: &str| {
            let named = names
                .iter()
                .position(|name| name.eq_ignore_ascii_case(text));
            named.map_or_else(|| text.parse().unwrap(), |at| at as u32 + first)
        };
        let parts = text.split(',').map(|part| {
            let (range, step) = part
                .split_once('/')
                .map_or((part, 1), |(range, step)| (range, step.parse().unwrap()));
            match range.split_once('-') {
                _ if range == "*" => (min, max, step),
                Some((from, to)) => (number(from), number(to), step),
                None => (number(range), number(range), step),
            }
        });
        Self {
            parts: parts.collect(),
            star: text == "*",
        }
    }

    fn has(&self, value: u32) -> bool {
        let parts = self.parts.iter();
        parts.clone().any(|(from, to, step)| {
            (*from..=*to).contains(&value) && (value - from).is_multiple_of(*step)
        })
    }
}

/// An expression without `L`, `W` and `#`.
#[derive(Clone, Debug)]
pub(crate) struct Oracle {
    fields: [Field; 5],
    follows: Follows,
}

/// What counts in a minute: that the clock shows a match, that it comes to one for the first time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Follows {
    shown: bool,
    reached: bool,
}

impl Oracle {
    pub(crate) fn read(text: &str) -> Self {
        let parts: Vec<_> = text.split(' ').collect();
        Self {
            fields: [
                Field::read(parts[0], 0, 59, &[], 0),
                Field::read(parts[1], 0, 23, &[], 0),
                Field::read(parts[2], 1, 31, &[], 0),
                Field::read(parts[3], 1, 12, &MONTHS, 1),
                Field::read(parts[4], 0, 7, &DAYS, 0),
            ],
            follows: Follows {
                shown: parts[0].starts_with('*') || parts[1].starts_with('*'),
                reached: !parts[1].starts_with('*'),
            },
        }
    }

    /// What the wall's clock shows, by the words of crontab(5).
    pub(crate) fn matches(&self, at: DateTime) -> bool {
        let [minute, hour, day, month, weekday] = &self.fields;
        let sunday_0 = at.weekday().to_sunday_zero_offset() as u32;
        let on_weekday = weekday.has(sunday_0) || (sunday_0 == 0 && weekday.has(7));
        let on_day = day.has(at.day() as u32);
        let today = match (day.star, weekday.star) {
            (false, false) => on_day || on_weekday,
            (true, _) => on_weekday,
            (false, true) => on_day,
        };
        minute.has(at.minute() as u32)
            && hour.has(at.hour() as u32)
            && month.has(at.month() as u32)
            && today
    }

    pub(crate) const fn follows(&self) -> Follows {
        self.follows
    }
}

/// What a zone's clock shows at each minute of a span, as minutes since 1970.
pub(crate) fn wall(zone: &TimeZone, from: i64, to: i64) -> Vec<i64> {
    let shown = (from..to).map(|minute| {
        let at = Timestamp::from_second(minute * MINUTE).unwrap();
        civil_minute(zone.to_datetime(at))
    });
    shown.collect()
}

pub(crate) fn civil_minute(at: DateTime) -> i64 {
    let at = at.to_zoned(TimeZone::UTC).unwrap().timestamp();
    at.as_second().div_euclid(MINUTE)
}

pub(crate) fn civil(minute: i64) -> DateTime {
    let at = Timestamp::from_second(minute * MINUTE).unwrap();
    TimeZone::UTC.to_datetime(at)
}

/// The due minutes in `from..to`. `matching`: whether a civil minute matches. The walk begins two days
/// early, to know what the clock has shown.
pub(crate) fn dues(
    follows: Follows,
    wall: &[i64],
    from: i64,
    lead: i64,
    matching: impl Fn(i64) -> bool,
) -> Vec<i64> {
    let mut found = Vec::new();
    let mut high = wall[0];
    for (nth, &shown) in wall.iter().enumerate().skip(1) {
        let minute = from - lead + nth as i64;
        // All that the clock reaches or passes in this minute for the first time.
        let reached = || (high + 1..=shown).any(&matching);
        let due = follows.shown && matching(shown) || follows.reached && reached();
        high = high.max(shown);
        if due && minute >= from {
            found.push(minute);
        }
    }
    found
}
