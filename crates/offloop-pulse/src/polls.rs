//! Polls that were long, by runtime and name, in the last minute or two.
//!
//! Only a poll of [`LONG_US`] and more comes here, so a lock is no cost beside it.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::runtime::Id;

use crate::name::Name;

/// A poll that is this long would do better elsewhere (the rule of Erlang's schedulers: 1 ms).
pub(crate) const LONG_US: u64 = 1_000;
/// How long one half of the window is.
const HALF: Duration = Duration::from_secs(60);
/// Names with sums; later ones are not counted until others are forgotten.
const ROWS_MAX: usize = 1_024;

/// Long polls of one name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Long {
    pub(crate) count: u64,
    pub(crate) longest: Duration,
}

impl Long {
    fn add(&mut self, other: Self) {
        self.count += other.count;
        self.longest = self.longest.max(other.longest);
    }
}

/// Two halves: the older is forgotten as a whole when the newer is full.
#[derive(Debug, Default)]
struct Row {
    begun: Option<Instant>,
    now: Long,
    before: Long,
}

impl Row {
    fn turn(&mut self, at: Instant) {
        let begun = *self.begun.get_or_insert(at);
        let age = at.saturating_duration_since(begun);
        if age >= HALF {
            self.before = if age < 2 * HALF {
                self.now
            } else {
                Long::default()
            };
            self.now = Long::default();
            self.begun = Some(at);
        }
    }

    fn sum(&self) -> Long {
        let mut sum = self.before;
        sum.add(self.now);
        sum
    }
}

static ROWS: Mutex<Option<HashMap<(Id, Name), Row>>> = Mutex::new(None);

#[cold]
pub(crate) fn note(home: Id, name: Name, took: Duration, at: Instant) {
    let mut rows = ROWS.lock().unwrap_or_else(PoisonError::into_inner);
    let rows = rows.get_or_insert_default();
    if rows.len() >= ROWS_MAX && !rows.contains_key(&(home, name)) {
        return;
    }
    let row = rows.entry((home, name)).or_default();
    row.turn(at);
    row.now.add(Long {
        count: 1,
        longest: took,
    });
}

/// Those of one runtime, at least one in the window each.
pub(crate) fn read(home: Id, at: Instant) -> Vec<(Name, Long)> {
    let mut rows = ROWS.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(rows) = rows.as_mut() else {
        return Vec::new();
    };
    rows.retain(|(id, _), row| {
        if *id == home {
            row.turn(at);
        }
        row.sum().count > 0
    });
    let mine = rows.iter().filter(|((id, _), _)| *id == home);
    mine.map(|((_, name), row)| (*name, row.sum())).collect()
}

/// Its runtime is gone.
pub(crate) fn forget(home: Id) {
    let mut rows = ROWS.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(rows) = rows.as_mut() {
        rows.retain(|(id, _), _| *id != home);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_poll_is_remembered_for_a_while_and_then_forgotten() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        let id = runtime.handle().id();
        let name = Name::section("long, then forgotten");
        let start = Instant::now();
        note(id, name, Duration::from_millis(3), start);
        note(id, name, Duration::from_millis(2), start);
        let want = Long {
            count: 2,
            longest: Duration::from_millis(3),
        };
        assert_eq!(read(id, start), [(name, want)]);
        assert_eq!(
            read(id, start + HALF),
            [(name, want)],
            "still in the older half"
        );
        assert_eq!(read(id, start + 2 * HALF), []);
    }
}
