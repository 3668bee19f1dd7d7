//! How a consumer stands, for screens.

use std::collections::VecDeque;
use std::time::Duration;

use serde::Serialize;
use tokio::time::Instant;

use super::raw::Consumer;

/// What a consumer is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ConsumerState {
    /// Joins its group.
    Starting,
    /// Reads its partitions, or has none because others have them.
    Running,
    /// The broker or the table failed it; it begins again after a while.
    Waiting,
    /// It was asked to stop.
    Stopped,
    /// It needs a person.
    Failed,
}

/// One consumer of this process, whether it runs or not. Counts are sums of the partitions that it has, since their first
/// message.
#[derive(Debug, Clone, Serialize)]
pub struct ConsumerStatus {
    pub name: String,
    pub topic: String,
    pub group: String,
    pub target: String,
    pub state: ConsumerState,
    /// Why it waits or has failed; what the broker complains of while it runs.
    pub error: Option<String>,
    /// Rows stored in a second, of the last 10 s.
    pub rate: f64,
    /// Rows that this process has stored.
    pub stored: u64,
    /// Messages that this process has refused.
    pub rejected: u64,
    /// Messages that the topic has and the table does not; `None` while that is not known.
    pub lag: Option<u64>,
    /// Times that it began again.
    pub restarts: u64,
    /// Times that partitions came or went.
    pub rebalances: u64,
    /// Messages that the topic had dropped by age before they were read.
    pub missed: u64,
    /// Reading stands still until batches are stored.
    pub paused: bool,
    pub partitions: Vec<PartitionStatus>,
    /// When the last batch was committed.
    #[serde(skip)]
    pub stored_at: Option<Instant>,
}

impl ConsumerStatus {
    /// Of one that does not run.
    pub(crate) fn idle(consumer: &Consumer) -> Self {
        Self {
            name: consumer.name.to_string(),
            topic: consumer.topic.to_string(),
            group: consumer.group.to_string(),
            target: consumer.target.to_string(),
            state: ConsumerState::Stopped,
            error: None,
            rate: 0.0,
            stored: 0,
            rejected: 0,
            lag: None,
            restarts: 0,
            rebalances: 0,
            missed: 0,
            paused: false,
            partitions: Vec::new(),
            stored_at: None,
        }
    }
}

/// One partition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PartitionStatus {
    pub partition: i32,
    /// Everything before it is in the table.
    pub next_offset: u64,
    pub lag: Option<u64>,
    /// Since the partition's first message, by whichever process.
    pub stored: u64,
    pub rejected: u64,
}

/// Rows by second.
#[derive(Debug)]
pub(super) struct Rate {
    samples: VecDeque<(Instant, u64)>,
}

const SAMPLES: usize = 11;

impl Rate {
    pub(super) fn new() -> Self {
        Self {
            samples: VecDeque::with_capacity(SAMPLES),
        }
    }

    /// `rows`: stored so far. Asked as often as one likes.
    pub(super) fn now(&mut self, rows: u64) -> f64 {
        let now = Instant::now();
        let is_due = |last: &(Instant, u64)| now - last.0 >= Duration::from_secs(1);
        if self.samples.back().is_none_or(is_due) {
            self.samples.push_back((now, rows));
            if self.samples.len() > SAMPLES {
                self.samples.pop_front();
            }
        }
        let Some((since, before)) = self.samples.front() else {
            return 0.0;
        };
        let seconds = (now - *since).as_secs_f64();
        if seconds < 0.1 {
            return 0.0;
        }
        (rows - before) as f64 / seconds
    }
}
