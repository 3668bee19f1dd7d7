//! Limits, changed while jobs run, and the log of such changes.

use std::sync::Arc;

use axum::extract::{Path, Request, State};
use axum::http::{StatusCode, Uri};
use offloop_job::LimitTarget;
use offloop_job::limits::PAGE_ROWS_MAX;
use offloop_store::{AuditAsk, AuditEntry, BlockedBy, LimitSet, LimitStatus, Origin};
use offloop_wire::{AuditList, AuditView, LimitList, LimitView, format_time, read_limit};

use super::{Answer, empty, json};
use crate::body::collect;
use crate::door::Inner;
use crate::problem::{Kind, Refusal, of_body};
use crate::query::Query;

/// Who changed what came by this door.
pub(super) const BY_API: &str = "api";
const BODY_BYTES_MAX: usize = 4 << 10;
const LIMIT_DEFAULT: u16 = 100;

fn target(text: &str) -> Result<LimitTarget, Refusal> {
    LimitTarget::parse(text).map_err(|error| {
        let text = &text[..text.floor_char_boundary(64)];
        Kind::InvalidParameter
            .say(format!("{text:?} {error}"))
            .into()
    })
}

pub(super) async fn list(State(door): State<Arc<Inner>>, uri: Uri) -> Answer {
    let query = Query::read(&uri, &["limit", "cursor"])?;
    let after = query.cursor(|text| LimitTarget::parse(text).ok())?;
    let limit = query.limit(LIMIT_DEFAULT, PAGE_ROWS_MAX)?;
    let page = door.handle.limits(after, limit).await?;
    let limits = page.limits.iter().map(view).collect();
    let next_cursor = page.next.map(|target| target.to_string());
    json(
        StatusCode::OK,
        &LimitList {
            limits,
            next_cursor,
        },
    )
}

pub(super) async fn one(
    State(door): State<Arc<Inner>>,
    Path(text): Path<String>,
    uri: Uri,
) -> Answer {
    Query::none(&uri)?;
    answer(&door, &target(&text)?).await
}

pub(super) async fn put(
    State(door): State<Arc<Inner>>,
    Path(text): Path<String>,
    request: Request,
) -> Answer {
    let (parts, body) = request.into_parts();
    Query::none(&parts.uri)?;
    let target = target(&text)?;
    let collected = collect(body, BODY_BYTES_MAX, &door.collecting).await?;
    let limit =
        read_limit(&collected.bytes, &target).map_err(|error| of_body(error, Kind::InvalidBody))?;
    let set = door.handle.set_limit(target.clone(), Some(limit), BY_API);
    match set.await? {
        LimitSet::Done { .. } => answer(&door, &target).await,
        LimitSet::Full { limit } => Err(Kind::TooMany
            .say(format!(
                "there are {limit} limits, as many as one store keeps; remove one, or use key:* for all keys"
            ))
            .into()),
    }
}

pub(super) async fn remove(
    State(door): State<Arc<Inner>>,
    Path(text): Path<String>,
    uri: Uri,
) -> Answer {
    Query::none(&uri)?;
    let target = target(&text)?;
    match door.handle.set_limit(target.clone(), None, BY_API).await? {
        LimitSet::Done { before: Some(_) } => Ok(empty(StatusCode::NO_CONTENT)),
        LimitSet::Done { before: None } | LimitSet::Full { .. } => Err(none(&target)),
    }
}

pub(super) async fn audit(State(door): State<Arc<Inner>>, uri: Uri) -> Answer {
    let query = Query::read(&uri, &["subject", "limit", "cursor"])?;
    let page = door
        .handle
        .audit(AuditAsk {
            subject: query.text("subject").map(Into::into),
            before: query.cursor(|text| text.parse().ok())?,
            limit: query.limit(LIMIT_DEFAULT, PAGE_ROWS_MAX)?,
        })
        .await?;
    let entries = page.entries.into_iter().map(entry).collect();
    json(
        StatusCode::OK,
        &AuditList {
            entries,
            next_cursor: page.next,
        },
    )
}

/// A limit as it is now.
async fn answer(door: &Inner, target: &LimitTarget) -> Answer {
    let found = door.handle.limit(target.clone()).await?;
    let status = found.ok_or_else(|| none(target))?;
    json(StatusCode::OK, &view(&status))
}

fn none(target: &LimitTarget) -> Refusal {
    let detail = format!("there is no limit for {target}; GET /v1/limits lists them");
    Kind::NotFound.say(detail).into()
}

pub(super) fn view(status: &LimitStatus) -> LimitView {
    let limit = &status.limit;
    let (blocked_by, blocked_until) = match status.blocked {
        None => (None, None),
        Some(BlockedBy::Concurrency) => (Some("concurrency".into()), None),
        Some(BlockedBy::Rate(until)) => (Some("rate".into()), Some(format_time(until))),
    };
    LimitView {
        target: status.target.to_string(),
        concurrency: limit.concurrency,
        rate: limit.rate.map(|rate| rate.to_string()),
        burst: limit.rate.map(|rate| rate.burst),
        weight: limit.weight,
        origin: match status.origin {
            Origin::Api => "api".into(),
            Origin::File => "config".into(),
        },
        running: status.running,
        blocked_by,
        blocked_until,
    }
}

fn entry((number, entry): (u64, AuditEntry)) -> AuditView {
    AuditView {
        number,
        at: format_time(entry.at),
        actor: entry.actor.into(),
        subject: entry.subject.into(),
        action: entry.action.into(),
        before: entry.before.map(Into::into),
        after: entry.after.map(Into::into),
    }
}
