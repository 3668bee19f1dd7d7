//! Groups and their members, for screens.

use offloop_job::{
    Failures, Group, GroupId, GroupReason, GroupRule, GroupState, JobId, JobState, Tally, TaskName,
    ThenOn,
};
use offloop_store::{Cursor, GroupListRequest, GroupPage, MemberPage, MemberRequest};
use rusqlite::{Connection, Row};

use super::jobs::Answer;
use crate::meta;
use crate::tables::timestamp;

/// Rows that one page looks at.
const VISITED_MAX: usize = 20_000;

pub(crate) const GROUP: &str = "SELECT id, rnd, rule, state, hold, deadline, decided_at, reason, \
    total, completed, failed, cancelled, expired, failures, then_on, then_task, then_job, then_rnd \
    FROM groups";

/// The columns of [`GROUP`].
pub(crate) fn read_group(row: &Row<'_>) -> rusqlite::Result<Group> {
    let id = GroupId::from_parts(row.get(0)?, row.get(1)?);
    let code = |at| -> rusqlite::Result<Option<u8>> { row.get(at) };
    let then_task = row.get_ref(15)?.as_str_or_null()?;
    let then_job: Option<u64> = row.get(16)?;
    let then_rnd: Option<u64> = row.get(17)?;
    Ok(Group {
        id,
        rule: code(2)?.and_then(GroupRule::from_code).unwrap_or_default(),
        state: code(3)?.and_then(GroupState::from_code).unwrap_or_default(),
        hold: row.get(4)?,
        created_at: id.created(),
        deadline: timestamp(row, 5)?,
        decided_at: timestamp(row, 6)?,
        reason: code(7)?.and_then(GroupReason::from_code),
        tally: Tally {
            total: row.get(8)?,
            completed: row.get(9)?,
            failed: row.get(10)?,
            cancelled: row.get(11)?,
            expired: row.get(12)?,
        },
        failures: Failures::decode(row.get_ref(13)?.as_str_or_null()?.unwrap_or_default()),
        then_on: code(14)?.and_then(ThenOn::from_code),
        then_task: then_task.and_then(|task| TaskName::parse(task).ok()),
        then_job: then_job
            .zip(then_rnd)
            .map(|(order, rnd)| JobId::from_parts(order, rnd)),
    })
}

pub(crate) fn group(conn: &Connection, id: GroupId) -> Answer<Option<Group>> {
    let mut query = conn.prepare_cached(&format!("{GROUP} WHERE id = ?1"))?;
    let mut rows = query.query([id.order() as i64])?;
    let group = rows.next()?.map(read_group).transpose()?;
    Ok(group.filter(|group| group.id == id))
}

/// Newest first. The cursor is the id of the last row that was looked at.
pub(crate) fn page(conn: &Connection, ask: &GroupListRequest) -> Answer<GroupPage> {
    let before = match &ask.cursor {
        None => i64::MAX,
        Some(cursor) => cursor
            .0
            .parse::<GroupId>()
            .map_or(0, |id| id.order() as i64),
    };
    let mut query = conn.prepare_cached(&format!("{GROUP} WHERE id < ?1 ORDER BY id DESC"))?;
    let mut rows = query.query([before])?;
    let (mut groups, mut last) = (Vec::new(), None);
    let mut visited = 0;
    while let Some(row) = rows.next()? {
        if groups.len() == usize::from(ask.limit) || visited == VISITED_MAX {
            let next = last.map(|id: GroupId| Cursor(id.to_string().into()));
            return Ok(GroupPage { groups, next });
        }
        visited += 1;
        let group = read_group(row)?;
        last = Some(group.id);
        if ask.state.is_none_or(|state| group.state == state) {
            groups.push(group);
        }
    }
    Ok(GroupPage { groups, next: None })
}

/// In the order in which they were added, which is that of their ids.
pub(crate) fn members(conn: &Connection, ask: &MemberRequest) -> Answer<MemberPage> {
    let after = match &ask.cursor {
        None => 0,
        Some(cursor) => cursor
            .0
            .parse::<JobId>()
            .map_or(i64::MAX, |id| id.order() as i64),
    };
    let promoted = meta::read(conn, meta::PROMOTED)?;
    // What `jobs::state_of` says of a live job, else what the history says.
    let sql = "SELECT m.job, m.rnd, CASE WHEN r.job IS NOT NULL THEN 3 \
        WHEN j.state = -1 THEN 1 WHEN j.state = 1 AND j.due_at <= ?3 THEN 2 \
        ELSE coalesce(j.state, h.state) END FROM group_members m \
        LEFT JOIN jobs j ON j.id = m.job LEFT JOIN running r ON r.job = m.job \
        LEFT JOIN history h ON h.id = m.job \
        WHERE m.grp = ?1 AND m.job > ?2 ORDER BY m.job LIMIT ?4";
    let mut query = conn.prepare_cached(sql)?;
    let limit = usize::from(ask.limit);
    let group = ask.group.order() as i64;
    let rows = query.query_map((group, after, promoted as i64, limit as i64 + 1), |row| {
        let state: Option<u8> = row.get(2)?;
        let id = JobId::from_parts(row.get(0)?, row.get(1)?);
        Ok((id, state.and_then(JobState::from_code)))
    })?;
    let mut members: Vec<_> = rows.collect::<Result<_, _>>()?;
    let more = members.len() > limit;
    members.truncate(limit);
    let next = members.last().filter(|_| more);
    let next = next.map(|last| Cursor(last.0.to_string().into()));
    Ok(MemberPage { members, next })
}
