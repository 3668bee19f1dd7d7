//! Rows of packs.

use std::collections::BTreeMap;

use bytes::Bytes;
use offloop_job::RecordWrite;

use crate::{Kit, Store, at, name, record, remove};

fn keys(store: &Store<'_>, label: Option<&str>, limit: u32) -> Vec<Bytes> {
    let rows = store.scan("photos", label, limit);
    rows.into_iter().map(|row| row.key).collect()
}

pub fn a_row_comes_back_whole(kit: &Kit) {
    let store = kit.open();
    let write = RecordWrite {
        collection: name("photos"),
        key: Bytes::from_static(b"/a/\xff\x00/\xc5\xbe.jpg"),
        label: Some(name("PENDING_CONVERSION")),
        value: Bytes::from_static(b"\x00\xfe{}"),
    };
    store.write_records(at(3), vec![write.clone()]);
    let rows = store.scan("photos", None, 9);
    let [row] = &rows[..] else {
        panic!("one row: {rows:?}")
    };
    assert_eq!((&row.key, &row.value), (&write.key, &write.value));
    assert_eq!(
        (Some(&row.label), row.updated_at),
        (write.label.as_ref(), at(3))
    );
}

pub fn the_last_writer_wins(kit: &Kit) {
    let store = kit.open();
    store.write_records(
        at(1),
        vec![record("a", "NEW", "1"), record("a", "DONE", "2")],
    );
    assert_eq!(store.row("a"), Some(("DONE".into(), "2".into())));
    store.write_records(at(2), vec![record("a", "FAILED", "3")]);
    assert_eq!(store.row("a"), Some(("FAILED".into(), "3".into())));
    let row = store.record("a").expect("the record");
    assert_eq!(row.updated_at, at(2));
    assert_eq!(keys(&store, None, 9).len(), 1);
}

pub fn a_write_without_label_deletes(kit: &Kit) {
    let store = kit.open();
    store.write_records(at(1), vec![record("a", "NEW", ""), record("b", "NEW", "")]);
    store.write_records(at(2), vec![remove("a"), remove("never there")]);
    assert_eq!(store.row("a"), None);
    assert_eq!(keys(&store, None, 9), ["b"]);
    store.write_records(at(3), vec![remove("b"), record("b", "DONE", "")]);
    assert_eq!(store.row("b").map(|row| row.0).as_deref(), Some("DONE"));
}

pub fn scans_go_in_byte_order(kit: &Kit) {
    let store = kit.open();
    let order: [&[u8]; 9] = [
        b"\x00",
        b" ",
        b"A",
        b"a",
        b"a\x00",
        b"aa",
        b"b",
        b"\xc3\xbc",
        b"\xff",
    ];
    for key in order.iter().rev() {
        let key = Bytes::from_static(key);
        store.write_records(
            at(0),
            vec![RecordWrite {
                key,
                ..record("x", "NEW", "")
            }],
        );
    }
    for limit in [1, 2, 9, 100] {
        assert_eq!(keys(&store, None, limit), order, "pages of {limit}");
    }
}

pub fn scans_filter_by_label(kit: &Kit) {
    let store = kit.open();
    for n in 0..50 {
        let label = if n % 10 == 0 { "FAILED" } else { "DONE" };
        store.write_records(at(0), vec![record(&format!("{n:02}"), label, "")]);
    }
    let failed = ["00", "10", "20", "30", "40"];
    for limit in [1, 2, 5, 6, 10_000] {
        assert_eq!(
            keys(&store, Some("FAILED"), limit),
            failed,
            "pages of {limit}"
        );
    }
    assert!(keys(&store, Some("NEW"), 9).is_empty());
}

pub fn a_label_that_changed_is_found_by_the_new_one(kit: &Kit) {
    let store = kit.open();
    store.write_records(at(0), vec![record("a", "NEW", "")]);
    store.write_records(at(1), vec![record("a", "DONE", "")]);
    assert!(keys(&store, Some("NEW"), 9).is_empty());
    assert_eq!(keys(&store, Some("DONE"), 9), ["a"]);
}

pub fn counts_go_by_label(kit: &Kit) {
    let store = kit.open();
    assert!(store.label_counts("photos").is_empty());
    let writes = ["a", "b", "c"].map(|key| record(key, "NEW", ""));
    store.write_records(at(0), writes.into());
    store.write_records(at(1), vec![record("a", "DONE", ""), remove("b")]);
    let want = BTreeMap::from([("DONE".to_owned(), 1), ("NEW".to_owned(), 1)]);
    assert_eq!(store.label_counts("photos"), want);
    store.write_records(at(2), vec![record("c", "DONE", "")]);
    let want = BTreeMap::from([("DONE".to_owned(), 2)]);
    assert_eq!(store.label_counts("photos"), want, "no label of nothing");
}

pub fn collections_do_not_mix(kit: &Kit) {
    let store = kit.open();
    let other = RecordWrite {
        collection: name("photos2"),
        ..record("a", "OTHER", "2")
    };
    store.write_records(at(0), vec![record("a", "NEW", "1"), other]);
    assert_eq!(store.row("a"), Some(("NEW".into(), "1".into())));
    assert_eq!(keys(&store, None, 9).len(), 1);
    assert_eq!(store.scan("photos2", None, 9).len(), 1);
    assert_eq!(
        store.label_counts("photos2"),
        BTreeMap::from([("OTHER".to_owned(), 1)])
    );
    store.write_records(at(1), vec![remove("a")]);
    assert_eq!(store.scan("photos2", None, 9).len(), 1);
}

pub fn every_row_is_seen_once_while_rows_are_added(kit: &Kit) {
    let store = kit.open();
    let key = |n: u32| format!("{n:04}");
    for n in (0..100).step_by(2) {
        store.write_records(at(0), vec![record(&key(n), "NEW", "")]);
    }
    let mut seen = vec![];
    let mut after = None;
    for step in 0..100 {
        let ask = offloop_store::RecordScan {
            collection: name("photos"),
            label: None,
            after,
            limit: 3,
        };
        let page = crate::store::wait(store.engine().records(ask));
        seen.extend(page.records.into_iter().map(|row| row.key));
        after = page.next;
        if after.is_none() {
            break;
        }
        store.write_records(at(1), vec![record(&key(step * 2 + 1), "NEW", "")]);
    }
    assert!(after.is_none(), "the scan never ends");
    let old = seen.iter().filter(|key| key[3] % 2 == 0).count();
    assert_eq!(old, 50);
    assert!(seen.is_sorted() && seen.windows(2).all(|pair| pair[0] != pair[1]));
}
