//! Long lists: a group of jobs, made in one commit, or while its lines come in.
//!
//! Must never: hold more of a list than the job that is being filled.

use offloop::http::Refusal;
use offloop::job::{FailureClass, GroupId, NewGroup, RequestKey, RetryPolicy, Tag};
use offloop::store::{Asked, GroupChange, GroupCreated, InsertOutcome};
use offloop::{JobOptions, NewJob, RuntimeHandle};
use serde_json::{Map, Value};

use super::Shared;
use crate::rule::Rule;

/// Of one job's payload: well below what a job may have.
const CHUNK_BYTES_MAX: usize = 512 << 10;

/// What the jobs of a list have in common.
pub(super) struct Pattern {
    /// All of a payload but its calls.
    pub(super) fields: Map<String, Value>,
    /// Calls of each.
    pub(super) chunk: usize,
    /// On whose account they run.
    pub(super) group_key: Option<Tag>,
}

/// Calls that are gathered into payloads of jobs.
struct Packer {
    of: Pattern,
    calls: Vec<Value>,
    bytes: usize,
}

impl Packer {
    const fn new(of: Pattern) -> Self {
        Self {
            of,
            calls: Vec::new(),
            bytes: 0,
        }
    }

    /// One call more. `len`: bytes of its text. A payload, if the call before it was the last of one.
    fn add(&mut self, call: Value, len: usize) -> Option<Packed> {
        let is_full = self.calls.len() >= self.of.chunk || self.bytes + len > CHUNK_BYTES_MAX;
        let packed = if is_full { self.rest() } else { None };
        self.calls.push(call);
        self.bytes += len;
        packed
    }

    /// What is left.
    fn rest(&mut self) -> Option<Packed> {
        let calls = std::mem::take(&mut self.calls);
        self.bytes = 0;
        let count = calls.len() as u64;
        let mut payload = self.of.fields.clone();
        payload.insert("requests".into(), calls.into());
        let payload = (count > 0).then(|| Value::Object(payload).to_string());
        let group_key = self.of.group_key.clone();
        payload.map(|payload| Packed {
            payload,
            count,
            group_key,
        })
    }
}

/// A job's payload, and the calls in it.
struct Packed {
    payload: String,
    count: u64,
    group_key: Option<Tag>,
}

fn job(shared: &Shared, packed: Packed, group: Option<GroupId>) -> NewJob {
    NewJob {
        task: shared.task.clone(),
        payload: packed.payload.into(),
        options: JobOptions {
            queue: shared.queue.clone(),
            group,
            group_key: packed.group_key,
            // Its calls were tried again already. What is lost with a server is begun once more.
            retry: RetryPolicy {
                by_class: vec![(FailureClass::Error, 1)],
                ..RetryPolicy::default()
            },
            ..JobOptions::default()
        },
        idempotency: None,
    }
}

const fn group(rule: Rule, hold: bool, request: Option<RequestKey>) -> NewGroup {
    NewGroup {
        rule,
        deadline: None,
        hold,
        then: None,
        request,
    }
}

/// A list in one piece.
pub(super) struct Whole {
    pub(super) jobs: Vec<NewJob>,
    pub(super) calls: u64,
}

/// The jobs that a list becomes. `calls`: they were looked at.
pub(super) fn pack(shared: &Shared, jobs: Pattern, calls: &[Value]) -> Whole {
    let mut packer = Packer::new(jobs);
    let mut whole = Whole {
        jobs: Vec::new(),
        calls: calls.len() as u64,
    };
    for call in calls {
        let packed = packer.add(call.clone(), call.to_string().len());
        whole
            .jobs
            .extend(packed.map(|packed| job(shared, packed, None)));
    }
    let rest = packer.rest().map(|packed| job(shared, packed, None));
    whole.jobs.extend(rest);
    whole
}

/// Makes a group with all its jobs in one commit: at most 1,024 of them.
pub(super) async fn make(
    server: &RuntimeHandle,
    rule: Rule,
    request: Option<RequestKey>,
    jobs: Vec<NewJob>,
) -> Result<GroupCreated, Refusal> {
    let made = server.create_group(group(rule, false, request), jobs);
    let made = made.await?;
    let refused = made.members.iter().find_map(|member| match member {
        InsertOutcome::Refused(refusal) => Some(refusal.to_string()),
        _ => None,
    });
    let Some(refused) = refused.filter(|_| made.asked == Asked::First) else {
        return Ok(made);
    };
    // A part of a list is nothing that anybody has asked for.
    if let Err(error) = server.cancel_group(made.id, None).await {
        tracing::warn!(%error, group = %made.id, "a list that was refused could not be cancelled");
    }
    Err(Refusal::unavailable(format!(
        "{refused}; nothing of the list will run: send it again, with a new Idempotency-Key if it had one"
    )))
}

/// A group that is being filled.
pub(super) struct Filling<'a> {
    shared: &'a Shared,
    server: &'a RuntimeHandle,
    pub(super) id: GroupId,
    packer: Packer,
    pub(super) taken: u64,
    pub(super) jobs: u64,
}

impl<'a> Filling<'a> {
    pub(super) async fn begin(
        shared: &'a Shared,
        server: &'a RuntimeHandle,
        jobs: Pattern,
        rule: Rule,
    ) -> Result<Self, Refusal> {
        let made = server
            .create_group(group(rule, true, None), Vec::new())
            .await?;
        Ok(Self {
            shared,
            server,
            id: made.id,
            packer: Packer::new(jobs),
            taken: 0,
            jobs: 0,
        })
    }

    /// One call more. `len`: bytes of its text.
    pub(super) async fn add(&mut self, call: Value, len: usize) -> Result<(), Refusal> {
        match self.packer.add(call, len) {
            Some(packed) => self.enqueue(packed).await,
            None => Ok(()),
        }
    }

    /// A call came in.
    pub(super) fn has_calls(&self) -> bool {
        self.taken > 0 || !self.packer.calls.is_empty()
    }

    async fn enqueue(&mut self, packed: Packed) -> Result<(), Refusal> {
        let count = packed.count;
        let jobs = vec![job(self.shared, packed, Some(self.id))];
        let outcomes = self.server.enqueue(jobs).await?;
        if let Some(InsertOutcome::Refused(refusal)) = outcomes.into_iter().next() {
            return Err(Refusal::unavailable(refusal.to_string()));
        }
        self.taken += count;
        self.jobs += 1;
        Ok(())
    }

    /// The list is over.
    pub(super) async fn finish(&mut self) -> Result<(), Refusal> {
        if let Some(packed) = self.packer.rest() {
            self.enqueue(packed).await?;
        }
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
