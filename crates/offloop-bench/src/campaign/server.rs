//! The program under test as a process of its own: started, watched, signalled, killed.

use std::fs::{self, File, OpenOptions};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal, kill_process};

use super::http::Client;
use super::procfs;

/// A start that takes longer has failed.
const START_WITHIN: Duration = Duration::from_secs(30);

/// How servers of one campaign are started.
#[derive(Clone, Debug)]
pub(crate) struct Setup {
    pub(crate) program: PathBuf,
    pub(crate) data: PathBuf,
    pub(crate) config: PathBuf,
    /// Output of all of them, one after the other.
    pub(crate) log: PathBuf,
    pub(crate) address: SocketAddr,
}

impl Setup {
    /// `folder`: of the campaign; `config`: text of the configuration file.
    pub(crate) fn new(program: &Path, folder: &Path, config: &str) -> anyhow::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let setup = Self {
            program: fs::canonicalize(program)
                .with_context(|| format!("no program at {}", program.display()))?,
            data: folder.join("data"),
            config: folder.join("offloop.toml"),
            log: folder.join("server.log"),
            address: listener.local_addr()?,
        };
        fs::write(&setup.config, config)?;
        Ok(setup)
    }

    /// Starts a server and waits until it is ready. `before`: a command to start it under.
    pub(crate) fn start_under(&self, before: &[String]) -> anyhow::Result<Server> {
        let mut server = self.spawn(before)?;
        let mut client = Client::new(self.address);
        loop {
            if client
                .get("/readyz")
                .is_ok_and(|answer| answer.status == 200)
            {
                server.ready_after = server.spawned.elapsed();
                return Ok(server);
            }
            if let Some(status) = server.child.try_wait()? {
                bail!(
                    "the server ended at its start ({status}): {}",
                    self.log_end()
                );
            }
            if server.spawned.elapsed() > START_WITHIN {
                server.kill();
                bail!("not ready within {START_WITHIN:?}: {}", self.log_end());
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    pub(crate) fn start(&self) -> anyhow::Result<Server> {
        self.start_under(&[])
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "the program under test, not a task"
    )]
    pub(crate) fn spawn(&self, before: &[String]) -> anyhow::Result<Server> {
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&self.log)?;
        let mut words = before.iter().map(PathBuf::from);
        let mut command = match words.next() {
            Some(first) => {
                let mut command = Command::new(first);
                command.args(words).arg(&self.program);
                command
            }
            None => Command::new(&self.program),
        };
        command
            .arg("serve")
            .arg("--config")
            .arg(&self.config)
            .arg("--data")
            .arg(&self.data)
            .args(["--listen", &self.address.to_string()])
            .stdin(Stdio::null())
            .stdout(File::options().append(true).open(&self.log)?)
            .stderr(log);
        let spawned = Instant::now();
        let child = command
            .spawn()
            .context("cannot start the program under test")?;
        Ok(Server {
            child,
            spawned,
            ready_after: Duration::ZERO,
        })
    }

    /// A child that the tracer holds between its birth and its program still has the old server's
    /// socket: waits until the address can be had, at most `limit`.
    pub(crate) fn wait_address(&self, limit: Duration) {
        let began = Instant::now();
        while TcpListener::bind(self.address).is_err() && began.elapsed() < limit {
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    pub(crate) fn client(&self) -> Client {
        Client::new(self.address)
    }

    pub(crate) fn log_lines(&self) -> usize {
        fs::read_to_string(&self.log)
            .unwrap_or_default()
            .lines()
            .count()
    }

    fn log_end(&self) -> String {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<_> = text.lines().collect();
        lines[lines.len().saturating_sub(3)..].join(" | ")
    }
}

/// A server that runs, or has ended. Killed when dropped.
#[derive(Debug)]
pub(crate) struct Server {
    child: Child,
    pub(crate) spawned: Instant,
    /// From its start to the first 200 of `/readyz`.
    pub(crate) ready_after: Duration,
}

impl Server {
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// SIGKILL, and its end.
    pub(crate) fn kill(&mut self) {
        let _ = self.child.kill(); // it may have ended
        let _ = self.child.wait();
    }

    pub(crate) fn terminate(&self) {
        if let Some(pid) = i32::try_from(self.pid()).ok().and_then(Pid::from_raw) {
            let _ = kill_process(pid, Signal::TERM); // it may have ended
        }
    }

    /// How it ended and after how long, or `None` if it still runs after `limit`.
    pub(crate) fn wait(&mut self, limit: Duration) -> Option<(ExitStatus, Duration)> {
        let began = Instant::now();
        loop {
            if let Ok(Some(status)) = self.child.try_wait() {
                return Some((status, began.elapsed()));
            }
            if began.elapsed() > limit {
                return None;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    pub(crate) fn has_ended(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(Some(_)))
    }

    pub(crate) fn memory(&self, field: &str) -> u64 {
        procfs::memory(self.pid(), field)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

/// For messages: an exit code, or the signal.
pub(crate) fn told(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => "no code".into(),
    }
}
