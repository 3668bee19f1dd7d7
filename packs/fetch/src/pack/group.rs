//! Long lists: a group of jobs, made while its lines come in.
//!
//! Must never: hold more of a list than the job that is being filled.

use offloop::http::Refusal;
use offloop::job::{FailureClass, GroupId, GroupRule, NewGroup, RetryPolicy};
use offloop::store::{GroupChange, InsertOutcome};
use offloop::{JobOptions, NewJob, RuntimeHandle};
use serde_json::{Map, Value};

use super::Shared;
use crate::rule::Rule;

/// Of one job's payload: well below what a job may have.
const CHUNK_BYTES_MAX: usize = 512 << 10;

/// A group that is being filled.
pub(super) struct Filling<'a> {
    shared: &'a Shared,
    server: &'a RuntimeHandle,
    pub(super) id: GroupId,
    /// All of a payload but its calls.
    head: Map<String, Value>,
    chunk: usize,
    calls: Vec<Value>,
    bytes: usize,
    pub(super) taken: u64,
    pub(super) jobs: u64,
}

impl<'a> Filling<'a> {
    pub(super) async fn begin(
        shared: &'a Shared,
        server: &'a RuntimeHandle,
        head: Map<String, Value>,
        rule: Rule,
        chunk: usize,
    ) -> Result<Self, Refusal> {
        let group = NewGroup {
            rule: match rule {
                Rule::All => GroupRule::All,
                Rule::AllSettled => GroupRule::AllSettled,
                Rule::Race => GroupRule::Race,
                Rule::Any => GroupRule::Any,
            },
            deadline: None,
            hold: true,
            then: None,
            request: None,
        };
        let made = server.create_group(group, Vec::new()).await?;
        Ok(Self {
            shared,
            server,
            id: made.id,
            head,
            chunk,
            calls: Vec::new(),
            bytes: 0,
            taken: 0,
            jobs: 0,
        })
    }

    /// One call more. `len`: bytes of its text.
    pub(super) async fn add(&mut self, call: Value, len: usize) -> Result<(), Refusal> {
        if self.bytes + len > CHUNK_BYTES_MAX && !self.calls.is_empty() {
            self.flush().await?;
        }
        self.calls.push(call);
        self.bytes += len;
        if self.calls.len() >= self.chunk {
            self.flush().await?;
        }
        Ok(())
    }

    /// Calls that are in no job yet.
    pub(super) fn has_calls(&self) -> bool {
        !self.calls.is_empty()
    }

    async fn flush(&mut self) -> Result<(), Refusal> {
        if self.calls.is_empty() {
            return Ok(());
        }
        let count = self.calls.len() as u64;
        let mut payload = self.head.clone();
        let calls = std::mem::take(&mut self.calls);
        payload.insert("requests".into(), calls.into());
        self.bytes = 0;
        let job = NewJob {
            task: self.shared.task.clone(),
            payload: Value::Object(payload).to_string().into(),
            options: JobOptions {
                queue: self.shared.queue.clone(),
                group: Some(self.id),
                // Its calls were tried again already. What is lost with a server is begun once more.
                retry: RetryPolicy {
                    by_class: vec![(FailureClass::Error, 1)],
                    ..RetryPolicy::default()
                },
                ..JobOptions::default()
            },
            idempotency: None,
        };
        let outcomes = self.server.enqueue(vec![job]).await?;
        if let Some(InsertOutcome::Refused(refusal)) = outcomes.into_iter().next() {
            return Err(Refusal::unavailable(refusal.to_string()));
        }
        self.taken += count;
        self.jobs += 1;
        Ok(())
    }

    /// The list is over.
    pub(super) async fn finish(&mut self) -> Result<(), Refusal> {
        self.flush().await?;
        let change = self.server.seal_group(self.id, None).await?;
        // A rule may have decided it before its last line came.
        let _: GroupChange = change;
        Ok(())
    }

    /// The list broke off: nothing of it should go on.
    pub(super) async fn give_up(&self) {
        if let Err(error) = self.server.cancel_group(self.id, None).await {
            tracing::warn!(%error, group = %self.id, "a list that broke off could not be cancelled");
        }
    }
}
