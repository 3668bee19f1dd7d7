//! Sums of what attempts cost.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// `GET /v1/usage`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UsageView {
    /// `task`, `queue` or `tag`.
    pub by: String,
    /// Start of the first hour that counts.
    pub since: String,
    /// The most wall time first.
    pub rows: Vec<UsageRowView>,
    /// There are more rows than were asked for.
    pub truncated: bool,
}

/// The attempts of one task, queue or tag.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UsageRowView {
    /// `null`: names that came after the first 256 of their hour.
    pub name: Option<String>,
    pub attempts: u64,
    /// Those without a failure.
    pub completed: u64,
    /// The others, by class.
    pub failed: BTreeMap<String, u64>,
    pub wall_ms: u64,
    /// `null` where no lane could tell.
    pub cpu_ms: Option<u64>,
    pub wait_ms: u64,
    /// The highest of all.
    pub max_rss_bytes: Option<u64>,
    pub bytes_in: u64,
    pub bytes_out: u64,
}
