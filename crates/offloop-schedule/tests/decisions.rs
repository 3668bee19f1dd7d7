//! What a turn does, as a table: missed, overlap and pause, and how they meet.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::sync::Arc;
use std::time::Duration;

use offloop_job::{Missed, Overlap, ScheduleName, ScheduleSpec, TaskName, Timestamp, Timing};
use offloop_schedule::{MISSED_ROWS_MAX, Plan, SKIP_GRACE, Seen, Turn, decide};
use offloop_store::{Expect, Origin, ScheduleRow, What};

/// Every ten seconds from 0.
const EVERY_S: u64 = 10;

#[derive(Clone, Copy)]
struct Case {
    missed: Missed,
    overlap: Overlap,
    paused: bool,
    /// Seconds.
    next: u64,
    held: Option<u64>,
    now: u64,
    live: bool,
}

const CALM: Case = Case {
    missed: Missed::Once,
    overlap: Overlap::Allow,
    paused: false,
    next: 10,
    held: None,
    now: 10,
    live: false,
};

fn seconds(s: u64) -> Timestamp {
    Timestamp::from_millis(s * 1_000)
}

fn row(case: &Case) -> ScheduleRow {
    let spec = ScheduleSpec {
        missed: case.missed,
        overlap: case.overlap,
        paused: case.paused,
        ..ScheduleSpec::new(
            TaskName::parse("t").unwrap(),
            Timing::Every(Duration::from_secs(EVERY_S)),
        )
    };
    ScheduleRow {
        name: ScheduleName::parse("s").unwrap(),
        spec: Arc::new(spec),
        origin: Origin::Api,
        revision: 3,
        created_at: seconds(0),
        updated_at: seconds(0),
        next_due: Some(seconds(case.next)),
        held: case.held.map(seconds),
    }
}

fn turn(case: &Case) -> Option<Turn> {
    let row = row(case);
    let plan = Plan::new(&row.name, &row.spec, row.created_at).unwrap();
    let turn = decide(Seen {
        row: &row,
        plan: &plan,
        now: seconds(case.now),
        live: case.live,
        refusal: None,
    })?;
    let expect = Expect::At {
        revision: 3,
        next_due: row.next_due,
        held: row.held,
    };
    assert_eq!(turn.firing.expect, expect);
    let next = plan.next_after(seconds(case.now)).unwrap();
    let due = case.next <= case.now;
    let want = if due { next } else { row.next_due.unwrap() };
    assert_eq!(turn.firing.next_due, Some(want));
    Some(turn)
}

/// `fire 10; skip 20 overlap; hold 30; cancel`, in seconds.
fn told(turn: Option<Turn>) -> String {
    let Some(turn) = turn else {
        return "nothing".into();
    };
    let at = |at: Timestamp| at.as_millis() / 1_000;
    let mut words: Vec<String> = Vec::new();
    for entry in &turn.firing.entries {
        words.push(match &entry.what {
            What::Fire(job) => {
                let by = job.options.schedule.as_ref().unwrap();
                assert_eq!(by.due_at, entry.due);
                format!("fire {}", at(entry.due))
            }
            What::Skip(why) => format!("skip {} {why}", at(entry.due)),
            What::SkipUntil {
                reason,
                until,
                count,
            } => format!(
                "skip {}-{} ({}) {reason}",
                at(entry.due),
                at(*until),
                count.unwrap()
            ),
        });
    }
    if let Some(held) = turn.firing.held {
        words.push(format!("hold {}", at(held)));
    }
    if turn.cancel {
        words.push("cancel".into());
    }
    words.join("; ")
}

#[test]
fn every_rule_does_to_a_due_time_what_its_name_says() {
    use Overlap::{Allow, CancelRunning, QueueOne, Skip};
    let catch_up = |max| Missed::CatchUp { max };
    let base = |overlap| Case { overlap, ..CALM };
    let live = |overlap| Case {
        live: true,
        ..base(overlap)
    };
    let held = |overlap, live| Case {
        held: Some(10),
        next: 20,
        now: 15,
        live,
        ..base(overlap)
    };
    let held_and_due = |overlap, live| Case {
        now: 20,
        ..held(overlap, live)
    };
    let away = |missed, overlap, live| Case {
        missed,
        overlap,
        live,
        now: 45,
        ..CALM
    };
    #[rustfmt::skip]
    let rows = [
        (Case { now: 9, ..CALM }, "nothing"),
        (CALM, "fire 10"),
        (Case { now: 19, ..CALM }, "fire 10"),
        // While a job is unfinished.
        (live(Allow), "fire 10"),
        (live(Skip), "skip 10 overlap"),
        (live(QueueOne), "hold 10"),
        (live(CancelRunning), "hold 10; cancel"),
        (base(Skip), "fire 10"), (base(QueueOne), "fire 10"), (base(CancelRunning), "fire 10"),
        // One waits already.
        (held(QueueOne, true), "nothing"),
        (held(QueueOne, false), "fire 10"),
        (held_and_due(QueueOne, true), "skip 20 overlap; hold 10"),
        (held_and_due(QueueOne, false), "fire 10; hold 20"),
        (held(CancelRunning, true), "nothing"),
        (held(CancelRunning, false), "fire 10"),
        (held_and_due(CancelRunning, true), "skip 10 overlap; hold 20; cancel"),
        (held_and_due(CancelRunning, false), "skip 10 overlap; fire 20"),
        // The rule was another one when it began to wait.
        (held(Allow, true), "fire 10"),
        (held(Skip, true), "skip 10 overlap"), (held(Skip, false), "fire 10"),
        // Nobody was there at 10, 20 and 30; 40 has just passed.
        (away(Missed::Skip, Allow, false), "skip 10 missed; skip 20 missed; skip 30 missed; fire 40"),
        (away(Missed::Once, Allow, false), "skip 10 missed; skip 20 missed; skip 30 missed; fire 40"),
        (away(catch_up(2), Allow, false), "skip 10 missed; skip 20 missed; fire 30; fire 40"),
        (away(catch_up(9), Allow, true), "fire 10; fire 20; fire 30; fire 40"),
        (away(catch_up(2), Skip, false), "skip 10 missed; skip 20 missed; fire 30; skip 40 overlap"),
        (away(catch_up(9), QueueOne, false), "fire 10; skip 30 overlap; skip 40 overlap; hold 20"),
        (away(catch_up(9), CancelRunning, true),
            "skip 10 overlap; skip 20 overlap; skip 30 overlap; hold 40; cancel"),
        (away(Missed::Once, Skip, true),
            "skip 10 missed; skip 20 missed; skip 30 missed; skip 40 overlap"),
        // Paused wins over all of it.
        (Case { paused: true, ..CALM }, "skip 10 paused"),
        (Case { paused: true, ..away(catch_up(9), QueueOne, true) },
            "skip 10 paused; skip 20 paused; skip 30 paused; skip 40 paused"),
        (Case { paused: true, ..held(QueueOne, false) }, "skip 10 paused"),
        (Case { paused: true, ..held_and_due(QueueOne, true) }, "skip 10 paused; skip 20 paused"),
    ];
    for (case, want) in rows {
        let named = format!(
            "{:?} {:?} paused {} next {} held {:?} now {} live {}",
            case.missed, case.overlap, case.paused, case.next, case.held, case.now, case.live
        );
        assert_eq!(told(turn(&case)), want, "{named}");
    }
}

#[test]
fn a_late_time_is_fired_after_a_restart_and_not_after_an_outage() {
    let grace = SKIP_GRACE.as_secs();
    // A nightly schedule, as it were: the next one is far.
    let late = |by, missed| {
        let row = row(&Case { missed, ..CALM });
        let spec = ScheduleSpec {
            timing: Timing::At([seconds(10)].into()),
            ..ScheduleSpec::clone(&row.spec)
        };
        let row = ScheduleRow {
            spec: Arc::new(spec),
            ..row
        };
        let plan = Plan::new(&row.name, &row.spec, row.created_at).unwrap();
        let turn = decide(Seen {
            row: &row,
            plan: &plan,
            now: seconds(10 + by),
            live: false,
            refusal: None,
        });
        assert_eq!(turn.as_ref().unwrap().firing.next_due, None);
        told(turn)
    };
    assert_eq!(late(grace, Missed::Skip), "fire 10");
    assert_eq!(late(grace + 1, Missed::Skip), "skip 10 missed");
    assert_eq!(late(99_999, Missed::Once), "fire 10");
    assert_eq!(late(99_999, Missed::CatchUp { max: 1 }), "fire 10");
}

#[test]
fn a_long_outage_is_told_in_a_bounded_number_of_rows() {
    let after = |missed, count: u64| {
        told(turn(&Case {
            missed,
            now: count * EVERY_S,
            ..CALM
        }))
    };
    let all = after(Missed::Once, 1_000);
    assert!(
        all.starts_with("skip 10-9000 (900) missed; skip 9010 missed; "),
        "{all}"
    );
    assert!(all.ends_with("; skip 9990 missed; fire 10000"), "{all}");
    assert_eq!(all.split("; ").count(), MISSED_ROWS_MAX + 1);
    let all = after(Missed::CatchUp { max: 300 }, 1_000);
    assert!(
        all.starts_with("skip 10-7000 (700) missed; fire 7010; "),
        "{all}"
    );
    assert_eq!(all.matches("fire").count(), 300);
}

#[test]
fn a_turn_that_must_not_overlap_says_so_to_the_store() {
    for overlap in Overlap::ALL {
        let turn = turn(&Case { overlap, ..CALM }).unwrap();
        assert_eq!(
            turn.firing.unless_live,
            overlap != Overlap::Allow,
            "{overlap:?}"
        );
    }
    let skips = turn(&Case {
        overlap: Overlap::Skip,
        live: true,
        ..CALM
    })
    .unwrap();
    assert!(
        !skips.firing.unless_live,
        "a skipped time is written whatever runs"
    );
}

#[test]
fn a_job_that_cannot_be_taken_in_is_a_skipped_row_with_the_reason() {
    let row = row(&CALM);
    let plan = Plan::new(&row.name, &row.spec, row.created_at).unwrap();
    let turn = decide(Seen {
        row: &row,
        plan: &plan,
        now: seconds(10),
        live: false,
        refusal: Some("task `t` is not declared here"),
    });
    assert_eq!(told(turn), "skip 10 refused: task `t` is not declared here");
}
