//! The real program on a free port with a folder of its own.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal, kill_process};

use super::conn::Conn;

/// From the spawn to the first ready answer; a start that takes longer is a failure.
const READY_MAX: Duration = Duration::from_secs(120);
/// A drain may take this long before the process is killed.
const END_MAX: Duration = Duration::from_secs(60);

/// How servers are started.
#[derive(Clone, Debug)]
pub(super) struct Program {
    pub(super) path: PathBuf,
    /// Data folders are made here.
    pub(super) folder: PathBuf,
}

/// A server that runs; killed when dropped.
#[derive(Debug)]
pub(super) struct Server {
    child: Child,
    /// Held open: a server whose output nobody takes would fail at its next line.
    stdout: BufReader<ChildStdout>,
    pub(super) address: SocketAddr,
    /// From the spawn to the first 200 of `/readyz`.
    pub(super) ready_after: Duration,
}

impl Program {
    /// A folder for one server, removed when dropped.
    pub(super) fn fresh(&self) -> anyhow::Result<tempfile::TempDir> {
        let mut builder = tempfile::Builder::new();
        Ok(builder.prefix(".bench-http-").tempdir_in(&self.folder)?)
    }

    /// Starts a server on `data` and waits until it is ready.
    pub(super) fn serve(&self, data: &Path, env: &[(&str, &str)]) -> anyhow::Result<Server> {
        let config = data.join("bench.toml");
        // A bench keeps what it makes: no rule of retention runs in the middle of a measure.
        std::fs::write(
            &config,
            "[store]\nqueue_jobs_max = 100000000\n[retention]\njobs_max = 100000000\n",
        )?;
        let began = Instant::now();
        let mut command = Command::new(&self.path);
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("OFFLOOP_") {
                command.env_remove(name); // settings of this shell are not those of the bench
            }
        }
        command
            .arg("serve")
            .args(["--listen", "127.0.0.1:0"])
            .arg("--data")
            .arg(data.join("data"))
            .arg("--config")
            .arg(&config)
            .env("OFFLOOP_LOG", "warn")
            .envs(env.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::piped());
        #[allow(clippy::disallowed_methods)] // the bench is the parent here, not a lane
        let mut child = command
            .spawn()
            .with_context(|| format!("cannot start {}", self.path.display()))?;
        let stdout = child.stdout.take().context("no stdout")?;
        let mut server = Server {
            child,
            stdout: BufReader::new(stdout),
            address: ([127, 0, 0, 1], 0).into(),
            ready_after: Duration::ZERO,
        };
        server.address = address(&mut server.stdout)?;
        server.wait_ready(began)?;
        Ok(server)
    }
}

/// The dashboard's line names the address.
fn address(lines: &mut impl BufRead) -> anyhow::Result<SocketAddr> {
    for line in lines.lines() {
        let line = line?;
        if let Some(rest) = line.split_once("http://").map(|(_, rest)| rest) {
            return Ok(rest.trim_end_matches('/').parse()?);
        }
    }
    bail!("the server ended before it said where it listens")
}

impl Server {
    fn wait_ready(&mut self, began: Instant) -> anyhow::Result<()> {
        while began.elapsed() < READY_MAX {
            let ready = Conn::open(self.address)
                .and_then(|mut conn| conn.get("/readyz"))
                .is_ok_and(|answer| answer.status == 200);
            if ready {
                self.ready_after = began.elapsed();
                return Ok(());
            }
            if let Some(status) = self.child.try_wait()? {
                bail!("the server ended with {status} before it was ready");
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        bail!("the server was not ready within {READY_MAX:?}")
    }

    pub(super) fn connect(&self) -> anyhow::Result<Conn> {
        Conn::open(self.address)
    }

    pub(super) fn resident_bytes(&self) -> anyhow::Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find(|line| line.starts_with("VmRSS:"));
        let kib = line.and_then(|line| line.split_whitespace().nth(1));
        Ok(kib.context("no VmRSS")?.parse::<u64>()? << 10)
    }

    pub(super) fn cpu(&self) -> anyhow::Result<Duration> {
        cpu_of(&format!("/proc/{}/stat", self.child.id()))
    }

    fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        if let Some(pid) = pid {
            let _ = kill_process(pid, signal); // it may have ended on its own
        }
    }

    /// Asks it to end, and waits.
    pub(super) fn end(mut self) -> anyhow::Result<()> {
        self.signal(Signal::TERM);
        let began = Instant::now();
        while began.elapsed() < END_MAX {
            if self.child.try_wait()?.is_some() {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        bail!("the server did not end within {END_MAX:?}")
    }

    /// As a crash ends it.
    pub(super) fn kill(mut self) -> anyhow::Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// Processor time of this process.
pub(super) fn own_cpu() -> anyhow::Result<Duration> {
    cpu_of("/proc/self/stat")
}

/// User and system time; the kernel counts in hundredths of a second.
fn cpu_of(path: &str) -> anyhow::Result<Duration> {
    let stat = std::fs::read_to_string(path)?;
    let (_, fields) = stat.rsplit_once(')').context("no fields in stat")?;
    let mut times = fields.split_whitespace().skip(11);
    let mut next = || -> anyhow::Result<u64> { Ok(times.next().context("no times")?.parse()?) };
    Ok(Duration::from_millis((next()? + next()?) * 10))
}
