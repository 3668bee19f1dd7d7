//! Loads into a file of JSON lines: what is true of every sink is shown on the simplest one.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod loads;

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use loads::{begin, id, loader, people, pour, rejects, run, runtime, target};
use offloop_ingest::load::{
    LoadAsk, LoadError, LoadId, LoadRefused, Loader, Phase, Settings, Status, feed,
};
use offloop_ingest::sink::ndjson::NdjsonOutlet;
use offloop_ingest::sink::{BatchNote, Outlet, Reply, Resumed, RowSink, Stored, Totals};
use offloop_ingest::{Batch, Target};

const TARGET: &str = r#"
sink = "ndjson"
path = "people.ndjson"
columns = [{ name = "id", type = "int4" }, { name = "name", type = "text" }]
batch = { rows = 50, bytes = "64KiB", time = "10s" }
"#;

fn open(folder: &Path, declaration: &str) -> (Target, Loader) {
    let target = target(declaration);
    let outlet = NdjsonOutlet::new(&target, folder.join("people.ndjson")).unwrap();
    let loader = loader(&folder.join("rejects"), &target, Arc::new(outlet));
    (target, loader)
}

fn ids(folder: &Path) -> Vec<i64> {
    let text = std::fs::read_to_string(folder.join("people.ndjson")).unwrap_or_default();
    let id = |line: &str| {
        let row: serde_json::Value = serde_json::from_str(line).unwrap();
        let id = row["id"].as_i64().unwrap();
        assert_eq!(row["name"], format!("name, \"{id}\""));
        id
    };
    text.lines().map(id).collect()
}

#[test]
fn one_bad_row_costs_one_row() {
    let folder = tempfile::tempdir().unwrap();
    let (_, loader) = open(folder.path(), TARGET);
    let text = people(1_000, |row| row % 100 == 7);
    let summary = runtime().block_on(run(&loader, "one", &text)).unwrap();
    assert_eq!((summary.rows_stored, summary.rows_rejected), (990, 10));
    assert_eq!(summary.stored_to, text.len() as u64);
    let wanted: Vec<_> = (1..=1_000).filter(|row| row % 100 != 7).collect();
    assert_eq!(ids(folder.path()), wanted);
    let refused = rejects(&folder.path().join("rejects"), "one");
    assert_eq!(refused.len(), 10);
    assert_eq!(refused[3]["row"], 307);
    assert_eq!(refused[3]["column"], "id");
    assert_eq!(refused[3]["raw"], "word307,\"bad, \"\"307\"\"\"");
    let offset = refused[3]["offset"].as_u64().unwrap() as usize;
    assert!(text[offset..].starts_with("word307,"));
    assert_eq!(loader.status(&id("one")).unwrap().phase, Phase::Stored);
}

#[test]
fn a_load_that_is_sent_again_is_not_stored_twice() {
    let folder = tempfile::tempdir().unwrap();
    let text = people(120, |row| row == 3);
    runtime().block_on(async {
        let (_, loader) = open(folder.path(), TARGET);
        run(&loader, "one", &text).await.unwrap();
        let again = run(&loader, "one", &text).await.unwrap();
        assert!(again.was_stored);
        assert_eq!((again.rows_stored, again.rows_rejected), (119, 1));
        run(&loader, "two", &text).await.unwrap();
    });
    assert_eq!(ids(folder.path()).len(), 238);
    assert_eq!(rejects(&folder.path().join("rejects"), "one").len(), 1);
}

/// The feed leaves after every so many bytes; a new process, as far as files can tell, goes on.
#[test]
fn an_upload_that_is_cut_again_and_again_lands_each_row_once() {
    for cut in [1, 999, 4_096, 5_003] {
        let folder = tempfile::tempdir().unwrap();
        let text = people(600, |row| row % 50 == 0);
        let mut at = 0;
        loop {
            at += cut.max(2_500);
            let (_, loader) = open(folder.path(), TARGET);
            let part = Bytes::copy_from_slice(&text.as_bytes()[..text.len().min(at)]);
            let ended = runtime().block_on(async {
                let (to, from) = feed();
                let whole = at >= text.len();
                let pouring = tokio::spawn(async move {
                    if whole {
                        pour(to, part, 777).await;
                    } else {
                        to.send(part).await.unwrap();
                        to.cut("the test").await;
                    }
                });
                let ended = begin(&loader, "one").run(from).await;
                pouring.await.unwrap();
                ended
            });
            match ended {
                Ok(summary) => {
                    assert_eq!((summary.rows_stored, summary.rows_rejected), (588, 12));
                    assert!(summary.resumed_at > 0);
                    break;
                }
                Err(failed) => {
                    assert!(matches!(failed.error, LoadError::Cut { .. }), "{failed}");
                    // Complete rows are stored, and it says so.
                    let stored = failed.summary.stored_to as usize;
                    assert!(text[..stored].ends_with('\n') && stored + 40 > at.min(text.len()));
                    assert_eq!(failed.summary.rows_stored, ids(folder.path()).len() as u64);
                }
            }
        }
        let wanted: Vec<_> = (1..=600).filter(|row| row % 50 != 0).collect();
        assert_eq!(ids(folder.path()), wanted, "cut {cut}");
        assert_eq!(rejects(&folder.path().join("rejects"), "one").len(), 12);
    }
}

/// A crash between any two writes leaves a longer file, a torn note, or both.
#[test]
fn rows_behind_the_last_note_and_a_torn_note_are_a_crashs() {
    let text = people(500, |row| row % 90 == 5);
    let folder = tempfile::tempdir().unwrap();
    let rows = folder.path().join("people.ndjson");
    let notes = folder.path().join("people.ndjson.notes");
    std::fs::write(&rows, "").unwrap();
    let cut_short = |load: &str| {
        let (_, loader) = open(folder.path(), TARGET);
        runtime().block_on(async {
            let (to, from) = feed();
            let part = Bytes::copy_from_slice(&text.as_bytes()[..6_000]);
            let sending = async {
                to.send(part).await.unwrap();
                to.cut("the test").await;
            };
            let (ended, ()) = tokio::join!(begin(&loader, load).run(from), sending);
            ended.unwrap_err();
        });
    };
    cut_short("one");
    let stored = ids(folder.path()).len();
    assert!(stored > 100);
    let mut longer = std::fs::read(&rows).unwrap();
    longer.extend_from_slice(b"{\"id\":77777,\"name\":\"name, \\\"77777\\\"\"}\n{\"id\":7");
    std::fs::write(&rows, longer).unwrap();
    let mut torn = std::fs::read(&notes).unwrap();
    let last = torn[..torn.len() - 1]
        .iter()
        .rposition(|byte| *byte == b'\n')
        .unwrap();
    torn.truncate(last + 20);
    std::fs::write(&notes, torn).unwrap();
    let lost = folder.path().join("rejects/one.rejects.ndjson");
    let mut leftover = std::fs::read(&lost).unwrap();
    leftover.extend_from_slice(b"{\"row\":400,\"offset\":9000}\n{\"row\":");
    std::fs::write(&lost, leftover).unwrap();

    let (_, loader) = open(folder.path(), TARGET);
    let summary = runtime().block_on(run(&loader, "one", &text)).unwrap();
    assert!(summary.resumed_at > 0);
    let wanted: Vec<_> = (1..=500).filter(|row| row % 90 != 5).collect();
    assert_eq!(ids(folder.path()), wanted);
    let refused = rejects(&folder.path().join("rejects"), "one");
    let numbers: Vec<_> = refused
        .iter()
        .map(|line| line["row"].as_u64().unwrap())
        .collect();
    assert_eq!(numbers, [5, 95, 185, 275, 365, 455]);
}

#[test]
fn a_stop_says_exactly_what_is_stored() {
    let folder = tempfile::tempdir().unwrap();
    let declaration = format!("{TARGET}\non_bad_row = {{ stop_after = 2 }}");
    let (_, loader) = open(folder.path(), &declaration);
    let text = people(400, |row| row % 100 == 33);
    let failed = runtime().block_on(run(&loader, "one", &text)).unwrap_err();
    assert!(failed.to_string().contains("row 233"), "{failed}");
    assert_eq!(failed.summary.stored_to_row, 232);
    assert_eq!(failed.summary.rows_rejected, 2);
    assert_eq!(ids(folder.path()).last(), Some(&232));
    assert!(text[failed.summary.stored_to as usize..].starts_with("word233,"));
    let status = loader.status(&id("one")).unwrap();
    assert_eq!(status.phase, Phase::Failed);
    assert!(status.error.unwrap().contains("row 233"));
}

#[test]
fn rows_that_come_slowly_are_stored_when_their_time_is_over() {
    let folder = tempfile::tempdir().unwrap();
    let declaration = TARGET.replace("10s", "20ms");
    let (_, loader) = open(folder.path(), &declaration);
    runtime().block_on(async {
        let (to, from) = feed();
        let load = begin(&loader, "one");
        let mut watch = load.watch();
        let running = tokio::spawn(load.run(from));
        to.send(Bytes::from_static(
            b"id,name\n1,\"name, \"\"1\"\"\"\n2,\"na",
        ))
        .await
        .unwrap();
        watch
            .wait_for(|status| status.rows_stored == 1)
            .await
            .unwrap();
        assert_eq!(ids(folder.path()), [1]);
        to.send(Bytes::from_static(b"me, \"\"2\"\"\""))
            .await
            .unwrap();
        to.end().await.unwrap();
        assert_eq!(running.await.unwrap().unwrap().rows_stored, 2);
    });
    assert_eq!(ids(folder.path()), [1, 2]);
}

#[test]
fn one_tenant_does_not_take_every_place_and_one_load_does_not_run_twice() {
    let folder = tempfile::tempdir().unwrap();
    let target = target(TARGET);
    let outlet = NdjsonOutlet::new(&target, folder.path().join("people.ndjson")).unwrap();
    let mut settings = Settings::new(folder.path().join("rejects"));
    settings.loads_max = 3;
    settings.tenant_loads_max = 2;
    let loader = Loader::new(settings, [(target, Arc::new(outlet) as Arc<_>)]).unwrap();
    let ask = |load: &str, tenant: &str| {
        loader.load(LoadAsk {
            load: id(load),
            target: "people".into(),
            tenant: Some(tenant.into()),
            bytes_total: None,
        })
    };
    let _first = ask("one", "red").unwrap();
    let second = ask("two", "red").unwrap();
    assert!(matches!(
        ask("one", "blue"),
        Err(LoadRefused::Running { .. })
    ));
    assert!(matches!(
        ask("three", "red"),
        Err(LoadRefused::TenantFull { .. })
    ));
    let _third = ask("three", "blue").unwrap();
    assert!(matches!(
        ask("four", "green"),
        Err(LoadRefused::Full { .. })
    ));
    drop(second);
    let again = ask("two", "red").unwrap();
    assert_eq!(loader.statuses().len(), 3);
    drop(again);
    assert_eq!(loader.status(&id("two")).unwrap().phase, Phase::Failed);
}

/// Takes batches and answers for none of them until it is let.
#[derive(Debug)]
struct HeldSink {
    taken: std::sync::atomic::AtomicUsize,
    let_go: tokio::sync::Semaphore,
}

#[derive(Debug)]
struct HeldOutlet(Arc<HeldSink>);

impl Outlet for HeldOutlet {
    fn sink(&self, _load: &LoadId) -> Arc<dyn RowSink> {
        Arc::clone(&self.0) as _
    }

    fn check(&self) -> Reply<'_, ()> {
        Box::pin(async { Ok(()) })
    }
}

impl RowSink for HeldSink {
    fn width(&self) -> usize {
        2
    }

    fn resume(&self) -> Reply<'_, Resumed> {
        Box::pin(async { Ok(Resumed::default()) })
    }

    fn store(&self, batch: Arc<Batch>, note: BatchNote) -> Reply<'_, Stored> {
        Box::pin(async move {
            self.taken
                .fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            self.let_go.acquire().await.unwrap().forget();
            let rejects = note.put_aside(&batch, Vec::new()).await?;
            let rows = batch.len() as u64;
            Ok(Stored { rows, rejects })
        })
    }

    fn finish(&self, _totals: Totals) -> Reply<'_, ()> {
        Box::pin(async { Ok(()) })
    }
}

/// faucet-stream#626: memory as large as the file. Here the sender is held up instead.
#[test]
fn a_sink_that_stands_still_holds_the_sender_up_and_not_the_memory() {
    let folder = tempfile::tempdir().unwrap();
    let target = target(TARGET);
    let sink = Arc::new(HeldSink {
        taken: std::sync::atomic::AtomicUsize::new(0),
        let_go: tokio::sync::Semaphore::new(0),
    });
    let loader = loader(
        folder.path(),
        &target,
        Arc::new(HeldOutlet(Arc::clone(&sink))),
    );
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let (to, from) = feed();
        let load = begin(&loader, "one");
        let mut watch = load.watch();
        let running = tokio::spawn(load.run(from));
        let is_running = |status: &Status| status.phase == Phase::Running;
        watch.wait_for(is_running).await.unwrap();
        let line = "7,\"name, \"\"7\"\"\"\n";
        to.send(Bytes::from_static(b"id,name\n")).await.unwrap();
        // One batch a piece. One thread: what can go on, has done so after some turns.
        let piece = Bytes::from(line.repeat(50));
        let mut sent = 0;
        loop {
            let turns = async {
                for _ in 0..1_000 {
                    tokio::task::yield_now().await;
                }
            };
            tokio::select! {
                biased;
                taken = to.send(piece.clone()) => taken.unwrap(),
                () = turns => break,
            }
            sent += 1;
            assert!(sent < 100, "nothing holds the sender up");
        }
        // Two with the sink, one full, one being read, two in the queue.
        assert_eq!(sink.taken.load(std::sync::atomic::Ordering::Relaxed), 2);
        assert!(sent <= 6, "{sent} pieces were taken");
        sink.let_go.add_permits(1_000);
        to.end().await.unwrap();
        assert_eq!(running.await.unwrap().unwrap().rows_stored, sent * 50);
    });
}
