//! An open engine, in the words of the cases: waits for each answer and expects it to be one.

use std::collections::BTreeMap;

use bytes::Bytes;
use offloop_job::{
    Failure, FailureClass, FinalReason, Job, JobId, JobState, JobSummary, Lease, Limit,
    LimitTarget, Mode, NewJob, NodeId, QueueName, Rate, RecordKey, RecordWrite, RequestKey,
    Timestamp,
};
use offloop_store::{
    AuditAsk, AuditEntry, Checkpoint, CheckpointOutcome, ClaimRequest, Claimed, Claims,
    DeleteOutcome, EndIdle, EndIdleOutcome, Engine, Gate, IdleEnd, InsertBatch, InsertOutcome,
    JobFilter, LimitChange, LimitSet, LimitStatus, LimitsAsk, ListRequest, ModeChange, Origin,
    Overdue, ProgressNote, Promoted, PruneRule, QueueStatus, Record, RecordScan, Reply,
    ReviveOutcome, Settled, Settlement, USAGE_ROWS_MAX, UsageAsk, UsageBy, UsageSums, Verdict,
    Want,
};

use crate::{Kit, Setup, block_on, name, report};

/// Pages and pieces after which a case gives up.
const PAGES_MAX: usize = 10_000;

/// An engine under test.
#[derive(Debug)]
pub struct Store<'a> {
    kit: &'a Kit,
    engine: Box<dyn Engine>,
    setup: Setup,
}

/// The answer of an engine that must not fail.
pub(crate) fn wait<T>(reply: Reply<T>) -> T {
    block_on(reply).unwrap_or_else(|error| panic!("the engine failed: {error:?}"))
}

pub(crate) fn node(text: &str) -> NodeId {
    NodeId(text.into())
}

impl<'a> Store<'a> {
    pub(crate) fn new(kit: &'a Kit, engine: Box<dyn Engine>, setup: Setup) -> Self {
        Self { kit, engine, setup }
    }

    pub fn engine(&self) -> &dyn Engine {
        &*self.engine
    }

    /// Ends the engine's process in order and starts another one; `None` if it leaves nothing.
    pub fn restart(self) -> Option<Self> {
        wait(self.engine.close());
        self.crash()
    }

    /// The same without a word of goodbye.
    pub fn crash(self) -> Option<Self> {
        let survives = self.engine.capability().survives_process;
        let setup = Setup {
            id_seed: self.setup.id_seed.wrapping_add(1),
            ..self.setup
        };
        let engine = self.kit.harness().reopen(self.engine, setup);
        assert_eq!(
            survives,
            engine.is_some(),
            "what it declares and what it does"
        );
        let kit = self.kit;
        engine.map(|engine| Self { kit, engine, setup })
    }

    // Taking in.

    pub fn insert(&self, now: Timestamp, jobs: Vec<NewJob>) -> Vec<InsertOutcome> {
        self.insert_with(now, jobs, vec![])
    }

    pub fn insert_with(
        &self,
        now: Timestamp,
        jobs: Vec<NewJob>,
        records: Vec<RecordWrite>,
    ) -> Vec<InsertOutcome> {
        wait(self.engine.insert(InsertBatch {
            now,
            jobs,
            records,
            request: None,
        }))
    }

    /// A batch with a key of its own.
    pub fn insert_as(
        &self,
        now: Timestamp,
        request: RequestKey,
        jobs: Vec<NewJob>,
    ) -> Vec<InsertOutcome> {
        wait(self.engine.insert(InsertBatch {
            now,
            jobs,
            records: vec![],
            request: Some(request),
        }))
    }

    pub fn insert_one(&self, now: Timestamp, job: NewJob) -> InsertOutcome {
        let outcomes = self.insert(now, vec![job]);
        assert_eq!(outcomes.len(), 1, "one outcome per job");
        outcomes.into_iter().next().expect("one outcome per job")
    }

    /// A job that must be created.
    pub fn add(&self, now: Timestamp, job: NewJob) -> JobId {
        created(&self.insert_one(now, job))
    }

    // Running.

    pub fn claim_as(&self, by: &str, now: Timestamp, wants: Vec<Want>) -> Vec<Claimed> {
        self.claims_as(by, now, wants).jobs
    }

    pub fn claims_as(&self, by: &str, now: Timestamp, wants: Vec<Want>) -> Claims {
        let node = node(by);
        wait(self.engine.claim(ClaimRequest { now, node, wants }))
    }

    /// Up to `limit` jobs of these tasks, for node `n1`.
    pub fn claim(&self, now: Timestamp, tasks: &[&str], limit: u16) -> Vec<Claimed> {
        self.claim_as("n1", now, vec![want(tasks, limit)])
    }

    /// Everything of task `t` that is to be had, by id.
    pub fn claim_ids(&self, now: Timestamp) -> Vec<JobId> {
        let claimed = self.claim(now, &["t"], 1_000);
        claimed.iter().map(|claimed| claimed.id).collect()
    }

    /// The one job of task `t` that is to be had.
    pub fn claim_one(&self, now: Timestamp) -> Claimed {
        let mut claimed = self.claim(now, &["t"], 2);
        assert_eq!(claimed.len(), 1, "one ready job: {claimed:?}");
        claimed.remove(0)
    }

    /// A job of task `t` that runs.
    pub fn start(&self, now: Timestamp) -> Claimed {
        self.add(now, crate::job("t"));
        self.claim_one(now)
    }

    pub fn settle(&self, now: Timestamp, ends: Vec<Settlement>) -> Vec<Settled> {
        let asked = ends.len();
        let settled = wait(self.engine.settle(now, ends));
        assert_eq!(settled.len(), asked, "one outcome per settlement");
        settled
    }

    pub fn settle_one(&self, now: Timestamp, end: Settlement) -> Settled {
        self.settle(now, vec![end])[0]
    }

    /// A settlement that must be applied.
    pub fn finish(&self, now: Timestamp, claimed: &Claimed, verdict: Verdict) -> JobState {
        match self.settle_one(now, settlement(claimed, verdict)) {
            Settled::Done(state) => state,
            other => panic!("not applied: {other:?}"),
        }
    }

    /// A failed attempt; the next one is due then.
    pub fn retry(&self, now: Timestamp, claimed: &Claimed, class: FailureClass, due: Timestamp) {
        let end = failed(claimed, class, Verdict::Retry { due });
        let settled = self.settle_one(now, end);
        assert_eq!(settled, Settled::Done(JobState::Scheduled));
    }

    pub fn note(&self, now: Timestamp, id: JobId, lease: Lease, note: &'static str) {
        let note = Bytes::from_static(note.as_bytes());
        wait(
            self.engine
                .note_progress(now, vec![ProgressNote { id, lease, note }]),
        );
    }

    pub fn checkpoint(&self, now: Timestamp, claimed: &Claimed, data: &str) -> CheckpointOutcome {
        let note = Checkpoint {
            id: claimed.id,
            lease: claimed.lease,
            data: Bytes::copy_from_slice(data.as_bytes()),
            advances: claimed.checkpoint.as_deref() != Some(data.as_bytes()),
        };
        self.checkpoints(now, vec![note])[0]
    }

    pub fn checkpoints(&self, now: Timestamp, notes: Vec<Checkpoint>) -> Vec<CheckpointOutcome> {
        let asked = notes.len();
        let outcomes = wait(self.engine.checkpoint(now, notes));
        assert_eq!(outcomes.len(), asked, "one outcome per checkpoint");
        outcomes
    }

    pub fn promote(&self, now: Timestamp) -> Promoted {
        wait(self.engine.promote(now))
    }

    pub fn orphans(&self, alive: &str, limit: u16) -> Vec<Claimed> {
        let mut found = wait(self.engine.orphans(node(alive), limit));
        found.sort_by_key(|claimed| claimed.id);
        found
    }

    // Ending, reviving, forgetting.

    pub fn end_idle(&self, now: Timestamp, ends: Vec<EndIdle>) -> Vec<EndIdleOutcome> {
        wait(self.engine.end_idle(now, ends))
    }

    pub fn end_one(&self, now: Timestamp, id: JobId, why: IdleEnd) -> EndIdleOutcome {
        let records = vec![];
        let mut outcomes = self.end_idle(
            now,
            vec![EndIdle {
                id,
                why,
                records,
                follow: vec![],
            }],
        );
        assert_eq!(outcomes.len(), 1, "one outcome per job");
        outcomes.remove(0)
    }

    pub fn cancel(&self, now: Timestamp, id: JobId) -> EndIdleOutcome {
        self.end_one(now, id, IdleEnd::Cancel)
    }

    /// By id.
    pub fn overdue(&self, now: Timestamp, limit: u16) -> Vec<Overdue> {
        let mut found = wait(self.engine.overdue(now, limit));
        found.sort_by_key(|job| job.id);
        found
    }

    pub fn revive(&self, now: Timestamp, jobs: &[JobId]) -> Vec<ReviveOutcome> {
        wait(self.engine.revive(now, jobs.to_vec()))
    }

    pub fn delete(&self, jobs: &[JobId]) -> Vec<DeleteOutcome> {
        wait(self.engine.delete(jobs.to_vec()))
    }

    /// Piece by piece to the end; how many jobs went.
    pub fn prune(&self, rule: PruneRule) -> u64 {
        let mut deleted = 0;
        for _ in 0..PAGES_MAX {
            let report = wait(self.engine.prune(rule));
            let piece = u64::from(rule.rows_per_call);
            assert!(report.deleted <= piece, "{report:?} of {rule:?}");
            deleted += report.deleted;
            if !report.more {
                return deleted;
            }
        }
        panic!("pruning never ends: {rule:?}");
    }

    pub fn set_paused(&self, queue: &str, paused: bool) {
        let mode = if paused { Mode::Paused } else { Mode::Open };
        self.set_mode(queue, mode);
    }

    pub fn set_mode(&self, queue: &str, mode: Mode) {
        let queue = QueueName::parse(queue).expect("a queue's name");
        self.shut(Gate::Queue(queue), mode);
    }

    pub fn set_task_mode(&self, task: &str, mode: Mode) {
        self.shut(Gate::Task(name(task)), mode);
    }

    fn shut(&self, gate: Gate, mode: Mode) {
        wait(self.engine.set_mode(ModeChange {
            now: crate::at(0),
            gate,
            mode,
            actor: "test".into(),
        }));
    }

    /// Tasks whose mode was ever set.
    pub fn task_modes(&self) -> Vec<(String, Mode)> {
        let modes = wait(self.engine.task_modes()).into_iter();
        modes.map(|(task, mode)| (task.to_string(), mode)).collect()
    }

    // Limits.

    /// `2` at once, `10/s burst 2`, `weight 3`, or some of them together; nothing removes it.
    pub fn limit(&self, target: &str, text: &str) -> LimitSet {
        self.limit_by(Origin::Api, target, text)
    }

    pub fn limit_by(&self, origin: Origin, target: &str, text: &str) -> LimitSet {
        let mut limit = Limit::default();
        let mut words = text.split(' ').filter(|word| !word.is_empty());
        let number = |word: Option<&str>| word.and_then(|n| n.parse().ok()).expect("a number");
        while let Some(word) = words.next() {
            match word {
                "weight" => limit.weight = Some(number(words.next()) as u16),
                "burst" => {
                    let rate = limit.rate.as_mut().expect("a burst comes after its rate");
                    rate.burst = number(words.next());
                }
                rate if rate.contains('/') => limit.rate = Rate::parse(rate),
                most => limit.concurrency = Some(number(Some(most))),
            }
        }
        wait(self.engine.set_limit(LimitChange {
            now: crate::at(0),
            target: LimitTarget::parse(target).expect("a target"),
            limit: (limit != Limit::default()).then_some(limit),
            origin,
            actor: "test".into(),
        }))
    }

    /// All of them, in pages of two.
    pub fn limits(&self, now: Timestamp) -> Vec<LimitStatus> {
        let (mut found, mut after) = (vec![], None);
        for _ in 0..PAGES_MAX {
            let ask = LimitsAsk {
                now,
                only: None,
                after,
                limit: 2,
            };
            let page = wait(self.engine.limits(ask));
            found.extend(page.limits);
            after = page.next;
            if after.is_none() {
                return found;
            }
        }
        panic!("the list of limits never ends");
    }

    /// All of it, in pages of two.
    pub fn audit(&self, subject: Option<&str>) -> Vec<(u64, AuditEntry)> {
        let (mut found, mut before) = (vec![], None);
        for _ in 0..PAGES_MAX {
            let ask = AuditAsk {
                subject: subject.map(Into::into),
                before,
                limit: 2,
            };
            let page = wait(self.engine.audit(ask));
            found.extend(page.entries);
            before = page.next;
            if before.is_none() {
                return found;
            }
        }
        panic!("the audit log never ends");
    }

    /// Keeps every finished job; what else is over goes.
    pub fn prune_all(&self, now: Timestamp) {
        let for_ever = std::time::Duration::from_secs(u64::from(u32::MAX));
        self.prune(PruneRule {
            now,
            completed_for: for_ever,
            others_for: for_ever,
            rows_max: u64::MAX,
            rows_per_call: 1_000,
        });
    }

    // Looking.

    pub fn find(&self, id: JobId) -> Option<Job> {
        wait(self.engine.job(id))
    }

    /// A job that must be there.
    pub fn job(&self, id: JobId) -> Job {
        self.find(id).unwrap_or_else(|| panic!("{id} is not there"))
    }

    pub fn state(&self, id: JobId) -> JobState {
        self.job(id).summary.state
    }

    /// One page, and where the next one starts.
    pub fn page(
        &self,
        now: Timestamp,
        filter: &JobFilter,
        limit: u16,
        cursor: Option<offloop_store::Cursor>,
    ) -> offloop_store::JobPage {
        let filter = filter.clone();
        let page = wait(self.engine.jobs(ListRequest {
            now,
            filter,
            limit,
            cursor,
        }));
        assert!(
            page.jobs.len() <= usize::from(limit),
            "a page over its limit"
        );
        page
    }

    /// Every page of the list.
    pub fn list(&self, now: Timestamp, filter: &JobFilter, limit: u16) -> Vec<JobSummary> {
        let mut found = vec![];
        let mut cursor = None;
        for _ in 0..PAGES_MAX {
            let page = self.page(now, filter, limit, cursor);
            found.extend(page.jobs);
            cursor = page.next;
            if cursor.is_none() {
                return found;
            }
        }
        panic!("the list never ends: {filter:?}");
    }

    pub fn list_ids(&self, filter: &JobFilter) -> Vec<JobId> {
        let rows = self.list(crate::at(0), filter, 500);
        rows.iter().map(|row| row.id).collect()
    }

    /// Every job there is, newest first.
    pub fn all_ids(&self) -> Vec<JobId> {
        self.list_ids(&JobFilter::default())
    }

    /// Queues that hold something or were paused, by name.
    pub fn queues(&self, now: Timestamp) -> BTreeMap<QueueName, QueueStatus> {
        let found = wait(self.engine.queues(now));
        let rows = found.len();
        let found: BTreeMap<_, _> = found.into_iter().map(|q| (q.name.clone(), q)).collect();
        assert_eq!(rows, found.len(), "a queue that is listed twice");
        found
    }

    /// Lines that hold something: queue, task, ready, running, paused; in order.
    pub fn backlog(&self) -> Vec<(String, String, u64, u64, bool)> {
        let found = wait(self.engine.backlog()).into_iter();
        let held = found.filter(|line| line.counts != offloop_store::QueueCounts::default());
        let mut rows: Vec<_> = held
            .map(|line| {
                assert_eq!(
                    line.oldest_ready.is_some(),
                    line.counts.ready > 0,
                    "{line:?}"
                );
                let (queue, task) = (line.queue.to_string(), line.task.to_string());
                (
                    queue,
                    task,
                    line.counts.ready,
                    line.counts.running,
                    line.paused,
                )
            })
            .collect();
        rows.sort();
        rows
    }

    pub fn queue(&self, queue: &str) -> Option<QueueStatus> {
        self.queues(crate::at(0)).remove(queue)
    }

    // Records.

    pub fn write_records(&self, now: Timestamp, writes: Vec<RecordWrite>) {
        wait(self.engine.write_records(now, writes));
    }

    /// A row of collection `photos`.
    pub fn record(&self, key: &str) -> Option<Record> {
        let key = Bytes::copy_from_slice(key.as_bytes());
        wait(self.engine.record(name("photos"), key))
    }

    /// Label and value of a row of collection `photos`.
    pub fn row(&self, key: &str) -> Option<(String, String)> {
        let record = self.record(key)?;
        let value = String::from_utf8_lossy(&record.value).into_owned();
        Some((record.label.to_string(), value))
    }

    /// Every page of a scan, each of `limit` rows.
    pub fn scan(&self, collection: &str, label: Option<&str>, limit: u32) -> Vec<Record> {
        let mut found = vec![];
        let mut after: Option<RecordKey> = None;
        for _ in 0..PAGES_MAX {
            let page = wait(self.engine.records(RecordScan {
                collection: name(collection),
                label: label.map(name),
                after: after.clone(),
                limit,
            }));
            assert!(
                page.records.len() <= limit as usize,
                "a page over its limit"
            );
            found.extend(page.records);
            after = page.next;
            if after.is_none() {
                return found;
            }
        }
        panic!("the scan never ends: {collection}");
    }

    pub fn label_counts(&self, collection: &str) -> BTreeMap<String, u64> {
        let counts = wait(self.engine.record_counts(name(collection)));
        let rows = counts.len();
        let counts: BTreeMap<_, _> = counts
            .into_iter()
            .map(|row| (row.label.to_string(), row.count))
            .collect();
        assert_eq!(rows, counts.len(), "a label that is counted twice");
        counts
    }
}

impl Store<'_> {
    /// Everything since an hour, every row.
    pub fn usage(&self, by: UsageBy, since: Timestamp) -> UsageSums {
        let limit = USAGE_ROWS_MAX;
        wait(self.engine.usage(UsageAsk { by, since, limit }))
    }
}

pub(crate) fn created(outcome: &InsertOutcome) -> JobId {
    match outcome {
        InsertOutcome::Created { id, .. } => *id,
        other => panic!("not created: {other:?}"),
    }
}

pub(crate) fn want(tasks: &[&str], limit: u16) -> Want {
    let tasks = tasks.iter().map(|task| name(task)).collect();
    Want { tasks, limit }
}

/// The end of an attempt without a failure of its own.
pub fn settlement(claimed: &Claimed, verdict: Verdict) -> Settlement {
    Settlement {
        id: claimed.id,
        lease: claimed.lease,
        verdict,
        report: report(claimed),
        records: vec![],
        follow: vec![],
    }
}

/// The end of an attempt that failed by `class`.
pub fn failed(claimed: &Claimed, class: FailureClass, verdict: Verdict) -> Settlement {
    let mut end = settlement(claimed, verdict);
    end.report.failure = Some(Failure::new(class, format!("it was {class}")));
    end
}

pub const COMPLETED: Verdict = Verdict::Completed { result: None };

pub const EXHAUSTED: Verdict = Verdict::GiveUp {
    reason: FinalReason::Exhausted,
};
