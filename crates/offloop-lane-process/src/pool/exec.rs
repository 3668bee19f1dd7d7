//! One command per job: its making, and the reading of what it left.

use std::sync::{Arc, PoisonError};
use std::time::Instant;

use bytes::Bytes;
use offloop_job::limits::RESULT_BYTES_MAX;
use offloop_lane::{Ended, Gone, Proof, TaskError, TaskOutput, Work, contained, outcome_of};
use serde::Deserialize;

use super::child::{Child, Flight, Phase};
use super::exits::ExitReason;
use super::state::Pool;
use super::verdict::{exit_of, of_answer, of_command};
use super::{Hook, Resolved, Shared};
use crate::host::Buried;
use crate::spec::{ExecCommand, ExecPlan, ExecResult};

/// Arguments that a payload may add.
const ARGS_MAX: usize = 1_024;

impl Shared {
    /// Takes a job: its child is on the books from here on.
    pub(super) fn begin_command(&self, pool: &mut Pool, work: Arc<Work>, now: Instant) {
        let (marker, roster) = self.host.next_marker();
        let mut child = Child::new(marker, roster, Phase::Planning);
        child.captures = true;
        child.flight = Some(Flight::new(work.clone(), now));
        let number = pool.add(child);
        let Some(hooks) = self.spec.hooks.clone() else {
            let plan = self.declared_plan(&work);
            self.planned(pool, number, plan, now);
            return;
        };
        let Some(shared) = self.me.upgrade() else {
            return;
        };
        self.run_hook(Box::new(move || {
            let plan = contained(|| (hooks.plan)(&work));
            let mut pool = shared.lock();
            shared.planned(&mut pool, number, plan, Instant::now());
            shared.settle(pool);
        }));
    }

    fn run_hook(&self, hook: Hook) {
        if let Some(sender) = self.hooks.get() {
            let sender = sender.lock().unwrap_or_else(PoisonError::into_inner);
            let _ = sender.send(hook); // its thread lives as long as this lane
        }
    }

    /// The plan of a declared command.
    fn declared_plan(&self, work: &Work) -> Result<ExecPlan, TaskError> {
        let mut plan = ExecPlan {
            argv: self.spec.command.clone(),
            stdin: work.payload.clone(),
            ..ExecPlan::default()
        };
        if self.spec.args_from_payload {
            for arg in payload_args(&work.payload)? {
                plan.argv.push(arg.into());
            }
        }
        Ok(plan)
    }

    fn planned(
        &self,
        pool: &mut Pool,
        number: u64,
        plan: Result<ExecPlan, TaskError>,
        now: Instant,
    ) {
        let Some(child) = pool.children.get_mut(&number) else {
            return;
        };
        let Some(flight) = child.flight.as_ref() else {
            return;
        };
        let plan = if flight.stop.is_some() {
            Err(TaskError::stopped())
        } else {
            plan.and_then(|plan| Ok((self.find(&plan)?, plan)))
        };
        match plan {
            Ok((command, plan)) => {
                let mut env = self.base_env();
                env.extend(job_env(&flight.work));
                env.extend(
                    plan.env
                        .into_iter()
                        .map(|(name, value)| (name.into(), value)),
                );
                child.stdin_data = Some(plan.stdin);
                child.phase = Phase::Spawning;
                let cwd = plan.cwd.or_else(|| self.spec.cwd.clone());
                self.order(pool, number, command, env, cwd);
            }
            Err(error) => {
                let outcome = outcome_of(Err(error), RESULT_BYTES_MAX, flight.stop, None);
                if let Some(flight) = pool.children.remove(&number).and_then(|c| c.flight) {
                    pool.tell_unflown(&flight, now, outcome);
                }
            }
        }
    }

    fn find(&self, plan: &ExecPlan) -> Result<Resolved, TaskError> {
        if let Some(known) = self.command.get() {
            let argv = plan.argv.clone();
            let program = known.program.clone();
            return Ok(Resolved { program, argv });
        }
        let Some(word) = plan.argv.first() else {
            return Err(TaskError::error("the plan's command is empty"));
        };
        let cwd = plan.cwd.as_deref().or(self.spec.cwd.as_deref());
        let program = self
            .host
            .find_program(word, cwd)
            .map_err(TaskError::error)?;
        let argv = plan.argv.clone();
        Ok(Resolved { program, argv })
    }

    pub(super) fn command_gone(&self, pool: &mut Pool, number: u64, buried: Buried, now: Instant) {
        let Some(child) = pool.children.get_mut(&number) else {
            return;
        };
        let Some(flight) = child.flight.as_ref() else {
            pool.children.remove(&number);
            return;
        };
        let end = ExecResult {
            exit: exit_of(buried.exit),
            stdout: Bytes::from(std::mem::take(&mut child.printed)),
            stdout_cut: child.printed_cut,
            said: child.said.quote(),
            usage: flight.usage(now, buried.spent.cpu, buried.spent.max_rss_bytes),
            log: child.log.take(),
        };
        let reader = self
            .spec
            .hooks
            .as_ref()
            .and_then(|hooks: &ExecCommand| hooks.on_exit.clone());
        let reader = reader.filter(|_| flight.stop.is_none());
        let (Some(read), Some(shared)) = (reader, self.me.upgrade()) else {
            Self::finish_command(pool, number, &end, None, now);
            return;
        };
        let work = flight.work.clone();
        child.phase = Phase::Reading;
        self.run_hook(Box::new(move || {
            let answer = contained(|| read(&work, &end));
            let mut pool = shared.lock();
            Self::finish_command(&mut pool, number, &end, Some(answer), Instant::now());
            shared.settle(pool);
            shared.ring();
        }));
    }

    fn finish_command(
        pool: &mut Pool,
        number: u64,
        end: &ExecResult,
        answer: Option<Result<TaskOutput, TaskError>>,
        now: Instant,
    ) {
        let Some(mut child) = pool.children.remove(&number) else {
            return;
        };
        let Some(flight) = child.flight.take() else {
            return;
        };
        let reason = ExitReason::of_command(flight.stop, end.exit);
        pool.exits.count(reason);
        let outcome = match answer {
            Some(answer) => of_answer(&flight, answer, end.exit),
            None => of_command(&flight, end),
        };
        let ended = Ended {
            job: flight.work.job,
            lease: flight.work.lease,
            outcome,
            executor: child.executor(),
            queued: flight.queued(now),
            usage: end.usage,
            log: end.log.clone(),
            gone: Gone::proven(Proof::Reaped { pid: child.pid }),
        };
        pool.note_end(&flight.work, &ended, now);
        pool.tell_end(ended);
    }
}

fn job_env(work: &Work) -> impl Iterator<Item = (std::ffi::OsString, std::ffi::OsString)> {
    let trace = work
        .trace
        .as_deref()
        .map(|trace| ("TRACEPARENT", trace.to_owned()));
    [
        ("OFFLOOP_JOB_ID", work.job.to_string()),
        ("OFFLOOP_LEASE", work.lease.to_string()),
        ("OFFLOOP_ATTEMPT", work.attempt.to_string()),
    ]
    .into_iter()
    .chain(trace)
    .map(|(name, value)| (name.into(), value.into()))
}

/// The strings of the payload's array `args`; each becomes one argument, whatever is in it.
fn payload_args(payload: &[u8]) -> Result<Vec<String>, TaskError> {
    #[derive(Deserialize)]
    struct Args {
        #[serde(default)]
        args: Vec<String>,
    }
    let args: Args = serde_json::from_slice(payload).map_err(|error| {
        TaskError::invalid(format!(
            "the payload's `args` is not a list of strings: {error}"
        ))
    })?;
    if args.args.len() > ARGS_MAX {
        return Err(TaskError::invalid(format!(
            "the payload has {} args; the limit is {ARGS_MAX}",
            args.args.len()
        )));
    }
    if args.args.iter().any(|arg| arg.contains('\0')) {
        return Err(TaskError::invalid("an argument holds a zero byte"));
    }
    Ok(args.args)
}
