//! The server that is measured: the real program, in a process of its own, on loopback, with a data
//! folder that goes with it.
//!
//! Not lanes in this process: then the load's own work would be counted as the server's, and the
//! doors, whose share of the processors decides short calls, would be missing.

use std::ffi::OsString;
use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use crate::PlanError;

/// The line in which `offloop serve` tells its address.
const LISTENS: &str = "dashboard: http://";
const START_MAX: Duration = Duration::from_secs(60);
/// It holds no jobs, so it ends at once; else it is ended.
const END_MAX: Duration = Duration::from_secs(3);

/// How the server is started: a program that takes `serve` with `--config`, `--data`, `--listen`.
#[derive(Clone, Debug)]
pub struct ServerCommand {
    pub program: OsString,
    /// Variables that it must not see, because they would change its configuration.
    pub without: Vec<OsString>,
}

/// A running server. Ended when it is dropped.
#[derive(Debug)]
pub(crate) struct Server {
    child: Child,
    pub(crate) address: SocketAddr,
}

/// Processors that a server may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum On {
    OneCore,
    AllCores,
}

impl Server {
    /// `folder`: for its data; `config`: its whole configuration.
    #[expect(
        clippy::disallowed_methods,
        reason = "a server that is measured, not an executor of a task"
    )]
    pub(crate) fn start(
        command: &ServerCommand,
        folder: &Path,
        config: &str,
        on: On,
    ) -> Result<Self, PlanError> {
        let (data, file) = (folder.join("data"), folder.join("offloop.toml"));
        std::fs::write(&file, config).map_err(PlanError::Folder)?;
        let mut program = Command::new(&command.program);
        program.arg("serve").arg("--data").arg(data);
        program.arg("--config").arg(file);
        program.args(["--listen", "127.0.0.1:0"]);
        for name in &command.without {
            program.env_remove(name);
        }
        program.env("OFFLOOP_LOG", "error");
        program.stdin(Stdio::null()).stdout(Stdio::piped());
        // A child has the processors of the thread that starts it.
        let pinned = (on == On::OneCore).then(Pinned::to_one).flatten();
        let child = program.spawn().map_err(PlanError::Spawn);
        drop(pinned);
        let mut server = Self {
            child: child?,
            address: SocketAddr::from(([0, 0, 0, 0], 0)),
        };
        server.address = server.listening()?;
        Ok(server)
    }

    fn listening(&mut self) -> Result<SocketAddr, PlanError> {
        let Some(output) = self.child.stdout.take() else {
            return Err(PlanError::NotListening);
        };
        let (tell, told) = channel();
        // To the end of the output: a program whose output nobody takes would fail at its next line.
        thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                let address = line.strip_prefix(LISTENS);
                let address = address.and_then(|text| text.trim_end_matches('/').parse().ok());
                let _ = address.map(|address| tell.send(address));
            }
        });
        told.recv_timeout(START_MAX)
            .map_err(|_| PlanError::NotListening)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(pid) = Pid::from_raw(self.child.id().cast_signed()) {
            let _ = kill_process(pid, Signal::TERM); // it has ended by itself
        }
        let until = Instant::now() + END_MAX;
        while Instant::now() < until {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            thread::sleep(Duration::from_millis(10));
        }
        // Its children die with it.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// This thread, on one processor until it is dropped.
struct Pinned(CpuSet);

impl Pinned {
    /// `None` where the system does not allow it: then the server has all of them.
    fn to_one() -> Option<Self> {
        let before = sched_getaffinity(None).ok()?;
        let last = (0..CpuSet::MAX_CPU).rev().find(|cpu| before.is_set(*cpu))?;
        let mut one = CpuSet::new();
        one.set(last);
        sched_setaffinity(None, &one).ok()?;
        Some(Self(before))
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        let _ = sched_setaffinity(None, &self.0); // it was allowed a moment ago
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pinned_thread_has_its_processors_back_afterwards() {
        let before = sched_getaffinity(None).unwrap();
        let pinned = Pinned::to_one().unwrap();
        assert_eq!(sched_getaffinity(None).unwrap().count(), 1);
        drop(pinned);
        assert_eq!(sched_getaffinity(None).unwrap(), before);
    }

    #[test]
    fn a_program_that_does_not_serve_is_an_error_and_no_hang() {
        let folder = tempfile::tempdir().unwrap();
        let command = ServerCommand {
            program: "/bin/false".into(),
            without: Vec::new(),
        };
        let started = Server::start(&command, folder.path(), "", On::AllCores);
        assert!(matches!(started, Err(PlanError::NotListening)));
    }
}
