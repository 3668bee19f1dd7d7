//! Notes of running jobs.

use offloop_job::Lease;
use offloop_store::Verdict;

use crate::store::COMPLETED;
use crate::{Kit, Store, at, job};

fn shown(store: &Store<'_>, id: offloop_job::JobId) -> Option<(u64, String)> {
    let progress = store.job(id).progress?;
    let note = String::from_utf8_lossy(&progress.note).into_owned();
    Some((progress.at.as_millis() - crate::T0, note))
}

pub fn the_last_note_is_shown(kit: &Kit) {
    let store = kit.open();
    let claimed = store.start(at(0));
    assert_eq!(shown(&store, claimed.id), None);
    for (now, note) in [(1, "{\"percent\":10}"), (5, "\"půl\"")] {
        store.note(at(now), claimed.id, claimed.lease, note);
        assert_eq!(shown(&store, claimed.id), Some((now, note.into())));
    }
}

pub fn a_stale_note_is_ignored(kit: &Kit) {
    let store = kit.open();
    let first = store.start(at(0));
    store.finish(at(1), &first, Verdict::HandBack);
    let second = store.claim_one(at(2));
    store.note(at(3), second.id, second.lease, "1");
    store.note(at(4), first.id, first.lease, "2");
    store.note(at(4), first.id, Lease(second.lease.0 + 1), "3");
    assert_eq!(shown(&store, first.id), Some((3, "1".into())));
    let idle = store.add(at(5), job("t"));
    store.note(at(5), idle, Lease(0), "4");
    store.note(at(5), offloop_job::JobId::from_parts(5, 5), Lease(1), "5");
    assert_eq!(shown(&store, idle), None);
}

pub fn the_note_goes_with_its_attempt(kit: &Kit) {
    let store = kit.open();
    let verdicts = [Verdict::HandBack, Verdict::Retry { due: at(2) }, COMPLETED];
    let id = store.add(at(0), job("t"));
    for verdict in verdicts {
        let claimed = store.claim_one(at(1));
        assert_eq!(shown(&store, id), None, "a new attempt starts without");
        store.note(at(1), id, claimed.lease, "1");
        store.finish(at(2), &claimed, verdict);
        assert_eq!(shown(&store, id), None);
        store.note(at(3), id, claimed.lease, "2");
        assert_eq!(shown(&store, id), None, "too late");
        store.promote(at(2));
    }
}
