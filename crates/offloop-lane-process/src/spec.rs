//! What a process or exec lane is declared with.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use offloop_job::{LogTail, Usage};
use offloop_lane::{TaskError, TaskInfo, TaskOutput, Work};

/// How the command serves jobs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Children stay warm and speak the protocol.
    Process,
    /// One run of the command per job: the payload on its standard input, the result on its
    /// standard output.
    Exec,
}

/// What stands between the lane and the command's file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Harness {
    /// Node or Python if the command is `node FILE` or `python3 FILE` and FILE does not mention
    /// `OFFLOOP_FD`, the name by which a program that speaks the protocol finds its channel.
    #[default]
    Auto,
    /// The command speaks the protocol itself.
    None,
    Node,
    Python,
}

/// How a warm child speaks; docs/guides/process-protocol.md.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Wire {
    /// Length-prefixed frames on a socket of their own. Standard output belongs to the task.
    #[default]
    Frames,
    /// One JSON object a line: standard input in, standard output out.
    Lines,
}

/// When a warm child is replaced. Each figure is spread by a tenth, so that children of one pool do
/// not leave together. The replacement is ready before the old one goes, which serves until then:
/// a child may do a few jobs more than `jobs`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Recycle {
    /// Jobs served.
    pub jobs: Option<u32>,
    /// Since it was started.
    pub age: Option<Duration>,
    /// Resident, of its whole tree, between two jobs.
    pub memory_bytes: Option<u64>,
}

/// How a lane of warm children paces itself. The defaults are right; tests are in a hurry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pacing {
    /// An idle child is asked for a sign of life this often; default 30 s.
    pub ping_every: Duration,
    /// And must give it within; default 10 s.
    pub pong_within: Duration,
    /// From a start that failed to the next one, doubled for each that fails in a row; default
    /// 100 ms.
    pub backoff_first: Duration,
    /// The longest such wait; default 10 s.
    pub backoff_max: Duration,
    /// Starts in a row that may fail before the lane stops trying, 1 or more; default 5.
    pub failed_starts: u32,
    /// For so long, after which one child is tried; default 30 s.
    pub pause: Duration,
}

impl Default for Pacing {
    fn default() -> Self {
        Self {
            ping_every: Duration::from_secs(30),
            pong_within: Duration::from_secs(10),
            backoff_first: Duration::from_millis(100),
            backoff_max: Duration::from_secs(10),
            failed_starts: 5,
            pause: Duration::from_secs(30),
        }
    }
}

/// Bounds of an executor beside those that a job may name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budgets {
    /// What one job may print on both streams together; `None`: any amount, of which the ends are
    /// kept.
    pub output_bytes: Option<u64>,
    /// Files that each process may have open, 16 to 1,048,576; default 1,024.
    pub open_files: u32,
    /// Processes of the tree at once, 1 to 65,536; default 256.
    pub processes: u32,
}

impl Default for Budgets {
    fn default() -> Self {
        Self {
            output_bytes: None,
            open_files: 1_024,
            processes: 256,
        }
    }
}

/// What the task's processes may reach. What the kernel cannot do fails the start, never silently.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sandbox {
    /// No sockets but those it is born with, to nowhere.
    pub no_network: bool,
    /// The file system can be read and not written, but for `writable`, and `/dev/null`.
    pub read_only: bool,
    /// With `read_only`: folders that can be written. A scratch folder of its own, named by
    /// `TMPDIR` and emptied with the child, is always there.
    pub writable: Vec<PathBuf>,
    /// Folders that cannot even be read: the server's data, keys.
    pub hidden: Vec<PathBuf>,
}

/// One declared task: the lane that runs it.
#[derive(Clone, Debug)]
pub struct ProcessSpec {
    pub task: TaskInfo,
    pub mode: Mode,
    /// Argv, never a shell line. The first is a path, or a name that is looked up in PATH once.
    /// Empty only with [`ProcessSpec::hooks`].
    pub command: Vec<OsString>,
    /// Children at a time, 1 to 256.
    pub processes: u16,
    /// The lane is for calls: its name tells it from the one for the task's jobs.
    pub calls: bool,
    pub harness: Harness,
    /// On top of PATH, HOME, LANG, TZ and TMPDIR.
    pub env: BTreeMap<String, OsString>,
    /// Default: the server's.
    pub cwd: Option<PathBuf>,
    /// Until a child must be ready.
    pub start_timeout: Duration,
    /// From the wish to stop to the first signal that can be ignored, and for `exec`, where the
    /// wish is SIGTERM, to SIGKILL.
    pub grace: Duration,
    /// From SIGTERM to SIGKILL, for `process`.
    pub term_grace: Duration,
    /// Warm children: when one is replaced although nothing is wrong with it.
    pub recycle: Recycle,
    /// Warm children: one more is kept ready, so that a child that leaves is replaced at once.
    pub spare: bool,
    /// Warm children: how they speak.
    pub wire: Wire,
    pub pacing: Pacing,
    pub budgets: Budgets,
    pub sandbox: Sandbox,
    /// Hard cap on the child's own private memory (RLIMIT_DATA). Leave it well over the jobs'
    /// limit, which is watched on the whole tree and fails with a sentence; this one fails with an
    /// allocation that is refused.
    pub data_limit_bytes: Option<u64>,
    /// `exec`: each string of the payload's array `args` becomes one argument after the command's.
    pub args_from_payload: bool,
    /// `exec`: a Rust program that makes the command and reads its end.
    pub hooks: Option<ExecCommand>,
}

impl ProcessSpec {
    /// `process`, with one child and the defaults.
    pub fn process(task: TaskInfo, command: impl IntoIterator<Item = impl Into<OsString>>) -> Self {
        Self {
            task,
            mode: Mode::Process,
            command: command.into_iter().map(Into::into).collect(),
            processes: 1,
            calls: false,
            harness: Harness::Auto,
            env: BTreeMap::new(),
            cwd: None,
            start_timeout: Duration::from_secs(30),
            grace: Duration::from_secs(2),
            term_grace: Duration::from_millis(500),
            recycle: Recycle::default(),
            spare: false,
            wire: Wire::Frames,
            pacing: Pacing::default(),
            budgets: Budgets::default(),
            sandbox: Sandbox::default(),
            data_limit_bytes: None,
            args_from_payload: false,
            hooks: None,
        }
    }

    /// `exec`, one command at a time and the defaults.
    pub fn exec(task: TaskInfo, command: impl IntoIterator<Item = impl Into<OsString>>) -> Self {
        Self {
            mode: Mode::Exec,
            ..Self::process(task, command)
        }
    }

    /// `exec` by Rust code.
    pub fn hooked(task: TaskInfo, hooks: ExecCommand) -> Self {
        Self {
            hooks: Some(hooks),
            ..Self::exec(task, [] as [OsString; 0])
        }
    }

    pub(crate) fn lane_name(&self) -> Box<str> {
        let kind = match self.mode {
            Mode::Process => "process",
            Mode::Exec => "exec",
        };
        let calls = if self.calls { ":calls" } else { "" };
        format!("{kind}:{}{calls}", self.task.name).into()
    }
}

/// One run of a command.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExecPlan {
    /// The program and its arguments. A name without a slash is looked up in PATH.
    pub argv: Vec<OsString>,
    /// On top of the spec's.
    pub env: BTreeMap<String, OsString>,
    pub stdin: Bytes,
    /// Default: the spec's.
    pub cwd: Option<PathBuf>,
}

/// How a command ended by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExecExit {
    Code(i32),
    Signal(i32),
}

/// What a command left.
#[derive(Clone, Debug, PartialEq)]
pub struct ExecResult {
    pub exit: ExecExit,
    /// The first 1 MiB.
    pub stdout: Bytes,
    /// It printed more than that.
    pub stdout_cut: bool,
    /// The end of what it said, both streams.
    pub said: String,
    pub log: LogTail,
    pub usage: Usage,
}

type PlanHook = dyn Fn(&Work) -> Result<ExecPlan, TaskError> + Send + Sync;
type ExitHook = dyn Fn(&Work, &ExecResult) -> Result<TaskOutput, TaskError> + Send + Sync;

/// The Rust side of an exec task. Both run on a thread of the lane, one call at a time: they make
/// ready and tidy up, they do not compute.
#[derive(Clone)]
pub struct ExecCommand {
    pub(crate) plan: Arc<PlanHook>,
    pub(crate) on_exit: Option<Arc<ExitHook>>,
}

impl ExecCommand {
    /// `plan` makes the command of one job. An error ends the job before anything was started.
    pub fn new(
        plan: impl Fn(&Work) -> Result<ExecPlan, TaskError> + Send + Sync + 'static,
    ) -> Self {
        Self {
            plan: Arc::new(plan),
            on_exit: None,
        }
    }

    /// `on_exit` reads what the command left, whatever its exit code. It is not called for a
    /// command that was stopped or that passed a limit. Without it the rule of declared commands
    /// holds.
    #[must_use]
    pub fn on_exit(
        mut self,
        read: impl Fn(&Work, &ExecResult) -> Result<TaskOutput, TaskError> + Send + Sync + 'static,
    ) -> Self {
        self.on_exit = Some(Arc::new(read));
        self
    }
}

impl fmt::Debug for ExecCommand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ExecCommand").finish_non_exhaustive()
    }
}
