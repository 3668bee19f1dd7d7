//! Tasks, queues and nodes.

use std::sync::Arc;

use axum::extract::State;
use axum::http::{StatusCode, Uri};
use offloop_job::limits::TIMEOUT_DEFAULT;
use offloop_job::{Mode, TaskName};
use offloop_runtime::{LaneView, TaskView};
use offloop_store::{LimitStatus, QueueStatus};
use offloop_wire::{
    LaneRow, NodeList, NodeRow, QueueCountsView, QueueList, QueueRow, SlotsView, StoreRow,
    TaskList, TaskRow, format_time,
};

use super::{Answer, json, limits};
use crate::door::Inner;
use crate::query::Query;

pub(super) async fn tasks(State(door): State<Arc<Inner>>, uri: Uri) -> Answer {
    Query::none(&uri)?;
    let modes = door.handle.task_modes().await?;
    let tasks = door.handle.tasks().iter();
    let tasks = tasks.map(|task| task_row(task, &modes)).collect();
    json(StatusCode::OK, &TaskList { tasks })
}

pub(super) fn task_row(task: &TaskView, modes: &[(TaskName, Mode)]) -> TaskRow {
    let name = &task.info.name;
    let mode = modes.iter().find(|row| row.0 == *name).map(|row| row.1);
    TaskRow {
        name: name.to_string(),
        lane: task.lane.to_string(),
        about: task.info.about.to_string(),
        timeout_ms: task.info.timeout.unwrap_or(TIMEOUT_DEFAULT).as_millis() as u64,
        mode: mode.unwrap_or_default().to_string(),
    }
}

/// `holding`: the limits of the queue and of its tasks.
pub(super) fn row(
    status: &QueueStatus,
    holding: &[LimitStatus],
    now: offloop_job::Timestamp,
) -> QueueRow {
    let counts = status.counts;
    QueueRow {
        name: status.name.to_string(),
        paused: status.mode == Mode::Paused,
        mode: status.mode.to_string(),
        counts: QueueCountsView {
            waiting: counts.waiting,
            scheduled: counts.scheduled,
            ready: counts.ready,
            running: counts.running,
        },
        oldest_ready_ms: status
            .oldest_ready
            .map(|due| now.since(due).as_millis() as u64),
        limits: holding.iter().map(limits::view).collect(),
    }
}

pub(super) async fn queues(State(door): State<Arc<Inner>>, uri: Uri) -> Answer {
    Query::none(&uri)?;
    let mut found = door.handle.queues().await?;
    found.sort_by(|a, b| a.name.cmp(&b.name));
    let now = door.handle.now();
    let holding = door.handle.limits_by_queue().await?;
    let rows = found.iter().map(|status| {
        let holding = holding.get(&status.name);
        row(status, holding.map_or(&[], Vec::as_slice), now)
    });
    let queues = rows.collect();
    json(StatusCode::OK, &QueueList { queues })
}

fn lane(view: LaneView) -> LaneRow {
    let exits = view.exits.iter();
    LaneRow {
        name: view.name.into(),
        slots: SlotsView {
            running: view.slots.running,
            ahead: view.slots.ahead,
        },
        running: view.status.running,
        queued: view.status.queued,
        stuck: view.status.stuck,
        executors: view.status.executors,
        head_age_ms: view.status.head_age.map(|age| age.as_millis() as u64),
        late: view.status.late,
        exits: exits.map(|exit| (exit.reason.into(), exit.count)).collect(),
        trouble: view.trouble.map(Into::into),
        tasks: view.tasks.iter().map(ToString::to_string).collect(),
    }
}

pub(super) async fn nodes(State(door): State<Arc<Inner>>, uri: Uri) -> Answer {
    Query::none(&uri)?;
    let handle = &door.handle;
    let capability = handle.capability();
    let node = NodeRow {
        id: handle.node().to_string(),
        now: format_time(handle.now()),
        trouble: handle.trouble().map(Into::into),
        store: StoreRow {
            engine: capability.engine.into(),
            survives_process: capability.survives_process,
            survives_power_cut: capability.survives_power_cut,
            shared: capability.shared,
        },
        lanes: handle.lanes().into_iter().map(lane).collect(),
    };
    json(StatusCode::OK, &NodeList { nodes: vec![node] })
}
