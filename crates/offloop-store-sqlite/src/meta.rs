//! The numbers that outlive a restart.

use rusqlite::{Connection, OptionalExtension};

/// Leases up to this number may have been given.
pub(crate) const LEASES_RESERVED: &str = "leases_reserved";
/// Scheduled jobs that are due by then are ready.
pub(crate) const PROMOTED: &str = "promoted";
/// Rows of the table history.
pub(crate) const FINISHED_ROWS: &str = "finished_rows";
/// Largest row number that was ever given: an id never returns, also if its job was deleted.
pub(crate) const LAST_ROW: &str = "last_row";

/// 0 for a number that was never written.
pub(crate) fn read(conn: &Connection, key: &str) -> rusqlite::Result<u64> {
    let mut query = conn.prepare_cached("SELECT value FROM meta WHERE key = ?1")?;
    let value = query.query_row([key], |row| row.get(0)).optional()?;
    Ok(value.unwrap_or(0))
}

pub(crate) fn write(conn: &Connection, key: &str, value: u64) -> rusqlite::Result<()> {
    let mut write = conn.prepare_cached("INSERT OR REPLACE INTO meta VALUES (?1, ?2)")?;
    write.execute((key, value as i64)).map(|_| ())
}
