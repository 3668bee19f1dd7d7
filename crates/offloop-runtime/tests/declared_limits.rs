//! Limits of the configuration: they follow it, and what was set by hand stays.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::sync::Arc;

use offloop_job::{Limit, LimitTarget, NodeId};
use offloop_runtime::{Runtime, RuntimeBuilder};
use offloop_store::{AuditAsk, Engine, Origin};
use offloop_store_memory::{MemoryOptions, MemoryStore};

fn target(text: &str) -> LimitTarget {
    LimitTarget::parse(text).unwrap()
}

fn at_once(most: u32) -> Limit {
    Limit {
        concurrency: Some(most),
        ..Limit::default()
    }
}

fn wait<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    runtime.unwrap().block_on(future)
}

fn start(store: &Arc<MemoryStore>, declared: &[(&str, u32)]) -> Runtime {
    let engine: Arc<dyn Engine> = Arc::clone(store) as _;
    let builder = RuntimeBuilder::new(engine, NodeId("a".into()));
    let limits = declared.iter();
    let builder = limits.fold(builder, |builder, (name, most)| {
        builder.limit(target(name), at_once(*most))
    });
    builder.start().unwrap()
}

fn limits(runtime: &Runtime) -> Vec<(String, u32, Origin)> {
    let page = wait(runtime.handle().limits(None, 500)).unwrap();
    let shown = page.limits.iter().map(|status| {
        let most = status.limit.concurrency.unwrap();
        (status.target.to_string(), most, status.origin)
    });
    shown.collect()
}

#[test]
fn a_limit_that_left_the_configuration_holds_nothing_back_any_more() {
    let store = Arc::new(MemoryStore::new(MemoryOptions::default()));
    let first = start(&store, &[("queue:a", 1), ("queue:b", 2), ("key:*", 3)]);
    let by_hand = |name, most| {
        let set = first
            .handle()
            .set_limit(target(name), Some(at_once(most)), "api");
        wait(set).unwrap();
    };
    by_hand("queue:b", 5);
    by_hand("queue:c", 6);
    drop(first);
    let second = start(&store, &[("queue:a", 4)]);
    let row = |name: &str, most, origin| (name.to_owned(), most, origin);
    let want = [
        row("queue:a", 4, Origin::File),
        row("queue:b", 5, Origin::Api),
        row("queue:c", 6, Origin::Api),
    ];
    assert_eq!(limits(&second), want);
    let ask = AuditAsk {
        subject: Some("key:*".into()),
        before: None,
        limit: 9,
    };
    let log = wait(second.handle().audit(ask)).unwrap().entries;
    let newest = &log[0].1;
    assert_eq!(
        (&*newest.action, &*newest.actor),
        ("limit.remove", "config")
    );
    drop(second);
    // What the file says again is the file's again.
    let third = start(&store, &[("queue:b", 5)]);
    let want = [
        row("queue:b", 5, Origin::File),
        row("queue:c", 6, Origin::Api),
    ];
    assert_eq!(limits(&third), want);
}
