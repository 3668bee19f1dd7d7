//! Pausing, draining and resuming queues and tasks.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::{StatusCode, Uri};
use offloop_job::{Mode, QueueName};
use offloop_store::{Gate, QueueCounts, QueueStatus};

use super::limits::BY_API;
use super::queues::{row, task_row};
use super::{Answer, json};
use crate::door::Inner;
use crate::problem::Kind;
use crate::query::Query;

type Door = State<Arc<Inner>>;

pub(super) async fn pause_queue(door: Door, name: Path<String>, uri: Uri) -> Answer {
    set_queue(&door.0, &name.0, &uri, Mode::Paused).await
}

pub(super) async fn resume_queue(door: Door, name: Path<String>, uri: Uri) -> Answer {
    set_queue(&door.0, &name.0, &uri, Mode::Open).await
}

pub(super) async fn drain_queue(door: Door, name: Path<String>, uri: Uri) -> Answer {
    set_queue(&door.0, &name.0, &uri, Mode::Draining).await
}

pub(super) async fn pause_task(door: Door, name: Path<String>, uri: Uri) -> Answer {
    set_task(&door.0, &name.0, &uri, Mode::Paused).await
}

pub(super) async fn resume_task(door: Door, name: Path<String>, uri: Uri) -> Answer {
    set_task(&door.0, &name.0, &uri, Mode::Open).await
}

pub(super) async fn drain_task(door: Door, name: Path<String>, uri: Uri) -> Answer {
    set_task(&door.0, &name.0, &uri, Mode::Draining).await
}

/// A queue comes to be when it is first named: pausing one before its first job is no error.
async fn set_queue(door: &Inner, name: &str, uri: &Uri, mode: Mode) -> Answer {
    Query::none(uri)?;
    let name = QueueName::parse(name)
        .map_err(|error| Kind::InvalidParameter.say(format!("the queue's name {error}")))?;
    door.handle
        .set_mode(Gate::Queue(name.clone()), mode, BY_API)
        .await?;
    let found = door.handle.queues().await?;
    let now = door.handle.now();
    let holding = door.handle.limits_by_queue().await?.remove(&name);
    let status = found.into_iter().find(|status| status.name == name);
    let status = status.unwrap_or(QueueStatus {
        name,
        mode,
        counts: QueueCounts::default(),
        oldest_ready: None,
    });
    json(
        StatusCode::OK,
        &row(&status, &holding.unwrap_or_default(), now),
    )
}

/// Tasks are declared: one that is not has a typing error in its name.
async fn set_task(door: &Inner, name: &str, uri: &Uri, mode: Mode) -> Answer {
    Query::none(uri)?;
    let mut tasks = door.handle.tasks().iter();
    let Some(task) = tasks.find(|task| task.info.name.as_str() == name) else {
        let shown = &name[..name.floor_char_boundary(128)];
        let detail = format!("no task is called {shown:?}; GET /v1/tasks lists them");
        return Err(Kind::NotFound.say(detail).into());
    };
    let name = task.info.name.clone();
    let gate = Gate::Task(name);
    door.handle.set_mode(gate, mode, BY_API).await?;
    let modes = door.handle.task_modes().await?;
    json(StatusCode::OK, &task_row(task, &modes))
}
