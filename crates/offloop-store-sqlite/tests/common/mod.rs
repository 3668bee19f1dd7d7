//! A child that uses the store, and what it said was acknowledged.
#![allow(clippy::disallowed_methods)] // tests may start processes
#![allow(clippy::unwrap_used)] // a helper of tests
#![allow(dead_code)] // each test file uses its part

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::thread::JoinHandle;
use std::time::Duration;

use offloop_job::{JobId, JobState, Timestamp};
use offloop_store::{
    Claimed, JobFilter, JobQuery, JobStore, ListRequest, Settlement, UsageAsk, UsageBy, Verdict,
};
use offloop_store_sqlite::{SqliteOptions, SqliteStore};
use offloop_store_testkit::{block_on, report};

pub(crate) const T0: u64 = 1_790_000_000_000;
pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_store-child");

/// Everything that was acknowledged, over all lives of one store.
#[derive(Debug, Default)]
pub(crate) struct Journal {
    pub(crate) inserted: BTreeSet<JobId>,
    pub(crate) completed: BTreeSet<JobId>,
    /// Highest lease of each job.
    pub(crate) leases: BTreeMap<JobId, u64>,
    pub(crate) last_lease: u64,
    pub(crate) errors: Vec<String>,
    pub(crate) not_opened: Option<String>,
}

impl Journal {
    /// Takes one line in, and refuses what must never be said.
    pub(crate) fn read(&mut self, line: &str) {
        let mut words = line.split(' ');
        let kind = words.next().unwrap();
        let id = |word: Option<&str>| word.unwrap().parse::<JobId>().unwrap();
        match kind {
            "I" => assert!(
                self.inserted.insert(id(words.next())),
                "given twice: {line}"
            ),
            "C" => {
                let id = id(words.next());
                let lease = words.next().unwrap().parse().unwrap();
                assert!(
                    !self.completed.contains(&id),
                    "handed out after its end: {line}"
                );
                let before = self.leases.insert(id, lease);
                assert!(
                    before.is_none_or(|before| before < lease),
                    "lease went back: {line}"
                );
                self.last_lease = self.last_lease.max(lease);
            }
            "S" => assert!(
                self.completed.insert(id(words.next())),
                "ended twice: {line}"
            ),
            "X" => self.errors.push(line.to_owned()),
            "E" => self.not_opened = Some(line.to_owned()),
            "R" => {}
            _ => panic!("the child said {line:?}"),
        }
    }

    /// A line that was cut by the kill counts as not said.
    pub(crate) fn follow(mut self, out: ChildStdout) -> JoinHandle<Self> {
        std::thread::spawn(move || {
            let mut out = BufReader::new(out);
            let mut line = String::new();
            while out.read_line(&mut line).unwrap() > 0 && line.ends_with('\n') {
                self.read(line.trim_end());
                line.clear();
            }
            self
        })
    }

    /// Opens the store and compares it with what was acknowledged.
    pub(crate) fn check(&self, folder: &Path) {
        let store = SqliteStore::open(SqliteOptions::new(folder, 1)).unwrap();
        for id in &self.inserted {
            let job = block_on(store.job(*id)).unwrap();
            let job = job.unwrap_or_else(|| panic!("an acknowledged job is lost: {id}"));
            if self.completed.contains(id) {
                assert_eq!(
                    job.summary.state,
                    JobState::Completed,
                    "an end is lost: {id}"
                );
            }
        }
        self.check_sums(&store);
        // Those that ran are handed back, so that the next life may claim them.
        let nobody = offloop_job::NodeId("nobody".into());
        let orphans = block_on(store.orphans(nobody, u16::MAX)).unwrap();
        let ends = orphans.iter().map(|orphan| {
            assert!(
                !self.completed.contains(&orphan.id),
                "it ended and runs: {}",
                orphan.id
            );
            hand_back(orphan)
        });
        let ends = ends.collect();
        block_on(store.settle(Timestamp::from_millis(T0), ends)).unwrap();
        block_on(store.close()).unwrap();
    }
}

impl Journal {
    /// Sums are in the commit of their settlements: none more, none less than jobs have ended.
    fn check_sums(&self, store: &SqliteStore) {
        let mut ended = 0;
        let mut cursor = None;
        loop {
            let page = block_on(store.jobs(ListRequest {
                now: Timestamp::from_millis(T0),
                filter: JobFilter {
                    state: Some(JobState::Completed),
                    ..JobFilter::default()
                },
                limit: 500,
                cursor,
            }));
            let page = page.unwrap();
            ended += page.jobs.len() as u64;
            cursor = page.next;
            if cursor.is_none() {
                break;
            }
        }
        for by in [UsageBy::Task, UsageBy::Queue] {
            let (since, limit) = (Timestamp::from_millis(0), 9);
            let sums = block_on(store.usage(UsageAsk { by, since, limit })).unwrap();
            let counted: u64 = sums.rows.iter().map(|row| row.completed).sum();
            assert_eq!(counted, ended, "{by:?}");
        }
        assert!(ended >= self.completed.len() as u64);
    }
}

fn hand_back(orphan: &Claimed) -> Settlement {
    Settlement {
        id: orphan.id,
        lease: orphan.lease,
        verdict: Verdict::HandBack,
        report: report(orphan),
        records: Vec::new(),
        follow: vec![],
    }
}

/// Starts the child, under `wrapper` if there is one.
pub(crate) fn start(wrapper: &[&str], folder: &Path, rounds: Option<usize>) -> Child {
    let mut words = wrapper.to_vec();
    words.push(PROGRAM);
    let mut command = Command::new(words[0]);
    command.args(&words[1..]).arg(folder).arg(T0.to_string());
    command.args(rounds.map(|rounds| rounds.to_string()));
    command.stdout(Stdio::piped()).spawn().unwrap()
}

/// Whether a program of the system can be run here.
pub(crate) fn has(program: &str) -> bool {
    let probe = Command::new(program)
        .arg("--version")
        .stdout(Stdio::null())
        .status();
    probe.is_ok_and(|status| status.success())
}

pub(crate) fn run(program: &str, words: &[&str]) -> bool {
    let run = Command::new(program)
        .args(words)
        .stderr(Stdio::null())
        .status();
    run.is_ok_and(|status| status.success())
}

/// Bounded by the runner; a moment that differs from cycle to cycle.
pub(crate) fn a_moment(cycle: u64) -> Duration {
    Duration::from_millis(30 + cycle * 37 % 140)
}
