//! The store with its promises broken on purpose: the reliability campaigns must notice.
//!
//! Answers before the commit, holds the commit back, goes on with a handle that failed. Built only
//! with the feature `sabotage`; never for use.

use std::time::Duration;

use rusqlite::Connection;

use crate::calls::Command;

const HELD_BACK: Duration = Duration::from_millis(20);

/// Jobs are "taken in" and "ended" while nothing of it is on disk.
pub(crate) fn answer_early(batch: &mut Vec<Command>) {
    let promised = batch.extract_if(.., |command| {
        matches!(command, Command::Insert(_) | Command::Settle(_))
    });
    for command in promised {
        command.finish();
    }
    std::thread::sleep(HELD_BACK);
}

/// Goes on with the handle that has just failed, and says that all is well.
pub(crate) fn carry_on(conn: &Connection, batch: &mut Vec<Command>) {
    let _ = conn.execute_batch("ROLLBACK"); // often rolled back already
    for command in batch.drain(..) {
        command.finish();
    }
}
