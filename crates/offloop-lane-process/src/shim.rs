//! The exec shim: what must happen inside a child before its program runs.
//!
//! The server starts this program again as a shim instead of using `pre_exec`, which would make it
//! fork its whole memory (16 ms at 256 MB, 350 ms at 8 GB). It costs half a millisecond once.

use std::ffi::OsString;
use std::io::Write as _;
use std::os::fd::AsRawFd as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::{Resource, Rlimit, Signal};

use crate::host::{Tag, WARDEN, warden_main};
use crate::{procfs, sandbox, sys};

/// The hidden subcommand under which a program offers [`shim_main`].
pub const SHIM_COMMAND: &str = "__shim";
/// The child's end of the channel.
pub(crate) const CHANNEL_FD: i32 = 3;
/// An argument that is not given.
const NONE: &str = "-";
/// Added to the server's own.
const NICE: i32 = 10;
/// As a shell says that a command cannot be run.
const EXIT_CANNOT_RUN: i32 = 126;

/// What the server tells the shim, as its arguments.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct ShimOrder {
    pub(crate) parent: i32,
    /// Standard input is the channel: it becomes descriptor 3.
    pub(crate) channel: bool,
    pub(crate) roster: PathBuf,
    pub(crate) marker: String,
    pub(crate) data_limit: Option<u64>,
    pub(crate) open_files: u32,
    /// The folder of the control group to enter.
    pub(crate) group: Option<PathBuf>,
    /// The file of the sandbox to put on.
    pub(crate) sandbox: Option<PathBuf>,
    pub(crate) program: PathBuf,
    pub(crate) argv: Vec<OsString>,
}

impl ShimOrder {
    pub(crate) fn into_args(self) -> Vec<OsString> {
        let limit = self.data_limit.map(|limit| limit.to_string());
        let mut args = vec![
            self.parent.to_string().into(),
            OsString::from(if self.channel { "channel" } else { "plain" }),
            self.roster.into(),
            self.marker.into(),
            limit.unwrap_or_else(|| NONE.into()).into(),
            self.open_files.to_string().into(),
            self.group.map_or_else(|| NONE.into(), OsString::from),
            self.sandbox.map_or_else(|| NONE.into(), OsString::from),
            self.program.into(),
        ];
        args.extend(self.argv);
        args
    }

    pub(crate) fn parse(mut args: impl Iterator<Item = OsString>) -> Option<Self> {
        let path = |arg: OsString| (arg != NONE).then(|| PathBuf::from(arg));
        Some(Self {
            parent: args.next()?.to_str()?.parse().ok()?,
            channel: args.next()? == "channel",
            roster: args.next()?.into(),
            marker: args.next()?.into_string().ok()?,
            data_limit: args.next()?.to_str()?.parse().ok(),
            open_files: args.next()?.to_str()?.parse().ok()?,
            group: path(args.next()?),
            sandbox: path(args.next()?),
            program: args.next()?.into(),
            argv: args.collect(),
        })
    }
}

/// Becomes the task's program, or the host's warden. `args`: what follows [`SHIM_COMMAND`].
pub fn shim_main(args: impl Iterator<Item = OsString>) -> ! {
    let mut args = args.peekable();
    if args.next_if(|first| first == WARDEN).is_some() {
        warden_main(args)
    }
    let Some(order) = ShimOrder::parse(args) else {
        fail("this command is for the server's own use")
    };
    // First of all: whoever started us may die at any time, and then nobody would end us. The
    // signal is bound to the spawner thread, which lives as long as the server.
    let bound = rustix::process::set_parent_process_death_signal(Some(Signal::KILL));
    let parent = rustix::process::getppid().map_or(0, rustix::process::Pid::as_raw_pid);
    if bound.is_err() || parent != order.parent {
        std::process::exit(0); // the server is gone already
    }
    // On the roster before anything of the task runs, so that a next server can find us.
    let me = std::process::id() as i32;
    let start = procfs::stat(me).map_or(0, |stat| stat.start);
    let line = format!("{me} {start} {} {}\n", procfs::boot_id(), order.marker);
    if let Err(error) = std::fs::write(&order.roster, line) {
        fail(&format!(
            "cannot write the roster {}: {error}",
            order.roster.display()
        ));
    }
    if let Some(group) = &order.group {
        // Before the task's first instruction: what it starts is born inside.
        let entered = std::fs::write(group.join("cgroup.procs"), "0");
        entered.unwrap_or_else(|error| {
            fail(&format!(
                "cannot enter the group {}: {error}",
                group.display()
            ))
        });
    }
    if let Err(error) = rustix::thread::set_no_new_privs(true) {
        fail(&format!("cannot give up new privileges: {error}"));
    }
    // The kernel takes tasks before the server when memory runs out; raising needs no privilege.
    let _ = std::fs::write("/proc/self/oom_score_adj", "500");
    if let Some(tag) = Tag::of(&order.marker) {
        tag.put_on();
    }
    // As the CPU lane's threads: the server answers first. Lowering needs no privilege.
    let _ = rustix::process::nice(NICE);
    offloop_lane::slice::compute();
    limit(Resource::Core, 0);
    if let Some(bytes) = order.data_limit {
        limit(Resource::Data, bytes);
    }
    let mut first_foreign = CHANNEL_FD;
    if order.channel {
        take_channel();
        first_foreign += 1;
    }
    sys::close_from(first_foreign as u32);
    sys::default_signals();
    if let Some(file) = &order.sandbox {
        enter_sandbox(file);
    }
    limit(Resource::Nofile, u64::from(order.open_files));
    let mut argv = order.argv.into_iter();
    let name = argv.next().unwrap_or_default();
    let error = Command::new(&order.program).arg0(name).args(argv).exec();
    let program = order.program.display();
    fail(&format!("cannot run {program}: {error}"))
}

/// Moves the channel from standard input to its own descriptor.
fn take_channel() {
    if !sys::copy_descriptor(0, CHANNEL_FD) {
        fail("cannot place the channel");
    }
    let null = std::fs::File::open("/dev/null");
    if null.is_ok_and(|null| !sys::copy_descriptor(null.as_raw_fd(), 0)) {
        fail("cannot place standard input");
    }
}

fn enter_sandbox(file: &Path) {
    let order = std::fs::read(file).ok();
    let order = order.and_then(|bytes| sandbox::Order::decode(&bytes));
    let Some(order) = order else {
        fail(&format!(
            "cannot read the sandbox's order {}",
            file.display()
        ))
    };
    if let Err(why) = sandbox::put_on(&order) {
        fail(&why);
    }
}

fn limit(resource: Resource, most: u64) {
    // Without privilege a bound can only be lowered.
    let most = rustix::process::getrlimit(resource)
        .maximum
        .map_or(most, |maximum| maximum.min(most));
    let both = Rlimit {
        current: Some(most),
        maximum: Some(most),
    };
    let _ = rustix::process::setrlimit(resource, both);
}

fn fail(why: &str) -> ! {
    let _ = writeln!(std::io::stderr(), "offloop: {why}");
    std::process::exit(EXIT_CANNOT_RUN)
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt as _;

    use super::*;

    fn example() -> ShimOrder {
        ShimOrder {
            parent: 7,
            channel: true,
            roster: "/run/roster/x".into(),
            marker: "a.b:1".into(),
            data_limit: Some(42),
            open_files: 99,
            group: Some("/sys/fs/cgroup/x".into()),
            sandbox: None,
            program: "/bin/echo".into(),
            argv: vec!["echo".into(), OsStr::from_bytes(b"\xff- -").into()],
        }
    }

    #[test]
    fn an_order_arrives_as_it_was_given() {
        let args = example().into_args();
        assert_eq!(ShimOrder::parse(args.into_iter()), Some(example()));
        assert_eq!(ShimOrder::parse(["x".into()].into_iter()), None);
    }
}
