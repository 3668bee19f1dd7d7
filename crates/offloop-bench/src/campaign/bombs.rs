//! L5: pictures that claim more than they are, and broken ones, through the photo library.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::http::Client;
use super::server::{Server, Setup};
use super::{Run, images, oracle, photos, procfs, rounded, spread};

const MEMORY_MIB: u64 = 128;
const OVER_MIB: u64 = 64;
const SETTLE_WITHIN: Duration = Duration::from_secs(180);
const ANSWER_WITHIN: Duration = Duration::from_secs(1);
const LOOK_EVERY: Duration = Duration::from_millis(5);

pub(crate) fn run(run: &mut Run) -> anyhow::Result<()> {
    let more = format!(
        "[packs.photos]\nmemory = \"{MEMORY_MIB}MiB\"\nconcurrency = 2\n[lanes.cpu]\nthreads = 1"
    );
    let setup = run.setup(&more)?;
    let generated = run.folder.join("hostile");
    let count = images::hostile(&generated, &mut run.dice)?;
    run.figure("generated", count);
    let mut folders = vec![generated];
    match run.corpus.clone().filter(|folder| folder.is_dir()) {
        Some(folder) => folders.push(std::fs::canonicalize(folder)?),
        None => run.skip("l5: no folder of broken photos (--corpus)"),
    }
    let mut server = setup.start()?;
    std::thread::sleep(Duration::from_millis(500));
    let base = server.memory("VmRSS");
    let (mut rows, mut failed) = (0, 0);
    for folder in &folders {
        let (its_rows, its_failed) = folder_through(run, &setup, &server, base, folder)?;
        rows += its_rows;
        failed += its_failed;
    }
    if server.has_ended() {
        run.breach("the server ended");
    }
    run.figure("rows", rows);
    run.figure("failed_rows", failed);
    run.figure("base_mib", base >> 20);
    let left = oracle::quiesce(&mut setup.client(), Duration::from_secs(30))?;
    if left > 0 {
        run.breach(format!("{left} jobs are unfinished"));
    }
    Ok(())
}

/// Rows and failed rows of one folder.
fn folder_through(
    run: &mut Run,
    setup: &Setup,
    server: &Server,
    base: u64,
    folder: &Path,
) -> anyhow::Result<(usize, usize)> {
    let watch = Watch::start(setup, server.pid());
    let mut client = setup.client();
    let settled = photos::settle(&mut client, folder, SETTLE_WITHIN);
    let (peak, answers) = watch.finish();
    let name = folder
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    let grown = peak.saturating_sub(base) >> 20;
    run.figure(&format!("{name}_grown_mib"), grown);
    run.figure(&format!("{name}_answers_ms"), spread(&answers));
    settled?;
    if grown > MEMORY_MIB + OVER_MIB {
        run.breach(format!(
            "{name}: {grown} MiB more; the budget is {MEMORY_MIB} + {OVER_MIB}"
        ));
    }
    let slowest = answers.iter().max().copied().unwrap_or_default();
    if slowest > ANSWER_WITHIN || answers.is_empty() {
        let slowest = rounded(slowest.as_secs_f64());
        run.breach(format!(
            "{name}: an answer took {slowest} s while photos were converted"
        ));
    }
    let prefix = folder.to_string_lossy().into_owned();
    let mut rows = photos::rows(&mut client)?;
    rows.retain(|row| {
        row["path"]
            .as_str()
            .is_some_and(|path| path.starts_with(&prefix))
    });
    for problem in photos::disagreements(&mut client, &rows) {
        run.breach(format!("photos: {problem}"));
    }
    let failed = rows.iter().filter(|row| row["status"] == "FAILED").count();
    Ok((rows.len(), failed))
}

/// Beside the work: the server's memory, and how soon it answers.
struct Watch {
    stop: Arc<AtomicBool>,
    peak: Arc<AtomicU64>,
    memory: std::thread::JoinHandle<()>,
    answers: std::thread::JoinHandle<Vec<Duration>>,
}

impl Watch {
    fn start(setup: &Setup, pid: u32) -> Self {
        let (stop, peak) = (
            Arc::new(AtomicBool::new(false)),
            Arc::new(AtomicU64::new(0)),
        );
        let memory = {
            let (stop, peak) = (Arc::clone(&stop), Arc::clone(&peak));
            std::thread::spawn(move || {
                while !stop.load(Ordering::Acquire) {
                    peak.fetch_max(procfs::memory(pid, "VmRSS"), Ordering::AcqRel);
                    std::thread::sleep(LOOK_EVERY);
                }
            })
        };
        let answers = {
            let (stop, client) = (Arc::clone(&stop), setup.client());
            std::thread::spawn(move || ask_on(client, &stop))
        };
        Self {
            stop,
            peak,
            memory,
            answers,
        }
    }

    fn finish(self) -> (u64, Vec<Duration>) {
        self.stop.store(true, Ordering::Release);
        let _ = self.memory.join();
        (
            self.peak.load(Ordering::Acquire),
            self.answers.join().unwrap_or_default(),
        )
    }
}

fn ask_on(mut client: Client, stop: &AtomicBool) -> Vec<Duration> {
    let mut times = Vec::new();
    while !stop.load(Ordering::Acquire) {
        let began = Instant::now();
        let answered = client
            .get("/v1/queues")
            .is_ok_and(|answer| answer.status == 200);
        // No answer is the longest of all.
        let took = if answered {
            began.elapsed()
        } else {
            Duration::from_secs(60)
        };
        times.push(took);
        std::thread::sleep(Duration::from_millis(20));
    }
    times
}
