//! Whether a payload is one that its task takes: asked at the door, for jobs and calls alike.
//!
//! Path: door -> **payload** -> admission -> enqueue or call. What is large is looked at on a thread of
//! its own, because a reactor must not be held for as long as a megabyte takes.
//!
//! Must never: change a payload, or know what rules are made of.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use offloop_job::{NewJob, TaskName};
use offloop_store::{InsertRefusal, PayloadProblem};

use crate::handle::Shared;

/// The rule of one task. Pure, and called from several threads.
pub trait PayloadCheck: Send + Sync + fmt::Debug {
    /// What is wrong, at most a page of it; nothing if the task takes it.
    fn problems(&self, payload: &[u8]) -> Vec<PayloadProblem>;
}

impl<C: PayloadCheck + ?Sized> PayloadCheck for Arc<C> {
    fn problems(&self, payload: &[u8]) -> Vec<PayloadProblem> {
        (**self).problems(payload)
    }
}

/// Bytes of payloads that are looked at where they came in: well under a millisecond.
const INLINE_BYTES_MAX: usize = 32 << 10;

/// One answer per job, in order; empty if no job has a rule.
pub(crate) async fn refusals(shared: &Shared, jobs: &[NewJob]) -> Vec<Option<InsertRefusal>> {
    let rule = |task: &TaskName| shared.checks.get(task.as_str());
    if shared.checks.is_empty() || jobs.iter().all(|job| rule(&job.task).is_none()) {
        return Vec::new();
    }
    let asked = jobs.iter().map(|job| {
        let rule = rule(&job.task)?;
        Some((Arc::clone(rule), job.payload.clone()))
    });
    let found = look(shared, asked.collect()).await;
    let refusal = |(job, problems): (&NewJob, Vec<PayloadProblem>)| {
        (!problems.is_empty()).then(|| InsertRefusal::Payload {
            task: job.task.clone(),
            problems,
        })
    };
    jobs.iter().zip(found).map(refusal).collect()
}

/// What is wrong with the payload of a call.
pub(crate) async fn problems(
    shared: &Shared,
    task: &TaskName,
    payload: &Bytes,
) -> Vec<PayloadProblem> {
    let Some(rule) = shared.checks.get(task.as_str()) else {
        return Vec::new();
    };
    let asked = vec![Some((Arc::clone(rule), payload.clone()))];
    look(shared, asked).await.pop().unwrap_or_default()
}

type Asked = Option<(Arc<dyn PayloadCheck>, Bytes)>;

async fn look(shared: &Shared, asked: Vec<Asked>) -> Vec<Vec<PayloadProblem>> {
    let all = |asked: Vec<Asked>| -> Vec<Vec<PayloadProblem>> {
        let one = |asked: Asked| asked.map(|(rule, payload)| rule.problems(&payload));
        asked
            .into_iter()
            .map(|asked| one(asked).unwrap_or_default())
            .collect()
    };
    let bytes: usize = asked
        .iter()
        .flatten()
        .map(|(_, payload)| payload.len())
        .sum();
    // Without a reactor around there is none to hold up.
    let reactor = tokio::runtime::Handle::try_current();
    let (Ok(reactor), true) = (reactor, bytes > INLINE_BYTES_MAX) else {
        return all(asked);
    };
    let jobs = asked.len();
    // Never closed. As many at a time as there are processors: more would only be slower.
    let _turn = shared.checking.acquire().await;
    let looked = reactor.spawn_blocking(move || all(asked)).await;
    looked.unwrap_or_else(|error| {
        tracing::error!(%error, "a payload could not be looked at");
        let unknown = PayloadProblem {
            pointer: String::new(),
            message: "could not be looked at; the server's log says why".into(),
        };
        vec![vec![unknown]; jobs]
    })
}
