//! Due times against an independent reading, and where clocks are changed.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod oracle;

use std::time::Duration;

use jiff::tz::TimeZone;
use offloop_job::{ScheduleName, ScheduleSpec, TaskName, Timestamp, Timing};
use offloop_schedule::Plan;
use oracle::{MINUTE, Oracle, civil, dues, wall};
use proptest::prelude::*;

/// 2025-12-01 and 2027-12-01 in minutes since 1970.
const FROM: i64 = 29_409_120;
const TO: i64 = FROM + 730 * 1_440;
const LEAD: i64 = 2 * 1_440;

fn plan(timing: Timing, zone: &str) -> Plan {
    let spec = ScheduleSpec {
        timezone: zone.into(),
        ..ScheduleSpec::new(TaskName::parse("t").unwrap(), timing)
    };
    let name = ScheduleName::parse("s").unwrap();
    Plan::new(&name, &spec, Timestamp::from_millis(0)).unwrap()
}

fn cron(text: &str, zone: &str) -> Plan {
    plan(Timing::Cron(text.into()), zone)
}

fn minute(at: Timestamp) -> i64 {
    assert_eq!(at.as_millis() % 60_000, 0, "whole minutes: {at}");
    (at.as_millis() / 60_000) as i64
}

fn after_minute(minute: i64) -> Timestamp {
    Timestamp::from_millis((minute * MINUTE * 1_000) as u64 - 1)
}

/// Due minutes by the plan.
fn planned(plan: &Plan, from: i64, to: i64) -> Vec<i64> {
    let mut found = Vec::new();
    let mut at = after_minute(from);
    while let Some(due) = plan.next_after(at).filter(|due| minute(*due) < to) {
        found.push(minute(due));
        at = due;
    }
    found
}

#[test]
fn no_due_time_is_lost_or_doubled_where_clocks_change() {
    // Around every change of two years, in zones that change by an hour, by half an hour, at midnight,
    // in the south, across the date line, and not at all.
    let zones = [
        "Europe/Berlin",
        "America/New_York",
        "Australia/Lord_Howe",
        "America/Havana",
        "Africa/Cairo",
        "Africa/Casablanca",
        "America/Santiago",
        "Pacific/Chatham",
        "Pacific/Apia",
        "Asia/Kolkata",
        "America/St_Johns",
        "Europe/Dublin",
        "Antarctica/Troll",
        "UTC",
    ];
    let expressions = [
        "* * * * *",
        "*/15 * * * *",
        "0 * * * *",
        "30 * * * *",
        "0 */2 * * *",
        "*/20 1-3 * * *",
        "0 2 * * *",
        "30 2 * * *",
        "15 2 * * *",
        "0 3 * * *",
        "59 1 * * *",
        "0 0 * * *",
        "30 0 * * *",
        "45 1,2,3 * * *",
        "0 2,3 * * SUN",
        "30 1 29 3 *",
        "5 0-23 * * *",
        "0 0-6/2 * * MON-FRI",
        "30 2 1-7 * SUN",
        "10,20 2 * 3,10 *",
    ];
    for name in zones {
        let zone = jiff::tz::db().get(name).unwrap();
        let start = jiff::Timestamp::from_second(FROM * MINUTE).unwrap();
        let changes: Vec<i64> = zone
            .following(start)
            .map(|change| change.timestamp().as_second() / MINUTE)
            .take_while(|minute| *minute < TO)
            .collect();
        for around in changes.into_iter().chain([FROM + 90_000]) {
            let (from, to) = (around - 2_000, around + 2_000);
            let shown = wall(&zone, from - LEAD, to);
            for text in expressions {
                let oracle = Oracle::read(text);
                let want = dues(oracle.follows(), &shown, from, LEAD, |at| {
                    oracle.matches(civil(at))
                });
                let found = planned(&cron(text, name), from, to);
                assert_eq!(found, want, "{text} in {name} around {}", civil(around));
            }
        }
    }
}

/// A field: a star, a step, or a list of values and ranges.
fn field(min: u32, max: u32) -> impl Strategy<Value = String> {
    let part =
        (min..=max, min..=max, 1_u32..5).prop_map(|(a, b, step)| match (a.min(b), a.max(b)) {
            (a, b) if a == b => a.to_string(),
            (a, b) if step == 1 => format!("{a}-{b}"),
            (a, b) => format!("{a}-{b}/{step}"),
        });
    prop_oneof![
        3 => Just("*".to_owned()),
        1 => (2_u32..20).prop_map(|step| format!("*/{step}")),
        2 => (min..=max).prop_map(|value| value.to_string()),
        2 => prop::collection::vec(part, 1..3).prop_map(|parts| parts.join(",")),
    ]
}

fn expression() -> impl Strategy<Value = String> {
    let day = prop_oneof![Just("*".to_owned()), field(1, 28)];
    (field(0, 59), field(0, 23), day, field(1, 12), field(0, 7)).prop_map(
        |(minute, hour, day, month, weekday)| format!("{minute} {hour} {day} {month} {weekday}"),
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_expression_in_any_zone_agrees_with_the_oracle(
        text in expression(),
        zone in any::<prop::sample::Index>(),
        week in 0_i64..100,
    ) {
        let bundled = jiff::tz::TimeZoneDatabase::bundled();
        let names: Vec<_> = bundled.available().map(|name| name.as_str().to_owned()).collect();
        let name = zone.get(&names).clone();
        let zone = jiff::tz::db().get(&name).unwrap();
        let from = FROM + week * 10_080;
        let to = from + 7 * 1_440;
        let shown = wall(&zone, from - LEAD, to);
        let oracle = Oracle::read(&text);
        let want = dues(oracle.follows(), &shown, from, LEAD, |at| oracle.matches(civil(at)));
        prop_assert_eq!(planned(&cron(&text, &name), from, to), want, "{} in {}", text, name);
    }

    #[test]
    fn the_next_due_time_never_depends_on_the_way_to_it(
        text in expression(),
        steps in prop::collection::vec(0_u64..40_000_000, 1..20),
    ) {
        let plan = cron(&text, "America/New_York");
        let mut at = after_minute(FROM);
        for step in steps {
            at = at.plus(Duration::from_millis(step));
            let next = plan.next_after(at).unwrap();
            prop_assert!(next > at);
            // From anywhere before it, it is the next one too.
            let between = at.plus(next.since(at) / 2);
            let again = plan.next_after(between.min(next.minus(Duration::from_millis(1))));
            prop_assert_eq!(again, Some(next));
        }
    }

    #[test]
    fn many_missed_times_are_told_as_their_sum_and_the_last_ones(
        every in 100_u64..10_000_000,
        outage in 0_u64..10_000_000_000,
        keep in 1_usize..200,
    ) {
        let plan = plan(Timing::Every(Duration::from_millis(every)), "UTC");
        let first = plan.next_after(Timestamp::from_millis(1_800_000_000_000)).unwrap();
        let now = first.plus(Duration::from_millis(outage));
        let tail = plan.passed(first, now, keep);
        let older = tail.older.map_or(0, |older| older.count.unwrap());
        prop_assert_eq!(older + tail.dues.len() as u64, outage / every + 1);
        prop_assert!(tail.dues.len() <= keep);
        prop_assert!(tail.dues.windows(2).all(|pair| plan.next_after(pair[0]) == Some(pair[1])));
        prop_assert!(plan.next_after(*tail.dues.last().unwrap()).unwrap() > now);
        if let Some(older) = tail.older {
            prop_assert_eq!(older.first, first);
            prop_assert_eq!(plan.next_after(older.last), tail.dues.first().copied());
        }
    }
}

#[test]
fn cron_times_of_a_long_outage_are_summed_without_walking_them_all() {
    // Every second of ten years is 315 million times.
    let plan = cron("* * * * * *", "Europe/Berlin");
    let first = Timestamp::from_millis(1_800_000_000_000);
    let now = first.plus(Duration::from_secs(3_650 * 86_400));
    let tail = plan.passed(first, now, 100);
    assert_eq!(tail.dues.len(), 100);
    assert_eq!(*tail.dues.last().unwrap(), now);
    let older = tail.older.unwrap();
    assert_eq!((older.first, older.count), (first, None));
    assert_eq!(plan.next_after(older.last), tail.dues.first().copied());
    // A day of minutes is counted.
    let plan = cron("* * * * *", "Europe/Berlin");
    let tail = plan.passed(first, first.plus(Duration::from_secs(86_400)), 100);
    assert_eq!(tail.older.unwrap().count, Some(1_441 - 100));
}

#[test]
fn some_hours_of_every_half_hour_have_no_silent_one_when_clocks_go_back() {
    let between = |text: &str, from: &str, to: &str| {
        let at = |text: &str| text.parse::<jiff::Timestamp>().unwrap().as_millisecond() as u64;
        let (plan, to) = (cron(text, "Europe/Berlin"), Timestamp::from_millis(at(to)));
        let mut next = plan.next_after(Timestamp::from_millis(at(from) - 1));
        let mut found = Vec::new();
        while let Some(due) = next.filter(|due| *due < to) {
            found.push(plan.local(due)[11..16].to_owned());
            next = plan.next_after(due);
        }
        found
    };
    // From 1:00 to 5:00 summer time: the clock shows two o'clock twice.
    let autumn = |text| between(text, "2026-10-24T23:00:00Z", "2026-10-25T03:00:00Z");
    let want = [
        "01:00", "01:30", "02:00", "02:30", "02:00", "02:30", "03:00", "03:30",
    ];
    assert_eq!(autumn("*/30 0-6 * * *"), want);
    assert_eq!(autumn("*/30 * * * *"), want, "as every hour has it");
    assert_eq!(autumn("*/30 2 * * *"), want[2..6]);
    assert_eq!(
        autumn("0,30 2 * * *"),
        want[2..4],
        "a list of minutes is once a day"
    );
    // From 1:00 to 5:00 winter time: it shows no two o'clock.
    let spring = |text| between(text, "2026-03-29T00:00:00Z", "2026-03-29T03:00:00Z");
    assert_eq!(
        spring("*/30 0-6 * * *"),
        ["01:00", "01:30", "03:00", "03:30", "04:00", "04:30"]
    );
    assert_eq!(spring("*/30 2 * * *"), ["03:00"], "made up for, once");
    assert_eq!(spring("*/30 * * * *"), spring("*/30 0-6 * * *"));
}

#[test]
fn an_interval_keeps_its_phase_after_any_outage() {
    let spec = ScheduleSpec {
        starts_at: Some(Timestamp::from_millis(1_000)),
        ends_at: Some(Timestamp::from_millis(10_000)),
        ..ScheduleSpec::new(
            TaskName::parse("t").unwrap(),
            Timing::Every(Duration::from_millis(300)),
        )
    };
    let name = ScheduleName::parse("s").unwrap();
    let plan = Plan::new(&name, &spec, Timestamp::from_millis(777)).unwrap();
    let next = |after| {
        plan.next_after(Timestamp::from_millis(after))
            .map(Timestamp::as_millis)
    };
    let rows = [
        (0, Some(1_000)),
        (999, Some(1_000)),
        (1_000, Some(1_300)),
        (5_555, Some(5_800)),
        (9_699, Some(9_700)),
        (9_700, Some(10_000)),
        (10_000, None),
        (99_999, None),
    ];
    for (after, want) in rows {
        assert_eq!(next(after), want, "after {after}");
    }
    let tail = plan.passed(
        Timestamp::from_millis(1_000),
        Timestamp::from_millis(99_999),
        5,
    );
    assert_eq!(
        tail.dues.last().unwrap().as_millis(),
        10_000,
        "none after its end"
    );
}

#[test]
fn jitter_is_the_same_for_everybody_and_stays_below_its_bound() {
    let spec = ScheduleSpec {
        jitter: Duration::from_millis(5_000),
        ..ScheduleSpec::new(
            TaskName::parse("t").unwrap(),
            Timing::Every(Duration::from_secs(60)),
        )
    };
    let of = |name: &str| {
        let name = ScheduleName::parse(name).unwrap();
        Plan::new(&name, &spec, Timestamp::from_millis(0)).unwrap()
    };
    let (one, same, other) = (of("a"), of("a"), of("b"));
    let dues = (1..2_000).map(|nth| Timestamp::from_millis(nth * 60_000));
    let mut late: Vec<u64> = Vec::new();
    let mut differ = 0;
    for due in dues {
        let planned = one.planned(due);
        assert_eq!(planned, same.planned(due));
        differ += usize::from(planned != other.planned(due));
        late.push(planned.since(due).as_millis() as u64);
    }
    assert!(late.iter().all(|late| *late <= 5_000));
    let mean = late.iter().sum::<u64>() as f64 / late.len() as f64;
    assert!(
        (2_250.0..2_750.0).contains(&mean),
        "spread evenly: mean {mean}"
    );
    assert!(differ > 1_900);
}

#[test]
fn unknown_zones_are_refused_and_known_ones_need_no_files() {
    let name = ScheduleName::parse("s").unwrap();
    for zone in [
        "Mars/Olympus",
        "",
        "posixrules",
        "right/UTC",
        "../../etc/passwd",
        "tzdata.zi",
    ] {
        let spec = ScheduleSpec {
            timezone: zone.into(),
            ..ScheduleSpec::new(TaskName::parse("t").unwrap(), Timing::Cron("@daily".into()))
        };
        let problems = Plan::new(&name, &spec, Timestamp::from_millis(0)).unwrap_err();
        assert_eq!(problems[0].field, "timezone", "{zone:?}");
        assert!(
            problems[0].message.contains("Europe/Berlin"),
            "{problems:?}"
        );
    }
    assert!(
        jiff::tz::TimeZoneDatabase::bundled()
            .get("Europe/Berlin")
            .is_ok()
    );
    assert_ne!(jiff::tz::db().get("Asia/Tokyo").unwrap(), TimeZone::UTC);
}
