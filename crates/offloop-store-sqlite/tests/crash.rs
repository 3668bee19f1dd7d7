//! The process is killed, or its calls of the system fail: nothing that was acknowledged is lost.
#![allow(clippy::unwrap_used)]

mod common;

use common::{Journal, a_moment, has, start};
use std::io::Write as _;

#[test]
fn a_kill_loses_no_acknowledged_job_and_runs_no_ended_one() {
    let folder = tempfile::tempdir().unwrap();
    let mut journal = Journal::default();
    for cycle in 0..20 {
        let before = journal.last_lease;
        let first_new = journal.leases.len();
        let mut child = start(&[], folder.path(), None);
        let reader = std::mem::take(&mut journal).follow(child.stdout.take().unwrap());
        std::thread::sleep(a_moment(cycle)); // when the kill falls is the point of the test
        child.kill().unwrap();
        child.wait().unwrap();
        journal = reader.join().unwrap();
        assert_eq!(journal.not_opened, None);
        let claimed = journal.leases.len() > first_new;
        assert!(!claimed || journal.last_lease > before, "a lease came back");
        journal.check(folder.path());
    }
    assert!(journal.completed.len() > 100, "the child did no work");
}

/// The k-th flush fails. The handle is given up, the file is opened anew, and work goes on.
#[test]
fn a_failed_flush_loses_no_acknowledged_job() {
    // fdatasync: of the log, by the writer. fsync: around a checkpoint, by SQLite.
    for (call, nth) in [
        ("fdatasync", 1),
        ("fdatasync", 2),
        ("fdatasync", 9),
        ("fdatasync", 23),
    ]
    .into_iter()
    .chain([("fsync", 1), ("fsync", 2), ("fsync", 3)])
    {
        survives(call, "EIO", nth, nth);
    }
}

#[test]
fn a_failed_write_loses_no_acknowledged_job() {
    for nth in [5, 23, 60, 111] {
        survives("pwrite64", "EIO", nth, nth);
        survives("pwrite64", "ENOSPC", nth, nth + 4);
    }
}

fn survives(call: &str, error: &str, first: u32, last: u32) {
    let what = format!("{error} at {call} {first}");
    if !has("strace") {
        // Past the capture of output: a skip must be seen.
        let _ = writeln!(std::io::stderr(), "SKIPPED {what}: strace is not installed");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let traced = tempfile::NamedTempFile::new().unwrap();
    // The file exists before, and has work in it.
    assert!(start(&[], folder.path(), Some(1)).wait().unwrap().success());
    let trace = format!("trace={call}");
    let inject = format!("inject={call}:error={error}:when={first}..{last}");
    let log = traced.path().to_str().unwrap();
    let strace = ["strace", "-f", "-o", log, "-e", &trace, "-e", &inject];
    let mut child = start(&strace, folder.path(), Some(12));
    let reader = Journal::default().follow(child.stdout.take().unwrap());
    let status = child.wait().unwrap();
    let journal = reader.join().unwrap();
    let traced = std::fs::read_to_string(traced.path()).unwrap();
    assert!(
        traced.contains("INJECTED"),
        "{what}: there was no fault: {traced}"
    );
    if let Some(refused) = &journal.not_opened {
        // The fault came before the store was open: nothing was promised.
        assert!(!status.success(), "{what}: {refused}");
    } else {
        assert!(status.success(), "{what}: {:?}", journal.errors);
        assert!(
            journal.inserted.len() > 100,
            "{what}: no work beside the fault"
        );
    }
    journal.check(folder.path());
}
