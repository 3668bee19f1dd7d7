//! The store with its promises broken on purpose: the reliability campaigns must notice.
//!
//! Answers before the commit, holds the commit back, goes on with a handle that failed. Or, where
//! `SABOTAGED_PART` says `decision`: a group is decided in one commit, and its follow-up taken in with
//! another. Built only with the feature `sabotage`; never for use.

use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use offloop_job::{GroupId, GroupState, JobId, TaskName, ThenOn};
use rusqlite::Connection;

use crate::calls::Command;

const HELD_BACK: Duration = Duration::from_millis(20);
const PUT_OFF_FOR: Duration = Duration::from_millis(300);

/// With nothing chosen, all but the parts that have names.
pub(crate) fn is(part: &str) -> bool {
    static CHOSEN: OnceLock<String> = OnceLock::new();
    #[expect(
        clippy::disallowed_methods,
        reason = "a broken build, and the store has no option for it"
    )]
    let chosen = CHOSEN.get_or_init(|| std::env::var("SABOTAGED_PART").unwrap_or_default());
    chosen == part
}

/// A follow-up that is still to be taken in.
pub(crate) type Owed = (GroupId, ThenOn, TaskName, GroupState);

static OWED: Mutex<Vec<(Instant, Owed)>> = Mutex::new(Vec::new());

/// `decision`: kept in memory alone, until upkeep finds it old enough.
pub(crate) fn puts_off(owed: Owed) -> bool {
    let chosen = is("decision");
    if chosen {
        let mut all = OWED.lock().unwrap_or_else(PoisonError::into_inner);
        all.push((Instant::now(), owed));
    }
    chosen
}

pub(crate) fn owed() -> Vec<Owed> {
    let mut all = OWED.lock().unwrap_or_else(PoisonError::into_inner);
    let old = all.extract_if(.., |(since, _)| since.elapsed() > PUT_OFF_FOR);
    old.map(|(_, owed)| owed).collect()
}

/// The group has its follow-up, if it lives so long.
pub(crate) fn name_late(
    conn: &Connection,
    group: GroupId,
    made: Option<JobId>,
) -> rusqlite::Result<()> {
    let place = |part: fn(&JobId) -> u64| made.as_ref().map(|id| part(id) as i64);
    let row = (
        group.order() as i64,
        place(|id| id.order()),
        place(|id| id.random()),
    );
    conn.execute(
        "UPDATE groups SET then_job = ?2, then_rnd = ?3 WHERE id = ?1",
        row,
    )
    .map(drop)
}

/// Jobs are "taken in" and "ended" while nothing of it is on disk.
pub(crate) fn answer_early(batch: &mut Vec<Command>) {
    if !is("") {
        return;
    }
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
