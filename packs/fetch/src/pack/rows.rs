//! What is done of a job that is not: a row per call, so that a restart calls none of them again.
//!
//! Rows lie beside the jobs, in the same store: whichever node takes the job over finds them. They go in the
//! commit that completes the job; of a job that failed they stay for its next life, until it is gone.
//!
//! Must never: be written before the call has ended, or outlive their job for long.

use bytes::Bytes;
use offloop::runtime::EnqueueError;
use offloop::store::{RecordScan, StoreError};
use offloop::{JobId, JobState, RecordWrite, RuntimeHandle, TaskName};
use serde_json::Value;

use crate::call::{Cause, Done};
use crate::show::done_json;

pub(super) const COLLECTION: &str = "fetch.done";
/// Of a row; the store takes 64 KiB.
const ROW_BYTES_MAX: usize = 60 << 10;
const PAGE: u32 = 2_000;

/// One call that came to its end.
#[derive(Clone, Debug)]
pub(super) struct Row {
    pub(super) index: u64,
    pub(super) status: Option<u16>,
    /// `None`: a success.
    pub(super) cause: Option<Cause>,
    pub(super) bytes: u64,
    /// As it is told.
    pub(super) text: String,
}

impl Row {
    /// - `body_max`: bytes of its body that are kept with it; fewer where they do not fit.
    /// - `load`: what its body became, and the job that stores it.
    pub(super) fn of(done: &Done, body_max: Option<usize>, load: Option<&(String, JobId)>) -> Self {
        let mut body_max = body_max;
        let shown = |body_max| {
            let mut shown = done_json(done, body_max);
            if let Some((load, job)) = load {
                shown["load"] = load.as_str().into();
                shown["load_job"] = job.to_string().into();
            }
            shown.to_string()
        };
        let mut text = shown(body_max);
        // Escapes may make six bytes of one.
        while text.len() > ROW_BYTES_MAX {
            body_max = body_max.map(|most| most / 2).filter(|most| *most > 0);
            text = shown(body_max);
        }
        Self {
            index: done.index,
            status: done.status(),
            cause: done.outcome.as_ref().err().map(|failure| failure.cause),
            bytes: done.outcome.as_ref().map_or(0, |answer| answer.body_bytes),
            text,
        }
    }

    fn read(text: &[u8]) -> Option<Self> {
        let value: Value = serde_json::from_slice(text).ok()?;
        let cause = value["cause"].as_str().and_then(Cause::from_name);
        let status = value["status"].as_u64();
        Some(Self {
            index: value["index"].as_u64()?,
            status: status.and_then(|status| status.try_into().ok()),
            cause,
            bytes: value["bytes"].as_u64().unwrap_or(0),
            text: value.to_string(),
        })
    }

    pub(super) fn write(&self, rows: &TaskName, job: JobId) -> Option<RecordWrite> {
        Some(RecordWrite {
            collection: rows.clone(),
            key: key(job, self.index),
            label: Some(label(job)?),
            value: Bytes::from(self.text.clone()),
        })
    }
}

fn key(job: JobId, index: u64) -> Bytes {
    format!("{job}/{index:08}").into()
}

/// A job's rows are found by its id.
fn label(job: JobId) -> Option<TaskName> {
    TaskName::parse(&job.to_string()).ok() // letters, digits and hyphens
}

/// Takes a row away.
pub(super) fn gone(rows: &TaskName, job: JobId, index: u64) -> RecordWrite {
    RecordWrite {
        collection: rows.clone(),
        key: key(job, index),
        label: None,
        value: Bytes::new(),
    }
}

/// What earlier attempts of the job have done.
pub(super) async fn load(
    server: &RuntimeHandle,
    rows: &TaskName,
    job: JobId,
) -> Result<Vec<Row>, StoreError> {
    let scan = RecordScan {
        collection: rows.clone(),
        label: label(job),
        after: None,
        limit: PAGE, // more than a job may have
    };
    let page = server.records(scan).await?;
    let rows = page
        .records
        .iter()
        .filter_map(|record| Row::read(&record.value));
    Ok(rows.collect())
}

/// Takes away the rows of jobs that are gone, or were completed by somebody else.
pub(super) async fn sweep(server: &RuntimeHandle, rows: &TaskName) -> Result<(), EnqueueError> {
    for count in server.record_counts(rows.clone()).await? {
        let Ok(job) = count.label.as_str().parse::<JobId>() else {
            continue;
        };
        let found = server.job(job).await?;
        let is_needed = found.is_some_and(|job| job.summary.state != JobState::Completed);
        if is_needed {
            continue;
        }
        let done = load(server, rows, job).await?;
        let writes = done.iter().map(|row| gone(rows, job, row.index));
        server.write_records(writes.collect()).await?;
    }
    Ok(())
}
