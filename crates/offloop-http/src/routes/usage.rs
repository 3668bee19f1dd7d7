//! What attempts cost, summed.

use std::sync::Arc;

use axum::extract::State;
use axum::http::{StatusCode, Uri};
use offloop_store::{USAGE_HOUR, USAGE_ROWS_MAX, UsageAsk, UsageBy, UsageRow};
use offloop_wire::{UsageRowView, UsageView, format_time, parse_since};

use super::{Answer, json};
use crate::door::Inner;
use crate::query::Query;

const LIMIT_DEFAULT: u16 = 100;
/// A day.
const HOURS_DEFAULT: u32 = 24;

pub(super) async fn usage(State(door): State<Arc<Inner>>, uri: Uri) -> Answer {
    let query = Query::read(&uri, &["by", "since", "limit"])?;
    let now = door.handle.now();
    let by = query.with("by", |text| {
        UsageBy::from_name(text).ok_or_else(|| {
            let known = UsageBy::ALL.map(UsageBy::as_str).join(", ");
            format!("is {text:?}; known are {known}")
        })
    })?;
    let since = query.with("since", |text| parse_since(text, now))?;
    let by = by.unwrap_or(UsageBy::Task);
    let sums = door
        .handle
        .usage(UsageAsk {
            by,
            since: since.unwrap_or_else(|| now.minus(USAGE_HOUR * HOURS_DEFAULT)),
            limit: query.limit(LIMIT_DEFAULT, USAGE_ROWS_MAX)?,
        })
        .await?;
    let body = UsageView {
        by: by.as_str().into(),
        since: format_time(sums.since),
        rows: sums.rows.iter().map(row).collect(),
        truncated: sums.truncated,
    };
    json(StatusCode::OK, &body)
}

fn row(row: &UsageRow) -> UsageRowView {
    let total = &row.total;
    let failed = row.failed.iter();
    UsageRowView {
        name: row.name.as_deref().map(Into::into),
        attempts: total.attempts,
        completed: row.completed,
        failed: failed
            .map(|(class, count)| (class.as_str().into(), *count))
            .collect(),
        wall_ms: total.wall_us / 1_000,
        cpu_ms: total.cpu_us.map(|us| us / 1_000),
        wait_ms: total.wait_us / 1_000,
        max_rss_bytes: total.max_rss_bytes,
        bytes_in: total.bytes_in,
        bytes_out: total.bytes_out,
    }
}
