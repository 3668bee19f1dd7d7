//! R4: one system call fails, by strace, and the server must not pretend that it did not.
//!
//! The trace is a witness of its own: after a failed write or flush of the database or its log, the
//! thread that failed must open the database anew before it writes there again.

use std::fs;
use std::path::Path;
use std::time::Duration;

use super::load::{Load, Mix, Sample};
use super::{Run, images, photos, spread};

const SAMPLES: u32 = 30;
/// Load before the server is killed and started without faults.
const LOAD_FOR: Duration = Duration::from_millis(1_500);
const ANSWER_WITHIN: Duration = Duration::from_secs(1);
/// An answer may be on its way when a later call fails.
const ON_ITS_WAY_MS: u64 = 100;
const TRACED: &str = "openat,pwrite64,fdatasync,ftruncate,rename,unlink";

/// System call, error, and up to which of its calls (of one thread) faults are tried.
const FAULTS: [(&str, &str, u64); 10] = [
    ("fdatasync", "EIO", 30),
    ("pwrite64", "EIO", 100),
    ("pwrite64", "ENOSPC", 100),
    ("fdatasync", "EIO", 10),
    ("ftruncate", "EIO", 4),
    ("openat", "EIO", 60),
    ("rename", "EIO", 6),
    ("unlink", "EIO", 6),
    ("openat", "EMFILE", 60),
    ("fdatasync", "ENOSPC", 20),
];

#[expect(
    clippy::disallowed_methods,
    reason = "a tool beside the campaign, not a task"
)]
fn has_strace() -> bool {
    let version = std::process::Command::new("strace").arg("-V").output();
    version.is_ok_and(|output| output.status.success())
}

pub(crate) fn run(run: &mut Run) -> anyhow::Result<()> {
    if !has_strace() {
        run.skip("r4: strace is not installed");
        return Ok(());
    }
    let samples = run.cycles.unwrap_or(SAMPLES);
    let top = run.folder.clone();
    let mut tally = Tally::default();
    for number in 0..samples {
        let (call, error, most) = FAULTS[number as usize % FAULTS.len()];
        let first = run.dice.between(1, most + 1);
        // Some disks fail once, some for good.
        let until = if run.dice.between(0, 4) == 0 { "+" } else { "" };
        let fault = format!("{call}:error={error}:when={first}{until}");
        run.folder = top.join(format!("sample-{number}"));
        fs::create_dir(&run.folder)?;
        let before = run.counters.rows();
        sample(run, &fault, &mut tally)?;
        if run.counters.rows() != before {
            run.breach(format!("sample {number}, {fault}: jobs do not agree"));
        }
    }
    run.folder = top;
    run.figure("samples", samples);
    run.figure("faults_hit", tally.hit);
    run.figure("hit_in_the_database", tally.in_database);
    run.figure("hits", tally.by_call);
    run.figure("refused_to_start", tally.no_start);
    run.figure("ended_by_itself", tally.ended);
    run.figure("reopened_ms", spread(&tally.reopened));
    run.figure("longest_answer_ms", spread(&tally.longest));
    Ok(())
}

#[derive(Debug, Default)]
struct Tally {
    hit: u32,
    in_database: u32,
    /// Faults that were met, by their system call.
    by_call: serde_json::Map<String, serde_json::Value>,
    no_start: u32,
    ended: u32,
    reopened: Vec<Duration>,
    longest: Vec<Duration>,
}

fn sample(run: &mut Run, fault: &str, tally: &mut Tally) -> anyhow::Result<()> {
    let setup = run.setup("[packs.photos]\nmemory = \"128MiB\"")?;
    let pictures = run.folder.join("pictures");
    images::library(&pictures, 10, &mut run.dice)?;
    let trace = run.folder.join("trace");
    let inject = format!("inject={fault}");
    let traced = format!("trace={TRACED}");
    // -D: the server is our child, not the tracer's.
    let before = [
        "strace",
        "-D",
        "-f",
        "-qq",
        "-y",
        "-ttt",
        "--seccomp-bpf",
        "-e",
        &traced,
        "-e",
    ];
    let mut before: Vec<String> = before.map(ToOwned::to_owned).to_vec();
    before.extend([inject, "-o".into(), trace.display().to_string()]);
    // A file that is there already: most faults shall meet a server at work, not its first start.
    drop(setup.start()?);
    let load = Load::start(setup.address, Mix::ALL, &run.journal(), &mut run.dice)?;
    match setup.start_under(&before) {
        Ok(mut server) => {
            photos::scan(&mut setup.client(), &pictures);
            std::thread::sleep(LOAD_FOR);
            tally.ended += u32::from(server.has_ended());
            server.kill();
            setup.wait_address(Duration::from_secs(5));
        }
        // A server that cannot open its store must say so and end.
        Err(_) => tally.no_start += 1,
    }
    let seen = Trace::read(&trace);
    judge_answers(run, fault, &load.samples(), &seen, tally);
    let server = setup.start()?;
    run.recovery.push(server.ready_after);
    load.finish()?;
    tally.hit += u32::from(seen.hit);
    let call = fault.split(':').next().unwrap_or_default();
    let met = tally
        .by_call
        .get(call)
        .and_then(serde_json::Value::as_u64)
        .unwrap_or(0);
    tally
        .by_call
        .insert(call.into(), (met + u64::from(seen.hit)).into());
    tally.in_database += u32::from(seen.failed_at.is_some());
    if let Some(line) = &seen.same_handle {
        run.breach(format!(
            "{fault}: written again by a handle that had failed: {line}"
        ));
    }
    run.judge(&setup, Duration::from_secs(60))?;
    judge_acks(run, fault, &seen, tally)?;
    drop(server);
    Ok(())
}

/// Exit, or an answer of any kind, within a second: nobody is left waiting.
fn judge_answers(run: &mut Run, fault: &str, calls: &[Sample], seen: &Trace, tally: &mut Tally) {
    if !seen.hit {
        return;
    }
    let answered = calls.iter().filter(|call| call.status != 0);
    if let Some(longest) = answered.map(|call| call.took).max() {
        tally.longest.push(longest);
        if longest > ANSWER_WITHIN {
            run.breach(format!("{fault}: an answer took {longest:?}"));
        }
    }
}

/// Nothing is acknowledged between a failure and the next opening.
fn judge_acks(run: &mut Run, fault: &str, seen: &Trace, tally: &mut Tally) -> anyhow::Result<()> {
    let Some(failed) = seen.failed_at else {
        return Ok(());
    };
    let reopened = seen.reopened_at;
    tally
        .reopened
        .extend(reopened.map(|at| Duration::from_millis(at - failed)));
    let ledger = super::journal::Ledger::read(&run.journal())?;
    let ends = reopened.or(seen.last_at).unwrap_or(failed);
    let between = |at: &&u64| **at > failed + ON_ITS_WAY_MS && **at < ends;
    let early = ledger.acked_at.iter().filter(between).count();
    if early > 0 {
        run.breach(format!(
            "{fault}: {early} acks between the failure and the next opening"
        ));
    }
    Ok(())
}

/// What the trace shows of one run.
#[derive(Debug, Default)]
struct Trace {
    /// The fault was met somewhere.
    hit: bool,
    /// First failed write or flush of the database or its log, in milliseconds since 1970.
    failed_at: Option<u64>,
    reopened_at: Option<u64>,
    last_at: Option<u64>,
    /// The line that shows a write by a failed handle.
    same_handle: Option<String>,
}

impl Trace {
    fn read(path: &Path) -> Self {
        let text = fs::read(path).unwrap_or_default();
        Self::of(&String::from_utf8_lossy(&text))
    }

    fn of(text: &str) -> Self {
        let mut trace = Self::default();
        let mut failed_thread = None;
        for line in text.lines() {
            let mut words = line.split_whitespace();
            let (Some(thread), Some(time)) = (words.next(), words.next()) else {
                continue;
            };
            let Some(at) = time
                .parse::<f64>()
                .ok()
                .map(|seconds| (seconds * 1e3) as u64)
            else {
                continue;
            };
            trace.last_at = Some(at);
            let injected = line.ends_with("(INJECTED)");
            trace.hit |= injected;
            let writes = [" pwrite64(", " fdatasync("]
                .iter()
                .any(|call| line.contains(call));
            let database = line.contains("offloop.db>") || line.contains("offloop.db-wal>");
            let reopens = line.contains(" openat(") && line.contains("/offloop.db\"");
            if Some(thread) == failed_thread {
                if reopens && !injected {
                    trace.reopened_at.get_or_insert(at);
                    failed_thread = None;
                } else if writes && database {
                    trace.same_handle.get_or_insert(line.to_owned());
                }
            }
            if injected && writes && database {
                trace.failed_at.get_or_insert(at);
                failed_thread = Some(thread);
            }
        }
        trace
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FAILED: &str =
        "7 1.000 fdatasync(9</d/offloop.db-wal>) = -1 EIO (Input/output error) (INJECTED)\n";

    #[test]
    fn a_write_by_a_failed_handle_is_seen() {
        let again = "7 1.010 pwrite64(9</d/offloop.db-wal>, \"x\", 1, 0) = 1\n";
        let other = "8 1.005 pwrite64(9</d/offloop.db-wal>, \"x\", 1, 0) = 1\n";
        let open = "7 1.060 openat(AT_FDCWD</>, \"/d/offloop.db\", O_RDWR) = 9</d/offloop.db>\n";
        let rows = [
            (format!("{FAILED}{again}"), true, None),
            (format!("{FAILED}{other}{open}{again}"), false, Some(1_060)),
            (format!("{FAILED}{open}{FAILED}{again}"), true, Some(1_060)),
            (again.to_owned(), false, None),
        ];
        for (text, same_handle, reopened_at) in rows {
            let trace = Trace::of(&text);
            assert_eq!(trace.same_handle.is_some(), same_handle, "{text}");
            assert_eq!(trace.reopened_at, reopened_at, "{text}");
        }
    }

    #[test]
    fn a_fault_elsewhere_is_no_failure_of_the_database() {
        let text =
            "7 1.0 rename(\"/d/a.part\", \"/d/a.jpg\") = -1 EIO (Input/output error) (INJECTED)\n";
        let trace = Trace::of(text);
        assert!(trace.hit && trace.failed_at.is_none());
    }
}
