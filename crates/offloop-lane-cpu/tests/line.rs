//! The lines by themselves, under a clock that the test holds.

#![allow(clippy::unwrap_used, reason = "in a test an unwrap is an assertion")]

#[path = "../src/line.rs"]
mod line;
#[path = "../src/spread.rs"]
mod spread;
mod support;

use std::sync::Arc;
use std::time::{Duration, Instant};

use line::{Lines, Queued};
use offloop_job::Lease;

const SECOND: Duration = Duration::from_secs(1);

fn queued(lease: u64, priority: u8, since: Instant) -> Queued {
    let mut work = support::work(lease, "echo", "");
    work.priority = priority;
    Queued {
        work: Arc::new(work),
        since,
    }
}

/// After how many takes of a steady stream of priority 0, ten a second, a job of priority 9 that
/// came first is taken; within 1,000.
fn turn_of_the_last(ageing: Duration) -> Option<u32> {
    let begin = Instant::now();
    let mut lines = Lines::new(ageing);
    lines.push(queued(1, 9, begin)).unwrap();
    (0..1_000).find(|turn| {
        let now = begin + SECOND / 10 * *turn;
        lines.push(queued(u64::from(*turn) + 2, 0, now)).unwrap();
        lines.take_head().unwrap().work.lease == Lease(1)
    })
}

#[test]
fn a_job_of_low_priority_is_not_starved_by_a_steady_stream_of_high_priority() {
    // It stands where a job of priority 0 would that came 9 x ageing later.
    assert_eq!(turn_of_the_last(SECOND), Some(91));
    assert_eq!(turn_of_the_last(SECOND / 2), Some(46));
    assert_eq!(turn_of_the_last(Duration::ZERO), Some(1));
    // The stream starves it where nothing ages: the test can fail.
    assert_eq!(turn_of_the_last(SECOND * 3_600), None);
}

/// Priority, and when it comes.
type Coming = (u8, Duration);

#[test]
fn priority_decides_among_jobs_of_about_the_same_age_and_coming_within_one() {
    let at = |tenths: u32| SECOND / 10 * tenths;
    #[rustfmt::skip]
    let table: [(&[Coming], &[u64]); 5] = [
        (&[(5, at(0)), (5, at(0)), (5, at(1))], &[1, 2, 3]),
        (&[(9, at(0)), (5, at(1)), (0, at(2))], &[3, 2, 1]),
        (&[(6, at(0)), (5, at(9)), (5, at(11))], &[2, 1, 3]), // one priority is worth a second
        (&[(200, at(0)), (9, at(1)), (8, at(2))], &[3, 1, 2]), // what is over 9 is 9
        (&[(9, at(0)), (0, at(91)), (0, at(89))], &[3, 1, 2]),
    ];
    for (jobs, want) in table {
        let begin = Instant::now();
        let mut lines = Lines::new(SECOND);
        let mut rows: Vec<_> = (1..).zip(jobs).collect();
        rows.sort_by_key(|(_, job)| job.1); // they come in the order of time
        for (lease, (priority, since)) in rows {
            lines
                .push(queued(lease, *priority, begin + *since))
                .unwrap();
        }
        let order: Vec<u64> = lines
            .drain()
            .iter()
            .map(|entry| entry.work.lease.0)
            .collect();
        assert_eq!(order, want, "{jobs:?}");
    }
}

/// xorshift64: the printed seed replays a run.
fn dice(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

#[test]
fn a_removal_from_anywhere_leaves_every_other_job_in_its_place() {
    for seed in 1..=40_u64 {
        let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let begin = Instant::now();
        let (mut lines, mut oracle) = (Lines::new(SECOND), Vec::<(u64, u8, Instant)>::new());
        let mut leases = 0;
        for step in 0..1_500_u32 {
            let now = begin + SECOND / 20 * step;
            let turn = oracle.iter().min_by_key(|(_, priority, since)| {
                (*since + SECOND * u32::from(*priority), *priority)
            });
            assert_eq!(
                lines.head().map(|head| head.work.lease.0),
                turn.map(|row| row.0)
            );
            let turn = turn.map(|row| row.0);
            match dice(&mut state) % 9 {
                0..4 => {
                    leases += 1;
                    let priority = (dice(&mut state) % 10) as u8;
                    lines.push(queued(leases, priority, now)).unwrap();
                    assert!(lines.push(queued(leases, priority, now)).is_err(), "twice");
                    oracle.push((leases, priority, now));
                }
                4..6 => {
                    let taken = lines.take_head().map(|entry| entry.work.lease.0);
                    assert_eq!(taken, turn, "seed {seed} step {step}");
                    oracle.retain(|row| Some(row.0) != taken);
                }
                _ => {
                    let lease = dice(&mut state) % (leases + 2);
                    let gone = lines.remove(Lease(lease)).map(|entry| entry.work.lease.0);
                    let there = oracle.iter().any(|row| row.0 == lease);
                    assert_eq!(gone, there.then_some(lease), "seed {seed} step {step}");
                    oracle.retain(|row| row.0 != lease);
                }
            }
            assert_eq!(lines.len(), oracle.len());
            assert_eq!(lines.oldest(), oracle.iter().map(|row| row.2).min());
        }
    }
}
