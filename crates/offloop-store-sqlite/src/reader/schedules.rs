//! Schedules and pages of their ledger.

use std::sync::Arc;
use std::time::Duration;

use offloop_job::limits::PAGE_ROWS_MAX;
use offloop_job::{JobId, Overlap, QueueName, ScheduleName, ScheduleSpec, TaskName, Timestamp};
use offloop_store::{
    LedgerAsk, LedgerOutcome, LedgerPage, LedgerPlace, LedgerRow, Origin, ScheduleRow, Stretch,
    schedule_text,
};
use rusqlite::{Connection, OptionalExtension, Row};

use super::jobs::Answer;
use crate::tables::{options, timestamp};

const ROW: &str = "SELECT s.name, s.origin, s.revision, s.created_at, s.updated_at, s.paused, \
    s.timing, s.timezone, s.missed, s.overlap, s.jitter_ms, s.alert_after_ms, s.starts_at, \
    s.ends_at, s.task, s.queue, s.priority, s.options, s.payload, t.next_due, t.held \
    FROM schedules s JOIN schedule_times t ON t.schedule = s.id";

pub(crate) fn one(conn: &Connection, name: &ScheduleName) -> Answer<Option<ScheduleRow>> {
    Ok(find(conn, name)?)
}

/// For the writer too, which must see what it has not committed yet.
pub(crate) fn find(
    conn: &Connection,
    name: &ScheduleName,
) -> rusqlite::Result<Option<ScheduleRow>> {
    let mut query = conn.prepare_cached(&format!("{ROW} WHERE s.name = ?1"))?;
    query.query_row([name.as_str()], read).optional()
}

pub(crate) fn page(
    conn: &Connection,
    after: Option<&ScheduleName>,
    limit: u16,
) -> Answer<Vec<ScheduleRow>> {
    let sql = format!("{ROW} WHERE s.name > ?1 ORDER BY s.name LIMIT ?2");
    let mut query = conn.prepare_cached(&sql)?;
    let after = after.map_or("", ScheduleName::as_str);
    let limit = limit.clamp(1, PAGE_ROWS_MAX);
    let rows = query.query_map((after, limit), read)?;
    Ok(rows.collect::<Result<_, _>>()?)
}

fn millis(row: &Row<'_>, at: usize) -> rusqlite::Result<Duration> {
    Ok(Duration::from_millis(row.get(at)?))
}

/// A text that this program does not know: a newer one wrote it.
#[expect(
    clippy::needless_pass_by_value,
    reason = "so that `map_err` can name it"
)]
fn unknown(at: usize, what: impl ToString) -> rusqlite::Error {
    let text = rusqlite::types::Type::Text;
    rusqlite::Error::FromSqlConversionFailure(at, text, what.to_string().into())
}

fn read(row: &Row<'_>) -> rusqlite::Result<ScheduleRow> {
    let text = |at: usize| -> rusqlite::Result<&str> { Ok(row.get_ref(at)?.as_str()?) };
    let known = |at: usize| move || unknown(at, "a word that this version does not know");
    let queue = QueueName::parse(text(15)?).map_err(|error| unknown(15, error))?;
    let rare = row.get_ref(17)?.as_str_or_null()?;
    let spec = ScheduleSpec {
        task: TaskName::parse(text(14)?).map_err(|error| unknown(14, error))?,
        payload: row.get::<_, Vec<u8>>(18)?.into(),
        options: options(&queue, row.get(16)?, None, rare).map_err(|what| unknown(17, what))?,
        timing: schedule_text::read_timing(text(6)?).ok_or_else(known(6))?,
        timezone: text(7)?.into(),
        missed: schedule_text::read_missed(text(8)?).ok_or_else(known(8))?,
        overlap: Overlap::from_name(text(9)?).ok_or_else(known(9))?,
        jitter: millis(row, 10)?,
        paused: row.get(5)?,
        starts_at: timestamp(row, 12)?,
        ends_at: timestamp(row, 13)?,
        alert_after: millis(row, 11)?,
    };
    Ok(ScheduleRow {
        name: ScheduleName::parse(text(0)?).map_err(|error| unknown(0, error))?,
        spec: Arc::new(spec),
        origin: match row.get(1)? {
            0 => Origin::Api,
            _ => Origin::File,
        },
        revision: row.get(2)?,
        created_at: Timestamp::from_millis(row.get(3)?),
        updated_at: Timestamp::from_millis(row.get(4)?),
        next_due: timestamp(row, 19)?,
        held: timestamp(row, 20)?,
    })
}

pub(crate) fn ledger(conn: &Connection, ask: &LedgerAsk) -> Answer<LedgerPage> {
    let mut query = conn.prepare_cached("SELECT id FROM schedules WHERE name = ?1")?;
    let id = query.query_row([ask.name.as_str()], |row| row.get::<_, i64>(0));
    let Some(id) = id.optional()? else {
        return Ok(LedgerPage {
            rows: None,
            next: None,
        });
    };
    let sql = "SELECT due_at, by_hand, at, late_ms, job, rnd, reason, until, count FROM ledger \
               WHERE schedule = ?1 AND (due_at, by_hand) < (?2, ?3) \
               ORDER BY due_at DESC, by_hand DESC LIMIT ?4";
    let mut query = conn.prepare_cached(sql)?;
    let before = ask.before.map_or((i64::MAX, 0), |before| {
        (before.due_at.as_millis() as i64, i64::from(before.by_hand))
    });
    let limit = usize::from(ask.limit.clamp(1, PAGE_ROWS_MAX));
    let rows = query.query_map((id, before.0, before.1, limit as i64 + 1), read_ledger)?;
    let mut rows = rows.collect::<Result<Vec<_>, _>>()?;
    let more = rows.len() > limit;
    rows.truncate(limit);
    let next: Option<LedgerPlace> = rows.last().filter(|_| more).map(LedgerRow::place);
    Ok(LedgerPage {
        rows: Some(rows),
        next,
    })
}

fn read_ledger(row: &Row<'_>) -> rusqlite::Result<LedgerRow> {
    let outcome = match row.get::<_, Option<u64>>(4)? {
        Some(order) => LedgerOutcome::Fired {
            job: JobId::from_parts(order, row.get(5)?),
            by_hand: row.get(1)?,
        },
        None => LedgerOutcome::Skipped {
            reason: row.get::<_, Option<Box<str>>>(6)?.unwrap_or_default(),
            stretch: match timestamp(row, 7)? {
                Some(until) => Some(Stretch {
                    until,
                    count: row.get(8)?,
                }),
                None => None,
            },
        },
    };
    Ok(LedgerRow {
        due_at: Timestamp::from_millis(row.get(0)?),
        late: millis(row, 3)?,
        outcome,
        at: Timestamp::from_millis(row.get(2)?),
    })
}
