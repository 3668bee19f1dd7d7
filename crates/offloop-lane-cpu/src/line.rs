//! The lines of waiting jobs: one per priority, in one slab, each a list through its slots, and a
//! map from lease to slot. Push, take and removal cost the same however many wait.
//!
//! **Order.** A job of priority p stands where one of priority 0 would that came p x `ageing`
//! later. So among jobs of about the same age the priority decides; and whoever waits is passed
//! only by work that comes within (difference of priority) x `ageing` after it, never for ever.
//!
//! Must never: read the clock, lock, or call into a task.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use offloop_job::Lease;
use offloop_job::limits::PRIORITY_MAX;
use offloop_lane::Work;

use crate::spread::Spreads;

const LINES: usize = PRIORITY_MAX as usize + 1;
const NONE: u32 = u32::MAX;

/// A job in line.
#[derive(Debug)]
pub(crate) struct Queued {
    pub(crate) work: Arc<Work>,
    pub(crate) since: Instant,
}

impl Queued {
    fn line(&self) -> usize {
        usize::from(self.work.priority.min(PRIORITY_MAX))
    }
}

/// Neighbours in line; a free slot uses `after` for the next free one.
#[derive(Debug)]
struct Slot {
    entry: Option<Queued>,
    before: u32,
    after: u32,
}

#[derive(Clone, Copy, Debug)]
struct Ends {
    first: u32,
    last: u32,
}

#[derive(Debug)]
pub(crate) struct Lines {
    slots: Vec<Slot>,
    free: u32,
    ends: [Ends; LINES],
    /// Bit n: line n is not empty.
    filled: u16,
    place: HashMap<Lease, u32, Spreads>,
    len: usize,
    ageing: Duration,
}

impl Lines {
    pub(crate) fn new(ageing: Duration) -> Self {
        let empty = Ends {
            first: NONE,
            last: NONE,
        };
        Self {
            slots: Vec::new(),
            free: NONE,
            ends: [empty; LINES],
            filled: 0,
            place: HashMap::default(),
            len: 0,
            ageing,
        }
    }

    pub(crate) const fn len(&self) -> usize {
        self.len
    }

    /// To the end of its line. `Err`: its lease stands in line already, and nothing changed.
    pub(crate) fn push(&mut self, entry: Queued) -> Result<(), Queued> {
        let lease = entry.work.lease;
        if self.place.contains_key(&lease) {
            return Err(entry);
        }
        let line = entry.line();
        let last = self.ends[line].last;
        let slot = Slot {
            entry: Some(entry),
            before: last,
            after: NONE,
        };
        let at = if self.free == NONE {
            self.slots.push(slot);
            (self.slots.len() - 1) as u32
        } else {
            let at = self.free;
            self.free = self.slots[at as usize].after;
            self.slots[at as usize] = slot;
            at
        };
        match last {
            NONE => self.ends[line].first = at,
            last => self.slots[last as usize].after = at,
        }
        self.ends[line].last = at;
        self.filled |= 1 << line;
        self.place.insert(lease, at);
        self.len += 1;
        Ok(())
    }

    /// The slot of the job whose turn it is.
    fn next(&self) -> Option<u32> {
        if self.filled.is_power_of_two() {
            return Some(self.ends[self.filled.trailing_zeros() as usize].first);
        }
        let firsts = (0..LINES).filter(|line| self.filled & (1 << line) != 0);
        firsts
            .map(|line| (line, self.ends[line].first))
            .min_by_key(|(line, at)| {
                let since = self.slots[*at as usize].entry.as_ref().map(|e| e.since);
                // A sum past the end of time sorts last.
                let stands = since.and_then(|since| since.checked_add(self.ageing * *line as u32));
                (stands.is_none(), stands)
            })
            .map(|(_, at)| at)
    }

    /// The job whose turn it is.
    pub(crate) fn head(&self) -> Option<&Queued> {
        self.slots[self.next()? as usize].entry.as_ref()
    }

    pub(crate) fn take_head(&mut self) -> Option<Queued> {
        let at = self.next()?;
        self.unlink(at)
    }

    /// Takes a job out of its line.
    pub(crate) fn remove(&mut self, lease: Lease) -> Option<Queued> {
        let at = *self.place.get(&lease)?;
        self.unlink(at)
    }

    fn unlink(&mut self, at: u32) -> Option<Queued> {
        let slot = &mut self.slots[at as usize];
        let entry = slot.entry.take()?;
        let (before, after) = (slot.before, slot.after);
        slot.after = self.free;
        self.free = at;
        let line = entry.line();
        match before {
            NONE => self.ends[line].first = after,
            before => self.slots[before as usize].after = after,
        }
        match after {
            NONE => self.ends[line].last = before,
            after => self.slots[after as usize].before = before,
        }
        if self.ends[line].first == NONE {
            self.filled &= !(1 << line);
        }
        self.place.remove(&entry.work.lease);
        self.len -= 1;
        Some(entry)
    }

    /// Empties all lines, in their order.
    pub(crate) fn drain(&mut self) -> Vec<Queued> {
        std::iter::from_fn(|| self.take_head()).collect()
    }

    /// When the job came that has waited longest: each line is in order of coming.
    pub(crate) fn oldest(&self) -> Option<Instant> {
        let firsts = self.ends.iter().filter(|line| line.first != NONE);
        firsts
            .filter_map(|line| self.slots[line.first as usize].entry.as_ref())
            .map(|entry| entry.since)
            .min()
    }
}
