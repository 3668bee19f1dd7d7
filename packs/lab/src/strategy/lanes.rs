//! What offloop offers: calls on a lane, and durable jobs.

use std::ffi::OsString;
use std::sync::Arc;

use offloop::http::{PackRoutes, Refusal};
use offloop::job::JobId;
use offloop::lane_process::{ProcessLane, ProcessSpec};
use offloop::runtime::{CallAsk, QueryError};
use offloop::store::InsertOutcome;
use offloop::wire::Problem;
use offloop::{
    Builder, JobOptions, JobState, NewJob, Pack, PackError, RuntimeHandle, Setup, TaskContext,
    TaskError, TaskInfo, TaskName, TaskOutput, payload,
};

use super::{Answer, Ask, Kind, Strategy};
use crate::work::{Done, Piece, compute};

pub(super) const CPU_TASK: &str = "lab.cpu";
pub(super) const PROCESS_TASK: &str = "lab.process";
pub(super) const EXEC_TASK: &str = "lab.exec";
const JOB_TASK: &str = "lab.job";

fn info(name: &str, about: &str) -> Result<TaskInfo, PackError> {
    let name = TaskName::parse(name).map_err(|error| problem(error.to_string()))?;
    Ok(TaskInfo {
        name,
        timeout: None,
        about: about.into(),
    })
}

fn problem(message: String) -> PackError {
    PackError {
        pack: "lab",
        message,
    }
}

/// The tasks that are Rust code.
pub(crate) fn with_tasks(builder: Builder) -> Result<Builder, PackError> {
    let call = info(CPU_TASK, "the lab's piece of work, as a call")?;
    let job = info(JOB_TASK, "the lab's piece of work, as a durable job")?;
    Ok(builder
        .cpu_task_with(call, on_thread)
        .cpu_task_with(job, on_thread))
}

/// On a thread of the CPU lane: it asks its token often, so that a hang-up frees the core.
fn on_thread(context: &TaskContext) -> Result<TaskOutput, TaskError> {
    let piece: Piece = payload(context)?;
    let done = compute(piece, || context.should_stop()).ok_or_else(TaskError::stopped)?;
    let text = serde_json::to_vec(&done).map_err(|error| TaskError::error(error.to_string()))?;
    Ok(TaskOutput::json(text))
}

/// Brings the lanes of child processes.
#[derive(Debug)]
pub(crate) struct LabPack {
    pub(crate) kinds: Vec<Kind>,
    /// A program that calls [`crate::warm`].
    pub(crate) warm: Vec<OsString>,
    /// A program that calls [`crate::once`].
    pub(crate) once: Vec<OsString>,
    /// Children of each.
    pub(crate) children: u16,
}

impl Pack for LabPack {
    fn name(&self) -> &'static str {
        "lab"
    }

    fn install(&mut self, setup: &mut Setup<'_>) -> Result<(), PackError> {
        let warm = info(PROCESS_TASK, "the lab's piece of work, in a warm child")?;
        let once = info(EXEC_TASK, "the lab's piece of work, in a child of its own")?;
        let specs = [
            (Kind::Process, ProcessSpec::process(warm, &self.warm)),
            (Kind::Exec, ProcessSpec::exec(once, &self.once)),
        ];
        for (kind, mut spec) in specs {
            if self.kinds.contains(&kind) {
                spec.processes = self.children;
                let lane = ProcessLane::new(spec, Arc::clone(setup.host()));
                setup.call_lane(Arc::new(lane));
            }
        }
        Ok(())
    }

    fn open(self: Box<Self>, _: &RuntimeHandle) -> Result<PackRoutes, PackError> {
        Ok(PackRoutes {
            name: "lab".into(),
            ..PackRoutes::default()
        })
    }
}

fn result_of(text: Option<&[u8]>) -> Result<Done, Refusal> {
    let done = text.and_then(|text| serde_json::from_slice(text).ok());
    done.ok_or_else(|| failed("the task's result is not what it should be".into()))
}

fn failed(detail: String) -> Refusal {
    Refusal::from(Problem {
        r#type: "urn:offloop:problem:internal".into(),
        title: "The server failed".into(),
        status: 500,
        detail,
        ..Problem::default()
    })
}

fn late(detail: String) -> Refusal {
    Refusal::from(Problem {
        r#type: "urn:offloop:problem:timed-out".into(),
        title: "The answer took too long".into(),
        status: 503,
        detail,
        ..Problem::default()
    })
}

/// A call: answered from a lane, or refused at once. When its client hangs up, it is stopped.
pub(super) struct Called {
    server: RuntimeHandle,
    task: TaskName,
}

impl Called {
    pub(super) fn new(server: &RuntimeHandle, task: &str) -> Option<Self> {
        Some(Self {
            server: server.clone(),
            task: TaskName::parse(task).ok()?,
        })
    }
}

impl Strategy for Called {
    fn run(&self, ask: Ask) -> Answer {
        let (server, task) = (self.server.clone(), self.task.clone());
        Box::pin(async move {
            let payload = serde_json::to_vec(&ask.piece).unwrap_or_default(); // two numbers
            let mut call = CallAsk::new(task, payload);
            call.timeout = Some(ask.timeout);
            let answer = server.call(call).await?;
            result_of(answer.result.as_deref())
        })
    }
}

/// A durable job whose result is waited for. When its client hangs up, it is cancelled.
pub(super) struct Durable {
    server: RuntimeHandle,
    task: TaskName,
}

impl Durable {
    pub(super) fn new(server: &RuntimeHandle) -> Option<Self> {
        Some(Self {
            server: server.clone(),
            task: TaskName::parse(JOB_TASK).ok()?,
        })
    }
}

impl Strategy for Durable {
    fn run(&self, ask: Ask) -> Answer {
        let (server, task) = (self.server.clone(), self.task.clone());
        Box::pin(async move {
            let mut options = JobOptions {
                deadline: Some(server.now().plus(ask.timeout)),
                ..JobOptions::default()
            };
            options.retry.max_attempts = 1; // nobody waits for a second one
            let job = NewJob {
                task,
                payload: serde_json::to_vec(&ask.piece).unwrap_or_default().into(),
                options,
                idempotency: None,
            };
            let id = match server.enqueue(vec![job]).await?.into_iter().next() {
                Some(InsertOutcome::Created { id, .. } | InsertOutcome::Existing { id, .. }) => id,
                Some(InsertOutcome::Refused(why)) => {
                    return Err(Refusal::unavailable(why.to_string()));
                }
                None => return Err(failed("the store answered for no job".into())),
            };
            let mut watched = Watched {
                server,
                id: Some(id),
            };
            let ended = watched.end(ask).await;
            watched.id = ended.as_ref().err().and(watched.id);
            ended
        })
    }
}

/// A job that is cancelled when nobody waits for it any more.
struct Watched {
    server: RuntimeHandle,
    /// `None`: it has ended.
    id: Option<JobId>,
}

impl Watched {
    async fn end(&self, ask: Ask) -> Result<Done, Refusal> {
        let Some(id) = self.id else {
            return Err(failed("no job".into()));
        };
        let job = self.server.wait_final(id, ask.timeout).await?;
        let job = job.ok_or_else(|| failed(format!("job {id} is not there any more")))?;
        let state = job.summary.state;
        if state == JobState::Completed {
            return result_of(job.result.as_deref());
        }
        let why = job.attempts.iter().rev().find_map(|a| a.failure.as_ref());
        let why = why.map_or(String::new(), |why| format!(": {}", why.message));
        Err(late(format!(
            "job {id} is {state:?} after {:?}{why}",
            ask.timeout
        )))
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        let (Some(id), Ok(runtime)) = (self.id, tokio::runtime::Handle::try_current()) else {
            return;
        };
        let server = self.server.clone();
        runtime.spawn(async move {
            if let Err::<_, QueryError>(error) = server.cancel(id).await {
                tracing::warn!(%error, job = %id, "a job that nobody waits for was not cancelled");
            }
        });
    }
}
