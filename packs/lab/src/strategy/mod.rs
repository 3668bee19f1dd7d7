//! The seven ways to do heavy work in a program with an event loop.
//!
//! `plain` are those that tokio alone offers, `lanes` those of offloop. All do the same piece and
//! give the same checksum.

mod lanes;
mod plain;

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use offloop::RuntimeHandle;
use offloop::http::Refusal;
use serde::{Deserialize, Serialize};

use crate::work::{Done, Pace, Piece};

pub(crate) use lanes::{LabPack, with_tasks};

/// One of the ways.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    Inline,
    Chunked,
    SpawnBlocking,
    Cpu,
    Process,
    Exec,
    Job,
}

impl Kind {
    pub const ALL: [Self; 7] = [
        Self::Inline,
        Self::Chunked,
        Self::SpawnBlocking,
        Self::Cpu,
        Self::Process,
        Self::Exec,
        Self::Job,
    ];

    /// Name, the server's path, and a line for people.
    #[rustfmt::skip]
    const fn row(self) -> (&'static str, &'static str, &'static str) {
        match self {
            Self::Inline => ("inline", "/blocking", "on the loop itself, in the handler"),
            Self::Chunked => ("chunked", "/chunked", "on the loop, with a yield after each millisecond"),
            Self::SpawnBlocking => ("spawn_blocking", "/spawn-blocking", "tokio's blocking threads, up to 512"),
            Self::Cpu => ("cpu", "/non-blocking", "offloop's CPU lane, a call"),
            Self::Process => ("process", "/process", "offloop's warm child processes, a call"),
            Self::Exec => ("exec", "/exec", "a child process for each piece, a call"),
            Self::Job => ("job", "/job", "a durable job on the CPU lane: on disk before it runs"),
        }
    }

    pub const fn name(self) -> &'static str {
        self.row().0
    }

    pub const fn path(self) -> &'static str {
        self.row().1
    }

    pub const fn about(self) -> &'static str {
        self.row().2
    }

    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// Whether it runs on offloop and not on tokio alone.
    pub(crate) const fn is_ours(self) -> bool {
        matches!(self, Self::Cpu | Self::Process | Self::Exec | Self::Job)
    }
}

/// One request for work.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ask {
    pub(crate) piece: Piece,
    /// How long its client waits. tokio's ways have no use for it.
    pub(crate) timeout: Duration,
}

pub(crate) type Answer = Pin<Box<dyn Future<Output = Result<Done, Refusal>> + Send>>;

/// Does a piece of work for a request. Its future is polled on the loop, and dropped when the client
/// hangs up.
pub(crate) trait Strategy: Send + Sync {
    fn run(&self, ask: Ask) -> Answer;
}

/// `server`: for those of offloop; without it they cannot be had.
pub(crate) fn of(
    kind: Kind,
    pace: Pace,
    server: Option<&RuntimeHandle>,
) -> Option<Arc<dyn Strategy>> {
    Some(match kind {
        Kind::Inline => Arc::new(plain::Inline),
        Kind::Chunked => Arc::new(plain::Chunked { pace }),
        Kind::SpawnBlocking => Arc::new(plain::SpawnBlocking),
        Kind::Cpu => Arc::new(lanes::Called::new(server?, lanes::CPU_TASK)?),
        Kind::Process => Arc::new(lanes::Called::new(server?, lanes::PROCESS_TASK)?),
        Kind::Exec => Arc::new(lanes::Called::new(server?, lanes::EXEC_TASK)?),
        Kind::Job => Arc::new(lanes::Durable::new(server?)?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_ways_answer_to_one_name() {
        for (at, kind) in Kind::ALL.into_iter().enumerate() {
            assert_eq!(Kind::named(kind.name()), Some(kind));
            let json = serde_json::to_value(kind).unwrap();
            assert_eq!(json, kind.name(), "the record and the flag name it alike");
            let others = Kind::ALL[at + 1..].iter();
            assert!(others.clone().all(|other| other.path() != kind.path()));
        }
        assert_eq!(Kind::named("Inline"), None);
    }
}
