//! What screens see of jobs.

use std::collections::BTreeSet;

use bytes::Bytes;
use offloop_job::{FailureClass, JobId, JobState, QueueName, ScheduleName, ScheduledBy, Tag};
use offloop_store::{JobFilter, TimeRange, Verdict};

use crate::cases::{STATES, in_state};
use crate::store::{COMPLETED, EXHAUSTED, failed};
use crate::{Draft, Kit, Store, at, job, name};

fn newest_first(mut ids: Vec<JobId>) -> Vec<JobId> {
    ids.reverse();
    ids
}

pub fn an_unknown_job_is_none(kit: &Kit) {
    let store = kit.open();
    let id = store.add(at(0), job("t"));
    assert_eq!(store.find(JobId::from_parts(id.order() + 1, 0)), None);
    assert_eq!(store.find(JobId::from_u128(0)), None);
    assert_eq!(store.find(JobId::from_u128(u128::MAX)), None);
}

/// An engine may file a job by the upper half of its id alone.
pub fn an_id_with_another_lower_half_is_another_job(kit: &Kit) {
    let store = kit.open();
    for state in STATES {
        let id = in_state(&store, state);
        let forged = JobId::from_parts(id.order(), id.random() ^ 1);
        assert_eq!(store.find(forged), None, "{state}");
        assert_eq!(
            store.delete(&[forged]),
            [offloop_store::DeleteOutcome::Unknown]
        );
        assert_eq!(
            store.revive(at(1), &[forged]),
            [offloop_store::ReviveOutcome::Unknown]
        );
        assert_eq!(
            store.cancel(at(1), forged),
            offloop_store::EndIdleOutcome::Unknown
        );
        assert_eq!(store.state(id), state);
        store.cancel(at(1), id);
    }
}

pub fn a_list_shows_what_the_job_shows(kit: &Kit) {
    let store = kit.open();
    for state in STATES.into_iter().rev() {
        in_state(&store, state);
    }
    let rows = store.list(at(1), &JobFilter::default(), 3);
    assert_eq!(rows.len(), STATES.len());
    for row in rows {
        assert_eq!(store.job(row.id).summary, row);
    }
}

pub fn newest_come_first(kit: &Kit) {
    let store = kit.open();
    let mut ids = vec![];
    for (now, state) in (0..).zip(STATES.into_iter().rev()) {
        ids.push(in_state(&store, state));
        let _ = now;
    }
    assert_eq!(store.all_ids(), newest_first(ids));
}

pub fn by_task(kit: &Kit) {
    let store = kit.open();
    let mine = [0, 1].map(|_| store.add(at(0), job("t")));
    store.add(at(0), job("tt"));
    let filter = JobFilter {
        task: Some(name("t")),
        ..JobFilter::default()
    };
    assert_eq!(store.list_ids(&filter), newest_first(mine.into()));
}

pub fn by_queue(kit: &Kit) {
    let store = kit.open();
    let mine = store.add(at(0), job("t").queue("q"));
    store.add(at(0), job("t"));
    let filter = |queue: &str| JobFilter {
        queue: Some(QueueName::parse(queue).expect("a queue")),
        ..JobFilter::default()
    };
    assert_eq!(store.list_ids(&filter("q")), [mine]);
    assert!(store.list_ids(&filter("none")).is_empty());
}

pub fn by_state(kit: &Kit) {
    let store = kit.open();
    let ids: Vec<_> = STATES
        .into_iter()
        .rev()
        .map(|state| (state, in_state(&store, state)))
        .collect();
    for (state, id) in ids {
        let filter = JobFilter {
            state: Some(state),
            ..JobFilter::default()
        };
        assert_eq!(store.list_ids(&filter), [id], "{state}");
    }
}

pub fn by_tag(kit: &Kit) {
    let store = kit.open();
    let ids = [
        store.add(at(0), job("t").tag("a").tag("b, c")),
        store.add(at(0), job("t").tag("b, c")),
        store.add(at(0), job("t").tag("ab").tag("%2C")),
    ];
    store.cancel(at(1), ids[1]);
    let by = |tag: &str| {
        store.list_ids(&JobFilter {
            tags: vec![Tag::parse(tag).expect("a tag")],
            ..JobFilter::default()
        })
    };
    assert_eq!(by("a"), [ids[0]]);
    assert_eq!(by("b, c"), [ids[1], ids[0]], "living and finished ones");
    assert_eq!(by("%2C"), [ids[2]]);
    assert!(by("b").is_empty() && by("c").is_empty() && by(",").is_empty());
}

pub fn by_class_of_the_last_failure(kit: &Kit) {
    let store = kit.open();
    let retried = store.start(at(0));
    store.retry(at(1), &retried, FailureClass::Timeout, at(900));
    let dead = store.start(at(2));
    store.settle_one(at(3), failed(&dead, FailureClass::Timeout, EXHAUSTED));
    let good = store.start(at(4));
    store.finish(at(5), &good, COMPLETED);
    let other = store.start(at(6));
    store.retry(at(7), &other, FailureClass::Timeout, at(7));
    store.promote(at(7));
    let again = store.claim_one(at(8));
    store.settle_one(at(8), failed(&again, FailureClass::Error, EXHAUSTED));
    let by = |class| {
        store.list_ids(&JobFilter {
            class: Some(class),
            ..JobFilter::default()
        })
    };
    assert_eq!(by(FailureClass::Timeout), [dead.id, retried.id]);
    assert_eq!(by(FailureClass::Error), [other.id]);
    assert!(by(FailureClass::Crashed).is_empty());
}

pub fn by_schedule(kit: &Kit) {
    let store = kit.open();
    let named = |name: &str| ScheduleName::parse(name).expect("a schedule");
    let made_by = |schedule: &str| {
        let mut job = job("t").tag("x");
        job.options.schedule = Some(Box::new(ScheduledBy {
            name: named(schedule),
            due_at: at(0),
        }));
        job
    };
    let living = store.add(at(0), made_by("nightly"));
    let over = store.add(at(0), made_by("nightly"));
    store.cancel(at(1), over);
    let longer = store.add(at(0), made_by("nightly2"));
    store.add(at(0), job("t").tag("nightly"));
    let by = |schedule: &str| {
        store.list_ids(&JobFilter {
            schedule: Some(named(schedule)),
            ..JobFilter::default()
        })
    };
    assert_eq!(by("nightly"), [over, living], "living and finished ones");
    assert_eq!(by("nightly2"), [longer]);
    assert!(by("night").is_empty());
}

fn range(from: Option<u64>, before: Option<u64>) -> TimeRange {
    TimeRange {
        from: from.map(at),
        before: before.map(at),
    }
}

pub fn by_the_time_it_was_made(kit: &Kit) {
    let store = kit.open();
    let ids = [10, 20, 30].map(|now| store.add(at(now), job("t")));
    store.cancel(at(40), ids[0]);
    let by = |from, before| {
        store.list_ids(&JobFilter {
            created: range(from, before),
            ..JobFilter::default()
        })
    };
    assert_eq!(by(Some(20), None), [ids[2], ids[1]], "from is in it");
    assert_eq!(by(None, Some(20)), [ids[0]], "before is not");
    assert_eq!(by(Some(20), Some(30)), [ids[1]]);
    assert!(by(Some(21), Some(30)).is_empty() && by(Some(30), Some(20)).is_empty());
}

pub fn by_the_time_it_finished(kit: &Kit) {
    let store = kit.open();
    let ids = [10, 10, 10, 10].map(|now| store.add(at(now), job("t")));
    for (id, now) in ids.into_iter().zip([20, 30, 40]) {
        store.cancel(at(now), id);
    }
    let by = |from, before| {
        store.list_ids(&JobFilter {
            finished: range(from, before),
            ..JobFilter::default()
        })
    };
    assert_eq!(by(Some(30), None), [ids[2], ids[1]], "from is in it");
    assert_eq!(by(None, Some(30)), [ids[0]], "before is not");
    assert_eq!(by(Some(30), Some(40)), [ids[1]]);
    assert_eq!(by(None, Some(999)).len(), 3, "what lives has not finished");
    let living = JobFilter {
        state: Some(JobState::Ready),
        finished: range(None, Some(999)),
        ..JobFilter::default()
    };
    assert!(store.list_ids(&living).is_empty());
}

pub fn by_everything_at_once(kit: &Kit) {
    let store = kit.open();
    let asked = || job("t").queue("q").tag("x");
    let mine = store.add(at(0), asked());
    store.add(at(0), asked().queue("other"));
    store.add(at(0), job("t").queue("q"));
    let task = crate::Draft::with(asked(), |_| {});
    store.add(
        at(0),
        offloop_job::NewJob {
            task: name("u"),
            ..task
        },
    );
    store.add(at(0), asked().run_at(at(99)));
    let filter = JobFilter {
        task: Some(name("t")),
        queue: Some(QueueName::parse("q").expect("a queue")),
        state: Some(JobState::Ready),
        tags: vec![Tag::parse("x").expect("a tag")],
        ..JobFilter::default()
    };
    assert_eq!(store.list_ids(&filter), [mine]);
    let class = Some(FailureClass::Error);
    assert!(store.list_ids(&JobFilter { class, ..filter }).is_empty());
}

/// Pages through everything, and lets the world go on after each page.
fn pages(store: &Store<'_>, limit: u16, mut meanwhile: impl FnMut(u64)) -> Vec<JobId> {
    let filter = JobFilter::default();
    let mut seen = vec![];
    let mut cursor = None;
    for step in 0..1_000 {
        let page = store.page(at(step), &filter, limit, cursor);
        seen.extend(page.jobs.iter().map(|row| row.id));
        cursor = page.next;
        if cursor.is_none() {
            return seen;
        }
        meanwhile(step);
    }
    panic!("the pages never end");
}

fn every_old_row_once(seen: &[JobId], old: &[JobId]) {
    let set: BTreeSet<_> = seen.iter().copied().collect();
    assert_eq!(set.len(), seen.len(), "a row that is shown twice");
    for id in old {
        assert!(set.contains(id), "{id} is missing");
    }
}

pub fn pages_show_every_row_once(kit: &Kit) {
    let store = kit.open();
    let ids: Vec<_> = (0..57).map(|_| store.add(at(0), job("t"))).collect();
    for id in ids.iter().step_by(2) {
        store.cancel(at(1), *id);
    }
    let want = newest_first(ids);
    for limit in [1, 2, 7, 56, 57, 58, 500] {
        let seen = pages(&store, limit, |_| {});
        assert_eq!(seen, want, "pages of {limit}");
    }
}

pub fn pages_show_every_row_once_while_rows_are_added(kit: &Kit) {
    let store = kit.open();
    let ids: Vec<_> = (0..40).map(|_| store.add(at(0), job("t"))).collect();
    let seen = pages(&store, 3, |step| {
        store.add(at(step), job("t"));
    });
    every_old_row_once(&seen, &ids);
}

pub fn pages_show_every_row_once_while_jobs_end(kit: &Kit) {
    let store = kit.open();
    let ids: Vec<_> = (0..40).map(|_| store.add(at(0), job("t"))).collect();
    let (mut oldest, mut newest) = (ids.iter(), ids.iter().rev());
    let seen = pages(&store, 3, |step| {
        store.cancel(at(step), *oldest.next().expect("fewer pages"));
        store.cancel(at(step), *newest.next().expect("fewer pages"));
        store.revive(at(step), &ids[..2]);
    });
    every_old_row_once(&seen, &ids);
}

pub fn a_filtered_list_has_pages_too(kit: &Kit) {
    let store = kit.open();
    let ids: Vec<_> = (0..200)
        .map(|n| {
            store.add(
                at(0),
                job("t").tag(if n % 20 == 0 { "rare" } else { "common" }),
            )
        })
        .collect();
    let filter = JobFilter {
        tags: vec![Tag::parse("rare").expect("a tag")],
        ..JobFilter::default()
    };
    let rows = store.list(at(1), &filter, 3);
    let seen: Vec<_> = rows.iter().map(|row| row.id).collect();
    let want = ids.into_iter().step_by(20).collect();
    assert_eq!(seen, newest_first(want));
}

pub fn payloads_come_back_byte_by_byte(kit: &Kit) {
    let store = kit.open();
    let long: Vec<u8> = (0..1_u32 << 20).map(|n| (n * 7 + n / 251) as u8).collect();
    let samples = [
        &b""[..],
        b"null",
        "{\"ü\":\"\u{1F4F7} žluťoučký\u{0000}\"}".as_bytes(),
        b"\x00\xff\xfe'\"\\;%",
        &long[..255],
        &long[..70_000],
        &long,
    ];
    for sample in samples {
        let payload = Bytes::copy_from_slice(sample);
        let id = store.add(at(0), job("t").payload(payload.clone()));
        assert!(store.job(id).payload == payload, "{} bytes", sample.len());
        let claimed = store.claim_one(at(1));
        assert!(claimed.payload == payload, "{} bytes", sample.len());
        let result = Some(payload.clone());
        store.finish(at(2), &claimed, Verdict::Completed { result });
        let shown = store.job(id);
        assert!(shown.payload == payload, "{} bytes", sample.len());
        assert!(shown.result == Some(payload), "{} bytes", sample.len());
    }
}

pub fn options_come_back_in_every_state(kit: &Kit) {
    let store = kit.open();
    let options = super::insert::rich_options();
    let id = store.add(at(0), job("t").with(|asked| *asked = options.clone()));
    let check = |state| {
        let shown = store.job(id);
        assert_eq!((shown.summary.state, &shown.options), (state, &options));
    };
    check(JobState::Scheduled);
    store.promote(at(1_000));
    check(JobState::Ready);
    let claimed = store.claim_one(at(1_001));
    check(JobState::Running);
    store.retry(at(1_002), &claimed, FailureClass::Error, at(2_000));
    check(JobState::Scheduled);
    store.promote(at(2_000));
    let claimed = store.claim_one(at(2_001));
    assert_eq!(*claimed.options, options);
    store.finish(at(2_002), &claimed, EXHAUSTED);
    check(JobState::Failed);
    store.revive(at(3_000), &[id]);
    check(JobState::Ready);
}

/// Tags outlive every step of their jobs, and go with them.
pub fn jobs_are_found_by_all_of_several_tags(kit: &Kit) {
    let store = kit.open();
    let with = |tags: &[&str]| JobFilter {
        tags: tags
            .iter()
            .map(|tag| Tag::parse(tag).expect("a tag"))
            .collect(),
        ..JobFilter::default()
    };
    let tagged = |tags: &[&str]| tags.iter().fold(job("t"), |job, tag| job.tag(tag));
    let both = store.add(at(0), tagged(&["a", "b", "a"]));
    let done = store.claim_one(at(0));
    store.finish(at(1), &done, crate::store::COMPLETED);
    let one = store.add(at(1), tagged(&["a"]));
    let again = store.add(at(2), tagged(&["b", "a"]));
    store.cancel(at(3), again);
    assert_eq!(store.list_ids(&with(&["a"])), [again, one, both]);
    assert_eq!(store.list_ids(&with(&["b", "a"])), [again, both]);
    assert_eq!(store.list_ids(&with(&["a", "b", "c"])), []);
    let cancelled = JobFilter {
        state: Some(offloop_job::JobState::Cancelled),
        ..with(&["b"])
    };
    assert_eq!(store.list_ids(&cancelled), [again]);
    store.revive(at(4), &[again]);
    assert_eq!(store.list_ids(&with(&["a", "b"])), [again, both]);
    store.delete(&[both]);
    assert_eq!(store.list_ids(&with(&["b"])), [again]);
}
