//! The longest of everything comes back whole.

use bytes::Bytes;
use offloop_job::limits::{
    ATTEMPTS_MAX, IDEMPOTENCY_KEY_BYTES_MAX, LOG_HEAD_BYTES_MAX, LOG_TAIL_BYTES_MAX,
    MESSAGE_BYTES_MAX, NAME_BYTES_MAX, PAYLOAD_BYTES_MAX, RECORD_KEY_BYTES_MAX,
    RECORD_VALUE_BYTES_MAX, RESULT_BYTES_MAX, TAG_BYTES_MAX, TAGS_MAX, TRACE_BYTES_MAX,
    UNIQUE_KEY_BYTES_MAX,
};
use offloop_job::{
    Failure, FailureClass, LogTail, OnConflict, RecordWrite, Tag, Timestamp, UniqueScope,
};
use offloop_store::Verdict;

use crate::store::{EXHAUSTED, settlement};
use crate::{Draft, Kit, at, job, name, record};

fn bytes(len: usize) -> Bytes {
    (0..len).map(|n| (n % 253) as u8).collect()
}

pub fn a_payload_of_one_mebibyte(kit: &Kit) {
    let store = kit.open();
    let payload = bytes(PAYLOAD_BYTES_MAX);
    let jobs = vec![job("t").payload(payload.clone()); 3];
    store.insert(at(0), jobs);
    for claimed in store.claim(at(1), &["t"], 3) {
        assert!(claimed.payload == payload);
    }
}

pub fn a_result_of_one_mebibyte(kit: &Kit) {
    let store = kit.open();
    let claimed = store.start(at(0));
    let result = Some(bytes(RESULT_BYTES_MAX));
    let verdict = Verdict::Completed {
        result: result.clone(),
    };
    store.finish(at(1), &claimed, verdict);
    assert!(store.job(claimed.id).result == result);
}

pub fn the_longest_names_and_keys(kit: &Kit) {
    let store = kit.open();
    let long_name = "n".repeat(NAME_BYTES_MAX);
    let asked = || {
        job(&long_name)
            .queue(&long_name)
            .unique(
                &"ü".repeat(UNIQUE_KEY_BYTES_MAX / 2),
                UniqueScope::UntilFinished,
                OnConflict::Keep,
            )
            .idempotency(&"i".repeat(IDEMPOTENCY_KEY_BYTES_MAX))
            .with(|options| {
                let tag = |n| format!("{n:x}{}", "%".repeat(TAG_BYTES_MAX - 1));
                let tags = (0..TAGS_MAX).map(|n| Tag::parse(&tag(n)).expect("a tag"));
                options.tags = tags.collect();
                options.trace = Some(";".repeat(TRACE_BYTES_MAX).into());
            })
    };
    let id = store.add(at(0), asked());
    let shown = store.job(id);
    assert_eq!(shown.options, asked().options);
    assert_eq!(shown.summary.task.as_str(), long_name);
    let again = store.insert_one(at(1), asked());
    let same = offloop_store::SameAs::IdempotencyKey;
    assert_eq!(again, offloop_store::InsertOutcome::Existing { id, same });
}

pub fn the_longest_log_and_message(kit: &Kit) {
    let store = kit.open();
    let claimed = store.start(at(0));
    let mut end = settlement(&claimed, EXHAUSTED);
    let message = "ž".repeat(MESSAGE_BYTES_MAX / 2);
    end.report.failure = Some(Failure::new(FailureClass::Error, message));
    end.report.log = LogTail {
        head: bytes(LOG_HEAD_BYTES_MAX),
        tail: bytes(LOG_TAIL_BYTES_MAX),
        dropped_bytes: u64::MAX >> 1,
    };
    let report = end.report.clone();
    store.settle_one(at(1), end);
    let shown = store.job(claimed.id);
    assert!(shown.attempts[0].log == report.log);
    assert!(shown.attempts[0].failure == report.failure);
    assert!(shown.summary.failure == report.failure);
}

pub fn the_longest_record(kit: &Kit) {
    let store = kit.open();
    let write = RecordWrite {
        collection: name(&"c".repeat(NAME_BYTES_MAX)),
        key: bytes(RECORD_KEY_BYTES_MAX),
        value: bytes(RECORD_VALUE_BYTES_MAX),
        ..record("", &"l".repeat(NAME_BYTES_MAX), "")
    };
    store.write_records(at(0), vec![write.clone()]);
    let rows = store.scan(write.collection.as_str(), None, 1);
    assert!(rows[0].key == write.key && rows[0].value == write.value);
}

pub fn the_last_instant_and_the_highest_numbers(kit: &Kit) {
    let store = kit.open();
    let asked = job("t").run_at(Timestamp::MAX).with(|options| {
        options.priority = 9;
        options.cores = 1_024;
        options.retry.max_attempts = ATTEMPTS_MAX;
        options.memory_limit_bytes = Some(u64::MAX);
        options.expires_at = Some(Timestamp::MAX);
        options.deadline = Some(Timestamp::MAX);
    });
    let id = store.add(at(0), asked.clone());
    let shown = store.job(id);
    assert_eq!(shown.options, asked.options);
    assert_eq!(shown.summary.due_at, Timestamp::MAX);
    assert_eq!(store.promote(at(0)).next_due, Some(Timestamp::MAX));
    store.promote(Timestamp::MAX);
    assert_eq!(store.claim_ids(Timestamp::MAX), [id]);
}
