//! What the next process finds of long jobs: their place, their sleep, the modes of their lines, and how
//! long they stay.

use std::time::Duration;

use offloop_job::Mode;
use offloop_store::{InsertOutcome, PruneRule, Verdict};

use super::survives::across;
use crate::store::{COMPLETED, EXHAUSTED};
use crate::{Draft, Kit, Store, at, job};

pub fn checkpoints_and_snoozes(kit: &Kit) {
    let prepare = |store: &Store<'_>| {
        let asleep = store.start(at(0));
        store.checkpoint(at(1), &asleep, "[1]");
        store.finish(at(2), &asleep, Verdict::Snooze { due: at(50) });
        let failed = store.start(at(3));
        store.checkpoint(at(4), &failed, "[2]");
        store.finish(at(5), &failed, EXHAUSTED);
        let running = store.start(at(6));
        store.checkpoint(at(7), &running, "[3]");
        [asleep.id, failed.id, running.id]
    };
    across(kit, prepare, |store, [asleep, failed, running]| {
        let orphans = store.orphans("n2", 10);
        assert_eq!(orphans[0].id, running);
        assert_eq!(orphans[0].checkpoint.as_deref(), Some(&b"[3]"[..]));
        store.finish(at(60), &orphans[0], COMPLETED);
        store.revive(at(61), &[failed]);
        store.promote(at(62));
        let claimed = store.claim(at(62), &["t"], 9);
        let found: Vec<_> = claimed
            .iter()
            .map(|job| (job.id, job.history.snoozes, job.checkpoint.as_deref()))
            .collect();
        let want = [
            (asleep, 1, Some(&b"[1]"[..])),
            (failed, 0, Some(&b"[2]"[..])),
        ];
        assert_eq!(found, want);
        assert_eq!(store.job(running).checkpoint, None);
    });
}

pub fn modes_of_queues_and_tasks(kit: &Kit) {
    use Mode::{Draining, Open, Paused};
    let set = |store: &Store<'_>| {
        for (queue, mode) in [("a", Paused), ("b", Draining), ("c", Open)] {
            store.set_mode(queue, mode);
        }
        for (task, mode) in [("x", Paused), ("y", Draining), ("z", Open)] {
            store.set_task_mode(task, mode);
        }
    };
    across(kit, set, |store, ()| {
        let modes = ["a", "b", "c"].map(|queue| store.queue(queue).expect("listed").mode);
        assert_eq!(modes, [Paused, Draining, Open]);
        let tasks = store.task_modes().into_iter().map(|row| row.1);
        assert_eq!(tasks.collect::<Vec<_>>(), [Paused, Draining, Open]);
        let outcome = store.insert_one(at(0), job("y"));
        assert!(matches!(outcome, InsertOutcome::Refused(_)), "{outcome:?}");
    });
}

pub fn times_of_their_own(kit: &Kit) {
    let end = |store: &Store<'_>| {
        store.add(at(0), job("t").keep(20_000));
        let claimed = store.claim_one(at(0));
        store.finish(at(0), &claimed, COMPLETED);
        let waiting = store.add(at(1), job("t").keep(20_000));
        (claimed.id, waiting)
    };
    across(kit, end, |store, (ended, waiting)| {
        let rule = PruneRule {
            now: at(20_000),
            completed_for: Duration::MAX,
            others_for: Duration::MAX,
            rows_max: u64::MAX,
            rows_per_call: 100,
        };
        assert_eq!((store.prune(rule), store.find(ended)), (1, None));
        assert_eq!(
            store.job(waiting).options.keep,
            Some(Duration::from_secs(20))
        );
    });
}
