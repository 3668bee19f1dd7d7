//! The two journals: what clients were told, and what jobs did.
//!
//! Both are plain lines in files outside the server's folder. The client's is flushed before its
//! caller goes on; the jobs' is appended by the jobs themselves (`O_APPEND`, one line per write).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use offloop_runtime::clock::{Clock as _, SystemClock};

/// What became of a call, as far as its sender knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Acked { id: String },
    Refused { status: u16 },
    Unknown,
}

/// Milliseconds since 1970, by the clock that jobs write down too.
pub(crate) fn now_ms() -> u64 {
    SystemClock.now().as_millis()
}

#[derive(Debug)]
pub(crate) struct ClientJournal {
    file: Mutex<File>,
}

impl ClientJournal {
    pub(crate) fn create(path: &Path) -> anyhow::Result<Self> {
        let file = OpenOptions::new().create(true).append(true).open(path)?;
        Ok(Self {
            file: Mutex::new(file),
        })
    }

    /// Written and flushed before it returns: outcomes of one request.
    pub(crate) fn write(&self, called: u64, outcomes: &[(String, Outcome)]) -> anyhow::Result<()> {
        let now = now_ms();
        let mut text = String::new();
        for (key, outcome) in outcomes {
            let (what, detail) = match outcome {
                Outcome::Acked { id } => ("acked", id.clone()),
                Outcome::Refused { status } => ("refused", status.to_string()),
                Outcome::Unknown => ("unknown", "-".into()),
            };
            let _ = writeln!(text, "{key} {called} {now} {what} {detail}");
        }
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        file.write_all(text.as_bytes())?;
        file.sync_data()?;
        Ok(())
    }
}

/// Everything that clients know about one key.
#[derive(Clone, Debug, Default)]
pub(crate) struct Known {
    pub(crate) ids: BTreeSet<String>,
    pub(crate) refused: bool,
    /// At least one call with it broke off.
    pub(crate) unknown: bool,
}

/// The client journal, read back.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ledger {
    pub(crate) keys: BTreeMap<String, Known>,
    /// When acks came, in milliseconds since 1970.
    pub(crate) acked_at: Vec<u64>,
}

impl Ledger {
    pub(crate) fn read(path: &Path) -> anyhow::Result<Self> {
        let mut ledger = Self::default();
        for line in std::fs::read_to_string(path)?.lines() {
            let fields: Vec<_> = line.split(' ').collect();
            let [key, _, at, what, detail] = fields[..] else {
                anyhow::bail!("a line of the client journal cannot be read: {line:?}");
            };
            let known = ledger.keys.entry(key.to_owned()).or_default();
            match what {
                "acked" => {
                    known.ids.insert(detail.to_owned());
                    ledger.acked_at.push(at.parse()?);
                }
                "refused" => known.refused = true,
                _ => known.unknown = true,
            }
        }
        Ok(ledger)
    }
}

/// One line that a job has written.
#[derive(Clone, Debug)]
pub(crate) struct Mark {
    pub(crate) what: String,
    pub(crate) lease: u64,
    pub(crate) at: u64,
    pub(crate) pid: i32,
}

/// The jobs' journal in the order in which it was written, by job.
pub(crate) type Effects = BTreeMap<String, Vec<Mark>>;

pub(crate) fn effects(path: &Path) -> Effects {
    let mut effects = Effects::new();
    // A job that was killed in its write leaves half a line.
    for line in std::fs::read_to_string(path).unwrap_or_default().lines() {
        let fields: Vec<_> = line.split(' ').collect();
        let [what, job, _attempt, lease, at, pid] = fields[..] else {
            continue;
        };
        let (Ok(lease), Ok(at), Ok(pid)) = (lease.parse(), at.parse(), pid.parse()) else {
            continue;
        };
        let what = what.to_owned();
        let marks = effects.entry(job.to_owned()).or_default();
        marks.push(Mark {
            what,
            lease,
            at,
            pid,
        });
    }
    effects
}
