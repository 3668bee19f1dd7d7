//! Starts children: the one place that may.
//!
//! Everything here keeps the standard library on its posix_spawn path (70 to 80 us at any size of
//! the server): an absolute program, no uid, no `pre_exec`. What a child must do for itself is the
//! shim's.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::Receiver;

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair, sockopt};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};

use super::undertaker::{Burial, GroupKill, Line};
use super::{Kept, MARKER_VARIABLE, family};
use crate::cgroup::Group;
use crate::shim::ShimOrder;
use crate::spec::{Budgets, Sandbox};

/// What each direction of a channel holds; the system may allow less.
const SOCKET_BYTES: usize = 2 << 20;

type Reply = Box<dyn FnOnce(io::Result<Spawned>) + Send>;

/// A child that is wanted.
pub(crate) struct SpawnOrder {
    pub(crate) marker: String,
    pub(crate) roster: PathBuf,
    /// Absolute.
    pub(crate) program: PathBuf,
    pub(crate) argv: Vec<OsString>,
    pub(crate) env: BTreeMap<OsString, OsString>,
    pub(crate) cwd: Option<PathBuf>,
    /// A framed channel on descriptor 3; else standard input is a pipe, and the two outputs are
    /// two.
    pub(crate) channel: bool,
    pub(crate) data_limit: Option<u64>,
    pub(crate) budgets: Budgets,
    pub(crate) sandbox: Sandbox,
    pub(crate) reply: Reply,
}

/// A child that was started. Nobody may reap it but the undertaker.
#[derive(Debug)]
pub(crate) struct Spawned {
    pub(crate) pid: i32,
    pub(crate) pidfd: OwnedFd,
    pub(crate) channel: Option<OwnedFd>,
    pub(crate) stdin: Option<OwnedFd>,
    pub(crate) stdout: Option<OwnedFd>,
    /// `None` where one pipe takes both outputs, in their order.
    pub(crate) stderr: Option<OwnedFd>,
    /// Everything that belongs to it, where there are such groups.
    pub(crate) group: Option<GroupKill>,
}

#[derive(Clone, Debug)]
pub(super) struct Shim {
    pub(super) program: PathBuf,
    pub(super) args: Vec<OsString>,
}

/// Lives as long as the host: when this thread ends, the kernel ends its children.
pub(super) fn run(inbox: &Receiver<SpawnOrder>, shim: &Shim, kept: &Kept, burials: &Line) {
    for order in inbox {
        start(order, shim, kept, burials);
    }
}

/// What is made for a child before it starts.
struct Made {
    group: Option<Arc<Group>>,
    /// The sandbox's order, and the folder that is the task's own.
    sandbox: Option<(PathBuf, PathBuf)>,
}

fn make(order: &SpawnOrder, kept: &Kept) -> io::Result<Made> {
    let sandbox = order.sandbox.is_on();
    let sandbox = sandbox.then(|| kept.make_sandbox(&order.roster, &order.sandbox));
    Ok(Made {
        sandbox: sandbox.transpose()?,
        group: kept.make_group(&order.roster, order.budgets.processes),
    })
}

fn start(order: SpawnOrder, shim: &Shim, kept: &Kept, burials: &Line) {
    let made = match make(&order, kept) {
        Ok(made) => made,
        Err(error) => {
            kept.discard(&order.roster);
            (order.reply)(Err(error));
            return;
        }
    };
    let (reply, marker, roster) = (order.reply, order.marker, order.roster);
    let shim_order = ShimOrder {
        parent: std::process::id() as i32,
        channel: order.channel,
        roster: roster.clone(),
        marker: marker.clone(),
        data_limit: order.data_limit,
        open_files: order.budgets.open_files,
        group: made.group.as_ref().map(|group| group.folder().to_owned()),
        sandbox: made.sandbox.as_ref().map(|(order, _)| order.clone()),
        program: order.program,
        argv: order.argv,
    };
    let mut command = Command::new(&shim.program);
    command
        .arg0("offloop-shim")
        .args(&shim.args)
        .args(shim_order.into_args())
        .env_clear()
        .envs(order.env)
        .env(MARKER_VARIABLE, &marker)
        .process_group(0);
    if let Some((_, scratch)) = &made.sandbox {
        command.env("TMPDIR", scratch);
    }
    if let Some(cwd) = order.cwd {
        command.current_dir(cwd);
    }
    let spawned =
        pipes(&mut command, order.channel).and_then(|ours| launch(&mut command, ours, &marker));
    // The parent's copies of the child's ends, or a dead child would not be seen as end of file.
    drop(command);
    match spawned {
        Ok(mut spawned) => {
            let burials = burials.clone();
            spawned.group = made.group.map(|group| GroupKill::new(group, burials));
            reply(Ok(spawned));
        }
        Err(Failed { error, orphan }) => {
            if let Some(pid) = orphan {
                let reply = Box::new(|_| ());
                burials.send(Burial {
                    pid,
                    marker,
                    roster,
                    reply,
                });
            } else {
                kept.discard(&roster);
            }
            reply(Err(error));
        }
    }
}

struct Failed {
    error: io::Error,
    /// A child that runs and cannot be watched: it is killed, and must be buried.
    orphan: Option<i32>,
}

impl<E: Into<io::Error>> From<E> for Failed {
    fn from(error: E) -> Self {
        Self {
            error: error.into(),
            orphan: None,
        }
    }
}

/// The server's ends.
struct Ours {
    channel: Option<OwnedFd>,
    stdin: Option<OwnedFd>,
    stdout: OwnedFd,
    stderr: Option<OwnedFd>,
}

fn pipes(command: &mut Command, channel: bool) -> Result<Ours, Failed> {
    let (stdout, theirs) = io::pipe()?;
    let stdout = OwnedFd::from(stdout);
    no_wait(&stdout)?;
    if channel {
        let (ours, child) = socketpair(
            AddressFamily::UNIX,
            SocketType::STREAM,
            SocketFlags::CLOEXEC,
            None,
        )?;
        no_wait(&ours)?;
        // A payload or a result at its limit passes in one call, without waiting for its reader.
        for end in [&ours, &child] {
            let _ = sockopt::set_socket_send_buffer_size(end, SOCKET_BYTES);
        }
        // It travels as standard input and the shim moves it to descriptor 3: so no descriptor of
        // the server ever lacks close-on-exec.
        command.stdin(Stdio::from(child));
        command.stderr(Stdio::from(theirs.try_clone()?));
        command.stdout(Stdio::from(theirs));
        return Ok(Ours {
            channel: Some(ours),
            stdin: None,
            stdout,
            stderr: None,
        });
    }
    command.stdout(Stdio::from(theirs));
    let (stderr, theirs) = io::pipe()?;
    let stderr = OwnedFd::from(stderr);
    no_wait(&stderr)?;
    command.stderr(Stdio::from(theirs));
    let (theirs, stdin) = io::pipe()?;
    let stdin = OwnedFd::from(stdin);
    no_wait(&stdin)?;
    command.stdin(Stdio::from(theirs));
    Ok(Ours {
        channel: None,
        stdin: Some(stdin),
        stdout,
        stderr: Some(stderr),
    })
}

fn no_wait(fd: &OwnedFd) -> io::Result<()> {
    let flags = fcntl_getfl(fd)?;
    Ok(fcntl_setfl(fd, flags | OFlags::NONBLOCK)?)
}

#[expect(clippy::disallowed_methods, reason = "the one legal place")]
fn launch(command: &mut Command, ours: Ours, marker: &str) -> Result<Spawned, Failed> {
    let mut family = family::lock();
    let child = command.spawn()?;
    let pid = child.id() as i32;
    family.born(pid, marker);
    drop(family);
    // `child` is dropped, which neither kills nor reaps: that is the undertaker's.
    let unseen = |error: io::Error| Failed {
        error,
        orphan: Some(pid),
    };
    let named = Pid::from_raw(pid).ok_or_else(|| unseen(io::Error::other("no pid")))?;
    let pidfd = pidfd_open(named, PidfdFlags::NONBLOCK).map_err(|error| {
        let _ = kill_process(named, Signal::KILL);
        unseen(error.into())
    })?;
    Ok(Spawned {
        pid,
        pidfd,
        channel: ours.channel,
        stdin: ours.stdin,
        stdout: Some(ours.stdout),
        stderr: ours.stderr,
        group: None,
    })
}
