//! Control groups of version 2, where this process may make some: the exact membership of a tree.
//!
//! One folder per server run, in it one per executor. The shim enters it before the task's program
//! runs; whatever that starts is born inside, whatever its environment, session or parent. Found by
//! what `/proc` says, never by a fixed path. Where none can be had the older ways (group, marker,
//! adoption) stand alone; they stay as the second line in any case.
//!
//! Must never: change a group that is not the server's own, or take the server's own processes into
//! a group that is killed.

mod home;
mod tree;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

pub(crate) use tree::{Events, Group};

/// Before the place and the run in a run's folder name.
const PREFIX: &str = "offloop.";
/// `pids.max` counts threads; the budget counts processes. This much room for threads makes it the
/// brake for a bomb that is faster than the watch, and never the limit of an honest program.
const THREADS_PER_PROCESS: u64 = 64;

/// Whether children get control groups.
///
/// Entering one makes a lone command start some 10 ms later, and waits for every fork that is under
/// way on the machine (ADR 0012).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Cgroups {
    /// Where the kernel then bounds memory or processes: the controllers are delegated to us.
    #[default]
    Auto,
    /// Wherever some can be made.
    Always,
    Never,
}

/// The groups of one run of a server, made when the first lane opens.
#[derive(Debug)]
pub(crate) struct Groups {
    place: String,
    run: String,
    /// Where the run's folder is noted for the next server, which may live in another group.
    notes: PathBuf,
    wanted: Cgroups,
    open: OnceLock<Result<Run, String>>,
}

/// What the run's folder can do.
#[derive(Debug)]
pub(crate) struct Run {
    folder: PathBuf,
    note: PathBuf,
    pub(crate) memory: bool,
    pub(crate) pids: bool,
}

impl Groups {
    /// Groups that were not wanted are refused with that reason.
    pub(crate) fn new(place: &str, run: &str, notes: PathBuf, wanted: Cgroups) -> Self {
        let open = OnceLock::new();
        if wanted == Cgroups::Never {
            let _ = open.set(Err("not wanted".into()));
        }
        Self {
            wanted,
            place: place.to_owned(),
            run: run.to_owned(),
            notes,
            open,
        }
    }

    /// The run's folder, made at the first call, or why there is none.
    pub(crate) fn run(&self) -> Result<&Run, &str> {
        let open = self.open.get_or_init(|| self.make());
        open.as_ref().map_err(String::as_str)
    }

    /// What the run's folder can do, without leaving one behind if no lane needed it yet.
    pub(crate) fn probe<T>(&self, look: impl FnOnce(Result<&Run, &str>) -> T) -> T {
        if self.open.get().is_some() {
            return look(self.run());
        }
        let made = self.make();
        look(made.as_ref().map_err(String::as_str))
    }

    fn make(&self) -> Result<Run, String> {
        let home = home::find()?;
        let folder = home.folder.join(run_name(&self.place, &self.run));
        let problem = |what: &str, path: &Path, e: io::Error| {
            format!("cannot {what} {}: {e}", path.display())
        };
        // Noted before it is there: a folder without a note would be found by nobody.
        let note = self.notes.join(&self.run);
        let text = folder.as_os_str().as_encoded_bytes();
        fs::create_dir_all(&self.notes)
            .and_then(|()| fs::write(&note, text))
            .map_err(|e| problem("write", &note, e))?;
        if let Err(error) = fs::create_dir(&folder) {
            let _ = fs::remove_file(&note);
            return Err(problem("make", &folder, error));
        }
        let mut run = Run {
            folder,
            note,
            memory: false,
            pids: false,
        };
        // A child that enters needs the right to write to the common ancestor of both groups.
        for folder in [&home.folder, &run.folder] {
            let procs = folder.join("cgroup.procs");
            rustix::fs::access(&procs, rustix::fs::Access::WRITE_OK)
                .map_err(|e| problem("use", &procs, e.into()))?;
        }
        let (memory, pids) = home::enable(&home.folder, &run.folder);
        (run.memory, run.pids) = (memory, pids);
        if self.wanted == Cgroups::Auto && !memory && !pids {
            return Err(
                "no controller reaches this server; memberships alone are not worth it".into(),
            );
        }
        Ok(run)
    }

    /// Makes the group of one executor. `None`: this run has no groups.
    pub(crate) fn make_executor(&self, number: &str, processes: u32) -> Option<Arc<Group>> {
        let run = self.run().ok()?;
        let group = Group::at(run.folder.join(number));
        // Refused by a limit of the system: the older ways hold for this one.
        fs::create_dir(group.folder()).ok()?;
        if run.memory {
            group.write("memory.oom.group", "1");
        }
        if run.pids {
            let most = u64::from(processes).saturating_mul(THREADS_PER_PROCESS);
            group.write("pids.max", &most.to_string());
        }
        Some(Arc::new(group))
    }

    /// The group of an executor that is to be buried, if it has one.
    pub(crate) fn executor(&self, number: &str) -> Option<Group> {
        let run = self.open.get()?.as_ref().ok()?;
        let group = Group::at(run.folder.join(number));
        group.folder().is_dir().then_some(group)
    }
}

impl Run {
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        // Children that are not buried yet keep it; the warden or the next server removes it.
        if tree::remove(&self.folder).is_ok() {
            let _ = fs::remove_file(&self.note);
        }
    }
}

fn run_name(place: &str, run: &str) -> String {
    format!("{PREFIX}{place}.{run}")
}

/// Markers of the executors in whose groups a process is, from the outermost in: a task may be a
/// server itself. `path`: its cgroup.
pub(crate) fn markers_in(path: &str) -> impl Iterator<Item = String> {
    let parts: Vec<&str> = path.split('/').collect();
    let marker = |pair: &[&str]| {
        let run = pair[0].strip_prefix(PREFIX)?;
        Some(format!("{run}:{}", pair[1]))
    };
    let markers: Vec<String> = parts.windows(2).filter_map(marker).collect();
    markers.into_iter()
}

/// The group of a dead run.
pub(crate) struct Leftover {
    pub(crate) group: Group,
    note: PathBuf,
}

impl Leftover {
    /// Once nothing lives in it.
    pub(crate) fn remove(&self) -> io::Result<()> {
        tree::remove(self.group.folder())?;
        fs::remove_file(&self.note)
    }
}

/// Groups that dead runs of this place have noted. `is_alive` tells of a run.
pub(crate) fn leftovers(
    notes: &Path,
    place: &str,
    is_alive: impl Fn(&str) -> bool,
) -> Vec<Leftover> {
    let mut found = Vec::new();
    for entry in fs::read_dir(notes).into_iter().flatten().flatten() {
        let note = entry.path();
        let Some(run) = note.file_name().and_then(|name| name.to_str()) else {
            continue;
        };
        if is_alive(run) {
            continue;
        }
        let text = fs::read_to_string(&note).unwrap_or_default();
        let folder = PathBuf::from(text);
        let named = folder.file_name().and_then(|name| name.to_str());
        // Of this place and this run, or it is none of ours: a note can be torn, or copied along
        // with a data directory.
        if named == Some(&run_name(place, run)) && folder.join("cgroup.kill").is_file() {
            let group = Group::at(folder);
            found.push(Leftover { group, note });
        } else {
            let _ = fs::remove_file(&note);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_of_the_executor_whose_group_it_is_in_however_deep() {
        let table: [(&str, &[&str]); 5] = [
            ("/offloop.p.1-2-3/7", &["p.1-2-3:7"]),
            ("/a.slice/offloop.p.1-2-3/7/own/deep", &["p.1-2-3:7"]),
            ("/offloop.p.1/7/offloop.q.2/8", &["p.1:7", "q.2:8"]),
            ("/offloop.p.1-2-3", &[]),
            ("/", &[]),
        ];
        for (path, want) in table {
            assert_eq!(markers_in(path).collect::<Vec<_>>(), want, "{path}");
        }
    }

    #[test]
    fn a_note_that_names_a_foreign_group_kills_nobody() {
        let notes = tempfile::tempdir().unwrap();
        let groups = tempfile::tempdir().unwrap();
        let make = |name: &str| {
            let folder = groups.path().join(name);
            fs::create_dir(&folder).unwrap();
            fs::write(folder.join("cgroup.kill"), "").unwrap();
            folder
        };
        let mine = make("offloop.here.1-2-3");
        let of_other_place = make("offloop.there.4-5-6");
        let foreign = make("system.slice");
        let note = |run: &str, folder: &Path| {
            fs::write(notes.path().join(run), folder.to_str().unwrap()).unwrap();
        };
        note("1-2-3", &mine);
        note("4-5-6", &of_other_place);
        note("7-8-9", &foreign);
        note("alive", &mine);
        note("torn", Path::new(""));
        let found = leftovers(notes.path(), "here", |run| run == "alive");
        let folders: Vec<&Path> = found.iter().map(|one| one.group.folder()).collect();
        assert_eq!(folders, [mine.as_path()]);
        let mut left: Vec<_> = fs::read_dir(notes.path()).unwrap().flatten().collect();
        left.sort_by_key(fs::DirEntry::file_name);
        let left: Vec<_> = left.iter().map(fs::DirEntry::file_name).collect();
        assert_eq!(left, ["1-2-3", "alive"], "useless notes are removed");
    }
}
