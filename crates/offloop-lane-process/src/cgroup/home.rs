//! Where this process may make groups, and which controllers reach down to them.

use std::fs;
use std::path::{Path, PathBuf};

/// The folder below which the run's folder is made.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Home {
    pub(super) folder: PathBuf,
}

/// The leaf that the server moves into where its own group must be empty of processes.
const LEAF: &str = "offloop-server";

/// The cgroup of this process in the version 2 hierarchy, as a folder.
pub(super) fn find() -> Result<Home, String> {
    let read =
        |path: &str| fs::read_to_string(path).map_err(|e| format!("cannot read {path}: {e}"));
    let mounts = read("/proc/self/mountinfo")?;
    let own = read("/proc/self/cgroup")?;
    let folder = locate(&mounts, &own)?;
    if folder.file_name().is_some_and(|name| name == LEAF) {
        // Moved there by an earlier host of this process.
        let folder = folder.parent().map(Path::to_owned).unwrap_or(folder);
        return Ok(Home { folder });
    }
    Ok(Home { folder })
}

fn locate(mounts: &str, own: &str) -> Result<PathBuf, String> {
    let own = own.lines().find_map(|line| line.strip_prefix("0::"));
    let own = own.ok_or("this process is in no cgroup of version 2")?;
    let mut hidden = None;
    for line in mounts.lines() {
        // ID PARENT DEV ROOT MOUNTPOINT OPTIONS [FIELDS..] - TYPE SOURCE OPTIONS
        let Some((left, right)) = line.split_once(" - ") else {
            continue;
        };
        if !right.starts_with("cgroup2 ") {
            continue;
        }
        let mut fields = left.split(' ').skip(3);
        let (Some(root), Some(point)) = (fields.next(), fields.next()) else {
            continue;
        };
        let (root, point) = (unescape(root), unescape(point));
        // What is mounted may be a part of the hierarchy only.
        let Ok(below) = Path::new(own).strip_prefix(&root) else {
            hidden = Some(point);
            continue;
        };
        return Ok(Path::new(&point).join(below));
    }
    Err(match hidden {
        Some(point) => format!("our cgroup {own} is not under what is mounted at {point}"),
        None => "no cgroup2 file system is mounted".into(),
    })
}

/// proc_pid_mountinfo(5): blank, tab, newline and backslash are written as octal numbers.
fn unescape(text: &str) -> String {
    let mut out = text.to_owned();
    for (written, is) in [
        ("\\040", " "),
        ("\\011", "\t"),
        ("\\012", "\n"),
        ("\\134", "\\"),
    ] {
        out = out.replace(written, is);
    }
    out
}

/// Makes the memory and pids controllers reach the executors' groups. Answers which do.
///
/// A group other than the root may hand controllers down only while no process is in it. If nobody
/// but this process is in ours, it moves to a leaf of its own; else it goes without.
pub(super) fn enable(home: &Path, run: &Path) -> (bool, bool) {
    let words = |folder: &Path, file: &str| -> Vec<String> {
        let text = fs::read_to_string(folder.join(file)).unwrap_or_default();
        text.split_whitespace().map(str::to_owned).collect()
    };
    let available = words(home, "cgroup.controllers");
    let reach = |controller: &str| {
        if !available.iter().any(|name| name == controller) {
            return false;
        }
        let handed = words(home, "cgroup.subtree_control");
        if !handed.iter().any(|name| name == controller) {
            let write = || {
                fs::write(
                    home.join("cgroup.subtree_control"),
                    format!("+{controller}"),
                )
            };
            if write().is_err() && !(step_aside(home) && write().is_ok()) {
                return false;
            }
        }
        fs::write(run.join("cgroup.subtree_control"), format!("+{controller}")).is_ok()
    };
    (reach("memory"), reach("pids"))
}

/// Moves this process into a leaf, if nobody else is in its group.
fn step_aside(home: &Path) -> bool {
    let me = std::process::id().to_string();
    let members = fs::read_to_string(home.join("cgroup.procs")).unwrap_or_default();
    if members.split_whitespace().ne([me.as_str()]) {
        return false;
    }
    let leaf = home.join(LEAF);
    let made = fs::create_dir(&leaf);
    if made.is_err() && !leaf.is_dir() {
        return false;
    }
    fs::write(leaf.join("cgroup.procs"), "0").is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mount_is_found_wherever_it_is() {
        #[rustfmt::skip]
        let table = [
            ("41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw", "1:cpu:/x\n0::/\n", Ok("/sys/fs/cgroup/unified/")),
            ("30 23 0:26 / /sys/fs/cgroup rw shared:4 - cgroup2 c rw", "0::/system.slice/a.service\n", Ok("/sys/fs/cgroup/system.slice/a.service")),
            ("30 23 0:26 /docker/1 /sys/fs/cgroup ro - cgroup2 c rw", "0::/docker/1/x\n", Ok("/sys/fs/cgroup/x")),
            ("30 23 0:26 / /mnt/a\\040b rw - cgroup2 c rw", "0::/x\n", Ok("/mnt/a b/x")),
            ("30 23 0:26 /docker/1 /sys/fs/cgroup ro - cgroup2 c rw", "0::/other\n", Err("not under")),
            ("32 31 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu", "0::/\n", Err("no cgroup2")),
            ("41 31 0:38 / /sys/fs/cgroup rw - cgroup2 c rw", "1:cpu:/\n", Err("in no cgroup")),
        ];
        for (mounts, own, want) in table {
            let own = own.trim_end();
            let found = locate(mounts, own);
            match want {
                Ok(want) => assert_eq!(found.as_deref(), Ok(Path::new(want)), "{mounts}"),
                Err(want) => assert!(found.unwrap_err().contains(want), "{mounts}"),
            }
        }
    }

    /// Plain folders stand in for a hierarchy with controllers: what is written is what counts.
    #[test]
    fn controllers_are_handed_down_and_only_those_that_are_there() {
        let home = tempfile::tempdir().unwrap();
        let run = home.path().join("run");
        fs::create_dir(&run).unwrap();
        fs::write(home.path().join("cgroup.controllers"), "cpu pids\n").unwrap();
        fs::write(home.path().join("cgroup.subtree_control"), "").unwrap();
        assert_eq!(enable(home.path(), &run), (false, true));
        let wrote = |folder: &Path| fs::read_to_string(folder.join("cgroup.subtree_control"));
        assert_eq!(wrote(home.path()).unwrap(), "+pids");
        assert_eq!(wrote(&run).unwrap(), "+pids");
    }

    #[test]
    fn a_shared_group_is_not_left_and_one_of_ours_alone_is() {
        let home = tempfile::tempdir().unwrap();
        let me = std::process::id();
        fs::write(home.path().join("cgroup.procs"), format!("{me}\n999999\n")).unwrap();
        assert!(!step_aside(home.path()));
        assert!(!home.path().join(LEAF).exists());
        fs::write(home.path().join("cgroup.procs"), format!("{me}\n")).unwrap();
        assert!(step_aside(home.path()));
        let entered = fs::read_to_string(home.path().join(LEAF).join("cgroup.procs"));
        assert_eq!(entered.unwrap(), "0");
    }
}
