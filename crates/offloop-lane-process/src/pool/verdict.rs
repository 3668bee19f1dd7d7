//! From the end of a child to the outcome of its job.

use bytes::Bytes;
use offloop_job::limits::RESULT_BYTES_MAX;
use offloop_job::{Failure, FailureClass, Outcome};
use offloop_lane::{Overrun, TaskError, TaskOutput, outcome_of};

use super::child::{Flight, exit_words};
use crate::json;
use crate::spec::{ExecExit, ExecResult};
use crate::sys::Exit;

/// sysexits.h: the input data was incorrect.
const EX_DATAERR: i32 = 65;

pub(super) fn exit_of(exit: Exit) -> ExecExit {
    match exit {
        Exit::Code(code) => ExecExit::Code(code),
        Exit::Signal(signal) => ExecExit::Signal(signal),
    }
}

/// The result frame of a warm child.
pub(super) fn result_of(data: Bytes) -> Result<TaskOutput, TaskError> {
    if data.is_empty() {
        return Ok(TaskOutput::none());
    }
    if data.len() > RESULT_BYTES_MAX {
        let (limit, len) = (RESULT_BYTES_MAX as u64, data.len() as u64);
        let overrun = Overrun::output("the result has", limit, len);
        return Err(TaskError::new(overrun.class, overrun.message));
    }
    match json::check(&data) {
        Ok(()) => Ok(TaskOutput::json(data)),
        Err(error) => Err(TaskError::error(format!("the result is not JSON: {error}"))),
    }
}

/// The job of a warm child that is gone. `why`: what the child did wrong, if it did.
pub(super) fn of_dead_child(
    flight: Flight,
    exit: ExecExit,
    why: Option<String>,
    said: &str,
) -> Outcome {
    let how = match (why, exit) {
        (Some(why), ExecExit::Signal(libc::SIGKILL)) => {
            format!("the child {why}, and was ended for it")
        }
        (Some(why), exit) => format!("the child {why}; it ended by {}", exit_words(exit)),
        (None, exit) if flight.stop.is_some() => format!("the child ended by {}", exit_words(exit)),
        (None, exit) => format!("the child ended by {} without an answer", exit_words(exit)),
    };
    let how = quoted(how, said);
    let outcome = match flight.answer {
        Some(answer) => outcome_of(
            answer,
            RESULT_BYTES_MAX,
            flight.stop,
            flight.overrun.as_ref(),
        ),
        None if flight.stop.is_some() => outcome_of(
            Err(TaskError::error(how)),
            RESULT_BYTES_MAX,
            flight.stop,
            flight.overrun.as_ref(),
        ),
        None => Outcome::Failed(Failure::new(FailureClass::Crashed, how)),
    };
    with_exit(outcome, exit)
}

/// The job of a command, by the rule of declared commands.
pub(super) fn of_command(flight: &Flight, end: &ExecResult) -> Outcome {
    let how = || {
        quoted(
            format!("the command ended by {}", exit_words(end.exit)),
            &end.said,
        )
    };
    let answer = match end.exit {
        ExecExit::Code(0) => Ok(TaskOutput {
            result: json_result(end),
            records: Vec::new(),
        }),
        ExecExit::Code(EX_DATAERR) => Err(TaskError::invalid(how())),
        ExecExit::Code(_) => Err(TaskError::error(how())),
        ExecExit::Signal(_) => Err(TaskError::new(FailureClass::Crashed, how())),
    };
    of_answer(flight, answer, end.exit)
}

/// The job of a command that Rust code has judged.
pub(super) fn of_answer(
    flight: &Flight,
    answer: Result<TaskOutput, TaskError>,
    exit: ExecExit,
) -> Outcome {
    with_exit(
        outcome_of(
            answer,
            RESULT_BYTES_MAX,
            flight.stop,
            flight.overrun.as_ref(),
        ),
        exit,
    )
}

/// What was printed, if it is one JSON value within the limit.
fn json_result(end: &ExecResult) -> Option<Bytes> {
    let text = end.stdout.trim_ascii();
    let is_json = || json::is_json(text);
    (!end.stdout_cut && !text.is_empty() && is_json()).then(|| end.stdout.slice_ref(text))
}

fn with_exit(mut outcome: Outcome, exit: ExecExit) -> Outcome {
    if let Outcome::Failed(failure) | Outcome::Stopped { failure, .. } = &mut outcome {
        match exit {
            ExecExit::Code(code) => failure.exit_code = Some(code),
            ExecExit::Signal(signal) => failure.signal = Some(signal),
        }
    }
    outcome
}

/// A sentence, and the end of what the program said.
pub(super) fn quoted(sentence: String, said: &str) -> String {
    if said.is_empty() {
        sentence
    } else {
        format!("{sentence}; it said: {said}")
    }
}
