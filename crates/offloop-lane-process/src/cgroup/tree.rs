//! The files of one group's folder.
//!
//! A small type over a path: where a controller is missing its files are not there, and the reading
//! is `None`.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Below an executor's group a task may have made groups of its own, which belong to it.
const DEPTH_MAX: u32 = 16;

#[derive(Debug)]
pub(crate) struct Group {
    folder: PathBuf,
}

impl Group {
    pub(crate) fn at(folder: PathBuf) -> Self {
        Self { folder }
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    pub(super) fn write(&self, file: &str, text: &str) {
        let _ = fs::write(self.folder.join(file), text); // a controller that is not there
    }

    fn read(&self, file: &str) -> Option<String> {
        fs::read_to_string(self.folder.join(file)).ok()
    }

    /// SIGKILL to everything inside, with what it is forking just now. A folder that is gone holds
    /// nobody, and its name is never given again.
    pub(crate) fn kill(&self) {
        // Not `fs::write`, which would make a file where there is none.
        let file = File::options()
            .write(true)
            .open(self.folder.join("cgroup.kill"));
        if let Ok(file) = file {
            let _ = file.write_all_at(b"1", 0);
        }
    }

    /// Living processes, with those in groups below.
    pub(crate) fn members(&self) -> Vec<i32> {
        let mut found = Vec::new();
        collect(&self.folder, DEPTH_MAX, &mut found);
        found
    }

    /// Of everything that ever was inside.
    pub(crate) fn cpu(&self) -> Option<Duration> {
        let text = self.read("cpu.stat")?;
        keyed(&text, "usage_usec").map(Duration::from_micros)
    }

    /// Bytes held, less those of files that can be dropped at any time.
    pub(crate) fn memory(&self) -> Option<u64> {
        let held: u64 = self.read("memory.current")?.trim().parse().ok()?;
        let stat = self.read("memory.stat").unwrap_or_default();
        let idle = keyed(&stat, "inactive_file").unwrap_or(0);
        Some(held.saturating_sub(idle))
    }

    /// The most bytes that were ever held.
    pub(crate) fn memory_peak(&self) -> Option<u64> {
        self.read("memory.peak")?.trim().parse().ok()
    }

    /// Processes that the kernel has killed for this group's bound.
    pub(crate) fn memory_kills(&self) -> u64 {
        let events = self.read("memory.events").unwrap_or_default();
        keyed(&events, "oom_kill").unwrap_or(0)
    }

    /// The kernel's own bound, for what is faster than the watch. `None`: no bound.
    pub(crate) fn bound_memory(&self, bytes: Option<u64>) {
        let text = bytes.map_or_else(|| "max".into(), |bytes| bytes.to_string());
        self.write("memory.max", &text);
    }

    /// Held open, it tells when the group empties.
    pub(crate) fn events(&self) -> io::Result<Events> {
        File::open(self.folder.join("cgroup.events")).map(|file| Events { file })
    }

    /// Once nothing lives in it.
    pub(crate) fn remove(&self) -> io::Result<()> {
        remove(&self.folder)
    }
}

/// `cgroup.events`: poll it for priority data, read it again.
#[derive(Debug)]
pub(crate) struct Events {
    pub(crate) file: File,
}

impl Events {
    /// Whether anything lives in the group or below. One that is gone holds nobody.
    pub(crate) fn is_populated(&self) -> bool {
        let mut text = [0; 256];
        let read = self.file.read_at(&mut text, 0).unwrap_or(0);
        let text = String::from_utf8_lossy(&text[..read]);
        keyed(&text, "populated").is_some_and(|value| value != 0)
    }
}

fn keyed(text: &str, key: &str) -> Option<u64> {
    let value = |line: &str| {
        line.strip_prefix(key)?
            .strip_prefix(' ')?
            .trim()
            .parse()
            .ok()
    };
    text.lines().find_map(value)
}

fn collect(folder: &Path, depth: u32, found: &mut Vec<i32>) {
    let text = fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
    found.extend(text.lines().filter_map(|pid| pid.parse::<i32>().ok()));
    // Two links and one for each group below: most have none, and a listing is 60 files.
    let links = fs::metadata(folder).map_or(0, |folder| folder.nlink());
    if links > 2 && depth > 0 {
        folders_in(folder).for_each(|below| collect(&below, depth - 1, found));
    }
}

fn folders_in(folder: &Path) -> impl Iterator<Item = PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path())
}

/// Removes a group with those below it. One that is gone already is removed.
pub(super) fn remove(folder: &Path) -> io::Result<()> {
    match fs::remove_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Ok(()) => return Ok(()),
        Err(_) => {}
    }
    for below in folders_in(folder) {
        remove(&below)?;
    }
    fs::remove_dir(folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A plain folder: the format of the files is the kernel's, the membership is not tested here.
    fn group(files: &[(&str, &str)]) -> (tempfile::TempDir, Group) {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            fs::write(folder.path().join(name), text).unwrap();
        }
        let group = Group::at(folder.path().to_owned());
        (folder, group)
    }

    #[test]
    fn readings_are_those_of_the_right_lines() {
        let (_folder, group) = group(&[
            ("cpu.stat", "usage_usec 1500\nuser_usec 7\nsystem_usec 8\n"),
            ("memory.current", "5000\n"),
            ("memory.peak", "9000\n"),
            ("memory.stat", "anon 1\ninactive_file 2000\nactive_file 1\n"),
            (
                "memory.events",
                "low 0\noom 3\noom_kill 2\noom_group_kill 1\n",
            ),
            ("cgroup.procs", "7\n9\n"),
            ("cgroup.events", "populated 1\nfrozen 0\n"),
        ]);
        assert_eq!(group.cpu(), Some(Duration::from_micros(1_500)));
        assert_eq!(group.memory(), Some(3_000));
        assert_eq!(group.memory_peak(), Some(9_000));
        assert_eq!(group.memory_kills(), 2);
        assert_eq!(group.members(), [7, 9]);
        assert!(group.events().unwrap().is_populated());
        group.bound_memory(Some(77));
        assert_eq!(group.read("memory.max").unwrap(), "77");
        group.bound_memory(None);
        assert_eq!(group.read("memory.max").unwrap(), "max");
    }

    #[test]
    fn a_controller_that_is_missing_is_no_reading_of_zero() {
        let (folder, group) = group(&[("cgroup.events", "populated 0\nfrozen 0\n")]);
        assert_eq!(group.cpu(), None);
        assert_eq!(group.memory(), None);
        assert_eq!(group.memory_kills(), 0);
        assert!(!group.events().unwrap().is_populated());
        group.kill();
        assert!(!folder.path().join("cgroup.kill").exists());
    }
}
