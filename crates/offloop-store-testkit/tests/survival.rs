//! The cases about restarts, held against a memory store that outlives its engine, and against one
//! that claims to and does not: each of those cases must notice.

use std::cell::RefCell;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Arc;

use offloop_job::{
    Collection, Group, GroupId, Job, JobId, Mode, NewGroup, NewJob, NodeId, RecordKey, RecordWrite,
    ScheduleName, TaskName, Timestamp,
};
use offloop_store::{
    Advanced, AuditAsk, AuditPage, AuditStore, Capability, Checkpoint, CheckpointOutcome,
    ClaimRequest, Claimed, Claims, DeleteOutcome, Doomed, EndIdle, EndIdleOutcome, Engine,
    GroupChange, GroupCreated, GroupListRequest, GroupOrder, GroupPage, GroupStore, Heard,
    InsertBatch, InsertOutcome, JobPage, JobQuery, JobStore, LabelCount, LimitChange, LimitPage,
    LimitSet, LimitStore, LimitsAsk, LineStatus, ListRequest, MemberPage, MemberRequest,
    ModeChange, Overdue, ProgressNote, Promoted, PruneReport, PruneRule, QueueStatus, Record,
    RecordPage, RecordScan, Reply, ReviveOutcome, Settled, Settlement, UsageAsk, UsageSums, Wake,
    WakeHook,
};
use offloop_store::{
    Fired, Firing, LedgerAsk, LedgerPage, PutOutcome, PutSchedule, ScheduleRow, ScheduleStore,
};
use offloop_store_memory::{MemoryOptions, MemoryStore};
use offloop_store_testkit::{Harness, Kit, Setup, cases};

/// A handle on jobs that live elsewhere.
#[derive(Debug)]
struct Handle(Arc<MemoryStore>);

macro_rules! pass_on {
    ($($call:ident($($arg:ident: $of:ty),*) -> $answer:ty;)*) => {
        $(fn $call(&self, $($arg: $of),*) -> Reply<$answer> {
            self.0.$call($($arg),*)
        })*
    };
}

impl JobStore for Handle {
    pass_on! {
        insert(batch: InsertBatch) -> Vec<InsertOutcome>;
        claim(ask: ClaimRequest) -> Claims;
        settle(now: Timestamp, ends: Vec<Settlement>) -> Vec<Settled>;
        note_progress(now: Timestamp, notes: Vec<ProgressNote>) -> ();
        checkpoint(now: Timestamp, notes: Vec<Checkpoint>) -> Vec<CheckpointOutcome>;
        promote(now: Timestamp) -> Promoted;
        end_idle(now: Timestamp, ends: Vec<EndIdle>) -> Vec<EndIdleOutcome>;
        overdue(now: Timestamp, limit: u16) -> Vec<Overdue>;
        revive(now: Timestamp, jobs: Vec<JobId>) -> Vec<ReviveOutcome>;
        delete(jobs: Vec<JobId>) -> Vec<DeleteOutcome>;
        orphans(alive: NodeId, limit: u16) -> Vec<Claimed>;
        prune(rule: PruneRule) -> PruneReport;
        set_mode(change: ModeChange) -> ();
        write_records(now: Timestamp, writes: Vec<RecordWrite>) -> ();
    }

    /// Only this handle goes.
    fn close(&self) -> Reply<()> {
        Box::pin(std::future::ready(Ok(())))
    }
}

impl GroupStore for Handle {
    pass_on! {
        create_group(now: Timestamp, group: NewGroup, jobs: Vec<NewJob>) -> GroupCreated;
        seal_group(order: GroupOrder) -> GroupChange;
        cancel_group(order: GroupOrder) -> GroupChange;
        advance(now: Timestamp, limit: u16) -> Advanced;
        doomed(now: Timestamp, limit: u16) -> Vec<Doomed>;
        unheard(limit: u16) -> Vec<JobId>;
        heard(now: Timestamp, ends: Vec<Heard>) -> ();
        group(id: GroupId) -> Option<Group>;
        groups(ask: GroupListRequest) -> GroupPage;
        members(ask: MemberRequest) -> MemberPage;
    }

    fn stirred(&self) -> bool {
        self.0.stirred()
    }
}

impl JobQuery for Handle {
    pass_on! {
        job(id: JobId) -> Option<Job>;
        jobs(ask: ListRequest) -> JobPage;
        queues(now: Timestamp) -> Vec<QueueStatus>;
        task_modes() -> Vec<(TaskName, Mode)>;
        backlog() -> Vec<LineStatus>;
        record(collection: Collection, key: RecordKey) -> Option<Record>;
        records(scan: RecordScan) -> RecordPage;
        record_counts(collection: Collection) -> Vec<LabelCount>;
        usage(ask: UsageAsk) -> UsageSums;
    }
}

impl LimitStore for Handle {
    pass_on! {
        set_limit(change: LimitChange) -> LimitSet;
        limits(ask: LimitsAsk) -> LimitPage;
    }
}

impl AuditStore for Handle {
    pass_on! {
        audit(ask: AuditAsk) -> AuditPage;
    }
}

impl ScheduleStore for Handle {
    pass_on! {
        put_schedule(now: Timestamp, put: PutSchedule) -> PutOutcome;
        delete_schedule(now: Timestamp, name: ScheduleName, actor: Box<str>) -> Option<ScheduleRow>;
        schedule(name: ScheduleName) -> Option<ScheduleRow>;
        schedules(after: Option<ScheduleName>, limit: u16) -> Vec<ScheduleRow>;
        fire(now: Timestamp, firings: Vec<Firing>) -> Vec<Fired>;
        ledger(ask: LedgerAsk) -> LedgerPage;
        live_jobs(names: Vec<ScheduleName>) -> Vec<Vec<JobId>>;
        prune_ledger(now: Timestamp) -> bool;
    }
}

impl Wake for Handle {
    fn set_hook(&self, hook: WakeHook) {
        self.0.set_hook(hook);
    }
}

impl Engine for Handle {
    fn capability(&self) -> Capability {
        Capability {
            survives_process: true,
            ..self.0.capability()
        }
    }
}

#[derive(Debug, Default)]
struct Lasting {
    opened: RefCell<Option<Arc<MemoryStore>>>,
}

impl Harness for Lasting {
    fn open(&self, setup: Setup) -> Box<dyn Engine> {
        let store = Arc::new(MemoryStore::new(MemoryOptions {
            id_seed: setup.id_seed,
            queue_jobs_max: setup.queue_jobs_max,
        }));
        *self.opened.borrow_mut() = Some(Arc::clone(&store));
        Box::new(Handle(store))
    }

    fn reopen(&self, engine: Box<dyn Engine>, _: Setup) -> Option<Box<dyn Engine>> {
        drop(engine);
        let store = self.opened.borrow().clone()?;
        store.forget_turns();
        Some(Box::new(Handle(store)))
    }
}

/// Opens something else after each restart.
#[derive(Debug, Default)]
struct Forgetful(Lasting);

impl Harness for Forgetful {
    fn open(&self, setup: Setup) -> Box<dyn Engine> {
        self.0.open(setup)
    }

    fn reopen(&self, engine: Box<dyn Engine>, setup: Setup) -> Option<Box<dyn Engine>> {
        drop(engine);
        Some(self.0.open(setup))
    }
}

macro_rules! both_ways {
    ($($module:ident::$case:ident)*) => {
        $(
            mod $case {
                use super::*;

                #[test]
                fn passes_an_engine_that_lasts() {
                    cases::$module::$case(&Kit::new(Lasting::default()));
                }

                #[test]
                fn fails_an_engine_that_forgets() {
                    let run = || cases::$module::$case(&Kit::new(Forgetful::default()));
                    let noticed = panic::catch_unwind(AssertUnwindSafe(run)).is_err();
                    assert!(noticed, "the case does not notice");
                }
            }
        )*
    };
}

both_ways! {
    survives_limits::limits_and_their_log
    survives_limits::jobs_that_ran_before_still_count
    survives_limits::what_was_taken_from_a_rate
    survives_limits::keys_still_take_turns
    survives_limits::periods_of_unique_keys
    survives_limits::a_debounced_job_and_who_has_its_key
    survives::every_state
    survives::options_and_payload
    survives::the_order_of_ready_jobs
    survives::the_order_of_due_times
    survives::a_promoted_job_is_had_again
    survives::unique_keys
    survives::unique_keys_that_were_released
    survives::a_unique_key_that_was_taken_again
    survives::idempotency_keys
    survives::pauses
    survives::the_counts_of_queues
    survives::the_limit_of_a_queue
    survives::attempts_history_and_streak
    survives::ends_over_memory
    survives::what_an_attempt_cost
    survives::sums_of_usage
    survives::the_names_that_have_sums_of_their_own
    survives::finished_jobs
    survives::running_jobs_are_orphans_of_the_old_node
    survives::a_settlement_that_was_answered
    survives::the_last_note
    survives::ids_keep_growing
    survives::leases_keep_growing
    survives::leases_grow_even_if_no_row_remembers_them
    survives::records
    survives::what_was_pruned_stays_gone
    survives::several_restarts
    survives_flow::an_open_group_and_its_counts
    survives_flow::a_decision_and_its_follow_up
    survives_flow::the_follow_up_of_an_open_group
    survives_flow::the_doomed_members_of_a_decided_group
    survives_flow::a_deadline
    survives_flow::who_waits_for_whom
    survives_flow::a_job_that_can_never_run
    survives_flow::dependents_that_were_not_told_yet
    model::agrees_across_restarts
}

#[test]
fn nothing_is_nothing_after_a_restart() {
    cases::survives::an_empty_store(&Kit::new(Lasting::default()));
}
