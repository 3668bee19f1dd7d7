//! Two years of schedules in three zones, and clocks that step: every due time has its row, once.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod oracle;
mod simulation;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use jiff::tz::TimeZone;
use offloop_job::{Missed, ScheduleSpec, TaskName, Timestamp, Timing};
use offloop_schedule::Plan;
use offloop_store::{LedgerOutcome, LedgerRow};
use oracle::{MINUTE, Oracle, civil, dues, wall};
use simulation::Simulation;

/// 2026-01-01 and 2028-01-01 in minutes since 1970.
const FROM: i64 = 29_453_760;
const TO: i64 = FROM + 730 * 1_440;
const LEAD: i64 = 2 * 1_440;
const ZONES: [&str; 3] = ["Europe/Berlin", "America/New_York", "Australia/Lord_Howe"];
const CRON: [&str; 6] = [
    "0 * * * *",
    "*/30 * * * *",
    "30 2 * * *",
    "0 2 * * *",
    "45 1 * * SUN",
    "0 0 1 * *",
];

fn spec(timing: Timing, zone: &str) -> ScheduleSpec {
    ScheduleSpec {
        timezone: zone.into(),
        ..ScheduleSpec::new(TaskName::parse("t").unwrap(), timing)
    }
}

fn at(minute: i64) -> Timestamp {
    Timestamp::from_millis((minute * MINUTE * 1_000) as u64)
}

/// Looks come up to 40 ms late, differently each time.
fn late(at: Timestamp) -> Duration {
    Duration::from_millis(at.as_millis() / 1_000 * 7 % 41)
}

fn told(zone: &TimeZone, row: &LedgerRow) -> String {
    let due = jiff::Timestamp::from_millisecond(row.due_at.as_millis() as i64).unwrap();
    let local = zone.to_offset(due).to_datetime(due);
    let outcome = match &row.outcome {
        LedgerOutcome::Fired { .. } => "fired".to_owned(),
        LedgerOutcome::Skipped { reason, .. } => format!("skipped {reason}"),
    };
    format!("{due}  {local} {}  {outcome}", zone.to_offset(due))
}

/// The ledger around each change of clocks, as a text that people can check: `two_years.txt`. With
/// `BLESS=1` it is written anew.
#[test]
fn two_years_of_fixed_and_running_hours_lose_and_double_nothing_where_clocks_change() {
    let mut text = String::new();
    for name in ZONES {
        let zone = jiff::tz::db().get(name).unwrap();
        let shown = wall(&zone, FROM - LEAD, TO);
        let start = jiff::Timestamp::from_second(FROM * MINUTE).unwrap();
        let changes = zone
            .following(start)
            .map(|change| change.timestamp().as_second() / MINUTE);
        let changes: Vec<i64> = changes.take_while(|minute| *minute < TO).collect();
        assert_eq!(changes.len(), 4, "{name} changes twice a year");
        for expression in CRON {
            let spec = spec(Timing::Cron(expression.into()), name);
            let mut simulation = Simulation::start(spec, at(FROM).minus(Duration::from_millis(1)));
            simulation.run(at(TO), late);
            let rows = &simulation.rows;
            let found: Vec<i64> = rows
                .iter()
                .map(|row| (row.due_at.as_millis() / 60_000) as i64)
                .collect();
            let oracle = Oracle::read(expression);
            let matching = |at| oracle.matches(civil(at));
            let want = dues(oracle.follows(), &shown, FROM, LEAD, matching);
            assert_eq!(found, want, "{expression} in {name}");
            assert!(
                rows.iter()
                    .all(|row| matches!(row.outcome, LedgerOutcome::Fired { .. }))
            );
            assert!(
                rows.iter().all(|row| row.late == late(row.due_at)),
                "how late is on record"
            );
            for change in &changes {
                let near = rows.iter().filter(|row| {
                    let minute = (row.due_at.as_millis() / 60_000) as i64;
                    (change - 90..=change + 90).contains(&minute)
                });
                for row in near {
                    let _ = writeln!(text, "{name:<19}  {expression:<12}  {}", told(&zone, row));
                }
            }
        }
    }
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/two_years.txt");
    #[expect(
        clippy::disallowed_methods,
        reason = "an order to the test, not a setting"
    )]
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(path, &text).unwrap();
    }
    assert_eq!(
        text,
        std::fs::read_to_string(path).unwrap(),
        "BLESS=1 writes it anew"
    );
}

/// Due times in the rows, each with how often.
fn counted(plan: &Plan, rows: &[LedgerRow]) -> BTreeMap<Timestamp, u64> {
    let mut all: BTreeMap<Timestamp, u64> = BTreeMap::new();
    for row in rows {
        let count = match &row.outcome {
            LedgerOutcome::Skipped {
                stretch: Some(stretch),
                ..
            } => stretch.count.unwrap_or_else(|| {
                // Too many to count in a turn, not in a test.
                let mut count = 1;
                let mut due = row.due_at;
                while due < stretch.until {
                    due = plan.next_after(due).unwrap();
                    count += 1;
                }
                assert_eq!(due, stretch.until);
                count
            }),
            _ => 1,
        };
        *all.entry(row.due_at).or_default() += count;
    }
    all
}

#[test]
fn a_clock_that_steps_loses_no_due_time_and_doubles_none() {
    let hour = 3_600_000_i64;
    let day = 24 * hour;
    let timings = [
        Timing::Cron("* * * * *".into()),
        Timing::Cron("*/7 * * * * *".into()),
        Timing::Cron("0 3 * * *".into()),
        Timing::Every(Duration::from_millis(7_777)),
        Timing::Every(Duration::from_secs(5_400)),
    ];
    let rules = [Missed::Skip, Missed::Once, Missed::CatchUp { max: 50 }];
    for step in [
        1_000,
        hour,
        day,
        -1_000,
        -hour,
        -day,
        -3_652 * day,
        3 * day + 1,
    ] {
        for timing in &timings {
            for missed in rules {
                let spec = ScheduleSpec {
                    missed,
                    ..spec(timing.clone(), "America/New_York")
                };
                let named = format!("{timing:?} {missed:?} step {step} ms");
                let start = at(FROM).as_millis() as i64 + 123;
                let mut simulation = Simulation::start(spec, Timestamp::from_millis(start as u64));
                // A look a minute; the clock steps there, and back, and half the way.
                let mut high = start;
                let mut seconds = 0_i64;
                while seconds < 4 * 3_600 {
                    seconds += 61;
                    let off = match seconds / 3_600 {
                        0 | 2 => 0,
                        1 => step,
                        _ => step / 2,
                    };
                    let now = start + seconds * 1_000 + off;
                    high = high.max(now);
                    simulation.look(Timestamp::from_millis(now.max(0) as u64));
                }
                // Back to the right time, and past everything that it ever showed.
                let end = high + 60_000;
                simulation.look(Timestamp::from_millis(end as u64));
                let rows = &simulation.rows;
                let all = counted(&simulation.plan, rows);
                let places = all.len();
                assert_eq!(places, rows.len(), "{named}: a due time has two rows");
                let mut want = 0;
                let mut due = simulation
                    .plan
                    .next_after(Timestamp::from_millis(start as u64));
                while let Some(at) = due.filter(|due| due.as_millis() <= end as u64) {
                    want += 1;
                    due = simulation.plan.next_after(at);
                }
                assert_eq!(all.values().sum::<u64>(), want, "{named}: lost or doubled");
            }
        }
    }
}
