//! What is called, drawn at random: jobs, attempts and times by number, so that any plan that was
//! cut down is still a plan.

use proptest::collection::vec;
use proptest::option::{of, weighted};
use proptest::prelude::*;

use super::Restarts;
use super::timed::{Timed, timed};

/// One life of a store.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) queue_jobs_max: u64,
    pub(super) calls: Vec<Call>,
}

/// Milliseconds before or after now.
type Shift = i64;

/// Counted from the newest one back; past the end, an unknown one.
type Back = u16;

#[derive(Clone, Debug)]
pub(super) enum Call {
    /// Mostly forward, sometimes back, sometimes a day.
    Tick(Shift),
    Insert(Vec<Ask>, Vec<Row>),
    Claim {
        node: u8,
        wants: Vec<(Vec<u8>, u16)>,
    },
    Settle(Vec<End>),
    Note(Vec<(Back, u8)>),
    /// Its number, and whether it advances.
    Checkpoint(Vec<(Back, u8, bool)>),
    Promote,
    EndIdle(Vec<(Back, bool, Vec<Row>)>),
    Overdue,
    Revive(Vec<Back>),
    Delete(Vec<Back>),
    Orphans {
        alive: u8,
    },
    Prune {
        completed_for: u64,
        others_for: u64,
        rows_max: u64,
        rows_per_call: u32,
    },
    /// A queue (even) or a task (odd).
    Mode(u8, u8),
    Write(Vec<Row>),
    Look(Back),
    List {
        task: Option<u8>,
        queue: Option<u8>,
        state: Option<u8>,
        tag: Option<u8>,
        class: Option<u8>,
        limit: u16,
    },
    Queues,
    Record(u8, u8),
    Scan {
        collection: u8,
        label: Option<u8>,
        limit: u32,
    },
    Count(u8),
    Usage {
        by: u8,
        since: Shift,
        limit: u16,
    },
    Limit {
        target: u8,
        limit: Option<LimitDraw>,
    },
    Limits,
    Flow(Flow),
    Timed(Timed),
    /// `true`: in order.
    Restart(bool),
}

/// Concurrency, units in so many milliseconds with a burst, weight.
#[derive(Clone, Debug)]
pub(super) struct LimitDraw {
    pub(super) concurrency: Option<u32>,
    pub(super) rate: Option<(u32, u64, u32)>,
    pub(super) weight: Option<u16>,
}

/// Groups, by number as jobs are.
#[derive(Clone, Debug)]
pub(super) enum Flow {
    Create {
        rule: u8,
        hold: bool,
        deadline: Option<Shift>,
        /// On which end a follow-up comes.
        then: Option<u8>,
        jobs: Vec<Ask>,
    },
    Seal(Back),
    Cancel(Back),
    Advance,
    /// Ends whom it names, as far as they are not running.
    Doomed,
    Look(Back),
    List(Option<u8>, u16),
}

#[derive(Clone, Debug)]
pub(super) enum Ask {
    New(Box<Draw>),
    /// The same request once more, at another time and with another trace.
    Again(Back),
    /// The same idempotency key for something else.
    Clash(Back),
}

#[derive(Clone, Debug)]
pub(super) struct Draw {
    pub(super) task: u8,
    pub(super) queue: u8,
    pub(super) priority: u8,
    pub(super) payload_bytes: usize,
    pub(super) run_at: Option<Shift>,
    pub(super) expires_at: Option<Shift>,
    /// Key, scope, on_conflict, milliseconds.
    pub(super) unique: Option<(u8, u8, u8, u64)>,
    pub(super) idempotency: Option<u8>,
    pub(super) tags: Vec<u8>,
    /// Waits for these: jobs from the newest one back, or places of the batch; and what their
    /// failure means.
    pub(super) after: Vec<(bool, Back, u8)>,
    pub(super) delay: Option<u64>,
    pub(super) group: Option<Back>,
    /// Bits: which of the options that no engine looks at are set.
    pub(super) extras: u8,
    pub(super) group_key: Option<u8>,
    pub(super) cost: u32,
}

#[derive(Clone, Debug)]
pub(super) struct End {
    /// Which attempt; often one that has ended.
    pub(super) attempt: Back,
    pub(super) verdict: Verb,
    pub(super) class: Option<u8>,
    pub(super) log_bytes: usize,
    pub(super) rows: Vec<Row>,
}

#[derive(Clone, Debug)]
pub(super) enum Verb {
    Complete(Option<usize>),
    Retry(Shift),
    Snooze(Shift),
    GiveUp(u8),
    HandBack,
    Abort,
}

#[derive(Clone, Debug)]
pub(super) struct Row {
    pub(super) collection: u8,
    pub(super) key: u8,
    /// `None` deletes.
    pub(super) label: Option<u8>,
    pub(super) value_bytes: usize,
}

pub(super) fn plans(calls: usize, restarts: Restarts) -> impl Strategy<Value = Plan> {
    let limit = prop_oneof![1 => 1_u64..6, 3 => 6_u64..40, 3 => Just(1_000_000)];
    let calls = vec(call(restarts), 1..=calls);
    (limit, calls).prop_map(|(queue_jobs_max, calls)| Plan {
        queue_jobs_max,
        calls,
    })
}

fn call(restarts: Restarts) -> impl Strategy<Value = Call> {
    let restart_weight = if restarts == Restarts::Often { 6 } else { 0 };
    let hot = prop_oneof![
        20 => tick().prop_map(Call::Tick),
        40 => (vec(ask(), 0..6), rows()).prop_map(|(jobs, rows)| Call::Insert(jobs, rows)),
        30 => claim(),
        40 => vec(end(), 1..5).prop_map(Call::Settle),
        15 => Just(Call::Promote),
    ];
    let idle = prop_oneof![
        8 => vec((back(), any::<bool>(), rows()), 1..4).prop_map(Call::EndIdle),
        8 => vec(back(), 1..4).prop_map(Call::Revive),
        4 => vec(back(), 1..4).prop_map(Call::Delete),
        // Open more often than not, or there would be little to see.
        5 => (0_u8..8, prop_oneof![3 => Just(0_u8), 2 => 1_u8..3])
            .prop_map(|(gate, mode)| Call::Mode(gate, mode)),
        4 => vec((back(), any::<u8>()), 1..4).prop_map(Call::Note),
        6 => vec((back(), any::<u8>(), any::<bool>()), 1..4).prop_map(Call::Checkpoint),
        3 => prune(),
        4 => vec(row(), 1..4).prop_map(Call::Write),
        10 => (0_u8..12, weighted(0.75, limit()))
            .prop_map(|(target, limit)| Call::Limit { target, limit }),
    ];
    let look = prop_oneof![
        3 => back().prop_map(Call::Look),
        3 => list(),
        2 => Just(Call::Queues),
        2 => Just(Call::Limits),
        2 => Just(Call::Overdue),
        2 => (0_u8..3).prop_map(|alive| Call::Orphans { alive }),
        1 => (0_u8..2, 0_u8..6).prop_map(|(collection, key)| Call::Record(collection, key)),
        1 => (0_u8..2, of(0_u8..3), 1_u32..9)
            .prop_map(|(collection, label, limit)| Call::Scan { collection, label, limit }),
        1 => (0_u8..2).prop_map(Call::Count),
        2 => (0_u8..3, -200_000_000_i64..10_000_000, prop_oneof![Just(1_000_u16), 1_u16..4])
            .prop_map(|(by, since, limit)| Call::Usage { by, since, limit }),
    ];
    prop_oneof![
        30 => flow().prop_map(Call::Flow),
        30 => timed().prop_map(Call::Timed),
        145 => hot,
        40 => idle,
        15 => look,
        restart_weight => any::<bool>().prop_map(Call::Restart),
    ]
}

fn flow() -> impl Strategy<Value = Flow> {
    let create = (
        0_u8..4,
        any::<bool>(),
        weighted(0.3, 0_i64..400),
        of(0_u8..3),
        vec(ask(), 0..4),
    );
    let create = create.prop_map(|(rule, hold, deadline, then, jobs)| Flow::Create {
        rule,
        hold,
        deadline,
        then,
        jobs,
    });
    prop_oneof![
        8 => create,
        2 => (0_u16..6).prop_map(Flow::Seal),
        1 => (0_u16..6).prop_map(Flow::Cancel),
        6 => Just(Flow::Advance),
        8 => Just(Flow::Doomed),
        3 => (0_u16..6).prop_map(Flow::Look),
        1 => (of(0_u8..4), 1_u16..9).prop_map(|(state, limit)| Flow::List(state, limit)),
    ]
}

fn tick() -> impl Strategy<Value = Shift> {
    prop_oneof![
        20 => 0_i64..150,
        3 => -200_i64..0,
        1 => Just(24 * 3_600_000),
    ]
}

/// Near ones more often.
fn back() -> impl Strategy<Value = Back> {
    prop_oneof![6 => 0_u16..8, 3 => 0_u16..60, 1 => Just(u16::MAX)]
}

fn bytes() -> impl Strategy<Value = usize> {
    prop_oneof![20 => 0_usize..40, 1 => 0_usize..70_000]
}

fn ask() -> impl Strategy<Value = Ask> {
    let draw = (
        (0_u8..3, 0_u8..4, prop_oneof![Just(5_u8), 0_u8..10], bytes()),
        weighted(0.4, -50_i64..400),
        weighted(0.25, -20_i64..400),
        weighted(0.35, (0_u8..3, 0_u8..3, 0_u8..5, 1_u64..500)),
        weighted(0.2, 0_u8..12),
        vec(0_u8..3, 0..3),
        any::<u8>(),
        (
            weighted(0.5, 0_u8..4),
            prop_oneof![6 => Just(1_u32), 1 => 1_u32..9],
            prop_oneof![3 => Just(vec![]), 1 => vec((any::<bool>(), 0_u16..12, 0_u8..3), 1..4)],
            weighted(0.2, 0_u64..300),
            weighted(0.15, 0_u16..6),
        ),
    );
    let draw = draw.prop_map(
        |(base, run_at, expires_at, unique, idempotency, tags, extras, flow)| {
            let (group_key, cost, after, delay, group) = flow;
            let (task, queue, priority, payload_bytes) = base;
            Ask::New(Box::new(Draw {
                task,
                queue,
                priority,
                payload_bytes,
                run_at,
                expires_at,
                unique,
                idempotency,
                tags,
                after,
                delay,
                group,
                extras,
                group_key,
                cost,
            }))
        },
    );
    prop_oneof![12 => draw, 2 => back().prop_map(Ask::Again), 1 => back().prop_map(Ask::Clash)]
}

fn limit() -> impl Strategy<Value = LimitDraw> {
    let rate = (1_u32..6, prop_oneof![1_u64..300, Just(3_600_000)], 1_u32..4);
    (
        weighted(0.5, 1_u32..4),
        weighted(0.4, rate),
        weighted(0.3, 1_u16..4),
    )
        .prop_map(|(concurrency, rate, weight)| LimitDraw {
            concurrency,
            rate,
            weight,
        })
}

fn claim() -> impl Strategy<Value = Call> {
    let limit = prop_oneof![8 => 1_u16..5, 2 => 0_u16..40];
    let want = (vec(0_u8..3, 1..4), limit);
    (0_u8..3, vec(want, 1..3)).prop_map(|(node, wants)| Call::Claim { node, wants })
}

fn end() -> impl Strategy<Value = End> {
    let verdict = prop_oneof![
        3 => of(bytes()).prop_map(Verb::Complete),
        4 => (-20_i64..300).prop_map(Verb::Retry),
        2 => (-20_i64..300).prop_map(Verb::Snooze),
        2 => (0_u8..3).prop_map(Verb::GiveUp),
        2 => Just(Verb::HandBack),
        1 => Just(Verb::Abort),
    ];
    let class = weighted(0.8, class());
    (back(), verdict, class, bytes(), rows()).prop_map(
        |(attempt, verdict, class, log_bytes, rows)| End {
            attempt,
            verdict,
            class,
            log_bytes,
            rows,
        },
    )
}

/// One over its memory limit more often: engines count those.
fn class() -> impl Strategy<Value = u8> {
    let all = 0..offloop_job::FailureClass::ALL.len() as u8;
    prop_oneof![3 => all, 1 => Just(offloop_job::FailureClass::MemoryLimit as u8)]
}

fn row() -> impl Strategy<Value = Row> {
    (0_u8..2, 0_u8..6, weighted(0.8, 0_u8..3), bytes()).prop_map(
        |(collection, key, label, value_bytes)| Row {
            collection,
            key,
            label,
            value_bytes: value_bytes.min(1_000),
        },
    )
}

fn rows() -> impl Strategy<Value = Vec<Row>> {
    prop_oneof![4 => Just(vec![]), 1 => vec(row(), 1..3)]
}

fn prune() -> impl Strategy<Value = Call> {
    let span = || prop_oneof![0_u64..500, Just(u64::MAX)];
    let count = prop_oneof![0_u64..20, Just(u64::MAX)];
    (span(), span(), count, 1_u32..30).prop_map(
        |(completed_for, others_for, rows_max, rows_per_call)| Call::Prune {
            completed_for,
            others_for,
            rows_max,
            rows_per_call,
        },
    )
}

fn list() -> impl Strategy<Value = Call> {
    let filter = (
        weighted(0.3, 0_u8..3),
        weighted(0.3, 0_u8..4),
        weighted(0.3, 0_u8..8),
        weighted(0.2, 0_u8..3),
        weighted(0.2, class()),
    );
    (filter, 1_u16..30).prop_map(|((task, queue, state, tag, class), limit)| Call::List {
        task,
        queue,
        state,
        tag,
        class,
        limit,
    })
}
