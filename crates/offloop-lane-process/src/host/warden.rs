//! A tiny process beside the server that clears up if the server is killed.
//!
//! Parent-death signals reach a server's direct children only. The warden waits on the server's
//! pidfd; when that fires it ends everything that carries a dead server's marker, by the same code
//! that a next server runs at its start, and leaves. Killed as well, it is no loss: that next
//! server does it.

use std::ffi::OsString;
use std::io::{self, PipeReader, PipeWriter, Read as _, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::spawner::Shim;
use super::{family, leftovers};
use crate::{procfs, sys};

/// The shim's first argument for this.
pub(crate) const WARDEN: &str = "warden";
/// In the environment of a warden: a program that opens a host under it did not call `shim_main`.
const VARIABLE: &str = "OFFLOOP_WARDEN";
const READY: u8 = b'!';
/// A warden that does not answer for so long is none.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// From the end of the host to the end of its process, if that is ending.
const FAREWELL: Duration = Duration::from_millis(200);

/// The server's side: kept for the life of the host.
#[derive(Debug)]
pub(super) struct Warden {
    child: Child,
    /// Closed when the host ends.
    line: Option<PipeWriter>,
}

impl Warden {
    /// Starts it and waits for its answer.
    #[expect(
        clippy::disallowed_methods,
        reason = "the host's own helper, not a task"
    )]
    pub(super) fn start(
        shim: &Shim,
        run_dir: &Path,
        place: &str,
        group: Option<&Path>,
    ) -> io::Result<Self> {
        let me = std::process::id();
        if procfs::variable(me as i32, VARIABLE).is_some() {
            return Err(no_shim());
        }
        let (line_end, line) = io::pipe()?;
        let (mut answer, answer_end) = io::pipe()?;
        let mut command = Command::new(&shim.program);
        command
            .arg0("offloop-warden")
            .args(&shim.args)
            .args([WARDEN, &me.to_string(), place])
            .arg(run_dir)
            .args(group)
            .env_clear()
            .env(VARIABLE, "1")
            .current_dir("/")
            .stdin(Stdio::from(line_end))
            .stdout(Stdio::from(answer_end))
            .stderr(Stdio::null())
            .process_group(0);
        let mut family = family::lock();
        let child = command.spawn()?;
        family.known.insert(child.id() as i32);
        drop(family);
        drop(command); // with the other ends of the pipes
        let mut warden = Self {
            child,
            line: Some(line),
        };
        if let Err(error) = wait_ready(&mut answer) {
            let _ = warden.child.kill();
            return Err(error);
        }
        Ok(warden)
    }
}

impl Drop for Warden {
    fn drop(&mut self) {
        self.line = None;
        let _ = self.child.wait(); // it leaves within its farewell
        family::lock().known.remove(&(self.child.id() as i32));
    }
}

fn wait_ready(answer: &mut PipeReader) -> io::Result<()> {
    let within = Timespec::try_from(ANSWER_WITHIN).ok();
    let mut fds = [PollFd::new(answer, PollFlags::IN)];
    let mut byte = [0];
    let answered = poll(&mut fds, within.as_ref())? > 0 && answer.read(&mut byte)? > 0;
    if answered && byte[0] == READY {
        Ok(())
    } else {
        Err(no_shim())
    }
}

fn no_shim() -> io::Error {
    io::Error::other(
        "the program that is to serve as shim does not answer as one: \
         call `shim_main` first of all when its first argument says so",
    )
}

/// The warden itself. `args`: what follows [`WARDEN`].
pub(crate) fn warden_main(mut args: impl Iterator<Item = OsString>) -> ! {
    let server = args.next().and_then(|pid| pid.to_str()?.parse().ok());
    let place = args.next().and_then(|place| place.into_string().ok());
    let run_dir = args.next().map(PathBuf::from);
    let group = args.next().map(PathBuf::from);
    if let (Some(server), Some(place), Some(run_dir)) = (server, place, run_dir) {
        sys::close_from(3);
        let _ = watch(server, &place, &run_dir, group);
    }
    std::process::exit(0)
}

fn watch(server: i32, place: &str, run_dir: &Path, group: Option<PathBuf>) -> io::Result<()> {
    let pid = Pid::from_raw(server).ok_or(io::ErrorKind::InvalidInput)?;
    let held = pidfd_open(pid, PidfdFlags::empty())?;
    // Held, and still our parent: it is the server and nobody who got its number.
    if rustix::process::getppid() == Some(pid) {
        io::stdout().write_all(&[READY])?;
        io::stdout().flush()?;
        let line = io::stdin();
        let mut fds = [
            PollFd::new(&line, PollFlags::IN),
            PollFd::new(&held, PollFlags::IN),
        ];
        poll(&mut fds, None)?;
        // The line closes a moment before the process is dead; or only the host ended.
        let mut death = [PollFd::new(&held, PollFlags::IN)];
        if poll(&mut death, Timespec::try_from(FAREWELL).ok().as_ref())? == 0 {
            return Ok(());
        }
    }
    // First: it holds the whole of this server's trees, and needs no look at other processes. Also
    // where the data directory is gone already.
    if let Some(group) = group {
        leftovers::clear_group(group);
    }
    let _ = leftovers::clear(run_dir, place); // what it cannot clear, the next server reports
    Ok(())
}
