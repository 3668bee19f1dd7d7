//! The server under test, in a process of its own: what is counted of it is its own, and what it
//! leaves ends with it.

use std::ffi::OsString;
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

use offloop::pulse::processes::TICK;

use super::http::{get, whole};
use super::proc;
use super::{LabError, Plan};
use crate::strategy::Kind;
use crate::work::Pace;

/// The line that the server prints when it listens: this, then its address.
const LISTENS: &str = "lab listens on http://";
const START_MAX: Duration = Duration::from_secs(30);
const END_MAX: Duration = Duration::from_millis(1_500);
const ANSWER_MAX: Duration = Duration::from_secs(30);
/// With less than two ticks of work in so long, a server rests.
const REST: Duration = Duration::from_millis(100);

/// How the server under test is started: a program that calls [`crate::serve`], with the arguments
/// that precede `--listen`, `--only`, `--data`, `--rounds-per-ms`, `--until-stdin-ends` and `--usual-slices`,
/// and that prints `lab listens on http://ADDRESS` once it does.
#[derive(Clone, Debug)]
pub struct ServerCommand {
    pub program: OsString,
    pub args: Vec<OsString>,
}

/// A running server for one way to work. Ended when it is dropped.
pub(super) struct Subject {
    child: Child,
    pub(super) address: SocketAddr,
}

impl Subject {
    #[expect(
        clippy::disallowed_methods,
        reason = "a server that is measured, not an executor of a task"
    )]
    pub(super) fn start(
        plan: &Plan,
        kind: Kind,
        data: &Path,
        pace: Pace,
    ) -> Result<Self, LabError> {
        let slices: &[&str] = if plan.short_slices {
            &[]
        } else {
            &["--usual-slices"]
        };
        let mut child = Command::new(&plan.server.program)
            .args(&plan.server.args)
            .args(["--listen", "127.0.0.1:0", "--only", kind.name(), "--data"])
            .arg(data)
            .args(["--rounds-per-ms", &pace.rounds_per_ms().to_string()])
            .arg("--until-stdin-ends")
            .args(slices)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(LabError::Spawn)?;
        let Some(output) = child.stdout.take() else {
            return Err(LabError::Spawn(io::ErrorKind::BrokenPipe.into()));
        };
        let mut subject = Self {
            child,
            address: SocketAddr::from(([0, 0, 0, 0], 0)),
        };
        let (tell, told) = channel();
        // To the end of the output: a program whose output nobody takes would fail at its next line.
        thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                let address = line.strip_prefix(LISTENS);
                let _ = address.map(|address| tell.send(address.parse()));
            }
        });
        let told = told.recv_timeout(START_MAX);
        let address = told.ok().and_then(Result::ok);
        subject.address = address.ok_or(LabError::NotListening { kind })?;
        Ok(subject)
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// One request, answered: also what makes lanes and children ready. Answers the body.
    pub(super) fn ask(&self, path: &str) -> io::Result<Vec<u8>> {
        let mut socket = TcpStream::connect(self.address)?;
        socket.set_read_timeout(Some(ANSWER_MAX))?;
        socket.write_all(&get(path))?;
        let mut held = Vec::new();
        loop {
            let mut piece = [0; 4096];
            match socket.read(&mut piece)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                count => held.extend_from_slice(&piece[..count]),
            }
            if let Some(answer) = whole(&held)? {
                let body = held[answer.body.0..answer.body.1].to_vec();
                let text = String::from_utf8_lossy(&body);
                return match answer.status {
                    200 => Ok(body),
                    other => Err(io::Error::other(format!("answer {other}: {text}"))),
                };
            }
        }
    }

    /// Asks for a long piece of work, hangs up while it is under way, and answers how much processor
    /// time the server and its children used from then until they rested.
    pub(super) fn hang_up(
        &self,
        path: &str,
        after: Duration,
        most: Duration,
    ) -> io::Result<Duration> {
        let mut socket = TcpStream::connect(self.address)?;
        socket.write_all(&get(path))?;
        thread::sleep(after);
        let before = proc::cpu_time(self.pid());
        drop(socket);
        let until = Instant::now() + most;
        let mut last = (before, Instant::now());
        while Instant::now() < until && last.1.elapsed() < REST {
            thread::sleep(REST / 10);
            let now = proc::cpu_time(self.pid());
            // A tick may be anybody's housekeeping; work uses all of them.
            if now > last.0 + TICK {
                last = (now, Instant::now());
            }
        }
        Ok(last.0.saturating_sub(before))
    }
}

impl Drop for Subject {
    fn drop(&mut self) {
        // The end of its input asks it; its children end with it either way.
        drop(self.child.stdin.take());
        let until = Instant::now() + END_MAX;
        while Instant::now() < until {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            thread::sleep(Duration::from_millis(10));
        }
        let _ = self.child.kill(); // it has ended by itself
        let _ = self.child.wait();
    }
}
