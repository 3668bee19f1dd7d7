//! The audit log, newest first.

use offloop_job::Timestamp;
use offloop_store::{AuditAsk, AuditEntry, AuditPage};
use rusqlite::{Connection, Row};

use super::jobs::Answer;

pub(crate) fn page(conn: &Connection, ask: &AuditAsk) -> Answer<AuditPage> {
    let sql = "SELECT id, at, actor, subject, action, before, after FROM audit \
               WHERE id < ?1 AND (?2 IS NULL OR subject = ?2) ORDER BY id DESC LIMIT ?3";
    let mut query = conn.prepare_cached(sql)?;
    let before = ask.before.map_or(i64::MAX, |before| before as i64);
    let limit = usize::from(ask.limit.max(1));
    let rows = query.query_map((before, ask.subject.as_deref(), limit as i64 + 1), entry)?;
    let mut entries = rows.collect::<Result<Vec<_>, _>>()?;
    let more = entries.len() > limit;
    entries.truncate(limit);
    let next = entries.last().filter(|_| more).map(|entry| entry.0);
    Ok(AuditPage { entries, next })
}

fn entry(row: &Row<'_>) -> rusqlite::Result<(u64, AuditEntry)> {
    let text = |at| row.get::<_, String>(at).map(String::into_boxed_str);
    let entry = AuditEntry {
        at: Timestamp::from_millis(row.get(1)?),
        actor: text(2)?,
        subject: text(3)?,
        action: text(4)?,
        before: row.get::<_, Option<String>>(5)?.map(String::into_boxed_str),
        after: row.get::<_, Option<String>>(6)?.map(String::into_boxed_str),
    };
    Ok((row.get(0)?, entry))
}
