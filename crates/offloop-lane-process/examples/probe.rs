//! What the tests start: the shim, a child that speaks the protocol, and a server to be killed.
//!
//! An example and not a binary, so that the workspace has one program to run.

#![allow(unsafe_code, reason = "the channel arrives as a descriptor number")]

use std::ffi::OsString;
use std::io::{IoSlice, Read, Write};
use std::os::fd::FromRawFd as _;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use offloop_job::{JobId, Lease, Outcome, TaskName};
use offloop_lane::{Lane, LaneEvent, LaneSink, TaskInfo, Work, WorkLimits};
use offloop_lane_process::{
    Cgroups, Host, HostConfig, ProcessLane, ProcessSpec, SHIM_COMMAND, shim_main,
};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

type Fallible = Result<(), Box<dyn std::error::Error>>;

fn main() -> Fallible {
    let mut args = std::env::args_os().skip(1);
    let command = args.next().unwrap_or_default();
    match command.to_str() {
        Some(SHIM_COMMAND) => shim_main(args),
        Some("echo") => echo(false),
        Some("wait") => echo(true),
        Some("server") => server(args, true),
        Some("server-without-groups") => server(args, false),
        Some("jobs") => jobs(args),
        _ => Err("echo | wait | server FOLDER COMMAND... | jobs FOLDER [warm]".into()),
    }
}

/// Answers each job with its payload; with `waits` when it is asked to stop, and not before.
fn echo(waits: bool) -> Fallible {
    // SAFETY: descriptor 3 is the channel, given to this process and owned by nobody else in it.
    let mut channel = unsafe { UnixStream::from_raw_fd(3) };
    send(&mut channel, br#"{"type":"ready","protocol":1}"#, &[])?;
    let mut frame = vec![0; 64 << 10];
    let mut got = 0;
    loop {
        // Most often one read is one frame; it may bring a part of the next.
        while got < 4 {
            match channel.read(&mut frame[got..])? {
                0 => return Ok(()),
                count => got += count,
            }
        }
        let whole = 4 + u32::from_le_bytes([frame[0], frame[1], frame[2], frame[3]]) as usize;
        if whole > frame.len() {
            frame.resize(whole, 0);
        }
        if got < whole {
            channel.read_exact(&mut frame[got..whole])?;
            got = whole;
        }
        let body = &frame[4..whole];
        let cut = body.iter().position(|byte| *byte == b'\n');
        let header = String::from_utf8_lossy(&body[..cut.unwrap_or(body.len())]);
        let answers = if waits {
            r#""type":"cancel""#
        } else {
            r#""type":"run""#
        };
        if header.contains(answers) {
            let lease = header.split(r#""lease":"#).nth(1).unwrap_or("0");
            let lease: String = lease.chars().take_while(char::is_ascii_digit).collect();
            let head = format!("{{\"type\":\"result\",\"lease\":{lease}}}\n");
            let data = &body[cut.map_or(body.len(), |at| at + 1)..];
            send(&mut channel, head.as_bytes(), data)?;
        }
        frame.copy_within(whole..got, 0);
        got -= whole;
    }
}

fn send(channel: &mut UnixStream, head: &[u8], data: &[u8]) -> std::io::Result<()> {
    let length = (head.len() + data.len()) as u32;
    let head = [&length.to_le_bytes()[..], head].concat();
    let count = channel.write_vectored(&[IoSlice::new(&head), IoSlice::new(data)])?;
    if let Some(rest) = head.get(count..) {
        channel.write_all(rest)?;
    }
    channel.write_all(data.get(count.saturating_sub(head.len())..).unwrap_or(&[]))
}

#[derive(Debug)]
struct Printer;

impl LaneSink for Printer {
    fn send(&self, event: LaneEvent) {
        match event {
            LaneEvent::Started { executor, .. } => println!("started {executor}"),
            LaneEvent::Ended(ended) => match ended.outcome {
                Outcome::Completed { .. } => println!("completed"),
                Outcome::Snoozed { after } => println!("snoozed {after:?}"),
                Outcome::Failed(failure) | Outcome::Stopped { failure, .. } => {
                    println!("{}: {}", failure.class.as_str(), failure.message);
                }
            },
            _ => {}
        }
    }
}

/// Runs one command and then stands still, to be killed.
fn server(mut args: impl Iterator<Item = OsString>, groups: bool) -> Fallible {
    let folder = args.next().ok_or("no folder")?;
    let config = HostConfig::new(folder)
        .environment(std::env::vars_os())
        .cgroups(if groups {
            Cgroups::Always
        } else {
            Cgroups::Never
        });
    let lane = lane(Host::open(config)?, args)?;
    lane.start(vec![work(1)?]);
    loop {
        std::thread::park();
    }
}

/// Runs a job for each line that it reads, and says how each ended: `true`, or with `warm` a child
/// that stays.
fn jobs(mut args: impl Iterator<Item = OsString>) -> Fallible {
    let folder = args.next().ok_or("no folder")?;
    let host = Host::open(HostConfig::new(folder).environment(std::env::vars_os()))?;
    let lane = if args.next().is_some_and(|mode| mode == "warm") {
        let me = std::env::current_exe()?.into_os_string();
        open(ProcessSpec::process(info()?, [me, "echo".into()]), host)?
    } else {
        lane(host, ["/bin/true"])?
    };
    println!("open");
    for (lease, line) in std::io::stdin().lines().enumerate() {
        let line = line?;
        if let ["limit", which, most] = line.split(' ').collect::<Vec<_>>()[..] {
            limit(which, most.parse()?)?;
            println!("limited");
            continue;
        }
        lane.start(vec![work(lease as u64 + 1)?]);
    }
    Ok(())
}

fn limit(which: &str, most: u64) -> Fallible {
    let resource = match which {
        "nofile" => Resource::Nofile,
        "nproc" => Resource::Nproc,
        _ => return Err("limit: nofile | nproc".into()),
    };
    let maximum = getrlimit(resource).maximum;
    let current = Some(most);
    setrlimit(resource, Rlimit { current, maximum })?;
    Ok(())
}

fn lane(
    host: Arc<Host>,
    command: impl IntoIterator<Item = impl Into<OsString>>,
) -> Result<ProcessLane, Box<dyn std::error::Error>> {
    open(ProcessSpec::exec(info()?, command), host)
}

fn info() -> Result<TaskInfo, Box<dyn std::error::Error>> {
    Ok(TaskInfo {
        name: TaskName::parse("victim")?,
        timeout: None,
        about: "run by the tests' helper".into(),
    })
}

fn open(spec: ProcessSpec, host: Arc<Host>) -> Result<ProcessLane, Box<dyn std::error::Error>> {
    let lane = ProcessLane::new(spec, host);
    lane.open(Arc::new(Printer))?;
    Ok(lane)
}

fn work(lease: u64) -> Result<Work, Box<dyn std::error::Error>> {
    Ok(Work {
        job: JobId::from_parts(lease, lease),
        lease: Lease(lease),
        attempt: 1,
        task: TaskName::parse("victim")?,
        payload: "null".into(),
        priority: 5,
        limits: WorkLimits {
            timeout: Duration::from_secs(600),
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
