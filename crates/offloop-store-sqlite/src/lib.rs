//! The embedded store: one SQLite file, one writer, group commit.
//!
//! An answered insert or settlement is on disk (WAL, flushed before the answer). Callers that arrive
//! while a commit is flushing share the next one. Ready order, timers and counts are in memory and are
//! read from the rows at start. docs/adr/0002 says why, and what was measured.
//!
//! Rooms: `calls` (the line in front of the writer), `writer` (its thread), `apply` (calls to rows),
//! `index` (what is in memory), `board` and `reader` (screens), `open` and `schema` (the file), `disk` (room).
//!
//! Must never: acknowledge before the flush, or trust a handle that failed once.

mod apply;
mod board;
mod calls;
mod disk;
mod errors;
mod index;
mod meta;
mod open;
mod reader;
#[cfg(feature = "sabotage")]
mod sabotage;
mod schedules;
mod schema;
mod tables;
mod writer;

pub use open::OpenError;

use std::fmt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{Builder, JoinHandle};

use offloop_job::{
    Collection, Group, GroupId, Job, JobId, Mode, NewGroup, NewJob, NodeId, RecordKey, RecordWrite,
    TaskName, Timestamp,
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

use crate::board::Board;
use crate::calls::{Bounds, Call, Calls, Command};
use crate::disk::Disk;
use crate::open::{Check, Folder, Opened};
use crate::reader::{READERS, Readers};
use crate::writer::{Shared, Writer};

/// How a store is opened.
#[derive(Clone, Debug)]
pub struct SqliteOptions {
    /// The data folder. Created if only its last part is missing.
    pub path: PathBuf,
    /// Seed of the random part of job ids; draw a new one for each start.
    pub id_seed: u64,
    /// Unfinished jobs that one queue holds; more are refused. Default 10 million.
    pub queue_jobs_max: u64,
    /// Calls that wait for the writer; more are answered `Busy`. Default 16,384. Calls that end
    /// jobs have twice this room.
    pub waiting_calls_max: usize,
    /// Bytes of their jobs and rows. Default 64 MiB.
    pub waiting_bytes_max: usize,
    /// Check every page of the file at start, about a second per GB. Small files always are.
    pub verify: bool,
}

impl SqliteOptions {
    pub fn new(path: impl Into<PathBuf>, id_seed: u64) -> Self {
        Self {
            path: path.into(),
            id_seed,
            queue_jobs_max: 10_000_000,
            waiting_calls_max: 16_384,
            waiting_bytes_max: 64 << 20,
            verify: false,
        }
    }
}

/// The handle: cheap calls from any thread, answered by futures that need no runtime.
///
/// Dropping it closes the store too, and waits for that; [`JobStore::close`] does so without
/// blocking a thread.
pub struct SqliteStore {
    shared: Arc<Shared>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl fmt::Debug for SqliteStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqliteStore").finish_non_exhaustive()
    }
}

impl SqliteStore {
    /// Opens or creates the store. Blocks: about a second per million live jobs.
    pub fn open(options: SqliteOptions) -> Result<Self, OpenError> {
        let folder = Folder::lock(&options.path)?;
        let check = if options.verify {
            Check::All
        } else {
            Check::Quick
        };
        let mut opened = open::open(&folder, &options, check)?;
        let board = Board::default();
        board.publish_all(&mut opened.index);
        let shared = Arc::new(Shared {
            board,
            calls: Calls::new(Bounds {
                calls: options.waiting_calls_max,
                bytes: options.waiting_bytes_max,
            }),
            hook: Mutex::new(None),
            readers: Readers::new(folder.database()),
            stirred: AtomicBool::new(true),
            closed: AtomicBool::new(false),
        });
        let path = options.path.clone();
        let writer = Writer {
            shared: Arc::clone(&shared),
            disk: Disk::new(&path),
            folder,
            options,
            end_failed: false,
        };
        let threads = start(&shared, writer, opened);
        let threads = threads.map_err(|cause| OpenError::Io { path, cause })?;
        Ok(Self {
            shared,
            threads: Mutex::new(threads),
        })
    }

    /// Version of the SQLite that is built in.
    pub fn sqlite_version() -> &'static str {
        rusqlite::version()
    }

    fn call<Q, A: Send + 'static>(
        &self,
        ask: Q,
        command: impl FnOnce(Call<Q, A>) -> Command,
    ) -> Reply<A> {
        let (call, reply) = Call::new(ask);
        self.shared.calls.push(command(call));
        reply
    }
}

/// The writer and the readers.
fn start(
    shared: &Arc<Shared>,
    writer: Writer,
    opened: Opened,
) -> std::io::Result<Vec<JoinHandle<()>>> {
    let mut threads = Vec::with_capacity(READERS + 1);
    let thread = Builder::new().name("store-write".into());
    threads.push(thread.spawn(move || writer.run(opened))?);
    for nth in 0..READERS {
        let shared = Arc::clone(shared);
        let thread = Builder::new().name(format!("store-read-{nth}"));
        threads.push(thread.spawn(move || shared.readers.run(nth))?);
    }
    Ok(threads)
}

impl Drop for SqliteStore {
    fn drop(&mut self) {
        if !self.shared.closed.load(Ordering::Acquire) {
            let (call, _reply) = Call::new(());
            self.shared.calls.push(Command::Close(call));
        }
        let threads = std::mem::take(
            self.threads
                .get_mut()
                .unwrap_or_else(PoisonError::into_inner),
        );
        for thread in threads {
            // A panic was reported where it happened.
            let _ = thread.join();
        }
    }
}

impl JobStore for SqliteStore {
    fn insert(&self, batch: InsertBatch) -> Reply<Vec<InsertOutcome>> {
        self.call(batch, Command::Insert)
    }

    fn claim(&self, ask: ClaimRequest) -> Reply<Claims> {
        self.call(ask, Command::Claim)
    }

    fn settle(&self, now: Timestamp, ends: Vec<Settlement>) -> Reply<Vec<Settled>> {
        self.call((now, ends), Command::Settle)
    }

    fn note_progress(&self, now: Timestamp, notes: Vec<ProgressNote>) -> Reply<()> {
        self.call((now, notes), Command::Note)
    }

    fn checkpoint(&self, now: Timestamp, notes: Vec<Checkpoint>) -> Reply<Vec<CheckpointOutcome>> {
        self.call((now, notes), Command::Checkpoint)
    }

    fn promote(&self, now: Timestamp) -> Reply<Promoted> {
        self.call(now, Command::Promote)
    }

    fn end_idle(&self, now: Timestamp, ends: Vec<EndIdle>) -> Reply<Vec<EndIdleOutcome>> {
        self.call((now, ends), Command::EndIdle)
    }

    fn overdue(&self, now: Timestamp, limit: u16) -> Reply<Vec<Overdue>> {
        self.call((now, limit), Command::Overdue)
    }

    fn revive(&self, now: Timestamp, jobs: Vec<JobId>) -> Reply<Vec<ReviveOutcome>> {
        self.call((now, jobs), Command::Revive)
    }

    fn delete(&self, jobs: Vec<JobId>) -> Reply<Vec<DeleteOutcome>> {
        self.call(jobs, Command::Delete)
    }

    fn orphans(&self, alive: NodeId, limit: u16) -> Reply<Vec<Claimed>> {
        self.call((alive, limit), Command::Orphans)
    }

    fn prune(&self, rule: PruneRule) -> Reply<PruneReport> {
        self.call(rule, Command::Prune)
    }

    fn set_mode(&self, change: ModeChange) -> Reply<()> {
        self.call(change, Command::SetMode)
    }

    fn write_records(&self, now: Timestamp, writes: Vec<RecordWrite>) -> Reply<()> {
        self.call((now, writes), Command::Records)
    }

    fn close(&self) -> Reply<()> {
        self.call((), Command::Close)
    }
}

impl GroupStore for SqliteStore {
    fn create_group(
        &self,
        now: Timestamp,
        group: NewGroup,
        jobs: Vec<NewJob>,
    ) -> Reply<GroupCreated> {
        self.call((now, group, jobs), Command::CreateGroup)
    }

    fn seal_group(&self, order: GroupOrder) -> Reply<GroupChange> {
        self.call(order, Command::SealGroup)
    }

    fn cancel_group(&self, order: GroupOrder) -> Reply<GroupChange> {
        self.call(order, Command::CancelGroup)
    }

    fn advance(&self, now: Timestamp, limit: u16) -> Reply<Advanced> {
        self.call((now, limit), Command::Advance)
    }

    fn doomed(&self, _now: Timestamp, limit: u16) -> Reply<Vec<Doomed>> {
        self.call(limit, Command::Doomed)
    }

    fn unheard(&self, limit: u16) -> Reply<Vec<JobId>> {
        self.call(limit, Command::Unheard)
    }

    fn heard(&self, now: Timestamp, ends: Vec<Heard>) -> Reply<()> {
        self.call((now, ends), Command::Heard)
    }

    fn stirred(&self) -> bool {
        self.shared.stirred.load(Ordering::Acquire)
    }

    fn group(&self, id: GroupId) -> Reply<Option<Group>> {
        let read = move |conn: &_| reader::groups::group(conn, id);
        self.shared.readers.ask("read a group", read)
    }

    fn groups(&self, ask: GroupListRequest) -> Reply<GroupPage> {
        let read = move |conn: &_| reader::groups::page(conn, &ask);
        self.shared.readers.ask("list groups", read)
    }

    fn members(&self, ask: MemberRequest) -> Reply<MemberPage> {
        let read = move |conn: &_| reader::groups::members(conn, &ask);
        self.shared.readers.ask("list the members of a group", read)
    }
}

impl JobQuery for SqliteStore {
    fn job(&self, id: JobId) -> Reply<Option<Job>> {
        let read = move |conn: &_| reader::jobs::job(conn, id);
        self.shared.readers.ask("read a job", read)
    }

    fn jobs(&self, ask: ListRequest) -> Reply<JobPage> {
        let read = move |conn: &_| reader::jobs::page(conn, &ask);
        self.shared.readers.ask("list jobs", read)
    }

    fn backlog(&self) -> Reply<Vec<LineStatus>> {
        Box::pin(std::future::ready(self.shared.board.backlog()))
    }

    fn task_modes(&self) -> Reply<Vec<(TaskName, Mode)>> {
        Box::pin(std::future::ready(self.shared.board.task_modes()))
    }

    fn queues(&self, _now: Timestamp) -> Reply<Vec<QueueStatus>> {
        Box::pin(std::future::ready(self.shared.board.queues()))
    }

    fn record(&self, collection: Collection, key: RecordKey) -> Reply<Option<Record>> {
        let read = move |conn: &_| reader::records::record(conn, &collection, &key);
        self.shared.readers.ask("read a row of a pack", read)
    }

    fn records(&self, scan: RecordScan) -> Reply<RecordPage> {
        let read = move |conn: &_| reader::records::page(conn, &scan);
        self.shared.readers.ask("list rows of a pack", read)
    }

    fn record_counts(&self, collection: Collection) -> Reply<Vec<LabelCount>> {
        self.call(collection, Command::Labels)
    }

    fn usage(&self, ask: UsageAsk) -> Reply<UsageSums> {
        let read = move |conn: &_| reader::usage::sums(conn, ask);
        self.shared.readers.ask("sum up usage", read)
    }
}

impl LimitStore for SqliteStore {
    fn set_limit(&self, change: LimitChange) -> Reply<LimitSet> {
        self.call(change, Command::SetLimit)
    }

    fn limits(&self, ask: LimitsAsk) -> Reply<LimitPage> {
        self.call(ask, Command::Limits)
    }
}

impl AuditStore for SqliteStore {
    fn audit(&self, ask: AuditAsk) -> Reply<AuditPage> {
        let read = move |conn: &_| reader::audit::page(conn, &ask);
        self.shared.readers.ask("read the audit log", read)
    }
}

impl Wake for SqliteStore {
    fn set_hook(&self, hook: WakeHook) {
        *self
            .shared
            .hook
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = Some(hook);
    }
}

impl Engine for SqliteStore {
    fn capability(&self) -> Capability {
        Capability {
            engine: "sqlite",
            survives_process: true,
            survives_power_cut: true,
            shared: false,
        }
    }
}
