//! Leaves out of a job what its task keeps to itself. Everything that shows jobs passes here.
//!
//! Must never: let a failure's class, exit code or times go: an operator needs them.

use bytes::Bytes;
use offloop_job::{Failure, Job, JobSummary, LogTail};

use crate::config::Redact;

/// In place of a payload or a result, as JSON, and of a message, as text.
const JSON: &[u8] = b"\"[redacted]\"";
const TEXT: &str = "[redacted]";

/// What stands for a payload.
pub(crate) fn payload() -> Bytes {
    Bytes::from_static(JSON)
}

pub(crate) fn job(job: &mut Job, what: Redact) {
    if what.payload {
        job.payload = Bytes::from_static(JSON);
        if let Some(progress) = &mut job.progress {
            progress.note = Bytes::from_static(JSON);
        }
        if job.checkpoint.is_some() {
            job.checkpoint = Some(Bytes::from_static(JSON));
        }
    }
    if what.result && job.result.is_some() {
        job.result = Some(Bytes::from_static(JSON));
    }
    for attempt in &mut job.attempts {
        if what.payload {
            message(&mut attempt.failure);
        }
        if what.log {
            attempt.log = LogTail {
                dropped_bytes: attempt.log.written_bytes(),
                ..LogTail::default()
            };
        }
    }
    summary(&mut job.summary, what);
}

pub(crate) fn summary(job: &mut JobSummary, what: Redact) {
    if what.payload {
        message(&mut job.failure);
    }
}

fn message(failure: &mut Option<Failure>) {
    if let Some(failure) = failure {
        failure.message = TEXT.into();
    }
}
