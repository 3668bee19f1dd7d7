//! Jobs by tag: written with the job, gone with it. A job without tags costs nothing here.

use offloop_job::Tag;
use offloop_store::codec;
use rusqlite::OptionalExtension;

use super::Desk;
use crate::errors::Failure;
use crate::index::Row;

impl Desk<'_> {
    pub(super) fn note_tags(&self, row: Row, tags: &[Tag]) -> Result<(), Failure> {
        for tag in tags {
            let sql = "INSERT OR IGNORE INTO job_tags VALUES (?1, ?2)";
            let mut write = self.conn.prepare_cached(sql)?;
            write.execute((tag.as_str(), row as i64))?;
        }
        Ok(())
    }

    /// Of a finished job that is about to go.
    pub(super) fn forget_tags(&self, row: Row) -> Result<(), Failure> {
        let sql = "SELECT options FROM history WHERE id = ?1 AND options IS NOT NULL";
        let mut read = self.conn.prepare_cached(sql)?;
        let options: Option<String> = read.query_row([row as i64], |row| row.get(0)).optional()?;
        let tags: Vec<Tag> = options.iter().flat_map(|text| codec::tags(text)).collect();
        self.forget_tags_of(row, &tags)
    }

    pub(super) fn forget_tags_of(&self, row: Row, tags: &[Tag]) -> Result<(), Failure> {
        for tag in tags {
            let sql = "DELETE FROM job_tags WHERE tag = ?1 AND job = ?2";
            let mut forget = self.conn.prepare_cached(sql)?;
            forget.execute((tag.as_str(), row as i64))?;
        }
        Ok(())
    }
}
