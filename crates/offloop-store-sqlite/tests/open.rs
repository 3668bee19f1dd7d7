//! What stands in the way of opening is named, and left as it is.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::io::{Read, Write};
use std::path::Path;

use common::{Journal, T0, run, start};
use offloop_job::{JobOptions, NewJob, NodeId, TaskName, Timestamp};
use offloop_store::{ClaimRequest, InsertBatch, JobQuery, JobStore, Settled, StoreError, Want};
use offloop_store::{Settlement, Verdict};
use offloop_store_sqlite::{OpenError, SqliteOptions, SqliteStore};
use offloop_store_testkit::{block_on, report};

fn open(folder: &Path) -> Result<SqliteStore, OpenError> {
    SqliteStore::open(SqliteOptions::new(folder, 1))
}

fn batch(jobs: usize, payload_bytes: usize) -> InsertBatch {
    let job = NewJob {
        task: TaskName::parse("t").unwrap(),
        payload: vec![b'7'; payload_bytes].into(),
        options: JobOptions::default(),
        idempotency: None,
    };
    InsertBatch {
        now: Timestamp::from_millis(T0),
        jobs: vec![job; jobs],
        records: Vec::new(),
        request: None,
    }
}

/// A closed store with some jobs.
fn filled(folder: &Path) {
    let store = open(folder).unwrap();
    block_on(store.insert(batch(500, 300))).unwrap();
    block_on(store.close()).unwrap();
}

#[test]
fn a_second_server_is_refused_and_told_who_holds_the_folder() {
    let folder = tempfile::tempdir().unwrap();
    let mut child = start(&[], folder.path(), None);
    let mut out = child.stdout.take().unwrap();
    let mut ready = [0; 2];
    out.read_exact(&mut ready).unwrap();
    assert_eq!(&ready, b"R\n");
    let reader = Journal::default().follow(out);
    match open(folder.path()) {
        Err(OpenError::InUse { holder, .. }) => assert_eq!(holder, Some(child.id())),
        other => panic!("{other:?}"),
    }
    child.kill().unwrap();
    child.wait().unwrap();
    reader.join().unwrap().check(folder.path());
}

#[test]
fn a_folder_that_cannot_be_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, "x").unwrap();
    assert!(matches!(open(&file), Err(OpenError::NotAFolder { .. })));
    let missing = folder.path().join("a/b/c");
    assert!(matches!(open(&missing), Err(OpenError::NoFolder { .. })));
    drop(open(&folder.path().join("new")).unwrap());
}

#[test]
fn a_folder_that_cannot_be_written_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().to_str().unwrap();
    // What the mode does not refuse a superuser, the file system can.
    if !run("chattr", &["+i", path]) {
        let read_only = std::os::unix::fs::PermissionsExt::from_mode(0o555);
        fs::set_permissions(folder.path(), read_only).unwrap();
        if fs::write(folder.path().join("probe"), "x").is_ok() {
            // Past the capture of output: a skip must be seen.
            let _ = writeln!(
                std::io::stderr(),
                "SKIPPED a read-only folder: this user may write everywhere"
            );
            return;
        }
    }
    let refused = open(folder.path());
    run("chattr", &["-i", path]);
    assert!(
        matches!(refused, Err(OpenError::ReadOnly { .. })),
        "{refused:?}"
    );
}

#[test]
fn a_damaged_file_is_refused_and_left_as_it_is() {
    type Damage = fn(&Path);
    let damages: [(&str, Damage); 3] = [
        ("garbage at its head", |file| {
            let mut file = fs::OpenOptions::new().write(true).open(file).unwrap();
            file.write_all(&[0xa5; 200]).unwrap();
        }),
        ("cut in the middle", |file| {
            let file = fs::OpenOptions::new().write(true).open(file).unwrap();
            file.set_len(file.metadata().unwrap().len() / 2 / 4096 * 4096)
                .unwrap();
        }),
        ("a page overwritten", |file| {
            use std::os::unix::fs::FileExt;
            let len = file.metadata().unwrap().len();
            let file = fs::OpenOptions::new().write(true).open(file).unwrap();
            file.write_all_at(&[0x5a; 4096], len / 2 / 4096 * 4096)
                .unwrap();
        }),
    ];
    for (what, damage) in damages {
        let folder = tempfile::tempdir().unwrap();
        filled(folder.path());
        let file = folder.path().join("offloop.db");
        damage(&file);
        let before = fs::read(&file).unwrap();
        let refused = open(folder.path());
        assert!(
            matches!(refused, Err(OpenError::Corrupt { .. })),
            "{what}: {refused:?}"
        );
        assert!(
            fs::read(&file).unwrap() == before,
            "{what}: the file was changed"
        );
    }
}

#[test]
fn the_file_of_a_newer_program_or_of_another_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    filled(folder.path());
    let file = folder.path().join("offloop.db");
    let pragma = |text: &str| {
        let conn = rusqlite::Connection::open(&file).unwrap();
        conn.execute_batch(text).unwrap();
    };
    pragma("PRAGMA user_version = 999");
    let refused = open(folder.path());
    assert!(
        matches!(refused, Err(OpenError::Newer { found: 999, .. })),
        "{refused:?}"
    );
    pragma("PRAGMA user_version = 1; PRAGMA application_id = 7");
    let refused = open(folder.path());
    assert!(
        matches!(refused, Err(OpenError::Foreign { application: 7 })),
        "{refused:?}"
    );
}

#[test]
fn what_is_written_belongs_to_this_user_alone() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).unwrap();
    block_on(store.insert(batch(1, 10))).unwrap();
    for entry in fs::read_dir(folder.path()).unwrap().flatten() {
        let mode = entry.metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0, "{:?} has mode {mode:o}", entry.file_name());
    }
}

/// 40 MiB of disk. New jobs are refused before it is full, running ones end, and when there is
/// room again jobs are taken in, without a restart.
#[test]
fn a_full_disk_refuses_new_jobs_and_lets_running_ones_end() {
    let place = tempfile::tempdir().unwrap();
    let disk = place.path().to_str().unwrap();
    if !run(
        "mount",
        &["-t", "tmpfs", "-o", "size=40m,mode=700", "none", disk],
    ) {
        // Past the capture of output: a skip must be seen.
        let _ = writeln!(
            std::io::stderr(),
            "SKIPPED a full disk: this user may not mount a small one"
        );
        return;
    }
    let ended = std::panic::catch_unwind(|| fill_up(place.path()));
    run("umount", &["-l", disk]);
    ended.unwrap();
}

fn fill_up(disk: &Path) {
    let ballast = disk.join("ballast");
    fs::write(&ballast, vec![1; 12 << 20]).unwrap();
    let store = open(&disk.join("data")).unwrap();
    let now = Timestamp::from_millis(T0);
    block_on(store.insert(batch(300, 100))).unwrap();
    let ask = ClaimRequest {
        now,
        node: NodeId("n".into()),
        wants: vec![Want {
            tasks: [TaskName::parse("t").unwrap()].into(),
            limit: 200,
        }],
    };
    let running = block_on(store.claim(ask)).unwrap().jobs;
    let mut refused = None;
    for _ in 0..1_000 {
        if let Err(error) = block_on(store.insert(batch(20, 20_000))) {
            refused = Some(error);
            break;
        }
    }
    assert!(
        matches!(refused, Some(StoreError::DiskFull { .. })),
        "{refused:?}"
    );
    // The last byte is gone too.
    let mut filler = fs::File::create(disk.join("filler")).unwrap();
    while filler.write_all(&[1; 4096]).is_ok() {}
    for piece in running.chunks(20) {
        let ends = piece.iter().map(|job| {
            let mut report = report(job);
            report.log.head = vec![b'l'; 12_000].into();
            Settlement {
                id: job.id,
                lease: job.lease,
                verdict: Verdict::Completed { result: None },
                report,
                records: Vec::new(),
                follow: vec![],
            }
        });
        let settled = block_on(store.settle(now, ends.collect())).unwrap();
        assert!(
            settled.iter().all(|end| matches!(end, Settled::Done(_))),
            "{settled:?}"
        );
    }
    let refused = block_on(store.insert(batch(1, 10)));
    assert!(
        matches!(refused, Err(StoreError::DiskFull { .. })),
        "{refused:?}"
    );
    fs::remove_file(disk.join("filler")).unwrap();
    fs::remove_file(&ballast).unwrap();
    let asked = std::time::Instant::now();
    while block_on(store.insert(batch(1, 10))).is_err() {
        assert!(asked.elapsed().as_secs() < 5, "not taken in again");
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    for job in &running {
        assert!(block_on(store.job(job.id)).unwrap().is_some());
    }
    block_on(store.close()).unwrap();
}

/// A file of the first version, with a job in each of its places.
fn first_version(folder: &Path) {
    let conn = rusqlite::Connection::open(folder.join("offloop.db")).unwrap();
    conn.execute_batch(include_str!("../src/migrations/0001_first.sql"))
        .unwrap();
    let at = T0 << 12;
    conn.execute_batch(&format!(
        "PRAGMA application_id = 0x6f66666c; PRAGMA user_version = 1;
         INSERT INTO lines VALUES (1, 'default', 't');
         INSERT INTO words VALUES (1, 'n1'), (2, 'cpu');
         INSERT INTO jobs VALUES ({at}, 1, 1, 2, 5, 1, 1, {T0}, NULL, NULL, 4, 3, NULL, 9, NULL,
           'tags=x', 'over', x'7b7d');
         INSERT INTO attempts VALUES ({at}, 4, 1, 1, 2, {T0}, {T0}, 1, 2, 3, 4, 3, NULL, 9, 'over',
           'pid 1', 0, x'', x'');
         INSERT INTO history VALUES ({at} + 1, 2, 1, 4, 5, 1, {T0}, {T0}, 5, {T0}, 1, 2, {T0}, {T0},
           1, 2, 3, 4, 0, NULL, NULL, NULL, NULL, NULL, NULL, NULL, 'pid 2', NULL, x'7b7d', NULL,
           NULL, NULL);
         INSERT INTO meta VALUES ('finished_rows', 1);"
    ))
    .unwrap();
}

#[test]
fn a_file_of_the_first_version_keeps_its_jobs() {
    let folder = tempfile::tempdir().unwrap();
    first_version(folder.path());
    let store = open(folder.path()).unwrap();
    let id = |row, random| offloop_job::JobId::from_parts((T0 << 12) + row, random);
    for id in [id(0, 1), id(1, 2)] {
        let job = block_on(store.job(id)).unwrap().unwrap();
        let usage = job.attempts[0].usage;
        assert_eq!(usage.max_rss_bytes, Some(4));
        assert_eq!(
            (usage.bytes_in, usage.bytes_out, usage.executor_age),
            (0, 0, None)
        );
    }
    let now = Timestamp::from_millis(T0);
    let ask = ClaimRequest {
        now,
        node: NodeId("n1".into()),
        wants: vec![Want {
            tasks: [TaskName::parse("t").unwrap()].into(),
            limit: 9,
        }],
    };
    let claimed = block_on(store.claim(ask)).unwrap().jobs.remove(0);
    assert_eq!((claimed.id, claimed.history.memory_ends), (id(0, 1), 0));
    let end = Settlement {
        id: claimed.id,
        lease: claimed.lease,
        verdict: Verdict::Completed { result: None },
        report: report(&claimed),
        records: Vec::new(),
        follow: vec![],
    };
    block_on(store.settle(now, vec![end])).unwrap();
    let (by, since, limit) = (offloop_store::UsageBy::Tag, now, 9);
    let ask = offloop_store::UsageAsk { by, since, limit };
    let sums = block_on(store.usage(ask)).unwrap();
    assert_eq!((sums.rows.len(), sums.rows[0].completed), (1, 1));
    block_on(store.close()).unwrap();
}
