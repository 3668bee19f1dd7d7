//! What a start costs, for the caller and until the program runs, and how fast a tree is gone:
//! with and without control groups, in a sandbox, and with 2 GB resident in the server.
//!
//! `cargo build --release --examples -p offloop-lane-process`, then run
//! `target/release/examples/starts`; it uses `probe`, which is built beside it.

use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use offloop_job::{JobId, Lease, Outcome, StopReason, TaskName};
use offloop_lane::{Lane, LaneEvent, LaneSink, TaskInfo, Work, WorkLimits};
use offloop_lane_process::{
    Cgroups, Host, HostConfig, ProcessLane, ProcessSpec, SHIM_COMMAND, Sandbox,
};

type Fallible<T> = Result<T, Box<dyn std::error::Error>>;

const ROUNDS: u64 = 60;

#[derive(Debug)]
struct Line(Sender<LaneEvent>);

impl LaneSink for Line {
    fn send(&self, event: LaneEvent) {
        let _ = self.0.send(event);
    }
}

fn work(lease: u64) -> Fallible<Work> {
    Ok(Work {
        job: JobId::from_parts(lease, lease),
        lease: Lease(lease),
        attempt: 1,
        task: TaskName::parse("task")?,
        payload: "null".into(),
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

fn command(argv: &[&str]) -> Fallible<ProcessSpec> {
    let info = TaskInfo {
        name: TaskName::parse("task")?,
        timeout: None,
        about: "measured".into(),
    };
    Ok(ProcessSpec::exec(info, argv))
}

fn open(host: &Arc<Host>, spec: ProcessSpec) -> Fallible<(ProcessLane, Receiver<LaneEvent>)> {
    let (lane, (sender, line)) = (ProcessLane::new(spec, host.clone()), channel());
    lane.open(Arc::new(Line(sender)))?;
    Ok((lane, line))
}

fn show(what: &str, mut times: Vec<Duration>) {
    times.sort();
    let (median, late) = (times[times.len() / 2], times[times.len() * 99 / 100]);
    println!("{what:48} median {median:>9.1?}   p99 {late:>9.1?}");
}

/// `true` from submit to proven end; `pause` between two, because what is warm is faster.
fn starts(what: &str, host: &Arc<Host>, sandbox: Sandbox, pause: Duration) -> Fallible<()> {
    let mut spec = command(&["true"])?;
    spec.sandbox = sandbox;
    let (lane, line) = open(host, spec)?;
    let (mut called, mut started, mut ended) = (Vec::new(), Vec::new(), Vec::new());
    for lease in 0..ROUNDS {
        std::thread::sleep(pause);
        let begin = Instant::now();
        lane.start(vec![work(lease)?]);
        called.push(begin.elapsed());
        loop {
            match line.recv_timeout(Duration::from_secs(20))? {
                LaneEvent::Started { .. } => started.push(begin.elapsed()),
                LaneEvent::Ended(end) if matches!(end.outcome, Outcome::Completed { .. }) => break,
                LaneEvent::Ended(end) => return Err(format!("{what}: {end:?}").into()),
                _ => {}
            }
        }
        ended.push(begin.elapsed());
    }
    show(&format!("{what}: the caller"), called);
    show(&format!("{what}: spawned"), started);
    show(&format!("{what}: proven end"), ended);
    Ok(())
}

/// A tree that hears no SIGTERM, of six processes and three sessions: from the end of the grace to
/// its proven end.
fn kills(what: &str, host: &Arc<Host>) -> Fallible<()> {
    let grace = Duration::from_millis(20);
    let script = "trap '' TERM; for i in 1 2; do setsid sleep 100 & sleep 100 & done; \
                  (setsid env -i sleep 100 &); while :; do :; done";
    let mut spec = command(&["sh", "-c", script])?;
    spec.grace = grace;
    let (lane, line) = open(host, spec)?;
    let mut times = Vec::new();
    for lease in 0..ROUNDS {
        lane.start(vec![work(lease)?]);
        while !matches!(line.recv()?, LaneEvent::Started { .. }) {}
        std::thread::sleep(Duration::from_millis(40));
        let begin = Instant::now();
        lane.stop(Lease(lease), StopReason::Cancel);
        while !matches!(line.recv()?, LaneEvent::Ended(_)) {}
        times.push(begin.elapsed().saturating_sub(grace));
    }
    show(&format!("{what}: kill of a deaf tree"), times);
    Ok(())
}

fn main() -> Fallible<()> {
    let folder = std::env::temp_dir().join(format!("offloop-starts-{}", std::process::id()));
    let me = std::env::current_exe()?;
    let probe = me.parent().unwrap_or(Path::new("/")).join("probe");
    let config = HostConfig::new(&folder)
        .shim(&probe, [SHIM_COMMAND])
        .environment(std::env::vars_os());
    let with = Host::open(config.clone().cgroups(Cgroups::Always))?;
    let without = Host::open(config.cgroups(Cgroups::Never))?;
    println!("{}", with.means());
    let (none, idle, busy) = (
        Sandbox::default(),
        Duration::from_millis(60),
        Duration::ZERO,
    );
    starts("no group", &without, none.clone(), busy)?;
    starts("no group, idle", &without, none.clone(), idle)?;
    starts("group", &with, none.clone(), busy)?;
    starts("group, idle", &with, none.clone(), idle)?;
    let files = Sandbox {
        read_only: true,
        ..none.clone()
    };
    starts("read_only", &without, files.clone(), busy)?;
    let network = Sandbox {
        no_network: true,
        ..files
    };
    starts("read_only and no_network", &without, network, busy)?;
    kills("no group", &without)?;
    kills("group", &with)?;
    let large = vec![1_u8; 2 << 30];
    starts("2 GB resident, no group", &without, none, busy)?;
    drop((with, without, large));
    std::fs::remove_dir_all(folder)?;
    Ok(())
}
