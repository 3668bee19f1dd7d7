//! A server's use of the store, for tests that kill it or fail its calls of the system.
//!
//! `store-child FOLDER NOW_MS [ROUNDS]` inserts, claims and ends jobs from several threads, and says
//! on its output what was acknowledged, one line each, after the answer:
//!
//! - `I id` inserted, `C id lease` claimed, `S id` ended as completed,
//! - `X text` an answer that was an error, `R` ready after the opening, `E text` not opened.
//!
//! Without `ROUNDS` it goes on until it is killed.

use std::future::Future;
use std::io::Write;
use std::pin::pin;
use std::process::ExitCode;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use bytes::Bytes;
use offloop_job::{JobOptions, LogTail, NewJob, NodeId, TaskName, Timestamp, Usage};
use offloop_store::{
    AttemptReport, ClaimRequest, InsertBatch, InsertOutcome, JobStore, Settlement, StoreError,
    Verdict, Want,
};
use offloop_store_sqlite::{SqliteOptions, SqliteStore};

const THREADS: usize = 3;
const BATCHES: [usize; 4] = [1, 2, 7, 40];
const FAILURES_MAX: usize = 500;
/// After an error: the store reopens within a second.
const PAUSE: Duration = Duration::from_millis(20);

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

fn block_on<T>(answer: impl Future<Output = T>) -> T {
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut answer = pin!(answer);
    loop {
        if let Poll::Ready(value) = answer.as_mut().poll(&mut Context::from_waker(&waker)) {
            return value;
        }
        thread::park();
    }
}

/// One write per answer: a line that is read was acknowledged before.
fn say(lines: &str) {
    let mut out = std::io::stdout().lock();
    if out
        .write_all(lines.as_bytes())
        .and_then(|()| out.flush())
        .is_err()
    {
        std::process::exit(1);
    }
}

fn failed(error: &StoreError) {
    say(&format!("X {error}\n"));
    thread::sleep(PAUSE);
}

struct Child {
    store: SqliteStore,
    task: TaskName,
    base: Timestamp,
    began: Instant,
}

impl Child {
    fn now(&self) -> Timestamp {
        self.base.plus(self.began.elapsed())
    }

    /// `false` after an error.
    fn insert(&self, jobs: usize) -> bool {
        let job = NewJob {
            task: self.task.clone(),
            payload: Bytes::from(vec![b'7'; 40 + jobs * 100]),
            options: JobOptions::default(),
            idempotency: None,
        };
        let batch = InsertBatch {
            now: self.now(),
            jobs: vec![job; jobs],
            records: Vec::new(),
            request: None,
        };
        match block_on(self.store.insert(batch)) {
            Err(error) => {
                failed(&error);
                false
            }
            Ok(outcomes) => {
                let ids = outcomes.iter().filter_map(|outcome| match outcome {
                    InsertOutcome::Created { id, .. } => Some(format!("I {id}\n")),
                    _ => None,
                });
                say(&ids.collect::<String>());
                true
            }
        }
    }

    fn run_some(&self, limit: usize) {
        let ask = ClaimRequest {
            now: self.now(),
            node: NodeId(format!("child-{}", std::process::id()).into()),
            wants: vec![Want {
                tasks: [self.task.clone()].into(),
                limit: limit as u16,
            }],
        };
        let claimed = match block_on(self.store.claim(ask)) {
            Err(error) => return failed(&error),
            Ok(claims) => claims.jobs,
        };
        let lines = claimed
            .iter()
            .map(|job| format!("C {} {}\n", job.id, job.lease));
        say(&lines.collect::<String>());
        let now = self.now();
        let end = |job: &offloop_store::Claimed| Settlement {
            id: job.id,
            lease: job.lease,
            verdict: Verdict::Completed { result: None },
            report: AttemptReport {
                node: job.node.clone(),
                lane: "cpu".into(),
                executor: "child".into(),
                started_at: now,
                ended_at: now,
                wait: Duration::ZERO,
                usage: Usage::default(),
                failure: None,
                log: LogTail::default(),
            },
            records: Vec::new(),
            follow: vec![],
        };
        let ends = claimed.iter().map(end).collect();
        match block_on(self.store.settle(now, ends)) {
            Err(error) => failed(&error),
            Ok(settled) => {
                let done = claimed.iter().zip(settled);
                let done = done.filter(|(_, end)| matches!(end, offloop_store::Settled::Done(_)));
                let lines = done.map(|(job, _)| format!("S {}\n", job.id));
                say(&lines.collect::<String>());
            }
        }
    }

    /// `nth` spreads the sizes, so that commits differ. Rounds that failed are done again.
    fn work(&self, nth: usize, rounds: usize) {
        let (mut round, mut failures) = (0, 0);
        while round < rounds && failures < FAILURES_MAX {
            let jobs = BATCHES[(round + nth) % BATCHES.len()];
            if !self.insert(jobs) {
                failures += 1;
                continue;
            }
            if round % 3 != nth % 3 {
                self.run_some(jobs);
            }
            round += 1;
        }
    }
}

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().collect();
    let number = |at: usize| words.get(at).and_then(|word| word.parse::<u64>().ok());
    let (Some(folder), Some(now), Ok(task)) =
        (words.get(1), number(2), TaskName::parse("child.work"))
    else {
        eprintln!("usage: store-child FOLDER NOW_MS [ROUNDS]");
        return ExitCode::from(2);
    };
    let store = match SqliteStore::open(SqliteOptions::new(folder, now)) {
        Ok(store) => store,
        Err(error) => {
            say(&format!("E {error}\n"));
            return ExitCode::FAILURE;
        }
    };
    say("R\n");
    let child = Child {
        store,
        task,
        base: Timestamp::from_millis(now),
        began: Instant::now(),
    };
    let rounds = number(3).map_or(usize::MAX, |rounds| rounds as usize);
    thread::scope(|scope| {
        for nth in 0..THREADS {
            let child = &child;
            scope.spawn(move || child.work(nth, rounds));
        }
    });
    if let Err(error) = block_on(child.store.close()) {
        failed(&error);
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}
