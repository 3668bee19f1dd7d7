//! Rows of packs.

use offloop_job::{Collection, TaskName, Timestamp};
use offloop_store::{Record, RecordPage, RecordScan};
use rusqlite::{Connection, OptionalExtension, Row};

use super::jobs::Answer;

/// Rows that one page looks at, and the most that it can be asked for.
const VISITED_MAX: usize = 10_000;

pub(crate) fn record(
    conn: &Connection,
    collection: &Collection,
    key: &[u8],
) -> Answer<Option<Record>> {
    let sql = "SELECT key, label, updated_at, value FROM records \
               WHERE collection = ?1 AND key = ?2";
    let mut query = conn.prepare_cached(sql)?;
    Ok(query
        .query_row((collection.as_str(), key), read)
        .optional()?)
}

pub(crate) fn page(conn: &Connection, scan: &RecordScan) -> Answer<RecordPage> {
    let sql = "SELECT key, label, updated_at, value FROM records \
               WHERE collection = ?1 AND key > ?2 ORDER BY key";
    let mut query = conn.prepare_cached(sql)?;
    let after: &[u8] = scan.after.as_deref().unwrap_or_default();
    let mut rows = query.query((scan.collection.as_str(), after))?;
    let limit = (scan.limit as usize).clamp(1, VISITED_MAX);
    let mut records: Vec<Record> = Vec::new();
    let mut visited = 0;
    let mut last = None;
    while let Some(row) = rows.next()? {
        if records.len() == limit || visited == VISITED_MAX {
            return Ok(RecordPage {
                records,
                next: last,
            });
        }
        visited += 1;
        let full = visited == VISITED_MAX || records.len() + 1 == limit;
        let wanted = scan.label.as_ref();
        let label = row.get_ref(1)?.as_str().map_err(rusqlite::Error::from)?;
        let fits = wanted.is_none_or(|wanted| wanted.as_str() == label);
        if fits || full {
            let record = read(row)?;
            last = Some(record.key.clone());
            if fits {
                records.push(record);
            }
        }
    }
    Ok(RecordPage {
        records,
        next: None,
    })
}

fn read(row: &Row<'_>) -> rusqlite::Result<Record> {
    let label = TaskName::parse(row.get_ref(1)?.as_str()?);
    Ok(Record {
        key: row.get::<_, Vec<u8>>(0)?.into(),
        label: label.map_err(|error| {
            rusqlite::Error::FromSqlConversionFailure(1, rusqlite::types::Type::Text, error.into())
        })?,
        updated_at: Timestamp::from_millis(row.get(2)?),
        value: row.get::<_, Vec<u8>>(3)?.into(),
    })
}
