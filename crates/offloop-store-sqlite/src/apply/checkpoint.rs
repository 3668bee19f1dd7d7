//! What jobs leave for their next attempt. The index knows which jobs have something, so that the
//! others cost nothing.

use bytes::Bytes;
use offloop_job::Timestamp;
use offloop_store::{Checkpoint, CheckpointOutcome};
use rusqlite::OptionalExtension;

use super::Desk;
use crate::errors::Failure;
use crate::index::Row;
use crate::tables::ms;

impl Desk<'_> {
    pub(super) fn checkpoint(
        &mut self,
        now: Timestamp,
        note: &Checkpoint,
    ) -> Result<CheckpointOutcome, Failure> {
        let row = note.id.order();
        let held = self.index.running.get_mut(&row);
        let held = held.filter(|job| job.rnd == note.id.random() && job.lease == note.lease.0);
        let Some(held) = held else {
            return Ok(CheckpointOutcome::Stale);
        };
        // A row that nobody has in memory may have a streak; one without costs nothing.
        if note.advances && held.row.as_ref().is_none_or(|live| live.streak > 0) {
            if let Some(live) = &mut held.row {
                live.streak = 0;
            }
            let sql = "UPDATE jobs SET streak = 0 WHERE id = ?1";
            self.conn.prepare_cached(sql)?.execute([row as i64])?;
        }
        let sql = "INSERT OR REPLACE INTO checkpoints VALUES (?1, ?2, ?3)";
        let mut write = self.conn.prepare_cached(sql)?;
        write.execute((row as i64, ms(now), &*note.data))?;
        self.index.checkpoints.insert(row);
        Ok(CheckpointOutcome::Kept)
    }

    pub(super) fn checkpoint_of(&self, row: Row) -> Result<Option<Bytes>, Failure> {
        if !self.index.checkpoints.contains(&row) {
            return Ok(None);
        }
        let sql = "SELECT data FROM checkpoints WHERE job = ?1";
        let mut read = self.conn.prepare_cached(sql)?;
        let found = read.query_row([row as i64], |row| {
            Ok(Bytes::copy_from_slice(row.get_ref(0)?.as_blob()?))
        });
        Ok(found.optional()?)
    }

    pub(super) fn forget_checkpoint(&mut self, row: Row) -> Result<(), Failure> {
        if self.index.checkpoints.remove(&row) {
            let sql = "DELETE FROM checkpoints WHERE job = ?1";
            self.conn.prepare_cached(sql)?.execute([row as i64])?;
        }
        Ok(())
    }
}
