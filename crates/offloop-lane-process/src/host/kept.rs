//! What the host keeps for each executor outside the executor: its control group, its folder.
//!
//! Both carry the name of its roster file, `RUN.NUMBER`, so that whoever has the name finds them.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};

use super::spawn_thread;
use crate::cgroup::{Group, Groups};
use crate::sandbox::Order;
use crate::spec::Sandbox;

#[derive(Debug)]
pub(crate) struct Kept {
    pub(super) groups: Groups,
    /// The server's own folders, hidden from every sandbox.
    pub(super) data: Vec<PathBuf>,
    /// Readable in spite of that.
    pub(super) harness: PathBuf,
    /// One folder per executor in a sandbox.
    pub(super) folders: PathBuf,
    /// To the thread that removes folders, which can be large.
    pub(super) sweeper: Mutex<Option<Sender<PathBuf>>>,
}

impl Kept {
    /// Writes the order of a sandbox. Answers its file, and the folder that the task may fill.
    pub(super) fn make_sandbox(
        &self,
        roster: &Path,
        wish: &Sandbox,
    ) -> io::Result<(PathBuf, PathBuf)> {
        let folder = self.folder(roster);
        let scratch = folder.join("scratch");
        let private = |path: &Path| {
            let mut builder = fs::DirBuilder::new();
            builder.recursive(true).mode(0o700).create(path)
        };
        private(&scratch)?;
        let order = Order::new(wish, &self.data, self.harness.clone(), scratch.clone());
        let order = order.map_err(io::Error::other)?;
        let file = folder.join("order");
        fs::write(&file, order.encode())?;
        Ok((file, scratch))
    }

    pub(super) fn make_group(&self, roster: &Path, processes: u32) -> Option<Arc<Group>> {
        self.groups.make_executor(&number_of(roster), processes)
    }

    fn folder(&self, roster: &Path) -> PathBuf {
        self.folders.join(roster.file_name().unwrap_or_default())
    }

    /// The group of an executor, while it is there.
    pub(super) fn group(&self, roster: &Path) -> Option<Group> {
        self.groups.executor(&number_of(roster))
    }

    /// Removes what was kept for an executor of which nothing lives.
    pub(super) fn discard(&self, roster: &Path) {
        if let Some(group) = self.group(roster) {
            let _ = group.remove(); // else with the run's
        }
        let folder = self.folder(roster);
        if !folder.is_dir() {
            return;
        }
        let mut sweeper = self.sweeper.lock().unwrap_or_else(PoisonError::into_inner);
        if sweeper.is_none() {
            let (sender, inbox) = channel::<PathBuf>();
            let sweep = move || inbox.into_iter().for_each(|folder| remove_tree(&folder));
            *sweeper = spawn_thread("offloop-sweeper", sweep).ok().map(|()| sender);
        }
        let refused = match sweeper.as_ref() {
            Some(sender) => sender.send(folder).err().map(|refused| refused.0),
            None => Some(folder),
        };
        if let Some(folder) = refused {
            remove_tree(&folder);
        }
    }
}

/// `RUN.NUMBER`
fn number_of(roster: &Path) -> String {
    let number = roster.extension().unwrap_or_default();
    number.to_string_lossy().into_owned()
}

/// Removes the folders of executors of dead runs. `is_alive` tells of a run.
pub(super) fn clear_folders(folders: &Path, is_alive: impl Fn(&str) -> bool) {
    for entry in fs::read_dir(folders).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let run = name.to_str().and_then(|name| name.rsplit_once('.'));
        if !run.is_some_and(|(run, _)| is_alive(run)) {
            remove_tree(&entry.path());
        }
    }
}

/// Also what the task has locked against its owner.
fn remove_tree(folder: &Path) {
    if fs::remove_dir_all(folder).is_ok() {
        return;
    }
    unlock(folder);
    let _ = fs::remove_dir_all(folder); // the next server tries again
}

fn unlock(folder: &Path) {
    let _ = fs::set_permissions(folder, fs::Permissions::from_mode(0o700));
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            unlock(&entry.path());
        }
    }
}
