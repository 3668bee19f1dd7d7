//! What a process lane costs: the round trip of a warm child, a command, and a kill.
//!
//! `cargo build --release --examples -p offloop-lane-process`, then run
//! `target/release/examples/roundtrip`; it uses `probe`, which is built beside it.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use bytes::Bytes;
use offloop_job::{JobId, Lease, StopReason, TaskName};
use offloop_lane::{Ended, Lane, LaneEvent, LaneSink, TaskInfo, Work, WorkLimits};
use offloop_lane_process::{Host, HostConfig, ProcessLane, ProcessSpec, SHIM_COMMAND};

type Fallible<T> = Result<T, Box<dyn std::error::Error>>;

#[derive(Debug)]
struct Line(Sender<LaneEvent>);

impl LaneSink for Line {
    fn send(&self, event: LaneEvent) {
        let _ = self.0.send(event);
    }
}

fn ended(line: &Receiver<LaneEvent>) -> Fallible<Box<Ended>> {
    loop {
        if let LaneEvent::Ended(ended) = line.recv_timeout(Duration::from_secs(20))? {
            return Ok(ended);
        }
    }
}

fn info() -> Fallible<TaskInfo> {
    Ok(TaskInfo {
        name: TaskName::parse("task")?,
        timeout: None,
        about: "measured".into(),
    })
}

fn work(lease: u64, payload: &Bytes) -> Fallible<Work> {
    Ok(Work {
        job: JobId::from_parts(lease, lease),
        lease: Lease(lease),
        attempt: 1,
        task: info()?.name,
        payload: payload.clone(),
        priority: 5,
        limits: WorkLimits {
            timeout: Duration::from_secs(3600),
            cpu: None,
            memory_bytes: None,
            stall: None,
            result_bytes: offloop_job::limits::RESULT_BYTES_MAX,
        },
        cores: 1,
        deadline: None,
        checkpoint: None,
        trace: None,
        inputs: std::sync::Arc::default(),
    })
}

fn open(host: &Arc<Host>, spec: ProcessSpec) -> Fallible<(ProcessLane, Receiver<LaneEvent>)> {
    let (lane, (sender, line)) = (ProcessLane::new(spec, host.clone()), channel());
    lane.open(Arc::new(Line(sender)))?;
    Ok((lane, line))
}

/// Runs the job again and again; prints the median and p99 of its way there and back.
fn measure(
    what: &str,
    host: &Arc<Host>,
    spec: ProcessSpec,
    rounds: u64,
    size: usize,
) -> Fallible<()> {
    let (lane, line) = open(host, spec)?;
    let payload = Bytes::from(format!("\"{}\"", "x".repeat(size.saturating_sub(2))));
    let mut times = Vec::new();
    for lease in 0..rounds {
        let begin = Instant::now();
        lane.start(vec![work(lease, &payload)?]);
        let end = ended(&line)?;
        if lease >= rounds / 10 {
            times.push(begin.elapsed());
        }
        if !matches!(end.outcome, offloop_job::Outcome::Completed { .. }) {
            return Err(format!("{what}: {end:?}").into());
        }
    }
    times.sort();
    let (median, late) = (times[times.len() / 2], times[times.len() * 99 / 100]);
    println!("{what:38} median {median:>10.1?}   p99 {late:>10.1?}");
    Ok(())
}

/// From the cancel of a command that ignores SIGTERM to its proven end, less the grace.
fn measure_kill(host: &Arc<Host>, rounds: u64) -> Fallible<()> {
    let grace = Duration::from_millis(20);
    let script = "trap '' TERM; setsid sleep 100 & while :; do :; done";
    let mut spec = ProcessSpec::exec(info()?, ["sh", "-c", script]);
    spec.grace = grace;
    let (lane, line) = open(host, spec)?;
    let mut times = Vec::new();
    for lease in 0..rounds {
        lane.start(vec![work(lease, &Bytes::from_static(b"null"))?]);
        while !matches!(line.recv()?, LaneEvent::Started { .. }) {}
        std::thread::sleep(Duration::from_millis(20));
        let begin = Instant::now();
        lane.stop(Lease(lease), StopReason::Cancel);
        ended(&line)?;
        times.push(begin.elapsed().saturating_sub(grace));
    }
    times.sort();
    let (median, late) = (times[times.len() / 2], times[times.len() * 99 / 100]);
    println!(
        "{:38} median {median:>10.1?}   p99 {late:>10.1?}",
        "kill of a deaf tree, past its grace"
    );
    Ok(())
}

/// From the due time of a timeout to the end of a job that answers at once when it is asked.
fn measure_timeout(host: &Arc<Host>, spec: ProcessSpec, rounds: u64) -> Fallible<()> {
    let (lane, line) = open(host, spec)?;
    let mut times = Vec::new();
    for lease in 0..rounds {
        let mut one = work(lease, &Bytes::from_static(b"null"))?;
        one.limits.timeout = Duration::from_millis(20 + lease % 7);
        let limit = one.limits.timeout;
        lane.start(vec![one]);
        while !matches!(line.recv()?, LaneEvent::Started { .. }) {}
        let begin = Instant::now();
        ended(&line)?;
        times.push(begin.elapsed().saturating_sub(limit));
    }
    times.sort();
    let (median, late) = (times[times.len() / 2], times[times.len() * 99 / 100]);
    println!(
        "{:38} median {median:>10.1?}   p99 {late:>10.1?}",
        "a timeout, past its due time"
    );
    Ok(())
}

fn main() -> Fallible<()> {
    let folder: PathBuf =
        std::env::temp_dir().join(format!("offloop-roundtrip-{}", std::process::id()));
    let me = std::env::current_exe()?;
    let probe = me
        .parent()
        .map(|folder| folder.join("probe"))
        .ok_or("no folder")?;
    let config = HostConfig::new(&folder)
        .shim(&probe, [SHIM_COMMAND])
        .environment(std::env::vars_os());
    let host = Host::open(config)?;
    let echo = || -> Fallible<ProcessSpec> {
        Ok(ProcessSpec::process(
            info()?,
            [OsString::from(&probe), "echo".into()],
        ))
    };
    measure("warm compiled child, 64 B", &host, echo()?, 20_000, 64)?;
    measure(
        "warm compiled child, 64 KiB",
        &host,
        echo()?,
        2_000,
        64 << 10,
    )?;
    measure("warm compiled child, 1 MiB", &host, echo()?, 1_000, 1 << 20)?;
    let node = folder.join("echo.mjs");
    std::fs::write(&node, "export default (payload) => payload;")?;
    if Path::new("/usr/bin/node").exists() {
        let spec = ProcessSpec::process(info()?, [OsString::from("node"), node.into()]);
        measure("warm Node child, 64 B", &host, spec.clone(), 10_000, 64)?;
        measure("warm Node child, 1 MiB", &host, spec, 300, 1 << 20)?;
    }
    measure(
        "a command: true",
        &host,
        ProcessSpec::exec(info()?, ["true"]),
        500,
        4,
    )?;
    let waits = ProcessSpec::process(info()?, [OsString::from(&probe), "wait".into()]);
    measure_timeout(&host, waits, 100)?;
    measure_kill(&host, 50)?;
    drop(host);
    std::fs::remove_dir_all(folder)?;
    Ok(())
}
