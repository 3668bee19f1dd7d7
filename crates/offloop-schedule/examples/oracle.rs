//! The campaign R8: expressions against the minute-by-minute oracle in every IANA zone over two years.
//!
//! `cargo run --profile quick -p offloop-schedule --example oracle -- 200 600` takes 200 expressions and
//! at most 600 seconds. Zones that show the same clock in those years are taken once. It ends with a
//! line of figures, or at the first mismatch.

#[path = "../tests/oracle/mod.rs"]
mod oracle;

use std::collections::HashMap;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use jiff::tz::TimeZoneDatabase;
use offloop_job::{ScheduleName, ScheduleSpec, TaskName, Timestamp, Timing};
use offloop_schedule::Plan;
use oracle::{Follows, MINUTE, Oracle, civil, dues, wall};

/// 2025-12-01 and 2027-12-01 in minutes since 1970.
const FROM: i64 = 29_409_120;
const TO: i64 = FROM + 730 * 1_440;
const LEAD: i64 = 2 * 1_440;
/// Zones differ by less than a day and a half from UTC.
const MARGIN: i64 = 3 * 1_440;

/// SplitMix64: the same expressions in every run.
struct Draw(u64);

impl Draw {
    fn next(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % below
    }

    fn field(&mut self, min: u64, max: u64, star: u64) -> String {
        let value = |draw: &mut Self| min + draw.next(max - min + 1);
        match self.next(star + 4) {
            0 => value(self).to_string(),
            1 => format!("{},{}", value(self), value(self)),
            2 => {
                let (a, b) = (value(self), value(self));
                format!("{}-{}", a.min(b), a.max(b))
            }
            3 => format!("*/{}", 2 + self.next(13)),
            _ => "*".into(),
        }
    }

    /// Weighted to the hours where clocks change.
    fn expression(&mut self) -> String {
        let minute = self.field(0, 59, 1);
        let hour = match self.next(3) {
            0 => self.field(0, 4, 0),
            _ => self.field(0, 23, 2),
        };
        let (day, month) = (self.field(1, 28, 8), self.field(1, 12, 8));
        format!("{minute} {hour} {day} {month} {}", self.field(0, 7, 8))
    }
}

fn number(nth: usize, usual: u64) -> u64 {
    let given = std::env::args().nth(nth);
    given.and_then(|text| text.parse().ok()).unwrap_or(usual)
}

/// Where both differ first, if they do.
fn mismatch(
    text: &str,
    zone: &str,
    follows: Follows,
    shown: &[i64],
    matching: &[bool],
) -> Option<String> {
    let want = dues(follows, shown, FROM, LEAD, |minute| {
        matching[(minute - FROM + MARGIN) as usize]
    });
    let spec = ScheduleSpec {
        timezone: zone.into(),
        ..ScheduleSpec::new(TaskName::parse("t").ok()?, Timing::Cron(text.into()))
    };
    let plan = Plan::new(
        &ScheduleName::parse("s").ok()?,
        &spec,
        Timestamp::from_millis(0),
    );
    let Ok(plan) = plan else {
        return want
            .first()
            .map(|_| "the expression is refused, and has due times".to_owned());
    };
    let mut at = Timestamp::from_millis((FROM * MINUTE * 1_000) as u64 - 1);
    for want in want {
        let due = plan.next_after(at)?;
        if due.as_millis() != (want * MINUTE * 1_000) as u64 {
            return Some(format!("due at {due}, and by the oracle in minute {want}"));
        }
        at = due;
    }
    let end = (TO * MINUTE * 1_000) as u64;
    let more = plan.next_after(at).filter(|due| due.as_millis() < end);
    more.map(|due| format!("due at {due}, and by the oracle no more"))
}

fn main() -> ExitCode {
    let (expressions, limit) = (number(1, 200), Duration::from_secs(number(2, 600)));
    let began = Instant::now();
    let bundled = TimeZoneDatabase::bundled();
    // Clocks that go alike: the first zone's name stands for them.
    let mut clocks: HashMap<Vec<i64>, String> = HashMap::new();
    let mut zones = 0;
    for name in bundled.available() {
        let Ok(zone) = jiff::tz::db().get(name.as_str()) else {
            continue;
        };
        zones += 1;
        let offsets = (FROM - LEAD..TO).step_by(15).map(|minute| {
            jiff::Timestamp::from_second(minute * MINUTE)
                .map_or(0, |at| zone.to_offset(at).seconds().into())
        });
        clocks
            .entry(offsets.collect())
            .or_insert_with(|| name.as_str().to_owned());
    }
    let mut names: Vec<_> = clocks.into_values().collect();
    names.sort();
    let mut draw = Draw(8);
    let texts: Vec<_> = (0..expressions).map(|_| draw.expression()).collect();
    let oracles: Vec<_> = texts.iter().map(|text| Oracle::read(text)).collect();
    let matching = oracles.iter().map(|oracle| -> Vec<bool> {
        (FROM - MARGIN..TO + MARGIN)
            .map(|minute| oracle.matches(civil(minute)))
            .collect()
    });
    let matching: Vec<_> = matching.collect();
    let mut done = 0_u64;
    for name in &names {
        let Ok(zone) = jiff::tz::db().get(name) else {
            continue;
        };
        let shown = wall(&zone, FROM - LEAD, TO);
        for (nth, text) in texts.iter().enumerate() {
            if let Some(what) = mismatch(text, name, oracles[nth].follows(), &shown, &matching[nth])
            {
                println!("mismatch: {text:?} in {name}: {what}");
                return ExitCode::FAILURE;
            }
            done += 1;
        }
        if began.elapsed() > limit {
            println!("stopped after {limit:?}, at {name}");
            break;
        }
    }
    println!(
        "{zones} zones with {} different clocks, {expressions} expressions, 730 days: {done} pairs agree, 0 mismatches, {:.0?}",
        names.len(),
        began.elapsed()
    );
    ExitCode::SUCCESS
}
