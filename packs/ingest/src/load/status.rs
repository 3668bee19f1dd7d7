//! What a load has done so far, for screens, and what it did, for its answer.

use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;
use tokio::time::Instant;

use super::LoadId;

/// Where a load stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Asks its sink what is stored.
    Starting,
    Running,
    /// All of the input is stored.
    Stored,
    /// It ended early; it may be taken up again.
    Failed,
}

/// A load as it stands. Counts include what earlier runs of it did.
#[derive(Debug, Clone, Serialize)]
pub struct Status {
    pub load: LoadId,
    pub target: String,
    pub tenant: Option<String>,
    pub phase: Phase,
    /// Taken from the feed, as they came.
    pub bytes_in: u64,
    /// Of the whole input, where it is known.
    pub bytes_total: Option<u64>,
    /// Rows looked at.
    pub rows_in: u64,
    pub rows_stored: u64,
    pub rows_rejected: u64,
    /// Batches with the sink.
    pub in_flight: usize,
    /// Bytes of text that earlier runs of the load had stored.
    pub resumed_at: u64,
    /// Why it failed.
    pub error: Option<String>,
    #[serde(skip)]
    pub(super) begun: Instant,
    #[serde(skip)]
    pub(super) ended: Option<Instant>,
    /// Rows that were stored when this run began.
    #[serde(skip)]
    pub(super) rows_before: u64,
}

impl Status {
    pub(super) fn new(load: LoadId, target: &str, tenant: Option<String>) -> Self {
        Self {
            load,
            target: target.to_owned(),
            tenant,
            phase: Phase::Starting,
            bytes_in: 0,
            bytes_total: None,
            rows_in: 0,
            rows_stored: 0,
            rows_rejected: 0,
            in_flight: 0,
            resumed_at: 0,
            error: None,
            begun: Instant::now(),
            ended: None,
            rows_before: 0,
        }
    }

    /// Of this run.
    pub fn elapsed(&self) -> Duration {
        self.ended.unwrap_or_else(Instant::now) - self.begun
    }

    /// Rows stored in a second, mean of this run.
    pub fn rate(&self) -> f64 {
        let seconds = self.elapsed().as_secs_f64();
        if seconds > 0.0 {
            (self.rows_stored - self.rows_before) as f64 / seconds
        } else {
            0.0
        }
    }

    /// Until the input is taken, if it goes on as it did; `None` where that cannot be known.
    pub fn eta(&self) -> Option<Duration> {
        let total = self.bytes_total.filter(|total| *total >= self.bytes_in)?;
        if self.phase != Phase::Running || self.bytes_in == 0 {
            return None;
        }
        let left = (total - self.bytes_in) as f64 / self.bytes_in as f64;
        Some(self.elapsed().mul_f64(left.min(1e6)))
    }
}

/// What a load did. Counts include earlier runs of it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Summary {
    pub load: LoadId,
    pub target: String,
    pub rows_stored: u64,
    pub rows_rejected: u64,
    /// Read in this run, as they came.
    pub bytes_in: u64,
    /// Everything before this byte of the decoded text is stored or in the reject file.
    pub stored_to: u64,
    /// Number of the last row before it.
    pub stored_to_row: u64,
    /// Byte ranges behind it that are stored too.
    pub stored_beyond: Vec<(u64, u64)>,
    /// Bytes of text that earlier runs had stored.
    pub resumed_at: u64,
    /// An earlier run had stored everything; nothing was read.
    pub was_stored: bool,
    /// Exists if a row was refused.
    pub rejects: Option<PathBuf>,
    #[serde(skip)]
    pub elapsed: Duration,
}

impl Summary {
    /// For messages: exactly what is stored.
    pub fn stored_text(&self) -> String {
        let ranges = self.stored_beyond.iter();
        let ranges: Vec<_> = ranges.map(|(from, to)| format!("{from}..{to}")).collect();
        let beyond = if ranges.is_empty() {
            String::new()
        } else {
            format!(" and bytes {}", ranges.join(", "))
        };
        format!(
            "{} rows ({} rejected), all up to row {} (byte {}){beyond}",
            self.rows_stored, self.rows_rejected, self.stored_to_row, self.stored_to
        )
    }
}
