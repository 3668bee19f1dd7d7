//! The one place of a server that starts and buries children.
//!
//! Its parts: the spawner (a thread that never ends while the host lives, because the parent-death
//! signal of a child is bound to the thread that started it), the undertaker (kills what escaped,
//! reaps, and only then says that a tree is gone), what is kept per executor (a control group, a
//! folder), the roster (what is needed to find the children of
//! a killed server), and the warden (a process that does so at once).

mod family;
mod kept;
mod leftovers;
mod means;
mod spawner;
mod tag;
mod undertaker;
mod warden;

pub(crate) use kept::Kept;
pub use means::Means;
pub(crate) use spawner::{SpawnOrder, Spawned};
pub(crate) use tag::Tag;
pub(crate) use undertaker::{Burial, Buried, GroupKill};
pub(crate) use warden::{WARDEN, warden_main};

use std::ffi::{OsStr, OsString};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::{Access, access};
use spawner::Shim;
use undertaker::Line;
use warden::Warden;

use crate::cgroup::{Cgroups, Groups, Run};
use crate::shim::SHIM_COMMAND;
use crate::spec::Sandbox;
use crate::{harness, procfs, sys};

/// The variable that marks each process of a tree.
pub(crate) const MARKER_VARIABLE: &str = "OFFLOOP_EXECUTOR";
/// What children get of the server's environment. Secrets stay here.
const PASSED_ON: [&str; 5] = ["PATH", "HOME", "LANG", "TZ", "TMPDIR"];

/// Where a host works and how it reaches the shim.
#[derive(Clone, Debug)]
pub struct HostConfig {
    run_dir: PathBuf,
    shim_program: PathBuf,
    shim_args: Vec<OsString>,
    environment: Vec<(OsString, OsString)>,
    data: Vec<PathBuf>,
    cgroups: Cgroups,
}

impl HostConfig {
    /// `run_dir`: a folder of this data directory alone; made if it is not there. The shim is this
    /// program's own [`SHIM_COMMAND`].
    pub fn new(run_dir: impl Into<PathBuf>) -> Self {
        Self {
            run_dir: run_dir.into(),
            // Not a path on disk: an upgrade may have replaced or removed that.
            shim_program: "/proc/self/exe".into(),
            shim_args: vec![SHIM_COMMAND.into()],
            environment: Vec::new(),
            data: Vec::new(),
            cgroups: Cgroups::Auto,
        }
    }

    /// A folder of the server, which no task in a sandbox may open. `run_dir` is one already.
    #[must_use]
    pub fn data(mut self, folder: impl Into<PathBuf>) -> Self {
        self.data.push(folder.into());
        self
    }

    /// Default [`Cgroups::Auto`].
    #[must_use]
    pub fn cgroups(mut self, wanted: Cgroups) -> Self {
        self.cgroups = wanted;
        self
    }

    /// Another program that calls [`crate::shim_main`] with what follows `args`.
    #[must_use]
    pub fn shim(
        mut self,
        program: impl Into<PathBuf>,
        args: impl IntoIterator<Item = impl Into<OsString>>,
    ) -> Self {
        self.shim_program = program.into();
        self.shim_args = args.into_iter().map(Into::into).collect();
        self
    }

    /// The server's environment, of which children get PATH, HOME, LANG, TZ and TMPDIR.
    #[must_use]
    pub fn environment(mut self, all: impl IntoIterator<Item = (OsString, OsString)>) -> Self {
        let passed = |name: &OsStr| PASSED_ON.iter().any(|known| name == *known);
        self.environment = all.into_iter().filter(|(name, _)| passed(name)).collect();
        self
    }
}

/// A host that cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    #[error("cannot use the folder {path} for children's files")]
    Folder {
        path: PathBuf,
        #[source]
        cause: std::io::Error,
    },
    #[error("the system refuses what a host of children needs ({what})")]
    System {
        what: &'static str,
        #[source]
        cause: std::io::Error,
    },
}

/// Starts and buries the children of all process lanes of a server. See the module's page.
#[derive(Debug)]
pub struct Host {
    run_dir: PathBuf,
    /// Names the data directory.
    place: String,
    /// Names this run of the server on top.
    run: String,
    environment: Vec<(OsString, OsString)>,
    numbers: AtomicU64,
    spawner: Sender<SpawnOrder>,
    undertaker: Line,
    kept: Arc<Kept>,
    /// How many leftovers were cleared, once that was done.
    cleared: Mutex<Option<u32>>,
    shim: Shim,
    /// From the first lane on that opens.
    warden: Mutex<Option<Warden>>,
}

static RUNS: AtomicU64 = AtomicU64::new(1);

impl Host {
    /// Makes this process the adopter of daemonised grandchildren (PR_SET_CHILD_SUBREAPER).
    pub fn open(config: HostConfig) -> Result<Arc<Self>, HostError> {
        let folder = |path: &Path, cause| HostError::Folder {
            path: path.to_owned(),
            cause,
        };
        let system = |what| move |cause| HostError::System { what, cause };
        let run_dir = &config.run_dir;
        std::fs::create_dir_all(run_dir.join("roster")).map_err(|e| folder(run_dir, e))?;
        let run_dir = std::path::absolute(run_dir).map_err(|e| folder(run_dir, e))?;
        harness::write_files(&run_dir).map_err(|e| folder(&run_dir, e))?;
        let me = std::process::id();
        let start = procfs::stat(me as i32).map_or(0, |stat| stat.start);
        rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
            .map_err(|e| system("PR_SET_CHILD_SUBREAPER")(e.into()))?;
        let (orders, spawn_inbox) = channel();
        let (burials, burial_inbox) = undertaker::line().map_err(system("eventfd"))?;
        let shim = Shim {
            program: config.shim_program,
            args: config.shim_args,
        };
        let place = place_of(&run_dir).map_err(|e| folder(&run_dir, e))?;
        let run = format!("{me}-{start}-{}", RUNS.fetch_add(1, Ordering::Relaxed));
        // Children stand in other folders than the server.
        let data = config.data.iter().map(std::path::absolute);
        let mut data: Vec<_> = data
            .collect::<Result<_, _>>()
            .map_err(|e| folder(&run_dir, e))?;
        data.push(run_dir.clone());
        let kept = Arc::new(Kept {
            groups: Groups::new(&place, &run, run_dir.join("groups"), config.cgroups),
            data,
            harness: run_dir.join("harness"),
            folders: run_dir.join("executors"),
            sweeper: Mutex::new(None),
        });
        let (also_shim, also_burials, also_kept) = (shim.clone(), burials.clone(), kept.clone());
        spawn_thread("offloop-spawner", move || {
            spawner::run(&spawn_inbox, &also_shim, &also_kept, &also_burials);
        })
        .map_err(system("the spawner thread"))?;
        let also_kept = kept.clone();
        spawn_thread("offloop-burial", move || {
            undertaker::run(&burial_inbox, &also_kept);
        })
        .map_err(system("the undertaker thread"))?;
        Ok(Arc::new(Self {
            run_dir,
            place,
            run,
            environment: config.environment,
            numbers: AtomicU64::new(1),
            spawner: orders,
            undertaker: burials,
            kept,
            cleared: Mutex::new(None),
            shim,
            warden: Mutex::new(None),
        }))
    }

    /// Ends every process that an earlier server of this data directory left, and returns when
    /// they are gone. Answers how many there were; a second call finds nothing.
    ///
    /// The caller holds the data directory: a server that still lives keeps its children.
    pub fn clear_leftovers(&self) -> Result<u32, String> {
        let mut cleared = self.cleared.lock().unwrap_or_else(PoisonError::into_inner);
        if cleared.is_some() {
            return Ok(0);
        }
        let count = leftovers::clear(&self.run_dir, &self.place)?;
        *cleared = Some(count);
        Ok(count)
    }

    /// Starts the warden, which also shows whether the shim is one. For each lane that opens, so
    /// that a server without such lanes needs neither.
    pub(crate) fn make_ready(&self) -> std::io::Result<()> {
        let mut warden = self.warden.lock().unwrap_or_else(PoisonError::into_inner);
        if warden.is_none() {
            let group = self.kept.groups.run().map(Run::folder).ok();
            *warden = Some(Warden::start(
                &self.shim,
                &self.run_dir,
                &self.place,
                group,
            )?);
        }
        Ok(())
    }

    /// What the system gives for bounding and ending children.
    pub fn means(&self) -> Means {
        self.kept.groups.probe(|run| Means {
            cgroup: match run {
                Ok(run) => Ok(run.folder().to_owned()),
                Err(why) => Err(why.to_owned()),
            },
            memory: run.is_ok_and(|run| run.memory),
            processes: run.is_ok_and(|run| run.pids),
            landlock: sys::landlock_abi(),
        })
    }

    /// What is wrong with a task's sandbox, without starting anything.
    pub(crate) fn check_sandbox(&self, sandbox: &Sandbox) -> Result<(), String> {
        sandbox.check(&self.kept.data)
    }

    pub(crate) fn run_dir(&self) -> &Path {
        &self.run_dir
    }

    pub(crate) fn environment(&self) -> &[(OsString, OsString)] {
        &self.environment
    }

    /// A new executor's marker, and its place on the roster.
    pub(crate) fn next_marker(&self) -> (String, PathBuf) {
        let number = self.numbers.fetch_add(1, Ordering::Relaxed);
        let roster = self.run_dir.join("roster");
        let file = roster.join(format!("{}.{number}", self.run));
        (format!("{}.{}:{number}", self.place, self.run), file)
    }

    /// The reply comes on the spawner's thread.
    pub(crate) fn spawn(&self, order: SpawnOrder) {
        if let Err(refused) = self.spawner.send(order) {
            let gone = std::io::Error::other("the spawner has ended");
            (refused.0.reply)(Err(gone));
        }
    }

    /// For a child whose pidfd says that it is dead, and that nobody has reaped.
    pub(crate) fn bury(&self, burial: Burial) {
        self.undertaker.send(burial);
    }

    /// The program that a command's first word means.
    pub(crate) fn find_program(&self, word: &OsStr, cwd: Option<&Path>) -> Result<PathBuf, String> {
        let shown = word.to_string_lossy();
        if word.is_empty() {
            return Err("the command is empty".into());
        }
        if shown.contains('/') {
            let base = cwd.map_or_else(PathBuf::new, Path::to_owned);
            let path = std::path::absolute(base.join(word)).map_err(|e| e.to_string())?;
            return match executable(&path) {
                Ok(()) => Ok(path),
                Err(why) => Err(format!("cannot run {}: {why}", path.display())),
            };
        }
        let path = self.environment.iter().find(|(name, _)| name == "PATH");
        let path = path.map_or(OsStr::new("/usr/local/bin:/usr/bin:/bin"), |(_, v)| v);
        std::env::split_paths(path)
            .filter(|folder| folder.is_absolute())
            .map(|folder| folder.join(word))
            .find(|file| executable(file).is_ok())
            .ok_or_else(|| {
                let path = path.to_string_lossy();
                format!("cannot find the command `{shown}` in PATH ({path})")
            })
    }
}

/// Device, inode and birth of the folder: a number that is given out again is born later.
fn place_of(run_dir: &Path) -> std::io::Result<String> {
    let folder = std::fs::metadata(run_dir)?;
    let born = folder.created().ok();
    let born = born.and_then(|at| at.duration_since(std::time::UNIX_EPOCH).ok());
    let born = born.map_or(0, |since| since.as_nanos());
    Ok(format!("{:x}-{:x}-{born:x}", folder.dev(), folder.ino()))
}

fn executable(path: &Path) -> Result<(), String> {
    let file = std::fs::metadata(path).map_err(|error| error.to_string())?;
    if !file.is_file() {
        return Err("it is not a file".into());
    }
    access(path, Access::EXEC_OK).map_err(|_| "it is not executable".into())
}

fn spawn_thread(name: &str, body: impl FnOnce() + Send + 'static) -> std::io::Result<()> {
    std::thread::Builder::new()
        .name(name.into())
        .spawn(body)
        .map(drop)
}
