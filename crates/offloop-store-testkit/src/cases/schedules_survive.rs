//! What the next process finds of schedules. Passed by engines that declare to leave nothing.

use offloop_job::SkipReason;
use offloop_store::{Fired, Firing};

use crate::cases::schedules;
use crate::cases::survives::across;
use crate::store::wait;
use crate::{Kit, Store, at};

pub fn schedules_with_what_is_next(kit: &Kit) {
    let add = |store: &Store<'_>| {
        let rich = schedules::add(store, "rich", schedules::rich_spec());
        let first = schedules::add(store, "held", schedules::rich_spec());
        let hold = Firing {
            held: Some(at(10)),
            ..schedules::turn(&first, vec![], Some(20))
        };
        schedules::fire(store, at(10), hold);
        [rich, schedules::row(store, "held")]
    };
    across(kit, add, |store, rows| {
        for row in rows {
            assert_eq!(schedules::row(store, row.name.as_str()), row);
            // What it was decided by is still what it is compared with.
            let next = schedules::turn(&row, vec![schedules::fires(&row, 30)], None);
            let fired = schedules::fire(store, at(30), next);
            assert!(matches!(fired, Fired::Done(_)), "{fired:?}");
        }
    });
}

pub fn the_ledger_and_the_jobs_of_schedules(kit: &Kit) {
    let add = |store: &Store<'_>| {
        let row = schedules::add(store, "s", schedules::rich_spec());
        let entries = vec![schedules::fires(&row, 10), schedules::fires(&row, 20)];
        schedules::fire(store, at(20), schedules::turn(&row, entries, Some(30)));
        let rows = schedules::ledger(store, "s", 10);
        store.cancel(at(21), schedules::job_of(&rows[0]));
        rows
    };
    across(kit, add, |store, rows| {
        assert_eq!(schedules::ledger(store, "s", 10), rows);
        let live = wait(store.engine().live_jobs(vec![schedules::called("s")]));
        assert_eq!(live, [vec![schedules::job_of(&rows[1])]]);
        // The bound counts the rows of the earlier process.
        let row = schedules::row(store, "s");
        let entries = (0..1_000).map(|nth| schedules::skips(30 + nth, SkipReason::Missed));
        schedules::fire(
            store,
            at(9_999),
            schedules::turn(&row, entries.collect(), None),
        );
        assert_eq!(schedules::ledger(store, "s", 500).len(), 1_000);
    });
}

pub fn a_schedule_that_was_deleted_stays_gone(kit: &Kit) {
    let add = |store: &Store<'_>| {
        schedules::add(store, "s", schedules::rich_spec());
        schedules::forget(store);
    };
    across(kit, add, |store, ()| {
        assert_eq!(wait(store.engine().schedules(None, 10)), []);
        schedules::add(store, "s", schedules::rich_spec());
    });
}
