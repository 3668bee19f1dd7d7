//! Short words for jobs, times, reports and records.

use std::time::Duration;

use bytes::Bytes;
use offloop_job::{
    IdempotencyKey, JobOptions, LogTail, NewJob, OnConflict, QueueName, RecordWrite, RequestKey,
    Tag, TaskName, Timestamp, Unique, UniqueKey, UniqueScope, Usage,
};
use offloop_store::{AttemptReport, Claimed};

/// When every case starts: 2027-01-15, so that ids look as in life.
pub const T0: u64 = 1_800_000_000_000;

/// `ms` after the start of the case.
pub fn at(ms: u64) -> Timestamp {
    Timestamp::from_millis(T0 + ms)
}

/// A task, label or collection.
pub fn name(text: &str) -> TaskName {
    TaskName::parse(text).expect("a name that is written in a test")
}

/// A job with default options.
pub fn job(task: &str) -> NewJob {
    NewJob {
        task: name(task),
        payload: Bytes::from_static(b"{}"),
        options: JobOptions::default(),
        idempotency: None,
    }
}

/// A key of a request for several jobs; requests with another `body` are others.
pub(crate) fn request(key: &str, body: u8) -> RequestKey {
    RequestKey {
        key: IdempotencyKey::parse(key).expect("an idempotency key"),
        fingerprint: [body; 16],
    }
}

/// Options by name, on a job that is about to be asked for.
pub trait Draft: Sized {
    #[must_use]
    fn with(self, change: impl FnOnce(&mut JobOptions)) -> Self;
    #[must_use]
    fn payload(self, payload: impl Into<Bytes>) -> Self;
    #[must_use]
    fn idempotency(self, key: &str) -> Self;

    #[must_use]
    fn queue(self, queue: &str) -> Self {
        let queue = QueueName::parse(queue).expect("a queue's name");
        self.with(|options| options.queue = queue)
    }

    #[must_use]
    fn priority(self, priority: u8) -> Self {
        self.with(|options| options.priority = priority)
    }

    #[must_use]
    fn run_at(self, run_at: Timestamp) -> Self {
        self.with(|options| options.run_at = Some(run_at))
    }

    #[must_use]
    fn expires_at(self, expires_at: Timestamp) -> Self {
        self.with(|options| options.expires_at = Some(expires_at))
    }

    #[must_use]
    fn keep(self, ms: u64) -> Self {
        self.with(|options| options.keep = Some(Duration::from_millis(ms)))
    }

    #[must_use]
    fn tag(self, tag: &str) -> Self {
        let tag = Tag::parse(tag).expect("a tag");
        self.with(|options| options.tags.push(tag))
    }

    #[must_use]
    fn group_key(self, key: &str) -> Self {
        let key = Tag::parse(key).expect("a group key");
        self.with(|options| options.group_key = Some(key))
    }

    #[must_use]
    fn unique(self, key: &str, scope: UniqueScope, on_conflict: OnConflict) -> Self {
        let key = UniqueKey::parse(key).expect("a unique key");
        self.with(|options| {
            options.unique = Some(Unique {
                key,
                scope,
                on_conflict,
            });
        })
    }
}

impl Draft for NewJob {
    fn with(mut self, change: impl FnOnce(&mut JobOptions)) -> Self {
        change(&mut self.options);
        self
    }

    fn payload(mut self, payload: impl Into<Bytes>) -> Self {
        self.payload = payload.into();
        self
    }

    fn idempotency(mut self, key: &str) -> Self {
        self.idempotency = Some(IdempotencyKey::parse(key).expect("an idempotency key"));
        self
    }
}

/// A report of an attempt without failure and log.
pub fn report(claimed: &Claimed) -> AttemptReport {
    AttemptReport {
        node: claimed.node.clone(),
        lane: "cpu".into(),
        executor: "thread 1".into(),
        started_at: claimed.claimed_at,
        ended_at: claimed.claimed_at.plus(Duration::from_millis(1)),
        wait: Duration::ZERO,
        usage: Usage::default(),
        failure: None,
        log: LogTail::default(),
    }
}

/// A row of collection `photos`.
pub fn record(key: &str, label: &str, value: &str) -> RecordWrite {
    RecordWrite {
        collection: name("photos"),
        key: Bytes::copy_from_slice(key.as_bytes()),
        label: Some(name(label)),
        value: Bytes::copy_from_slice(value.as_bytes()),
    }
}

/// The removal of a row of collection `photos`.
pub fn remove(key: &str) -> RecordWrite {
    RecordWrite {
        label: None,
        ..record(key, "gone", "")
    }
}
