//! What the numbers of a plan stand for.

use std::time::Duration;

use bytes::Bytes;
use offloop_job::{
    After, Backoff, BackoffKind, Collection, Failure, FailureClass, FinalReason, GroupId,
    GroupRule, IdempotencyKey, JobId, JobState, KeyTarget, Limit, LimitTarget, LogTail, Mode,
    NewGroup, NewJob, OnConflict, OnFailure, Parent, QueueName, Rate, RecordKey, RecordWrite,
    RetryPolicy, Tag, TaskName, Then, ThenOn, Timestamp, UniqueScope, Usage,
};
use offloop_store::{
    AttemptReport, Claimed, Gate, JobFilter, LimitChange, Origin, PruneRule, Settlement, UsageAsk,
    UsageBy, Verdict,
};

use super::plan::{Ask, Call, Draw, End, LimitDraw, Row, Verb};
use crate::{Draft, name};

pub(super) fn shifted(now: Timestamp, shift: i64) -> Timestamp {
    let span = Duration::from_millis(shift.unsigned_abs());
    if shift < 0 {
        now.minus(span)
    } else {
        now.plus(span)
    }
}

pub(super) fn task(number: u8) -> TaskName {
    name(["resize", "report", "hash"][usize::from(number) % 3])
}

pub(super) fn queue(number: u8) -> QueueName {
    let names = ["default", "photos", "slow", "a.b:c-d_e"];
    QueueName::parse(names[usize::from(number) % 4]).expect("a queue's name")
}

pub(super) fn gate(number: u8) -> Gate {
    if number.is_multiple_of(2) {
        Gate::Queue(queue(number / 2))
    } else {
        Gate::Task(task(number / 2))
    }
}

pub(super) fn mode(number: u8) -> Mode {
    Mode::ALL[usize::from(number) % 3]
}

fn tag(number: u8) -> Tag {
    Tag::parse(["nightly", "a, b;c=%", "ü"][usize::from(number) % 3]).expect("a tag")
}

fn group_key(number: u8) -> Tag {
    let keys = ["acme", "a;b/key:*", "*", "\\ü"];
    Tag::parse(keys[usize::from(number) % 4]).expect("a key")
}

pub(super) fn limit_change(now: Timestamp, target: u8, limit: Option<&LimitDraw>) -> LimitChange {
    let number = target / 2;
    let key = match target % 5 {
        0 | 1 => KeyTarget::Each,
        other => KeyTarget::One(group_key(other)),
    };
    LimitChange {
        now,
        origin: if target.is_multiple_of(3) {
            Origin::File
        } else {
            Origin::Api
        },
        target: match target {
            0 | 1 => LimitTarget::Queue(queue(number)),
            2 | 3 => LimitTarget::Task(task(number)),
            4..=7 => LimitTarget::Key(key),
            _ => LimitTarget::TaskKey {
                task: task(number),
                key,
            },
        },
        limit: limit.map(|draw| Limit {
            concurrency: draw.concurrency,
            rate: draw.rate.map(|(units, per_ms, burst)| Rate {
                units,
                per: Duration::from_millis(per_ms),
                burst,
            }),
            weight: draw.weight,
        }),
        actor: "test".into(),
    }
}

pub(super) fn collection(number: u8) -> Collection {
    name(["photos", "hotels"][usize::from(number) % 2])
}

pub(super) fn label(number: u8) -> TaskName {
    name(["PENDING", "DONE", "FAILED"][usize::from(number) % 3])
}

pub(super) fn key(number: u8) -> RecordKey {
    let keys: [&[u8]; 6] = [b"a", b"a\x00", b"/x/\xff", b"b", b"B", b"\xc5\xbe"];
    Bytes::from_static(keys[usize::from(number) % 6])
}

fn class(number: u8) -> FailureClass {
    FailureClass::ALL[usize::from(number) % FailureClass::ALL.len()]
}

/// Bytes of every value, so that none is special.
fn bytes(len: usize) -> Bytes {
    (0..len).map(|at| (at * 31 + len) as u8).collect()
}

pub(super) fn records(rows: &[Row]) -> Vec<RecordWrite> {
    let write = |row: &Row| RecordWrite {
        collection: collection(row.collection),
        key: key(row.key),
        label: row.label.map(label),
        value: bytes(row.value_bytes),
    };
    rows.iter().map(write).collect()
}

/// What numbers of jobs and groups stand for.
pub(super) struct Known<'w> {
    pub(super) ids: &'w [JobId],
    pub(super) groups: &'w [GroupId],
}

impl Known<'_> {
    pub(super) fn id(&self, back: u16) -> JobId {
        let at = self.ids.len().checked_sub(usize::from(back) + 1);
        at.map_or(JobId::from_parts(1, 1), |at| self.ids[at])
    }

    pub(super) fn group(&self, back: u16) -> GroupId {
        let at = self.groups.len().checked_sub(usize::from(back) + 1);
        at.map_or(GroupId::from_parts(1, 1), |at| self.groups[at])
    }
}

pub(super) fn new_group(
    rule: u8,
    hold: bool,
    deadline: Option<Timestamp>,
    then: Option<u8>,
) -> NewGroup {
    NewGroup {
        rule: GroupRule::ALL[usize::from(rule) % 4],
        deadline,
        hold,
        then: then.map(|on| Then {
            on: ThenOn::ALL[usize::from(on) % 3],
            job: crate::job("report").queue("slow"),
        }),
        request: None,
    }
}

pub(super) fn job(ask: &Ask, now: Timestamp, asked: &[NewJob], known: &Known<'_>) -> NewJob {
    let earlier = |back: &u16| {
        let at = asked.len().checked_sub(usize::from(*back) + 1)?;
        asked[..=at]
            .iter()
            .rev()
            .find(|job| job.idempotency.is_some())
    };
    let missing = || crate::job("resize").idempotency("again");
    match ask {
        Ask::New(draw) => new_job(draw, now, known),
        Ask::Again(back) => {
            let again = earlier(back).cloned().unwrap_or_else(missing);
            again.with(|options| {
                options.run_at = options.run_at.map(|_| shifted(now, 30));
                options.trace = Some(now.to_string().into());
            })
        }
        Ask::Clash(back) => {
            let other = earlier(back).cloned().unwrap_or_else(missing);
            let payload = other.payload.iter().chain(b" ").copied().collect::<Bytes>();
            other.payload(payload)
        }
    }
}

fn new_job(draw: &Draw, now: Timestamp, known: &Known<'_>) -> NewJob {
    let mut job = crate::job(task(draw.task).as_str())
        .queue(queue(draw.queue).as_str())
        .priority(draw.priority)
        .payload(bytes(draw.payload_bytes))
        .with(|options| {
            options.run_at = draw.run_at.map(|shift| shifted(now, shift));
            options.expires_at = draw.expires_at.map(|shift| shifted(now, shift));
            options.tags = draw.tags.iter().map(|number| tag(*number)).collect();
        });
    if let Some((key, scope, conflict, ms)) = draw.unique {
        let span = Duration::from_millis(ms);
        let scopes = [
            UniqueScope::UntilStarted,
            UniqueScope::UntilFinished,
            UniqueScope::For(span),
        ];
        let rules = [
            OnConflict::Keep,
            OnConflict::Replace,
            OnConflict::Reject,
            OnConflict::Debounce(span),
            OnConflict::Throttle,
        ];
        let (scope, rule) = (
            scopes[usize::from(scope) % 3],
            rules[usize::from(conflict) % 5],
        );
        job = job.unique(&format!("{key}"), scope, rule);
    }
    if let Some(key) = draw.idempotency {
        let key = IdempotencyKey::parse(&format!("request {key}"));
        job.idempotency = key.ok();
    }
    job.with(|options| {
        set_extras(options, draw.extras, now);
        options.group_key = draw.group_key.map(group_key);
        options.cost = draw.cost;
        options.group = draw.group.map(|back| known.group(back));
        options.delay = draw.delay.map(Duration::from_millis);
        for (own, back, rule) in &draw.after {
            let parent = if *own {
                Parent::Earlier(*back % 4)
            } else {
                Parent::Job(known.id(*back))
            };
            if options.after.iter().all(|after| after.parent != parent) {
                let on_failure = OnFailure::ALL[usize::from(*rule) % 3];
                options.after.push(After { parent, on_failure });
            }
        }
    })
}

/// Options that no engine looks at, but has to give back.
fn set_extras(options: &mut offloop_job::JobOptions, extras: u8, now: Timestamp) {
    let on = |bit: u8| extras & (1 << bit) != 0;
    let ms = |bit: u8| on(bit).then(|| Duration::from_millis(u64::from(extras) + 1));
    if on(0) {
        options.retry = RetryPolicy {
            max_attempts: u16::from(extras),
            backoff: Backoff {
                kind: BackoffKind::Fixed,
                jitter_percent: extras % 101,
                ..Backoff::default()
            },
            by_class: vec![(class(extras), 1)],
        };
    }
    options.timeout = ms(1);
    options.cpu_limit = ms(2);
    options.stall_timeout = ms(3);
    options.memory_limit_bytes = on(4).then_some(u64::from(extras) << 20);
    options.cores = if on(5) { 4 } else { 1 };
    options.deadline = on(6).then(|| shifted(now, 1_000));
    // Some over what a finished job is there for in any case, some under it.
    options.keep = on(2).then(|| Duration::from_millis(u64::from(extras) * 100));
    options.trace = on(1).then(|| format!("00-{extras}").into());
}

pub(super) fn settlement(claimed: &Claimed, end: &End, now: Timestamp) -> Settlement {
    let verdict = match end.verdict {
        Verb::Complete(result) => Verdict::Completed {
            result: result.map(bytes),
        },
        Verb::Retry(shift) => Verdict::Retry {
            due: shifted(now, shift),
        },
        Verb::Snooze(shift) => Verdict::Snooze {
            due: shifted(now, shift),
        },
        Verb::GiveUp(reason) => Verdict::GiveUp {
            reason: FinalReason::ALL[usize::from(reason) % 3],
        },
        Verb::HandBack => Verdict::HandBack,
        Verb::Abort => Verdict::Abort,
    };
    let failure = end.class.map(|number| {
        let failure = Failure::new(class(number), format!("ended {number}, ž"));
        failure.with_exit(
            (number % 2 == 0).then_some(i32::from(number) - 3),
            (number % 3 == 0).then_some(9),
        )
    });
    let number = end.log_bytes as u64;
    let report = AttemptReport {
        node: claimed.node.clone(),
        lane: "process".into(),
        executor: format!("pid {number}").into(),
        started_at: claimed.claimed_at.plus(Duration::from_millis(number % 7)),
        ended_at: now,
        wait: Duration::from_millis(number),
        usage: Usage {
            wall: Duration::from_millis(number * 3),
            cpu: number
                .is_multiple_of(2)
                .then(|| Duration::from_millis(number)),
            max_rss_bytes: number.is_multiple_of(3).then_some(number << 20),
            bytes_in: number / 3,
            bytes_out: if number.is_multiple_of(5) {
                0
            } else {
                number << 16
            },
            executor_age: (number % 4 != 1).then(|| Duration::from_millis(number % 4)),
        },
        failure,
        log: LogTail {
            head: bytes(end.log_bytes.min(16 << 10)),
            tail: bytes(end.log_bytes / 2),
            dropped_bytes: number / 5,
        },
    };
    Settlement {
        id: claimed.id,
        lease: claimed.lease,
        verdict,
        report,
        records: records(&end.rows),
        follow: vec![],
    }
}

pub(super) fn prune_rule(now: Timestamp, call: &Call) -> PruneRule {
    let Call::Prune {
        completed_for,
        others_for,
        rows_max,
        rows_per_call,
    } = call
    else {
        unreachable!("only for prunes")
    };
    PruneRule {
        now,
        completed_for: Duration::from_millis(*completed_for),
        others_for: Duration::from_millis(*others_for),
        rows_max: *rows_max,
        rows_per_call: *rows_per_call,
    }
}

pub(super) fn usage_ask(now: Timestamp, by: u8, since: i64, limit: u16) -> UsageAsk {
    UsageAsk {
        by: UsageBy::ALL[usize::from(by) % 3],
        since: shifted(now, since),
        limit,
    }
}

pub(super) fn filter(call: &Call) -> JobFilter {
    let Call::List {
        task: by_task,
        queue: by_queue,
        state,
        tag: by_tag,
        class: by_class,
        ..
    } = call
    else {
        unreachable!("only for lists")
    };
    JobFilter {
        task: by_task.map(task),
        queue: by_queue.map(queue),
        state: state.and_then(JobState::from_code),
        tags: by_tag.map(tag).into_iter().collect(),
        class: by_class.map(class),
        ..JobFilter::default()
    }
}
