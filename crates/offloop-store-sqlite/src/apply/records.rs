//! Rows of packs, in the commit of the jobs that they belong to.

use offloop_job::{RecordWrite, TaskName, Timestamp};
use rusqlite::OptionalExtension;

use super::Desk;
use crate::errors::Failure;

impl Desk<'_> {
    pub(super) fn write_records(
        &mut self,
        now: Timestamp,
        writes: &[RecordWrite],
    ) -> Result<(), Failure> {
        for write in writes {
            self.write_record(now, write)?;
        }
        Ok(())
    }

    fn write_record(&mut self, now: Timestamp, write: &RecordWrite) -> Result<(), Failure> {
        let place = (write.collection.as_str(), &*write.key);
        let sql = "SELECT label FROM records WHERE collection = ?1 AND key = ?2";
        let mut query = self.conn.prepare_cached(sql)?;
        let same = query.query_row(place, |row| {
            let old = row.get_ref(0)?.as_str()?;
            let label = write.label.as_ref();
            // The usual second write keeps or changes the label; only a change is counted.
            Ok(if label.is_some_and(|label| label.as_str() == old) {
                None
            } else {
                TaskName::parse(old).ok()
            })
        });
        let before = same.optional()?;
        if let Some(Some(old)) = &before {
            self.index.labels.change(&write.collection, old, -1);
        }
        let Some(label) = &write.label else {
            let sql = "DELETE FROM records WHERE collection = ?1 AND key = ?2";
            self.conn.prepare_cached(sql)?.execute(place)?;
            return Ok(());
        };
        if !matches!(before, Some(None)) {
            self.index.labels.change(&write.collection, label, 1);
        }
        let sql = "INSERT OR REPLACE INTO records VALUES (?1, ?2, ?3, ?4, ?5)";
        let row = (
            place.0,
            place.1,
            label.as_str(),
            now.as_millis() as i64,
            &*write.value,
        );
        self.conn.prepare_cached(sql)?.execute(row)?;
        Ok(())
    }

    /// Counts that changed in this transaction go on file, so that a start need not count rows.
    pub(super) fn flush_labels(&mut self) -> Result<(), Failure> {
        for (collection, label, count) in self.index.labels.take_changed() {
            let sql = "INSERT OR REPLACE INTO record_counts VALUES (?1, ?2, ?3)";
            let row = (collection.as_str(), label.as_str(), count as i64);
            self.conn.prepare_cached(sql)?.execute(row)?;
        }
        Ok(())
    }
}
