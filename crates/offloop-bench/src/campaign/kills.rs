//! R1: SIGKILL at random moments, under load, over and over.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Context;

use super::load::{Load, Mix};
use super::server::{Server, Setup};
use super::{Run, images, p99, photos, procfs, rounded};

const CYCLES: u32 = 100;
const ORPHANS_GONE_WITHIN: Duration = Duration::from_secs(2);
const READY_AGAIN_P99: Duration = Duration::from_secs(2);
const READY_WITH_BACKLOG: Duration = Duration::from_secs(1);
const BACKLOG_JOBS: usize = 100_000;
const PHOTOS: u32 = 60;
const INTEGRITY_EVERY: u32 = 10;

pub(crate) fn run(run: &mut Run) -> anyhow::Result<()> {
    let cycles = run.cycles.unwrap_or(CYCLES);
    let setup = run.setup("[packs.photos]\nmemory = \"256MiB\"")?;
    let pictures = run.folder.join("pictures");
    images::library(&pictures, PHOTOS, &mut run.dice)?;
    let (mut watch, mut children) = (OrphanWatch::default(), 0);
    let mut server = setup.start()?;
    let load = Load::start(setup.address, Mix::ALL, &run.journal(), &mut run.dice)?;
    for cycle in 1..=cycles {
        let mut client = setup.client();
        photos::scan(&mut client, &pictures); // refused or cut: the next one finds the same
        let changed = run.dice.between(0, PHOTOS.into()) as u32;
        images::write_sound(&pictures, changed, &mut run.dice)?;
        std::thread::sleep(Duration::from_millis(run.dice.between(50, 500)));
        children += procfs::executors_of(server.pid()).len();
        server.kill();
        watch.follow(server.pid());
        if cycle.is_multiple_of(INTEGRITY_EVERY) {
            check_integrity(run, &setup)?;
        }
        server = setup
            .start()
            .with_context(|| format!("after kill {cycle}"))?;
        run.recovery.push(server.ready_after);
    }
    let unknown = load.finish()?;
    run.figure("cycles", cycles);
    run.figure("still_unknown", unknown);
    watch.tell(run);
    run.figure("children_killed_with_it", children);
    if children == 0 {
        run.breach("no child ran at any kill: orphans were not tested");
    }
    let history = run.judge(&setup, Duration::from_secs(120))?;
    let of = |task: &str| history.values().filter(|job| job.task == task).count();
    run.figure("node_jobs", of("mark"));
    run.figure("exec_jobs", of("mark-exec"));
    run.figure(
        "attempts",
        history.values().map(|job| job.attempt).sum::<u64>(),
    );
    check_photos(run, &setup, &pictures)?;
    let slowest = p99(&run.recovery);
    if slowest > READY_AGAIN_P99 {
        run.breach(format!(
            "ready again at p99 after {slowest:?}; the goal is {READY_AGAIN_P99:?}"
        ));
    }
    backlog(run, &setup, server)
}

/// Looks after each kill, beside the next server's start, for what is left of the killed one.
#[derive(Debug, Default)]
struct OrphanWatch {
    looking: Vec<JoinHandle<Result<Duration, Vec<i32>>>>,
}

impl OrphanWatch {
    fn follow(&mut self, pid: u32) {
        let look = move || procfs::wait_gone(pid, ORPHANS_GONE_WITHIN);
        self.looking.push(std::thread::spawn(look));
    }

    fn tell(self, run: &mut Run) {
        let mut gone = Vec::new();
        for look in self.looking {
            match look.join() {
                Ok(Ok(after)) => gone.push(after),
                Ok(Err(left)) => {
                    run.survivors += left.len() as u64;
                    eprintln!("processes {left:?} outlived their server's kill");
                }
                Err(_) => run.breach("the watch for orphans panicked"),
            }
        }
        run.figure("orphans_gone_ms", super::spread(&gone));
    }
}

/// On a copy, so that the shell's own recovery touches nothing that the server will read.
fn check_integrity(run: &mut Run, setup: &Setup) -> anyhow::Result<()> {
    let copy = run.folder.join("copy");
    fs::create_dir_all(&copy)?;
    for name in ["offloop.db", "offloop.db-wal"] {
        let _ = fs::remove_file(copy.join(name)); // of the check before
        if setup.data.join(name).exists() {
            fs::copy(setup.data.join(name), copy.join(name))?;
        }
    }
    match integrity(&copy.join("offloop.db")) {
        None => {
            let what =
                "integrity_check: no sqlite3 shell; the server's own check at each start stands in";
            if !run.skipped.iter().any(|skipped| skipped == what) {
                run.skip(what);
            }
        }
        Some(text) if text == "ok" => {
            let done = run
                .figures
                .get("integrity_ok")
                .and_then(serde_json::Value::as_u64);
            run.figure("integrity_ok", done.unwrap_or(0) + 1);
        }
        Some(text) => run.breach(format!("integrity_check: {text}")),
    }
    Ok(())
}

#[expect(
    clippy::disallowed_methods,
    reason = "a tool beside the campaign, not a task"
)]
fn integrity(database: &PathBuf) -> Option<String> {
    let mut shell = std::process::Command::new("sqlite3");
    let output = shell
        .arg(database)
        .arg("PRAGMA integrity_check")
        .output()
        .ok()?;
    let said = if output.status.success() {
        output.stdout
    } else {
        output.stderr
    };
    Some(String::from_utf8_lossy(&said).trim().to_owned())
}

/// Rows and files, rows and jobs, rows and thumbnails.
fn check_photos(run: &mut Run, setup: &Setup, pictures: &Path) -> anyhow::Result<()> {
    let mut client = setup.client();
    photos::settle(&mut client, pictures, Duration::from_secs(60))?;
    let rows = photos::rows(&mut client)?;
    for problem in photos::disagreements(&mut client, &rows) {
        run.breach(format!("photos: {problem}"));
    }
    let names = fs::read_dir(pictures)?.flatten().map(|entry| entry.path());
    let files: BTreeSet<_> = names.filter(|name| !hidden(name)).collect();
    let listed: BTreeSet<_> = rows
        .iter()
        .filter_map(|row| row["path"].as_str())
        .map(PathBuf::from)
        .collect();
    let (missing, extra) = (files.difference(&listed), listed.difference(&files));
    for path in missing.chain(extra.filter(|path| !hidden(path))) {
        run.breach(format!(
            "photos: {} is in one of rows and files only",
            path.display()
        ));
    }
    run.figure("photo_rows", rows.len());
    let done = rows.iter().filter(|row| row["status"] == "DONE").count();
    run.figure("photos_done", done);
    Ok(())
}

/// Half-written pictures: a scan may have seen one.
fn hidden(path: &Path) -> bool {
    path.file_name()
        .is_some_and(|name| name.as_encoded_bytes().starts_with(b"."))
}

/// Ready again with many jobs waiting.
fn backlog(run: &mut Run, setup: &Setup, mut server: Server) -> anyhow::Result<()> {
    let mut client = setup.client();
    let paused = client.call("POST", "/v1/queues/backlog/pause", &[], b"");
    if !paused.is_ok_and(|answer| answer.status == 200) {
        anyhow::bail!("the queue could not be paused");
    }
    let line = "{\"task\":\"offloop.noop\",\"queue\":\"backlog\"}\n";
    let (text, kind) = (
        line.repeat(10_000),
        [("content-type", "application/x-ndjson")],
    );
    for _ in 0..BACKLOG_JOBS / 10_000 {
        let answer = client.call("POST", "/v1/jobs?answer=summary", &kind, text.as_bytes());
        let taken = answer
            .ok()
            .and_then(|answer| answer.json()["accepted"].as_u64());
        if taken != Some(10_000) {
            anyhow::bail!("the backlog was not taken in: {taken:?}");
        }
    }
    server.kill();
    let server = setup.start()?;
    let ready = server.ready_after;
    run.figure("ready_with_100k_ms", rounded(ready.as_secs_f64() * 1e3));
    if ready > READY_WITH_BACKLOG {
        run.breach(format!(
            "ready after {ready:?} with {BACKLOG_JOBS} jobs waiting"
        ));
    }
    let queues = super::oracle::ask(&mut setup.client(), "/v1/queues")?.json();
    let mut rows = queues["queues"].as_array().into_iter().flatten();
    let row = rows.find(|row| row["name"] == "backlog");
    let count = row.and_then(|row| row["counts"]["ready"].as_u64());
    if count != Some(BACKLOG_JOBS as u64) {
        run.counters.lost += (BACKLOG_JOBS as u64).saturating_sub(count.unwrap_or(0));
        run.breach(format!(
            "{count:?} of {BACKLOG_JOBS} waiting jobs are there after the kill"
        ));
    }
    Ok(())
}
