//! What attempts cost, added up in memory and written with the commit of their settlements.
//!
//! The hours that are being written are held whole, with what the file has of them; a commit writes
//! the sums that it changed, one row per name and class however many attempts it settles. Told in
//! words in `offloop-store/src/usage.rs`.
//!
//! Must never: write a sum without its attempts' commit, or read the file for each of them.

use std::collections::{BTreeSet, HashMap};

use offloop_job::{FailureClass, Timestamp};
use offloop_store::{
    AttemptReport, USAGE_NAMES_MAX, UsageBy, UsageSum, codec, usage_hour, usage_kept_from,
};

use super::Desk;
use crate::errors::Failure;
use crate::index::LineId;
use crate::reader::usage::read_sum;
use crate::tables::{LiveRow, size};

/// Hours held between commits: this one, and the one before while its last attempts end.
const HOURS_HELD: usize = 2;
/// Without a failure, and every class.
const CELLS: usize = FailureClass::ALL.len() + 1;

/// The sums of one name in one hour, by how attempts ended: the class of a row, plus one.
struct Named {
    by: UsageBy,
    /// Empty for the names that came too late to have sums of their own.
    name: Box<str>,
    cells: [Cell; CELLS],
}

#[derive(Clone, Copy, Default)]
struct Cell {
    sum: UsageSum,
    changed: bool,
}

/// One hour, as the file will have it after the commit.
struct Hour {
    number: u64,
    rows: Vec<Named>,
    names: [HashMap<Box<str>, usize>; 3],
    /// Where the task and the queue of a line are in `rows`.
    lines: HashMap<LineId, (usize, usize)>,
    changed: Vec<(usize, usize)>,
}

impl Hour {
    fn new(number: u64) -> Self {
        Self {
            number,
            rows: Vec::new(),
            names: [HashMap::new(), HashMap::new(), HashMap::new()],
            lines: HashMap::new(),
            changed: Vec::new(),
        }
    }

    /// Where a name's sums are; those of the rest once it would be one too many.
    fn place(&mut self, by: UsageBy, name: &str) -> usize {
        let names = &self.names[by as usize];
        if let Some(at) = names.get(name) {
            return *at;
        }
        let named = names.len() - usize::from(names.contains_key(""));
        if named >= USAGE_NAMES_MAX && !name.is_empty() {
            return self.place(by, "");
        }
        self.insert(by, name)
    }

    fn insert(&mut self, by: UsageBy, name: &str) -> usize {
        self.rows.push(Named {
            by,
            name: name.into(),
            cells: [Cell::default(); CELLS],
        });
        let at = self.rows.len() - 1;
        self.names[by as usize].insert(name.into(), at);
        at
    }

    fn add(&mut self, at: usize, cell: usize, sum: &UsageSum) {
        let place = &mut self.rows[at].cells[cell];
        place.sum.add(sum);
        if !std::mem::replace(&mut place.changed, true) {
            self.changed.push((at, cell));
        }
    }
}

/// The hours that are held.
#[derive(Default)]
pub(super) struct Tally(Vec<Hour>);

impl Desk<'_> {
    /// Counts an attempt that is settled in this transaction and not handed back.
    pub(super) fn spend(
        &mut self,
        line: LineId,
        live: &LiveRow,
        report: &AttemptReport,
    ) -> Result<(), Failure> {
        let number = usage_hour(report.ended_at);
        let held = self.tally.0.iter().position(|hour| hour.number == number);
        let held = match held {
            Some(held) => held,
            None => self.load_hour(number)?,
        };
        let hour = &mut self.tally.0[held];
        let (task, queue) = if let Some(places) = hour.lines.get(&line) {
            *places
        } else {
            let (task, queue) = self.index.task_and_queue(line);
            let task = hour.place(UsageBy::Task, task.as_str());
            let queue = hour.place(UsageBy::Queue, queue.as_str());
            hour.lines.insert(line, (task, queue));
            (task, queue)
        };
        let class = report.failure.as_ref().map(|failure| failure.class);
        let cell = class.map_or(0, |class| class as usize + 1);
        let sum = UsageSum::of(report);
        hour.add(task, cell, &sum);
        hour.add(queue, cell, &sum);
        if let Some(options) = &live.options {
            let mut counted = BTreeSet::new();
            for tag in codec::tags(options) {
                if counted.insert(tag.clone()) {
                    let at = hour.place(UsageBy::Tag, tag.as_str());
                    hour.add(at, cell, &sum);
                }
            }
        }
        Ok(())
    }

    /// An hour as the file has it.
    fn load_hour(&mut self, number: u64) -> Result<usize, Failure> {
        let mut hour = Hour::new(number);
        let sql = "SELECT name, class, attempts, wall_us, cpu_us, wait_us, max_rss, bytes_in, \
                   bytes_out FROM usage WHERE kind = ?1 AND hour = ?2";
        let mut query = self.conn.prepare_cached(sql)?;
        for by in UsageBy::ALL {
            let mut rows = query.query((by as u8, number as i64))?;
            while let Some(row) = rows.next()? {
                let name = row.get_ref(0)?.as_str().map_err(rusqlite::Error::from)?;
                let known = hour.names[by as usize].get(name).copied();
                let at = known.unwrap_or_else(|| hour.insert(by, name));
                let cell = usize::try_from(row.get::<_, i64>(1)? + 1).unwrap_or(CELLS);
                // A class of a newer version is left as it is.
                if let Some(cell) = hour.rows[at].cells.get_mut(cell) {
                    cell.sum = read_sum(row, 2)?;
                }
            }
        }
        self.tally.0.push(hour);
        Ok(self.tally.0.len() - 1)
    }

    /// The sums that changed in this transaction. Before the commit.
    pub(super) fn flush_usage(&mut self) -> Result<(), Failure> {
        let sql = "INSERT OR REPLACE INTO usage VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, \
                   ?11)";
        for hour in &mut self.tally.0 {
            for (at, cell) in hour.changed.drain(..) {
                let Named { by, name, cells } = &mut hour.rows[at];
                cells[cell].changed = false;
                let sum = cells[cell].sum;
                self.conn.prepare_cached(sql)?.execute((
                    *by as u8,
                    hour.number as i64,
                    &**name,
                    cell as i64 - 1,
                    size(sum.attempts),
                    size(sum.wall_us),
                    sum.cpu_us.map(size),
                    size(sum.wait_us),
                    sum.max_rss_bytes.map(size),
                    size(sum.bytes_in),
                    size(sum.bytes_out),
                ))?;
            }
        }
        let hours = &mut self.tally.0;
        if hours.len() > HOURS_HELD {
            hours.sort_by_key(|hour| hour.number);
            hours.drain(..hours.len() - HOURS_HELD);
        }
        Ok(())
    }

    /// Forgets one hour of each kind that is too old; whether there may be another.
    pub(super) fn prune_usage(&mut self, now: Timestamp) -> Result<bool, Failure> {
        let kept_from = usage_kept_from(now) as i64;
        // Written first: what is held and not on file yet could come back.
        self.flush_usage()?;
        let sql = "DELETE FROM usage WHERE kind = ?1 AND hour < ?2 \
                   AND hour = (SELECT min(hour) FROM usage WHERE kind = ?1)";
        let mut gone = 0;
        for by in UsageBy::ALL {
            let mut delete = self.conn.prepare_cached(sql)?;
            gone += delete.execute((by as u8, kept_from))?;
        }
        self.tally.0.retain(|hour| hour.number as i64 >= kept_from);
        Ok(gone > 0)
    }
}
