//! Schedules: make, change, look, preview, trigger, pause; and the ledger of their due times.

use std::collections::HashMap;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::http::{StatusCode, Uri};
use offloop_job::limits::{PAGE_ROWS_MAX, PAYLOAD_BYTES_MAX};
use offloop_job::{ScheduleName, ScheduleSpec, Timestamp, Timing};
use offloop_runtime::{NextDue, ScheduleError, SchedulePut};
use offloop_store::{LedgerAsk, LedgerOutcome, LedgerPlace, LedgerRow, Origin, ScheduleRow};
use offloop_wire::{
    FieldProblem, LedgerRowView, LedgerView, NextRow, NextView, Problem, ScheduleBody,
    ScheduleList, ScheduleView, format_time, read_schedule,
};

use super::{Answer, empty, json};
use crate::body::collect;
use crate::door::Inner;
use crate::problem::{Kind, Refusal, of_body, of_enqueue, of_refusal, of_store, with_fields};
use crate::query::Query;

/// Room for the fields around the payload: 10,000 instants are the longest.
const AROUND_BYTES: usize = 512 << 10;
const LIMIT_DEFAULT: u16 = 50;
const NEXT_DEFAULT: usize = 5;
const NEXT_MAX: usize = 100;

fn of_schedule(error: &ScheduleError) -> Problem {
    let detail = error.to_string();
    match error {
        ScheduleError::Job(error) => of_enqueue(error),
        ScheduleError::Payload(refusal) => of_refusal(refusal),
        ScheduleError::Spec(found) => {
            let errors = found.iter().map(|problem| {
                FieldProblem::new(format!("/{}", problem.field), problem.message.as_str())
            });
            with_fields(Kind::InvalidBody.say(""), errors.collect())
        }
        ScheduleError::Unknown { .. } => Kind::NotFound.say(detail),
        ScheduleError::Declared { .. } => Kind::Declared.say(detail),
        ScheduleError::Full => Kind::TooMany.say(detail),
        ScheduleError::Contended { .. } => Kind::Busy.say(detail),
        ScheduleError::Store(error) => of_store(error),
        _ => Kind::Internal.say(detail),
    }
}

impl From<ScheduleError> for Refusal {
    fn from(error: ScheduleError) -> Self {
        of_schedule(&error).into()
    }
}

fn name(text: &str) -> Result<ScheduleName, Refusal> {
    ScheduleName::parse(text).map_err(|error| {
        let detail = format!("the schedule's name {error}");
        Kind::InvalidParameter.say(detail).into()
    })
}

async fn body(door: &Inner, body: Body) -> Result<ScheduleSpec, Refusal> {
    let collected = collect(body, PAYLOAD_BYTES_MAX + AROUND_BYTES, &door.collecting).await?;
    let read = read_schedule(&collected.bytes, door.handle.now());
    read.map_err(|error| of_body(error, Kind::InvalidBody).into())
}

fn view(row: &ScheduleRow, silent: Option<String>, whole: bool) -> ScheduleView {
    let spec = &*row.spec;
    let when = match &spec.timing {
        Timing::Cron(text) => format!("cron {text}"),
        Timing::Every(every) => format!("every {} ms", every.as_millis()),
        Timing::At(at) => format!("at {} times", at.len()),
    };
    ScheduleView {
        name: row.name.to_string(),
        task: spec.task.to_string(),
        when,
        timezone: spec.timezone.to_string(),
        paused: spec.paused,
        origin: match row.origin {
            Origin::Api => "api",
            Origin::File => "config",
        }
        .into(),
        revision: row.revision,
        created_at: format_time(row.created_at),
        updated_at: format_time(row.updated_at),
        next_due_at: row.next_due.map(format_time),
        held_due_at: row.held.map(format_time),
        silent,
        spec: whole.then(|| ScheduleBody::from(spec)),
    }
}

fn shown(door: &Inner, row: ScheduleRow, status: StatusCode) -> Answer {
    let row = door.handle.shown_schedule(row);
    let silent = door.handle.silent_schedules().into_iter();
    let silent = silent.filter(|silent| silent.name == row.name);
    let silent = silent.map(|silent| silent.why.to_string()).next();
    json(status, &view(&row, silent, true))
}

/// 201 for a new one, 200 for one that was changed or is so already.
pub(super) async fn put(
    State(door): State<Arc<Inner>>,
    Path(text): Path<String>,
    request: Request,
) -> Answer {
    let (parts, asked) = request.into_parts();
    Query::none(&parts.uri)?;
    let name = name(&text)?;
    let spec = body(&door, asked).await?;
    let (row, how) = door.handle.put_schedule(name, spec).await?;
    let status = match how {
        SchedulePut::Created => StatusCode::CREATED,
        SchedulePut::Changed | SchedulePut::Unchanged => StatusCode::OK,
    };
    shown(&door, row, status)
}

pub(super) async fn one(
    State(door): State<Arc<Inner>>,
    Path(text): Path<String>,
    uri: Uri,
) -> Answer {
    Query::none(&uri)?;
    let row = door.handle.schedule(name(&text)?).await?;
    shown(&door, row, StatusCode::OK)
}

/// Its jobs go on; its ledger goes with it.
pub(super) async fn forget(
    State(door): State<Arc<Inner>>,
    Path(text): Path<String>,
    uri: Uri,
) -> Answer {
    Query::none(&uri)?;
    door.handle.delete_schedule(name(&text)?).await?;
    Ok(empty(StatusCode::NO_CONTENT))
}

/// By name.
pub(super) async fn list(State(door): State<Arc<Inner>>, uri: Uri) -> Answer {
    let query = Query::read(&uri, &["limit", "cursor"])?;
    let limit = query.limit(LIMIT_DEFAULT, PAGE_ROWS_MAX)?;
    let after = query.cursor(|text| ScheduleName::parse(text).ok())?;
    let rows = door.handle.schedules(after, limit).await?;
    let silent = door.handle.silent_schedules().into_iter();
    let mut silent: HashMap<_, _> = silent.map(|s| (s.name, s.why.to_string())).collect();
    let full = rows.len() == usize::from(limit);
    let schedules = rows
        .iter()
        .map(|row| view(row, silent.remove(&row.name), false));
    let body = ScheduleList {
        schedules: schedules.collect(),
        next_cursor: rows.last().filter(|_| full).map(|row| row.name.to_string()),
    };
    json(StatusCode::OK, &body)
}

fn ledger_row(row: &LedgerRow) -> LedgerRowView {
    let mut view = LedgerRowView {
        due_at: format_time(row.due_at),
        outcome: "skipped".into(),
        reason: None,
        late_ms: row.late.as_millis() as u64,
        job_id: None,
        by_hand: false,
        until: None,
        count: Some(1),
        at: format_time(row.at),
    };
    match &row.outcome {
        LedgerOutcome::Fired { job, by_hand } => {
            view.outcome = "fired".into();
            view.job_id = Some(job.to_string());
            view.by_hand = *by_hand;
        }
        LedgerOutcome::Skipped { reason, stretch } => {
            view.reason = Some(reason.to_string());
            if let Some(stretch) = stretch {
                view.until = Some(format_time(stretch.until));
                view.count = stretch.count;
            }
        }
    }
    view
}

fn place(text: &str) -> Option<LedgerPlace> {
    let (ms, by_hand) = text.split_once('-')?;
    Some(LedgerPlace {
        due_at: Timestamp::from_millis(ms.parse().ok()?),
        by_hand: match by_hand {
            "0" => false,
            "1" => true,
            _ => return None,
        },
    })
}

/// What became of its due times, the newest first.
pub(super) async fn ledger(
    State(door): State<Arc<Inner>>,
    Path(text): Path<String>,
    uri: Uri,
) -> Answer {
    let query = Query::read(&uri, &["limit", "cursor"])?;
    let before = query.cursor(place)?;
    let ask = LedgerAsk {
        name: name(&text)?,
        before,
        limit: query.limit(LIMIT_DEFAULT, PAGE_ROWS_MAX)?,
    };
    let page = door.handle.ledger(ask).await?;
    let rows = page.rows.unwrap_or_default();
    let cursor =
        |next: LedgerPlace| format!("{}-{}", next.due_at.as_millis(), u8::from(next.by_hand));
    let body = LedgerView {
        ledger: rows.iter().map(ledger_row).collect(),
        next_cursor: page.next.map(cursor),
    };
    json(StatusCode::OK, &body)
}

fn count(uri: &Uri) -> Result<usize, Refusal> {
    let query = Query::read(uri, &["count"])?;
    let count = query.with("count", |text| match text.parse() {
        Ok(count) if (1..=NEXT_MAX).contains(&count) => Ok(count),
        _ => Err(format!("is {text:?}; give 1 to {NEXT_MAX}")),
    })?;
    Ok(count.unwrap_or(NEXT_DEFAULT))
}

fn next_rows(dues: Vec<NextDue>) -> Answer {
    let rows = dues.into_iter().map(|next| NextRow {
        due_at: format_time(next.due_at),
        planned_at: format_time(next.planned_at),
        local: next.local,
    });
    json(
        StatusCode::OK,
        &NextView {
            next: rows.collect(),
        },
    )
}

/// Its next due times.
pub(super) async fn next(
    State(door): State<Arc<Inner>>,
    Path(text): Path<String>,
    uri: Uri,
) -> Answer {
    let count = count(&uri)?;
    let row = door.handle.schedule(name(&text)?).await?;
    let dues = door
        .handle
        .next_dues(&row.name, &row.spec, Some(&row), count)?;
    next_rows(dues)
}

/// The next due times of a schedule that is not there yet. Nothing is kept.
pub(super) async fn preview(State(door): State<Arc<Inner>>, request: Request) -> Answer {
    let (parts, asked) = request.into_parts();
    let count = count(&parts.uri)?;
    let spec = body(&door, asked).await?;
    // Only its jitter depends on the name.
    let dues = door
        .handle
        .next_dues(&name("preview")?, &spec, None, count)?;
    next_rows(dues)
}

/// Fires it now, whatever its times and rules say: 201 with the ledger's row.
pub(super) async fn trigger(
    State(door): State<Arc<Inner>>,
    Path(text): Path<String>,
    uri: Uri,
) -> Answer {
    Query::none(&uri)?;
    let row = door.handle.trigger_schedule(name(&text)?).await?;
    match &row.outcome {
        LedgerOutcome::Fired { .. } => json(StatusCode::CREATED, &ledger_row(&row)),
        LedgerOutcome::Skipped { reason, .. } => {
            let detail = format!("no job was made: {reason}");
            Err(Kind::NotFired.say(detail).into())
        }
    }
}

pub(super) async fn pause(
    State(door): State<Arc<Inner>>,
    Path(text): Path<String>,
    uri: Uri,
) -> Answer {
    Query::none(&uri)?;
    let row = door.handle.pause_schedule(name(&text)?, true).await?;
    shown(&door, row, StatusCode::OK)
}

pub(super) async fn resume(
    State(door): State<Arc<Inner>>,
    Path(text): Path<String>,
    uri: Uri,
) -> Answer {
    Query::none(&uri)?;
    let row = door.handle.pause_schedule(name(&text)?, false).await?;
    shown(&door, row, StatusCode::OK)
}

/// For `/metrics`.
pub(super) fn figures(door: &Inner, out: &mut String) {
    use std::fmt::Write as _;
    let silent = door.handle.silent_schedules();
    let help = "Schedules.";
    crate::metrics::head(out, "offloop_schedules", "gauge", help);
    let _ = writeln!(out, "offloop_schedules {}", door.handle.schedule_count());
    let help =
        "1 for each schedule from which nothing comes although it should; its log line says why.";
    crate::metrics::head(out, "offloop_schedule_silent", "gauge", help);
    for silent in silent.iter().take(SILENT_SHOWN_MAX) {
        let _ = writeln!(
            out,
            "offloop_schedule_silent{{schedule=\"{}\"}} 1",
            silent.name
        );
    }
    let help = "Schedules from which nothing comes although it should.";
    crate::metrics::head(out, "offloop_schedules_silent", "gauge", help);
    let _ = writeln!(out, "offloop_schedules_silent {}", silent.len());
}

/// Labels are few.
const SILENT_SHOWN_MAX: usize = 100;
