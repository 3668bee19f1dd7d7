//! Hints that ready work may be there.

use std::sync::Arc;
use std::sync::mpsc::{self, Receiver};
use std::time::Duration;

use offloop_store::Verdict;

use crate::{Draft, Kit, Store, at, job};

/// Hints come at once where there is nothing between; a bound for where there is.
const HINT_WITHIN: Duration = Duration::from_secs(10);

fn hook(store: &Store<'_>) -> Receiver<()> {
    let (sender, hints) = mpsc::channel();
    store.engine().set_hook(Arc::new(move || {
        let _ = sender.send(());
    }));
    hints
}

fn expect_hint(hints: &Receiver<()>) {
    let hint = hints.recv_timeout(HINT_WITHIN);
    assert!(hint.is_ok(), "no hint within {HINT_WITHIN:?}");
    while hints.try_recv().is_ok() {}
}

pub fn a_new_ready_job_is_hinted_at(kit: &Kit) {
    let store = kit.open();
    let hints = hook(&store);
    store.add(at(0), job("t"));
    expect_hint(&hints);
}

pub fn jobs_that_fall_due_are_hinted_at(kit: &Kit) {
    let store = kit.open();
    store.add(at(0), job("t").run_at(at(10)));
    let hints = hook(&store);
    store.promote(at(10));
    expect_hint(&hints);
}

pub fn a_job_that_is_handed_back_is_hinted_at(kit: &Kit) {
    let store = kit.open();
    let claimed = store.start(at(0));
    let hints = hook(&store);
    store.finish(at(1), &claimed, Verdict::HandBack);
    expect_hint(&hints);
}

pub fn a_revived_job_is_hinted_at(kit: &Kit) {
    let store = kit.open();
    let id = store.add(at(0), job("t"));
    store.cancel(at(1), id);
    let hints = hook(&store);
    store.revive(at(2), &[id]);
    expect_hint(&hints);
}

pub fn a_resumed_queue_is_hinted_at(kit: &Kit) {
    let store = kit.open();
    store.set_paused("default", true);
    store.add(at(0), job("t"));
    let hints = hook(&store);
    store.set_paused("default", false);
    expect_hint(&hints);
}

pub fn a_new_hook_replaces_the_old_one(kit: &Kit) {
    let store = kit.open();
    let old = hook(&store);
    let new = hook(&store);
    store.add(at(0), job("t"));
    expect_hint(&new);
    assert!(old.try_recv().is_err());
}
