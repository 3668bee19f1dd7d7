//! What attempts cost, summed over hours.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use offloop_job::FailureClass;
use offloop_store::{
    USAGE_ROWS_MAX, UsageAsk, UsageRow, UsageSum, UsageSums, usage_hour, usage_hour_start,
};
use rusqlite::{Connection, Row};

use super::jobs::Answer;

/// Columns from `at` on: attempts, wall, cpu, wait, max_rss, bytes in and out.
pub(crate) fn read_sum(row: &Row<'_>, at: usize) -> rusqlite::Result<UsageSum> {
    Ok(UsageSum {
        attempts: row.get(at)?,
        wall_us: row.get(at + 1)?,
        cpu_us: row.get(at + 2)?,
        wait_us: row.get(at + 3)?,
        max_rss_bytes: row.get(at + 4)?,
        bytes_in: row.get(at + 5)?,
        bytes_out: row.get(at + 6)?,
    })
}

/// Added up here: SQLite's own sum fails where ours stops at its end.
pub(crate) fn sums(conn: &Connection, ask: UsageAsk) -> Answer<UsageSums> {
    let since = usage_hour(ask.since);
    let sql = "SELECT name, class, attempts, wall_us, cpu_us, wait_us, max_rss, bytes_in, \
               bytes_out FROM usage WHERE kind = ?1 AND hour >= ?2";
    let mut query = conn.prepare_cached(sql)?;
    let mut found = query.query((ask.by as u8, since as i64))?;
    let mut rows: BTreeMap<Box<str>, UsageRow> = BTreeMap::new();
    while let Some(row) = found.next()? {
        let class = u8::try_from(row.get::<_, i64>(1)?).ok();
        let class = class.and_then(FailureClass::from_code);
        let sum = read_sum(row, 2)?;
        let name = row.get_ref(0)?.as_str().map_err(rusqlite::Error::from)?;
        match rows.get_mut(name) {
            Some(row) => row.add(class, &sum),
            None => rows
                .entry(name.into())
                .or_insert_with(|| UsageRow {
                    name: (!name.is_empty()).then(|| name.into()),
                    ..UsageRow::default()
                })
                .add(class, &sum),
        }
    }
    let mut rows: Vec<_> = rows.into_values().collect();
    rows.sort_by_key(|row| Reverse(row.total.wall_us)); // stable: then by name
    let limit = usize::from(ask.limit.clamp(1, USAGE_ROWS_MAX));
    let truncated = rows.len() > limit;
    rows.truncate(limit);
    Ok(UsageSums {
        since: usage_hour_start(since),
        rows,
        truncated,
    })
}
