//! One job with everything, and pages of jobs.

use std::collections::HashSet;
use std::time::Duration;

use bytes::Bytes;
use offloop_job::limits::{ATTEMPTS_KEPT_MAX, PAGE_ROWS_MAX};
use offloop_job::{
    Attempt, FinalReason, Job, JobId, JobOptions, JobState, JobSummary, Lease, LogTail, Progress,
    QueueName, Tag, TaskName, Timestamp, Usage,
};
use offloop_store::{Cursor, JobFilter, JobPage, ListRequest, codec};
use rusqlite::{Connection, OptionalExtension, Row};

use super::ReadError;
use crate::meta;
use crate::tables::{
    Unreadable, failure, node, options, payload_blob, read_bytes, result_blob, timestamp,
};

/// Rows that one page looks at: some 20 ms.
const VISITED_MAX: usize = 20_000;

/// Columns 0 to 19 of both tables, in the order that `read` reads.
const LIVE: &str = "SELECT j.id, j.rnd, j.line, j.state, j.priority, \
    coalesce(r.attempt, j.attempt), r.cancelling, j.due_at, j.run_at, r.claimed_at, \
    NULL AS finished_at, NULL AS reason, j.class, j.exit_code, j.signal, j.options, j.message, \
    j.lease, r.lease, j.snoozes";
const LIVE_FROM: &str = "FROM jobs j LEFT JOIN running r ON r.job = j.id";
const ENDED: &str = "SELECT j.id, j.rnd, j.line, j.state, j.priority, j.attempt, NULL, \
    j.due_at, j.run_at, j.claimed_at, j.finished_at, j.reason, j.class, j.exit_code, \
    j.signal, j.options, j.message, j.lease, NULL, j.snoozes";

/// What a row says before names are looked up.
struct Found {
    summary: JobSummary,
    options: JobOptions,
    lease: Option<u64>,
}

pub(in crate::reader) type Answer<T> = Result<T, ReadError>;

pub(crate) fn job(conn: &Connection, id: JobId) -> Answer<Option<Job>> {
    let promoted = meta::read(conn, meta::PROMOTED)?;
    if let Some(job) = live_job(conn, id, promoted)? {
        return Ok(Some(job));
    }
    ended_job(conn, id, promoted)
}

fn live_job(conn: &Connection, id: JobId, promoted: u64) -> Answer<Option<Job>> {
    let sql = format!("{LIVE}, j.payload, r.node, r.note_at, r.note {LIVE_FROM} WHERE j.id = ?1");
    let mut query = conn.prepare_cached(&sql)?;
    let mut rows = query.query([id.order() as i64])?;
    let Some(row) = rows.next()? else {
        return Ok(None);
    };
    let found = read(conn, row, promoted)?;
    if found.summary.id != id {
        return Ok(None);
    }
    let mut attempts = earlier_attempts(conn, id)?;
    if let (Some(lease), Some(started_at)) = (row.get(18)?, found.summary.started_at) {
        attempts.push(Attempt {
            number: found.summary.attempt,
            lease: Lease(lease),
            node: node(&word(conn, row.get(21)?)?),
            lane: "".into(),
            executor: "".into(),
            started_at,
            ended_at: None,
            wait: started_at.since(found.summary.due_at),
            usage: Usage::default(),
            failure: None,
            log: LogTail::default(),
        });
    }
    keep_last(&mut attempts);
    let mut progress = None;
    if let Some(at) = timestamp(row, 22)? {
        let note = row.get::<_, Vec<u8>>(23)?.into();
        progress = Some(Progress { at, note });
    }
    let payload = read_bytes(conn, row, 20, payload_blob(id.order()))?;
    Ok(Some(Job {
        payload: payload.unwrap_or_default(),
        summary: found.summary,
        options: found.options,
        attempts,
        progress,
        result: None,
        checkpoint: checkpoint(conn, id)?,
    }))
}

fn ended_job(conn: &Connection, id: JobId, promoted: u64) -> Answer<Option<Job>> {
    let sql = format!(
        "{ENDED}, j.payload, j.result, j.attempt_failed, j.node, j.lane, j.executor, \
         j.started_at, j.ended_at, j.wait_us, j.wall_us, j.cpu_us, j.max_rss, j.log_head, \
         j.log_tail, j.log_dropped, j.bytes_in, j.bytes_out, j.age_us FROM history j \
         WHERE j.id = ?1"
    );
    let mut query = conn.prepare_cached(&sql)?;
    let mut rows = query.query([id.order() as i64])?;
    let Some(row) = rows.next()? else {
        return Ok(None);
    };
    let found = read(conn, row, promoted)?;
    if found.summary.id != id {
        return Ok(None);
    }
    let mut attempts = earlier_attempts(conn, id)?;
    if let (Some(started_at), Some(lease)) = (timestamp(row, 26)?, found.lease) {
        let failed: bool = row.get(22)?;
        attempts.push(Attempt {
            number: found.summary.attempt,
            lease: Lease(lease),
            node: node(&word(conn, row.get(23)?)?),
            lane: word(conn, row.get(24)?)?,
            executor: row.get(25)?,
            started_at,
            ended_at: timestamp(row, 27)?,
            wait: Duration::from_micros(row.get(28)?),
            usage: usage(row, 29, 35)?,
            failure: found.summary.failure.clone().filter(|_| failed),
            log: log(row, 32)?,
        });
    }
    keep_last(&mut attempts);
    let payload = read_bytes(conn, row, 20, payload_blob(id.order()))?;
    let mut result = None;
    if found.summary.state == JobState::Completed {
        result = read_bytes(conn, row, 21, result_blob(id.order()))?;
    }
    Ok(Some(Job {
        summary: found.summary,
        payload: payload.unwrap_or_default(),
        options: found.options,
        attempts,
        progress: None,
        result,
        checkpoint: checkpoint(conn, id)?,
    }))
}

fn checkpoint(conn: &Connection, id: JobId) -> Answer<Option<Bytes>> {
    let mut query = conn.prepare_cached("SELECT data FROM checkpoints WHERE job = ?1")?;
    let found = query.query_row([id.order() as i64], |row| {
        Ok(Bytes::copy_from_slice(row.get_ref(0)?.as_blob()?))
    });
    Ok(found.optional()?)
}

fn keep_last(attempts: &mut Vec<Attempt>) {
    let dropped = attempts.len().saturating_sub(ATTEMPTS_KEPT_MAX);
    attempts.drain(..dropped);
}

fn earlier_attempts(conn: &Connection, id: JobId) -> Answer<Vec<Attempt>> {
    let sql = "SELECT number, lease, n.text, l.text, executor, started_at, ended_at, wait_us, \
               wall_us, cpu_us, max_rss, class, message, exit_code, signal, log_head, log_tail, \
               log_dropped, bytes_in, bytes_out, age_us FROM attempts a JOIN words n ON n.id = a.node \
               JOIN words l ON l.id = a.lane WHERE a.job = ?1 ORDER BY lease";
    let mut query = conn.prepare_cached(sql)?;
    let attempts = query.query_map([id.order() as i64], |row| {
        let message = row.get_ref(12)?.as_str_or_null()?;
        Ok(Attempt {
            number: row.get(0)?,
            lease: Lease(row.get(1)?),
            node: node(row.get_ref(2)?.as_str()?),
            lane: row.get(3)?,
            executor: row.get(4)?,
            started_at: timestamp(row, 5)?.unwrap_or_default(),
            ended_at: timestamp(row, 6)?,
            wait: Duration::from_micros(row.get(7)?),
            usage: usage(row, 8, 18)?,
            failure: failure(row.get(11)?, message, row.get(13)?, row.get(14)?),
            log: log(row, 15)?,
        })
    })?;
    Ok(attempts.collect::<Result<_, _>>()?)
}

/// Three columns at `at`: wall, cpu, max_rss; three more at `more`: bytes in, bytes out, age.
fn usage(row: &Row<'_>, at: usize, more: usize) -> rusqlite::Result<Usage> {
    let cpu: Option<u64> = row.get(at + 1)?;
    let bytes = |at| Ok::<_, rusqlite::Error>(row.get::<_, Option<u64>>(at)?.unwrap_or(0));
    let age: Option<u64> = row.get(more + 2)?;
    Ok(Usage {
        wall: Duration::from_micros(row.get(at)?),
        cpu: cpu.map(Duration::from_micros),
        max_rss_bytes: row.get(at + 2)?,
        bytes_in: bytes(more)?,
        bytes_out: bytes(more + 1)?,
        executor_age: age.map(Duration::from_micros),
    })
}

/// Three columns: head, tail, dropped.
fn log(row: &Row<'_>, at: usize) -> rusqlite::Result<LogTail> {
    let bytes = |at| {
        row.get::<_, Option<Vec<u8>>>(at)
            .map(Option::unwrap_or_default)
    };
    Ok(LogTail {
        head: bytes(at)?.into(),
        tail: bytes(at + 1)?.into(),
        dropped_bytes: row.get::<_, Option<u64>>(at + 2)?.unwrap_or(0),
    })
}

fn word(conn: &Connection, id: Option<u32>) -> Answer<Box<str>> {
    let mut query = conn.prepare_cached("SELECT text FROM words WHERE id = ?1")?;
    let text = query.query_row([id], |row| row.get(0)).optional()?;
    Ok(text.unwrap_or_default())
}

/// Columns 0 to 19.
fn read(conn: &Connection, row: &Row<'_>, promoted: u64) -> Answer<Found> {
    let order: u64 = row.get(0)?;
    let unreadable = |what: String| Unreadable { row: order, what };
    let mut names = conn.prepare_cached("SELECT queue, task FROM lines WHERE id = ?1")?;
    let (queue, task): (String, String) = names.query_row([row.get::<_, i64>(2)?], |row| {
        Ok((row.get(0)?, row.get(1)?))
    })?;
    let queue = QueueName::parse(&queue).map_err(|error| unreadable(error.to_string()))?;
    let task = TaskName::parse(&task).map_err(|error| unreadable(error.to_string()))?;
    let text = |at| -> rusqlite::Result<Option<&str>> { Ok(row.get_ref(at)?.as_str_or_null()?) };
    let options = options(&queue, row.get(4)?, row.get(8)?, text(15)?).map_err(unreadable)?;
    let due_at: u64 = row.get(7)?;
    let state = state_of(row, promoted)?.ok_or_else(|| unreadable("its state is none".into()))?;
    let reason: Option<u8> = row.get(11)?;
    let summary = JobSummary {
        id: JobId::from_parts(order, row.get(1)?),
        task,
        queue,
        state,
        priority: options.priority,
        tags: options.tags.clone(),
        created_at: JobId::from_parts(order, 0).created(),
        due_at: Timestamp::from_millis(due_at),
        started_at: timestamp(row, 9)?,
        finished_at: timestamp(row, 10)?,
        attempt: row.get(5)?,
        max_attempts: options.retry.max_attempts,
        snoozes: row.get::<_, Option<u16>>(19)?.unwrap_or(0),
        reason: reason.and_then(FinalReason::from_code),
        failure: failure(row.get(12)?, text(16)?, row.get(13)?, row.get(14)?),
        cancelling: row.get::<_, Option<bool>>(6)?.unwrap_or(false),
    };
    let lease = row.get(17)?;
    Ok(Found {
        summary,
        options,
        lease,
    })
}

/// Of columns 3, 7 and 18; `None` if it is no state.
fn state_of(row: &Row<'_>, promoted: u64) -> rusqlite::Result<Option<JobState>> {
    if row.get::<_, Option<u64>>(18)?.is_some() {
        return Ok(Some(JobState::Running));
    }
    Ok(match row.get::<_, i64>(3)? {
        -1 => Some(JobState::Scheduled),
        1 if row.get::<_, u64>(7)? <= promoted => Some(JobState::Ready),
        code => u8::try_from(code).ok().and_then(JobState::from_code),
    })
}

/// Newest first over both tables, merged by row number.
pub(crate) fn page(conn: &Connection, ask: &ListRequest) -> Answer<JobPage> {
    let empty = JobPage {
        jobs: Vec::new(),
        next: None,
    };
    let Some(lines) = lines(conn, &ask.filter)? else {
        return Ok(empty);
    };
    let before = match &ask.cursor {
        None => i64::MAX,
        Some(cursor) => cursor.0.parse::<JobId>().map_or(0, |id| id.order() as i64),
    };
    let promoted = meta::read(conn, meta::PROMOTED)?;
    // An id begins with its time, so a page never looks at rows of another one.
    let row_at = |at: Timestamp| JobId::from_parts(at.as_millis() << 12, 0).order() as i64;
    let created = &ask.filter.created;
    let before = created.before.map_or(before, |at| before.min(row_at(at)));
    let from = created.from.map_or(0, row_at);
    let way = Way::of(conn, &ask.filter)?;
    let (live, ended) = way.arms();
    let is_final = match ask.filter.state.map(JobState::is_final) {
        None if !ask.filter.finished.is_open() => Some(true),
        asked => asked,
    };
    let sql = match is_final {
        None => format!("{live} UNION ALL {ended} ORDER BY 1 DESC"),
        Some(true) => format!("{ended} ORDER BY 1 DESC"),
        Some(false) => format!("{live} ORDER BY 1 DESC"),
    };
    let limit = usize::from(ask.limit.clamp(1, PAGE_ROWS_MAX));
    let mut query = conn.prepare_cached(&sql)?;
    let mut rows = match way {
        Way::All | Way::Running => query.query((before, from))?,
        Way::Tag(tag) => query.query((before, from, tag.as_str()))?,
        Way::Class(code) | Way::Unwell(code) => query.query((before, from, code))?,
    };
    let mut jobs: Vec<JobSummary> = Vec::new();
    let mut visited = 0;
    let mut last: Option<JobId> = None;
    while let Some(row) = rows.next()? {
        if jobs.len() == limit || visited == VISITED_MAX {
            let next = last.map(|id| Cursor(id.to_string().into()));
            return Ok(JobPage { jobs, next });
        }
        visited += 1;
        last = Some(JobId::from_parts(row.get(0)?, row.get(1)?));
        if !lines.fit(row.get(2)?) || !fits(row, &ask.filter, promoted)? {
            continue;
        }
        let found = read(conn, row, promoted)?;
        let has = |tag| found.summary.tags.contains(tag);
        if ask.filter.tags.iter().all(has) {
            jobs.push(found.summary);
        }
    }
    Ok(JobPage { jobs, next: None })
}

/// Of several tags the one that fewest jobs have, as far as a page would look: its jobs are gone through
/// and the others are looked for in them.
fn rarest<'t>(conn: &Connection, tags: &'t [Tag]) -> Answer<Option<&'t Tag>> {
    if tags.len() < 2 {
        return Ok(tags.first());
    }
    let sql = "SELECT count(*) FROM (SELECT 1 FROM job_tags WHERE tag = ?1 LIMIT ?2)";
    let mut query = conn.prepare_cached(sql)?;
    let mut least: Option<(u64, &Tag)> = None;
    for tag in tags {
        let count: u64 = query.query_row((tag.as_str(), VISITED_MAX as i64), |row| row.get(0))?;
        if least.is_none_or(|(fewest, _)| count < fewest) {
            least = Some((count, tag));
        }
    }
    Ok(least.map(|(_, tag)| tag))
}

/// How a page comes by its rows: by what fewest jobs have, as far as there is an index of it.
#[derive(Clone, Copy)]
enum Way<'t> {
    All,
    Tag(&'t Tag),
    Class(u8),
    /// An end that is not `completed`.
    Unwell(u8),
    Running,
}

impl<'t> Way<'t> {
    fn of(conn: &Connection, filter: &'t JobFilter) -> Answer<Self> {
        if let Some(tag) = rarest(conn, &filter.tags)? {
            return Ok(Self::Tag(tag));
        }
        if let Some(class) = filter.class {
            return Ok(Self::Class(class as u8));
        }
        Ok(match filter.state {
            Some(JobState::Running) => Self::Running,
            Some(state) if state.is_final() && state != JobState::Completed => {
                Self::Unwell(state as u8)
            }
            _ => Self::All,
        })
    }

    /// The live and the finished jobs between ?2 and ?1, each in the order of the index that leads to
    /// them, so that neither has to be sorted. A partial index is only taken where its condition stands
    /// in the query as it is.
    fn arms(self) -> (String, String) {
        let range = "j.id < ?1 AND j.id >= ?2";
        let live = |jobs: &str, more: &str| {
            let from = LIVE_FROM.replacen("jobs j", jobs, 1);
            format!("{LIVE} {from} WHERE {range}{more}")
        };
        let ended =
            |history: &str, more: &str| format!("{ENDED} FROM {history} WHERE {range}{more}");
        let every = (live("jobs j", ""), ended("history j", ""));
        match self {
            Self::All => every,
            Self::Tag(_) => {
                let of_tag = "WHERE g.tag = ?3 AND g.job < ?1 AND g.job >= ?2";
                let (live, ended) = (by(LIVE, "g.job"), by(ENDED, "g.job"));
                let tags = "FROM job_tags g CROSS JOIN";
                let running = "LEFT JOIN running r ON r.job = j.id";
                (
                    format!("{live} {tags} jobs j ON j.id = g.job {running} {of_tag}"),
                    format!("{ended} {tags} history j ON j.id = g.job {of_tag}"),
                )
            }
            Self::Class(_) => {
                let of_class = " AND j.class = ?3 AND j.class IS NOT NULL";
                (
                    live("jobs j INDEXED BY jobs_class", of_class),
                    ended("history j INDEXED BY history_class", of_class),
                )
            }
            Self::Unwell(_) => {
                let completed = JobState::Completed as u8;
                let of_state = format!(" AND j.state = ?3 AND j.state <> {completed}");
                let unwell = ended("history j INDEXED BY history_unwell", &of_state);
                (every.0, unwell)
            }
            Self::Running => {
                let running = "FROM running r CROSS JOIN jobs j ON j.id = r.job";
                let live = by(LIVE, "r.job");
                let of_running = "WHERE r.job < ?1 AND r.job >= ?2";
                (format!("{live} {running} {of_running}"), every.1)
            }
        }
    }
}

/// The same columns, the row's number by another name for it.
fn by(select: &str, id: &str) -> String {
    select.replacen("SELECT j.id", &format!("SELECT {id}"), 1)
}

/// What can be told by numbers, before names and options are read.
fn fits(row: &Row<'_>, filter: &JobFilter, promoted: u64) -> Answer<bool> {
    if let Some(state) = filter.state
        && state_of(row, promoted)? != Some(state)
    {
        return Ok(false);
    }
    if let Some(class) = filter.class
        && row.get::<_, Option<u8>>(12)? != Some(class as u8)
    {
        return Ok(false);
    }
    if let Some(name) = &filter.schedule {
        let text: Option<String> = row.get(15)?;
        if text
            .as_deref()
            .and_then(codec::schedule)
            .is_none_or(|by| by.name != *name)
        {
            return Ok(false);
        }
    }
    if !filter.finished.is_open() {
        let at: Option<u64> = row.get(10)?;
        if !at.is_some_and(|at| filter.finished.holds(Timestamp::from_millis(at))) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Which lines a filter takes.
enum Lines {
    All,
    Some(HashSet<i64>),
}

impl Lines {
    fn fit(&self, line: i64) -> bool {
        match self {
            Self::All => true,
            Self::Some(lines) => lines.contains(&line),
        }
    }
}

/// `None` if no job can fit.
fn lines(conn: &Connection, filter: &JobFilter) -> Answer<Option<Lines>> {
    if filter.task.is_none() && filter.queue.is_none() {
        return Ok(Some(Lines::All));
    }
    let sql = "SELECT id FROM lines WHERE (?1 IS NULL OR task = ?1) AND (?2 IS NULL OR queue = ?2)";
    let mut query = conn.prepare_cached(sql)?;
    let task = filter.task.as_ref().map(TaskName::as_str);
    let queue = filter.queue.as_ref().map(QueueName::as_str);
    let lines = query.query_map((task, queue), |row| row.get(0))?;
    let lines: HashSet<i64> = lines.collect::<Result<_, _>>()?;
    Ok((!lines.is_empty()).then_some(Lines::Some(lines)))
}
