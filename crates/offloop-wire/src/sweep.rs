//! What is told of an order for many jobs while it goes on, and a job as it could be asked for again.

use offloop_job::{Job, JobOptions};
use serde::{Deserialize, Serialize};

use crate::json::raw_or_text;
use crate::options::{JobBody, OptionsBody};

/// Counts so far; the last line has `done`, or why it stopped.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SweepLine {
    /// Jobs that fitted.
    pub found: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retried: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deleted: Option<u64>,
    /// Found and not done: changed meanwhile, or another job holds their unique key.
    pub skipped: u64,
    pub done: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stopped: Option<String>,
}

impl SweepLine {
    pub fn to_line(&self) -> Vec<u8> {
        let mut line = serde_json::to_vec(self).unwrap_or_default(); // plain texts and numbers
        line.push(b'\n');
        line
    }
}

/// The job as a request for another one like it: for now, without the times that were its own.
pub fn job_body(job: &Job) -> JobBody {
    let options = JobOptions {
        run_at: None,
        deadline: None,
        expires_at: None,
        ..job.options.clone()
    };
    JobBody {
        task: job.summary.task.to_string(),
        payload: Some(raw_or_text(&job.payload)),
        options: OptionsBody::from(&options),
        idempotency_key: None,
    }
}
