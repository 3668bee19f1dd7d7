//! What the lanes' threads do with a ticket.
//!
//! A payload that is no ticket is a JSON body by itself: that is `POST /v1/call/vault.seal`.
//!
//! Must never: put a secret into a `TaskError`, or stop a run for which somebody still waits.

use offloop::{TaskContext, TaskError, TaskOutput};

use super::Shared;
use super::tickets::{Desk, Taken, Ticket};
use crate::error::{Kind, VaultError};
use crate::ops::{Op, Passwords, Reply, password_json};
use crate::password::{self, Ask};

type Ran = Result<TaskOutput, TaskError>;

/// Seals, opens, signs, checks.
pub(super) fn quick(shared: &Shared, op: Op, context: &TaskContext) -> Ran {
    let payload = context.payload();
    let stop = || context.should_stop();
    if !Desk::is_ticket(payload) {
        return direct(shared.vault.json(op, payload, &stop));
    }
    let Some(ticket) = shared.desk.find(payload) else {
        return Ok(TaskOutput::none()); // its caller has left
    };
    let Some(Taken::Request(request)) = ticket.take() else {
        return Ok(TaskOutput::none());
    };
    let text = &request.body.bytes;
    let told = match &request.raw {
        None => shared.vault.json(op, text, &stop).map(Reply::Json),
        Some(ask) => shared.vault.raw(op, ask, text),
    };
    drop(request);
    ticket.answer(told);
    Ok(TaskOutput::none())
}

/// Hashes and verifies.
pub(super) fn password(shared: &Shared, op: Op, context: &TaskContext) -> Ran {
    let payload = context.payload();
    let stop = || context.should_stop();
    let memory = &shared.vault.memory;
    if !Desk::is_ticket(payload) {
        let _busy = shared.desk.busy();
        let read = Passwords::read(op, payload);
        return direct(read.and_then(|read| read.run(memory, &stop)));
    }
    let Some(ticket) = shared.desk.find(payload) else {
        return Ok(TaskOutput::none());
    };
    // Somebody else's run may have it already, and answers it.
    let Some(taken) = ticket.take() else {
        return Ok(TaskOutput::none());
    };
    let _busy = shared.desk.busy();
    let read = match taken {
        Taken::Read(read) => read,
        Taken::Request(request) => Passwords::read(op, &request.body.bytes),
    };
    let told = match read {
        Ok(Passwords::One(ask)) if ask.bcrypt_cost().is_some() => {
            together(shared, &ticket, ask, &stop);
            return Ok(TaskOutput::none());
        }
        Ok(read) => read.run(memory, &stop).map(Reply::Json),
        Err(error) => Err(error),
    };
    ticket.answer(told);
    Ok(TaskOutput::none())
}

/// Runs one password of bcrypt with those that wait for the same cost.
fn together(shared: &Shared, ticket: &Ticket, ask: Ask, stop: &dyn Fn() -> bool) {
    let company = match ask.bcrypt_cost() {
        Some(cost) => shared.desk.company(cost),
        None => Vec::new(),
    };
    let (guests, mut asks): (Vec<_>, Vec<_>) = company.into_iter().unzip();
    asks.insert(0, ask);
    // It is stopped when nobody waits any more: neither the host's caller nor a guest's.
    let nobody = || stop() && guests.iter().all(|guest| guest.is_gone());
    let answers = password::run(asks, &shared.vault.memory, &nobody);
    let tickets = std::iter::once(ticket).chain(guests.iter().map(AsRef::as_ref));
    for (ticket, answer) in tickets.zip(answers) {
        ticket.answer(answer.map(|answer| Reply::Json(password_json(&answer))));
    }
}

/// Reads the key folder again.
pub(super) fn reload(shared: &Shared) -> Ran {
    let looked = shared.vault.keys.reload().map_err(task_error)?;
    let json = serde_json::json!({
        "changed": looked.changed, "keys": looked.keys, "problem": looked.problem,
    });
    Ok(TaskOutput::json(json.to_string()))
}

fn direct(done: Result<Vec<u8>, VaultError>) -> Ran {
    done.map(TaskOutput::json).map_err(task_error)
}

fn task_error(error: VaultError) -> TaskError {
    match error.kind {
        Kind::Stopped => TaskError::stopped(),
        Kind::Busy | Kind::Internal | Kind::NoKeys => TaskError::error(error.detail),
        _ => TaskError::invalid(error.problem().detail),
    }
}
