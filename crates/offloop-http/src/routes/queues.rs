//! Tasks, queues and nodes.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::{StatusCode, Uri};
use offloop_job::QueueName;
use offloop_job::limits::TIMEOUT_DEFAULT;
use offloop_runtime::LaneView;
use offloop_store::QueueStatus;
use offloop_wire::{
    LaneRow, NodeList, NodeRow, QueueCountsView, QueueList, QueueRow, SlotsView, StoreRow,
    TaskList, TaskRow, format_time,
};

use super::{Answer, json};
use crate::door::Inner;
use crate::problem::Kind;
use crate::query::Query;

pub(super) async fn tasks(State(door): State<Arc<Inner>>, uri: Uri) -> Answer {
    Query::none(&uri)?;
    let tasks = door.handle.tasks().iter().map(|task| TaskRow {
        name: task.info.name.to_string(),
        lane: task.lane.to_string(),
        about: task.info.about.to_string(),
        timeout_ms: task.info.timeout.unwrap_or(TIMEOUT_DEFAULT).as_millis() as u64,
    });
    json(
        StatusCode::OK,
        &TaskList {
            tasks: tasks.collect(),
        },
    )
}

fn row(status: &QueueStatus, now: offloop_job::Timestamp) -> QueueRow {
    let counts = status.counts;
    QueueRow {
        name: status.name.to_string(),
        paused: status.paused,
        counts: QueueCountsView {
            waiting: counts.waiting,
            scheduled: counts.scheduled,
            ready: counts.ready,
            running: counts.running,
        },
        oldest_ready_ms: status
            .oldest_ready
            .map(|due| now.since(due).as_millis() as u64),
        limits: BTreeMap::new(),
    }
}

pub(super) async fn queues(State(door): State<Arc<Inner>>, uri: Uri) -> Answer {
    Query::none(&uri)?;
    let mut found = door.handle.queues().await?;
    found.sort_by(|a, b| a.name.cmp(&b.name));
    let now = door.handle.now();
    let queues = found.iter().map(|status| row(status, now)).collect();
    json(StatusCode::OK, &QueueList { queues })
}

pub(super) async fn pause(
    State(door): State<Arc<Inner>>,
    Path(name): Path<String>,
    uri: Uri,
) -> Answer {
    set_paused(&door, &name, &uri, true).await
}

pub(super) async fn resume(
    State(door): State<Arc<Inner>>,
    Path(name): Path<String>,
    uri: Uri,
) -> Answer {
    set_paused(&door, &name, &uri, false).await
}

/// A queue comes to be when it is first named: pausing one before its first job is no error.
async fn set_paused(door: &Inner, name: &str, uri: &Uri, paused: bool) -> Answer {
    Query::none(uri)?;
    let name = QueueName::parse(name)
        .map_err(|error| Kind::InvalidParameter.say(format!("the queue's name {error}")))?;
    door.handle.set_paused(name.clone(), paused).await?;
    let found = door.handle.queues().await?;
    let now = door.handle.now();
    let status = found.into_iter().find(|status| status.name == name);
    let status = status.unwrap_or(QueueStatus {
        name,
        paused,
        counts: offloop_store::QueueCounts::default(),
        oldest_ready: None,
    });
    json(StatusCode::OK, &row(&status, now))
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
